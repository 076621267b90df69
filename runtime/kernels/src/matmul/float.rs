//! Products with float weights, and with any weights as floats.
//!
//! Some weight rows meet some rows of the input at once, so that what is loaded is used more than once.

use std::ops::Range;

use super::Job;
use crate::format::Format;
use crate::isa::Isa;
use crate::quant::dequantise_row;
use crate::simd::{LANES, Simd, Stored, StoredBf16, StoredF16, StoredF32, dispatch, dots_stored};

/// Weight rows of a tile.
const TILE_ROWS: usize = 2;
/// Rows of the input of a tile: 2 x 3 sums of 16 lanes fill the registers of AVX2.
const TILE_INPUTS: usize = 3;
/// Rows of the input up to which floats of 8 bits are made floats anew for each tile.
const FLOAT8_MAX_N: usize = 2 * TILE_INPUTS;
/// Weight rows that are made floats at once.
const FLOAT_ROWS: usize = 16;

/// The output of some rows of float weights.
pub(super) fn stored(isa: Isa, job: &Job<'_>, rows: Range<usize>) {
    if job.weights.format == Format::E4M3 && job.rows.count > FLOAT8_MAX_N {
        return dequantised(isa, job, rows);
    }
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
            match job.weights.format {
                Format::E4M3 => float8_row(isa, row, &mut floats),
                format => dequantise_row(format, row, &mut floats),
            }
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
    fn f32_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<Plain<StoredF32>, _>;
}

dispatch! {
    fn f16_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<Plain<StoredF16>, _>;
}

dispatch! {
    fn bf16_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<Plain<StoredBf16>, _>;
}

dispatch! {
    fn float8_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<Float8, _>;
}

/// Rows of weights that products can be made with.
trait Rows {
    /// Bytes of a row.
    fn row_bytes(cols: usize) -> usize;

    /// The canonical dot products of each row of weights with each of floats, [n][r].
    fn dots<S: Simd, const R: usize, const N: usize>(
        s: S,
        weights: [&[u8]; R],
        x: [&[f32]; N],
    ) -> [[f32; R]; N];
}

/// Floats that follow one another.
struct Plain<W>(std::marker::PhantomData<W>);

impl<W: Stored> Rows for Plain<W> {
    #[inline(always)]
    fn row_bytes(cols: usize) -> usize {
        cols * W::BYTES
    }

    #[inline(always)]
    fn dots<S: Simd, const R: usize, const N: usize>(
        s: S,
        weights: [&[u8]; R],
        x: [&[f32]; N],
    ) -> [[f32; R]; N] {
        dots_stored::<W, S, R, N>(s, weights, x)
    }
}

/// Blocks of floats of 8 bits. Each element times its scale is rounded, as where they are made floats first.
struct Float8;

impl Rows for Float8 {
    #[inline(always)]
    fn row_bytes(cols: usize) -> usize {
        cols / Format::E4M3.block_elems() * Format::E4M3.block_bytes()
    }

    #[inline(always)]
    fn dots<S: Simd, const R: usize, const N: usize>(
        s: S,
        weights: [&[u8]; R],
        x: [&[f32]; N],
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
        let mut sums = [[0.0; R]; N];
        for (sums, acc) in sums.iter_mut().zip(acc) {
            for (sum, acc) in sums.iter_mut().zip(acc) {
                *sum = s.sum(acc);
            }
        }
        sums
    }
}

/// Bytes of a block of floats of 8 bits.
const FLOAT8_BYTES: usize = Format::E4M3.block_bytes();

/// The floats of a block, each times the scale.
#[inline(always)]
fn float8_block<S: Simd>(s: S, block: &[u8; FLOAT8_BYTES]) -> [S::V; 2] {
    let [a, b, c, d, elements @ ..] = block;
    let scale = s.splat(f32::from_le_bytes([*a, *b, *c, *d]));
    let halves = elements.as_chunks::<LANES>().0;
    [s.mul(scale, float8s(s, &halves[0])), s.mul(scale, float8s(s, &halves[1]))]
}

/// Makes a row of blocks floats.
#[inline(always)]
fn float8_floats<S: Simd>(s: S, row: &[u8], out: &mut [f32]) {
    let blocks = row.as_chunks::<FLOAT8_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<LANES>().0.as_chunks_mut::<2>().0) {
        for (floats, out) in float8_block(s, block).into_iter().zip(out) {
            s.store(floats, out);
        }
    }
}

dispatch! {
    fn float8_row(row: &[u8], out: &mut [f32]) => float8_floats;
}

/// Sixteen floats of 8 bits. Moved by a bit they are halves, denormals too, but for the bias of the exponent; what the format
/// calls no number does not occur ([`crate::recode`]).
#[inline(always)]
fn float8s<S: Simd>(s: S, bytes: &[u8; LANES]) -> S::V {
    /// 2 to the power of the difference of the biases.
    const BIAS: f32 = 256.0;
    let mut halves = [0; LANES];
    for (half, byte) in halves.iter_mut().zip(bytes) {
        *half = u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7F) << 7;
    }
    s.mul(s.splat(BIAS), s.load_f16(&halves))
}

/// All tiles of some weight rows: the inputs of a tile stay in the first cache while the rows go by.
#[inline(always)]
fn tiles<W: Rows, S: Simd>(s: S, job: &Job<'_>, first: usize, bytes: &[u8]) {
    let row_bytes = W::row_bytes(job.weights.cols).max(1);
    let rows = bytes.len() / row_bytes;
    let row = |r: usize| &bytes[r * row_bytes..(r + 1) * row_bytes];
    let input = |i: usize| job.rows.values(i);
    let whole = (rows / TILE_ROWS * TILE_ROWS, job.rows.count / TILE_INPUTS * TILE_INPUTS);
    for i in (0..whole.1).step_by(TILE_INPUTS) {
        let x = [input(i), input(i + 1), input(i + 2)];
        for r in (0..whole.0).step_by(TILE_ROWS) {
            put(job, i, first + r, W::dots::<S, TILE_ROWS, TILE_INPUTS>(s, [row(r), row(r + 1)], x));
        }
        for r in whole.0..rows {
            put(job, i, first + r, W::dots::<S, 1, TILE_INPUTS>(s, [row(r)], x));
        }
    }
    for i in whole.1..job.rows.count {
        for r in (0..whole.0).step_by(TILE_ROWS) {
            put(job, i, first + r, W::dots::<S, TILE_ROWS, 1>(s, [row(r), row(r + 1)], [input(i)]));
        }
        for r in whole.0..rows {
            put(job, i, first + r, W::dots::<S, 1, 1>(s, [row(r)], [input(i)]));
        }
    }
}

/// Writes the sums of a tile, [inputs][rows].
#[inline(always)]
fn put<const R: usize, const N: usize>(job: &Job<'_>, i: usize, first: usize, sums: [[f32; R]; N]) {
    for (n, sums) in sums.iter().enumerate() {
        // SAFETY: one task has the rows.
        unsafe { job.outputs(i + n, first, R) }.copy_from_slice(sums);
    }
}
