//! The input of products, as floats and as integers.

use std::ops::Range;

use super::Precision;
use super::order::{Moved, Room};
use crate::isa::Isa;
use crate::ops::{Glu, glu};
use crate::parallel::{DisjointSlice, Region};
use crate::simd::{LANES, LINE, Simd, dispatch, largest_magnitude, nearest};

/// Elements that share a scale, but for [`GROUP`].
pub(super) const BLOCK: usize = 32;
/// Elements that share a scale with [`Precision::Int8Groups`].
pub(super) const GROUP: usize = 128;
/// Elements of a task where there are many: they are still in the first cache when they are rounded.
const TASK_ELEMS: usize = 2 * 1024;
/// So many are one task, if all that is done with them is to be copied and rounded.
const FEW_ELEMS: usize = 16 * 1024;
/// A block with nothing above it is zeros.
const LEAST: f32 = 1e-30;

/// Bytes that a row takes whose elements have `bytes` bytes, with scales and sums.
pub(super) const fn quantised_bytes(cols: usize, bytes: usize) -> usize {
    cols * bytes + cols / BLOCK * size_of::<BlockInfo>()
}

/// An integer that elements are rounded to.
///
/// # Safety
/// It is not larger than i16, needs no greater alignment, and any bits are one.
pub(super) unsafe trait Integer: Copy + Default + Into<i32> + Send + 'static {
    const PRECISION: Precision;
    /// The largest.
    const LIMIT: i32;
    /// Where each of 16 elements lies.
    const PLACES: [usize; LANES];

    /// Whether a precision has these integers.
    fn is_of(precision: Precision) -> bool {
        precision == Self::PRECISION
    }

    /// One that is not above the limit.
    fn of(x: i32) -> Self;

    /// `q[i] = x[i] * factors[i]` to the nearest, each in the order of `PLACES`, and the sums of each. The products must not be above the
    /// limit, within what their rounding adds.
    #[inline(always)]
    fn round<S: Simd>(
        _: S,
        x: &[[f32; LANES]; LANES],
        factors: &[f32; LANES],
        q: &mut [[Self; LANES]; LANES],
    ) -> [i32; LANES] {
        let mut sums = [0; LANES];
        for (((x, factor), q), sum) in x.iter().zip(factors).zip(q).zip(&mut sums) {
            *sum = round_half(x, *factor, q);
        }
        sums
    }
}

// SAFETY: a byte, whatever its bits.
unsafe impl Integer for i8 {
    const PRECISION: Precision = Precision::Int8;
    const LIMIT: i32 = 127;
    const PLACES: [usize; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    fn is_of(precision: Precision) -> bool {
        matches!(precision, Precision::Int8 | Precision::Int8Groups)
    }

    #[inline(always)]
    fn of(x: i32) -> Self {
        x as Self
    }

    #[inline(always)]
    fn round<S: Simd>(
        s: S,
        x: &[[f32; LANES]; LANES],
        factors: &[f32; LANES],
        q: &mut [[Self; LANES]; LANES],
    ) -> [i32; LANES] {
        s.round_to_bytes(x, factors, q)
    }
}

// SAFETY: an i16.
unsafe impl Integer for i16 {
    const PRECISION: Precision = Precision::Int16;
    const LIMIT: i32 = 32767;
    /// Those of even number first, so that they meet weights that are the low or the high bytes of words.
    const PLACES: [usize; LANES] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];

    #[inline(always)]
    fn of(x: i32) -> Self {
        x as Self
    }
}

/// Scale and sums of a block of 32 elements.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(super) struct BlockInfo {
    /// What the integers are multiplied by.
    pub scale: f32,
    /// The sum of all integers.
    pub sum: i32,
    /// The sums of the first and the last 16 integers.
    pub half_sums: [i32; 2],
    /// `scale * sum`, rounded.
    pub scaled_sum: f32,
    /// `scale * half_sums`, rounded.
    pub scaled_half_sums: [f32; 2],
    /// `half_sums` of bytes; those of words have no room.
    pub half_sum_words: [i16; 2],
}

impl BlockInfo {
    #[inline(always)]
    fn new(scale: f32, half_sums: [i32; 2]) -> Self {
        let sum = half_sums[0] + half_sums[1];
        Self {
            scale,
            sum,
            half_sums,
            scaled_sum: scale * sum as f32,
            scaled_half_sums: half_sums.map(|sum| scale * sum as f32),
            half_sum_words: half_sums.map(|sum| sum as i16),
        }
    }
}

/// Floats beside so many, for the first of them to begin a cache line.
const fn beside(elems: usize) -> usize {
    if elems > 0 { LANES - 1 } else { 0 }
}

/// Rows of floats and, for products with quantised weights, the same in integers. The memory is taken when it is made and never
/// grows.
///
/// Canonical: for each block of 32 elements, `largest` the largest magnitude and `limit` 127 for [`Precision::Int8`] and 32767 for
/// [`Precision::Int16`]: scale = largest / limit, integer = x * (limit / largest) to the nearest, ties to even. A block with nothing
/// above 1e-30 is zeros; one with a NaN or an infinity has the scale NaN. With [`Precision::Int8Groups`] the same of each 128 elements, if
/// rows are whole groups of so many; if they aren't, as with [`Precision::Int8`].
pub struct Activations {
    rows: usize,
    cols: usize,
    /// What the rows were set for.
    precision: Precision,
    values: Vec<f32>,     // [rows, cols] from `first` on
    first: usize,         // where a cache line begins: vectors of what is before would lie on two
    q: Vec<i16>,          // [rows, cols], each 16 in the order of `PLACES`; bytes fill the first half
    info: Vec<BlockInfo>, // [rows, cols / 32]
    /// For the rows in the order of matrices that have one of their own.
    room: Option<Box<Room>>,
}

impl Activations {
    /// Room for `max_rows` rows of `max_cols` elements; no rows are set.
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        let elems = max_rows * max_cols;
        let values = vec![0.0; elems + beside(elems)];
        Self {
            rows: 0,
            cols: 0,
            precision: Precision::Reference,
            first: values.as_ptr().align_offset(LINE).min(beside(elems)),
            values,
            q: vec![0; elems],
            info: vec![BlockInfo::default(); elems / BLOCK],
            room: None,
        }
    }

    /// The same, with room for so many elements in the order of matrices that have an order of their own. Products with such
    /// matrices take memory for a while where there is less.
    #[must_use]
    pub fn with_room(self, elems: usize) -> Self {
        Self { room: (elems > 0).then(|| Box::new(Room::new(elems))), ..self }
    }

    /// Bytes of memory that [`Activations::new`] takes.
    pub fn bytes(max_rows: usize, max_cols: usize) -> usize {
        let elems = max_rows.saturating_mul(max_cols);
        elems
            .saturating_mul(size_of::<f32>() + size_of::<i16>())
            .saturating_add(beside(elems) * size_of::<f32>())
            .saturating_add(elems / BLOCK * size_of::<BlockInfo>())
    }

    /// The room for other orders, if there is one.
    pub(super) fn room(&self) -> Option<&Room> {
        self.room.as_deref()
    }

    /// The elements of all rows.
    fn elems(&self) -> &[f32] {
        &self.values[self.first..][..self.q.len()]
    }

    /// Whether so many elements find room.
    pub(super) fn holds(&self, elems: usize) -> bool {
        elems <= self.q.len()
    }

    /// Sets rows of whole blocks that are moved from other activations, of which each has its rows in ascending order.
    ///
    /// # Panics
    /// If there is no room for so many.
    pub(super) fn fill(
        &mut self,
        region: &Region<'_>,
        rows: usize,
        cols: usize,
        precision: Precision,
        moved: &[Moved<'_>],
    ) {
        self.set_each(region, [rows, cols], precision, cols, |first, values| {
            let row = first / cols;
            let source = moved.partition_point(|moved| moved.first() <= row);
            moved[source - 1].fill(row, values);
        });
    }

    /// Rows that are set.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether rows were set for a precision. All have floats.
    pub(super) fn suits(&self, precision: Precision) -> bool {
        precision == Precision::Reference || precision == self.precision
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Sets all rows: `x` [rows, cols]. They are rounded to the integers of `precision` as well if `cols` is a multiple of 32, which
    /// it is wherever quantised weights are as wide.
    ///
    /// # Panics
    /// If `x` has another length or is more than there is room for.
    pub fn set(&mut self, region: &Region<'_>, rows: usize, cols: usize, x: &[f32], precision: Precision) {
        assert_eq!(x.len(), rows * cols, "activations: not [{rows}, {cols}]");
        let task = if x.len() > FEW_ELEMS { TASK_ELEMS } else { FEW_ELEMS };
        self.set_each(region, [rows, cols], precision, task, |first, values| {
            values.copy_from_slice(&x[first..][..values.len()]);
        });
    }

    /// Sets all rows: `function(gate, up)` of each element, of which both have [rows, cols]; else like [`Activations::set`].
    ///
    /// # Panics
    /// If `gate` or `up` has another length, or there is no room for so many.
    #[expect(clippy::too_many_arguments, reason = "two inputs and what is made of them")]
    pub fn set_gated(
        &mut self,
        region: &Region<'_>,
        rows: usize,
        cols: usize,
        function: Glu,
        gate: &[f32],
        up: &[f32],
        precision: Precision,
    ) {
        assert!([gate, up].iter().all(|x| x.len() == rows * cols), "activations: not [{rows}, {cols}]");
        let isa = region.isa();
        self.set_each(region, [rows, cols], precision, TASK_ELEMS, |first, values| {
            let range = first..first + values.len();
            glu(isa, function, &gate[range.clone()], &up[range], values);
        });
    }

    /// Sets all rows in tasks of `task` elements, whole blocks; `set` gives some of them, of which the first is the so many-th of all.
    fn set_each(
        &mut self,
        region: &Region<'_>,
        [rows, cols]: [usize; 2],
        precision: Precision,
        task: usize,
        set: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let elems = rows * cols;
        assert!(elems <= self.q.len(), "activations: no room for [{rows}, {cols}]");
        (self.rows, self.cols) = (rows, cols);
        self.precision = if cols.is_multiple_of(BLOCK) { precision } else { Precision::Reference };
        match self.precision {
            Precision::Int8Groups if cols.is_multiple_of(GROUP) => {
                self.round_each(region, elems, task, set, quantise_groups);
            }
            Precision::Int8 | Precision::Int8Groups => {
                self.round_each(region, elems, task, set, quantise_bytes);
            }
            Precision::Int16 => self.round_each(region, elems, task, set, quantise_words),
            Precision::Reference => {
                let values = &mut self.values[self.first..][..elems];
                region.run_chunks(values, task, |index, values| set(index * task, values));
            }
        }
    }

    /// Sets elements as [`Activations::set_each`] does and rounds them.
    fn round_each<Q: Integer>(
        &mut self,
        region: &Region<'_>,
        elems: usize,
        task: usize,
        set: impl Fn(usize, &mut [f32]) + Sync,
        quantise: impl Fn(Isa, &[f32], &mut [Q], &mut [BlockInfo]) + Sync,
    ) {
        let isa = region.isa();
        // SAFETY: the promise of `Integer`.
        let q = unsafe { std::slice::from_raw_parts_mut(self.q.as_mut_ptr().cast::<Q>(), self.q.len()) };
        let (q, info) = (DisjointSlice::new(q), DisjointSlice::new(&mut self.info));
        region.run_chunks(&mut self.values[self.first..][..elems], task, |index, values| {
            let begin = index * task;
            let end = begin + values.len();
            set(begin, values);
            // SAFETY: tasks have elements of their own, which are whole blocks.
            let (q, info) = unsafe { (q.range(begin..end), info.range(begin / BLOCK..end / BLOCK)) };
            quantise(isa, values, q, info);
        });
    }

    /// The floats of one row.
    pub(super) fn values(&self, row: usize) -> &[f32] {
        &self.elems()[row * self.cols..][..self.cols]
    }

    /// The integers of one row [cols], and what is known of its blocks [cols / 32].
    ///
    /// # Panics
    /// If the rows were set for another precision or with a width that has no blocks.
    #[inline(always)]
    pub(super) fn quantised<Q: Integer>(&self, row: usize) -> (&[Q], &[BlockInfo]) {
        let blocks = self.cols / BLOCK;
        (self.integers(row..row + 1), &self.info[row * blocks..][..blocks])
    }

    /// The integers of some rows [rows, cols].
    ///
    /// # Panics
    /// As [`Activations::quantised`].
    #[inline(always)]
    pub(super) fn integers<Q: Integer>(&self, rows: Range<usize>) -> &[Q] {
        assert!(
            Q::is_of(self.precision),
            "activations: set for Precision::{:?}, used with integers of {} bytes",
            self.precision,
            size_of::<Q>()
        );
        // SAFETY: the promise of `Integer`; integers of this type were written here, as `precision` says.
        let q = unsafe { std::slice::from_raw_parts(self.q.as_ptr().cast::<Q>(), self.q.len()) };
        &q[rows.start * self.cols..rows.end * self.cols]
    }
}

dispatch! {
    fn quantise_bytes(x: &[f32], q: &mut [i8], info: &mut [BlockInfo]) => quantise_blocks;
}

dispatch! {
    fn quantise_groups(x: &[f32], q: &mut [i8], info: &mut [BlockInfo]) => quantise_blocks_of_groups;
}

dispatch! {
    fn quantise_words(x: &[f32], q: &mut [i16], info: &mut [BlockInfo]) => quantise_blocks;
}

/// With a scale for each block.
#[inline(always)]
fn quantise_blocks<S: Simd, Q: Integer>(s: S, x: &[f32], q: &mut [Q], info: &mut [BlockInfo]) {
    quantise::<S, Q, 1>(s, x, q, info);
}

/// With a scale for each group.
#[inline(always)]
fn quantise_blocks_of_groups<S: Simd>(s: S, x: &[f32], q: &mut [i8], info: &mut [BlockInfo]) {
    quantise::<S, i8, { GROUP / BLOCK }>(s, x, q, info);
}

/// Blocks that are rounded together; each half of one has a lane.
const TOGETHER: usize = LANES * LANES / BLOCK;

/// `SHARED` blocks have one scale.
#[inline(always)]
fn quantise<S: Simd, Q: Integer, const SHARED: usize>(s: S, x: &[f32], q: &mut [Q], info: &mut [BlockInfo]) {
    const { assert!(TOGETHER.is_multiple_of(SHARED)) };
    let (x, x_rest) = x.as_chunks().0.as_chunks::<LANES>();
    let (q, q_rest) = q.as_chunks_mut().0.as_chunks_mut::<LANES>();
    let (info, info_rest) = info.as_chunks_mut::<TOGETHER>();
    for ((x, q), info) in x.iter().zip(q).zip(info) {
        if !quantise_together::<S, Q, SHARED>(s, x, q, info) {
            quantise_each::<Q, SHARED>(x.as_flattened(), q.as_flattened_mut(), info);
        }
    }
    quantise_each::<Q, SHARED>(x_rest.as_flattened(), q_rest.as_flattened_mut(), info_rest);
}

/// Whether all blocks have a scale; if one has not, nothing is written.
#[inline(always)]
fn quantise_together<S: Simd, Q: Integer, const SHARED: usize>(
    s: S,
    x: &[[f32; LANES]; LANES],
    q: &mut [[Q; LANES]; LANES],
    info: &mut [BlockInfo; TOGETHER],
) -> bool {
    let mut largest = [0.0; LANES];
    s.store(s.largest_of_pairs(x), &mut largest);
    if SHARED > 1 {
        for halves in largest.chunks_exact_mut(2 * SHARED) {
            halves.fill(largest_magnitude(halves));
        }
    }
    if !largest.iter().fold(true, |all, x| all & (LEAST..=f32::MAX).contains(x)) {
        return false;
    }
    let (largest, limit) = (s.load(&largest), s.splat(Q::LIMIT as f32));
    let [mut scales, mut factors] = [[0.0; LANES]; 2];
    s.store(s.div(largest, limit), &mut scales);
    s.store(s.div(limit, largest), &mut factors);
    let half_sums = Q::round(s, x, &factors, q);
    for ((info, scale), half_sums) in
        info.iter_mut().zip(scales.iter().step_by(2)).zip(half_sums.as_chunks().0)
    {
        *info = BlockInfo::new(*scale, *half_sums);
    }
    true
}

/// Block by block, in plain code.
#[inline(always)]
fn quantise_each<Q: Integer, const SHARED: usize>(x: &[f32], q: &mut [Q], info: &mut [BlockInfo]) {
    let shared = x.chunks_exact(SHARED * BLOCK).zip(q.chunks_exact_mut(SHARED * BLOCK));
    for ((x, q), info) in shared.zip(info.chunks_exact_mut(SHARED)) {
        let largest = largest_magnitude(x);
        for ((x, q), info) in x.as_chunks().0.iter().zip(q.as_chunks_mut().0).zip(info) {
            *info = quantise_block(x, largest, q);
        }
    }
}

#[inline(always)]
fn quantise_block<Q: Integer>(x: &[f32; BLOCK], largest: f32, q: &mut [Q; BLOCK]) -> BlockInfo {
    if !largest.is_finite() || largest < LEAST {
        *q = [Q::default(); BLOCK];
        return BlockInfo::new(if largest.is_finite() { 0.0 } else { f32::NAN }, [0; 2]);
    }
    let factor = Q::LIMIT as f32 / largest;
    let mut half_sums = [0; 2];
    let halves = x.as_chunks().0.iter().zip(q.as_chunks_mut().0);
    for ((x, q), sum) in halves.zip(&mut half_sums) {
        *sum = round_half(x, factor, q);
    }
    BlockInfo::new(largest / Q::LIMIT as f32, half_sums)
}

/// The nearest integers of products that are not above the limit, within what their rounding adds, and their sum.
#[inline(always)]
fn round_half<Q: Integer>(x: &[f32; LANES], factor: f32, q: &mut [Q; LANES]) -> i32 {
    let mut sum = 0;
    for (x, place) in x.iter().zip(Q::PLACES) {
        let rounded = nearest(x * factor);
        q[place] = Q::of(rounded);
        sum += rounded;
    }
    sum
}

#[cfg(test)]
mod tests;
