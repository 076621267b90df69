//! The end of a log, where writing goes on: the last whole record, and what a killed writer left behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::digest::Digest;
use crate::limits::MAX_LINE_BYTES;
use crate::line::{self, Line, LineError};

/// Bytes that are read first; nearly all lines are shorter.
const FIRST_READ: usize = 64 << 10;

/// The end of a log.
pub(crate) struct Tail {
    /// The last whole record; none in an empty file.
    pub last: Option<Line>,
    /// The last whole record lacks its newline.
    pub unended: bool,
    /// Bytes up to the end of the last whole record.
    pub whole_bytes: u64,
    /// What stands behind it.
    pub torn: Vec<u8>,
}

impl Tail {
    /// Reads it from the end of a file. The inner error is a last line that is ended and no record.
    pub fn read(file: &File) -> io::Result<Result<Self, LineError>> {
        let size = file.metadata()?.len();
        let mut window = FIRST_READ;
        loop {
            let start = size.saturating_sub(window as u64);
            let mut bytes = vec![0; (size - start) as usize];
            file.read_exact_at(&mut bytes, start)?;
            if let Some(tail) = Self::within(&bytes, start) {
                return Ok(tail);
            }
            if window > 2 * MAX_LINE_BYTES {
                return Ok(Err(LineError::TooLong));
            }
            window *= 4;
        }
    }

    /// The tail, if these last bytes of a file, from `start` on, have it whole.
    fn within(bytes: &[u8], start: u64) -> Option<Result<Self, LineError>> {
        let newline = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
        let Some(end) = newline(bytes) else {
            return (start == 0).then(|| Ok(Self::behind(None, 0, bytes)));
        };
        let begin = match newline(&bytes[..end]) {
            Some(before) => before + 1,
            None if start == 0 => 0,
            None => return None,
        };
        let last = line::decode(&bytes[begin..end]);
        Some(last.map(|last| Self::behind(Some(last), start + end as u64 + 1, &bytes[end + 1..])))
    }

    /// Looks at what stands behind the last line that has ended: killed between its last byte and its newline,
    /// a record is whole.
    fn behind(last: Option<Line>, whole_bytes: u64, rest: &[u8]) -> Self {
        let (number, hash) = last.as_ref().map_or((0, Digest::ZERO), |last| (last.number, last.hash));
        match line::decode(rest) {
            Ok(line) if number.checked_add(1) == Some(line.number) && line.previous == hash => {
                let whole_bytes = whole_bytes + rest.len() as u64;
                Self { last: Some(line), unended: true, whole_bytes, torn: Vec::new() }
            }
            _ => Self { last, unended: false, whole_bytes, torn: rest.to_vec() },
        }
    }
}
