//! GGUF files: reading one or a split series, and writing.
//!
//! Layout of version 3, and of 2, which differs in the number only; all little-endian:
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  entry count u64
//! entry:  key string  type u32  value                          (entry count times)
//! tensor: name string  dimensions u32  dims u64...  type u32  offset u64   (tensor count times)
//! padding to general.alignment (32 if absent); tensor offsets count from here, each a multiple of it
//! ```
//!
//! A string is its length as u64 and its bytes; an array is its element type u32, its length u64, its
//! elements.

mod cursor;
mod header;
mod kind;
mod split;
mod writer;

use std::path::Path;

use crate::error::FormatError;
use crate::limits;
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;

pub use split::{SPLIT_KEYS, is_later_part};
pub use writer::GgufWriter;

const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensor data where `general.alignment` is absent, bytes.
const DEFAULT_ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// What the files of a checkpoint say.
pub(crate) struct Parts {
    pub version: u32,
    pub alignment: u32,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    pub files: Vec<SourceFile>,
}

/// What is left of the limits that hold over all files of a checkpoint.
struct Budget {
    header_bytes: u64,
    tensors: u64,
}

/// Opens the file at `path` and, if it is the first of a split series, the others.
pub(crate) fn open(path: &Path) -> Result<Parts, FormatError> {
    let mut budget = Budget { header_bytes: limits::HEADER_BYTES, tensors: limits::TENSORS };
    let source = SourceFile::open(path)?;
    let header = header::read(&source, 0, &mut budget)?;
    let mut parts = Parts {
        version: header.version,
        alignment: header.alignment,
        metadata: header.metadata,
        tensors: header.tensors,
        files: vec![source],
    };
    split::open_others(&mut parts, &mut budget)?;
    Ok(parts)
}
