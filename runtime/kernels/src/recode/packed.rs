//! Integers along the rows of a matrix, as compressed-tensors has them: of 4 bits in the form `pack-quantized`, of 8 bits in it and in
//! `int-quantized`.

use half::{bf16, f16};

use super::{FloatFormat, RecodeError, integers, spread, word};
use crate::format::Format;

/// Elements of a block with one scale.
const BLOCK: usize = 32;

/// Writes the rows of blocks of a matrix of so many columns. `parts`: nibbles, scales, zero points if there are any.
pub(super) fn recode(
    format: Format,
    [rows, cols]: [usize; 2],
    groups: usize,
    scales: FloatFormat,
    parts: &[&[u8]],
    out: &mut [u8],
) -> Result<(), RecodeError> {
    let zero = |row: usize, group: usize| {
        parts.get(2).map_or(integers::MIDDLE, |zeros| {
            (word(zeros, row / 8 * groups + group) >> (4 * (row % 8)) & 15) as u8
        })
    };
    let share = cols / groups;
    let blocks = out.chunks_exact_mut(format.block_bytes());
    for (index, (out, nibbles)) in blocks.zip(parts[0].chunks_exact(BLOCK / 2)).enumerate() {
        let (row, group) = (index * BLOCK / cols, index * BLOCK % cols / share);
        let scale = half(scales, parts[1], row * groups + group)?;
        let words = std::array::from_fn(|i| spread(word(nibbles, i)));
        integers::put_block(format, scale, zero(row, group), words, out);
    }
    debug_assert_eq!(out.len(), rows * (cols / BLOCK) * format.block_bytes());
    Ok(())
}

/// Writes the blocks of integers of 8 bits. `parts`: integers and scales.
pub(super) fn recode_bytes(
    [rows, cols]: [usize; 2],
    groups: usize,
    scales: FloatFormat,
    parts: &[&[u8]],
    around_middle: bool,
    out: &mut [u8],
) -> Result<(), RecodeError> {
    // From 0..256 to -128..128 in two's complement.
    let flipped = if around_middle { 0x80 } else { 0 };
    let share = cols / groups;
    let blocks = out.chunks_exact_mut(Format::Q8_0.block_bytes());
    for (index, (out, integers)) in blocks.zip(parts[0].chunks_exact(BLOCK)).enumerate() {
        let (row, group) = (index * BLOCK / cols, index * BLOCK % cols / share);
        let (scale, elements) = out.split_at_mut(2);
        scale.copy_from_slice(&half(scales, parts[1], row * groups + group)?.to_le_bytes());
        for (element, integer) in elements.iter_mut().zip(integers) {
            *element = integer ^ flipped;
        }
    }
    debug_assert_eq!(out.len(), rows * (cols / BLOCK) * Format::Q8_0.block_bytes());
    Ok(())
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
