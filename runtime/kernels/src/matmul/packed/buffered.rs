//! Formats whose elements are looked up in tables or lie across bytes: each row's block is made bytes in a buffer, and
//! columns are read out of that.

use std::mem::MaybeUninit;

use super::{Packed, Scales, Sink, Weights, Wide};
use crate::format::Format;

/// Most elements of a block, and the bytes between the rows of the buffer.
const ROW: usize = 256;
/// Rows of the widest kernel.
const MAX_ROWS: usize = 16;

/// Elements of a block as bytes, signed or with an offset as its weights are. Nothing is behind its length.
pub(in crate::matmul) type Bytes = [MaybeUninit<u8>; ROW];

/// Writes bytes `N i..N i + N`.
#[inline(always)]
pub(super) fn put<const N: usize>(to: &mut Bytes, i: usize, bytes: [u8; N]) {
    to[N * i..N * i + N].copy_from_slice(&bytes.map(MaybeUninit::new));
}

/// A quantised format that comes through a buffer. The type and the constants are those of [`Packed`].
///
/// # Safety
/// `unpack` must write as many bytes as a block has elements.
pub(in crate::matmul) unsafe trait Buffered {
    const FORMAT: Format;
    type Weights: Weights;
    const CODEBOOK: bool = false;

    /// Makes bytes of all elements of one block.
    fn unpack(block: &[u8], to: &mut Bytes);

    /// As [`Packed::scales`].
    ///
    /// # Safety
    /// As there.
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>);
}

impl<B: Buffered> Packed for B {
    const FORMAT: Format = B::FORMAT;
    type Weights = B::Weights;
    const CODEBOOK: bool = B::CODEBOOK;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: the caller's promise.
        if <Self as Packed>::CODEBOOK && unsafe { w.codebook_weights::<Self>(at, stride, to) } {
            return;
        }
        let mut rows: [Bytes; MAX_ROWS] = [[MaybeUninit::uninit(); ROW]; MAX_ROWS];
        for (r, row) in rows[..W::ROWS].iter_mut().enumerate() {
            // SAFETY: the caller's promise: a block in each row.
            let block = unsafe { std::slice::from_raw_parts(at.add(r * stride), B::FORMAT.block_bytes()) };
            B::unpack(block, row);
        }
        for sub in 0..Self::SUBS {
            let first = rows.as_ptr().cast::<u8>();
            // SAFETY: the buffer has the rows, and in each the sub-block, which `unpack` has written by its promise.
            unsafe {
                let first = first.add(sub * Self::SUB);
                if Self::SUB == 16 {
                    to.put::<Self, 1>(w, sub, [w.column(first, 0, ROW)]);
                } else {
                    to.put::<Self, 2>(w, sub, [w.column(first, 0, ROW), w.column(first, 16, ROW)]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { <B as Buffered>::scales(w, at, stride, to) }
    }
}
