//! What a quantised matrix is made of.

use super::{FloatFormat, ScaleFormat};
use crate::format::Format;

/// What a quantised matrix is made of, in the order of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Plain floats [rows, cols], which only a [`View`] makes another matrix.
    Floats(FloatFormat),
    /// Rows of blocks, as a matrix in memory has them, which only a [`View`] makes another.
    Blocks(Format),
    /// Floats of 4 bits [rows, cols / 2], the first of two in the low nibble; scales that are powers of two, e8m0 [rows, cols /
    /// 32].
    Mxfp4,
    /// Floats of 8 bits [rows, cols]; scales [ceil(rows / block rows), ceil(cols / block cols)].
    Fp8 {
        /// How the scales are stored.
        scales: ScaleFormat,
        /// Rows and columns that share a scale.
        block: [usize; 2],
    },
    /// Floats of 4 bits [rows, cols / 2], the first of two in the low nibble; scales that are floats of 8 bits [rows, cols /
    /// group].
    Nvfp4 {
        /// Columns that share a scale: 16, or a multiple.
        group: usize,
    },
    /// Nibbles [cols / 8, rows] u32, eight along the columns; zero points [groups, rows / 8] u32, eight along the rows; scales
    /// [groups, rows]; with `indices`, the group of each column, i32 [cols].
    Gptq {
        /// How the scales are stored: in 16 bits.
        scales: FloatFormat,
        /// What is added to a stored zero point.
        zero_offset: u8,
        /// All zero points are 8 with that.
        symmetric: bool,
        /// Groups of columns.
        groups: usize,
        /// There are indices.
        indices: bool,
        /// The indices may name any group. Otherwise groups are runs of columns, whatever indices there are.
        any_order: bool,
    },
    /// The same in 2 or 3 bits: a stream of bits down the words [cols * bits / 32, rows]; zero points [groups, rows * bits / 32], a stream
    /// along the rows.
    GptqFewBits {
        /// 2 or 3.
        bits: usize,
        /// How the scales are stored: in 16 bits.
        scales: FloatFormat,
        /// What is added to a stored zero point.
        zero_offset: u8,
        /// All zero points are 2 or 4 with that.
        symmetric: bool,
        /// Groups of columns.
        groups: usize,
        /// There are indices.
        indices: bool,
        /// The indices may name any group. Otherwise groups are runs of columns, whatever indices there are.
        any_order: bool,
    },
    /// The same in 8 bits, all zero points 128: bytes [cols / 4, rows] u32, four along the columns; zero points [groups, rows / 4]
    /// u32, four along the rows; scales and indices as above.
    Gptq8 {
        /// How the scales are stored: in 16 bits.
        scales: FloatFormat,
        /// What is added to a stored zero point.
        zero_offset: u8,
        /// Groups of columns.
        groups: usize,
        /// There are indices.
        indices: bool,
        /// The indices may name any group. Otherwise groups are runs of columns, whatever indices there are.
        any_order: bool,
    },
    /// Nibbles [rows, cols / 8] u32, eight along the columns; scales [rows, groups]; with `zeros`, zero points [rows / 8, groups] u32,
    /// eight along the rows, otherwise all are 8; with `indices`, the group of each column, i32 [cols]. The form `pack-quantized` of
    /// compressed-tensors.
    PackQuantized {
        /// How the scales are stored: in 16 bits.
        scales: FloatFormat,
        /// Groups of columns.
        groups: usize,
        /// There are zero points.
        zeros: bool,
        /// There are indices, which may name any group.
        indices: bool,
    },
    /// Integers of 8 bits [rows, cols]; scales [rows, groups]; with `indices`, the group of each column, i32 [cols]. The forms
    /// `int-quantized` and, in 8 bits, `pack-quantized` of compressed-tensors.
    Int8 {
        /// How the scales are stored: in 16 bits.
        scales: FloatFormat,
        /// Groups of columns.
        groups: usize,
        /// 128 stands for 0; otherwise they are signed.
        around_middle: bool,
        /// There are indices, which may name any group.
        indices: bool,
    },
    /// Nibbles [cols, rows / 8] u32; zero points [groups, rows / 8] u32, both eight along the rows in AWQ's order; scales
    /// [groups, rows].
    Awq {
        /// How the scales are stored: in 16 bits.
        scales: FloatFormat,
        /// Groups of columns.
        groups: usize,
    },
}

impl Parts {
    /// How integers have their scales.
    pub(super) fn integer_scales(&self) -> Option<FloatFormat> {
        match *self {
            Self::Gptq { scales, .. }
            | Self::GptqFewBits { scales, .. }
            | Self::Gptq8 { scales, .. }
            | Self::PackQuantized { scales, .. }
            | Self::Int8 { scales, .. }
            | Self::Awq { scales, .. } => Some(scales),
            Self::Floats(_) | Self::Blocks(_) | Self::Mxfp4 | Self::Fp8 { .. } | Self::Nvfp4 { .. } => None,
        }
    }
}
