//! A position in a header that can't leave it.

use std::fmt::Display;
use std::ops::Range;

use crate::error::FormatError;
use crate::limits;
use crate::source::SourceFile;

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of an array converted at once; a multiple of every element's size.
const CHUNK_BYTES: usize = 4 << 10;

/// Reads a header from its beginning, through a buffer.
///
/// Every read first holds its length against what is left of the file and of the header limit, by
/// subtraction, so that no length can wrap the position; `what` names the thing being read in the error.
pub(super) struct Cursor<'a> {
    source: &'a SourceFile,
    /// Bytes of the file at `base`; read up to `next`.
    buffer: Vec<u8>,
    /// Offset of the buffer in the file.
    base: u64,
    next: usize,
    /// Where the header limit ends it, from the beginning of the file.
    header_limit: u64,
}

impl<'a> Cursor<'a> {
    /// A cursor at the beginning of `source` that reads at most `header_limit` bytes.
    pub fn new(source: &'a SourceFile, header_limit: u64) -> Self {
        Self { source, buffer: Vec::new(), base: 0, next: 0, header_limit }
    }

    /// Bytes from the beginning of the file.
    pub fn position(&self) -> u64 {
        self.base + self.next as u64
    }

    /// Goes back to `position`, which has been read before.
    pub fn rewind(&mut self, position: u64) {
        self.base = position;
        self.next = 0;
        self.buffer.clear();
    }

    /// Refuses `bytes` more than the file or the header limit has left.
    pub fn need(&self, bytes: u64, what: &dyn Display) -> Result<(), FormatError> {
        let offset = self.position();
        let left = self.source.bytes.saturating_sub(offset);
        if bytes > left {
            let path = self.source.path.clone();
            return Err(FormatError::Truncated { path, offset, what: what.to_string(), wanted: bytes, left });
        }
        if bytes > self.header_limit.saturating_sub(offset) {
            return Err(FormatError::Limit {
                path: self.source.path.clone(),
                offset,
                what: format!("the header's size with {what}"),
                found: offset.saturating_add(bytes),
                limit: limits::HEADER_BYTES,
            });
        }
        Ok(())
    }

    /// Refuses `count` elements of at least `each` bytes that can't be there.
    pub fn need_elements(&self, count: u64, each: u64, what: &dyn Display) -> Result<(), FormatError> {
        self.need(count.saturating_mul(each), what)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &dyn Display) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        match self.buffered(N as u64) {
            Some(ready) => bytes.copy_from_slice(&self.buffer[ready]),
            None => self.fill(&mut bytes, what)?,
        }
        Ok(bytes)
    }

    /// The next u32.
    pub fn u32(&mut self, what: &dyn Display) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next u64.
    pub fn u64(&mut self, what: &dyn Display) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Appends the next `count` bytes to `to`.
    pub fn append(&mut self, count: u64, to: &mut Vec<u8>, what: &dyn Display) -> Result<(), FormatError> {
        if let Some(ready) = self.buffered(count) {
            to.extend_from_slice(&self.buffer[ready]);
            return Ok(());
        }
        self.need(count, what)?;
        let start = to.len();
        to.resize(start + count as usize, 0);
        self.fill(&mut to[start..], what)
    }

    /// Gives the next `count` elements of `each` bytes to `take`, some at a time.
    pub fn elements(
        &mut self,
        count: u64,
        each: usize,
        what: &dyn Display,
        mut take: impl FnMut(&[u8]) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let mut chunk = [0; CHUNK_BYTES];
        let at_once = (CHUNK_BYTES / each) as u64;
        let mut left = count;
        while left > 0 {
            let now = left.min(at_once);
            let bytes = &mut chunk[..now as usize * each];
            self.fill(bytes, what)?;
            take(bytes)?;
            left -= now;
        }
        Ok(())
    }

    /// Passes over `count` bytes.
    pub fn skip(&mut self, count: u64, what: &dyn Display) -> Result<(), FormatError> {
        if self.buffered(count).is_none() {
            self.need(count, what)?;
            self.rewind(self.position() + count);
        }
        Ok(())
    }

    /// The next `count` bytes as text.
    pub fn text(&mut self, count: u64, what: &dyn Display) -> Result<String, FormatError> {
        let offset = self.position();
        let mut bytes = Vec::new();
        self.append(count, &mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| self.not_utf8(offset, what))
    }

    /// The error for text at `offset` that is not UTF-8.
    pub fn not_utf8(&self, offset: u64, what: &dyn Display) -> FormatError {
        FormatError::Utf8 { path: self.source.path.clone(), offset, what: what.to_string() }
    }

    /// Takes the next `count` bytes if the buffer has them all; gives their place in it.
    fn buffered(&mut self, count: u64) -> Option<Range<usize>> {
        let count = usize::try_from(count).ok().filter(|&count| count <= self.buffer.len() - self.next)?;
        let start = self.next;
        self.next += count;
        Some(start..self.next)
    }

    fn fill(&mut self, mut to: &mut [u8], what: &dyn Display) -> Result<(), FormatError> {
        self.need(to.len() as u64, what)?;
        while !to.is_empty() {
            if self.next == self.buffer.len() {
                self.refill(what)?;
            }
            let ready = &self.buffer[self.next..];
            let count = ready.len().min(to.len());
            to[..count].copy_from_slice(&ready[..count]);
            self.next += count;
            to = &mut to[count..];
        }
        Ok(())
    }

    /// Reads the next bytes of the file; only called where some are left.
    fn refill(&mut self, what: &dyn Display) -> Result<(), FormatError> {
        self.base = self.position();
        self.next = 0;
        let left = self.source.bytes.min(self.header_limit).saturating_sub(self.base);
        self.buffer.resize(BUFFER_BYTES.min(usize::try_from(left).unwrap_or(BUFFER_BYTES)), 0);
        let read = self.source.read(self.base, &mut self.buffer, || what.to_string());
        if read.is_err() {
            self.buffer.clear();
        }
        read
    }
}
