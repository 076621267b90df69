//! Lines of a file, of bounded length.

use std::io::{self, BufRead, Read};

use crate::limits::MAX_LINE_BYTES;

/// Reads line after line.
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Number of the line that was read last, from 1.
    pub number: u64,
}

/// A line.
pub(crate) struct RawLine<'a> {
    /// Without its newline, and cut if it is too long.
    pub bytes: &'a [u8],
    /// Whether it ended in a newline.
    pub ended: bool,
    /// Whether it was longer than a line may be.
    pub too_long: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0 }
    }

    /// The next line; none at the end.
    pub fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        self.buffer.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let mut ended = self.buffer.last() == Some(&b'\n');
        if ended {
            self.buffer.pop();
        }
        let too_long = self.buffer.len() > MAX_LINE_BYTES;
        if too_long {
            ended = self.skip()?;
        }
        Ok(Some(RawLine { bytes: &self.buffer, ended, too_long }))
    }

    /// Reads on behind the next newline; false at the end of the file.
    fn skip(&mut self) -> io::Result<bool> {
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Ok(false);
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let used = newline.map_or(available.len(), |at| at + 1);
            self.reader.consume(used);
            if newline.is_some() {
                return Ok(true);
            }
        }
    }
}
