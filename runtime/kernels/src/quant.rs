//! The quantised block formats: what each byte of a block means, and how floats become blocks.
//!
//! A block is cut in sub-blocks of 16 or 32 elements with a scale and, in some formats, a minimum of their
//! own: element = scale * q + minimum, q a small integer. `unpack` is the one place where the layouts are
//! written down plainly; the vector kernels are tested against it.

mod codebooks;
mod encode;
mod few_bits;
mod fit;
mod float4;
mod float8;
mod patterns;
mod super_blocks;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use codebooks::{
    EVEN_SIGN_MASKS, IQ1, IQ1_UP, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, SIGN_MASKS,
};
pub use encode::{quantise_row, store_row};
pub(crate) use float4::FLOAT4_VALUES;
pub(crate) use float8::FLOAT8_VALUES;
pub(crate) use unpack::{
    IQ4_VALUES, IntegerScales, SubBlocks, has_minimum, integer_scales, sub_block_elems, unpack,
};

use crate::format::Format;
use half::{bf16, f16};

/// The floats that `bytes` stand for: scale * q, rounded, plus the minimum, rounded.
///
/// # Panics
/// If `bytes` is not exactly the row of `out.len()` elements.
pub fn dequantise_row(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.row_bytes(out.len()), Some(bytes.len()), "{format}: bytes and elements do not match");
    match format {
        Format::F32 => widen(bytes, out, f32::from_le_bytes),
        Format::F16 => widen(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Format::BF16 => widen(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Format::E4M3 => {
            let blocks = bytes.chunks_exact(format.block_bytes());
            blocks.zip(out.chunks_exact_mut(format.block_elems())).for_each(|(block, out)| {
                float8::dequantise(block, out);
            });
        }
        _ => {
            let blocks = bytes.chunks_exact(format.block_bytes());
            let mut parts = SubBlocks::default();
            for (block, out) in blocks.zip(out.chunks_exact_mut(format.block_elems())) {
                unpack(format, block, &mut parts);
                dequantise_block(&parts, sub_block_elems(format), out);
            }
        }
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f(*bytes);
    }
}

fn dequantise_block(parts: &SubBlocks, sub_elems: usize, out: &mut [f32]) {
    for (sub, out) in out.chunks_exact_mut(sub_elems).enumerate() {
        let (scale, minimum) = (parts.scale[sub], parts.minimum[sub]);
        for (q, out) in parts.q[sub * sub_elems..].iter().zip(out) {
            *out = scale * f32::from(*q) + minimum;
        }
    }
}
