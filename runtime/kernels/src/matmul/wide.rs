//! What the vector kernels need of an instruction set.
//!
//! A kernel works on [`Wide::ROWS`] weight rows at once: 8 with AVX2, 16 with AVX-512. Weights come in
//! *columns* of 16 elements: four vectors, of which vector i has in its 128-bit lane j the elements of row 4
//! j + i. So four rows meet in each lane position, and sums within lanes, or a transposition of 4 x 4 dwords,
//! end with the rows in order.

mod avx2;
mod avx512;

use super::activations::{BlockInfo, RADIX};
use super::packed::Packed;

/// A column: 16 bytes of each row.
pub(super) type Column<W> = [<W as Wide>::V; 4];

/// An instruction set as a token. Values of the implementing types exist only where the CPU has it.
pub(super) trait Wide: Copy {
    /// A vector: `ROWS` dwords, one for each row, or `ROWS / 4` lanes of 16 bytes.
    type V: Copy;
    /// One float for each row.
    type F: Copy;
    /// Weight rows that are worked on at once.
    const ROWS: usize;
    /// The multiplication takes unsigned weights only: signed ones get 128 added.
    const BIASED: bool;

    /// The column of the 16 bytes at `at` in the first row and every `stride` bytes in the others.
    ///
    /// # Safety
    /// These bytes must be readable in `ROWS` rows.
    unsafe fn column(self, at: *const u8, stride: usize) -> Column<Self>;
    /// The same 16 bytes in each lane.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn repeat_bytes(self, at: *const u8) -> Self::V;
    /// The same dword everywhere.
    ///
    /// # Safety
    /// It must be readable, at any address.
    unsafe fn repeat_dword(self, at: *const u8) -> Self::V;
    /// A vector to memory.
    ///
    /// # Safety
    /// It must be writable, at any address.
    unsafe fn store(self, v: Self::V, at: *mut u8);
    /// Floats from memory.
    ///
    /// # Safety
    /// `ROWS` floats must be readable.
    unsafe fn load_floats(self, at: *const f32) -> Self::F;
    /// Floats to memory.
    ///
    /// # Safety
    /// `ROWS` floats must be writable.
    unsafe fn store_floats(self, v: Self::F, at: *mut f32);

    fn splat8(self, x: u8) -> Self::V;
    fn splat32(self, x: i32) -> Self::V;
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// Shift of words of 16 bits to the right, zeros in.
    fn shr16(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of words of 16 bits to the left.
    fn shl16(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of dwords to the right, zeros in.
    fn shr32(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of dwords to the right, sign in.
    fn sar32(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of dwords to the left.
    fn shl32(self, a: Self::V, bits: u32) -> Self::V;
    fn sub32(self, a: Self::V, b: Self::V) -> Self::V;
    /// Within each lane, byte i of the result is byte `index[i]` (below 16) of `a`.
    fn pick(self, a: Self::V, index: Self::V) -> Self::V;
    /// 16 in each byte where the bit of `bit` is set in `a`, 0 in the others.
    fn sixteen_where(self, a: Self::V, bit: Self::V) -> Self::V;
    /// Dword I of each row's 16 bytes.
    fn dword<const I: usize>(self, column: Column<Self>) -> Self::V;
    /// All four dwords of each row's 16 bytes: vector i has dword i of each row.
    fn dwords(self, column: Column<Self>) -> [Self::V; 4];

    /// The halves in the low words of dwords.
    fn low_halves(self, a: Self::V) -> Self::F;
    /// The halves in the high words of dwords.
    fn high_halves(self, a: Self::V) -> Self::F;
    /// The dwords as floats.
    fn floats(self, a: Self::V) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn negate(self, a: Self::F) -> Self::F;

    /// For each row the sum of weights times activations over `C` columns.
    fn column_sums<P: Packed, const C: usize>(
        self,
        weights: [Column<Self>; C],
        activations: [Self::V; C],
    ) -> Self::V;

    /// For `T` rows of activations and each weight row, the sum of products over a sub-block of a panel:
    /// `weights` is `P::SUB / 4` vectors, each of four elements of every row; `activations` are `P::SUB`
    /// elements.
    ///
    /// # Safety
    /// All of these must be readable.
    unsafe fn panel_sums<P: Packed, const T: usize>(
        self,
        weights: *const u8,
        activations: [*const i8; T],
    ) -> [Self::V; T];

    /// Asks for the cache line at `at`, which may be any address.
    fn prefetch(self, at: *const u8);

    /// What must be taken from a raw sum of products: the weights' offset times the sum of the activations.
    #[inline(always)]
    fn sum_offset<P: Packed>(self, activation_sum: Self::V) -> Self::V {
        let bits = if P::SIGNED { 7 } else { P::OFFSET_BITS };
        self.shl32(activation_sum, bits)
    }

    /// The sums of integers from those of their high and low digits.
    #[inline(always)]
    fn join(self, high: Self::V, low: Self::V) -> Self::V {
        const _: () = assert!(RADIX == 255);
        self.sub32(self.shl32(high, 8), self.sub32(high, low))
    }

    /// Whether raw sums have an offset.
    #[inline(always)]
    fn has_offset<P: Packed>(self) -> bool {
        if P::SIGNED { Self::BIASED } else { P::OFFSET_BITS > 0 }
    }
}

/// The last steps for a sub-block, in canonical order, for all rows at once; `sums` are the raw sums.
///
/// # Safety
/// `info` must be the activation block's that has sub-block `sub`.
#[inline(always)]
pub(super) unsafe fn accumulate<P: Packed, W: Wide>(
    w: W,
    sub: usize,
    mut sums: W::V,
    (scale, minimum): (W::F, W::F),
    info: &BlockInfo,
    acc: W::F,
) -> W::F {
    let half = sub % 2;
    if w.has_offset::<P>() {
        let sum = if P::SUB == 32 { &info.sum } else { &info.half_sums[half] };
        // SAFETY: an i32 is a dword.
        let sum = unsafe { w.repeat_dword(std::ptr::from_ref(sum).cast()) };
        sums = w.sub32(sums, w.sum_offset::<P>(sum));
    }
    let acc = w.fma(w.floats(sums), w.mul(scale, w.splat(info.scale)), acc);
    if !P::MINIMUM {
        return acc;
    }
    let scaled_sum = if P::SUB == 32 { info.scaled_sum } else { info.scaled_half_sums[half] };
    w.fma(minimum, w.splat(scaled_sum), acc)
}
