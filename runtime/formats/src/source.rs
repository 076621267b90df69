//! The files that a checkpoint is read from.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::FormatError;

/// An open model file. It stays the same file if its path is replaced meanwhile.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Open for reading; read by position only, so that threads can share it.
    pub file: Arc<File>,
    /// Length at the time of opening, bytes.
    pub bytes: u64,
}

impl SourceFile {
    /// Opens a regular file, through symbolic links; refuses anything else without waiting for it.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ELOOP) => FormatError::SymlinkLoop { path: path.to_owned() },
            _ => FormatError::Open { path: path.to_owned(), source },
        };
        // Looked at before opening, since to open a device can have effects of its own.
        require_regular(path, &std::fs::metadata(path).map_err(failed)?)?;
        // And again after it, in case it was replaced: without O_NONBLOCK a pipe would block the open for
        // ever.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        require_regular(path, &metadata)?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), bytes: metadata.len() })
    }

    /// Fills `buf` from `offset`; `what` is named if the file turns out to end before.
    pub(crate) fn read(
        &self,
        offset: u64,
        buf: &mut [u8],
        what: impl FnOnce() -> String,
    ) -> Result<(), FormatError> {
        self.file.read_exact_at(buf, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::Truncated {
                path: self.path.clone(),
                offset,
                what: what(),
                wanted: buf.len() as u64,
                left: self.file.metadata().map_or(0, |m| m.len().saturating_sub(offset)),
            },
            _ => FormatError::Read { path: self.path.clone(), offset, bytes: buf.len() as u64, source },
        })
    }
}

fn require_regular(path: &Path, metadata: &Metadata) -> Result<(), FormatError> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let found = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "something else"
    };
    Err(FormatError::NotAFile { path: path.to_owned(), found })
}
