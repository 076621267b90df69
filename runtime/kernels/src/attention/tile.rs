//! The three steps of attention for a tile: scores, exponentials, weighted sum of the values.

use std::ops::Range;

use super::{Cache, Call, KvSlice};
use crate::format::Format;
use crate::isa::Isa;
use crate::ops::exponentials;
use crate::parallel::DisjointSlice;
use crate::simd::{LANES, LINE, Lanes, Simd, dispatch};

/// Positions that are widened to f32 at a time; a multiple of [`LANES`]. With heads of 128 columns 16 kB,
/// half of the innermost cache.
pub(super) const PANEL: usize = 32;

/// Positions between the one that is widened and the one that is fetched into the cache: the rows of one head
/// lie too far apart for the hardware to see that they follow each other.
const AHEAD: usize = 16;

/// Consecutive queries times consecutive heads that share a key head. Its rows go query by query, so that neither the
/// first nor the last position that a row attends to ever falls.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The first query.
    pub query: usize,
    pub queries: usize,
    /// The first head.
    pub head: usize,
    pub heads: usize,
    pub kv_head: usize,
}

impl Tile {
    pub fn rows(self) -> usize {
        self.queries * self.heads
    }

    /// The first position that a row attends to.
    pub fn start(self, call: &Call<'_>, row: usize) -> usize {
        self.limit(call, row).saturating_sub(call.window)
    }

    /// The position behind the last one that a row attends to.
    pub fn limit(self, call: &Call<'_>, row: usize) -> usize {
        call.first + self.query + row / self.heads + 1
    }

    /// Index of a row among the `[n, heads]` of the call.
    fn index(self, call: &Call<'_>, row: usize) -> usize {
        (self.query + row / self.heads) * call.heads + self.head + row % self.heads
    }
}

/// The scores of a tile: a row for each of its rows, a column for each position.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    /// All rows that there are; `stride` floats each.
    pub all: &'a DisjointSlice<'a, f32>,
    pub stride: usize,
    /// Where the tile's rows begin.
    pub first_row: usize,
}

impl<'a> Scores<'a> {
    /// Some columns of a row of the tile.
    ///
    /// # Safety
    /// While they are in use, no other columns that overlap them may be.
    pub unsafe fn part(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        let begin = (self.first_row + row) * self.stride;
        // SAFETY: the caller's promise.
        unsafe { self.all.range(begin + columns.start..begin + columns.end) }
    }
}

/// Some output columns of a tile.
#[derive(Clone)]
pub(super) struct Part {
    pub tile: Tile,
    pub columns: Range<usize>,
}

impl Part {
    /// Vectors of a row.
    pub fn vectors(&self) -> usize {
        self.columns.len().div_ceil(LANES)
    }
}

dispatch! {
    /// Scores of a tile, whose queries [rows, head_dim in vectors] are given, for `positions`, which begin at
    /// a multiple of [`LANES`]. They are written up to a multiple of [`LANES`]; nobody else may use these
    /// columns.
    pub(super) fn score(
        call: &Call<'_>,
        tile: Tile,
        positions: Range<usize>,
        queries: &[Lanes],
        panel: &mut [Lanes],
        scores: Scores<'_>,
    ) => score_tile;
}

dispatch! {
    fn soften(row: &mut [f32], sink: f32) -> f32 => exponentials;
}

/// Replaces the scores of a row by e^(score - max) and returns their sum, a sink's included.
///
/// # Safety
/// Nobody else may use the row.
pub(super) unsafe fn soften_row(
    isa: Isa,
    call: &Call<'_>,
    tile: Tile,
    row: usize,
    scores: Scores<'_>,
) -> f32 {
    let start = tile.start(call, row);
    let aligned = start / LANES * LANES;
    // SAFETY: the caller's promise.
    let part = unsafe { scores.part(row, aligned..tile.limit(call, row)) };
    // A vector of scores may begin before the window.
    part[..start - aligned].fill(f32::NEG_INFINITY);
    let head = tile.head + row % tile.heads;
    soften(isa, part, call.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]))
}

dispatch! {
    /// Adds to `mixed` [rows, vectors of the part] the values at `positions`, weighed by what is in `scores`.
    pub(super) fn weigh(
        call: &Call<'_>,
        part: &Part,
        positions: Range<usize>,
        panel: &mut [Lanes],
        scores: Scores<'_>,
        mixed: &mut [Lanes],
    ) => weigh_part;
}

/// Copies the queries of a tile to vectors padded by zeros: [rows, head_dim in vectors].
pub(super) fn gather(call: &Call<'_>, tile: Tile, queries: &mut [Lanes]) {
    let vectors = call.head_dim.div_ceil(LANES);
    for (row, lanes) in queries.chunks_exact_mut(vectors.max(1)).enumerate().take(tile.rows()) {
        let begin = tile.index(call, row) * call.head_dim;
        let lanes = Lanes::flat_mut(lanes);
        lanes[..call.head_dim].copy_from_slice(&call.q[begin..begin + call.head_dim]);
        lanes[call.head_dim..].fill(0.0);
    }
}

/// Writes a part of the output: `mixed` [rows, vectors of the part], each row divided by its sum. Nobody else
/// may use these columns of the output.
pub(super) fn finish(call: &Call<'_>, part: &Part, mixed: &[Lanes], sums: &[f32]) {
    for (row, mixed) in mixed.chunks_exact(part.vectors().max(1)).enumerate() {
        let begin = part.tile.index(call, row) * call.value_dim;
        // SAFETY: the caller's promise.
        let out = unsafe { call.out.range(begin + part.columns.start..begin + part.columns.end) };
        for (out, mixed) in out.iter_mut().zip(Lanes::flat(mixed)) {
            *out = mixed / sums[row];
        }
    }
}

#[inline(always)]
fn score_tile<S: Simd>(
    s: S,
    call: &Call<'_>,
    tile: Tile,
    positions: Range<usize>,
    queries: &[Lanes],
    panel: &mut [Lanes],
    scores: Scores<'_>,
) {
    let vectors = call.head_dim.div_ceil(LANES);
    let scale = s.splat(call.scale);
    let column = tile.kv_head * call.head_dim;
    for begin in positions.clone().step_by(PANEL) {
        let end = (begin + PANEL).min(positions.end);
        widen(s, &call.keys, column..column + call.head_dim, begin..end, Rows::by_vectors(panel, vectors));
        for row in 0..tile.rows() {
            let query = &queries[row * vectors..(row + 1) * vectors];
            let end = end.min(tile.limit(call, row));
            let first = begin.max(tile.start(call, row) / LANES * LANES);
            for position in (first..end).step_by(LANES) {
                let x = s.mul(s.dots(query, &panel[(position - begin) * vectors..]), scale);
                // SAFETY: these columns of the tile's rows are the caller's.
                let to = unsafe { scores.part(row, position..position + LANES) };
                if let Some(to) = to.first_chunk_mut() {
                    s.store(x, to);
                }
            }
        }
    }
}

#[inline(always)]
fn weigh_part<S: Simd>(
    s: S,
    call: &Call<'_>,
    part: &Part,
    positions: Range<usize>,
    panel: &mut [Lanes],
    scores: Scores<'_>,
    mixed: &mut [Lanes],
) {
    let (tile, vectors) = (part.tile, part.vectors());
    let column = tile.kv_head * call.value_dim;
    let columns = column + part.columns.start..column + part.columns.end;
    for begin in positions.clone().step_by(PANEL) {
        let end = (begin + PANEL).min(positions.end);
        widen(s, &call.values, columns.clone(), begin..end, Rows::one_by_one(panel, vectors));
        let panel = &panel[..(end - begin) * vectors];
        for row in (0..tile.rows()).step_by(4) {
            let rows = (tile.rows() - row).min(4);
            let mut weights = [Weights { first: 0, values: &[] }; 4];
            for (i, weights) in weights.iter_mut().enumerate().take(rows) {
                let start = tile.start(call, row + i).clamp(begin, end);
                let end = end.min(tile.limit(call, row + i)).max(start);
                // SAFETY: the scores of this tile are final; nobody writes them now.
                let values = unsafe { scores.part(row + i, start..end) };
                *weights = Weights { first: start - begin, values };
            }
            add_rows(s, &weights[..rows], panel, vectors, &mut mixed[row * vectors..(row + rows) * vectors]);
        }
    }
}

/// Rows of a panel, as vectors.
struct Rows<'a> {
    panel: &'a mut [Lanes],
    /// Vectors of a row.
    vectors: usize,
    /// Rows of which each vector of all comes before the next.
    together: usize,
}

impl<'a> Rows<'a> {
    /// Row after row.
    fn one_by_one(panel: &'a mut [Lanes], vectors: usize) -> Self {
        Self { panel, vectors, together: 1 }
    }

    /// Sixteen rows at a time: the first vector of each, then the second of each, as [`Simd::dots`] takes them.
    fn by_vectors(panel: &'a mut [Lanes], vectors: usize) -> Self {
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
fn widen<S: Simd>(
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

/// Consecutive positions of a block, and what is fetched into the cache meanwhile.
struct Run<'a> {
    slice: KvSlice<'a>,
    /// Which positions of the block.
    within: Range<usize>,
    /// The cache lines of the columns [`AHEAD`] positions behind the block's first one, and the bytes from one position to the next.
    ahead: *const u8,
    lines: usize,
    stride: usize,
}

impl<'a> Cache<'a> {
    /// The positions from the first of `positions` on that are of one block, as are those [`AHEAD`] of them.
    #[inline(always)]
    fn run(&self, positions: Range<usize>, columns: &Range<usize>) -> Run<'a> {
        let (block, begin) = (positions.start / self.block_len, positions.start % self.block_len);
        let crossing = self.block_len.saturating_sub(AHEAD);
        let end = if begin < crossing { crossing } else { self.block_len };
        let slice = self.slices[block];
        let stride = slice.bytes(self.width);
        let (first, bytes) = (slice.bytes(columns.start), slice.bytes(columns.len()));
        let behind = if begin < crossing { Some(slice) } else { self.slices.get(block + 1).copied() };
        let skipped = if begin < crossing { 0 } else { self.block_len };
        let ahead = behind
            .unwrap_or(slice)
            .start()
            .wrapping_add(first + AHEAD * stride)
            .wrapping_sub(skipped * stride);
        let within_line = ahead.addr() % LINE;
        let lines = (within_line + bytes).div_ceil(LINE);
        let within = begin..end.min(begin + positions.len());
        Run { slice, within, ahead: ahead.wrapping_sub(within_line), lines, stride }
    }
}

impl Run<'_> {
    /// Asks for what is needed [`AHEAD`] positions behind one of the block.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, within: usize) {
        let at = self.ahead.wrapping_add(within * self.stride);
        for line in 0..self.lines {
            s.prefetch(at.wrapping_add(line * LINE));
        }
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
trait Float: Copy + Default {
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

/// Weights of consecutive rows of a panel.
#[derive(Clone, Copy)]
struct Weights<'a> {
    /// The panel's row that the first one belongs to.
    first: usize,
    values: &'a [f32],
}

impl<'a> Weights<'a> {
    fn end(self) -> usize {
        self.first + self.values.len()
    }

    /// Those of some rows of the panel, all of which it has.
    #[inline(always)]
    fn of(self, rows: Range<usize>) -> &'a [f32] {
        &self.values[rows.start - self.first..rows.end - self.first]
    }
}

/// `mixed[r] += sum over p of weights[r][p] * panel[p]` for up to 4 rows, of which no later one begins or ends earlier.
#[inline(always)]
fn add_rows<S: Simd>(s: S, weights: &[Weights<'_>], panel: &[Lanes], vectors: usize, mixed: &mut [Lanes]) {
    let common = weights[weights.len() - 1].first..weights[0].end();
    if common.is_empty() {
        for (row, weights) in weights.iter().enumerate() {
            add_row(s, row, *weights, weights.first..weights.end(), panel, vectors, mixed);
        }
        return;
    }
    // Earlier queries of the tile begin a few positions before, later ones end a few behind.
    for (row, weights) in weights.iter().enumerate() {
        add_row(s, row, *weights, weights.first..common.start, panel, vectors, mixed);
    }
    let shared = &panel[common.start * vectors..];
    let of = |row: usize| weights[row].of(common.clone());
    match weights.len() {
        4 if S::FOUR_ROWS == 4 => {
            add_columns::<S, 4, 4>(s, [of(0), of(1), of(2), of(3)], shared, vectors, mixed);
        }
        4 => add_columns::<S, 4, 1>(s, [of(0), of(1), of(2), of(3)], shared, vectors, mixed),
        3 => add_columns::<S, 3, 1>(s, [of(0), of(1), of(2)], shared, vectors, mixed),
        2 => add_columns::<S, 2, 2>(s, [of(0), of(1)], shared, vectors, mixed),
        _ => add_columns::<S, 1, 4>(s, [of(0)], shared, vectors, mixed),
    }
    for (row, weights) in weights.iter().enumerate() {
        add_row(s, row, *weights, common.end..weights.end(), panel, vectors, mixed);
    }
}

/// One row's share of some rows of the panel.
#[inline(always)]
fn add_row<S: Simd>(
    s: S,
    row: usize,
    weights: Weights<'_>,
    rows: Range<usize>,
    panel: &[Lanes],
    vectors: usize,
    mixed: &mut [Lanes],
) {
    if !rows.is_empty() {
        let (panel, mixed) = (&panel[rows.start * vectors..], &mut mixed[row * vectors..(row + 1) * vectors]);
        add_columns::<S, 1, 4>(s, [weights.of(rows)], panel, vectors, mixed);
    }
}

/// All columns, `CHUNKS` vectors at a time while there are as many.
#[inline(always)]
fn add_columns<S: Simd, const ROWS: usize, const CHUNKS: usize>(
    s: S,
    weights: [&[f32]; ROWS],
    panel: &[Lanes],
    vectors: usize,
    mixed: &mut [Lanes],
) {
    let mut column = 0;
    while column + CHUNKS <= vectors {
        add_chunk::<S, ROWS, CHUNKS>(s, weights, panel, vectors, column, mixed);
        column += CHUNKS;
    }
    while column < vectors {
        add_chunk::<S, ROWS, 1>(s, weights, panel, vectors, column, mixed);
        column += 1;
    }
}

/// `ROWS` times `CHUNKS` vectors of sums, held in registers over all positions.
#[inline(always)]
fn add_chunk<S: Simd, const ROWS: usize, const CHUNKS: usize>(
    s: S,
    weights: [&[f32]; ROWS],
    panel: &[Lanes],
    vectors: usize,
    column: usize,
    mixed: &mut [Lanes],
) {
    let positions = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() == positions), "attention: rows of other lengths");
    assert!(column + CHUNKS <= vectors && positions * vectors <= panel.len(), "attention: panel");
    let mut sums = [[s.zero(); CHUNKS]; ROWS];
    for row in 0..ROWS {
        for chunk in 0..CHUNKS {
            sums[row][chunk] = s.load(&mixed[row * vectors + column + chunk].0);
        }
    }
    for position in 0..positions {
        // SAFETY: the panel has these rows, each with the columns of the chunk, and there are as many weights.
        let values = unsafe { panel.get_unchecked(position * vectors + column..).get_unchecked(..CHUNKS) };
        for row in 0..ROWS {
            // SAFETY: as above.
            let weight = s.splat(unsafe { *weights[row].get_unchecked(position) });
            for chunk in 0..CHUNKS {
                sums[row][chunk] = s.fma(weight, s.load(&values[chunk].0), sums[row][chunk]);
            }
        }
    }
    for row in 0..ROWS {
        for chunk in 0..CHUNKS {
            s.store(sums[row][chunk], &mut mixed[row * vectors + column + chunk].0);
        }
    }
}
