//! The three steps of attention for a tile: scores, exponentials, weighted sum of the values.

use std::ops::Range;

use super::widen::{Float, Rows, widen};
use super::{Call, KvSlice};
use crate::isa::Isa;
use crate::ops::exponentials;
use crate::parallel::DisjointSlice;
use crate::simd::{LANES, Lanes, Simd, dispatch};

/// Positions that are widened to f32 at a time; a multiple of [`LANES`]. With heads of 128 columns 16 kB,
/// half of the innermost cache.
pub(super) const PANEL: usize = 32;

/// Heads up to which halves are widened as they are multiplied rather than in a panel; measured with 2 to 8.
const FEW_HEADS: usize = 8;

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

    /// Whether a panel would be used by few rows, of a single query.
    fn is_small(self) -> bool {
        self.queries == 1 && self.heads <= FEW_HEADS
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
    let limit = tile.limit(call, row);
    let aligned = start / LANES * LANES;
    // SAFETY: the caller's promise.
    let part = unsafe { scores.part(row, aligned..limit.next_multiple_of(LANES)) };
    // The first vector of scores may begin before the window, the last one end behind the query.
    part[..start - aligned].fill(f32::NEG_INFINITY);
    part[limit - aligned..].fill(f32::NEG_INFINITY);
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

dispatch! {
    /// Writes a part of the output: `mixed` [rows, vectors of the part], each row divided by its sum. Nobody else
    /// may use these columns of the output.
    pub(super) fn finish(call: &Call<'_>, part: &Part, mixed: &[Lanes], sums: &[f32]) => finish_part;
}

#[inline(always)]
fn finish_part<S: Simd>(s: S, call: &Call<'_>, part: &Part, mixed: &[Lanes], sums: &[f32]) {
    for (row, (mixed, &sum)) in mixed.chunks_exact(part.vectors().max(1)).zip(sums).enumerate() {
        let begin = part.tile.index(call, row) * call.value_dim;
        // SAFETY: the caller's promise.
        let out = unsafe { call.out.range(begin + part.columns.start..begin + part.columns.end) };
        let sum = s.splat(sum);
        for (out, mixed) in out.chunks_mut(LANES).zip(mixed) {
            s.store_part(s.div(s.load(&mixed.0), sum), out);
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
    if S::HALVES_AT_ONCE && tile.is_small() && call.keys.are_halves(call.head_dim) {
        return score_halves(s, call, tile, positions, queries, scores);
    }
    let vectors = call.head_dim.div_ceil(LANES);
    let scale = s.splat(call.scale);
    let column = tile.kv_head * call.head_dim;
    for begin in positions.clone().step_by(PANEL) {
        let end = (begin + PANEL).min(positions.end);
        widen(s, &call.keys, column..column + call.head_dim, begin..end, Rows::by_vectors(panel, vectors));
        let query = |row: usize| &queries[row * vectors..(row + 1) * vectors];
        // Earlier rows begin and end before later ones.
        let place =
            |row: usize| begin.max(tile.start(call, row) / LANES * LANES)..end.min(tile.limit(call, row));
        for row in (0..tile.rows()).step_by(2) {
            let own = place(row);
            let other = if row + 1 < tile.rows() { place(row + 1) } else { own.end..own.start };
            for position in (own.start..own.end.max(other.end)).step_by(LANES) {
                let keys = &panel[(position - begin) * vectors..];
                let [mine, others] = [&own, &other].map(|place| place.contains(&position));
                // SAFETY: these columns of the tile's rows are the caller's.
                unsafe {
                    if mine && others {
                        let [dots, more] = s.dots_of_two([query(row), query(row + 1)], keys);
                        put(s, s.mul(dots, scale), scores, row, position);
                        put(s, s.mul(more, scale), scores, row + 1, position);
                    } else if mine {
                        put(s, s.mul(s.dots(query(row), keys), scale), scores, row, position);
                    } else if others {
                        put(s, s.mul(s.dots(query(row + 1), keys), scale), scores, row + 1, position);
                    }
                }
            }
        }
    }
}

/// The same for a single query and keys of halves, which are widened as they are multiplied.
#[inline(always)]
fn score_halves<S: Simd>(
    s: S,
    call: &Call<'_>,
    tile: Tile,
    positions: Range<usize>,
    queries: &[Lanes],
    scores: Scores<'_>,
) {
    let (width, vectors) = (call.keys.width, call.head_dim.div_ceil(LANES));
    let scale = s.splat(call.scale);
    let columns = tile.kv_head * call.head_dim..(tile.kv_head + 1) * call.head_dim;
    let first = positions.start.max(tile.start(call, 0) / LANES * LANES);
    for position in (first..positions.end.min(tile.limit(call, 0))).step_by(LANES) {
        let run = call.keys.run(position..position + LANES, &columns);
        let KvSlice::F16(keys) = run.slice else { return };
        run.prefetch_all(s);
        let keys = &keys[run.within.start * width + columns.start..];
        let rows = tile.rows();
        for row in (0..rows).step_by(2) {
            let query = |row: usize| &queries[row * vectors..(row + 1) * vectors];
            // SAFETY: these columns of the tile's rows are the caller's.
            unsafe {
                if row + 1 < rows {
                    let [dots, more] = s.dots_halves([query(row), query(row + 1)], keys, width);
                    put(s, s.mul(dots, scale), scores, row, position);
                    put(s, s.mul(more, scale), scores, row + 1, position);
                } else {
                    let [dots] = s.dots_halves([query(row)], keys, width);
                    put(s, s.mul(dots, scale), scores, row, position);
                }
            }
        }
    }
}

/// Writes the scores of a row for sixteen positions.
///
/// # Safety
/// Nobody else may use them.
#[inline(always)]
unsafe fn put<S: Simd>(s: S, x: S::V, scores: Scores<'_>, row: usize, position: usize) {
    // SAFETY: the caller's promise.
    let to = unsafe { scores.part(row, position..position + LANES) };
    if let Some(to) = to.first_chunk_mut() {
        s.store(x, to);
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
    if S::HALVES_AT_ONCE && tile.is_small() && call.values.are_halves(part.columns.len()) {
        return weigh_halves(s, call, part, positions, scores, mixed);
    }
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

/// The same for a single query and values of halves, which are widened as they are multiplied.
#[inline(always)]
fn weigh_halves<S: Simd>(
    s: S,
    call: &Call<'_>,
    part: &Part,
    positions: Range<usize>,
    scores: Scores<'_>,
    mixed: &mut [Lanes],
) {
    let (tile, vectors, stride) = (part.tile, part.vectors(), call.values.width);
    let column = tile.kv_head * call.value_dim;
    let columns = column + part.columns.start..column + part.columns.end;
    let mut next = positions.start.max(tile.start(call, 0));
    let end = positions.end.min(tile.limit(call, 0));
    while next < end {
        let run = call.values.run(next..end, &columns);
        let KvSlice::F16(values) = run.slice else { return };
        run.prefetch_all(s);
        let values = Values { numbers: &values[run.within.start * stride + columns.start..], stride };
        let behind = next + run.within.len();
        for row in (0..tile.rows()).step_by(4) {
            let rows = (tile.rows() - row).min(4);
            let mut weights: [&[f32]; 4] = [&[]; 4];
            for (i, weights) in weights.iter_mut().enumerate().take(rows) {
                // SAFETY: the scores of this tile are final; nobody writes them now.
                *weights = unsafe { scores.part(row + i, next..behind) };
            }
            let mixed = &mut mixed[row * vectors..(row + rows) * vectors];
            add_together(s, &weights[..rows], values, vectors, mixed);
        }
        next = behind;
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

/// Rows of numbers, each of which begins `stride` behind the one before.
#[derive(Clone, Copy)]
struct Values<'a, F> {
    numbers: &'a [F],
    stride: usize,
}

impl<'a> Values<'a, f32> {
    /// The rows of a panel from one on.
    fn of_panel(panel: &'a [Lanes], first: usize, vectors: usize) -> Self {
        Self { numbers: Lanes::flat(&panel[first * vectors..]), stride: vectors * LANES }
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
    let mut shared: [&[f32]; 4] = [&[]; 4];
    for (shared, weights) in shared.iter_mut().zip(weights) {
        *shared = weights.of(common.clone());
    }
    let values = Values::of_panel(panel, common.start, vectors);
    add_together(s, &shared[..weights.len()], values, vectors, mixed);
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
        let values = Values::of_panel(panel, rows.start, vectors);
        add_together(s, &[weights.of(rows)], values, vectors, &mut mixed[row * vectors..(row + 1) * vectors]);
    }
}

/// `mixed[r] += sum over p of weights[r][p] * values[p]` for 1 to 4 rows with as many weights.
#[inline(always)]
fn add_together<F: Float, S: Simd>(
    s: S,
    weights: &[&[f32]],
    values: Values<'_, F>,
    vectors: usize,
    mixed: &mut [Lanes],
) {
    match *weights {
        [a, b, c, d] if S::FOUR_ROWS == 4 => {
            add_columns::<F, S, 4, 4>(s, [a, b, c, d], values, vectors, mixed);
        }
        [a, b, c, d] => add_columns::<F, S, 4, 1>(s, [a, b, c, d], values, vectors, mixed),
        [a, b, c] => add_columns::<F, S, 3, 1>(s, [a, b, c], values, vectors, mixed),
        [a, b] => add_columns::<F, S, 2, 2>(s, [a, b], values, vectors, mixed),
        [a] => add_columns::<F, S, 1, 4>(s, [a], values, vectors, mixed),
        _ => unreachable!("1 to 4 rows"),
    }
}

/// All columns, `CHUNKS` vectors at a time while there are as many.
#[inline(always)]
fn add_columns<F: Float, S: Simd, const ROWS: usize, const CHUNKS: usize>(
    s: S,
    weights: [&[f32]; ROWS],
    values: Values<'_, F>,
    vectors: usize,
    mixed: &mut [Lanes],
) {
    let mut column = 0;
    while column + CHUNKS <= vectors {
        add_chunk::<F, S, ROWS, CHUNKS>(s, weights, values, vectors, column, mixed);
        column += CHUNKS;
    }
    while column < vectors {
        add_chunk::<F, S, ROWS, 1>(s, weights, values, vectors, column, mixed);
        column += 1;
    }
}

/// `ROWS` times `CHUNKS` vectors of sums, held in registers over all positions.
#[inline(always)]
fn add_chunk<F: Float, S: Simd, const ROWS: usize, const CHUNKS: usize>(
    s: S,
    weights: [&[f32]; ROWS],
    Values { numbers, stride }: Values<'_, F>,
    vectors: usize,
    column: usize,
    mixed: &mut [Lanes],
) {
    let positions = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() == positions), "attention: rows of other lengths");
    let last = positions.saturating_sub(1) * stride + vectors * LANES;
    assert!(column + CHUNKS <= vectors && last <= numbers.len(), "attention: values");
    let mut sums = [[s.zero(); CHUNKS]; ROWS];
    for row in 0..ROWS {
        for chunk in 0..CHUNKS {
            sums[row][chunk] = s.load(&mixed[row * vectors + column + chunk].0);
        }
    }
    for position in 0..positions {
        let first = position * stride + column * LANES;
        let mut values = [s.zero(); CHUNKS];
        for (chunk, value) in values.iter_mut().enumerate() {
            // SAFETY: the last position has these columns, by the assertion.
            *value = F::load(s, unsafe { &*numbers.as_ptr().add(first + chunk * LANES).cast() });
        }
        for row in 0..ROWS {
            // SAFETY: there are as many weights.
            let weight = s.splat(unsafe { *weights[row].get_unchecked(position) });
            for chunk in 0..CHUNKS {
                sums[row][chunk] = s.fma(weight, values[chunk], sums[row][chunk]);
            }
        }
    }
    for row in 0..ROWS {
        for chunk in 0..CHUNKS {
            s.store(sums[row][chunk], &mut mixed[row * vectors + column + chunk].0);
        }
    }
}
