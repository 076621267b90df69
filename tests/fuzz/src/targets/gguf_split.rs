//! A GGUF model split over two files: the length of the first in two bytes, then both.

use membrane_formats::{Checkpoint, DType};

use super::{gguf, plain};
use crate::scratch;

/// Keys that make a series.
pub const WORDS: &[&str] = &["split.count", "split.no", "split.tensors.count", "GGUF"];

const FIRST: &str = "model-00001-of-00002.gguf";
const SECOND: &str = "model-00002-of-00002.gguf";

/// Opens the first of both.
pub fn target(data: &[u8]) {
    let Some((length, files)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(files.len());
    let (first, second) = files.split_at(length);
    let path = scratch::file(FIRST, first);
    scratch::file(SECOND, second);
    match Checkpoint::open(&path) {
        Ok(checkpoint) => gguf::sound(&checkpoint, first.len().max(second.len()) as u64),
        Err(error) => plain(&error),
    }
}

/// A series, one whose second file is of another model, and one that lacks a tensor.
pub fn seeds() -> Vec<Vec<u8>> {
    let file = |number: u16, count: u16, architecture: &str, tensors: u32| {
        let mut metadata = gguf::metadata(architecture);
        metadata.set("split.no", number);
        metadata.set("split.count", count);
        metadata.set("split.tensors.count", tensors);
        let name = format!("blk.{number}.ffn_norm.weight");
        gguf::written(metadata, &[(&name, DType::F32, &[8])]).expect("a valid file")
    };
    let pair =
        |first: Vec<u8>, second: Vec<u8>| [&(first.len() as u16).to_le_bytes()[..], &first, &second].concat();
    vec![
        pair(file(0, 2, "llama", 2), file(1, 2, "llama", 2)),
        pair(file(0, 2, "llama", 2), file(1, 2, "qwen2", 2)),
        pair(file(0, 2, "llama", 3), file(1, 2, "llama", 3)),
    ]
}
