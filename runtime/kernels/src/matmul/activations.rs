//! The input of products, as floats and as integers.

use super::Precision;
use super::order::{Moved, Room};
use crate::parallel::{DisjointSlice, Region};
use crate::simd::{Simd, dispatch};

/// Elements that share a scale.
pub(super) const BLOCK: usize = 32;
/// Where each of 16 elements lies: those of even number first, so that they meet weights that are the low or
/// the high bytes of words.
pub(super) const PLACES: [usize; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];
/// The largest integer.
const LIMIT: i32 = 32767;
/// Elements that are worth a task.
const TASK_ELEMS: usize = 16 * 1024;

/// Bytes that a quantised row takes.
pub(super) const fn quantised_bytes(cols: usize) -> usize {
    cols * size_of::<i16>() + cols / BLOCK * size_of::<BlockInfo>()
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
}

/// Rows of floats and, for products with quantised weights, the same in 16-bit integers. The memory is taken
/// when it is made and never grows.
///
/// Canonical: for each block of 32 elements, `largest` the largest magnitude: scale = largest / 32767,
/// integer = x * (32767 / largest) to the nearest, ties to even. A block with nothing above 1e-30 is zeros;
/// one with a NaN or an infinity has the scale NaN.
///
/// Products of bytes would be faster, but 8 bits lose enough to turn over the choice of a router now and
/// then, and with it the answer.
pub struct Activations {
    rows: usize,
    cols: usize,
    quantised: bool,
    values: Vec<f32>,     // [rows, cols]
    q: Vec<i16>,          // [rows, cols], each 16 in the order of `PLACES`
    info: Vec<BlockInfo>, // [rows, cols / 32]
    /// For the rows in the order of matrices that have one of their own.
    room: Option<Box<Room>>,
}

impl Activations {
    /// Room for `max_rows` rows of `max_cols` elements; no rows are set.
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        let elems = max_rows * max_cols;
        Self {
            rows: 0,
            cols: 0,
            quantised: false,
            values: vec![0.0; elems],
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
            .saturating_add(elems / BLOCK * size_of::<BlockInfo>())
    }

    /// The room for other orders, if there is one.
    pub(super) fn room(&self) -> Option<&Room> {
        self.room.as_deref()
    }

    /// Whether so many elements find room.
    pub(super) fn holds(&self, elems: usize) -> bool {
        elems <= self.values.len()
    }

    /// Sets rows of whole blocks that are moved from other activations, of which each has its rows in ascending order.
    pub(super) fn fill(&mut self, region: &Region<'_>, rows: usize, cols: usize, moved: &[Moved<'_>]) {
        (self.rows, self.cols, self.quantised) = (rows, cols, true);
        let isa = region.isa();
        let (q, info) = (DisjointSlice::new(&mut self.q), DisjointSlice::new(&mut self.info));
        region.run_chunks(&mut self.values[..rows * cols], cols, |row, values| {
            let source = moved.partition_point(|moved| moved.first() <= row);
            moved[source - 1].fill(row, values);
            let (begin, end) = (row * cols, (row + 1) * cols);
            // SAFETY: tasks have rows of their own, which are whole blocks.
            let (q, info) = unsafe { (q.range(begin..end), info.range(begin / BLOCK..end / BLOCK)) };
            quantise(isa, values, q, info);
        });
    }

    /// Rows that are set.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Sets all rows: `x` [rows, cols]. They are quantised as well for [`Precision::Fast`] if `cols` is a
    /// multiple of 32, which it is wherever quantised weights are as wide.
    ///
    /// # Panics
    /// If `x` has another length or is more than there is room for.
    pub fn set(&mut self, region: &Region<'_>, rows: usize, cols: usize, x: &[f32], precision: Precision) {
        assert_eq!(x.len(), rows * cols, "activations: not [{rows}, {cols}]");
        assert!(x.len() <= self.values.len(), "activations: no room for [{rows}, {cols}]");
        (self.rows, self.cols) = (rows, cols);
        self.quantised = precision == Precision::Fast && cols.is_multiple_of(BLOCK);
        if !self.quantised {
            region.run_chunks(&mut self.values[..x.len()], TASK_ELEMS, |index, values| {
                values.copy_from_slice(&x[index * TASK_ELEMS..][..values.len()]);
            });
            return;
        }
        let isa = region.isa();
        let (q, info) = (DisjointSlice::new(&mut self.q), DisjointSlice::new(&mut self.info));
        region.run_chunks(&mut self.values[..x.len()], TASK_ELEMS, |index, values| {
            let begin = index * TASK_ELEMS;
            let end = begin + values.len();
            values.copy_from_slice(&x[begin..end]);
            // SAFETY: tasks have elements and blocks of their own: TASK_ELEMS is a multiple of the block.
            let (q, info) = unsafe { (q.range(begin..end), info.range(begin / BLOCK..end / BLOCK)) };
            quantise(isa, values, q, info);
        });
    }

    /// The floats of one row.
    pub(super) fn values(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// The integers of one row [cols], and what is known of its blocks [cols / 32].
    ///
    /// # Panics
    /// If the rows were set for [`Precision::Reference`] or with a width that has no blocks.
    #[inline(always)]
    pub(super) fn quantised(&self, row: usize) -> (&[i16], &[BlockInfo]) {
        assert!(self.quantised, "activations: set for Precision::Reference, used with Precision::Fast");
        let blocks = self.cols / BLOCK;
        (&self.q[row * self.cols..][..self.cols], &self.info[row * blocks..][..blocks])
    }
}

dispatch! {
    fn quantise(x: &[f32], q: &mut [i16], info: &mut [BlockInfo]) => quantise_blocks;
}

/// Plain code, compiled for each instruction set: it vectorises, and each operation has one result.
#[inline(always)]
fn quantise_blocks<S: Simd>(_: S, x: &[f32], q: &mut [i16], info: &mut [BlockInfo]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
    for ((x, q), info) in blocks.zip(info) {
        *info = quantise_block(x, q);
    }
}

#[inline(always)]
fn quantise_block(x: &[f32; BLOCK], q: &mut [i16; BLOCK]) -> BlockInfo {
    let mut largest = 0;
    for x in x {
        // Magnitudes order like their bits, infinities and NaNs above all.
        largest = largest.max((x.to_bits() & 0x7FFF_FFFF) as i32);
    }
    let largest = f32::from_bits(largest as u32);
    if !largest.is_finite() || largest < 1e-30 {
        *q = [0; BLOCK];
        let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
        return BlockInfo { scale, scaled_sum: scale, scaled_half_sums: [scale; 2], ..BlockInfo::default() };
    }
    let (scale, inverse) = (largest / LIMIT as f32, LIMIT as f32 / largest);
    let mut rounded = [0; BLOCK];
    for (rounded, x) in rounded.iter_mut().zip(x) {
        *rounded = nearest(x * inverse).clamp(-LIMIT, LIMIT);
    }
    let mut half_sums = [0; 2];
    for (half, sum) in half_sums.iter_mut().enumerate() {
        for (i, place) in PLACES.iter().enumerate() {
            q[16 * half + place] = rounded[16 * half + i] as i16;
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
    }
}

/// The nearest integer of a small number, ties to even.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    /// Added to a small number it leaves its nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}
