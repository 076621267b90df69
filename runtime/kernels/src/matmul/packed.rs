//! The quantised formats for the vector kernels: how to get columns of weights, and scales, out of a block of
//! each of several rows. [`crate::quant`] has the layouts in plain words.

mod blocks;
mod buffered;
mod codebooks;
mod few_bits;
mod float4;
mod super_blocks;
mod weights;

pub(super) use blocks::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(super) use codebooks::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
pub(super) use few_bits::{Q1_0, Q2_0, Tq1_0, Tq2_0};
pub(super) use float4::{Mxfp4, Nvfp4};
pub(super) use super_blocks::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
pub(super) use weights::{Offset, Signed, Weights, WithMinimum};

use super::wide::{Column, Wide};
use crate::format::Format;

/// Most sub-blocks of a block.
pub(super) const MAX_SUBS: usize = 16;

/// A quantised format.
pub(super) trait Packed {
    const FORMAT: Format;
    /// What its weights are once they are unpacked.
    type Weights: Weights;
    /// Weights come out of a table that a vector may hold: see [`Wide::codebook_weights`].
    const CODEBOOK: bool = false;

    /// Elements of a sub-block.
    const SUB: usize = <Self::Weights as Weights>::SUB;
    /// Sub-blocks of a block.
    const SUBS: usize = Self::FORMAT.block_elems() / Self::SUB;

    /// Pieces in which the weights of a block can be had: 1 or 4.
    const PIECES: usize = 1;
    /// How many of these make up a run of sub-blocks that follow each other: 1 or 2.
    const PIECES_A_RUN: usize = 1;

    /// Gives all weights of a block to `to`, a sub-block at a time in any order. Formats of one piece have this, others
    /// [`Packed::piece`].
    ///
    /// # Safety
    /// `at` must be the block in the first of `W::ROWS` rows, `stride` bytes apart.
    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        const { assert!(Self::PIECES > 1, "one piece is all weights") };
        for piece in 0..Self::PIECES {
            // SAFETY: the caller's promise.
            unsafe { Self::piece(w, at, stride, piece, to) }
        }
    }

    /// Gives the weights of a piece, likewise.
    ///
    /// # Safety
    /// As for [`Packed::weights`].
    #[inline(always)]
    unsafe fn piece<W: Wide>(w: W, at: *const u8, stride: usize, _piece: usize, to: &mut impl Sink<W>) {
        const { assert!(Self::PIECES == 1, "each piece has its weights") };
        // SAFETY: the caller's promise.
        unsafe { Self::weights(w, at, stride, to) }
    }

    /// The scales and, where there are any, minimums of the block's sub-blocks, in order.
    ///
    /// # Safety
    /// As for [`Packed::weights`].
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>);
}

/// Scales and minimums of a block's sub-blocks.
pub(super) struct Scales<W: Wide> {
    pub scale: [W::F; MAX_SUBS],
    pub minimum: [W::F; MAX_SUBS],
}

/// A format that is [grouped](Format::is_grouped).
pub(super) trait Grouped: Packed {
    /// The scales and, where there are any, minimums as they are stored.
    ///
    /// # Safety
    /// As for [`Packed::weights`].
    unsafe fn integer_scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut IntegerScales<W>);
}

/// Scales and minimums of a block's sub-blocks as they are stored, in dwords, and what they are multiplied by.
pub(super) struct IntegerScales<W: Wide> {
    pub unit: W::F,
    pub minimum_unit: W::F,
    pub scale: [W::V; MAX_SUBS],
    pub minimum: [W::V; MAX_SUBS],
}

/// What takes sub-blocks of weights.
pub(super) trait Sink<W: Wide> {
    /// Takes a sub-block of format `P`, as `P::SUB / 16` columns.
    fn put<P: Packed, const C: usize>(&mut self, w: W, sub: usize, columns: [Column<W>; C]);
}

/// The low four bits of each byte.
#[inline(always)]
fn low_nibbles<W: Wide>(w: W, column: Column<W>) -> Column<W> {
    let mask = w.splat8(15);
    let [a, b, c, d] = column;
    [w.and(a, mask), w.and(b, mask), w.and(c, mask), w.and(d, mask)]
}

/// The high four bits of each byte.
#[inline(always)]
fn high_nibbles<W: Wide>(w: W, column: Column<W>) -> Column<W> {
    let [a, b, c, d] = column;
    low_nibbles(w, [w.shr16(a, 4), w.shr16(b, 4), w.shr16(c, 4), w.shr16(d, 4)])
}

/// One or the other bit in each place.
#[inline(always)]
fn or<W: Wide>(w: W, a: Column<W>, b: Column<W>) -> Column<W> {
    [w.or(a[0], b[0]), w.or(a[1], b[1]), w.or(a[2], b[2]), w.or(a[3], b[3])]
}

/// The bits `mask` of each byte after a shift by `by` to the left, or to the right if it is negative. Bits
/// that come from a neighbouring byte must be outside the mask.
#[inline(always)]
fn bits<W: Wide>(w: W, column: Column<W>, by: i32, mask: u8) -> Column<W> {
    let mask = w.splat8(mask);
    let mut out = column;
    for v in &mut out {
        let shifted = if by < 0 { w.shr16(*v, by.unsigned_abs()) } else { w.shl16(*v, by.unsigned_abs()) };
        *v = w.and(shifted, mask);
    }
    out
}

/// The values of the IQ4 formats in the place of their indices.
#[inline(always)]
fn iq4_values<W: Wide>(w: W, indices: Column<W>) -> Column<W> {
    values(w, &crate::quant::IQ4_VALUES, indices)
}

/// The values of a table in the place of their indices.
#[inline(always)]
fn values<W: Wide>(w: W, table: &[i8; 16], indices: Column<W>) -> Column<W> {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { w.repeat_bytes(table.as_ptr().cast()) };
    let [a, b, c, d] = indices;
    [w.pick(table, a), w.pick(table, b), w.pick(table, c), w.pick(table, d)]
}
