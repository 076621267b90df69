//! Model files -> one [`Checkpoint`]: metadata, named tensors and where their bytes lie.
//!
//! Reads GGUF versions 2 and 3, also split over several files, and writes version 3 ([`gguf::GgufWriter`]). Reads folders of
//! safetensors files as they are published, under the names of GGUF.
//! Nothing here computes on weights, starts a thread or maps a file: bytes are read by position, so that a
//! file cut short while it is in use is an error and not a signal.
//!
//! A model file is input from a stranger. Every number in it is checked once, here, and what comes out
//! ([`Shape`], [`TensorInfo`], [`Metadata`]) can't hold a bad one; [`limits`] has the caps and the attacks
//! that they stop. What the numbers mean to an architecture is the engine's to check.

#![forbid(unsafe_code)]

mod checkpoint;
mod dtype;
mod error;
mod folder;
mod forms;
pub mod gguf;
pub mod keys;
pub mod limits;
mod metadata;
pub mod packed;
mod shape;
mod source;
mod tensor;
mod value;
mod writing;

pub use checkpoint::{Checkpoint, Container};
pub use dtype::DType;
pub use error::FormatError;
pub use folder::{
    Quantised, SafetensorsWriter, Scheme, TokenizerDocuments, hub_revision, lies_beside_a_model,
};
pub use forms::Form;
pub use metadata::Metadata;
pub use shape::{Shape, ShapeError};
pub use source::SourceFile;
pub use tensor::{TensorInfo, Values};
pub use value::{Array, StrArray, Value};
pub use writing::{Step, TensorSink, Unfinished};
