//! Writes GGUF version 3.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{MAGIC, header, kind};
use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::metadata::Metadata;
use crate::tensor::TensorInfo;
use crate::value::{Array, Value};
use crate::writing::{Planned, Step, TensorSink, Unfinished, announced};

const VERSION: u32 = 3;

/// Writes a GGUF file: first all that the header says, then the bytes of each tensor, in order, as they are
/// made.
///
/// Memory stays at the header's size however large the tensors are. What it writes, [`crate::Checkpoint`]
/// reads: the same limits hold.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl GgufWriter {
    /// A file to be written at `path` with `metadata`; `general.alignment` in it is obeyed.
    pub fn new(path: &Path, metadata: Metadata) -> Self {
        Self { path: path.to_owned(), metadata, tensors: Vec::new() }
    }

    /// Announces a tensor; `dims` with the contiguous one first.
    pub fn declare(&mut self, name: &str, dtype: DType, dims: &[u64]) -> Result<(), FormatError> {
        if name.is_empty() || name.len() as u64 > limits::TENSOR_NAME_BYTES {
            return Err(FormatError::Tensor {
                path: self.path.clone(),
                tensor: quoted(name),
                rule: format!("its name has {} bytes, not 1 to {}", name.len(), limits::TENSOR_NAME_BYTES),
            });
        }
        self.tensors.push(announced(&self.path, name, dtype, dims)?);
        Ok(())
    }

    /// The tensors announced so far; their offsets are set only in those that `fill` sees.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes the file. `fill` is called for each tensor in the order of [`GgufWriter::declare`] and must
    /// give exactly [`TensorInfo::bytes`] bytes.
    ///
    /// The bytes go to `PATH.part`, which takes the place of `PATH` when it is complete and on the disk, and
    /// is removed if anything fails: a half-written model never has a model's name.
    pub fn write<E: From<FormatError>>(
        mut self,
        fill: impl FnMut(&TensorInfo, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.planned()?.write(fill)
    }

    /// Writes a file that takes long, at its path, which is within `unfinished`: what is written when it is interrupted stays, and the same
    /// call goes on behind it. At the end the file is read back and compared with what was written.
    ///
    /// `fill` is called for each tensor of which something is missing, in order, and gives its bytes from the one on that it is told.
    /// `progress` is told the step, and the bytes of the file that it has come to.
    pub fn write_resumably<E: From<FormatError>>(
        mut self,
        unfinished: &mut Unfinished,
        progress: &mut dyn FnMut(Step, u64),
        fill: impl FnMut(&TensorInfo, u64, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.planned()?.write_resumably(unfinished, progress, fill)
    }

    /// Writes the same bytes to `sink` and gives it back, flushed. The path is only named in errors.
    pub fn write_to<W: Write, E: From<FormatError>>(
        mut self,
        sink: W,
        fill: impl FnMut(&TensorInfo, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<W, E> {
        self.planned()?.write_to(sink, fill)
    }

    /// The file with all places in it.
    fn planned(&mut self) -> Result<Planned<'_>, FormatError> {
        let header = self.header()?;
        // Other readers expect the last tensor padded like the rest.
        let alignment = u64::from(header::alignment(&self.path, &self.metadata)?);
        let end = self.tensors.last().map(|last| (last.offset + last.bytes).next_multiple_of(alignment));
        let bytes = end.unwrap_or(header.len() as u64);
        Ok(Planned { path: &self.path, header, tensors: &self.tensors, bytes })
    }

    /// Gives every tensor its offset and makes the header up to the first of them.
    fn header(&mut self) -> Result<Vec<u8>, FormatError> {
        let alignment = u64::from(header::alignment(&self.path, &self.metadata)?);
        self.check()?;
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            string(&mut out, key);
            write_value(&mut out, value);
        }
        let mut relative = 0u64;
        for tensor in &mut self.tensors {
            string(&mut out, &tensor.name);
            out.extend((tensor.shape.dims().len() as u32).to_le_bytes());
            tensor.shape.dims().iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.dtype.id().to_le_bytes());
            out.extend(relative.to_le_bytes());
            tensor.offset = relative;
            relative = relative
                .checked_add(tensor.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .filter(|&end| end <= i64::MAX as u64)
                .ok_or_else(|| FormatError::Tensor {
                    path: self.path.clone(),
                    tensor: quoted(&tensor.name),
                    rule: "the file would be longer than 2^63 - 1 bytes".into(),
                })?;
        }
        self.limit("the header's size", out.len() as u64, limits::HEADER_BYTES)?;
        if !self.tensors.is_empty() {
            out.resize((out.len() as u64).next_multiple_of(alignment) as usize, 0);
        }
        self.tensors.iter_mut().for_each(|tensor| tensor.offset += out.len() as u64);
        Ok(out)
    }

    /// The rules that the reader has for the lists as a whole.
    fn check(&self) -> Result<(), FormatError> {
        self.limit("the number of tensors", self.tensors.len() as u64, limits::TENSORS)?;
        self.limit("the number of metadata entries", self.metadata.len() as u64, limits::METADATA_ENTRIES)?;
        let mut names: Vec<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = quoted(pair[0]);
            return Err(FormatError::Duplicate { path: self.path.clone(), what: "tensor", name });
        }
        for (key, value) in self.metadata.iter() {
            let (elements, longest) = match value {
                Value::Str(text) => (0, text.len()),
                Value::Array(Array::Str(texts)) => {
                    (texts.len(), texts.iter().map(str::len).max().unwrap_or(0))
                }
                Value::Array(array) => (array.len(), 0),
                _ => (0, 0),
            };
            let key = quoted(key);
            self.limit(
                &format!("the length of a string in metadata key {key}"),
                longest as u64,
                limits::STRING_BYTES,
            )?;
            let what = format!("the length of the array in metadata key {key}");
            self.limit(&what, elements as u64, limits::ARRAY_ELEMENTS)?;
        }
        match self.metadata.iter().find(|(key, _)| key.is_empty() || key.len() as u64 > limits::KEY_BYTES) {
            None => Ok(()),
            Some((key, _)) => Err(FormatError::Entry {
                path: self.path.clone(),
                key: quoted(key),
                offset: 0,
                rule: format!("it has {} bytes, not 1 to {}", key.len(), limits::KEY_BYTES),
            }),
        }
    }

    fn limit(&self, what: &str, found: u64, limit: u64) -> Result<(), FormatError> {
        if found <= limit {
            return Ok(());
        }
        Err(FormatError::Limit { path: self.path.clone(), offset: 0, what: what.to_owned(), found, limit })
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    /// The type id and the bytes of a number.
    macro_rules! number {
        ($kind:expr, $value:expr) => {{
            out.extend($kind.to_le_bytes());
            out.extend($value.to_le_bytes());
        }};
    }
    match value {
        Value::U8(v) => number!(kind::U8, v),
        Value::I8(v) => number!(kind::I8, v),
        Value::U16(v) => number!(kind::U16, v),
        Value::I16(v) => number!(kind::I16, v),
        Value::U32(v) => number!(kind::U32, v),
        Value::I32(v) => number!(kind::I32, v),
        Value::F32(v) => number!(kind::F32, v),
        Value::U64(v) => number!(kind::U64, v),
        Value::I64(v) => number!(kind::I64, v),
        Value::F64(v) => number!(kind::F64, v),
        Value::Bool(v) => number!(kind::BOOL, u8::from(*v)),
        Value::Str(v) => {
            out.extend(kind::STR.to_le_bytes());
            string(out, v);
        }
        Value::Array(v) => {
            out.extend(kind::ARRAY.to_le_bytes());
            write_array(out, v);
        }
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array) {
    /// The type id of the elements, their number and their bytes.
    macro_rules! numbers {
        ($kind:expr, $array:expr) => {{
            out.extend($kind.to_le_bytes());
            out.extend(($array.len() as u64).to_le_bytes());
            $array.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(a) => numbers!(kind::U8, a),
        Array::I8(a) => numbers!(kind::I8, a),
        Array::U16(a) => numbers!(kind::U16, a),
        Array::I16(a) => numbers!(kind::I16, a),
        Array::U32(a) => numbers!(kind::U32, a),
        Array::I32(a) => numbers!(kind::I32, a),
        Array::F32(a) => numbers!(kind::F32, a),
        Array::U64(a) => numbers!(kind::U64, a),
        Array::I64(a) => numbers!(kind::I64, a),
        Array::F64(a) => numbers!(kind::F64, a),
        Array::Bool(a) => {
            out.extend(kind::BOOL.to_le_bytes());
            out.extend((a.len() as u64).to_le_bytes());
            out.extend(a.iter().map(|&v| u8::from(v)));
        }
        Array::Str(a) => {
            out.extend(kind::STR.to_le_bytes());
            out.extend((a.len() as u64).to_le_bytes());
            a.iter().for_each(|text| string(out, text));
        }
    }
}
