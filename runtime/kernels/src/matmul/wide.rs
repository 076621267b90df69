//! What the vector kernels need of an instruction set.
//!
//! A kernel works on [`Wide::ROWS`] weight rows at once: 8 with AVX2, 16 with AVX-512. Weights come in
//! *columns* of 16 elements: four vectors, of which vector i has in its 128-bit lane j the elements of row 4
//! j + i. So four rows meet in each lane position, and sums within lanes, or a transposition of 4 x 4 dwords,
//! end with the rows in order.

mod avx2;
mod avx512;

use super::activations::{BLOCK, BlockInfo};
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
    /// Rows of activations that are multiplied with a panel at once: as many as registers hold the sums of.
    const TILE: usize;

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
    /// A vector from memory.
    ///
    /// # Safety
    /// It must be readable, at any address.
    unsafe fn load(self, at: *const u8) -> Self::V;
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
    /// Shift of words of 16 bits to the right, zeros in.
    fn shr16(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of words of 16 bits to the left.
    fn shl16(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of words of 16 bits to the right, sign in.
    fn sar16(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of dwords to the right, zeros in.
    fn shr32(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of dwords to the right, sign in.
    fn sar32(self, a: Self::V, bits: u32) -> Self::V;
    /// Shift of dwords to the left.
    fn shl32(self, a: Self::V, bits: u32) -> Self::V;
    fn add32(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub32(self, a: Self::V, b: Self::V) -> Self::V;
    /// In each lane the lower half of `a`, then that of `b`.
    fn low_quads(self, a: Self::V, b: Self::V) -> Self::V;
    /// In each lane the upper half of `a`, then that of `b`.
    fn high_quads(self, a: Self::V, b: Self::V) -> Self::V;
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
    /// For each dword the entry of the table with this number; only its low byte counts.
    fn lookup(self, table: &[f32; 256], index: Self::V) -> Self::F;
    /// The dwords as floats.
    fn floats(self, a: Self::V) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn negate(self, a: Self::F) -> Self::F;

    /// To each dword of `sums` adds the two products of the signed words of `a` and `b`.
    fn add_products(self, a: Self::V, b: Self::V, sums: Self::V) -> Self::V;
    /// For each row the sum of its four dwords, given as a column.
    fn row_sums(self, column: Column<Self>) -> Self::V;

    /// Asks for the cache line at `at`, which may be any address.
    fn prefetch(self, at: *const u8);
}

/// The weights of a column as signed words: those of even number, then those of odd number.
#[inline(always)]
pub(super) fn words<P: Packed, W: Wide>(w: W, column: Column<W>) -> [Column<W>; 2] {
    let (mut even, mut odd) = (column, column);
    let low = w.splat32(0x00FF_00FF);
    for i in 0..4 {
        let v = column[i];
        (even[i], odd[i]) = if P::SIGNED {
            (w.sar16(w.shl16(v, 8), 8), w.sar16(v, 8))
        } else {
            (w.and(v, low), w.shr16(v, 8))
        };
    }
    [even, odd]
}

/// For each row the sum of weights times activations over `C` columns.
///
/// # Safety
/// `activations` must be `16 * C` elements.
#[inline(always)]
pub(super) unsafe fn column_sums<P: Packed, W: Wide, const C: usize>(
    w: W,
    weights: &[[Column<W>; 2]; C],
    activations: *const i16,
) -> W::V {
    let mut sums = [w.splat32(0); 4];
    for (c, words) in weights.iter().enumerate() {
        for (half, words) in words.iter().enumerate() {
            // SAFETY: eight of the elements.
            let a = unsafe { w.repeat_bytes(activations.add(16 * c + 8 * half).cast()) };
            for (sum, weights) in sums.iter_mut().zip(words) {
                *sum = w.add_products(*weights, a, *sum);
            }
        }
    }
    w.row_sums(sums)
}

/// For `T` rows of activations and `R` times `W::ROWS` weight rows, `start` and the sums of products over a sub-block of a panel:
/// `P::SUB / 2` times `R` vectors with two elements of each row.
///
/// # Safety
/// `activations` must be `P::SUB` elements.
#[inline(always)]
pub(super) unsafe fn panel_sums<P: Packed, W: Wide, const R: usize, const T: usize>(
    w: W,
    weights: *const u8,
    activations: [*const i16; T],
    start: [W::V; T],
) -> [[W::V; T]; R] {
    let mut sums = [start; R];
    for k in 0..P::SUB / 2 {
        let mut vectors = [w.splat32(0); R];
        for (r, v) in vectors.iter_mut().enumerate() {
            // SAFETY: by the caller's promise.
            *v = unsafe { w.load(weights.add((k * R + r) * W::ROWS * 4)) };
        }
        for (t, a) in activations.iter().enumerate() {
            // SAFETY: by the caller's promise.
            let a = unsafe { w.repeat_dword(a.add(2 * k).cast()) };
            for (sums, v) in sums.iter_mut().zip(vectors) {
                sums[t] = w.add_products(v, a, sums[t]);
            }
        }
    }
    sums
}

/// What the sum of a sub-block's products starts from, since weights stand for themselves less an offset.
#[inline(always)]
pub(super) fn start<P: Packed, W: Wide>(w: W, sub: usize, info: &BlockInfo) -> W::V {
    if P::OFFSET_BITS == 0 {
        return w.splat32(0);
    }
    let sum = if P::SUB == BLOCK { info.sum } else { info.half_sums[sub % 2] };
    w.splat32(-(sum << P::OFFSET_BITS))
}

/// The last steps for a sub-block, in canonical order, for all rows at once. `info` is the activation block's that has the
/// sub-block.
#[inline(always)]
pub(super) fn accumulate<P: Packed, W: Wide>(
    w: W,
    sub: usize,
    sums: W::V,
    (scale, minimum): (W::F, W::F),
    info: &BlockInfo,
    acc: W::F,
) -> W::F {
    let acc = w.fma(w.floats(sums), w.mul(scale, w.splat(info.scale)), acc);
    if !P::MINIMUM {
        return acc;
    }
    let scaled_sum = if P::SUB == BLOCK { info.scaled_sum } else { info.scaled_half_sums[sub % 2] };
    w.fma(minimum, w.splat(scaled_sum), acc)
}
