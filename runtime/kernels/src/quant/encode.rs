//! From floats to blocks.

use half::{bf16, f16};

use super::fit::{self, Iq4, Linear};
use super::{float4, float8, super_blocks};
use crate::format::{Format, ShapeError};
use crate::isa::Isa;

/// Stores a row in its place: `out` is the row of blocks of `values`. For caches; see [`quantise_row`] for the rounding.
///
/// # Panics
/// If `out` is not exactly that row, or the format is only read.
pub fn store_row(format: Format, values: &[f32], out: &mut [u8]) {
    let mut row = Vec::with_capacity(out.len());
    let stored = quantise_row(format, values, &mut row);
    assert!(stored.is_ok() && row.len() == out.len(), "store_row: no row of {format}");
    out.copy_from_slice(&row);
}

/// Appends the row `values`, stored in `format`, to `out`. The floats are rounded to nearest; the scales of
/// the quantised formats are searched for, as the reference quantisers do. A block with a NaN or an infinity
/// in it comes out as some block.
///
/// # Errors
/// [`ShapeError::NotWholeBlocks`] if the values are not whole blocks of the format, [`ShapeError::NotWritten`] if
/// it is one that is only read.
pub fn quantise_row(format: Format, values: &[f32], out: &mut Vec<u8>) -> Result<(), ShapeError> {
    let cols = values.len();
    let bytes = format.row_bytes(cols).ok_or(ShapeError::NotWholeBlocks { format, cols })?;
    out.reserve(bytes);
    for block in values.chunks_exact(format.block_elems()) {
        match format {
            Format::F32 => out.extend(block[0].to_le_bytes()),
            Format::F16 => out.extend(f16::from_f32(block[0]).to_le_bytes()),
            Format::BF16 => out.extend(bf16::from_f32(block[0]).to_le_bytes()),
            Format::Q4_0 => symmetric::<16>(block, 8.0, out),
            Format::Q4_1 => affine(block, 15.0, out),
            Format::Q5_0 => symmetric::<32>(block, 16.0, out),
            Format::Q5_1 => affine(block, 31.0, out),
            Format::Q8_0 => q8_0(block, out),
            Format::Q2K => super_blocks::q2_k(block, out),
            Format::Q3K => super_blocks::q3_k(block, out),
            Format::Q4K => super_blocks::q4_k(block, out),
            Format::Q5K => super_blocks::q5_k(block, out),
            Format::Q6K => super_blocks::q6_k(block, out),
            Format::IQ4NL => iq4_nl(block, out),
            Format::IQ4XS => super_blocks::iq4_xs(block, out),
            Format::MXFP4 => float4::encode_mxfp4(block, out),
            Format::NVFP4 => float4::encode_nvfp4(block, out),
            Format::E4M3 => float8::encode(block, out),
            _ => return Err(ShapeError::NotWritten { format }),
        }
    }
    Ok(())
}

/// Appends a number in half precision and returns what it became.
pub(super) fn push_half(x: f32, out: &mut Vec<u8>) -> f32 {
    let stored = f16::from_f32(x.clamp(-f16::MAX.to_f32(), f16::MAX.to_f32()));
    out.extend(stored.to_le_bytes());
    stored.to_f32()
}

/// `1 / x`, and 0 for 0: a scale of 0 makes every integer 0.
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Appends the low and high nibbles of 32 integers below 16, as the formats with blocks of 32 have them.
pub(super) fn push_nibbles(q: &[u8], out: &mut Vec<u8>) {
    out.extend((0..16).map(|j| (q[j] & 15) | (q[j + 16] & 15) << 4));
}

/// Appends the fifth bits of 32 integers.
fn push_fifth_bits(q: &[u8], out: &mut Vec<u8>) {
    out.extend(q.as_chunks::<8>().0.iter().map(|q| q.iter().rev().fold(0, |bits, q| bits << 1 | q >> 4)));
}

/// Q4_0 and Q5_0: `LEVELS` levels around 0.
fn symmetric<const LEVELS: usize>(x: &[f32], offset: f32, out: &mut Vec<u8>) {
    let levels = Linear { low: -offset, high: offset - 1.0 };
    let inverse = inverse(push_half(fit::scale(Isa::detect(), x, levels), out));
    let mut q = [0; 32];
    for (q, x) in q.iter_mut().zip(x) {
        *q = (levels.nearest_one(x * inverse) + offset) as u8;
    }
    if LEVELS > 16 {
        push_fifth_bits(&q, out);
    }
    push_nibbles(&q, out);
}

/// Q4_1 and Q5_1: levels up from a minimum.
fn affine(x: &[f32], high: f32, out: &mut Vec<u8>) {
    // The stored minimum has either sign here, so the fit is about the smallest element.
    let low = x.iter().fold(f32::INFINITY, |low, x| low.min(*x));
    let mut shifted = [0.0; 32];
    for (shifted, x) in shifted.iter_mut().zip(x) {
        *shifted = if low > 0.0 { x - low } else { *x };
    }
    let (scale, minimum) = fit::scale_and_minimum(Isa::detect(), &shifted, high);
    let inverse = inverse(push_half(scale, out));
    let minimum = push_half(low.max(0.0) - minimum, out);
    let levels = Linear { low: 0.0, high };
    let mut q = [0; 32];
    for (q, x) in q.iter_mut().zip(x) {
        *q = levels.nearest_one((x - minimum) * inverse) as u8;
    }
    if high > 15.0 {
        push_fifth_bits(&q, out);
    }
    push_nibbles(&q, out);
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let inverse = inverse(push_half(largest / 127.0, out));
    let levels = Linear { low: -127.0, high: 127.0 };
    out.extend(x.iter().map(|x| levels.nearest_one(x * inverse) as i8 as u8));
}

fn iq4_nl(x: &[f32], out: &mut Vec<u8>) {
    let inverse = inverse(push_half(fit::scale_iq4(Isa::detect(), x, Iq4), out));
    let mut q = [0; 32];
    for (q, x) in q.iter_mut().zip(x) {
        *q = Iq4.index(x * inverse);
    }
    push_nibbles(&q, out);
}
