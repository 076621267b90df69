//! A tensor of a checkpoint.

use crate::dtype::DType;
use crate::shape::Shape;

/// What the numbers of a tensor stand for, given those that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Values {
    /// Themselves. So it is in every GGUF file.
    #[default]
    AsStored,
    /// x stands for 1 + x: weights of zero-centred norms.
    OnePlus,
    /// x stands for -exp(x): decay rates.
    MinusExp,
}

/// Name, type, shape and place of a tensor. `offset..offset + bytes` lies inside its file and in no other
/// tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name; unique in the checkpoint, 1 to 63 bytes in a GGUF file and 255 in a folder.
    pub name: String,
    /// How elements are stored.
    pub dtype: DType,
    /// Dimensions, the contiguous one first.
    pub shape: Shape,
    /// Index of its file in [`crate::Checkpoint::files`].
    pub file: usize,
    /// Where its first byte lies, from the beginning of its file.
    pub offset: u64,
    /// Bytes of all its blocks.
    pub bytes: u64,
    /// What its numbers stand for.
    pub values: Values,
}
