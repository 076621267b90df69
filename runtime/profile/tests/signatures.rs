//! Signature files: ours, those of another program, and hostile ones.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use membrane_profile::Digest;
use membrane_profile::signature::{
    Algorithm, Bundle, PublicKey, SecretKey, SignatureError, Statement, Verified, sign,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const CONTENT: &[u8] = b"the bytes of a component\n";
const KINDS: [Algorithm; 3] = [Algorithm::Ed25519, Algorithm::P256, Algorithm::P384];

fn key(algorithm: Algorithm) -> SecretKey {
    SecretKey::generate(algorithm).unwrap().0
}

fn signed(key: &SecretKey) -> String {
    sign(&Statement::of_file("a.wasm", Digest::of(CONTENT)), key).unwrap()
}

/// Checks a text as the host does: a signature of this key over this content.
fn check(text: &str, key: &PublicKey, content: &[u8]) -> Result<Verified, SignatureError> {
    let verified = Bundle::parse(text)?.verify(Some(key))?;
    verified.statement.is_of_file(Digest::of(content))?;
    Ok(verified)
}

fn refusal(text: &str, key: &PublicKey) -> String {
    check(text, key, CONTENT).unwrap_err().to_string()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/model-signing").join(name)
}

/// The text with one value of the bundle changed.
fn changed(text: &str, pointer: &str, value: Value) -> String {
    let mut bundle: Value = serde_json::from_str(text).unwrap();
    *bundle.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is not there")) = value;
    bundle.to_string()
}

#[test]
fn what_is_signed_is_verified_and_nothing_else() {
    for algorithm in KINDS {
        let (key, other) = (key(algorithm), key(algorithm));
        let text = signed(&key);
        let verified = check(&text, key.public(), CONTENT).unwrap();
        assert_eq!((verified.signer, verified.statement.subject.as_str()), (key.public().clone(), "a.wasm"));
        assert_eq!(Bundle::parse(&text).unwrap().claimed(), Some(key.public().fingerprint()));
        let error = check(&text, key.public(), b"other bytes").unwrap_err().to_string();
        assert!(error.contains("is of other bytes"), "{error}");
        assert!(matches!(check(&text, other.public(), CONTENT), Err(SignatureError::OtherKey { .. })));
        // The claim of another key's bundle to be of this key does not help.
        let forged = changed(
            &text,
            "/verificationMaterial/publicKey",
            json!({ "hint": other.public().fingerprint().hex() }),
        );
        assert!(matches!(check(&forged, other.public(), CONTENT), Err(SignatureError::Invalid(_))));
    }
}

#[test]
fn signatures_of_the_model_signing_tool_are_verified() {
    for name in ["p256", "p384"] {
        let key = PublicKey::read(&fixture(&format!("{name}.pub"))).unwrap();
        let text = std::fs::read_to_string(fixture(&format!("{name}.sig"))).unwrap();
        check(&text, &key, CONTENT).unwrap();
        assert!(check(&text, &key, b"other").is_err());
        // It names the key by what we call the fingerprint, and does not bring it.
        let bundle = Bundle::parse(&text).unwrap();
        assert_eq!(bundle.claimed(), Some(key.fingerprint()));
        assert!(matches!(bundle.verify(None), Err(SignatureError::NoKey { .. })));
    }
    let key = PublicKey::read(&fixture("p256.pub")).unwrap();
    let bundle = Bundle::read(&fixture("folder.sig")).unwrap().unwrap();
    let statement = bundle.verify(Some(&key)).unwrap().statement;
    let mut files: Vec<(&str, Digest)> =
        statement.resources.iter().map(|r| (r.name.as_str(), r.digest)).collect();
    files.sort_unstable();
    assert_eq!(files, [("one.txt", Digest::of(b"one\n")), ("sub/two.txt", Digest::of(b"two\n"))]);
    assert!(statement.ignored.iter().any(|path| path == "skipped"));
    let error = statement.is_of_file(Digest::of(b"one\n")).unwrap_err().to_string();
    assert!(error.contains("a folder of 2 files was signed"), "{error}");
}

#[test]
fn the_fingerprint_is_the_digest_of_the_keys_text() {
    for name in ["p256.pub", "p384.pub"] {
        let text = std::fs::read_to_string(fixture(name)).unwrap();
        let key = PublicKey::from_pem(&text).unwrap();
        assert_eq!(key.fingerprint().hex(), Digest::of(text.as_bytes()).hex());
        // However the file is broken into lines.
        let key = PublicKey::from_pem(&text.replace('\n', "\r\n")).unwrap();
        assert_eq!(key.fingerprint().hex(), Digest::of(text.as_bytes()).hex());
    }
}

#[test]
fn malformed_bundles_say_what_is_wrong() {
    let key = key(Algorithm::Ed25519);
    let text = signed(&key);
    let one = |pointer: &str, value: Value| changed(&text, pointer, value);
    let signature = serde_json::from_str::<Value>(&text).unwrap()["dsseEnvelope"]["signatures"][0].clone();
    let sig = signature["sig"].as_str().unwrap();
    for (text, expected) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "invalid length 0"),
        (text[..text.len() / 2].to_owned(), "EOF"),
        ("[".repeat(100_000), "invalid type"),
        (format!("{{\"verificationMaterial\":{{\"tlogEntries\":{}", "[".repeat(100_000)), "EOF"),
        (text.replacen('{', "{\"surprise\": 1,", 1), "unknown field `surprise`"),
        (text.replacen('{', "{\"mediaType\": \"x\",", 1), "duplicate field `mediaType`"),
        (
            text.replacen("\"payload\":", "\"payload\": \"e30=\", \"payload\":", 1),
            "duplicate field `payload`",
        ),
        (text.replace("\"publicKey\"", "\"certificate\""), "made with a certificate"),
        (one("/mediaType", json!("text/plain")), "its `mediaType` is \"text/plain\""),
        (one("/dsseEnvelope/payloadType", json!("text/plain")), "its `payloadType` is"),
        (one("/dsseEnvelope/signatures", json!([])), "it has 0 signatures instead of one"),
        (one("/dsseEnvelope/signatures", json!([signature, signature])), "it has 2 signatures"),
        (one("/dsseEnvelope/signatures/0/sig", json!(&sig[..sig.len() - 1])), "its `sig` is not base64"),
        (one("/dsseEnvelope/signatures/0/sig", json!(&sig[..sig.len() - 4])), "is not valid"),
        (one("/dsseEnvelope/signatures/0/sig", json!("")), "is not valid"),
        (one("/dsseEnvelope/signatures/0/sig", json!("AAAA".repeat(1000))), "more than 512 bytes"),
        (one("/dsseEnvelope/payload", json!("e30=")), "is not valid"),
        (one("/verificationMaterial/publicKey/hint", json!("abc")), "its `hint`: `abc` is not a digest"),
        (one("/verificationMaterial/publicKey/rawBytes", json!("AAAA")), "its `rawBytes` is no public key"),
    ] {
        let error = refusal(&text, key.public());
        assert!(error.contains(expected), "{}: {error}", &text[..text.len().min(200)]);
        assert!(error.len() < 600, "{error}");
    }
}

/// A statement that is no statement of a file, signed all the same.
#[test]
fn signed_statements_of_another_form_are_refused() {
    let key = key(Algorithm::Ed25519);
    let digest = Digest::of(CONTENT).hex();
    let good = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "a", "digest": { "sha256": Digest::of(Digest::of(CONTENT).as_bytes()).hex() } }],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": { "method": "files", "hash_type": "sha256", "allow_symlinks": false },
            "resources": [{ "name": ".", "algorithm": "sha256", "digest": digest }],
            "later": "fields that are not known are to be ignored",
        },
    });
    let sealed = |payload: &[u8]| {
        let kind = "application/vnd.in-toto+json";
        let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
        let signature = key.sign(&[head.as_bytes(), payload].concat()).unwrap();
        let text = changed(&signed(&key), "/dsseEnvelope/payload", json!(base64(payload)));
        changed(&text, "/dsseEnvelope/signatures/0/sig", json!(base64(&signature)))
    };
    check(&sealed(good.to_string().as_bytes()), key.public(), CONTENT).unwrap();
    let other = |pointer: &str, value: Value| {
        let mut statement = good.clone();
        *statement.pointer_mut(pointer).unwrap() = value;
        statement.to_string()
    };
    let file = good["predicate"]["resources"][0].clone();
    for (payload, expected) in [
        ("{}".to_owned(), "missing field"),
        (
            good.to_string().replace("\"subject\":", "\"subject\":[],\"subject\":"),
            "duplicate field `subject`",
        ),
        (other("/_type", json!("x")), "`_type` is \"x\""),
        (other("/predicateType", json!("x")), "`predicateType` is \"x\""),
        (other("/subject", json!([])), "0 subjects"),
        (other("/predicate/serialization/method", json!("shards")), "`method` is \"shards\""),
        (other("/predicate/serialization/hash_type", json!("md5")), "`hash_type` is \"md5\""),
        (other("/predicate/resources/0/algorithm", json!("md5")), "`algorithm` is \"md5\""),
        (other("/predicate/resources/0/digest", json!("00")), "is not a digest"),
        (other("/predicate/resources/0/digest", json!(format!("sha256:{digest}"))), "64 hexadecimal digits"),
        (other("/predicate/resources/0/name", json!("../a.wasm")), "a folder of 1 files"),
        (other("/predicate/resources", json!([])), "it has 0 files"),
        (other("/predicate/resources", json!(vec![file.clone(); 10_001])), "it has 10001 files"),
        (other("/predicate/resources", json!([file, file])), "not that of its files"),
        (other("/subject/0/digest/sha256", json!(digest)), "not that of its files"),
    ] {
        let error = refusal(&sealed(payload.as_bytes()), key.public());
        assert!(error.contains(expected), "{error}");
    }
    let error = refusal(&sealed(&[0xff, 0xfe]), key.public());
    assert!(error.contains("its statement"), "{error}");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn a_missing_file_is_no_error_and_no_signature() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Bundle::read(&folder.path().join("none.sig")).unwrap().is_none());
    assert!(Bundle::read(folder.path()).is_err());
    let large = folder.path().join("large.sig");
    std::fs::write(&large, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(Bundle::read(&large).unwrap_err().to_string().contains("at most 1048576"));
    #[cfg(unix)]
    {
        let dangling = folder.path().join("dangling.sig");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(Bundle::read(&dangling).is_err(), "a link to nothing is a signature that can't be read");
    }
}

proptest! {
    /// Whatever byte of a signature file is changed, it says the same as before or nothing.
    #[test]
    fn a_changed_byte_never_signs_something_else(kind in 0..3usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let key = key(KINDS[kind]);
        let text = signed(&key);
        let mut bytes = text.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(text) = String::from_utf8(bytes)
            && let Ok(bundle) = Bundle::parse(&text)
        {
            if let Ok(verified) = bundle.verify(Some(key.public())) {
                prop_assert!(verified.statement.is_of_file(Digest::of(CONTENT)).is_ok());
            }
            if let Ok(verified) = bundle.verify(None) {
                prop_assert!(verified.signer == *key.public());
            }
        }
    }

    #[test]
    fn arbitrary_texts_are_refused(text in "\\PC{0,400}") {
        prop_assert!(Bundle::parse(&text).is_err());
        prop_assert!(PublicKey::from_pem(&text).is_err());
        prop_assert!(SecretKey::from_pem(&text).is_err());
    }

    #[test]
    fn arbitrary_keys_are_refused_or_read_back(der in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(key) = PublicKey::from_der(&der) {
            prop_assert_eq!(PublicKey::from_pem(&key.to_pem()).unwrap(), key);
        }
    }
}
