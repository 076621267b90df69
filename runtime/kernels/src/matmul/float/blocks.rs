//! Products of floats with many rows of the input, for which some columns of some weight rows are widened to floats that stay in the first
//! cache.

use std::ops::Range;

use super::{Job, Rows, TILE_INPUTS, TILE_ROWS};
use crate::simd::{LANES, Lanes, Simd, StoredF32, add_stored};

/// Weight rows of a block.
const BLOCK_ROWS: usize = 16;
/// Columns of a block: with all its rows, as floats, 16 KiB, which stay in the first cache.
const BLOCK_COLS: usize = 256;
/// Rows of the input that meet a block, and whose sums, of 16 lanes each, stay in the second cache.
const BLOCK_INPUTS: usize = 48;

/// The output of weight rows, of which some columns at a time are widened, meet many rows of the input, and leave the sums of their
/// products, lane by lane, to those of the columns behind them.
#[inline(always)]
pub(super) fn products<W: Rows, S: Simd>(s: S, job: &Job<'_>, first: usize, bytes: &[u8]) {
    let cols = job.weights.cols;
    let row_bytes = W::row_bytes(cols).max(1);
    let mut block = Block {
        weights: [Lanes::ZERO; _],
        sums: vec![Lanes::ZERO; BLOCK_INPUTS * BLOCK_ROWS],
        rows: 0,
        inputs: 0..0,
        cols: 0..0,
    };
    for i in (0..job.rows.count).step_by(BLOCK_INPUTS) {
        block.inputs = i..(i + BLOCK_INPUTS).min(job.rows.count);
        for (number, bytes) in bytes.chunks(BLOCK_ROWS * row_bytes).enumerate() {
            block.rows = bytes.len() / row_bytes;
            block.sums.fill(Lanes::ZERO);
            for col in (0..cols).step_by(BLOCK_COLS) {
                block.cols = col..(col + BLOCK_COLS).min(cols);
                let rows = bytes.chunks_exact(row_bytes);
                for (row, to) in rows.zip(block.weights.chunks_exact_mut(BLOCK_COLS / LANES)) {
                    W::widen(s, row, block.cols.clone(), to);
                }
                block.multiply(s, job);
            }
            block.put(s, job, first + number * BLOCK_ROWS);
        }
    }
}

/// Some columns of some weight rows as floats, and sums of products with them.
struct Block {
    /// [`BLOCK_ROWS`, `BLOCK_COLS` in vectors]
    weights: [Lanes; BLOCK_ROWS * BLOCK_COLS / LANES],
    /// [`BLOCK_INPUTS`, `BLOCK_ROWS`]
    sums: Vec<Lanes>,
    /// Weight rows.
    rows: usize,
    /// Rows of the input.
    inputs: Range<usize>,
    cols: Range<usize>,
}

impl Block {
    /// Adds its products with all its rows of the input.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, s: S, job: &Job<'_>) {
        let mut i = 0;
        if S::TWO_TIMES_SIX {
            i = self.tiles::<S, { 2 * TILE_INPUTS }>(s, job, i);
        }
        i = self.tiles::<S, TILE_INPUTS>(s, job, i);
        self.tiles::<S, 1>(s, job, i);
    }

    /// As many tiles of `N` rows of the input as there are from the block's row `i` on. Returns the row behind them.
    #[inline(always)]
    fn tiles<S: Simd, const N: usize>(&mut self, s: S, job: &Job<'_>, mut i: usize) -> usize {
        while i + N <= self.inputs.len() {
            let mut x: [&[f32]; N] = [&[]; N];
            for (n, x) in x.iter_mut().enumerate() {
                *x = &job.rows.values(self.inputs.start + i + n)[self.cols.clone()];
            }
            let whole = self.rows / TILE_ROWS * TILE_ROWS;
            for r in (0..whole).step_by(TILE_ROWS) {
                self.tile::<S, TILE_ROWS, N>(s, r, i, x);
            }
            for r in whole..self.rows {
                self.tile::<S, 1, N>(s, r, i, x);
            }
            i += N;
        }
        i
    }

    /// Adds the products of `R` weight rows from `row` on and `N` rows of the input, those from the block's row `i` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(&mut self, s: S, row: usize, i: usize, x: [&[f32]; N]) {
        let mut weights: [&[u8]; R] = [&[]; R];
        for (r, weights) in weights.iter_mut().enumerate() {
            let row = &self.weights[(row + r) * (BLOCK_COLS / LANES)..][..BLOCK_COLS / LANES];
            *weights = &Lanes::bytes(row)[..self.cols.len() * size_of::<f32>()];
        }
        let mut acc = [[s.zero(); R]; N];
        let sums = &mut self.sums[i * BLOCK_ROWS + row..][..(N - 1) * BLOCK_ROWS + R];
        for n in 0..N {
            for r in 0..R {
                acc[n][r] = s.load(&sums[n * BLOCK_ROWS + r].0);
            }
        }
        add_stored::<StoredF32, S, R, N>(s, weights, x, None, &mut acc);
        for n in 0..N {
            for r in 0..R {
                s.store(acc[n][r], &mut sums[n * BLOCK_ROWS + r].0);
            }
        }
    }

    /// Writes the output of its rows, which are those from `first` on.
    #[inline(always)]
    fn put<S: Simd>(&self, s: S, job: &Job<'_>, first: usize) {
        for (i, sums) in self.inputs.clone().zip(self.sums.chunks_exact(BLOCK_ROWS)) {
            // SAFETY: one task has the rows.
            let outputs = unsafe { job.outputs(i, first, self.rows) };
            for (output, sum) in outputs.iter_mut().zip(sums) {
                *output = s.sum(s.load(&sum.0));
            }
        }
    }
}
