//! What a case puts behind the grants of a tool: folders with files, hosts that answer from the case, variables.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use membrane_profile::{FolderGrant, HostGrant, WebOrigin};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::read::typed;
use crate::authority::Opened;
use crate::folder::{Folder, Kind};
use crate::plugin::Plugin;
use crate::web::{Failed, Outgoing, Response, Transport};

/// Bytes of a file of a case that is compared.
const MAX_COMPARED: u32 = 1 << 20;

/// What a case says of it.
#[derive(Debug, Default)]
pub struct Stage {
    folders: BTreeMap<String, Files>,
    hosts: Vec<(WebOrigin, Vec<Answer>)>,
    environment: BTreeMap<String, String>,
    /// What is in folders behind the calls, by folder and path.
    leaves: Option<BTreeMap<String, BTreeMap<String, String>>>,
}

/// A folder before the calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    #[serde(default)]
    write: bool,
    /// Texts by path.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// What a host answers to a method and a path, the query included.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

fn get() -> String {
    "get".to_owned()
}

const fn ok() -> u16 {
    200
}

/// A stage that is set for one case.
pub struct Set {
    /// Removes the folders when the case is over.
    root: TempDir,
}

impl Stage {
    /// Takes its fields out of a case. The error names the field.
    pub fn take(body: &mut serde_json::Map<String, Value>) -> Result<Self, String> {
        let mut stage = Self::default();
        if let Some(folders) = body.remove("folders") {
            stage.folders = typed("folders", folders)?;
        }
        if let Some(hosts) = body.remove("hosts") {
            let hosts: BTreeMap<String, Vec<Answer>> = typed("hosts", hosts)?;
            for (host, answers) in hosts {
                let origin = host.parse().map_err(|error| format!("hosts: {error}"))?;
                stage.hosts.push((origin, answers));
            }
        }
        if let Some(environment) = body.remove("environment") {
            stage.environment = typed("environment", environment)?;
        }
        if let Some(leaves) = body.remove("leaves") {
            let leaves: BTreeMap<String, BTreeMap<String, String>> = typed("leaves", leaves)?;
            if let Some(stranger) = leaves.keys().find(|name| !stage.folders.contains_key(*name)) {
                return Err(format!("leaves: there is no folder `{stranger}` among `folders`"));
            }
            stage.leaves = Some(leaves);
        }
        Ok(stage)
    }

    /// Makes the folders, and gives the plugin with the stage behind its grants. The error says what can't be made.
    pub fn set(&self, plugin: &Plugin) -> Result<(Set, Plugin), String> {
        let root =
            tempfile::tempdir().map_err(|error| format!("no folder for the case can be made: {error}"))?;
        for (name, Files { files, .. }) in &self.folders {
            // Before anything is made by its name.
            let folder = open(&root, name, true)?;
            for (path, text) in files {
                for (at, _) in path.match_indices('/') {
                    if folder.metadata(&path[..at]).is_err() {
                        folder.make_folder(&path[..at])?;
                    }
                }
                folder.write(path, text.as_bytes())?;
            }
        }
        let folders = self.folders.iter().map(|(name, files)| open(&root, name, files.write));
        let folders = folders.collect::<Result<Vec<_>, _>>()?;
        let variables = self.environment.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
        let hosts = self.hosts.iter().map(|(origin, _)| HostGrant { origin: origin.clone(), private: false });
        let played = Arc::new(Played(self.hosts.clone()));
        let opened = Opened::of(folders, variables.collect(), hosts.collect(), played);
        Ok((Set { root }, plugin.with_opened(opened)))
    }

    /// What is in the folders that the case says something of, beside what it says: as text, with a line a file.
    pub fn left(&self, set: &Set) -> Result<Option<(String, String)>, String> {
        let Some(leaves) = &self.leaves else { return Ok(None) };
        let mut found = BTreeMap::new();
        for name in leaves.keys() {
            let mut files = BTreeMap::new();
            collect(&open(&set.root, name, false)?, "", &mut files)?;
            found.insert(name.clone(), files);
        }
        let shown = |folders| serde_json::to_string(folders).map_err(|error| error.to_string());
        Ok(Some((shown(&found)?, shown(leaves)?)))
    }
}

/// Opens a folder of the stage, and makes it where it is not there yet. Its name is that of a granted folder.
fn open(root: &TempDir, name: &str, write: bool) -> Result<Folder, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(format!("folders: `{}` is no name of a folder", crate::text::clean(name, 64)));
    }
    let path = root.path().join(name);
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
        _ => {}
    }
    Folder::open(&FolderGrant { name: name.to_owned(), written: name.to_owned(), path, write })
}

fn collect(folder: &Folder, path: &str, files: &mut BTreeMap<String, String>) -> Result<(), String> {
    for entry in folder.entries(path)? {
        let below = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
        match entry.kind {
            Kind::Folder => collect(folder, &below, files)?,
            Kind::File => {
                let bytes = folder.read(&below, 0, MAX_COMPARED)?;
                files.insert(below, String::from_utf8_lossy(&bytes).into_owned());
            }
            Kind::Other => {}
        }
    }
    Ok(())
}

/// A transport that answers from a case, and with the status 404 where the case has no answer.
struct Played(Vec<(WebOrigin, Vec<Answer>)>);

impl Transport for Played {
    fn send(&self, request: &Outgoing, _: Duration) -> Result<Response, Failed> {
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let answers = self.0.iter().filter(|(origin, _)| *origin == request.origin);
        let answer = answers.flat_map(|(_, answers)| answers).find(|answer| {
            answer.path == path && answer.method.eq_ignore_ascii_case(request.method.as_str())
        });
        let Some(answer) = answer else {
            return Ok(Response { status: 404, headers: Vec::new(), body: Vec::new() });
        };
        let headers = answer.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_bytes()));
        Ok(Response {
            status: answer.status,
            headers: headers.collect(),
            body: answer.body.clone().into_bytes(),
        })
    }
}
