//! What can go wrong with a log. Each error names the file, the place in it, and what to do.

use std::path::PathBuf;

use crate::keys::KeyError;
use crate::limits::{MAX_LEVELS, MAX_LINE_BYTES};

/// Shorthand of this crate.
pub type Result<T, E = AuditError> = std::result::Result<T, E>;

/// A log that can't be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file can't be read or written.
    #[error("{}: {doing}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The path is a folder, a pipe or a device.
    #[error("{}: is no regular file; give the path of a log", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is there and is something else than a log.
    #[error("{}: is no audit log: it does not begin with a record. Nothing was changed; give another path", path.display())]
    NotALog {
        /// The path.
        path: PathBuf,
    },
    /// Another process writes to the log.
    #[error("{}: another process writes to this log; give each its own", path.display())]
    Locked {
        /// The log.
        path: PathBuf,
    },
    /// The log ends in something that is no record, and not because a write was cut short.
    #[error(
        "{}: its last line is not a record ({what}); nothing was appended. `membrane audit verify` says what is \
         wrong with it; move it aside to begin a new one",
        path.display()
    )]
    Damaged {
        /// The log.
        path: PathBuf,
        /// What is wrong with the line.
        what: String,
    },
    /// The log has less than its head says.
    #[error(
        "{}: ends at record {last}, and its head {} is of record {head}: records are missing at the end. \
         Nothing was appended; restore the log, or move both files aside to begin a new one",
        path.display(), head_path.display()
    )]
    BehindHead {
        /// The log.
        path: PathBuf,
        /// Its head file.
        head_path: PathBuf,
        /// Number of the last record; 0 if there is none.
        last: u64,
        /// Number in the head.
        head: u64,
    },
    /// The log's last record is not the one of its head.
    #[error(
        "{}: its record {number} is not the one of its head {}; nothing was appended. One of the two files was \
         exchanged",
        path.display(), head_path.display()
    )]
    OtherHead {
        /// The log.
        path: PathBuf,
        /// Its head file.
        head_path: PathBuf,
        /// Number of the record.
        number: u64,
    },
    /// A head that can't be read.
    #[error("{origin}: {message}")]
    Head {
        /// The file or the argument.
        origin: String,
        /// What is wrong and how it is written.
        message: String,
    },
    /// A record is larger than a line may be.
    #[error("a record of {bytes} bytes is larger than a line of a log may be ({MAX_LINE_BYTES} bytes)")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A record or a content is nested too deeply.
    #[error(
        "what is to be recorded has more than {MAX_LEVELS} lists and objects within each other; the log could not be \
         read again"
    )]
    TooDeep,
    /// An earlier write failed; what was written since would not be whole.
    #[error("{}: an earlier write to this log failed; nothing more is written", path.display())]
    Failed {
        /// The log.
        path: PathBuf,
    },
    /// A line of a log or of its text file that can't be used.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// There is no such answer in the log.
    #[error("{}: has no answer {number}; it has {known}", path.display())]
    NoAnswer {
        /// The log.
        path: PathBuf,
        /// Number that was asked for.
        number: u64,
        /// The answers that there are.
        known: String,
    },
    /// The system has no randomness.
    #[error("no random bytes from the system: {0}")]
    Random(String),
    /// A key that can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}
