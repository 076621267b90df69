//! What the vector kernels need of an instruction set.
//!
//! A kernel works on [`Wide::ROWS`] weight rows at once: 8 with AVX2 and NEON, 16 with AVX-512. Weights come in
//! *columns* of 16 elements: four vectors, of which vector i has in its 128-bit lane j the elements of row 4
//! j + i. So four rows meet in each lane position, and sums within lanes, or a transposition of 4 x 4 dwords,
//! end with the rows in order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod interleaved;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::activations::{BLOCK, BlockInfo, Integer};
use super::packed::{Packed, Sink, Weights};
#[cfg(target_arch = "x86_64")]
pub(super) use interleaved::Interleaved;

/// A column: 16 bytes of each row.
pub(super) type Column<W> = [<W as Wide>::V; 4];

/// An instruction set as a token. Values of the implementing types exist only where the CPU has it.
pub(super) trait Wide: Copy {
    /// A vector: `ROWS` dwords, one for each row, or `ROWS / 4` lanes of 16 bytes.
    type V: Copy;
    /// One float for each row.
    type F: Copy;
    /// The instruction set as products with panels need it: the same vectors and the same bytes of weights, however rows lie in memory.
    type Plain: Wide<V = Self::V, F = Self::F>;
    /// Weight rows that are worked on at once.
    const ROWS: usize;
    /// Rows are interleaved: see [`super::interleaved`].
    const INTERLEAVED: bool = false;
    /// For one row of activations the sums of half a block, of formats that have runs of two pieces, are added up beside the products of
    /// the other half also where weight rows lie as in files.
    const HALVES_OVERLAP: bool = false;
    /// Weights that come eight at a time out of tables are put together by [`Wide::two_lanes`] and [`Wide::negate_where`].
    const TWO_LANES: bool = false;
    /// Rows of activations from which on weights are unpacked into panels.
    const PANEL_MIN_N: usize = 4;
    /// Rows of activations that are multiplied with a panel at once: as many as registers hold the sums of.
    const TILE: usize;
    /// Whether sums of products of bytes are parts, of 16 bits, which have to be added to sums in time.
    const BYTE_PARTS: bool;
    /// Signed bytes of weights become unsigned by 2 to the power of this, which is added to them; 0: they stay.
    const SIGNED_OFFSET_BITS: u32;

    /// The column of the 16 bytes from byte `offset` of a block on: that at `at` in the first row, and every `stride` bytes in the
    /// others.
    ///
    /// # Safety
    /// These bytes must be readable in `ROWS` rows, and in rows that are interleaved whole dwords of the block.
    unsafe fn column(self, at: *const u8, offset: usize, stride: usize) -> Column<Self>;
    /// The halves that blocks end with, from byte `offset` on.
    ///
    /// # Safety
    /// As for [`Wide::column`]; the blocks must have 14 bytes before them.
    #[inline(always)]
    unsafe fn last_halves(self, at: *const u8, offset: usize, stride: usize) -> Self::F {
        // SAFETY: the caller's promise.
        let tail = unsafe { self.column(at, offset - 14, stride) };
        self.high_halves(self.dword::<3>(tail))
    }
    /// Gives all weights of a block to `to` where the instruction set has a way of its own for the codebook of `P`; false if it has none.
    ///
    /// # Safety
    /// As for [`Packed::weights`].
    #[inline(always)]
    unsafe fn codebook_weights<P: Packed>(
        self,
        _at: *const u8,
        _stride: usize,
        _to: &mut impl Sink<Self>,
    ) -> bool {
        false
    }
    /// The vector of these lanes, of an instruction set that has two and makes one of them faster than by way of memory
    /// ([`Wide::TWO_LANES`]).
    #[inline(always)]
    fn two_lanes(self, _lanes: [[u64; 2]; 2]) -> Self::V {
        const { assert!(!Self::TWO_LANES, "whoever has two puts them together") };
        self.splat32(0)
    }
    /// Bytes of `magnitudes`, negated where the mask's are all ones, not where they are 0.
    #[inline(always)]
    fn negate_where(self, magnitudes: Self::V, _mask: Self::V) -> Self::V {
        const { assert!(!Self::TWO_LANES, "whoever has two negates bytes") };
        magnitudes
    }
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
    /// Byte `byte` of each dword, as a dword.
    #[inline(always)]
    fn byte_of_dwords(self, a: Self::V, byte: usize) -> Self::V {
        self.and(self.shr32(a, 8 * byte as u32), self.splat32(0xFF))
    }
    /// Byte `byte` of each dword as its highest, above zeros.
    #[inline(always)]
    fn high_byte_of_dwords(self, a: Self::V, byte: usize) -> Self::V {
        self.and(self.shl32(a, 24 - 8 * byte as u32), self.splat32(0xFF << 24))
    }
    fn add32(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub32(self, a: Self::V, b: Self::V) -> Self::V;
    /// The low 32 bits of products of dwords.
    fn mul32(self, a: Self::V, b: Self::V) -> Self::V;
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
    /// The floats whose bits the dwords are.
    fn bits_as_floats(self, a: Self::V) -> Self::F;
    /// The dwords as floats.
    fn floats(self, a: Self::V) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn negate(self, a: Self::F) -> Self::F;

    /// To each dword of `sums` adds the two products of the signed words of `a` and `b`.
    fn add_products(self, a: Self::V, b: Self::V, sums: Self::V) -> Self::V;
    /// Bytes of weights as [`Wide::add_byte_products`] takes them.
    fn byte_weights<K: Weights>(self, weights: Self::V) -> Self::V;
    /// Adds the products of the bytes of weights and the signed bytes of `b` to the part of a sum that each dword has.
    fn add_byte_products<K: Weights>(self, weights: Self::V, b: Self::V, part: Self::V) -> Self::V;
    /// Adds to each dword of `sums` the part of a sum in it, to which at most so many times was added:
    /// [`Wide::byte_steps`].
    fn add_part(self, part: Self::V, sums: Self::V) -> Self::V;
    /// How often products of bytes can be added to a part of a sum: a power of two.
    fn byte_steps<K: Weights>() -> usize;
    /// For each row the sum of its four dwords, given as a column.
    fn row_sums(self, column: Column<Self>) -> Self::V;
    /// For each row the sum of its four parts of sums, to each of which products of `C` columns were added: at most [`Wide::byte_steps`].
    #[inline(always)]
    fn part_sums<K: Weights, const C: usize>(self, mut parts: Column<Self>) -> Self::V {
        let zero = self.splat32(0);
        for part in &mut parts {
            *part = self.add_part(*part, zero);
        }
        self.row_sums(parts)
    }

    /// The same sums, added up in the order of the source where the compiler would take another for which registers don't suffice.
    #[inline(always)]
    fn in_order(self, sums: Self::V) -> Self::V {
        sums
    }

    /// Runs a task in a function that all who have the same task share.
    fn run_shared(self, task: impl Shared<Self::Plain>);

    /// Asks for the cache line at `at`, which may be any address.
    fn prefetch(self, at: *const u8);
    /// The same for a line that is needed later, behind many others.
    #[inline(always)]
    fn prefetch_far(self, at: *const u8) {
        self.prefetch(at);
    }
    /// Asks for the cache line at `at`, which may be any address, to be written; nothing where nobody has measured that.
    #[inline(always)]
    fn prefetch_to_write(self, _at: *const u8) {}
}

/// What [`Wide::run_shared`] runs.
pub(super) trait Shared<W: Wide> {
    /// Runs it; to be inlined, so that it is compiled for the instruction set.
    fn run(self, w: W);
}

/// Columns as they are multiplied.
pub(super) enum Operand<W: Wide, const C: usize> {
    /// Unsigned, or signed where the instruction set takes them.
    Bytes([Column<W>; C]),
    /// Signed words: those of even number, then those of odd number.
    Words([[Column<W>; 2]; C]),
}

impl<W: Wide, const C: usize> Operand<W, C> {
    /// What columns of weights `K` are when integers `Q` meet them.
    #[inline(always)]
    pub fn new<K: Weights, Q: Integer>(w: W, columns: [Column<W>; C]) -> Self {
        if size_of::<Q>() == 1 {
            let mut bytes = columns;
            for (bytes, column) in bytes.iter_mut().zip(columns) {
                *bytes = byte_weights::<K, W>(w, column);
            }
            Self::Bytes(bytes)
        } else {
            let mut halves = [[columns[0]; 2]; C];
            for (halves, column) in halves.iter_mut().zip(columns) {
                *halves = words::<K, W>(w, column);
            }
            Self::Words(halves)
        }
    }
}

/// The weights of a column as products of bytes take them.
#[inline(always)]
pub(super) fn byte_weights<K: Weights, W: Wide>(w: W, [a, b, c, d]: Column<W>) -> Column<W> {
    [w.byte_weights::<K>(a), w.byte_weights::<K>(b), w.byte_weights::<K>(c), w.byte_weights::<K>(d)]
}

/// The weights of a column as signed words: those of even number, then those of odd number.
#[inline(always)]
pub(super) fn words<K: Weights, W: Wide>(w: W, column: Column<W>) -> [Column<W>; 2] {
    let (mut even, mut odd) = (column, column);
    let low = w.splat32(0x00FF_00FF);
    for i in 0..4 {
        let v = column[i];
        (even[i], odd[i]) = if K::SIGNED {
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
/// `activations` must be `16 * C` integers.
#[inline(always)]
pub(super) unsafe fn column_sums<K: Weights, W: Wide, Q: Integer, const C: usize>(
    w: W,
    weights: &Operand<W, C>,
    activations: *const Q,
) -> W::V {
    let activations: *const u8 = activations.cast();
    if W::INTERLEAVED {
        // SAFETY: the caller's promise.
        return unsafe { dword_sums::<K, W, C>(w, weights, activations) };
    }
    let mut sums = [w.splat32(0); 4];
    match weights {
        Operand::Words(weights) => {
            for (c, words) in weights.iter().enumerate() {
                for (half, words) in words.iter().enumerate() {
                    // SAFETY: eight of the words.
                    let a = unsafe { w.repeat_bytes(activations.add(32 * c + 16 * half)) };
                    for (sum, weights) in sums.iter_mut().zip(words) {
                        *sum = w.add_products(*weights, a, *sum);
                    }
                }
            }
        }
        Operand::Bytes(weights) if C <= W::byte_steps::<K>() => {
            // SAFETY: the caller's promise.
            return w.part_sums::<K, C>(unsafe { byte_parts::<K, W>(w, weights, activations) });
        }
        Operand::Bytes(weights) => {
            for (part, weights) in weights.chunks(W::byte_steps::<K>()).enumerate() {
                // SAFETY: the bytes of these columns.
                let parts = unsafe {
                    byte_parts::<K, W>(w, weights, activations.add(16 * part * W::byte_steps::<K>()))
                };
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = w.add_part(part, *sum);
                }
            }
        }
    }
    w.row_sums(sums)
}

/// The same of columns of which vector i has dword i of each row.
///
/// # Safety
/// As for [`column_sums`].
#[inline(always)]
unsafe fn dword_sums<K: Weights, W: Wide, const C: usize>(
    w: W,
    weights: &Operand<W, C>,
    activations: *const u8,
) -> W::V {
    let mut sum = w.splat32(0);
    match weights {
        Operand::Words(weights) => {
            for (k, words) in weights.as_flattened().as_flattened().iter().enumerate() {
                // SAFETY: two of the words.
                let a = unsafe { w.repeat_dword(activations.add(4 * k)) };
                sum = w.add_products(*words, a, sum);
            }
        }
        Operand::Bytes(weights) => {
            let steps = W::byte_steps::<K>();
            for (first, weights) in (0..).step_by(steps).zip(weights.as_flattened().chunks(steps)) {
                let mut part = w.splat32(0);
                for (k, bytes) in weights.iter().enumerate() {
                    // SAFETY: four of the bytes.
                    let a = unsafe { w.repeat_dword(activations.add(4 * (first + k))) };
                    part = w.add_byte_products::<K>(*bytes, a, part);
                }
                sum = w.add_part(part, sum);
            }
        }
    }
    sum
}

/// The same for `N` rows of bytes, from element `first` of each on, if a part has room for all products of a row: a dword of all rows after
/// the other. With AVX2 1.23 times as fast as row after row (Q4_K, 4 rows).
///
/// # Safety
/// Each of `activations` must have `16 * C` bytes from `first` on.
#[inline(always)]
pub(super) unsafe fn dword_sums_of_rows<K: Weights, W: Wide, Q: Integer, const C: usize, const N: usize>(
    w: W,
    weights: &[Column<W>; C],
    activations: &[*const Q; N],
    first: usize,
) -> [W::V; N] {
    debug_assert!(
        size_of::<Q>() == 1 && 4 * C <= W::byte_steps::<K>(),
        "a part has room for bytes of one row"
    );
    let mut parts = [w.splat32(0); N];
    for (k, bytes) in weights.as_flattened().iter().enumerate() {
        for (part, a) in parts.iter_mut().zip(activations) {
            // SAFETY: four of the bytes.
            let a = unsafe { w.repeat_dword(a.cast::<u8>().add(first + 4 * k)) };
            *part = w.in_order(w.add_byte_products::<K>(*bytes, a, *part));
        }
    }
    let mut sums = [w.splat32(0); N];
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum = w.add_part(part, *sum);
    }
    sums
}

/// The parts of sums of the products of columns, no more than [`Wide::byte_steps`], and the bytes of a row of activations.
///
/// # Safety
/// `activations` must be 16 bytes for each column.
#[inline(always)]
unsafe fn byte_parts<K: Weights, W: Wide>(w: W, weights: &[Column<W>], activations: *const u8) -> Column<W> {
    let mut parts = [w.splat32(0); 4];
    for (c, column) in weights.iter().enumerate() {
        // SAFETY: the caller's promise.
        let a = unsafe { w.repeat_bytes(activations.add(16 * c)) };
        for (part, weights) in parts.iter_mut().zip(column) {
            *part = w.add_byte_products::<K>(*weights, a, *part);
        }
    }
    parts
}

/// What the sum of a sub-block's products starts from, since weights stand for themselves less an offset.
#[inline(always)]
pub(super) fn start<K: Weights, W: Wide, Q: Integer>(w: W, sub: usize, info: &BlockInfo) -> W::V {
    const { assert!(!K::SIGNED || K::OFFSET_BITS == 0, "signed weights stand for themselves") };
    let made_unsigned = K::SIGNED && size_of::<Q>() == 1;
    let bits = if made_unsigned { W::SIGNED_OFFSET_BITS } else { K::OFFSET_BITS };
    if bits == 0 {
        return w.splat32(0);
    }
    let sum = if K::SUB == BLOCK { info.sum } else { info.half_sums[sub % 2] };
    w.splat32(-(sum << bits))
}

/// The last steps for a sub-block, in canonical order, for all rows at once. `info` is the activation block's that has the
/// sub-block.
#[inline(always)]
pub(super) fn accumulate<K: Weights, W: Wide>(
    w: W,
    sub: usize,
    sums: W::V,
    (scale, minimum): (W::F, W::F),
    info: &BlockInfo,
    acc: W::F,
) -> W::F {
    let acc = w.fma(w.floats(sums), w.mul(scale, w.splat(info.scale)), acc);
    if !K::MINIMUM {
        return acc;
    }
    let scaled_sum = if K::SUB == BLOCK { info.scaled_sum } else { info.scaled_half_sums[sub % 2] };
    w.fma(minimum, w.splat(scaled_sum), acc)
}
