//! The text file beside a log: contents whose digests the log has. It may be erased, wholly or line by line; the log
//! stays verifiable.
//!
//! Each line stands alone: digest, salt, and content as JSON. The salt is nowhere else, so that once a line is
//! erased, nobody can find its content from the log by trying likely ones.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::content::Content;
use crate::digest::{Digest, Salt};
use crate::error::{AuditError, Result};
use crate::head::suffixed;
use crate::limits::MAX_LINE_BYTES;
use crate::lines::Lines;
use crate::private::keep_private;

const DIGEST: &[u8] = b"{\"digest\":\"sha256:";
const SALT: &[u8] = b"\",\"salt\":\"";
const CONTENT: &[u8] = b"\",\"content\":";
const END: &[u8] = b"}";

/// The text file beside a log: its path with `.text` behind it.
pub fn text_path(log: &Path) -> PathBuf {
    suffixed(log, ".text")
}

/// The text file, open for writing.
pub(crate) struct TextFile {
    file: File,
    path: PathBuf,
    /// Others than its owner may not read it.
    pub private: bool,
    failed: bool,
}

impl TextFile {
    /// Opens or makes it. A line that a killed writer left torn is ended, so that the next one stands alone.
    pub fn open(path: PathBuf) -> Result<Self> {
        let failed = |cause| AuditError::File { path: path.clone(), doing: "opening the text file", cause };
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(AuditError::NotAFile { path });
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut last = *b"\n";
        if size > 0 {
            file.read_exact_at(&mut last, size - 1).map_err(failed)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n").map_err(failed)?;
        }
        let private = keep_private(&file);
        Ok(Self { file, path, private, failed: false })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it anew if the file is no longer the one of its path: texts may be erased while others are written.
    fn follow(&mut self) -> Result<()> {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(identity).ok();
        let there = std::fs::metadata(&self.path).map(identity).ok();
        if own.is_none() || own != there {
            *self = Self::open(self.path.clone())?;
        }
        Ok(())
    }

    /// Adds a content. After a failed write the last line is torn, and nothing more is written.
    pub fn add(&mut self, digest: Digest, salt: Salt, content: &[u8]) -> Result<()> {
        if self.failed {
            return Err(AuditError::Failed { path: self.path.clone() });
        }
        self.follow()?;
        let mut line = Vec::with_capacity(content.len() + 160);
        let (hex, salt) = (digest.hex(), salt.hex());
        for part in [DIGEST, hex.as_bytes(), SALT, salt.as_bytes(), CONTENT, content, END, b"\n"] {
            line.extend_from_slice(part);
        }
        let written = self.file.write_all(&line);
        self.failed = written.is_err();
        written.map_err(|cause| AuditError::File { path: self.path.clone(), doing: "writing a text", cause })
    }

    pub fn sync(&self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(|cause| AuditError::File { path: self.path.clone(), doing: "writing texts", cause })
    }
}

/// A line of a text file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadText {
    /// Line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

/// The contents of a text file, checked against their digests.
#[derive(Debug, Default)]
pub struct Texts {
    contents: HashMap<Digest, Content>,
    /// Lines whose contents are not those of their digests.
    pub bad: Vec<BadText>,
    /// Lines that are no contents at all, such as those that a killed writer left torn.
    pub unreadable: u64,
}

impl Texts {
    /// Reads the file beside a log. None if there is none: nothing was kept, or it was erased.
    pub fn beside(log: &Path) -> Result<Option<Self>> {
        let path = text_path(log);
        let failed = |cause| AuditError::File { path: path.clone(), doing: "reading the text file", cause };
        match std::fs::metadata(&path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed(cause)),
            Ok(metadata) if !metadata.is_file() => return Err(AuditError::NotAFile { path }),
            Ok(_) => {}
        }
        let mut lines = Lines::new(BufReader::new(File::open(&path).map_err(failed)?));
        let mut texts = Self::default();
        while let Some(line) = lines.next().map_err(failed)? {
            if line.bytes.is_empty() {
                continue;
            }
            let read = if line.too_long { None } else { read(line.bytes) };
            match read {
                Some(Ok((digest, content))) => {
                    texts.contents.insert(digest, content);
                }
                Some(Err(what)) => {
                    let what = what.to_owned();
                    texts.bad.push(BadText { line: lines.number, what });
                }
                None => texts.unreadable += 1,
            }
        }
        Ok(Some(texts))
    }

    /// The content of a digest, if it is there.
    pub fn get(&self, digest: &Digest) -> Option<&Content> {
        self.contents.get(digest)
    }

    /// How many contents are there.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }
}

/// The digest and the content of a line; none if it has not the form of one. The error is a content that is not the
/// one of its digest.
fn read(line: &[u8]) -> Option<Result<(Digest, Content), &'static str>> {
    let (digest, rest) = hex(line.strip_prefix(DIGEST)?, 64)?;
    let (salt, rest) = hex(rest.strip_prefix(SALT)?, 32)?;
    let json = rest.strip_prefix(CONTENT)?.strip_suffix(END)?;
    let (digest, salt) = (Digest::from_hex(digest)?, Salt::from_hex(salt)?);
    let content = serde_json::from_slice(json).ok()?;
    let same = Digest::salted(salt, json) == digest;
    Some(if same { Ok((digest, content)) } else { Err("a text is not the one of its digest") })
}

fn hex(bytes: &[u8], digits: usize) -> Option<(&str, &[u8])> {
    let (hex, rest) = bytes.split_at_checked(digits)?;
    Some((std::str::from_utf8(hex).ok()?, rest))
}

/// Most bytes of a content's JSON: with its frame it must fit a line.
pub(crate) const MAX_CONTENT_BYTES: usize = MAX_LINE_BYTES - 256;
