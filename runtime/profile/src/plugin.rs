//! A plugin as a profile names it, with everything that the profile says about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::authority::Authority;
use crate::bytes::ByteSize;
use crate::digest::Digest;
use crate::publisher::Publisher;

/// What a plugin is: the world of the contract that it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Chooses tokens.
    Sampler,
    /// Decides what may be asked and said.
    Policy,
    /// Does something for the model.
    Tool,
    /// Pursues a task with the model.
    Agent,
}

impl Kind {
    /// The word that manifests, profiles and WIT worlds use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Sampler => "sampler",
            Kind::Policy => "policy",
            Kind::Tool => "tool",
            Kind::Agent => "agent",
        }
    }

    /// The word with its article, for sentences.
    pub const fn with_article(self) -> &'static str {
        match self {
            Kind::Sampler => "a sampler",
            Kind::Policy => "a policy",
            Kind::Tool => "a tool",
            Kind::Agent => "an agent",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the component of a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// One of the plugins that the binary carries, by name.
    FirstParty(String),
    /// A component file.
    Path(PathBuf),
}

impl Location {
    /// Reads a plugin reference: a name of letters, digits and `-` is a first-party plugin; what has a
    /// separator or ends in `.wasm` is a path, relative to `folder`. `None` if it is neither.
    pub(crate) fn resolve(reference: &str, folder: &Path) -> Option<Self> {
        if reference.contains(['/', '\\']) || reference.ends_with(".wasm") {
            return Some(Location::Path(folder.join(reference)));
        }
        let is_name = !reference.is_empty()
            && reference.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        is_name.then(|| Location::FirstParty(reference.to_owned()))
    }

    /// The name that a plugin from here has if the profile gives none: the first-party name, or the file's
    /// name without its ending.
    pub(crate) fn default_name(&self) -> String {
        match self {
            Location::FirstParty(name) => name.clone(),
            Location::Path(path) => path
                .file_stem()
                .map_or_else(|| "plugin".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::FirstParty(name) => write!(f, "first-party {name}"),
            Location::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Who named a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A profile, which may come from anyone.
    Profile,
    /// Whoever started the program, in its arguments.
    CommandLine,
}

/// Where the instances of a plugin run; what comes later holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In the process of the host.
    None,
    /// In a process of their own, which holds nothing but the plugin.
    Process,
    /// Likewise, and not at all where the kernel can't hold that process in.
    Required,
}

impl Isolation {
    /// The word that profiles use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::None => "none",
            Isolation::Process => "process",
            Isolation::Required => "required",
        }
    }
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = [Isolation::None, Isolation::Process, Isolation::Required];
        let named = known.into_iter().find(|isolation| isolation.as_str() == word);
        named.ok_or_else(|| "isolation is `none`, `process` or `required`".to_owned())
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Limits that a profile sets for one plugin; the host's defaults hold where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// Units of fuel (about one for each wasm instruction) that one call of the plugin may use.
    pub fuel_per_call: Option<u64>,
    /// Linear memory of an instance.
    pub memory: Option<ByteSize>,
    /// Milliseconds by the clock that one call of a tool may take.
    pub wall_ms: Option<u64>,
}

impl LimitsSpec {
    /// The most linear memory that an instance can have: its addresses have 32 bits.
    pub const MOST_MEMORY: ByteSize = ByteSize(4 << 30);
}

/// A plugin of a profile, ready to be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedPlugin {
    /// The world that the profile uses it for.
    pub kind: Kind,
    /// The name that errors, records and interventions use; unique in the profile.
    pub name: String,
    /// Where the component is.
    pub location: Location,
    /// A JSON object for the plugin's `configure`; files that it referred to are already in it.
    pub parameters: Map<String, Value>,
    /// Names of the grants, in the order in which they were written. The host knows which exist.
    pub grants: Vec<String>,
    /// What it finds behind grants that have values.
    pub authority: Authority,
    /// Limits that differ from the host's.
    pub limits: LimitsSpec,
    /// The digest that the component must have.
    pub pin: Option<Digest>,
    /// Who must have signed the component.
    pub publisher: Option<Publisher>,
    /// The component is taken as it is, whoever made it.
    pub unsigned: bool,
    /// Who named it.
    pub origin: Origin,
    /// Where its instances run, if the profile says.
    pub isolation: Option<Isolation>,
}

impl ResolvedPlugin {
    /// A first-party plugin with its own defaults and no grants.
    pub fn first_party(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            location: Location::FirstParty(name.to_owned()),
            parameters: Map::new(),
            grants: Vec::new(),
            authority: Authority::default(),
            limits: LimitsSpec::default(),
            pin: None,
            publisher: None,
            unsigned: false,
            origin: Origin::Profile,
            isolation: None,
        }
    }

    /// Where its instances run: as the profile says, or else in a process of their own unless somebody vouches for the
    /// component: it is part of the program, its digest is pinned, or a publisher signed it.
    pub fn isolation(&self) -> Isolation {
        let vouched = matches!(self.location, Location::FirstParty(_))
            || self.pin.is_some()
            || self.publisher.is_some();
        let default = if vouched { Isolation::None } else { Isolation::Process };
        self.isolation.unwrap_or(default)
    }
}
