//! Interleaved rows, a dword of each after the other ([`crate::matmul::interleaved`]): a column is loaded as it is
//! multiplied, and sums across dwords are additions of vectors.

use super::{Column, Shared, Wide};
use crate::matmul::interleaved::ROWS;
use crate::matmul::packed::Weights;

/// Rows of one group, or of several that follow each other, `group` bytes apart.
pub(in crate::matmul) trait OfGroups: Wide {
    /// A dword of each row, from those of the first group at `at` on.
    ///
    /// # Safety
    /// They must be readable, at any address.
    unsafe fn load_dwords(self, at: *const u8, group: usize) -> Self::V;
    /// A half of each row, as interleaved blocks end with them.
    ///
    /// # Safety
    /// They must be readable, at any address.
    unsafe fn load_halves(self, at: *const u8, group: usize) -> Self::F;
}

/// An instruction set on interleaved rows.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Interleaved<W: OfGroups>(pub W);

/// Methods that are those of the instruction set.
macro_rules! same {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            self.0.$name($($arg),*)
        }
    )*};
}

/// The same for those that touch memory.
macro_rules! same_unsafe {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller's promise.
            unsafe { self.0.$name($($arg),*) }
        }
    )*};
}

impl<W: OfGroups> Wide for Interleaved<W> {
    type V = W::V;
    type F = W::F;
    type Plain = W::Plain;
    const ROWS: usize = {
        assert!(W::ROWS.is_multiple_of(ROWS), "whole groups");
        W::ROWS
    };
    const INTERLEAVED: bool = true;
    const PANEL_MIN_N: usize = W::PANEL_MIN_N;
    const TILE: usize = W::TILE;
    const BYTE_PARTS: bool = W::BYTE_PARTS;
    const SIGNED_OFFSET_BITS: u32 = W::SIGNED_OFFSET_BITS;

    #[inline(always)]
    unsafe fn column(self, at: *const u8, offset: usize, stride: usize) -> Column<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            let (at, dwords, group) = (at.add(offset * ROWS), 4 * ROWS, ROWS * stride);
            [
                self.0.load_dwords(at, group),
                self.0.load_dwords(at.add(dwords), group),
                self.0.load_dwords(at.add(2 * dwords), group),
                self.0.load_dwords(at.add(3 * dwords), group),
            ]
        }
    }

    #[inline(always)]
    unsafe fn last_halves(self, at: *const u8, offset: usize, stride: usize) -> W::F {
        // SAFETY: the caller's promise.
        unsafe { self.0.load_halves(at.add(offset * ROWS), ROWS * stride) }
    }

    #[inline(always)]
    fn dword<const I: usize>(self, column: Column<Self>) -> W::V {
        column[I]
    }

    #[inline(always)]
    fn dwords(self, column: Column<Self>) -> [W::V; 4] {
        column
    }

    #[inline(always)]
    fn row_sums(self, [a, b, c, d]: Column<Self>) -> W::V {
        self.add32(self.add32(a, b), self.add32(c, d))
    }

    #[inline(always)]
    fn byte_weights<K: Weights>(self, weights: W::V) -> W::V {
        self.0.byte_weights::<K>(weights)
    }

    #[inline(always)]
    fn add_byte_products<K: Weights>(self, weights: W::V, b: W::V, part: W::V) -> W::V {
        self.0.add_byte_products::<K>(weights, b, part)
    }

    #[inline(always)]
    fn byte_steps<K: Weights>() -> usize {
        W::byte_steps::<K>()
    }

    #[inline(always)]
    fn run_shared(self, task: impl Shared<W::Plain>) {
        self.0.run_shared(task);
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        self.0.prefetch(at);
    }

    #[inline(always)]
    fn prefetch_far(self, at: *const u8) {
        self.0.prefetch_far(at);
    }

    #[inline(always)]
    fn prefetch_to_write(self, at: *const u8) {
        self.0.prefetch_to_write(at);
    }

    same_unsafe! {
        repeat_bytes(at: *const u8) -> W::V;
        load(at: *const u8) -> W::V;
        repeat_dword(at: *const u8) -> W::V;
        store(v: W::V, at: *mut u8);
        load_floats(at: *const f32) -> W::F;
        store_floats(v: W::F, at: *mut f32);
    }

    same! {
        splat8(x: u8) -> W::V;
        splat32(x: i32) -> W::V;
        and(a: W::V, b: W::V) -> W::V;
        or(a: W::V, b: W::V) -> W::V;
        shr16(a: W::V, bits: u32) -> W::V;
        shl16(a: W::V, bits: u32) -> W::V;
        sar16(a: W::V, bits: u32) -> W::V;
        shr32(a: W::V, bits: u32) -> W::V;
        sar32(a: W::V, bits: u32) -> W::V;
        shl32(a: W::V, bits: u32) -> W::V;
        byte_of_dwords(a: W::V, byte: usize) -> W::V;
        high_byte_of_dwords(a: W::V, byte: usize) -> W::V;
        add32(a: W::V, b: W::V) -> W::V;
        sub32(a: W::V, b: W::V) -> W::V;
        mul32(a: W::V, b: W::V) -> W::V;
        in_order(sums: W::V) -> W::V;
        low_quads(a: W::V, b: W::V) -> W::V;
        high_quads(a: W::V, b: W::V) -> W::V;
        pick(a: W::V, index: W::V) -> W::V;
        sixteen_where(a: W::V, bit: W::V) -> W::V;
        low_halves(a: W::V) -> W::F;
        high_halves(a: W::V) -> W::F;
        bits_as_floats(a: W::V) -> W::F;
        floats(a: W::V) -> W::F;
        splat(x: f32) -> W::F;
        mul(a: W::F, b: W::F) -> W::F;
        fma(a: W::F, b: W::F, c: W::F) -> W::F;
        negate(a: W::F) -> W::F;
        add_products(a: W::V, b: W::V, sums: W::V) -> W::V;
        add_part(part: W::V, sums: W::V) -> W::V;
    }
}
