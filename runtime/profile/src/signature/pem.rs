//! Keys as text: PEM (RFC 7468), one block a file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a PEM text (a file that is no key). Keys have less than 500.
pub const MAX_PEM_BYTES: usize = 16 << 10;
/// What every block begins with.
const BEGIN: &str = "-----BEGIN ";
/// Characters of a line.
const LINE: usize = 64;

/// The bytes of the one block of a text; what stands before and behind it is for people (RFC 7468, section 5.2). The
/// error is a sentence on what the text is instead.
pub fn decode(label: &str, text: &str) -> Result<Vec<u8>, String> {
    if text.len() > MAX_PEM_BYTES {
        return Err(format!("it has more than {MAX_PEM_BYTES} bytes"));
    }
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = text.split(BEGIN).skip(1);
    let (Some(block), None) = (blocks.next(), blocks.next()) else {
        let found = if text.contains(BEGIN) { "more than one" } else { "no" };
        return Err(format!("it has {found} block that begins with {begin}"));
    };
    let (found, body) = block.split_once("-----").unwrap_or((block, ""));
    if found != label {
        let known =
            (1..40).contains(&found.len()) && found.bytes().all(|b| b.is_ascii_uppercase() || b == b' ');
        return Err(format!(
            "it is a {}, not a {label}",
            if known { found } else { "block of another kind" }
        ));
    }
    let (body, _) = body.split_once(&end).ok_or_else(|| format!("it does not end with {end}"))?;
    let digits: String = body.lines().map(str::trim).collect();
    STANDARD.decode(digits).map_err(|error| format!("between its first and last line: {error}"))
}

/// A block, with a newline at the end.
pub fn encode(label: &str, bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in digits.as_bytes().chunks(LINE) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for length in [0, 1, 44, 48, 49, 120, 400] {
            let bytes: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let text = encode("PUBLIC KEY", &bytes);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            assert_eq!(decode("PUBLIC KEY", &text), Ok(bytes.clone()));
            assert_eq!(decode("PUBLIC KEY", &format!("\n{}", text.replace('\n', "\r\n"))), Ok(bytes.clone()));
            assert_eq!(decode("PUBLIC KEY", &format!("A key:\n\n{text}\nIts end.")), Ok(bytes));
        }
    }

    #[test]
    fn what_is_no_block_is_told_apart() {
        let text = encode("PUBLIC KEY", &[1; 44]);
        for (text, expected) in [
            (encode("PRIVATE KEY", &[1; 44]), "it is a PRIVATE KEY, not a PUBLIC KEY"),
            (String::new(), "has no block that begins with -----BEGIN PUBLIC KEY-----"),
            ("-----BEGIN \u{1b}[2J-----".to_owned(), "it is a block of another kind, not a PUBLIC KEY"),
            ("-----BEGIN ".to_owned(), "it is a block of another kind, not a PUBLIC KEY"),
            (text[..text.len() - 8].to_owned(), "does not end with"),
            (text.replace("AQEB", "AQ?B"), "between its first and last line"),
            (format!("{text}{text}"), "has more than one block"),
            ("x".repeat(MAX_PEM_BYTES + 1), "more than 16384 bytes"),
        ] {
            let error = decode("PUBLIC KEY", &text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
