//! The input of products, as floats and as integers.

use std::ops::Range;

use super::Precision;
use super::order::{Moved, Room};
use crate::isa::Isa;
use crate::parallel::{DisjointSlice, Region};
use crate::simd::{LANES, LINE, Simd, dispatch};

/// Elements that share a scale, but for [`GROUP`].
pub(super) const BLOCK: usize = 32;
/// Elements that share a scale with [`Precision::Int8Groups`].
pub(super) const GROUP: usize = 128;
/// Elements that are worth a task.
const TASK_ELEMS: usize = 16 * 1024;

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
    const PLACES: [usize; 16];

    /// Whether a precision has these integers.
    fn is_of(precision: Precision) -> bool {
        precision == Self::PRECISION
    }

    /// One that is not above the limit.
    fn of(x: i32) -> Self;
}

// SAFETY: a byte, whatever its bits.
unsafe impl Integer for i8 {
    const PRECISION: Precision = Precision::Int8;
    const LIMIT: i32 = 127;
    const PLACES: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    fn is_of(precision: Precision) -> bool {
        matches!(precision, Precision::Int8 | Precision::Int8Groups)
    }

    #[inline(always)]
    fn of(x: i32) -> Self {
        x as Self
    }
}

// SAFETY: an i16.
unsafe impl Integer for i16 {
    const PRECISION: Precision = Precision::Int16;
    const LIMIT: i32 = 32767;
    /// Those of even number first, so that they meet weights that are the low or the high bytes of words.
    const PLACES: [usize; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];

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
    /// For [`Precision::Reference`], which needs no other order.
    pub(super) fn fill(
        &mut self,
        region: &Region<'_>,
        rows: usize,
        cols: usize,
        precision: Precision,
        moved: &[Moved<'_>],
    ) {
        (self.rows, self.cols, self.precision) = (rows, cols, precision);
        self.quantise(region, rows * cols, cols, |row, values| {
            let source = moved.partition_point(|moved| moved.first() <= row);
            moved[source - 1].fill(row, values);
        });
    }

    /// Has `values` give the elements of each chunk of `chunk` of the first `elems`, and rounds them. Chunks are whole blocks.
    fn quantise(
        &mut self,
        region: &Region<'_>,
        elems: usize,
        chunk: usize,
        values: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        match self.precision {
            Precision::Int8Groups if self.cols.is_multiple_of(GROUP) => {
                self.quantise_as(region, elems, chunk, values, quantise_groups);
            }
            Precision::Int8 | Precision::Int8Groups => {
                self.quantise_as(region, elems, chunk, values, quantise_bytes);
            }
            Precision::Int16 => self.quantise_as(region, elems, chunk, values, quantise_words),
            Precision::Reference => unreachable!("activations: floats are not quantised"),
        }
    }

    fn quantise_as<Q: Integer>(
        &mut self,
        region: &Region<'_>,
        elems: usize,
        chunk: usize,
        values: impl Fn(usize, &mut [f32]) + Sync,
        quantise: impl Fn(Isa, &[f32], &mut [Q], &mut [BlockInfo]) + Sync,
    ) {
        let isa = region.isa();
        // SAFETY: the promise of `Integer`.
        let q = unsafe { std::slice::from_raw_parts_mut(self.q.as_mut_ptr().cast::<Q>(), self.q.len()) };
        let (q, info) = (DisjointSlice::new(q), DisjointSlice::new(&mut self.info));
        region.run_chunks(&mut self.values[self.first..][..elems], chunk, |index, to| {
            values(index, to);
            let begin = index * chunk;
            let end = begin + to.len();
            // SAFETY: tasks have chunks of their own, which are whole blocks.
            let (q, info) = unsafe { (q.range(begin..end), info.range(begin / BLOCK..end / BLOCK)) };
            quantise(isa, to, q, info);
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
        assert!(x.len() <= self.q.len(), "activations: no room for [{rows}, {cols}]");
        (self.rows, self.cols) = (rows, cols);
        self.precision = if cols.is_multiple_of(BLOCK) { precision } else { Precision::Reference };
        let copy = |index: usize, values: &mut [f32]| {
            values.copy_from_slice(&x[index * TASK_ELEMS..][..values.len()]);
        };
        if self.precision == Precision::Reference {
            region.run_chunks(&mut self.values[self.first..][..x.len()], TASK_ELEMS, copy);
        } else {
            self.quantise(region, x.len(), TASK_ELEMS, copy);
        }
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

/// Plain code, compiled for each instruction set: it vectorises, and each operation has one result.
#[inline(always)]
fn quantise_blocks<S: Simd, Q: Integer>(_: S, x: &[f32], q: &mut [Q], info: &mut [BlockInfo]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
    for ((x, q), info) in blocks.zip(info) {
        *info = quantise_block(x, largest(x), q);
    }
}

/// The same with a scale for each group.
#[inline(always)]
fn quantise_blocks_of_groups<S: Simd>(_: S, x: &[f32], q: &mut [i8], info: &mut [BlockInfo]) {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<GROUP>().0);
    for ((x, q), info) in groups.zip(info.as_chunks_mut::<{ GROUP / BLOCK }>().0) {
        let largest = largest(x);
        for ((x, q), info) in x.as_chunks().0.iter().zip(q.as_chunks_mut().0).zip(info) {
            *info = quantise_block(x, largest, q);
        }
    }
}

/// The largest magnitude, or a NaN or an infinity if there is one.
#[inline(always)]
fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    let mut largest = 0;
    for x in x {
        // Magnitudes order like their bits, infinities and NaNs above all.
        largest = largest.max((x.to_bits() & 0x7FFF_FFFF) as i32);
    }
    f32::from_bits(largest as u32)
}

#[inline(always)]
fn quantise_block<Q: Integer>(x: &[f32; BLOCK], largest: f32, q: &mut [Q; BLOCK]) -> BlockInfo {
    if !largest.is_finite() || largest < 1e-30 {
        *q = [Q::default(); BLOCK];
        let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
        return BlockInfo { scale, scaled_sum: scale, scaled_half_sums: [scale; 2], ..BlockInfo::default() };
    }
    let (scale, inverse) = (largest / Q::LIMIT as f32, Q::LIMIT as f32 / largest);
    let mut rounded = [0; BLOCK];
    for (rounded, x) in rounded.iter_mut().zip(x) {
        *rounded = nearest(x * inverse).clamp(-Q::LIMIT, Q::LIMIT);
    }
    let mut half_sums = [0; 2];
    for (half, sum) in half_sums.iter_mut().enumerate() {
        for (i, place) in Q::PLACES.iter().enumerate() {
            q[16 * half + place] = Q::of(rounded[16 * half + i]);
            *sum += rounded[16 * half + i];
        }
    }
    let sum = half_sums[0] + half_sums[1];
    BlockInfo {
        scale,
        sum,
        half_sums,
        scaled_sum: scale * sum as f32,
        scaled_half_sums: [scale * half_sums[0] as f32, scale * half_sums[1] as f32],
        half_sum_words: half_sums.map(|sum| sum as i16),
    }
}

/// The nearest integer of a small number, ties to even.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    /// Added to a small number it leaves its nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}
