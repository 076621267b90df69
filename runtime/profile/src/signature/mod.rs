//! Signatures of plugins: detached, in the form of OpenSSF model signing.
//!
//! A signature file is a Sigstore bundle (JSON, version 0.3) with a DSSE envelope around an in-toto statement that
//! names what was signed by SHA-256. It is made and checked with plain keys: ed25519, or ECDSA over P-256 and P-384,
//! which the `model_signing` tool takes. What needs a certificate or a transparency log is not read here.
//!
//! A publisher is known by the fingerprint of the public key: SHA-256 of the key's PEM text, `sha256sum KEY.pub`.

mod bundle;
mod key;
mod pem;
mod statement;

pub use bundle::{Bundle, Verified, sign};
pub use key::{Algorithm, Fingerprint, PublicKey, SecretKey};
pub use statement::{Resource, Statement, WHOLE_FILE};

use std::path::PathBuf;

use crate::error::ProfileError;

/// What is appended to the name of a component for the name of its signature file.
pub const EXTENSION: &str = "sig";

/// A key or a signature that can't be used. The text is to be put behind the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The file can't be read.
    #[error(transparent)]
    File(#[from] ProfileError),
    /// Not a key, or not one of the kind that is wanted.
    #[error("is no {wanted}: {cause}")]
    Key {
        /// What is wanted.
        wanted: &'static str,
        /// What is wrong and what to do.
        cause: String,
    },
    /// Others than its owner may read a private key.
    #[error("may be read by others than its owner, and a private key must not be: `chmod 600 {}`", .0.display())]
    Exposed(PathBuf),
    /// Not a signature bundle, or one with something in it that is not supported.
    #[error("is no signature that can be checked: {0}")]
    Bundle(String),
    /// The bundle names no key, and none was given.
    #[error("names its key by the fingerprint {hint} only: give the public key")]
    NoKey {
        /// Fingerprint of the key, as the bundle has it.
        hint: String,
    },
    /// The bundle was made with another key.
    #[error("was made with the key {found}, not {wanted}")]
    OtherKey {
        /// Fingerprint of the key that is named in the bundle.
        found: Fingerprint,
        /// Fingerprint of the key that was wanted.
        wanted: Fingerprint,
    },
    /// The signature is not one of the key over the statement.
    #[error("is not valid: the statement was changed, or {0} did not sign it")]
    Invalid(Fingerprint),
    /// The statement is of something else.
    #[error("is of other bytes: {0}")]
    OtherContent(String),
    /// The system gave no random numbers, or the key can't sign.
    #[error("could not be made: {0}")]
    Signing(String),
}
