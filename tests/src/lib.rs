//! What the tests that cross crates share: where reference models stand, and how golden files are read.

#![forbid(unsafe_code)]

pub mod channels;
pub mod drafting;
pub mod golden;
pub mod guests;
pub mod isolation;
pub mod passes;
pub mod pieces;
pub mod published;
pub mod recorder;
pub mod sessions;
pub mod stage;
pub mod tiny;

use std::path::{Path, PathBuf};

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, FormatError, Metadata};

/// Names a folder of reference models and golden outputs other than `../shared/reference`.
const REFERENCE: &str = "MEMBRANE_REFERENCE";

/// The folder of this workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The folders that hold `gguf/` and `golden/`: the fixtures of this tree, and the full reference where it
/// is there.
pub fn references() -> Vec<PathBuf> {
    let full = match std::env::var_os(REFERENCE) {
        Some(folder) => PathBuf::from(folder),
        None => workspace().join("../shared/reference"),
    };
    let fixtures = workspace().join("tests/fixtures");
    [fixtures, full].into_iter().filter(|folder| folder.join("gguf").is_dir()).collect()
}

/// Writes the tensors of a model with other metadata. Errors: those of reading and writing.
pub fn with_metadata(source: &Checkpoint, metadata: Metadata, path: &Path) -> Result<(), FormatError> {
    let mut writer = GgufWriter::new(path, metadata);
    for tensor in source.tensors() {
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims())?;
    }
    writer.write(|tensor, sink| {
        let mut bytes = vec![0; tensor.bytes as usize];
        source.read(source.require(&tensor.name)?, 0, &mut bytes)?;
        sink.put(&bytes)
    })
}

/// The dense demo model, if `cargo xtask` has fetched it.
pub fn demo_model() -> Option<PathBuf> {
    fetched("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Gemma 3 270M, if `cargo xtask gemma` has fetched it.
pub fn gemma_model() -> Option<PathBuf> {
    fetched("gemma-3-270m-q4_k_m.gguf")
}

fn fetched(file: &str) -> Option<PathBuf> {
    let path = workspace().join("target/demo").join(file);
    path.exists().then_some(path)
}
