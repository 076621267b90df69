//! Machine code of components that were compiled before, kept so that only this user's own programs can have
//! written it.
//!
//! wasmtime runs what it is given as compiled code without a check: whoever can write such a file runs code of
//! their own with all rights of the process. So an entry is taken only if
//!
//! - the folder belongs to this user and is open to no one else (0700),
//! - its MAC, keyed with a secret that lies elsewhere (0600), is right for the component, the engine and the code.
//!
//! The secret lies outside the folder, so that what can write the folder (a job that restores caches, a program
//! that may write there) can't make an entry. What is wrong with an entry never matters to the caller: it is
//! deleted and the component compiled again.
//!
//! Code that a confined process compiled is kept beside, under a name and a MAC of its own: it goes back into confined
//! processes ([`load_confined`]) and is never run by the process that keeps it.
//!
//! This is the one crate beside kernels, formats and pager with `unsafe` code: the calls of `Component::deserialize`.

mod entry;
mod files;
mod key;

use std::path::{Path, PathBuf};

use thiserror::Error;
use wasmtime::Engine;
use wasmtime::component::Component;

use entry::{Identity, Maker};
use files::Folder;
use key::Key;

/// Bytes of all entries together by default: some dozens of components, or three with a Python interpreter.
pub const DEFAULT_CAPACITY_BYTES: u64 = 256 << 20;

/// Bytes of one entry. A larger one is neither written nor read: reading it takes that much memory (a sparse file
/// of terabytes).
const MAX_ENTRY_BYTES: u64 = 128 << 20;

/// Shorthand of this crate.
pub type Result<T, E = CacheError> = std::result::Result<T, E>;

/// Why there is no cache. A program works without one, only slower.
#[derive(Debug, Error)]
pub enum CacheError {
    /// A file or folder can't be read or made.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file or folder that others could write or read.
    #[error("{}: {what}; compiled code is not kept there", path.display())]
    NotPrivate {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: &'static str,
    },
    /// The system has no randomness for a new key.
    #[error("the system gave no random bytes for a key: {0}")]
    Random(String),
    /// The compiled code can't be written down.
    #[error("the compiled code of a component could not be serialised: {0}")]
    Serialize(String),
}

impl CacheError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }
}

/// A folder of compiled components. Several processes may use it at a time.
#[derive(Debug)]
pub struct CodeCache {
    folder: Folder,
    key: Key,
    capacity_bytes: u64,
}

impl CodeCache {
    /// Opens the cache in `folder`, which is made if it is not there, with the secret in `key_file`, which is made
    /// on first use. Entries beyond `capacity_bytes` in all are deleted, those first that were used longest ago.
    ///
    /// # Errors
    /// The folder or the key can't be made or read, belongs to someone else, or is open to others.
    pub fn open(folder: &Path, key_file: &Path, capacity_bytes: u64) -> Result<Self> {
        Ok(Self { folder: Folder::open(folder)?, key: Key::open(key_file)?, capacity_bytes })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The compiled code of the component with this SHA-256 for this engine, if it is there and ours. An entry
    /// that is not what was stored is deleted.
    pub fn load(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        let identity = Identity::new(engine, digest, Maker::Own);
        let name = identity.file_name();
        let bytes = self.folder.read(&name, MAX_ENTRY_BYTES).ok()??;
        let component = identity.open(&self.key, &bytes).and_then(|code| {
            // SAFETY: the MAC says that a holder of this user's secret wrote exactly these bytes for an engine with
            // this version and configuration, and `store` writes nothing but what `Component::serialize` gave.
            // They are in memory of ours, so that no one changes them between the check and their use.
            unsafe { Component::deserialize(engine, code) }.ok()
        });
        match component {
            Some(_) => self.folder.touch(&name),
            None => self.folder.remove(&name),
        }
        component
    }

    /// Keeps compiled code. The component must have been compiled from bytes with this SHA-256.
    ///
    /// # Errors
    /// It can't be written. Code of more than 128 MiB is not kept, which is no error.
    pub fn store(&self, engine: &Engine, digest: &[u8; 32], component: &Component) -> Result<()> {
        let code = component.serialize().map_err(|error| CacheError::Serialize(format!("{error:#}")))?;
        self.keep(&Identity::new(engine, digest, Maker::Own), &code)
    }

    /// The compiled code that a confined process made of the component with this SHA-256, for another such process. It
    /// is what that process said, and none of ours may run it.
    pub fn read_confined(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Vec<u8>> {
        let identity = Identity::new(engine, digest, Maker::Confined);
        let name = identity.file_name();
        let bytes = self.folder.read(&name, MAX_ENTRY_BYTES).ok()??;
        let code = identity.open(&self.key, &bytes).map(<[u8]>::to_vec);
        match code {
            Some(_) => self.folder.touch(&name),
            None => self.folder.remove(&name),
        }
        code
    }

    /// Keeps compiled code that came out of a confined process, for [`CodeCache::read_confined`] alone.
    ///
    /// # Errors
    /// As for [`CodeCache::store`].
    pub fn store_confined(&self, engine: &Engine, digest: &[u8; 32], code: &[u8]) -> Result<()> {
        self.keep(&Identity::new(engine, digest, Maker::Confined), code)
    }

    fn keep(&self, identity: &Identity, code: &[u8]) -> Result<()> {
        let bytes = identity.seal(&self.key, code);
        if bytes.len() as u64 > MAX_ENTRY_BYTES.min(self.capacity_bytes) {
            return Ok(());
        }
        let name = identity.file_name();
        self.folder.write(&name, &bytes)?;
        self.folder.evict(self.capacity_bytes, &name)
    }

    /// Bytes of all entries, and how many there are.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn usage(&self) -> Result<(u64, usize)> {
        let entries = self.folder.entries()?;
        Ok((entries.iter().map(|entry| entry.bytes).sum(), entries.len()))
    }
}

/// Loads compiled code into a process that has nothing to lose: one that is confined, and holds nothing but the
/// component that the code says it was made of.
///
/// # Errors
/// It is of another version of wasmtime, or of another engine.
pub fn load_confined(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the contract of `deserialize` is that the code was made by wasmtime, since it will run. The code is from a
    // confined process that compiled the same component, by way of a host that kept it under its MAC; if that process was
    // taken over by its component, the code can do in this one what the component can do once it has taken it over: nothing
    // that the confinement does not allow.
    unsafe { Component::deserialize(engine, code) }
}
