//! Formats whose elements are looked up in tables or lie across bytes: each row's block is made bytes in a buffer, and
//! columns are read out of that.

use std::mem::MaybeUninit;

use super::{Column, Packed, Scales, Sink, Weights, Wide};
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

/// The bytes of `magnitudes`, none of which is 0, negated where `mask` has ones: nothing is carried from one to the next.
#[inline(always)]
fn negate(magnitudes: u64, mask: u64) -> u64 {
    (magnitudes ^ mask) + (mask & 0x0101_0101_0101_0101)
}

/// A quantised format that comes through a buffer. The type and the constants are those of [`Packed`].
///
/// # Safety
/// `unpack` must write as many bytes as a block has elements.
pub(in crate::matmul) unsafe trait Buffered {
    const FORMAT: Format;
    type Weights: Weights;
    const CODEBOOK: bool = false;
    /// Eight elements come at once: the format has [`Buffered::eight`].
    const EIGHTS: bool = false;
    /// They are slower put together in registers, where there is a choice: with AVX2 tokens' products are 0.9 (IQ2_S) and 0.56 times
    /// (IQ3_S) as fast.
    const BY_BUFFER: bool = false;

    /// Elements `8 i..8 i + 8` of a block, as the bytes of a number: what they are without signs, and ones in all bits of those that are
    /// negative, which must not be 0.
    #[inline(always)]
    fn eight(_block: &[u8], _i: usize) -> [u64; 2] {
        const { assert!(!Self::EIGHTS, "each format of eights has its own") };
        [0; 2]
    }

    /// Makes bytes of all elements of one block.
    #[inline(always)]
    fn unpack(block: &[u8], to: &mut Bytes) {
        const { assert!(Self::EIGHTS, "each other format has its own") };
        for i in 0..Self::FORMAT.block_elems() / 8 {
            let [magnitudes, mask] = Self::eight(block, i);
            put(to, i, negate(magnitudes, mask).to_le_bytes());
        }
    }

    /// As [`Packed::scales`].
    ///
    /// # Safety
    /// As there.
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>);
}

/// Column `number` of a block of each row, put together in registers: what two stores wrote can't be loaded at once before both are in
/// the cache.
///
/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
unsafe fn column_of_eights<B: Buffered, W: Wide>(
    w: W,
    at: *const u8,
    stride: usize,
    number: usize,
) -> Column<W> {
    let mut column = [w.splat32(0); 4];
    for (i, v) in column.iter_mut().enumerate() {
        let (mut magnitudes, mut masks) = ([[0; 2]; 2], [[0; 2]; 2]);
        for lane in 0..2 {
            let row = at.wrapping_add((4 * lane + i) * stride);
            // SAFETY: the caller's promise: a block in each row.
            let block = unsafe { std::slice::from_raw_parts(row, B::FORMAT.block_bytes()) };
            for half in 0..2 {
                [magnitudes[lane][half], masks[lane][half]] = B::eight(block, 2 * number + half);
            }
        }
        *v = w.negate_where(w.two_lanes(magnitudes), w.two_lanes(masks));
    }
    column
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
        if const { B::EIGHTS && !B::BY_BUFFER && W::TWO_LANES } {
            for sub in 0..Self::SUBS {
                // SAFETY: the caller's promise.
                unsafe {
                    let first = sub * Self::SUB / 16;
                    if Self::SUB == 16 {
                        to.put::<Self, 1>(w, sub, [column_of_eights::<B, W>(w, at, stride, first)]);
                    } else {
                        let columns = [
                            column_of_eights::<B, W>(w, at, stride, first),
                            column_of_eights::<B, W>(w, at, stride, first + 1),
                        ];
                        to.put::<Self, 2>(w, sub, columns);
                    }
                }
            }
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
