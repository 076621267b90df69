//! The head of a log: number and hash of a record that someone trusts it to have.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{AuditError, Result};
use crate::limits::MAX_HEAD_BYTES;
use crate::record::LogId;

/// Number and hash of a record. On a command line `NUMBER:HASH`, as `membrane run --audit` shows it.
///
/// The writer keeps one in a file beside the log. Beside it, a head shows accidents: a log that was cut short
/// or restored from an older copy. Kept where whoever changes the log can't write, it shows intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The log; none if it was given as `NUMBER:HASH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogId>,
    /// Number of a record.
    pub number: u64,
    /// Hash of its line.
    pub hash: Digest,
    /// Public key, 64 hexadecimal digits, if it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Signature, 128 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// The head file beside a log: its path with `.head` behind it.
pub fn head_path(log: &Path) -> PathBuf {
    suffixed(log, ".head")
}

pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Head {
    /// Reads a head file. None if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let failed = |cause| AuditError::File { path: path.to_owned(), doing: "reading the head", cause };
        match fs::metadata(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed(cause)),
            Ok(metadata) if !metadata.is_file() => {
                return Err(AuditError::NotAFile { path: path.to_owned() });
            }
            Ok(_) => {}
        }
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_HEAD_BYTES).read_to_end(&mut bytes));
        read.map_err(failed)?;
        let refused = |why: &str| AuditError::Head {
            origin: path.display().to_string(),
            message: format!(
                "is no head of a log ({why}). If it stands beside a log, as a loss of power may leave it, move it aside: \
                 the log is then taken without, and its next writer makes a new one"
            ),
        };
        let head: Self = serde_json::from_slice(&bytes).map_err(|error| refused(&error.to_string()))?;
        // It would be compared with nothing.
        if head.number == 0 { Err(refused("records are counted from 1")) } else { Ok(Some(head)) }
    }

    /// Puts it in the place of an earlier one, so that at any time one of the two is there.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let failed = |cause| AuditError::File { path: path.to_owned(), doing: "writing the head", cause };
        let new = suffixed(path, ".new");
        let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        // What a killed writer left there, or somebody else put there, is neither written to nor followed.
        match fs::remove_file(&new) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let written = file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_data()
        });
        written.and_then(|()| fs::rename(&new, path)).map_err(failed)
    }
}

impl FromStr for Head {
    type Err = AuditError;

    /// Reads `NUMBER:HASH`.
    fn from_str(text: &str) -> Result<Self> {
        let malformed = || AuditError::Head {
            origin: "head".into(),
            message: "write NUMBER:HASH, HASH of 64 hexadecimal digits, or give the head file".into(),
        };
        let (number, hash) = text.split_once(':').ok_or_else(malformed)?;
        // Records are counted from 1: a head of none would be compared with nothing.
        let number = number.parse::<u64>().ok().filter(|number| *number > 0).ok_or_else(malformed)?;
        let hash = hash.parse().map_err(|_| malformed())?;
        Ok(Self { log: None, number, hash, key: None, signature: None })
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.number, self.hash.hex())
    }
}
