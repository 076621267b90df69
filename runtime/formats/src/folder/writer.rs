//! Writes a safetensors file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::header::{LENGTH_BYTES, METADATA};
use crate::dtype::DType;
use crate::error::{FormatError, quoted};
use crate::limits;
use crate::tensor::TensorInfo;
use crate::writing::{Planned, Step, TensorSink, Unfinished, announced};

/// The data begin at a multiple of it, bytes: behind the header the format allows spaces.
const DATA_ALIGNMENT: u64 = 4096;

/// Writes a safetensors file: a header, then the bytes of each tensor, in order, as they are made. Tensors follow each other without
/// gaps, as the format demands, from a multiple of 4096 on.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
    bytes: u64,
}

impl SafetensorsWriter {
    /// A file to be written at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), tensors: Vec::new(), names: HashSet::new(), bytes: 0 }
    }

    /// Announces a tensor; `dims` with the contiguous one first. Errors: a name that such a file can't have or has already, a type that
    /// such files do not have, an impossible shape.
    pub fn declare(&mut self, name: &str, dtype: DType, dims: &[u64]) -> Result<(), FormatError> {
        let refused =
            |rule: String| FormatError::Tensor { path: self.path.clone(), tensor: quoted(name), rule };
        if name.is_empty() || name == METADATA || name.len() as u64 > limits::PUBLISHED_NAME_BYTES {
            return Err(refused("no tensor can be called so".into()));
        }
        if !self.names.insert(name.to_owned()) {
            let (path, name) = (self.path.clone(), quoted(name));
            return Err(FormatError::Duplicate { path, what: "tensor", name });
        }
        if DType::of_safetensors(dtype.name()) != Some(dtype) {
            return Err(refused(format!("safetensors files have no type {dtype}")));
        }
        let mut tensor = announced(&self.path, name, dtype, dims)?;
        tensor.offset = self.bytes;
        self.bytes = tensor
            .offset
            .checked_add(tensor.bytes)
            .filter(|&end| end <= i64::MAX as u64 / 2)
            .ok_or_else(|| refused("the file would be longer than 2^62 bytes".into()))?;
        self.tensors.push(tensor);
        Ok(())
    }

    /// Writes the file, as [`GgufWriter::write_resumably`](crate::gguf::GgufWriter::write_resumably) does.
    pub fn write_resumably<E: From<FormatError>>(
        mut self,
        unfinished: &mut Unfinished,
        progress: &mut dyn FnMut(Step, u64),
        fill: impl FnMut(&TensorInfo, u64, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let header = self.header();
        let begin = header.len() as u64;
        self.tensors.iter_mut().for_each(|tensor| tensor.offset += begin);
        let bytes = begin + self.bytes;
        let planned = Planned { path: &self.path, header, tensors: &self.tensors, bytes };
        planned.write_resumably(unfinished, progress, fill)
    }

    fn header(&self) -> Vec<u8> {
        let entry = |tensor: &TensorInfo| {
            let shape: Vec<u64> = tensor.shape.dims().iter().rev().copied().collect();
            let offsets = [tensor.offset, tensor.offset + tensor.bytes];
            let described = json!({ "dtype": tensor.dtype.name(), "shape": shape, "data_offsets": offsets });
            (tensor.name.clone(), described)
        };
        let entries: Map<String, Value> = self.tensors.iter().map(entry).collect();
        let mut json = Value::Object(entries).to_string();
        let bytes = (LENGTH_BYTES + json.len() as u64).next_multiple_of(DATA_ALIGNMENT) - LENGTH_BYTES;
        json.extend(std::iter::repeat_n(' ', bytes as usize - json.len()));
        [&bytes.to_le_bytes()[..], json.as_bytes()].concat()
    }
}
