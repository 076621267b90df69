//! A golden case: reading it, and starting the plugin that it is about.

use std::fs;
use std::path::{Path, PathBuf};

use membrane_host::first_party::FirstParty;
use membrane_host::{Grant, Host, HostError, HostOptions, Plugin, PluginSource};
use membrane_profile::Manifest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A case, with the plugin that it belongs to.
pub struct Case {
    pub plugin: &'static FirstParty,
    pub head: Head,
    /// What the world of the plugin makes of it.
    body: Value,
}

/// What all cases have.
#[derive(Deserialize)]
pub struct Head {
    about: String,
    parameters: Map<String, Value>,
    pub refused: Option<String>,
}

impl Case {
    /// For messages.
    pub fn title(&self) -> String {
        format!("{}: {}", self.plugin.name, self.head.about)
    }

    /// The rest of the case.
    pub fn body<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.body.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.title()))
    }

    /// The plugin with the parameters of the case and the grants of its manifest.
    pub fn load(&self) -> (Host, Plugin) {
        load(self.plugin, self.head.parameters.clone())
    }

    /// Holds the outcome of a start to `refused`; true if the case ends here.
    pub fn is_refused<T>(&self, started: &Result<T, HostError>) -> bool {
        match (started, &self.head.refused) {
            (Ok(_), None) => false,
            (Ok(_), Some(expected)) => {
                panic!("{}: started, expected an error with {expected:?}", self.title())
            }
            (Err(error), None) => panic!("{}: {error}", self.title()),
            (Err(error), Some(expected)) => {
                let error = error.to_string();
                assert!(error.contains(expected.as_str()), "{}: {error}", self.title());
                assert!(error.contains(self.plugin.name), "{}: {error}", self.title());
                true
            }
        }
    }
}

/// The manifest of a plugin, as the program carries it.
pub fn manifest(plugin: &FirstParty) -> Manifest {
    Manifest::parse(plugin.manifest, plugin.name).unwrap_or_else(|error| panic!("{error}"))
}

/// A plugin with parameters and the grants of its manifest.
pub fn load(plugin: &FirstParty, parameters: Map<String, Value>) -> (Host, Plugin) {
    let host = Host::new(HostOptions::default()).unwrap();
    let mut source = PluginSource::new(plugin.name, plugin.bytes, plugin.world);
    source.parameters = Value::Object(parameters);
    source.grants = Grant::parse_all(&manifest(plugin).grants).unwrap();
    let loaded = host.load(source, plugin.world).unwrap_or_else(|error| panic!("{error}"));
    (host, loaded)
}

/// The folder of a plugin's cases.
pub fn folder(plugin: &FirstParty) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins").join(plugin.name).join("golden")
}

/// All cases of a plugin.
pub fn read(plugin: &'static FirstParty) -> Vec<Case> {
    let folder = folder(plugin);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files.iter().flat_map(|path| read_file(plugin, path)).collect()
}

fn read_file(plugin: &'static FirstParty, path: &Path) -> Vec<Case> {
    let text = fs::read_to_string(path).unwrap();
    let cases: Vec<Map<String, Value>> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let read = |mut body: Map<String, Value>| {
        let head = Value::Object(body.clone());
        let mut head: Head =
            serde_json::from_value(head).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for value in head.parameters.values_mut() {
            if let Some(file) = value.as_str().and_then(|text| text.strip_prefix("file:")) {
                *value = Value::String(fs::read_to_string(folder(plugin).join(file)).unwrap());
            }
        }
        body.retain(|key, _| !["about", "parameters", "refused"].contains(&key.as_str()));
        Case { plugin, head, body: Value::Object(body) }
    };
    cases.into_iter().map(read).collect()
}
