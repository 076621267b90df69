//! A line of a log: a record, chained to the line before.
//!
//! ```text
//! {"number":7,"previous":"<64 hex digits>","at_ms":1700000000000,"record":{...},"hash":"<64 hex digits>"}
//! ```
//!
//! `hash` is the SHA-256 of the line's own bytes up to and without `,"hash"`, and `previous` is the `hash` of the line
//! before. The bytes that are hashed are those in the file (compact JSON, keys in this order), so nothing has to
//! be brought into a form again to check them; `head -c -76 | sha256sum` on one line does it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{AuditError, Result};
use crate::limits::{MAX_LEVELS, MAX_LINE_BYTES, MAX_SHOWN_CHARS};
use crate::record::Record;

/// What stands before the digits of the hash, and behind them.
const BEFORE_HASH: &[u8] = b",\"hash\":\"";
const BEHIND_HASH: &[u8] = b"\"}";
const HASH_DIGITS: usize = 64;
/// Bytes from the comma before the hash to the end of the line.
const TAIL_BYTES: usize = BEFORE_HASH.len() + HASH_DIGITS + BEHIND_HASH.len();

/// A line that was read, with its hash checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Number of the record, from 1.
    pub number: u64,
    /// Hash of the line before; zeros for the first.
    pub previous: Digest,
    /// When it was written, in milliseconds since 1970, by the writer's clock.
    pub at_ms: u64,
    /// What it says.
    pub record: Record,
    /// Hash of this line.
    pub hash: Digest,
}

/// A line that can't stand in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not end in a hash.
    #[error("it is no line of a log: it does not end in a hash")]
    NoHash,
    /// The hash at its end is not that of what stands before.
    #[error("its hash is not that of its content")]
    WrongHash,
    /// The hash is right and what stands before it is not a record, or one that only a later version knows.
    #[error("it is not a record that this version knows: {0}")]
    Unreadable(String),
    /// It is longer than a line may be.
    #[error("it is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
}

#[derive(Serialize)]
struct Written<'a> {
    number: u64,
    previous: String,
    at_ms: u64,
    record: &'a Record,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    number: u64,
    previous: String,
    at_ms: u64,
    record: Record,
    #[serde(rename = "hash")]
    _hash: String,
}

/// A line with its newline, and its hash. Errors: it is longer than a line may be, or nested too deeply to be read again.
pub fn encode(number: u64, previous: Digest, at_ms: u64, record: &Record) -> Result<(Vec<u8>, Digest)> {
    let written = Written { number, previous: previous.hex(), at_ms, record };
    let mut line = serde_json::to_vec(&written).map_err(|_| AuditError::TooLarge { bytes: usize::MAX })?;
    check_levels(&line)?;
    // The brace comes behind the hash.
    line.pop();
    let hash = Digest::of(&line);
    line.extend_from_slice(BEFORE_HASH);
    line.extend_from_slice(hash.hex().as_bytes());
    line.extend_from_slice(BEHIND_HASH);
    if line.len() > MAX_LINE_BYTES {
        return Err(AuditError::TooLarge { bytes: line.len() });
    }
    line.push(b'\n');
    Ok((line, hash))
}

/// Refuses JSON with more lists and objects within each other than are read again.
pub(crate) fn check_levels(json: &[u8]) -> Result<()> {
    let (mut levels, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => levels += 1,
            b'}' | b']' if !in_string => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > MAX_LEVELS {
            return Err(AuditError::TooDeep);
        }
    }
    Ok(())
}

/// Reads a line without its newline, and checks its own hash.
pub fn decode(line: &[u8]) -> Result<Line, LineError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(LineError::TooLong);
    }
    let start = line.len().checked_sub(TAIL_BYTES).ok_or(LineError::NoHash)?;
    let (hashed, tail) = line.split_at(start);
    let digits = tail.strip_prefix(BEFORE_HASH).and_then(|tail| tail.strip_suffix(BEHIND_HASH));
    let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    let hash = digits.and_then(Digest::from_hex).ok_or(LineError::NoHash)?;
    if Digest::of(hashed) != hash {
        return Err(LineError::WrongHash);
    }
    let unreadable = |what: String| LineError::Unreadable(shown(&what));
    let read: Read = serde_json::from_slice(line).map_err(|error| unreadable(error.to_string()))?;
    let previous = Digest::from_hex(&read.previous);
    let previous = previous.ok_or_else(|| unreadable("`previous` is not 64 hexadecimal digits".into()))?;
    Ok(Line { number: read.number, previous, at_ms: read.at_ms, record: read.record, hash })
}

/// Whether a file of these bytes, which may be cut anywhere, begins as each log does.
pub(crate) fn begins_log(bytes: &[u8]) -> bool {
    let start = format!("{{\"number\":1,\"previous\":\"{}\",\"at_ms\":", Digest::ZERO.hex());
    let compared = bytes.len().min(start.len());
    bytes[..compared] == start.as_bytes()[..compared]
}

/// Text from a file, as an error may repeat it.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use crate::record::{Behaviour, Plugin};

    #[test]
    fn a_line_reads_back_and_no_byte_of_it_can_change() {
        let previous = Digest::of(b"the line before");
        let (bytes, hash) = encode(7, previous, 123, &Record::Close).unwrap();
        let line = &bytes[..bytes.len() - 1];
        let read = decode(line).unwrap();
        assert_eq!((read.number, read.previous, read.at_ms, read.hash), (7, previous, 123, hash));
        assert_eq!(read.record, Record::Close);
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut changed = line.to_vec();
                changed[at] ^= 1 << bit;
                assert!(decode(&changed).is_err(), "byte {at} bit {bit}");
            }
            assert!(decode(&line[..at]).is_err() && decode(&line[at + 1..]).is_err());
        }
    }

    #[test]
    fn what_is_nested_too_deeply_to_be_read_again_is_not_written() {
        for levels in 0..140 {
            // Brackets in texts count for nothing.
            let text = Value::from("[{\"[{\\[{".repeat(100));
            let value = (0..levels).fold(text, |inner, _| Value::Array(vec![inner]));
            let plugin = Plugin {
                kind: "sampler".into(),
                name: "greedy".into(),
                digest: Digest::ZERO,
                version: None,
                location: "greedy".into(),
                parameters: Map::from_iter([("a".to_owned(), value)]),
                grants: Vec::new(),
                authority: Vec::new(),
                fuel_per_call: 1,
                memory_bytes: 1,
                wall_ms: None,
                isolation: None,
            };
            let behaviour = Behaviour { profile: "x".into(), digest: Digest::ZERO, plugins: vec![plugin] };
            // Line, record, behaviour, plugins, plugin and parameters are levels, too.
            match encode(1, Digest::ZERO, 0, &Record::Behaviour(behaviour)) {
                Ok((bytes, _)) => {
                    assert!(levels + 6 <= MAX_LEVELS, "{levels}");
                    decode(&bytes[..bytes.len() - 1]).unwrap();
                }
                Err(AuditError::TooDeep) => assert!(levels + 6 > MAX_LEVELS, "{levels}"),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_right_hash_is_not_enough() {
        for body in [
            "",
            "{",
            "{\"number\":1",
            "[1",
            "{\"number\":1,\"number\":1,\"previous\":\"\",\"at_ms\":1,\"record\":\"close\"",
        ] {
            let mut line = body.as_bytes().to_vec();
            let hash = Digest::of(&line);
            line.extend_from_slice(format!(",\"hash\":\"{}\"}}", hash.hex()).as_bytes());
            assert!(matches!(decode(&line), Err(LineError::Unreadable(_))), "{body}");
        }
    }
}
