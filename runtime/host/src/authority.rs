//! What is behind the grants of a plugin that have values: open folders, variables, hosts and the secrets for them.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use membrane_profile::{Authority, HostGrant, SecretGrant, SecretSource, WebOrigin};

use crate::error::{HostError, Result};
use crate::folder::Folder;
use crate::grants::Grant;
use crate::limits::{MAX_VARIABLE_BYTES, SECRET_BYTES};
use crate::web::{Network, Secret, Transport};

/// What a plugin's instances find behind its grants. Opened once, when the plugin is loaded.
pub struct Opened {
    folders: Vec<Folder>,
    /// Variables by name, with their values where they are set.
    variables: Vec<(String, Option<String>)>,
    hosts: Vec<HostGrant>,
    secrets: Vec<Secret>,
    transport: Arc<dyn Transport>,
}

impl Opened {
    /// Opens folders and reads variables and secrets.
    ///
    /// # Errors
    /// Values of a grant that the plugin does not have; a folder, a variable or a secret that is not there.
    pub fn open(
        plugin: &str,
        authority: &Authority,
        grants: &BTreeSet<Grant>,
        network: &Network,
    ) -> Result<Self> {
        let error = |what: String| HostError::Authority {
            plugin: plugin.to_owned(),
            what: crate::text::clean(&what, 1024),
        };
        let Authority { folders, hosts, environment, secrets } = authority;
        for (grant, count) in [
            (Grant::Files, folders.len()),
            (Grant::Http, hosts.len()),
            (Grant::Environment, environment.len()),
        ] {
            if let (Some(values), true) = (grant.values(), count > 0 && !grants.contains(&grant)) {
                return Err(error(format!(
                    "has `{values}` and not the grant `{grant}`: add \"{grant}\" to the grants of its profile entry"
                )));
            }
        }
        let folders = folders.iter().map(Folder::open).collect::<Result<_, _>>().map_err(error)?;
        let secrets = secrets.iter().map(secret).collect::<Result<_, _>>().map_err(error)?;
        let variable = |name: &String| (name.clone(), variable(name));
        Ok(Self {
            folders,
            variables: environment.iter().map(variable).collect(),
            hosts: hosts.clone(),
            secrets,
            transport: network.transport(),
        })
    }

    /// Folders, variables and hosts that somebody else has made.
    pub fn of(
        folders: Vec<Folder>,
        variables: Vec<(String, Option<String>)>,
        hosts: Vec<HostGrant>,
        transport: Arc<dyn Transport>,
    ) -> Self {
        Self { folders, variables, hosts, secrets: Vec::new(), transport }
    }

    /// The granted folders.
    pub fn folders(&self) -> &[Folder] {
        &self.folders
    }

    /// A folder by its name. The error says which there are and how to grant it.
    pub fn folder(&self, name: &str) -> Result<&Folder, String> {
        self.folders.iter().find(|folder| folder.name() == name).ok_or_else(|| {
            let names: Vec<&str> = self.folders.iter().map(Folder::name).collect();
            let known = if names.is_empty() { "none is".to_owned() } else { names.join(", ") };
            let name = crate::text::clean(name, 64);
            format!(
                "the folder `{name}` is not granted ({known}): it takes the grant `files` and folders = [{{ name = \
                 \"{name}\", path = \"...\" }}] in the profile entry"
            )
        })
    }

    /// The value of a variable. The error says how to grant it.
    pub fn variable(&self, name: &str) -> Result<Option<&str>, String> {
        let granted = self.variables.iter().find(|(granted, _)| granted == name);
        granted.map(|(_, value)| value.as_deref()).ok_or_else(|| {
            let name = crate::text::clean(name, 64);
            format!(
                "the environment variable `{name}` is not granted: it takes the grant `environment` and environment = \
                 [\"{name}\"] in the profile entry"
            )
        })
    }

    /// The granted hosts.
    pub fn hosts(&self) -> &[HostGrant] {
        &self.hosts
    }

    /// The grant of an origin. The error says how to grant it.
    pub fn host(&self, origin: &WebOrigin) -> Result<&HostGrant, String> {
        self.hosts.iter().find(|granted| granted.origin == *origin).ok_or_else(|| {
            format!(
                "the host {origin} is not granted: it takes the grant `http` and hosts = [\"{origin}\"] in the profile entry"
            )
        })
    }

    /// The secrets that go to an origin.
    pub fn secrets(&self, origin: &WebOrigin) -> impl Iterator<Item = &Secret> {
        self.secrets.iter().filter(move |secret| secret.grant.origin == *origin)
    }

    /// All secrets, for what must not come back.
    pub fn all_secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// What sends requests.
    pub fn transport(&self) -> &dyn Transport {
        self.transport.as_ref()
    }
}

/// The value of a variable that is set, short enough and text.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| value.len() <= MAX_VARIABLE_BYTES)
}

/// Reads a secret. The error names it and where it is looked for, and nothing of its value.
fn secret(grant: &SecretGrant) -> Result<Secret, String> {
    let error = |what: String| format!("secret `{}`: {what}", grant.name);
    let value = match &grant.source {
        SecretSource::Environment(name) => env::var(name)
            .map_err(|_| error(format!("the environment variable {name} is not set, or no UTF-8")))?,
        SecretSource::File { path, .. } => {
            secret_file(path).map_err(|cause| error(format!("{}: {cause}", path.display())))?
        }
    };
    // As HTTP has it, which drops blanks around a header's value.
    let value = value.trim_matches([' ', '\t', '\n', '\r']);
    if !SECRET_BYTES.contains(&value.len()) {
        let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
        return Err(error(format!("has {} bytes; {least} to {most} are allowed", value.len())));
    }
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(error("has bytes that no header can hold: it must be printable ASCII".to_owned()));
    }
    Ok(Secret { grant: grant.clone(), value: value.to_owned() })
}

/// The text of a regular file.
fn secret_file(path: &Path) -> io::Result<String> {
    // Before it is opened: opening a pipe waits for whoever writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(*SECRET_BYTES.end() as u64 + 3).read_to_string(&mut text)?;
    Ok(text)
}
