//! Keys that sign checkpoints: ed25519, in the PEM files that other tools read and write.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, VerifyingKey};

use crate::digest::{Digest, from_hex, to_hex};
use crate::limits::MAX_KEY_BYTES;
use crate::record::LogId;

/// A key file that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file holds no such key.
    #[error("{}: is no ed25519 {kind} key in PEM form; `membrane audit keygen` makes one", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `private` or `public`.
        kind: &'static str,
    },
    /// Others than its owner may read a private key.
    #[error("{0}: others than its owner may read this private key: `chmod 600 {0}`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness for a new key.
    #[error("no random bytes from the system: {0}")]
    Random(String),
}

/// A private key.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// A public key. Shown and recorded as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl SigningKey {
    /// A new key. Errors: the system has no randomness to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// Reads a PKCS#8 PEM file, as `openssl genpkey -algorithm ed25519` writes it. Errors: it can't be read, holds
    /// no such key, or others may read it.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        let mode = fs::metadata(path).map_err(|cause| KeyError::File { path: path.to_owned(), cause })?;
        if mode.permissions().mode() & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let malformed = |_| KeyError::Malformed { path: path.to_owned(), kind: "private" };
        ed25519_dalek::SigningKey::from_pkcs8_pem(&text).map(Self).map_err(malformed)
    }

    /// Writes it to a new file that only its owner may read. Errors: the file exists or can't be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let text = self.0.to_pkcs8_pem(LineEnding::LF);
        let text = text.map_err(|_| KeyError::Malformed { path: path.to_owned(), kind: "private" })?;
        write(path, text.as_bytes(), 0o600)
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> String {
        to_hex(&self.0.sign(statement).to_bytes())
    }
}

impl PublicKey {
    /// Reads a PEM file (SubjectPublicKeyInfo). Errors: it can't be read or holds no such key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let malformed = |_| KeyError::Malformed { path: path.to_owned(), kind: "public" };
        VerifyingKey::from_public_key_pem(&read(path)?).map(Self).map_err(malformed)
    }

    /// Writes it to a new file. Errors: the file exists or can't be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let text = self.0.to_public_key_pem(LineEnding::LF);
        let text = text.map_err(|_| KeyError::Malformed { path: path.to_owned(), kind: "public" })?;
        write(path, text.as_bytes(), 0o644)
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        to_hex(self.0.as_bytes())
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Option<Self> {
        VerifyingKey::from_bytes(&from_hex(digits)?).ok().map(Self)
    }

    /// Whether a signature is this key's. Signatures that only lenient verifiers take are not.
    pub(crate) fn verifies(&self, statement: &[u8], signature: &str) -> bool {
        let Some(bytes) = from_hex(signature) else { return false };
        self.0.verify_strict(statement, &Signature::from_bytes(&bytes)).is_ok()
    }
}

/// What a signature of a checkpoint or head says: this log has this record with this hash.
pub(crate) fn statement(log: LogId, number: u64, hash: Digest) -> Vec<u8> {
    format!("membrane-audit-checkpoint-1\n{log}\n{number}\n{}\n", hash.hex()).into_bytes()
}

fn read(path: &Path) -> Result<String, KeyError> {
    let failed = |cause| KeyError::File { path: path.to_owned(), cause };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(std::io::Error::other("is no regular file")));
    }
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(MAX_KEY_BYTES).read_to_string(&mut text)).map_err(failed)?;
    Ok(text)
}

/// Writes a new file. What can't be written whole is not left, where the next attempt would find it in its way.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written =
        file.and_then(|mut file| file.write_all(bytes).inspect_err(|_| drop(fs::remove_file(path))));
    written.map_err(|cause| KeyError::File { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (private, public) = (folder.path().join("key.pem"), folder.path().join("key.pub.pem"));
        let key = SigningKey::generate().unwrap();
        key.write(&private).unwrap();
        key.public().write(&public).unwrap();
        assert!(matches!(key.write(&private), Err(KeyError::File { .. })), "a key is not written over");
        let signature = SigningKey::read(&private).unwrap().sign(b"text");
        let public = PublicKey::read(&public).unwrap();
        assert!(public.verifies(b"text", &signature) && !public.verifies(b"other", &signature));
        assert_eq!(PublicKey::from_hex(&public.hex()), Some(public));
        fs::set_permissions(&private, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SigningKey::read(&private), Err(KeyError::Exposed { .. })));
    }

    #[test]
    fn a_key_of_another_program_is_read() {
        // Made by `openssl genpkey -algorithm ed25519`.
        let text = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGW/xjc7NQueodRbdxUq2qa8eLobUK97h/gDRGmcXto9\n\
                    -----END PRIVATE KEY-----\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("openssl.pem");
        write(&path, text.as_bytes(), 0o600).unwrap();
        let key = SigningKey::read(&path).unwrap();
        assert!(key.public().verifies(b"text", &key.sign(b"text")));
        fs::write(&path, "no key").unwrap();
        assert!(matches!(SigningKey::read(&path), Err(KeyError::Malformed { .. })));
    }
}
