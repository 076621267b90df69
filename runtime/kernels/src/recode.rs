//! Quantised matrices of published checkpoints, made rows of blocks while they are read.
//!
//! Such a matrix lies in several tensors: numbers, scales, zero points, and which input has which. Kernels know one shape of
//! work, rows of blocks with their scales in them. A [`Recoding`] makes the one of the others, and loses nothing: every
//! element stands for the same number before and after.
//!
//! ```text
//! FP8                       32 floats of 8 bits behind an f32            Format::E4M3
//! NVFP4                     the blocks of GGUF; a factor stays outside   Format::NVFP4
//! the same in narrow rows   element * scale has few bits                 Format::BF16
//! 4-bit integers, zero 8    scale * (q - 8)                              Format::Q4_0
//! 4-bit integers            scale * (q - zero), q - zero in -16..16      Format::Q5_0
//! the same, each input of
//! a group of its own        f32, since a block has one scale             Format::F32
//! ```

mod integers;

use crate::format::Format;
use crate::quant::{FLOAT4_VALUES, FLOAT8_VALUES};
use integers::Layout;

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
}

/// What a quantised matrix is made of, in the order of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Floats of 8 bits [rows, cols]; scales [ceil(rows / block rows), ceil(cols / block cols)].
    Fp8 {
        /// How the scales are stored.
        scales: ScaleFormat,
        /// Rows and columns that share a scale.
        block: [usize; 2],
    },
    /// Floats of 4 bits [rows, cols / 2], the first of two in the low nibble; scales that are floats of 8 bits [rows, cols /
    /// 16].
    Nvfp4,
    /// Nibbles [cols / 8, rows] u32, eight along the columns; zero points [groups, rows / 8] u32, eight along the rows; scales
    /// f16 [groups, rows]; with `indices`, the group of each column, i32 [cols].
    Gptq {
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
    /// Nibbles [cols, rows / 8] u32; zero points [groups, rows / 8] u32, both eight along the rows in AWQ's order; scales f16
    /// [groups, rows].
    Awq {
        /// Groups of columns.
        groups: usize,
    },
}

/// A shape or content that can't be recoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecodeError {
    /// The shape does not go with the way of storing.
    #[error("{rows} x {cols} can't be stored so: {rule}")]
    Shape {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// What they must be.
        rule: &'static str,
    },
    /// The numbers of the parts contradict what was said of them.
    #[error("{0}; the file is damaged or hostile: fetch it again")]
    Content(&'static str),
}

/// How one matrix is recoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recoding {
    parts: Parts,
    rows: usize,
    cols: usize,
    format: Format,
}

impl Recoding {
    /// The recoding of a matrix. Errors: [`RecodeError::Shape`].
    pub fn new(parts: Parts, rows: usize, cols: usize) -> Result<Self, RecodeError> {
        let rule = |holds: bool, rule| match holds {
            true => Ok(()),
            false => Err(RecodeError::Shape { rows, cols, rule }),
        };
        let grouped = |groups: usize| groups > 0 && cols.is_multiple_of(groups);
        rule(rows > 0 && cols > 0 && rows.checked_mul(cols).is_some(), "there are no elements, or too many")?;
        let format = match parts {
            Parts::Fp8 { block: [block_rows, block_cols], .. } => {
                rule(block_rows > 0 && block_cols > 0, "a block has no elements")?;
                let whole = block_cols.is_multiple_of(32) || block_cols >= cols;
                if whole && cols.is_multiple_of(32) { Format::E4M3 } else { Format::F32 }
            }
            Parts::Nvfp4 => {
                rule(cols.is_multiple_of(16), "16 columns share a scale")?;
                if cols.is_multiple_of(64) { Format::NVFP4 } else { Format::BF16 }
            }
            Parts::Gptq { groups, any_order, symmetric, .. } => {
                rule(rows.is_multiple_of(8) && cols.is_multiple_of(8), "rows and columns come in eights")?;
                rule(any_order || grouped(groups), "the columns must be whole groups")?;
                integers::format(any_order || !(cols / groups.max(1)).is_multiple_of(32), symmetric)
            }
            Parts::Awq { groups } => {
                rule(rows.is_multiple_of(8), "rows come in eights")?;
                rule(grouped(groups), "the columns must be whole groups")?;
                integers::format(!(cols / groups.max(1)).is_multiple_of(32), false)
            }
        };
        rule(format.row_bytes(cols).is_some(), "a row is not whole blocks of the format that it becomes")?;
        let bytes = format.row_bytes(cols).and_then(|row| row.checked_mul(rows));
        rule(bytes.is_some(), "it is larger than the address space")?;
        Ok(Self { parts, rows, cols, format })
    }

    /// The format of the result.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the result: all rows.
    pub fn bytes(&self) -> usize {
        // The product was computed before.
        self.format.row_bytes(self.cols).unwrap_or(0) * self.rows
    }

    /// Bytes of each part.
    pub fn part_bytes(&self) -> Vec<usize> {
        let (rows, cols) = (self.rows, self.cols);
        match self.parts {
            Parts::Fp8 { scales, block } => {
                let scale_bytes = if scales == ScaleFormat::F32 { 4 } else { 2 };
                vec![rows * cols, scale_bytes * rows.div_ceil(block[0]) * cols.div_ceil(block[1])]
            }
            Parts::Nvfp4 => vec![rows * (cols / 2), rows * (cols / 16)],
            Parts::Gptq { groups, indices, .. } => {
                let mut bytes = vec![rows * (cols / 2), groups * (rows / 2), groups * rows * 2];
                bytes.extend(indices.then_some(4 * cols));
                bytes
            }
            Parts::Awq { groups } => vec![cols * (rows / 2), groups * (rows / 2), groups * rows * 2],
        }
    }

    /// Writes the rows of blocks to `out`.
    ///
    /// # Errors
    /// [`RecodeError::Content`].
    ///
    /// # Panics
    /// If a part or `out` has another length than was said.
    pub fn run(&self, parts: &[&[u8]], out: &mut [u8]) -> Result<(), RecodeError> {
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, self.part_bytes(), "recode: lengths of parts");
        assert_eq!(out.len(), self.bytes(), "recode: length of the result");
        match self.parts {
            Parts::Fp8 { scales, block } => {
                self.fp8(parts[0], |index| scale(scales, parts[1], index), block, out);
                Ok(())
            }
            Parts::Nvfp4 => self.nvfp4(parts[0], parts[1], out),
            Parts::Gptq { zero_offset, symmetric, groups, indices, any_order } => {
                let layout = Layout::gptq(self.rows, self.cols, groups, zero_offset);
                let indices = indices.then(|| parts[3]);
                let order = layout.order(indices, any_order)?;
                if symmetric {
                    layout.check_symmetric(parts[1])?;
                }
                layout.recode(self.format, [parts[0], parts[1], parts[2]], &order, out);
                Ok(())
            }
            Parts::Awq { groups } => {
                let layout = Layout::awq(self.rows, self.cols, groups);
                let order = layout.order(None, false)?;
                layout.recode(self.format, [parts[0], parts[1], parts[2]], &order, out);
                Ok(())
            }
        }
    }

    fn fp8(&self, bytes: &[u8], scale: impl Fn(usize) -> f32, block: [usize; 2], out: &mut [u8]) {
        let scales_in_row = self.cols.div_ceil(block[1]);
        if self.format == Format::F32 {
            for (index, (byte, out)) in bytes.iter().zip(out.as_chunks_mut::<4>().0).enumerate() {
                let (row, col) = (index / self.cols, index % self.cols);
                let scale = scale(row / block[0] * scales_in_row + col / block[1]);
                *out = (scale * FLOAT8_VALUES[usize::from(*byte)]).to_le_bytes();
            }
            return;
        }
        let elems = self.format.block_elems();
        let rows = bytes.chunks_exact(self.cols).zip(out.chunks_exact_mut(self.bytes() / self.rows));
        for (row, (bytes, out)) in rows.enumerate() {
            let first = row / block[0] * scales_in_row;
            let blocks = bytes.chunks_exact(elems).zip(out.chunks_exact_mut(self.format.block_bytes()));
            for (index, (bytes, out)) in blocks.enumerate() {
                let (head, body) = out.split_at_mut(size_of::<f32>());
                // What is no number stands in the scale, where kernels see it: the product of the row is none either way.
                let number = !bytes.iter().fold(false, |none, byte| none | (byte & 0x7F == 0x7F));
                let scale = if number { scale(first + index * elems / block[1]) } else { f32::NAN };
                head.copy_from_slice(&scale.to_le_bytes());
                body.copy_from_slice(bytes);
            }
        }
    }

    fn nvfp4(&self, nibbles: &[u8], scales: &[u8], out: &mut [u8]) -> Result<(), RecodeError> {
        const LARGEST: u8 = 0x7E;
        if scales.iter().any(|&scale| scale > LARGEST) {
            return Err(RecodeError::Content("a scale of a block is negative or no number"));
        }
        if self.format == Format::BF16 {
            for (index, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let code = nibbles[index / 2] >> (index % 2 * 4) & 15;
                // The table has twice the element.
                let element = f32::from(FLOAT4_VALUES[usize::from(code)]) / 2.0;
                let scale = FLOAT8_VALUES[usize::from(scales[index / 16])];
                *out = half::bf16::from_f32(element * scale).to_le_bytes();
            }
            return Ok(());
        }
        let blocks = nibbles.chunks_exact(32).zip(scales.as_chunks::<4>().0);
        for (out, (nibbles, scales)) in out.chunks_exact_mut(self.format.block_bytes()).zip(blocks) {
            let (head, body) = out.split_at_mut(4);
            head.copy_from_slice(scales);
            for (out, sixteen) in body.as_chunks_mut::<8>().0.iter_mut().zip(nibbles.as_chunks::<8>().0) {
                let sixteen = u64::from_le_bytes(*sixteen);
                let (low, high) = (spread(sixteen as u32), spread((sixteen >> 32) as u32));
                *out = (low | high << 4).to_le_bytes();
            }
        }
        Ok(())
    }
}

/// Scale number `index`.
fn scale(format: ScaleFormat, bytes: &[u8], index: usize) -> f32 {
    let half = |at: usize| [bytes[at], bytes[at + 1]];
    match format {
        ScaleFormat::F32 => {
            let at = 4 * index;
            f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        }
        ScaleFormat::F16 => half::f16::from_le_bytes(half(2 * index)).to_f32(),
        ScaleFormat::BF16 => half::bf16::from_le_bytes(half(2 * index)).to_f32(),
    }
}

/// Eight nibbles as the low nibbles of eight bytes, in order.
fn spread(nibbles: u32) -> u64 {
    let x = u64::from(nibbles);
    let x = (x | x << 16) & 0x0000_FFFF_0000_FFFF;
    let x = (x | x << 8) & 0x00FF_00FF_00FF_00FF;
    (x | x << 4) & 0x0F0F_0F0F_0F0F_0F0F
}

#[cfg(test)]
mod tests;
