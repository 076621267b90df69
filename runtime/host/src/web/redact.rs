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
    /// Values with what stands in their place, for the ways of writing them that mix forms.
    values: Vec<(String, String)>,
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
        let value = |secret: &Secret| (secret.value.clone(), format!("[secret {}]", secret.grant.name));
        let values = secrets.iter().filter(|secret| !secret.value.is_empty()).map(value).collect();
        Self { search: search.ok().filter(|_| !patterns.is_empty()), replacements, values }
    }

    /// The bytes without secrets.
    pub fn redact(&self, bytes: Vec<u8>) -> Vec<u8> {
        let bytes = match &self.search {
            Some(search) if search.is_match(&bytes) => search.replace_all_bytes(&bytes, &self.replacements),
            _ => bytes,
        };
        self.values.iter().fold(bytes, |bytes, (value, instead)| without(bytes, value, instead.as_bytes()))
    }
}

/// The bytes with `instead` wherever a value stands, each of its characters as it is or as some language escapes it:
/// libraries differ in which ones they do.
fn without(bytes: Vec<u8>, value: &str, instead: &[u8]) -> Vec<u8> {
    let mut out: Option<Vec<u8>> = None;
    let (mut at, mut kept) = (0, 0);
    while at < bytes.len() {
        match written(&bytes[at..], value) {
            Some(length) => {
                let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
                out.extend_from_slice(&bytes[kept..at]);
                out.extend_from_slice(instead);
                at += length;
                kept = at;
            }
            None => at += 1,
        }
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&bytes[kept..]);
            out
        }
        None => bytes,
    }
}

/// How many bytes at the start of a text write a value.
fn written(text: &[u8], value: &str) -> Option<usize> {
    value.chars().try_fold(0, |at, letter| Some(at + letter_at(text.get(at..)?, letter)?))
}

/// How many bytes at the start of a text write a letter: as it is, as JSON, a URL or HTML does.
fn letter_at(text: &[u8], letter: char) -> Option<usize> {
    let escaped = match text.first()? {
        b'%' => percent_at(text, letter),
        b'\\' => backslash_at(text, letter),
        b'&' => entity_at(text, letter),
        b'+' if letter == ' ' => Some(1),
        _ => None,
    };
    let mut plain = [0; 4];
    let plain = letter.encode_utf8(&mut plain).as_bytes();
    escaped.or_else(|| text.starts_with(plain).then_some(plain.len()))
}

fn percent_at(text: &[u8], letter: char) -> Option<usize> {
    let mut bytes = [0; 4];
    letter.encode_utf8(&mut bytes).bytes().try_fold(0, |at, byte| {
        let three = text.get(at..at + 3).filter(|three| three[0] == b'%')?;
        (number(&three[1..], 16)? == u32::from(byte)).then_some(at + 3)
    })
}

fn backslash_at(text: &[u8], letter: char) -> Option<usize> {
    match text.get(1)? {
        b'u' => (number(text.get(2..6)?, 16)? == u32::from(letter)).then_some(6),
        b'x' => (number(text.get(2..4)?, 16)? == u32::from(letter)).then_some(4),
        byte => (char::from(*byte) == letter && byte.is_ascii_punctuation()).then_some(2),
    }
}

fn entity_at(text: &[u8], letter: char) -> Option<usize> {
    let end = text.iter().take(12).position(|byte| *byte == b';')?;
    let known = match &text[1..end] {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x' | b'X', digits @ ..] => char::from_u32(number(digits, 16)?)?,
        [b'#', digits @ ..] => char::from_u32(number(digits, 10)?)?,
        _ => return None,
    };
    (known == letter).then_some(end + 1)
}

/// The number that digits write.
fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let only = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    only.then(|| u32::from_str_radix(str::from_utf8(digits).ok()?, radix).ok())?
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
    fn whichever_characters_a_library_escapes() {
        let value = "abc/def+gh&i'j<k==";
        for shown in [
            "abc/def+gh&amp;i&#x27;j&lt;k==",
            "abc/def&#43;gh&amp;i&#39;j&lt;k==",
            "abc/def%2Bgh%26i%27j%3Ck%3D%3D",
            "abc%2Fdef%2Bgh%26i'j%3Ck%3D%3D",
            "abc/def+gh\\u0026i'j\\u003ck==",
            "abc\\/def+gh&i\\'j<k==",
        ] {
            assert_eq!(redacted(value, &format!("<{shown}>")), "<[secret key]>", "{shown}");
        }
        assert_eq!(redacted(value, "abc/def+gh&i'j<k="), "abc/def+gh&i'j<k=");
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
