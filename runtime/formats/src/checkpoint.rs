//! An opened model, whatever files it came in.

use std::path::{Path, PathBuf};

use crate::error::{FormatError, quoted};
use crate::gguf;
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;

/// A model's metadata, its tensors and the files with their bytes.
///
/// Opening reads the headers only. Weights are read by [`Checkpoint::read`], or from [`Checkpoint::files`] at
/// the offsets of [`TensorInfo`] by who has a better way.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<u32>,
    files: Vec<SourceFile>,
}

impl Checkpoint {
    /// Opens a GGUF file, and with the first file of a split model the others beside it.
    ///
    /// Takes time and memory in proportion to the headers, within [`crate::limits`]; no file makes it panic.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let gguf::Parts { version, alignment, metadata, tensors, files } = gguf::open(path)?;
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by_key(|&index| &tensors[index as usize].name);
        let twice = by_name.windows(2).map(|pair| (&tensors[pair[0] as usize], &tensors[pair[1] as usize]));
        if let Some((first, second)) = twice.into_iter().find(|(first, second)| first.name == second.name) {
            return Err(FormatError::Duplicate {
                path: files[first.file.max(second.file)].path.clone(),
                what: "tensor",
                name: quoted(&first.name),
            });
        }
        Ok(Self { path: path.to_owned(), version, alignment, metadata, tensors, by_name, files })
    }

    /// The path that was opened: of a split model, its first file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF version of the (first) file: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensors are aligned to in the (first) file, bytes; a power of two.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The metadata; of a split model that of its first file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files' lists.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The index in [`Checkpoint::tensors`] of the tensor with this name.
    pub fn tensor_index(&self, name: &str) -> Option<usize> {
        let order = |&index: &u32| self.tensors[index as usize].name.as_str().cmp(name);
        let place = self.by_name.binary_search_by(order).ok()?;
        Some(self.by_name[place] as usize)
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_index(name).map(|index| &self.tensors[index])
    }

    /// The tensor with this name; absence is an error.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.tensor(name)
            .ok_or_else(|| FormatError::TensorMissing { path: self.path.clone(), tensor: quoted(name) })
    }

    /// The open files; [`TensorInfo::file`] is an index into them.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Fills `buf` with the bytes of `tensor` from `offset` within it.
    ///
    /// A range outside the tensor is [`FormatError::Range`], whatever the file holds there; a file that was
    /// cut short since it was opened is [`FormatError::Truncated`].
    pub fn read(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<(), FormatError> {
        let outside = || FormatError::Range {
            path: self.files.get(tensor.file).map_or(&self.path, |file| &file.path).clone(),
            tensor: quoted(&tensor.name),
            offset,
            bytes: buf.len() as u64,
            size: tensor.bytes,
        };
        let file = self.files.get(tensor.file).ok_or_else(outside)?;
        let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= tensor.bytes);
        let start = tensor.offset.checked_add(offset).filter(|_| inside).ok_or_else(outside)?;
        file.read(start, buf, || format!("tensor {}", quoted(&tensor.name)))
    }
}
