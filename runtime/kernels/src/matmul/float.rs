//! Products with float weights, and with any weights as floats.
//!
//! Some weight rows meet some rows of the input at once, so that what is loaded is used more than once.

use std::ops::Range;

use super::Job;
use crate::format::Format;
use crate::isa::Isa;
use crate::quant::dequantise_row;
use crate::simd::{Simd, Stored, StoredBf16, StoredF16, StoredF32, dispatch, dots_stored};

/// Weight rows of a tile.
const TILE_ROWS: usize = 2;
/// Rows of the input of a tile: 2 x 3 sums of 16 lanes fill the registers of AVX2.
const TILE_INPUTS: usize = 3;
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
    for first in rows.clone().step_by(FLOAT_ROWS) {
        let count = FLOAT_ROWS.min(rows.end - first);
        let bytes = &mut bytes[..count * cols * size_of::<f32>()];
        for (i, bytes) in bytes.chunks_exact_mut(cols * size_of::<f32>()).enumerate() {
            dequantise_row(job.weights.format, job.weights.row(first + i), &mut floats);
            for (bytes, x) in bytes.as_chunks_mut().0.iter_mut().zip(&floats) {
                *bytes = x.to_le_bytes();
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
        _ => f32_rows(isa, job, first, bytes),
    }
}

dispatch! {
    fn f32_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<StoredF32, _>;
}

dispatch! {
    fn f16_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<StoredF16, _>;
}

dispatch! {
    fn bf16_rows(job: &Job<'_>, first: usize, bytes: &[u8]) => tiles::<StoredBf16, _>;
}

/// All tiles of some weight rows: the inputs of a tile stay in the first cache while the rows go by.
#[inline(always)]
fn tiles<W: Stored, S: Simd>(s: S, job: &Job<'_>, first: usize, bytes: &[u8]) {
    let row_bytes = (job.weights.cols * W::BYTES).max(1);
    let rows = bytes.len() / row_bytes;
    let row = |r: usize| &bytes[r * row_bytes..(r + 1) * row_bytes];
    let input = |i: usize| job.input.values(job.input_row(i));
    let whole = (rows / TILE_ROWS * TILE_ROWS, job.n / TILE_INPUTS * TILE_INPUTS);
    for i in (0..whole.1).step_by(TILE_INPUTS) {
        let x = [input(i), input(i + 1), input(i + 2)];
        for r in (0..whole.0).step_by(TILE_ROWS) {
            put(job, i, first + r, dots_stored::<W, S, TILE_ROWS, TILE_INPUTS>(s, [row(r), row(r + 1)], x));
        }
        for r in whole.0..rows {
            put(job, i, first + r, dots_stored::<W, S, 1, TILE_INPUTS>(s, [row(r)], x));
        }
    }
    for i in whole.1..job.n {
        for r in (0..whole.0).step_by(TILE_ROWS) {
            put(job, i, first + r, dots_stored::<W, S, TILE_ROWS, 1>(s, [row(r), row(r + 1)], [input(i)]));
        }
        for r in whole.0..rows {
            put(job, i, first + r, dots_stored::<W, S, 1, 1>(s, [row(r)], [input(i)]));
        }
    }
}

/// Writes the sums of a tile, [inputs][rows].
#[inline(always)]
fn put<const R: usize, const N: usize>(job: &Job<'_>, i: usize, first: usize, sums: [[f32; R]; N]) {
    for (n, sums) in sums.iter().enumerate() {
        // SAFETY: one task has the rows.
        unsafe { job.put(i + n, first, sums) };
    }
}
