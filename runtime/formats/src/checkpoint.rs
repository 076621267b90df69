//! An opened model, whatever files it came in.

use std::path::{Path, PathBuf};

use crate::error::{FormatError, quoted};
use crate::folder::{self, Names, TokenizerDocuments};
use crate::gguf;
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;

/// The form that a model's files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// One GGUF file or a split series.
    Gguf {
        /// The version of the (first) file: 2 or 3.
        version: u32,
        /// What tensors are aligned to in the (first) file, bytes; a power of two.
        alignment: u32,
    },
    /// A folder as it was published: safetensors files with `config.json`.
    Folder,
}

/// A model's metadata, its tensors and the files with their bytes.
///
/// Metadata and tensors are asked for by the names that GGUF files have, whatever the form of the files. Opening reads the
/// headers only. Weights are read by [`Checkpoint::read`], or from [`Checkpoint::files`] at the offsets of [`TensorInfo`] by
/// who has a better way.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    container: Container,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// How a folder names tensors.
    names: Option<Names>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<u32>,
    files: Vec<SourceFile>,
}

impl Checkpoint {
    /// Opens a GGUF file, and with the first file of a split model the others beside it; or a folder with a model as it was
    /// published, by its own path or by that of a safetensors file in it. Of a repository in a cache of Hugging Face's hub the revision
    /// `main` is opened, of a folder that has one GGUF file and no other weights that file.
    ///
    /// Takes time and memory in proportion to the headers, within [`crate::limits`]; no file makes it panic.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let meant = if path.is_dir() { folder::meant(path)? } else { path.to_owned() };
        let path = meant.as_path();
        let (container, metadata, tensors, files, names) = if folder::is_one(path) {
            let folder::Parts { metadata, tensors, files, names } = folder::open(path)?;
            (Container::Folder, metadata, tensors, files, Some(names))
        } else {
            let gguf::Parts { version, alignment, metadata, tensors, files } = gguf::open(path)?;
            (Container::Gguf { version, alignment }, metadata, tensors, files, None)
        };
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
        Ok(Self { path: path.to_owned(), container, metadata, tensors, names, by_name, files })
    }

    /// The path that was opened: of a split model, its first file; of a folder that stands for a model elsewhere, that model's.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The form of the files.
    pub fn container(&self) -> Container {
        self.container
    }

    /// The metadata; of a split model that of its first file, of a folder what its documents say.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files' lists, with the names that they have there.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The index in [`Checkpoint::tensors`] of the tensor that a GGUF file calls so.
    pub fn tensor_index(&self, name: &str) -> Option<usize> {
        match &self.names {
            None => self.stored_index(name),
            Some(names) => self.stored_index(&names.published(name)?),
        }
    }

    /// The index in [`Checkpoint::tensors`] of one of them.
    pub fn index_of(&self, tensor: &TensorInfo) -> Option<usize> {
        self.stored_index(&tensor.name)
    }

    /// The tensor that a GGUF file calls so.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_index(name).map(|index| &self.tensors[index])
    }

    /// Whether there is a tensor that a GGUF file calls so, stored as one or quantised into several.
    pub fn holds(&self, name: &str) -> bool {
        self.tensor(name).is_some() || matches!(self.quantised(name), Ok(Some(_)))
    }

    /// The tensor that a GGUF file calls so; absence is an error, which names it as the model's files would.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.tensor(name).ok_or_else(|| FormatError::TensorMissing {
            path: self.path.clone(),
            tensor: quoted(&self.published_name(name).unwrap_or_else(|| name.to_owned())),
        })
    }

    /// What a folder calls the tensor; none in a GGUF file, and where nothing is published under a name.
    pub fn published_name(&self, name: &str) -> Option<String> {
        self.names.as_ref()?.published(name)
    }

    /// What the model's own files call a key of metadata.
    pub fn shown_key(&self, key: &str) -> String {
        let published = self.names.as_ref().and_then(|_| folder::published_key(key));
        published.unwrap_or(key).to_owned()
    }

    /// The tensor of this very name.
    pub(crate) fn stored(&self, name: &str) -> Option<&TensorInfo> {
        self.stored_index(name).map(|index| &self.tensors[index])
    }

    /// The tensor that the files call so; absence is an error.
    pub fn require_stored(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.stored(name)
            .ok_or_else(|| FormatError::TensorMissing { path: self.path.clone(), tensor: quoted(name) })
    }

    fn stored_index(&self, name: &str) -> Option<usize> {
        let order = |&index: &u32| self.tensors[index as usize].name.as_str().cmp(name);
        let place = self.by_name.binary_search_by(order).ok()?;
        Some(self.by_name[place] as usize)
    }

    /// What the tokenizer of a folder is made of, if it has that. Errors: it can't be read, or is longer than
    /// [`limits::TOKENIZER_BYTES`](crate::limits::TOKENIZER_BYTES).
    pub fn tokenizer_documents(&self) -> Result<Option<TokenizerDocuments>, FormatError> {
        match self.names {
            Some(_) => TokenizerDocuments::read(&self.files),
            None => Ok(None),
        }
    }

    /// The open files; [`TensorInfo::file`] is an index into them.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// What a file is called within the model: its path below the folder of a published model, `additional_chat_templates/tool_use.jinja`;
    /// its name otherwise.
    pub fn name_of<'a>(&self, file: &'a SourceFile) -> &'a Path {
        let folder = self.files.first().and_then(|first| first.path.parent());
        let below = folder.and_then(|folder| file.path.strip_prefix(folder).ok());
        below.or(file.path.file_name().map(Path::new)).unwrap_or(&file.path)
    }

    /// Fills `buf` with the bytes of a file from `offset` on, which must be within its tensors.
    ///
    /// Errors: as of [`Checkpoint::read`].
    pub fn read_range(&self, file: usize, offset: u64, buf: &mut [u8]) -> Result<(), FormatError> {
        let bytes = buf.len() as u64;
        let source = self
            .files
            .get(file)
            .filter(|file| offset.checked_add(bytes).is_some_and(|end| end <= file.bytes));
        let source = source.ok_or_else(|| FormatError::Range {
            path: self.files.get(file).map_or(&self.path, |file| &file.path).clone(),
            tensor: "of a range".into(),
            offset,
            bytes,
            size: self.files.get(file).map_or(0, |file| file.bytes),
        })?;
        source.read(offset, buf, || "a tensor".into())
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
