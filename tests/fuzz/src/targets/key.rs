//! Keys as PEM: those of publishers and those that sign logs; the bytes as text, and as what PEM wraps.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use membrane_audit::{PublicKey as LogKey, SigningKey};
use membrane_profile::signature::{Algorithm, PublicKey, SecretKey};

use super::shown;
use crate::scratch;

/// What keys are made of.
pub const WORDS: &[&str] = &[
    "-----BEGIN PUBLIC KEY-----\n",
    "-----END PUBLIC KEY-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----\n",
    "-----BEGIN EC PRIVATE KEY-----\n",
    "MCowBQYDK2VwAyEA",
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
    "\r\n",
];

/// Reads them with each reader.
pub fn target(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    for label in ["PUBLIC KEY", "PRIVATE KEY"] {
        read(&format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(data)));
    }
    if let Ok(key) = PublicKey::from_der(data) {
        let again = PublicKey::from_pem(&key.to_pem()).expect("a written key");
        assert_eq!(again.fingerprint().to_string(), key.fingerprint().to_string());
    }
}

fn read(text: &str) {
    match PublicKey::from_pem(text) {
        Ok(key) => assert!(!key.verifies(b"message", text.as_bytes())),
        Err(error) => shown(&error),
    }
    match SecretKey::from_pem(text) {
        Ok(key) => {
            if let Ok(signature) = key.sign(b"message") {
                assert!(
                    key.public().verifies(b"message", &signature),
                    "a key that does not verify what it signed"
                );
            }
        }
        Err(error) => shown(&error),
    }
    let path = scratch::file("key.pem", text.as_bytes());
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a file of ours");
    let _ = LogKey::read(&path).inspect_err(|error| shown(error));
    let _ = SigningKey::read(&path).inspect_err(|error| shown(error));
}

/// Keys of each kind, as text and as DER.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for algorithm in [Algorithm::Ed25519, Algorithm::P256, Algorithm::P384] {
        let (key, secret) = SecretKey::generate(algorithm).expect("random bytes from the system");
        for text in [key.public().to_pem(), secret] {
            let digits: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            seeds.extend([STANDARD.decode(digits).expect("base64 in PEM"), text.into_bytes()]);
        }
    }
    let log_key = SigningKey::generate().expect("random bytes from the system");
    let path = scratch::folder().join("made.pem");
    scratch::file_or_none(&path, None);
    log_key.write(&path).expect("a file in the temporary folder");
    seeds.push(fs::read(&path).expect("the file just written"));
    seeds
}
