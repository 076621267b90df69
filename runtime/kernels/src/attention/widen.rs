//! Keys and values of some positions as f32.

use std::ops::Range;

use super::KvSlice;
use super::cache::Cache;
use crate::format::Format;
use crate::simd::{LANES, Lanes, Simd};

/// Rows of a panel, as vectors.
pub(super) struct Rows<'a> {
    panel: &'a mut [Lanes],
    /// Vectors of a row.
    vectors: usize,
    /// Rows of which each vector of all comes before the next.
    together: usize,
}

impl<'a> Rows<'a> {
    /// Row after row.
    pub fn one_by_one(panel: &'a mut [Lanes], vectors: usize) -> Self {
        Self { panel, vectors, together: 1 }
    }

    /// Sixteen rows at a time: the first vector of each, then the second of each, as [`Simd::dots`] takes them.
    pub fn by_vectors(panel: &'a mut [Lanes], vectors: usize) -> Self {
        Self { panel, vectors, together: LANES }
    }

    /// The vectors of a row.
    #[inline(always)]
    fn row(&mut self, row: usize) -> impl Iterator<Item = &mut Lanes> {
        let first = row / self.together * self.together;
        let rows = &mut self.panel[first * self.vectors..][..self.together * self.vectors];
        rows[row - first..].iter_mut().step_by(self.together)
    }
}

/// Some columns of `positions` as f32, each row padded by zeros to whole vectors, followed by rows of zeros
/// up to a multiple of [`LANES`].
#[inline(always)]
pub(super) fn widen<S: Simd>(
    s: S,
    cache: &Cache<'_>,
    columns: Range<usize>,
    positions: Range<usize>,
    mut rows: Rows<'_>,
) {
    let mut row = 0;
    while row < positions.len() {
        let run = cache.run(positions.start + row..positions.end, &columns);
        for within in run.within.clone() {
            run.prefetch(s, within);
            let begin = within * cache.width;
            let to = rows.row(row);
            match run.slice {
                KvSlice::F16(x) => widen_floats(s, &x[begin + columns.start..begin + columns.end], to),
                KvSlice::F32(x) => widen_floats(s, &x[begin + columns.start..begin + columns.end], to),
                KvSlice::Q8_0(x) => {
                    let x = &x[run.slice.bytes(begin)..];
                    widen_blocks(s, x, Format::Q8_0.block_bytes(), columns.start, to, |q, column| {
                        std::array::from_fn(|i| q[column + i] as i8)
                    });
                }
                KvSlice::Q4_0(x) => {
                    let x = &x[run.slice.bytes(begin)..];
                    // Elements 0 to 15 are low nibbles, 16 to 31 high ones.
                    widen_blocks(s, x, Format::Q4_0.block_bytes(), columns.start, to, |q, column| {
                        let shift = if column == 0 { 0 } else { 4 };
                        std::array::from_fn(|i| (q[i] >> shift & 15) as i8 - 8)
                    });
                }
            }
            row += 1;
        }
    }
    for row in positions.len()..positions.len().next_multiple_of(LANES) {
        rows.row(row).for_each(|lanes| *lanes = Lanes::ZERO);
    }
}

/// Elements of the blocks that a cache may hold.
const BLOCK_ELEMS: usize = Format::Q8_0.block_elems();

/// Elements of a row of blocks, from `first` on, a multiple of [`LANES`], as many as `row` has. `integers`: of the bytes behind
/// a block's scale and an element of the block, a vector from that element on. Canonical: the scale times the integer, rounded.
#[inline(always)]
fn widen_blocks<'a, S: Simd>(
    s: S,
    x: &[u8],
    block_bytes: usize,
    first: usize,
    row: impl Iterator<Item = &'a mut Lanes>,
    integers: impl Fn(&[u8], usize) -> [i8; LANES],
) {
    for (number, lanes) in row.enumerate() {
        let column = first + number * LANES;
        let block = &x[column / BLOCK_ELEMS * block_bytes..][..block_bytes];
        let (scale, q) = block.split_at(size_of::<u16>());
        let scale = s.load_f16(&[u16::from_le_bytes([scale[0], scale[1]]); LANES]);
        let q = integers(q, column % BLOCK_ELEMS).map(f32::from);
        s.store(s.mul(s.load(&q), scale), &mut lanes.0);
    }
}

/// A float of a cache.
pub(super) trait Float: Copy + Default {
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V;
}

/// IEEE half precision.
impl Float for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load_f16(x)
    }
}

impl Float for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load(x)
    }
}

/// A row of floats, zeros behind the last.
#[inline(always)]
fn widen_floats<'a, F: Float, S: Simd>(s: S, x: &[F], mut row: impl Iterator<Item = &'a mut Lanes>) {
    let (whole, tail) = x.as_chunks::<LANES>();
    for (x, lanes) in whole.iter().zip(row.by_ref()) {
        s.store(F::load(s, x), &mut lanes.0);
    }
    if let (false, Some(lanes)) = (tail.is_empty(), row.next()) {
        let mut padded = [F::default(); LANES];
        padded[..tail.len()].copy_from_slice(tail);
        s.store(F::load(s, &padded), &mut lanes.0);
    }
}
