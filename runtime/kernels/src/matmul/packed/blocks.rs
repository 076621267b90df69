//! The formats with blocks of 32 elements.

use super::{
    Column, Offset, Packed, Scales, Signed, Sink, Wide, WithMinimum, high_nibbles, iq4_values, low_nibbles,
    or,
};
use crate::format::Format;

/// See [`Format::Q4_0`].
pub(in crate::matmul) struct Q4_0;
/// See [`Format::Q4_1`].
pub(in crate::matmul) struct Q4_1;
/// See [`Format::Q5_0`].
pub(in crate::matmul) struct Q5_0;
/// See [`Format::Q5_1`].
pub(in crate::matmul) struct Q5_1;
/// See [`Format::Q8_0`].
pub(in crate::matmul) struct Q8_0;
/// See [`Format::IQ4NL`].
pub(in crate::matmul) struct Iq4Nl;

/// The scale at the beginning of the block.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn scale<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
    // SAFETY: every block has 16 bytes.
    let head = unsafe { w.column(at, 0, stride) };
    to.scale[0] = w.low_halves(w.dword::<0>(head));
}

/// The scale and the minimum at the beginning of the block.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn scale_and_minimum<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
    // SAFETY: every block has 16 bytes.
    let head = w.dword::<0>(unsafe { w.column(at, 0, stride) });
    to.scale[0] = w.low_halves(head);
    to.minimum[0] = w.high_halves(head);
}

/// 16 where the fifth bit is set, for both columns; the bits are bytes `first..first + 4` of the block.
#[inline(always)]
fn fifth_bits<W: Wide>(w: W, head: Column<W>, first: u8) -> [Column<W>; 2] {
    const BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    const BYTE: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
    // SAFETY: the tables have 16 bytes.
    let (bit, byte) = unsafe { (w.repeat_bytes(BIT.as_ptr()), w.repeat_bytes(BYTE.as_ptr())) };
    let mut columns = [head; 2];
    for (half, column) in columns.iter_mut().enumerate() {
        let index = w.or(byte, w.splat8(first + 2 * half as u8));
        for v in column {
            *v = w.sixteen_where(w.pick(*v, index), bit);
        }
    }
    columns
}

impl Packed for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    type Weights = Offset<32, 15, 3>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let q = unsafe { w.column(at, 2, stride) };
        to.put::<Self, 2>(w, 0, [low_nibbles(w, q), high_nibbles(w, q)]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { scale(w, at, stride, to) }
    }
}

impl Packed for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    type Weights = WithMinimum<32, 15>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let q = unsafe { w.column(at, 4, stride) };
        to.put::<Self, 2>(w, 0, [low_nibbles(w, q), high_nibbles(w, q)]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { scale_and_minimum(w, at, stride, to) }
    }
}

impl Packed for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    type Weights = Offset<32, 31, 4>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let (head, q) = unsafe { (w.column(at, 0, stride), w.column(at, 6, stride)) };
        // The bits begin at an even byte, so that `or` adds the index of the byte.
        let [low, high] = fifth_bits(w, head, 2);
        to.put::<Self, 2>(w, 0, [or(w, low_nibbles(w, q), low), or(w, high_nibbles(w, q), high)]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { scale(w, at, stride, to) }
    }
}

impl Packed for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    type Weights = WithMinimum<32, 31>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let (head, q) = unsafe { (w.column(at, 0, stride), w.column(at, 8, stride)) };
        let [low, high] = fifth_bits(w, head, 4);
        to.put::<Self, 2>(w, 0, [or(w, low_nibbles(w, q), low), or(w, high_nibbles(w, q), high)]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { scale_and_minimum(w, at, stride, to) }
    }
}

impl Packed for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    type Weights = Signed<32, 128>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let columns = unsafe { [w.column(at, 2, stride), w.column(at, 18, stride)] };
        to.put::<Self, 2>(w, 0, columns);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { scale(w, at, stride, to) }
    }
}

impl Packed for Iq4Nl {
    const FORMAT: Format = Format::IQ4NL;
    type Weights = Signed<32, 128>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let q = unsafe { w.column(at, 2, stride) };
        let columns = [iq4_values(w, low_nibbles(w, q)), iq4_values(w, high_nibbles(w, q))];
        to.put::<Self, 2>(w, 0, columns);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { scale(w, at, stride, to) }
    }
}
