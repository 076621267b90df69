//! Taking secrets out of what a server sends back.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::Secret;

/// Finds secrets as servers show them: as they were sent, and as JSON, URLs, HTML and base64 write them. A server that
/// changes one in a way of its own can't be helped; it was trusted with it.
pub struct Redactor {
    /// None where there are no secrets.
    search: Option<AhoCorasick>,
    replacements: Vec<String>,
}

impl Redactor {
    pub fn new(secrets: &[Secret]) -> Self {
        let mut patterns = Vec::new();
        let mut replacements = Vec::new();
        for secret in secrets {
            for form in forms(secret) {
                patterns.push(form);
                replacements.push(format!("[secret {}]", secret.grant.name));
            }
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns);
        Self { search: search.ok().filter(|_| !patterns.is_empty()), replacements }
    }

    /// The bytes without secrets.
    pub fn redact(&self, bytes: Vec<u8>) -> Vec<u8> {
        match &self.search {
            Some(search) if search.is_match(&bytes) => search.replace_all_bytes(&bytes, &self.replacements),
            _ => bytes,
        }
    }
}

/// The forms in which a secret may come back.
fn forms(secret: &Secret) -> Vec<String> {
    let value = secret.value.as_str();
    let mut forms = vec![value.to_owned()];
    let json = serde_json::to_string(value).unwrap_or_default();
    forms.push(json.trim_matches('"').to_owned());
    forms.push(json.trim_matches('"').replace('/', "\\/"));
    for lower in [false, true] {
        for plus in [false, true] {
            forms.push(percent(value, lower, plus));
        }
    }
    forms.push(html(value).into_owned());
    forms.extend(base64_forms(value));
    // The user and password of basic authentication are within base64 already.
    if let Some(inner) =
        STANDARD_NO_PAD.decode(value.trim_end_matches('=')).ok().and_then(|b| String::from_utf8(b).ok())
        && inner.len() >= *crate::limits::SECRET_BYTES.start()
    {
        forms.push(inner);
    }
    forms.retain(|form| !form.is_empty());
    forms.sort();
    forms.dedup();
    forms
}

/// A value in base64, alone or anywhere in a longer text: the characters that depend on nothing beside it.
fn base64_forms(value: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3usize {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(value.as_bytes());
        let first = (before * 8).div_ceil(6);
        let last = bytes.len() * 8 / 6;
        for encoded in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
            forms.push(encoded[first..last].to_owned());
        }
    }
    forms
}

/// A value as in URLs.
fn percent(value: &str, lower: bool, plus: bool) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        b' ' if plus => "+".to_owned(),
        byte if lower => format!("%{byte:02x}"),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

/// A value as in HTML.
fn html(value: &str) -> Cow<'_, str> {
    if !value.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(value);
    }
    let value = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Cow::Owned(value.replace('"', "&quot;").replace('\'', "&#39;"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use membrane_profile::{SecretGrant, SecretSource};
    use proptest::prelude::*;

    fn secret(value: &str) -> Secret {
        let grant = SecretGrant {
            name: "key".to_owned(),
            source: SecretSource::Environment("KEY".to_owned()),
            origin: "example.org".parse().expect("an origin"),
            header: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
        };
        Secret { grant, value: value.to_owned() }
    }

    fn redacted(value: &str, text: &str) -> String {
        let redactor = Redactor::new(&[secret(value)]);
        String::from_utf8(redactor.redact(text.as_bytes().to_vec())).expect("UTF-8")
    }

    #[test]
    fn the_text_around_stays() {
        assert_eq!(redacted("s3cr3t-t0ken", "a s3cr3t-t0ken, b"), "a [secret key], b");
        assert_eq!(redacted("s3cr3t-t0ken", "s3cr3t-token"), "s3cr3t-token");
        assert_eq!(Redactor::new(&[]).redact(b"x".to_vec()), b"x");
    }

    #[test]
    fn basic_authentication_is_found_decoded() {
        let value = STANDARD.encode("user:pass word");
        assert_eq!(redacted(&value, "you are user:pass word"), "you are [secret key]");
    }

    proptest! {
        #[test]
        fn no_form_of_a_secret_is_left(value in "[ -~]{8,40}", before in "[a-z]{0,5}", after in "[a-z]{0,5}") {
            let value = value.trim();
            prop_assume!(value.len() >= 8);
            let shown = [
                format!("{before}{value}{after}"),
                serde_json::json!({ "echo": format!("{before}{value}{after}") }).to_string(),
                format!("{before}{}{after}", percent(value, false, false)),
                format!("{before}{}{after}", html(value)),
            ];
            for text in shown {
                let clean = redacted(value, &text);
                prop_assert!(clean.contains("[secret key]"), "{}", clean);
                prop_assert!(!clean.replace("[secret key]", "").contains(value), "{}", clean);
            }
            let encoded = STANDARD.encode(format!("{before}{value}{after}"));
            prop_assert!(redacted(value, &encoded).contains("[secret key]"), "{}", encoded);
        }
    }
}
