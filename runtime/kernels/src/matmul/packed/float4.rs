//! The formats of 4-bit floats.

use super::{Offset, Packed, Scales, Sink, Wide, high_nibbles, low_nibbles, values};
use crate::format::Format;
use crate::quant::FLOAT4_VALUES;

/// See [`Format::MXFP4`].
pub(in crate::matmul) struct Mxfp4;
/// See [`Format::NVFP4`].
pub(in crate::matmul) struct Nvfp4;

/// What codes stand for, and 16 more: the bytes of [`Offset`] weights, whose products need no sign.
const VALUES: [i8; 16] = {
    let mut values = FLOAT4_VALUES;
    let mut code = 0;
    while code < values.len() {
        values[code] += 16;
        code += 1;
    }
    values
};

/// 2 to the power of each dword, up to 128, less 64.
#[inline(always)]
fn power_less_64<W: Wide>(w: W, dwords: W::V) -> W::F {
    w.bits_as_floats(w.shl32(w.add32(dwords, w.splat32(127 - 64)), 23))
}

impl Packed for Mxfp4 {
    const FORMAT: Format = Format::MXFP4;
    type Weights = Offset<32, 31, 4>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let q = unsafe { w.column(at, 1, stride) };
        let low = values(w, &VALUES, low_nibbles(w, q));
        let high = values(w, &VALUES, high_nibbles(w, q));
        to.put::<Self, 2>(w, 0, [low, high]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        let head = w.dword::<0>(unsafe { w.column(at, 0, stride) });
        // 2 to the power of the byte less 128, which may be subnormal: the product of two powers that are not.
        let byte = w.byte_of_dwords(head, 0);
        let low = w.shr32(byte, 1);
        to.scale[0] = w.mul(power_less_64(w, low), power_less_64(w, w.sub32(byte, low)));
    }
}

impl Packed for Nvfp4 {
    const FORMAT: Format = Format::NVFP4;
    type Weights = Offset<16, 31, 4>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        for pair in 0..2 {
            // SAFETY: within the block.
            let q = unsafe { w.column(at, 4 + 16 * pair, stride) };
            let low = values(w, &VALUES, low_nibbles(w, q));
            let high = values(w, &VALUES, high_nibbles(w, q));
            let (mut first, mut second) = (low, high);
            for i in 0..4 {
                (first[i], second[i]) = (w.low_quads(low[i], high[i]), w.high_quads(low[i], high[i]));
            }
            to.put::<Self, 1>(w, 2 * pair, [first]);
            to.put::<Self, 1>(w, 2 * pair + 1, [second]);
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        let head = w.dword::<0>(unsafe { w.column(at, 0, stride) });
        // Bytes without their sign. 0x7F, which alone reaches 0x80 with one more and has no sign, becomes 0.
        let (magnitudes, high) = (w.and(head, w.splat8(0x7F)), w.splat8(0x80));
        let (more, sign) = (w.and(w.add32(magnitudes, w.splat8(1)), high), w.and(head, high));
        let none = w.shr32(w.sub32(w.or(more, sign), sign), 7);
        let magnitudes = w.sub32(magnitudes, w.sub32(w.shl32(none, 7), none));
        // Moved to the place of exponent and fraction they are floats, subnormal ones too, but for the bias of the exponent, 7 for 127; and
        // half is wanted.
        let bias = w.splat(f32::from_bits((127 + 127 - 7 - 1) << 23));
        for (sub, scale) in to.scale[..4].iter_mut().enumerate() {
            let bits = w.shl32(w.byte_of_dwords(magnitudes, sub), 20);
            *scale = w.mul(w.bits_as_floats(bits), bias);
        }
    }
}
