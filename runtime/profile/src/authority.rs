//! Grants with values: which folders, hosts, environment variables and secrets a plugin may use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::web::WebOrigin;

/// Folders, hosts, variables and secrets of one plugin, each (a profile that names everything).
const MAX_FOLDERS: usize = 32;
const MAX_HOSTS: usize = 64;
const MAX_VARIABLES: usize = 64;
const MAX_SECRETS: usize = 32;
/// Bytes of the name of a folder, a variable, a secret or a header.
const MAX_NAME_BYTES: usize = 64;
/// Bytes of a path, and of what stands before a secret.
const MAX_PATH_BYTES: usize = 4096;
const MAX_PREFIX_BYTES: usize = 64;

/// The header that a secret goes into where nothing is said.
const DEFAULT_HEADER: &str = "authorization";
/// The word behind a host that may have a private address, where a host is one text.
const PRIVATE: &str = " private";

/// What a plugin may use of this machine and of the network, by value. Names of grants say which interfaces it may
/// import, these say what it finds behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    /// Behind the grant `files`.
    pub folders: Vec<FolderGrant>,
    /// Behind the grant `http`.
    pub hosts: Vec<HostGrant>,
    /// Names of variables behind the grant `environment`.
    pub environment: Vec<String>,
    /// What the host adds to requests; the plugin sees none of it.
    pub secrets: Vec<SecretGrant>,
}

/// A folder that a plugin may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderGrant {
    /// What the plugin calls it: letters, digits, `-` and `_`.
    pub name: String,
    /// As it is written.
    pub written: String,
    /// Where it is: what is written, from the profile's folder or the current one on.
    pub path: PathBuf,
    /// Whether files in it may be written, made and deleted.
    pub write: bool,
}

/// A host that a plugin may send requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostGrant {
    /// Scheme, host and port.
    pub origin: WebOrigin,
    /// Whether its name may lead to a loopback or private address.
    pub private: bool,
}

/// A secret that the host adds to the requests to one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretGrant {
    /// What errors and redacted texts call it.
    pub name: String,
    /// Where its value is.
    pub source: SecretSource,
    /// The origin that gets it; one of the granted hosts.
    pub origin: WebOrigin,
    /// The header that it goes into, in lower case.
    pub header: String,
    /// What stands before it there, such as `Bearer `.
    pub prefix: String,
}

/// Where the value of a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In an environment variable of the program.
    Environment(String),
    /// In a file, an end of line behind it left out.
    File {
        /// As it is written.
        written: String,
        /// Where it is.
        path: PathBuf,
    },
}

/// The values of a profile entry as they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Written {
    pub folders: Vec<WrittenFolder>,
    pub hosts: Vec<WrittenHost>,
    pub environment: Vec<String>,
    pub secrets: Vec<WrittenSecret>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenFolder {
    pub name: String,
    pub path: String,
    #[serde(default)]
    pub write: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a host is \"HOST[:PORT]\" or { host = \"HOST[:PORT]\", private = true }")]
pub(crate) enum WrittenHost {
    Text(String),
    Table(HostTable),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostTable {
    host: String,
    #[serde(default)]
    private: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenSecret {
    name: String,
    from_env: Option<String>,
    file: Option<String>,
    host: String,
    header: Option<String>,
    #[serde(default)]
    prefix: String,
}

impl Authority {
    /// Checks what is written; relative paths start from `folder`. The error names the field and says what is allowed.
    pub(crate) fn read(written: Written, folder: &Path) -> Result<Self, String> {
        let Written { folders, hosts, environment, secrets } = written;
        limit("folders", folders.len(), MAX_FOLDERS)?;
        limit("hosts", hosts.len(), MAX_HOSTS)?;
        limit("environment", environment.len(), MAX_VARIABLES)?;
        limit("secrets", secrets.len(), MAX_SECRETS)?;
        let folders = folders.into_iter().map(|written| FolderGrant::read(written, folder));
        let folders = folders.collect::<Result<Vec<_>, _>>()?;
        unique("folders", folders.iter().map(|folder| &folder.name))?;
        let hosts = hosts.into_iter().map(HostGrant::read).collect::<Result<Vec<_>, _>>()?;
        unique("hosts", hosts.iter().map(|host| &host.origin))?;
        if let Some(name) = environment.iter().find(|name| !is_variable(name)) {
            return Err(format!("environment: `{}` is no name of a variable", name.escape_debug()));
        }
        unique("environment", &environment)?;
        let secrets = secrets.into_iter().map(|written| SecretGrant::read(written, folder, &hosts));
        let secrets = secrets.collect::<Result<Vec<_>, _>>()?;
        unique("secrets", secrets.iter().map(|secret| &secret.name))?;
        let places = secrets.iter().map(|secret| format!("{} of {}", secret.header, secret.origin));
        let places: Vec<String> = places.collect();
        unique("secrets", &places)?;
        Ok(Self { folders, hosts, environment, secrets })
    }

    /// What both grant together. The error names what both name.
    pub(crate) fn and(mut self, more: Self) -> Result<Self, String> {
        self.folders.extend(more.folders);
        self.hosts.extend(more.hosts);
        self.environment.extend(more.environment);
        self.secrets.extend(more.secrets);
        limit("folders", self.folders.len(), MAX_FOLDERS)?;
        limit("hosts", self.hosts.len(), MAX_HOSTS)?;
        limit("environment", self.environment.len(), MAX_VARIABLES)?;
        unique("folders", self.folders.iter().map(|folder| &folder.name))?;
        unique("hosts", self.hosts.iter().map(|host| &host.origin))?;
        unique("environment", &self.environment)?;
        Ok(self)
    }

    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is granted, a line for each thing, in words that are pinned, compared and shown. Whoever may do more has more
    /// lines. Paths are as they are written, secrets by where they are, not by what they are.
    pub fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for FolderGrant { name, written, write, .. } in &self.folders {
            lines.insert(format!("read the folder {name} ({written})"));
            if *write {
                lines.insert(format!("write the folder {name} ({written})"));
            }
        }
        for HostGrant { origin, private } in &self.hosts {
            lines.insert(format!("reach {origin}"));
            if *private {
                lines.insert(format!("reach {origin} at a private address"));
            }
        }
        lines.extend(self.environment.iter().map(|name| format!("read the environment variable {name}")));
        for secret in &self.secrets {
            let source = match &secret.source {
                SecretSource::Environment(name) => format!("environment variable {name}"),
                SecretSource::File { written, .. } => format!("file {written}"),
            };
            let SecretGrant { name, origin, header, prefix, .. } = secret;
            lines.insert(format!(
                "have the secret {name} ({source}) sent to {origin} as `{header}: {prefix}...`, unseen"
            ));
        }
        lines
    }
}

fn limit(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count <= most {
        Ok(())
    } else {
        Err(format!("{what}: has {count}, of which at most {most} are allowed"))
    }
}

fn unique<T: Ord + std::fmt::Display>(what: &str, names: impl IntoIterator<Item = T>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if seen.contains(&name) {
            return Err(format!("{what}: `{name}` is there twice"));
        }
        seen.insert(name);
    }
    Ok(())
}

/// A name that a plugin passes to the host and that stands in errors.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

pub(crate) fn is_variable(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn is_path(path: &str) -> bool {
    (1..=MAX_PATH_BYTES).contains(&path.len()) && !path.chars().any(char::is_control)
}

impl FolderGrant {
    fn read(written: WrittenFolder, folder: &Path) -> Result<Self, String> {
        let WrittenFolder { name, path, write } = written;
        if !is_name(&name) {
            return Err(format!(
                "folders: the name `{}` is not of 1 to {MAX_NAME_BYTES} letters, digits, `-` and `_`",
                name.escape_debug()
            ));
        }
        if !is_path(&path) {
            return Err(format!("folders: `{name}` has no path, or one with control characters in it"));
        }
        Ok(Self { name, path: folder.join(&path), written: path, write })
    }
}

impl HostGrant {
    fn read(written: WrittenHost) -> Result<Self, String> {
        let (host, private) = match &written {
            WrittenHost::Table(HostTable { host, private }) => (host.as_str(), *private),
            WrittenHost::Text(text) => match text.strip_suffix(PRIVATE) {
                Some(host) => (host, true),
                None => (text.as_str(), false),
            },
        };
        let origin = host.parse().map_err(|error| format!("hosts: {error}"))?;
        Ok(Self { origin, private })
    }
}

impl SecretGrant {
    fn read(written: WrittenSecret, folder: &Path, hosts: &[HostGrant]) -> Result<Self, String> {
        let WrittenSecret { name, from_env, file, host, header, prefix } = written;
        if !is_name(&name) {
            return Err(format!(
                "secrets: the name `{}` is not of 1 to {MAX_NAME_BYTES} letters, digits, `-` and `_`",
                name.escape_debug()
            ));
        }
        let error = |what: String| format!("secrets: `{name}` {what}");
        let source = match (from_env, file) {
            (Some(variable), None) if is_variable(&variable) => SecretSource::Environment(variable),
            (None, Some(path)) if is_path(&path) => {
                SecretSource::File { path: folder.join(&path), written: path }
            }
            _ => {
                return Err(error(
                    "needs either `from_env`, a variable's name, or `file`, a path".to_owned(),
                ));
            }
        };
        let origin: WebOrigin = host.parse().map_err(|cause| error(format!("goes to {cause}")))?;
        if !hosts.iter().any(|granted| granted.origin == origin) {
            return Err(error(format!("goes to {origin}, which is not among `hosts`: add it there")));
        }
        let header = header.unwrap_or_else(|| DEFAULT_HEADER.to_owned()).to_ascii_lowercase();
        if !is_name(&header) || is_framing(&header) {
            return Err(error(format!("can't go into the header `{}`", header.escape_debug())));
        }
        let printable = prefix.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if prefix.len() > MAX_PREFIX_BYTES || !printable {
            return Err(error(format!(
                "has a `prefix` that is not of at most {MAX_PREFIX_BYTES} bytes of ASCII"
            )));
        }
        Ok(Self { name, source, origin, header, prefix })
    }
}

/// Whether a header frames a message or belongs to the connection, so that the host alone sets it. The name is in lower
/// case.
pub fn is_framing(header: &str) -> bool {
    const FRAMING: [&str; 13] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    FRAMING.contains(&header) || header.starts_with("proxy-")
}

/// Adds the value of a grant that stands in one text, as on the command line: `files:NAME=PATH[:rw]`, `http:HOST`,
/// `environment:NAME`. The error says how it is written.
pub(crate) fn add_argument(written: &mut Written, grant: &str, value: &str) -> Result<(), String> {
    match grant {
        "files" => {
            let (name, path) = value.split_once('=').ok_or("write files:NAME=PATH, or files:NAME=PATH:rw")?;
            let (path, write) = match path.strip_suffix(":rw") {
                Some(path) => (path, true),
                None => (path.strip_suffix(":ro").unwrap_or(path), false),
            };
            written.folders.push(WrittenFolder { name: name.to_owned(), path: path.to_owned(), write });
        }
        "http" => written.hosts.push(WrittenHost::Text(value.to_owned())),
        "environment" => written.environment.push(value.to_owned()),
        _ => return Err(format!("the grant `{}` takes no value", grant.escape_debug())),
    }
    Ok(())
}
