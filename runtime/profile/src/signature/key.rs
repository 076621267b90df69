//! Keys of publishers, and their fingerprints.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};

use super::{SignatureError, pem};
use crate::digest::{Digest, DigestError};
use crate::read;

const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";
/// What an ed25519 key in PKCS #8 (RFC 8410) begins with, before its 32 bytes.
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Edwards-curve signatures (RFC 8032).
    Ed25519,
    /// ECDSA over P-256 with SHA-256.
    P256,
    /// ECDSA over P-384 with SHA-384.
    P384,
}

impl Algorithm {
    const ALL: [Algorithm; 3] = [Algorithm::Ed25519, Algorithm::P256, Algorithm::P384];

    /// The name that people use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Ed25519 => "ed25519",
            Algorithm::P256 => "p256",
            Algorithm::P384 => "p384",
        }
    }

    /// The name in Sigstore bundles.
    pub(super) const fn details(self) -> &'static str {
        match self {
            Algorithm::Ed25519 => "PKIX_ED25519",
            Algorithm::P256 => "PKIX_ECDSA_P256_SHA_256",
            Algorithm::P384 => "PKIX_ECDSA_P384_SHA_384",
        }
    }

    /// What a public key of this kind begins with (SubjectPublicKeyInfo, DER), and the bytes that follow.
    const fn layout(self) -> (&'static [u8], usize) {
        match self {
            Algorithm::Ed25519 => (b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32),
            Algorithm::P256 => (
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\
                  \x03\x42\x00",
                65,
            ),
            Algorithm::P384 => (
                b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
                97,
            ),
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Algorithm::Ed25519 => &signature::ED25519,
            Algorithm::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            Algorithm::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a publisher is: the SHA-256 of the public key's PEM text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(Digest);

impl FromStr for Fingerprint {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

impl Fingerprint {
    /// 64 hexadecimal digits, as bundles have it.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key that a publisher's signatures are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Reads a PEM file. Errors: it can't be read, or is no public key of a kind that is supported.
    pub fn read(path: &Path) -> Result<Self, SignatureError> {
        Self::from_pem(&read::text(path)?)
    }

    /// Reads PEM text, `-----BEGIN PUBLIC KEY-----`.
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        let error = |cause| SignatureError::Key { wanted: "public key", cause };
        Self::from_der(&pem::decode(PUBLIC, text).map_err(error)?)
    }

    /// Reads a SubjectPublicKeyInfo.
    pub fn from_der(der: &[u8]) -> Result<Self, SignatureError> {
        let found = Algorithm::ALL.into_iter().find_map(|algorithm| {
            let (prefix, length) = algorithm.layout();
            let bytes = der.strip_prefix(prefix).filter(|bytes| bytes.len() == length)?;
            Some(Self { algorithm, bytes: bytes.to_vec() })
        });
        found.ok_or_else(|| SignatureError::Key {
            wanted: "public key",
            cause: "its kind is none of ed25519, P-256 and P-384".to_owned(),
        })
    }

    /// The key as PEM text.
    pub fn to_pem(&self) -> String {
        let (prefix, _) = self.algorithm.layout();
        pem::encode(PUBLIC, &[prefix, &self.bytes].concat())
    }

    /// What the publisher is known by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Digest::of(self.to_pem().as_bytes()))
    }

    /// The kind of key.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether a signature is one of this key over a message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.verification(), &self.bytes).verify(message, signature).is_ok()
    }
}

/// The key that a publisher signs with.
pub struct SecretKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret key of {}", self.public.fingerprint())
    }
}

impl SecretKey {
    /// Makes a key from the system's random numbers, and its PEM text. Only ed25519 and P-256 keys are made.
    pub fn generate(algorithm: Algorithm) -> Result<(Self, String), SignatureError> {
        let random = SystemRandom::new();
        let failed = |_| SignatureError::Signing("the system gave no random numbers".to_owned());
        let pkcs8 = match algorithm {
            Algorithm::Ed25519 => {
                let mut seed = [0; 32];
                random.fill(&mut seed).map_err(failed)?;
                [&ED25519_PKCS8[..], &seed].concat()
            }
            Algorithm::P256 => {
                let curve = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
                EcdsaKeyPair::generate_pkcs8(curve, &random).map_err(failed)?.as_ref().to_vec()
            }
            Algorithm::P384 => {
                let curve = &signature::ECDSA_P384_SHA384_ASN1_SIGNING;
                EcdsaKeyPair::generate_pkcs8(curve, &random).map_err(failed)?.as_ref().to_vec()
            }
        };
        Ok((Self::from_pkcs8(&pkcs8)?, pem::encode(PRIVATE, &pkcs8)))
    }

    /// Reads a PEM file. Errors: it can't be read, is no private key of a kind that is supported, or others may read it.
    pub fn read(path: &Path) -> Result<Self, SignatureError> {
        let key = Self::from_pem(&read::text(path)?)?;
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 == 0) {
            Ok(key)
        } else {
            Err(SignatureError::Exposed(path.to_owned()))
        }
    }

    /// Reads PEM text of an unencrypted key in PKCS #8, `-----BEGIN PRIVATE KEY-----`.
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        let der = pem::decode(PRIVATE, text).map_err(|cause| {
            let convert = "; `openssl pkcs8 -topk8 -nocrypt` makes one of other private keys";
            let other = cause.contains("PRIVATE KEY, not") || cause.contains("more than one");
            SignatureError::Key {
                wanted: "private key",
                cause: format!("{cause}{}", if other { convert } else { "" }),
            }
        })?;
        Self::from_pkcs8(&der)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, SignatureError> {
        let random = SystemRandom::new();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public =
                PublicKey { algorithm: Algorithm::Ed25519, bytes: pair.public_key().as_ref().to_vec() };
            return Ok(Self { pair: Pair::Ed25519(Box::new(pair)), public });
        }
        let curves = [
            (Algorithm::P256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING),
            (Algorithm::P384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        ];
        for (algorithm, curve) in curves {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve, der, &random) {
                let public = PublicKey { algorithm, bytes: pair.public_key().as_ref().to_vec() };
                return Ok(Self { pair: Pair::Ecdsa(Box::new(pair)), public });
            }
        }
        Err(SignatureError::Key {
            wanted: "private key",
            cause: "its kind is none of ed25519, P-256 and P-384, or it is damaged".to_owned(),
        })
    }

    /// The key that goes with it.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message. Errors: the system gave no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                signature
                    .map(|signature| signature.as_ref().to_vec())
                    .map_err(|_| SignatureError::Signing("the system gave no random numbers".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sign_and_read_back() {
        for algorithm in Algorithm::ALL {
            let (key, text) = SecretKey::generate(algorithm).unwrap();
            let again = SecretKey::from_pem(&text).unwrap();
            assert_eq!(again.public(), key.public());
            let public = PublicKey::from_pem(&key.public().to_pem()).unwrap();
            assert_eq!((public.algorithm(), public.fingerprint()), (algorithm, key.public().fingerprint()));
            let signature = again.sign(b"a message").unwrap();
            assert!(public.verifies(b"a message", &signature));
            assert!(!public.verifies(b"A message", &signature));
            assert!(!public.verifies(b"a message", &signature[1..]));
            assert!(!public.verifies(b"a message", &[]));
            assert!(!format!("{key:?}").contains(text.lines().nth(1).unwrap()));
        }
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn ed25519_is_that_of_the_standard() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
        };
        let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SecretKey::from_pkcs8(&[&ED25519_PKCS8[..], &seed].concat()).unwrap();
        let public = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        assert_eq!(key.public().bytes, public);
        let signature = hex(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
             387b2eaeb4302aeeb00d291612bb0c00",
        );
        assert_eq!(key.sign(&[0x72]).unwrap(), signature);
    }

    #[test]
    fn what_is_no_key_says_what_it_is() {
        let (key, text) = SecretKey::generate(Algorithm::Ed25519).unwrap();
        let error = PublicKey::from_pem(&text).unwrap_err().to_string();
        assert!(error.contains("is no public key: it is a PRIVATE KEY, not a PUBLIC KEY"), "{error}");
        let error = SecretKey::from_pem(&key.public().to_pem()).unwrap_err().to_string();
        assert!(error.contains("is no private key: it is a PUBLIC KEY"), "{error}");
        let error = SecretKey::from_pem(&text.replace("PRIVATE", "EC PRIVATE")).unwrap_err().to_string();
        assert!(error.contains("openssl pkcs8"), "{error}");
        let other = pem::encode(PUBLIC, &[Algorithm::Ed25519.layout().0, &[0; 31]].concat());
        let error = PublicKey::from_pem(&other).unwrap_err().to_string();
        assert!(error.contains("none of ed25519, P-256 and P-384"), "{error}");
        let damaged = pem::encode(PRIVATE, &ED25519_PKCS8);
        assert!(SecretKey::from_pem(&damaged).is_err());
    }
}
