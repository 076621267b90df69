//! The folder of a plugin: its manifest, its source, its golden cases and its component.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use membrane_host::limits::MAX_COMPONENT_BYTES;
use membrane_host::{Component, Grant, Host, Isolation, Limits, Plugin, PluginSource};
use membrane_profile::{Authority, Manifest};
use serde_json::{Map, Value};

use super::sources::Language;

/// The folder of a plugin.
pub struct Package {
    /// The folder.
    pub folder: PathBuf,
    /// Its `plugin.toml`.
    pub manifest: Manifest,
}

impl Package {
    /// Opens a folder. Errors: it has no `plugin.toml`, or a malformed one.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("plugin.toml");
        ensure!(
            path.is_file(),
            "{} has no plugin.toml, so it is no plugin's folder; `membrane plugin new` makes one",
            folder.display()
        );
        Ok(Self { folder: folder.to_owned(), manifest: Manifest::read(&path)? })
    }

    /// The language, by the file that its source begins with. Errors: there is no such file.
    pub fn language(&self) -> Result<Language> {
        let marked =
            |language: &Language| language.markers().iter().any(|file| self.folder.join(file).is_file());
        let found = Language::ALL.into_iter().find(marked);
        found.with_context(|| {
            format!(
                "{} has none of {}: build the component with your language's tools and give it with --component",
                self.folder.display(),
                Language::ALL.map(Language::markers).concat().join(", ")
            )
        })
    }

    /// Where the built component is.
    pub fn component(&self) -> PathBuf {
        self.folder.join("build").join(format!("{}.wasm", self.manifest.name))
    }

    /// The folder of the golden cases.
    pub fn golden(&self) -> PathBuf {
        self.folder.join("golden")
    }

    /// Loads a component as this plugin, with the grants of its manifest.
    pub fn load(
        &self,
        host: &Host,
        bytes: Vec<u8>,
        parameters: Map<String, Value>,
        isolation: Isolation,
    ) -> Result<Plugin> {
        let manifest = &self.manifest;
        let source = PluginSource {
            name: manifest.name.clone(),
            bytes,
            parameters: Value::Object(parameters),
            grants: Grant::parse_all(&manifest.grants)
                .with_context(|| format!("{}: grants", self.folder.join("plugin.toml").display()))?,
            authority: Authority::default(),
            limits: Limits::of(manifest.world),
            isolation,
        };
        Ok(host.load(source, manifest.world)?)
    }
}

/// The bytes of a component. Errors: it can't be read, or is larger than the host takes.
pub fn read_component(path: &Path) -> Result<Vec<u8>> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Component::read(&name, path)?.bytes)
}

/// Bytes as people read them; a component has at most [`MAX_COMPONENT_BYTES`].
pub fn size(bytes: usize) -> String {
    debug_assert!(bytes <= MAX_COMPONENT_BYTES);
    if bytes < 100 << 10 {
        return format!("{:.1} KiB", bytes as f64 / 1024.0);
    }
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
