//! An entry: what it is for, its file's name, its MAC.
//!
//! A file is `MAGIC`, 32 bytes of MAC, and the code to the end of the file. The MAC is BLAKE3 with a key that is made of
//! the secret and of whose compiler made the code, over the digest of the component, the hash of the engine, and the code.
//! The first two have a fixed length, so that no two entries have the same text under the MAC; an entry under another's
//! name fails.

use std::hash::{Hash, Hasher};

use wasmtime::Engine;

use crate::key::Key;

/// Begins every entry; the number changes with the form.
const MAGIC: &[u8; 16] = b"membrane-code-2\n";
const MAC_BYTES: usize = 32;

/// Ending of entries.
pub const ENDING: &str = ".cwasm";

/// Whose compiler made the code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// That of a process of ours.
    Own,
    /// That of a confined process, which its component may have taken over.
    Confined,
}

impl Maker {
    /// Makes the key of a MAC another one for each maker.
    const fn context(self) -> &'static str {
        match self {
            Self::Own => "membrane-codecache 2026 code of our own compiler",
            Self::Confined => "membrane-codecache 2026 code of a confined compiler",
        }
    }
}

/// What an entry is for.
pub struct Identity {
    /// SHA-256 of the component.
    component: [u8; 32],
    /// Hash of everything of the engine that compiled code depends on: version, target, features, settings.
    engine: [u8; 32],
    maker: Maker,
}

impl Identity {
    pub fn new(engine: &Engine, component: &[u8; 32], maker: Maker) -> Self {
        let mut hasher = Wide(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { component: *component, engine: *hasher.0.finalize().as_bytes(), maker }
    }

    /// Digest of the component and the first half of the engine's hash, in hexadecimal digits.
    pub fn file_name(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let maker = if self.maker == Maker::Confined { "-confined" } else { "" };
        format!("{}-{}{maker}{ENDING}", hex(&self.component), hex(&self.engine[..16]))
    }

    /// The bytes of an entry with this code.
    pub fn seal(&self, key: &Key, code: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + MAC_BYTES + code.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.mac(key, code).as_bytes());
        bytes.extend_from_slice(code);
        bytes
    }

    /// The code of an entry; none if the bytes are not what `seal` made for the same.
    pub fn open<'a>(&self, key: &Key, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (mac, code) = rest.split_first_chunk::<MAC_BYTES>()?;
        // Comparing hashes of this type takes the same time wherever they differ.
        (self.mac(key, code) == *mac).then_some(code)
    }

    fn mac(&self, key: &Key, code: &[u8]) -> blake3::Hash {
        let key = blake3::keyed_hash(key.bytes(), self.maker.context().as_bytes());
        let mut mac = blake3::Hasher::new_keyed(key.as_bytes());
        mac.update(MAGIC).update(&self.component).update(&self.engine).update(code);
        mac.finalize()
    }
}

/// `std::hash` into 256 bits instead of 64.
struct Wide(blake3::Hasher);

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        let bytes = hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
        u64::from_le_bytes(bytes)
    }
}
