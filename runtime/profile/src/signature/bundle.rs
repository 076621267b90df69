//! The signature file: a Sigstore bundle with a DSSE envelope.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::{Fingerprint, PublicKey, SecretKey, SignatureError, Statement};
use crate::read;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Bytes of a signature (a field of megabytes). An ECDSA one over P-384 has at most 104.
const MAX_SIGNATURE_BYTES: usize = 512;

/// A signature file that was read and not checked yet.
#[derive(Clone, Debug)]
pub struct Bundle {
    hint: Option<Fingerprint>,
    key: Option<PublicKey>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// A statement whose signature was checked.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What was signed.
    pub statement: Statement,
    /// The key that signed it. Whose key it is, is for the caller to know.
    pub signer: PublicKey,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Material {
    public_key: WrittenKey,
    /// Entries of a transparency log, which is not asked.
    #[serde(default, rename = "tlogEntries")]
    _tlog_entries: Option<IgnoredAny>,
    #[serde(default, rename = "timestampVerificationData")]
    _timestamps: Option<IgnoredAny>,
}

/// Bundles of `model_signing` before 1.1 have the key, later ones its fingerprint, ours both.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenKey {
    hint: Option<String>,
    raw_bytes: Option<String>,
    #[serde(default, rename = "keyDetails")]
    _details: Option<String>,
    #[serde(default, rename = "validFor")]
    _valid_for: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSignature {
    sig: String,
    #[serde(default, rename = "keyid")]
    _keyid: Option<String>,
}

/// Signs a statement. Gives the text of the signature file.
///
/// # Errors
/// The system gave no random numbers.
pub fn sign(statement: &Statement, key: &SecretKey) -> Result<String, SignatureError> {
    let payload = statement.to_json()?;
    let signature = key.sign(&signed_bytes(&payload))?;
    let public = key.public();
    let written = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {
                "hint": public.fingerprint().hex(),
                "rawBytes": STANDARD.encode(public.to_pem()),
                "keyDetails": public.algorithm().details(),
            },
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{ "sig": STANDARD.encode(&signature), "keyid": "" }],
        },
    });
    Ok(format!("{written:#}\n"))
}

/// What is signed: the envelope's type and payload, each with its length (DSSE, pre-authentication encoding).
fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Bundle {
    /// Reads a signature file; none if there is no file. Errors: as for [`Bundle::parse`].
    pub fn read(path: &Path) -> Result<Option<Self>, SignatureError> {
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::parse(&read::text(path)?).map(Some),
        }
    }

    /// Reads the text of a signature file. Nothing is checked but its form.
    ///
    /// # Errors
    /// Not JSON of this form, an unknown field, more or less than one signature, or a bundle that needs a certificate.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let error = |what: String| SignatureError::Bundle(what);
        let written: Written = serde_json::from_str(text).map_err(|cause| error(explained(&cause, text)))?;
        if written.media_type != MEDIA_TYPE {
            let found: String = written.media_type.chars().take(80).collect();
            return Err(error(format!("its `mediaType` is {found:?}, not {MEDIA_TYPE:?}")));
        }
        let envelope = written.dsse_envelope;
        if envelope.payload_type != PAYLOAD_TYPE {
            let found: String = envelope.payload_type.chars().take(80).collect();
            return Err(error(format!("its `payloadType` is {found:?}, not {PAYLOAD_TYPE:?}")));
        }
        let [signature] = &envelope.signatures[..] else {
            return Err(error(format!("it has {} signatures instead of one", envelope.signatures.len())));
        };
        let decode = |field: &str, text: &str| {
            STANDARD.decode(text).map_err(|cause| error(format!("its `{field}` is not base64: {cause}")))
        };
        let signature = decode("sig", &signature.sig)?;
        if signature.len() > MAX_SIGNATURE_BYTES {
            return Err(error(format!("its `sig` has more than {MAX_SIGNATURE_BYTES} bytes")));
        }
        let key = written.verification_material.public_key;
        let hint = match key.hint.as_deref() {
            None | Some("") => None,
            Some(hint) => Some(hint.parse().map_err(|cause| error(format!("its `hint`: {cause}")))?),
        };
        let key = match &key.raw_bytes {
            None => None,
            Some(raw) => Some(raw_key(&decode("rawBytes", raw)?)?),
        };
        Ok(Self { hint, key, payload: decode("payload", &envelope.payload)?, signature })
    }

    /// The fingerprint of the key that the bundle says it was made with. Anyone can write that.
    pub fn claimed(&self) -> Option<Fingerprint> {
        self.key.as_ref().map(PublicKey::fingerprint).or(self.hint)
    }

    /// Checks the signature, with the given key or else with the one that the bundle has.
    ///
    /// Without a given key this shows that the bundle is whole and which key made it, no more: the caller compares
    /// the signer's fingerprint with one that it trusts.
    ///
    /// # Errors
    /// The bundle was made with another key, has none, is not valid, or states what is not supported.
    pub fn verify(&self, key: Option<&PublicKey>) -> Result<Verified, SignatureError> {
        let signer = match (key, &self.key) {
            (Some(given), _) => given,
            (None, Some(own)) => own,
            (None, None) => {
                let hint = self.hint.map_or_else(|| "(none)".to_owned(), |hint| hint.to_string());
                return Err(SignatureError::NoKey { hint });
            }
        };
        let wanted = signer.fingerprint();
        let named = [self.hint, self.key.as_ref().map(PublicKey::fingerprint)].into_iter().flatten();
        if let Some(found) = named.into_iter().find(|found| *found != wanted) {
            return Err(SignatureError::OtherKey { found, wanted });
        }
        if !signer.verifies(&signed_bytes(&self.payload), &self.signature) {
            return Err(SignatureError::Invalid(wanted));
        }
        Ok(Verified { statement: Statement::parse(&self.payload)?, signer: signer.clone() })
    }
}

/// The key of a bundle, PEM text or DER.
fn raw_key(bytes: &[u8]) -> Result<PublicKey, SignatureError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with("-----") => PublicKey::from_pem(text),
        _ => PublicKey::from_der(bytes),
    }
    .map_err(|cause| SignatureError::Bundle(format!("its `rawBytes` {cause}")))
}

/// The parser's words, and for what is well known and not supported, that.
fn explained(cause: &serde_json::Error, text: &str) -> String {
    let unsupported = ["certificate", "x509CertificateChain"].into_iter();
    let mut unsupported = unsupported.filter(|field| text.contains(&format!("\"{field}\"")));
    match unsupported.next() {
        Some(_) => "it was made with a certificate; only those of plain keys are checked".to_owned(),
        None => cause.to_string(),
    }
}
