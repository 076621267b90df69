//! The formats of 4-bit floats.

use super::{Packed, Scales, Signed, Sink, Wide, high_nibbles, low_nibbles, values};
use crate::format::Format;
use crate::quant::{FLOAT4_VALUES, POWERS_OF_TWO, UNSIGNED_FLOAT8};

/// See [`Format::MXFP4`].
pub(in crate::matmul) struct Mxfp4;
/// See [`Format::NVFP4`].
pub(in crate::matmul) struct Nvfp4;

impl Packed for Mxfp4 {
    const FORMAT: Format = Format::MXFP4;
    type Weights = Signed<32, 15>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let q = unsafe { w.column(at, 1, stride) };
        let columns = [low_nibbles(w, q), high_nibbles(w, q)];
        to.put::<Self, 2>(w, 0, columns.map(|column| values(w, &FLOAT4_VALUES, column)));
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        let head = w.dword::<0>(unsafe { w.column(at, 0, stride) });
        to.scale[0] = w.lookup(&POWERS_OF_TWO, head);
    }
}

impl Packed for Nvfp4 {
    const FORMAT: Format = Format::NVFP4;
    type Weights = Signed<16, 15>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        for pair in 0..2 {
            // SAFETY: within the block.
            let q = unsafe { w.column(at, 4 + 16 * pair, stride) };
            let low = values(w, &FLOAT4_VALUES, low_nibbles(w, q));
            let high = values(w, &FLOAT4_VALUES, high_nibbles(w, q));
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
        for (sub, scale) in to.scale[..4].iter_mut().enumerate() {
            *scale = w.lookup(&UNSIGNED_FLOAT8, w.shr32(head, 8 * sub as u32));
        }
    }
}
