//! Writing model files: a header, then the bytes of each tensor, in order, as they are made.

mod resumable;
mod unfinished;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::shape::Shape;
use crate::tensor::{TensorInfo, Values};
pub use resumable::Step;
pub use unfinished::Unfinished;

/// Bytes collected before they are handed to the system.
const BUFFER_BYTES: usize = 1 << 20;

/// A file whose every byte has its place before the first tensor is made.
pub(crate) struct Planned<'a> {
    /// Where it is to be.
    pub path: &'a Path,
    pub header: Vec<u8>,
    /// By ascending offset, none before the end of the header.
    pub tensors: &'a [TensorInfo],
    /// Bytes of the file.
    pub bytes: u64,
}

impl Planned<'_> {
    /// Writes all of it to `sink`, and gives that back, flushed.
    pub fn write_to<W: Write, E: From<FormatError>>(
        &self,
        mut sink: W,
        mut fill: impl FnMut(&TensorInfo, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<W, E> {
        put(&mut sink, self.path, &self.header)?;
        let mut position = self.header.len() as u64;
        for tensor in self.tensors {
            pad(&mut sink, self.path, tensor.offset - position)?;
            let mut tensor_sink = TensorSink { sink: &mut sink, path: self.path, tensor, given: 0 };
            fill(tensor, &mut tensor_sink)?;
            tensor_sink.complete()?;
            position = tensor.offset + tensor.bytes;
        }
        pad(&mut sink, self.path, self.bytes - position)?;
        sink.flush().map_err(|source| FormatError::Write { path: self.path.to_owned(), source })?;
        Ok(sink)
    }

    /// Writes the file. The bytes go to `PATH.part`, which takes the place of `PATH` when it is complete and on the disk, and is
    /// removed if anything fails: a half-written model never has a model's name.
    pub fn write<E: From<FormatError>>(
        &self,
        fill: impl FnMut(&TensorInfo, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let part = Part { path: with_ending(self.path, ".part"), complete: false };
        // A leftover is removed and not opened, so that a link planted under its name leads nowhere.
        let _ = fs::remove_file(&part.path);
        let file = File::create_new(&part.path)
            .map_err(|source| FormatError::Open { path: part.path.clone(), source })?;
        let buffered = self.write_to(BufWriter::with_capacity(BUFFER_BYTES, file), fill)?;
        Ok(part.publish(buffered, self.path)?)
    }
}

/// A tensor of a file that is to be written at `path`, which has no place yet. Error: an impossible shape.
pub(crate) fn announced(
    path: &Path,
    name: &str,
    dtype: DType,
    dims: &[u64],
) -> Result<TensorInfo, FormatError> {
    let refused = |source| FormatError::TensorShape { path: path.to_owned(), tensor: quoted(name), source };
    let shape = Shape::new(dims).map_err(refused)?;
    let bytes = dtype.tensor_bytes(&shape).map_err(refused)?;
    let (name, values) = (name.to_owned(), Values::AsStored);
    Ok(TensorInfo { name, dtype, shape, file: 0, offset: 0, bytes, values })
}

/// Takes the bytes of one tensor.
pub struct TensorSink<'a> {
    sink: &'a mut dyn Write,
    path: &'a Path,
    tensor: &'a TensorInfo,
    given: u64,
}

impl TensorSink<'_> {
    /// Appends `bytes`; refuses more than the tensor was declared with.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let given = self.given.saturating_add(bytes.len() as u64);
        if given > self.tensor.bytes {
            return Err(self.wrong_length(given));
        }
        put(self.sink, self.path, bytes)?;
        self.given = given;
        Ok(())
    }

    fn complete(&self) -> Result<(), FormatError> {
        if self.given == self.tensor.bytes { Ok(()) } else { Err(self.wrong_length(self.given)) }
    }

    fn wrong_length(&self, given: u64) -> FormatError {
        FormatError::WriteLength {
            path: self.path.to_owned(),
            tensor: quoted(&self.tensor.name),
            declared: self.tensor.bytes,
            given,
        }
    }
}

/// A file that is removed again unless it is completed.
struct Part {
    path: PathBuf,
    complete: bool,
}

impl Part {
    /// Waits until `written` is on the disk and gives it the name `path`.
    fn publish(mut self, written: BufWriter<File>, path: &Path) -> Result<(), FormatError> {
        let failed = |source| FormatError::Write { path: path.to_owned(), source };
        written.get_ref().sync_all().map_err(failed)?;
        fs::rename(&self.path, path).map_err(failed)?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.complete {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The path with more behind its name.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

fn put(sink: &mut dyn Write, path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    sink.write_all(bytes).map_err(|source| FormatError::Write { path: path.to_owned(), source })
}

fn pad(sink: &mut dyn Write, path: &Path, count: u64) -> Result<(), FormatError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut left = count;
    while left > 0 {
        let now = left.min(ZEROS.len() as u64);
        put(sink, path, &ZEROS[..now as usize])?;
        left -= now;
    }
    Ok(())
}
