//! Writing a log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::content::Content;
use crate::digest::{Digest, Salt};
use crate::error::{AuditError, Result};
use crate::head::{Head, head_path};
use crate::keys::{SigningKey, statement};
use crate::line::{self, Line};
use crate::lines::Lines;
use crate::private::keep_private;
use crate::record::{Checkpoint, FORM, Keep, LogId, Open, Record, Recovered, Sealed};
use crate::tail::Tail;
use crate::text::{MAX_CONTENT_BYTES, TextFile, text_path};

/// How a log is written.
#[derive(Clone, Default)]
pub struct LogOptions {
    /// Name and version of the program.
    pub program: String,
    /// What is kept of contents.
    pub keep: Keep,
    /// Signs checkpoints.
    pub key: Option<SigningKey>,
}

/// A log, open for writing. One process at a time writes to it.
///
/// A record is handed to the system in one write before [`Log::append`] returns, so it survives the death of
/// the process; [`Log::checkpoint`] waits for the disk, so what is before it survives that of the machine.
pub struct Log {
    file: File,
    path: PathBuf,
    text: Option<TextFile>,
    keep: Keep,
    key: Option<SigningKey>,
    id: LogId,
    /// Number and hash of the last record.
    number: u64,
    hash: Digest,
    /// Bytes of whole records.
    bytes: u64,
    /// Others than its owner may not read it.
    private: bool,
    failed: bool,
}

impl Log {
    /// Opens or makes a log and goes on behind its last whole record.
    ///
    /// What a killed writer left torn is taken out, and the log says so. Errors: the file is no log, its end is
    /// damaged in another way, its head says that records are missing, another process writes to it.
    pub fn open(path: &Path, options: LogOptions) -> Result<Self> {
        let failed = |cause| AuditError::File { path: path.to_owned(), doing: "opening the log", cause };
        // Before it is opened: opening a pipe waits for whoever reads it.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(AuditError::NotAFile { path: path.to_owned() });
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AuditError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        let damaged = |what: String| AuditError::Damaged { path: path.to_owned(), what };
        let tail = Tail::read(&file).map_err(failed)?.map_err(|error| damaged(error.to_string()))?;
        // What is torn is taken out, so it must be what a killed writer can have left.
        if tail.last.is_none() && !line::begins_log(&tail.torn) {
            return Err(AuditError::NotALog { path: path.to_owned() });
        }
        let id = match &tail.last {
            Some(_) => first_id(path)?,
            None => LogId::random()?,
        };
        check_head(path, tail.last.as_ref(), id)?;
        let text = (options.keep == Keep::Text).then(|| TextFile::open(text_path(path))).transpose()?;
        let (number, hash) = tail.last.as_ref().map_or((0, Digest::ZERO), |last| (last.number, last.hash));
        let mut log = Self {
            file,
            path: path.to_owned(),
            text,
            keep: options.keep,
            key: options.key,
            id,
            number,
            hash,
            bytes: tail.whole_bytes,
            private: false,
            failed: false,
        };
        log.private = keep_private(&log.file);
        let recovered = log.recover(&tail)?;
        let (program, keep) = (options.program, options.keep);
        log.append(&Record::Open(Open { form: FORM.to_owned(), log: id, program, keep, recovered }))?;
        Ok(log)
    }

    /// Takes what is torn out of the file.
    fn recover(&mut self, tail: &Tail) -> Result<Option<Recovered>> {
        if tail.unended {
            self.put(b"\n")?;
            return Ok(Some(Recovered { bytes: 0, digest: Digest::of(b"") }));
        }
        if tail.torn.is_empty() {
            return Ok(None);
        }
        let cut = self.file.set_len(tail.whole_bytes);
        cut.map_err(|cause| self.error("taking a torn line out", cause))?;
        Ok(Some(Recovered { bytes: tail.torn.len() as u64, digest: Digest::of(&tail.torn) }))
    }

    /// What is kept of contents.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Those of its files that others than their owner may read, since the system did not let that be taken from them.
    pub fn exposed(&self) -> Vec<&Path> {
        let own = (!self.private).then_some(&*self.path);
        own.into_iter().chain(self.text.iter().filter(|text| !text.private).map(TextFile::path)).collect()
    }

    /// Number and hash of the last record.
    pub fn head(&self) -> Head {
        let mut head =
            Head { log: Some(self.id), number: self.number, hash: self.hash, key: None, signature: None };
        if let Some(key) = &self.key {
            head.key = Some(key.public().hex());
            head.signature = Some(key.sign(&statement(self.id, self.number, self.hash)));
        }
        head
    }

    /// Digests a content, and puts it into the text file if there is one.
    pub fn seal(&mut self, content: &Content) -> Result<Sealed> {
        let json = serde_json::to_vec(content).map_err(|_| AuditError::TooLarge { bytes: usize::MAX })?;
        let salt = Salt::random()?;
        let digest = Digest::salted(salt, &json);
        let Some(text) = &mut self.text else { return Ok(Sealed { digest, salt: Some(salt) }) };
        if json.len() > MAX_CONTENT_BYTES {
            return Err(AuditError::TooLarge { bytes: json.len() });
        }
        line::check_levels(&json)?;
        text.add(digest, salt, &json)?;
        Ok(Sealed { digest, salt: None })
    }

    /// Adds a record and gives its number.
    pub fn append(&mut self, record: &Record) -> Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        let number = self.number.checked_add(1).ok_or_else(|| {
            let what = "its number is the last that there is".to_owned();
            AuditError::Damaged { path: self.path.clone(), what }
        })?;
        let (line, hash) = line::encode(number, self.hash, now, record)?;
        self.put(&line)?;
        (self.number, self.hash) = (number, hash);
        Ok(self.number)
    }

    /// Signs what is there, if there is a key, waits until it is on the disk, and renews the head.
    pub fn checkpoint(&mut self) -> Result<()> {
        if let Some(key) = &self.key {
            let signature = key.sign(&statement(self.id, self.number, self.hash));
            let key = key.public().hex();
            self.append(&Record::Checkpoint(Checkpoint { key, signature }))?;
        }
        if let Some(text) = &self.text {
            text.sync()?;
        }
        self.file.sync_data().map_err(|cause| self.error("writing the log", cause))?;
        self.head().write(&head_path(&self.path))
    }

    /// Ends the log in order and gives its head.
    pub fn close(&mut self) -> Result<Head> {
        self.append(&Record::Close)?;
        self.checkpoint()?;
        Ok(self.head())
    }

    /// One write. After a failed one the file is cut back to whole records, and nothing more is written.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(AuditError::Failed { path: self.path.clone() });
        }
        if let Err(cause) = self.file.write_all(bytes) {
            self.failed = true;
            // If this fails too, a torn line stays, which the next opening takes out.
            self.file.set_len(self.bytes).unwrap_or_default();
            return Err(self.error("writing a record", cause));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn error(&self, doing: &'static str, cause: std::io::Error) -> AuditError {
        AuditError::File { path: self.path.clone(), doing, cause }
    }
}

/// Compares the end of a log of this name with the head beside it.
fn check_head(path: &Path, last: Option<&Line>, id: LogId) -> Result<()> {
    let head_path = head_path(path);
    let Some(head) = Head::read(&head_path)? else { return Ok(()) };
    let number = last.map_or(0, |last| last.number);
    let path = path.to_owned();
    if last.is_some() && head.log.is_some_and(|log| log != id) {
        return Err(AuditError::OtherHead { path, head_path, number: head.number });
    }
    if head.number > number {
        return Err(AuditError::BehindHead { path, head_path, last: number, head: head.number });
    }
    if last.is_some_and(|last| last.number == head.number && last.hash != head.hash) {
        return Err(AuditError::OtherHead { path, head_path, number });
    }
    Ok(())
}

/// The name of a log that exists, from its first line.
fn first_id(path: &Path) -> Result<LogId> {
    let failed = |cause| AuditError::File { path: path.to_owned(), doing: "reading the log", cause };
    let mut lines = Lines::new(std::io::BufReader::new(File::open(path).map_err(failed)?));
    let first = lines.next().map_err(failed)?.map(|line| line::decode(line.bytes));
    let what = match first {
        Some(Ok(Line { record: Record::Open(open), number: 1, .. })) if open.form == FORM => {
            return Ok(open.log);
        }
        Some(Err(error)) => error.to_string(),
        _ => "the first line does not begin a log of this form".to_owned(),
    };
    Err(AuditError::Line { path: path.to_owned(), line: 1, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_write_nothing_more_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path, LogOptions::default()).unwrap();
        log.append(&Record::Close).unwrap();
        let before = std::fs::read(&path).unwrap();
        // A file that can't be written stands in for a full disk.
        let own = std::mem::replace(&mut log.file, File::open(&path).unwrap());
        assert!(matches!(log.append(&Record::Close), Err(AuditError::File { .. })));
        log.file = own;
        assert!(matches!(log.append(&Record::Close), Err(AuditError::Failed { .. })));
        assert!(matches!(log.close(), Err(AuditError::Failed { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        drop(log);
        assert_eq!(Log::open(&path, LogOptions::default()).unwrap().head().number, 3);
    }
}
