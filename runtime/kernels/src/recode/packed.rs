//! Integers along the rows of a matrix, as compressed-tensors has them: of 4 bits in the form `pack-quantized`, of 8 bits in it and in
//! `int-quantized`.

use std::borrow::Cow;

use half::{bf16, f16};

use super::words::{spread, word};
use super::{FloatFormat, RecodeError, integers};
use crate::format::Format;

/// Elements of a block with one scale.
const BLOCK: usize = 32;

/// The integers of a matrix and their scales.
pub(super) struct Rows<'a> {
    pub cols: usize,
    /// Groups of columns.
    pub groups: usize,
    pub integers: &'a [u8],
    pub scales: &'a [u8],
    pub scale_format: FloatFormat,
    /// Which columns stand side by side, if these are not those of the matrix: those of a group.
    pub columns: Option<&'a [u32]>,
}

impl Rows<'_> {
    /// Row, group and scale of block number `index`.
    fn block(&self, index: usize) -> Result<(usize, usize, f16), RecodeError> {
        let (row, group) = (index * BLOCK / self.cols, index * BLOCK % self.cols * self.groups / self.cols);
        Ok((row, group, half(self.scale_format, self.scales, row * self.groups + group)?))
    }

    /// The columns of block number `index`, where these do not follow each other.
    fn own_columns(&self, index: usize) -> Option<&[u32]> {
        self.columns.map(|columns| &columns[index * BLOCK % self.cols..][..BLOCK])
    }

    /// Writes the blocks of nibbles. `zeros`: their zero points, if there are any.
    pub fn recode(&self, format: Format, zeros: Option<&[u8]>, out: &mut [u8]) -> Result<(), RecodeError> {
        let zero = |row: usize, group: usize| {
            zeros.map_or(integers::MIDDLE, |zeros| {
                (word(zeros, row / 8 * self.groups + group) >> (4 * (row % 8)) & 15) as u8
            })
        };
        for (index, out) in out.chunks_exact_mut(format.block_bytes()).enumerate() {
            let (row, group, scale) = self.block(index)?;
            let words = match self.own_columns(index) {
                None => std::array::from_fn(|i| spread(word(self.integers, index * BLOCK / 8 + i))),
                Some(columns) => std::array::from_fn(|i| {
                    let eight: [u8; 8] = std::array::from_fn(|place| {
                        let nibble = row * self.cols + columns[8 * i + place] as usize;
                        self.integers[nibble / 2] >> (nibble % 2 * 4) & 15
                    });
                    u64::from_le_bytes(eight)
                }),
            };
            integers::put_block(format, scale, zero(row, group), words, out);
        }
        Ok(())
    }

    /// Writes the blocks of bytes. `around_middle`: 128 stands for 0.
    pub fn recode_bytes(&self, around_middle: bool, out: &mut [u8]) -> Result<(), RecodeError> {
        // From 0..256 to -128..128 in two's complement.
        let flipped = if around_middle { 0x80 } else { 0 };
        for (index, out) in out.chunks_exact_mut(Format::Q8_0.block_bytes()).enumerate() {
            let (row, _, scale) = self.block(index)?;
            let (head, elements) = out.split_at_mut(2);
            head.copy_from_slice(&scale.to_le_bytes());
            match self.own_columns(index) {
                None => elements.copy_from_slice(&self.integers[index * BLOCK..][..BLOCK]),
                Some(columns) => {
                    let integers = &self.integers[row * self.cols..][..self.cols];
                    for (element, column) in elements.iter_mut().zip(columns) {
                        *element = integers[*column as usize];
                    }
                }
            }
            elements.iter_mut().for_each(|element| *element ^= flipped);
        }
        Ok(())
    }
}

/// Scale number `index` in half precision, to nearest. bfloat16 has 8 significant bits, so that this is exact from 2^-17 on; what is
/// smaller becomes a multiple of 2^-24.
fn half(format: FloatFormat, scales: &[u8], index: usize) -> Result<f16, RecodeError> {
    let bytes = [scales[2 * index], scales[2 * index + 1]];
    if format == FloatFormat::F16 {
        return Ok(f16::from_le_bytes(bytes));
    }
    let stored = bf16::from_le_bytes(bytes);
    let scale = f16::from_f32(stored.to_f32());
    if scale.is_infinite() && !stored.is_infinite() {
        return Err(RecodeError::Content("a scale of integers is larger than 65504"));
    }
    Ok(scale)
}

/// All scales in half precision, as [`half`] has one.
pub(super) fn halves(format: FloatFormat, scales: &[u8]) -> Result<Cow<'_, [u8]>, RecodeError> {
    if format == FloatFormat::F16 {
        return Ok(scales.into());
    }
    let all = (0..scales.len() / 2).map(|index| half(format, scales, index));
    all.map(|scale| Ok(scale?.to_le_bytes())).collect::<Result<Vec<_>, _>>().map(|all| all.concat().into())
}
