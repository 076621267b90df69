//! A signature file, and the statement in one, signed so that it is read.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use membrane_profile::Digest;
use membrane_profile::signature::{Algorithm, Bundle, SecretKey, Statement, sign};
use serde_json::json;

use super::shown;

/// What bundles and statements are made of.
pub const WORDS: &[&str] = &[
    "\"mediaType\"",
    "\"verificationMaterial\"",
    "\"publicKey\"",
    "\"hint\"",
    "\"rawBytes\"",
    "\"dsseEnvelope\"",
    "\"payload\"",
    "\"payloadType\"",
    "\"signatures\"",
    "\"sig\"",
    "\"subject\"",
    "\"digest\"",
    "\"sha256\"",
    "\"predicate\"",
    "\"serialization\"",
    "\"resources\"",
    "\"ignore_paths\"",
    "\"allow_symlinks\"",
    "\"shards\"",
];

const CONTENT: &[u8] = b"the bytes of a component\n";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Reads the bytes as a bundle, then as the statement of one.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check(text);
    check(&bundle(data));
}

fn check(text: &str) {
    let bundle = match Bundle::parse(text) {
        Ok(bundle) => bundle,
        Err(error) => return shown(&error),
    };
    let _ = bundle.claimed();
    for key in [None, Some(key().public())] {
        match bundle.verify(key) {
            Ok(verified) => {
                let _ = verified.statement.is_of_file(Digest::of(CONTENT)).inspect_err(|error| shown(error));
            }
            Err(error) => shown(&error),
        }
    }
}

/// A key of this run.
fn key() -> &'static SecretKey {
    static KEY: OnceLock<SecretKey> = OnceLock::new();
    KEY.get_or_init(|| SecretKey::generate(Algorithm::Ed25519).expect("random bytes from the system").0)
}

/// A bundle with any payload, rightly signed.
fn bundle(payload: &[u8]) -> String {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    let signature = key().sign(&[head.as_bytes(), payload].concat()).expect("a key that signs");
    let written = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"rawBytes": STANDARD.encode(key().public().to_pem())}},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": STANDARD.encode(signature)}],
        },
    });
    written.to_string()
}

/// Bundles of keys of each kind, and the statement alone.
pub fn seeds() -> Vec<Vec<u8>> {
    let statement = Statement::of_file("a.wasm", Digest::of(CONTENT));
    let bundle = |algorithm| {
        let (key, _) = SecretKey::generate(algorithm).expect("random bytes from the system");
        sign(&statement, &key).expect("a key that signs").into_bytes()
    };
    let mut seeds: Vec<Vec<u8>> = [Algorithm::Ed25519, Algorithm::P256, Algorithm::P384].map(bundle).into();
    let own: serde_json::Value = serde_json::from_slice(&seeds[0]).expect("a bundle of JSON");
    let payload = own["dsseEnvelope"]["payload"].as_str().expect("its payload");
    let payload = STANDARD.decode(payload).expect("a payload in base64");
    assert!(Bundle::parse(&self::bundle(&payload)).and_then(|bundle| bundle.verify(None)).is_ok());
    seeds.push(payload);
    seeds
}
