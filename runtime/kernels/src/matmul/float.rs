//! Products with float weights, and with any weights as floats.
//!
//! Some weight rows meet some rows of the input at once, so that what is loaded is used more than once. Floats of 16 bits are widened each
//! time; those of 32 would come out of the second cache for every few rows of the input, and blocks of 8 bits take as long to widen as to
//! multiply, so that for many rows of the input both are widened, or moved, to the first cache, a block of rows and columns at a time.

mod blocks;

use std::ops::Range;

use super::Job;
use crate::format::Format;
use crate::isa::Isa;
use crate::quant::dequantise_row;
use crate::simd::{
    LANES, Lanes, Simd, Stored, StoredBf16, StoredF16, StoredF32, dispatch, dots_stored, sums,
};

/// Weight rows of a tile.
const TILE_ROWS: usize = 2;
/// Rows of the input of a tile: 2 x 3 sums of 16 lanes fill the registers of AVX2. Twice as many where [`Simd::TWO_TIMES_SIX`] says so.
const TILE_INPUTS: usize = 3;
/// Rows of the input from which on weights are widened in blocks, of formats that are ([`Rows::IN_BLOCKS`]).
const BLOCKS_MIN_N: usize = 2 * TILE_INPUTS;
/// At least so many bytes of weights, and whole tiles of rows, lie between those that are multiplied and those that are asked for.
const BYTES_AHEAD: usize = 4096;
/// Weight rows that are made floats at once.
const FLOAT_ROWS: usize = 16;

/// The output of some rows of float weights.
pub(super) fn stored(isa: Isa, job: &Job<'_>, rows: Range<usize>) {
    let bytes = &job.weights.bytes[rows.start * job.weights.row_bytes..rows.end * job.weights.row_bytes];
    rows_times_inputs(isa, job, rows.start, job.weights.format, bytes);
}

/// The output of some rows of weights that are made floats first, a few rows at a time.
pub(super) fn dequantised(isa: Isa, job: &Job<'_>, rows: Range<usize>) {
    let cols = job.weights.cols;
    let mut floats = vec![0.0; cols];
    let mut bytes = vec![0; FLOAT_ROWS * cols * size_of::<f32>()];
    let mut room = Vec::new();
    for first in rows.clone().step_by(FLOAT_ROWS) {
        let count = FLOAT_ROWS.min(rows.end - first);
        let bytes = &mut bytes[..count * cols * size_of::<f32>()];
        for (i, bytes) in bytes.chunks_exact_mut(cols * size_of::<f32>()).enumerate() {
            let row = job.weights.row(first + i, &mut room);
            dequantise_row(job.weights.format, row, &mut floats);
            let places = bytes.as_chunks_mut().0;
            match job.weights.order {
                None => places.iter_mut().zip(&floats).for_each(|(bytes, x)| *bytes = x.to_le_bytes()),
                Some(order) => floats
                    .iter()
                    .enumerate()
                    .for_each(|(column, x)| places[order.place(column)] = x.to_le_bytes()),
            }
        }
        rows_times_inputs(isa, job, first, Format::F32, bytes);
    }
}

/// The output of the weight rows `bytes`, floats of some format, which are the rows from `first` on.
fn rows_times_inputs(isa: Isa, job: &Job<'_>, first: usize, format: Format, bytes: &[u8]) {
    match format {
        Format::F16 => f16_rows(isa, job, first, bytes),
        Format::BF16 => bf16_rows(isa, job, first, bytes),
        Format::E4M3 => float8_rows(isa, job, first, bytes),
        _ => f32_rows(isa, job, first, bytes),
    }
}

dispatch! {
    fn f32_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => products::<Plain<StoredF32>, _>;
}

dispatch! {
    fn f16_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => products::<Plain<StoredF16>, _>;
}

dispatch! {
    fn bf16_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => products::<Plain<StoredBf16>, _>;
}

dispatch! {
    fn float8_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => products::<Float8, _>;
}

/// Rows of weights that products can be made with.
trait Rows {
    /// For many rows of the input they are widened in blocks.
    const IN_BLOCKS: bool;

    /// Bytes of a row.
    fn row_bytes(cols: usize) -> usize;

    /// The canonical dot products of each row of weights with each of floats, [n][r]. With `ahead`, asks for the bytes so far behind those
    /// that are multiplied.
    fn dots<S: Simd, const R: usize, const N: usize>(
        s: S,
        weights: [&[u8]; R],
        x: [&[f32]; N],
        ahead: Option<usize>,
    ) -> [[f32; R]; N];

    /// Writes some columns of a row as floats: whole blocks of them, or up to the end of the row.
    fn widen<S: Simd>(s: S, row: &[u8], cols: Range<usize>, to: &mut [Lanes]);
}

/// Floats that follow one another.
struct Plain<W>(std::marker::PhantomData<W>);

impl<W: Stored> Rows for Plain<W> {
    const IN_BLOCKS: bool = W::BYTES == size_of::<f32>();

    #[inline(always)]
    fn row_bytes(cols: usize) -> usize {
        cols * W::BYTES
    }

    #[inline(always)]
    fn dots<S: Simd, const R: usize, const N: usize>(
        s: S,
        weights: [&[u8]; R],
        x: [&[f32]; N],
        ahead: Option<usize>,
    ) -> [[f32; R]; N] {
        dots_stored::<W, S, R, N>(s, weights, x, ahead)
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, row: &[u8], cols: Range<usize>, to: &mut [Lanes]) {
        let row = &row[cols.start * W::BYTES..cols.end * W::BYTES];
        let whole = cols.len() / LANES;
        for (vector, to) in to[..whole].iter_mut().enumerate() {
            // SAFETY: there are so many whole vectors.
            let vector =
                unsafe { row.get_unchecked(vector * LANES * W::BYTES..(vector + 1) * LANES * W::BYTES) };
            s.store(W::load(s, vector), &mut to.0);
        }
        if whole * LANES < cols.len() {
            s.store(W::load(s, &row[whole * LANES * W::BYTES..]), &mut to[whole].0);
        }
    }
}

/// Blocks of floats of 8 bits. Each element times its scale is rounded, as where they are made floats first.
struct Float8;

impl Rows for Float8 {
    const IN_BLOCKS: bool = true;

    #[inline(always)]
    fn row_bytes(cols: usize) -> usize {
        cols / Format::E4M3.block_elems() * Format::E4M3.block_bytes()
    }

    #[inline(always)]
    fn dots<S: Simd, const R: usize, const N: usize>(
        s: S,
        weights: [&[u8]; R],
        x: [&[f32]; N],
        ahead: Option<usize>,
    ) -> [[f32; R]; N] {
        let weights = weights.map(|row| row.as_chunks::<FLOAT8_BYTES>().0);
        let x = x.map(|x| x.as_chunks::<LANES>().0);
        for weights in weights {
            assert_eq!(2 * weights.len(), x[0].len());
        }
        let mut acc = [[s.zero(); R]; N];
        for block in 0..weights[0].len() {
            let mut w = [[s.zero(); R]; 2];
            for r in 0..R {
                if let Some(ahead) = ahead {
                    s.prefetch(weights[r][block].as_ptr().wrapping_add(ahead));
                }
                let floats = float8_block(s, &weights[r][block]);
                (w[0][r], w[1][r]) = (floats[0], floats[1]);
            }
            for (half, w) in w.into_iter().enumerate() {
                for (acc, x) in acc.iter_mut().zip(x) {
                    let x = s.load(&x[2 * block + half]);
                    for (acc, w) in acc.iter_mut().zip(w) {
                        *acc = s.fma(w, x, *acc);
                    }
                }
            }
        }
        sums(s, acc)
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, row: &[u8], cols: Range<usize>, to: &mut [Lanes]) {
        let elems = const { Format::E4M3.block_elems() };
        let blocks = &row.as_chunks::<FLOAT8_BYTES>().0[cols.start / elems..cols.end / elems];
        for (block, to) in blocks.iter().zip(to.as_chunks_mut::<2>().0) {
            for (floats, to) in float8_block(s, block).into_iter().zip(to) {
                s.store(floats, &mut to.0);
            }
        }
    }
}

/// Bytes of a block of floats of 8 bits.
const FLOAT8_BYTES: usize = Format::E4M3.block_bytes();

/// The floats of a block, each times the scale, which is below 2^120: with a larger one, infinite.
#[inline(always)]
fn float8_block<S: Simd>(s: S, block: &[u8; FLOAT8_BYTES]) -> [S::V; 2] {
    /// The floats are so many times what [`Simd::load_e4m3`] gives.
    const BIAS: f32 = 256.0;
    let [a, b, c, d, elements @ ..] = block;
    let scale = s.splat(BIAS * f32::from_le_bytes([*a, *b, *c, *d]));
    let halves = elements.as_chunks().0;
    [s.mul(scale, s.load_e4m3(&halves[0])), s.mul(scale, s.load_e4m3(&halves[1]))]
}

/// Products with any number of rows of the input.
#[inline(always)]
fn products<W: Rows, S: Simd>(s: S, job: &Job<'_>, first: usize, bytes: &[u8]) {
    if W::IN_BLOCKS && job.rows.count >= BLOCKS_MIN_N {
        return blocks::products::<W, S>(s, job, first, bytes);
    }
    // The inputs of a tile stay in the first cache while the weights go by.
    let mut i = 0;
    if S::TWO_TIMES_SIX {
        i = tiles::<W, S, { 2 * TILE_INPUTS }>(s, job, first, bytes, i);
    }
    i = tiles::<W, S, TILE_INPUTS>(s, job, first, bytes, i);
    i = tiles::<W, S, 2>(s, job, first, bytes, i);
    tiles::<W, S, 1>(s, job, first, bytes, i);
}

/// All weight rows with as many tiles of `N` rows of the input as there are from row `i` on. Returns the row behind them.
#[inline(always)]
fn tiles<W: Rows, S: Simd, const N: usize>(
    s: S,
    job: &Job<'_>,
    first: usize,
    bytes: &[u8],
    mut i: usize,
) -> usize {
    let row_bytes = W::row_bytes(job.weights.cols).max(1);
    let rows = bytes.len() / row_bytes;
    let row = |r: usize| &bytes[r * row_bytes..(r + 1) * row_bytes];
    let whole = rows / TILE_ROWS * TILE_ROWS;
    // The rows of a tile follow those of another, which asks for theirs; those behind the task's are the thread's next, most often.
    let lead = BYTES_AHEAD.next_multiple_of(TILE_ROWS * row_bytes);
    while i + N <= job.rows.count {
        let mut x: [&[f32]; N] = [&[]; N];
        for (n, x) in x.iter_mut().enumerate() {
            *x = job.rows.values(i + n);
        }
        // Later inputs find the rows in a cache.
        let ahead = (i == 0).then_some(lead);
        for r in (0..whole).step_by(TILE_ROWS) {
            put(job, i, first + r, W::dots::<S, TILE_ROWS, N>(s, [row(r), row(r + 1)], x, ahead));
        }
        for r in whole..rows {
            put(job, i, first + r, W::dots::<S, 1, N>(s, [row(r)], x, ahead));
        }
        i += N;
    }
    i
}

/// Writes the sums of a tile, [inputs][rows].
#[inline(always)]
fn put<const R: usize, const N: usize>(job: &Job<'_>, i: usize, first: usize, sums: [[f32; R]; N]) {
    for (n, sums) in sums.iter().enumerate() {
        // SAFETY: one task has the rows.
        unsafe { job.outputs(i + n, first, R) }.copy_from_slice(sums);
    }
}
