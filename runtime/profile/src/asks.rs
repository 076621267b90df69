//! What a plugin says that it wants behind grants that have values. It grants nothing: that is for a profile to do.

use serde::Deserialize;

use crate::authority::{is_name, is_variable};
use crate::web::WebOrigin;

/// The `[asks]` of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asks {
    /// Folders, by what the plugin calls them.
    pub folders: Vec<AskedFolder>,
    /// Hosts, as in a profile.
    pub hosts: Vec<String>,
    /// Names of environment variables.
    pub environment: Vec<String>,
    /// Secrets that the host is to add to requests.
    pub secrets: Vec<AskedSecret>,
}

/// A folder that a plugin wants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedFolder {
    /// What the plugin calls it.
    pub name: String,
    /// Whether it wants to write there.
    #[serde(default)]
    pub write: bool,
}

/// A secret that a plugin wants to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedSecret {
    /// What it is called.
    pub name: String,
    /// The host that gets it.
    pub host: String,
}

impl Asks {
    /// What is asked for, a line for each thing, in the words of [`crate::Authority::lines`]. The error names the field and
    /// says what is wrong.
    pub fn lines(&self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        for AskedFolder { name, write } in &self.folders {
            if !is_name(name) {
                return Err(format!("folders: `{}` is no name of a folder", name.escape_debug()));
            }
            lines.push(format!(
                "{} a folder that it calls {name}",
                if *write { "read and write" } else { "read" }
            ));
        }
        for host in &self.hosts {
            lines.push(format!(
                "reach {}",
                host.parse::<WebOrigin>().map_err(|error| format!("hosts: {error}"))?
            ));
        }
        for name in &self.environment {
            if !is_variable(name) {
                return Err(format!("environment: `{}` is no name of a variable", name.escape_debug()));
            }
            lines.push(format!("read the environment variable {name}"));
        }
        for AskedSecret { name, host } in &self.secrets {
            if !is_name(name) {
                return Err(format!("secrets: `{}` is no name of a secret", name.escape_debug()));
            }
            let origin = host.parse::<WebOrigin>().map_err(|error| format!("secrets: {error}"))?;
            lines.push(format!("have a secret {name} sent to {origin}, unseen"));
        }
        Ok(lines)
    }
}
