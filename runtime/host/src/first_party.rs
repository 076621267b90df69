//! The plugins that the binary carries, built from `plugins/` in the same build.

use membrane_profile::{Digest, Manifest, ManifestError};

use crate::World;
use crate::error::HostError;

/// A plugin that the binary carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstParty {
    /// Name in profiles; that of its folder.
    pub name: &'static str,
    /// The world that it is a plugin of.
    pub world: World,
    /// The component.
    pub bytes: &'static [u8],
    /// Text of its `plugin.toml`.
    pub manifest: &'static str,
}

const ALL: &[FirstParty] = include!(concat!(env!("OUT_DIR"), "/first_party.rs"));

impl FirstParty {
    /// SHA-256 of the component, as profiles pin it.
    pub fn digest(&self) -> String {
        Digest::of(self.bytes).to_string()
    }

    /// What it says about itself. Errors: none, unless its `plugin.toml` was broken when the program was built.
    pub fn manifest(&self) -> Result<Manifest, ManifestError> {
        Manifest::parse(self.manifest, self.name)
    }
}

/// All of them, by name.
pub fn list() -> impl Iterator<Item = &'static FirstParty> {
    ALL.iter()
}

/// The one of a name, if there is one.
pub fn get(name: &str) -> Option<FirstParty> {
    ALL.iter().find(|plugin| plugin.name == name).copied()
}

/// The one of a name. Errors: there is none; the error lists those that there are.
pub fn find(name: &str) -> Result<FirstParty, HostError> {
    get(name).ok_or_else(|| HostError::NoFirstParty {
        name: crate::text::clean(name, 100),
        known: ALL.iter().map(|plugin| plugin.name).collect::<Vec<_>>().join(", "),
    })
}
