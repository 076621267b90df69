//! What a component says about itself, for people: read from its bytes, nothing is compiled.

use std::collections::BTreeSet;

use membrane_profile::Digest;

use crate::World;
use crate::contents::Contents;
use crate::error::Result;
use crate::grants::Grant;

/// What a component is and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Size in bytes.
    pub bytes: usize,
    /// SHA-256.
    pub digest: Digest,
    /// The world that it exports.
    pub world: Result<World>,
    /// The versions of the contract that its imports and exports name.
    pub contract: BTreeSet<String>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// Names of what it exports.
    pub exports: Vec<String>,
}

/// An interface that a component imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its full name.
    pub name: String,
    /// The grant that it needs.
    pub grant: Option<Grant>,
    /// Whether this host has it, with that grant.
    pub offered: bool,
}

impl Description {
    /// Reads a component. `name` is for errors.
    ///
    /// # Errors
    /// Not a component, malformed, or beyond a limit. What is wrong with its world is in the description.
    pub fn of(name: &str, bytes: &[u8]) -> Result<Self> {
        let contents = Contents::read(name, bytes)?;
        let world = contents.world(name);
        let import = |import: &String| {
            let grant = contents.grant_of(import);
            let granted: Vec<Grant> = grant.into_iter().collect();
            let one = Contents { imports: vec![import.clone()], exports: Vec::new() };
            let offered = world.as_ref().is_ok_and(|world| one.check_imports(name, *world, &granted).is_ok());
            Import { name: crate::text::clean(import, 200), grant, offered }
        };
        Ok(Self {
            bytes: bytes.len(),
            digest: Digest::of(bytes),
            imports: contents.imports.iter().map(import).collect(),
            exports: contents.exports.iter().map(|name| crate::text::clean(name, 200)).collect(),
            contract: contents.versions().map(|version| crate::text::clean(version, 64)).collect(),
            world,
        })
    }

    /// The grants that its imports need.
    pub fn grants(&self) -> BTreeSet<Grant> {
        self.imports.iter().filter_map(|import| import.grant).collect()
    }

    /// Names of what it imports.
    pub fn import_names(&self) -> Vec<String> {
        self.imports.iter().map(|import| import.name.clone()).collect()
    }
}
