//! Products with float weights, and with any weights as floats.

use std::ops::Range;

use super::Job;
use crate::format::Format;
use crate::isa::Isa;
use crate::quant::dequantise_row;
use crate::simd::{Simd, StoredBf16, StoredF16, StoredF32, dispatch, dot_stored};

/// Rows of the input that share a pass over a weight row.
const TILE: usize = 4;

/// The output of some rows of float weights.
pub(super) fn stored(isa: Isa, job: &Job<'_>, rows: Range<usize>) {
    for row in rows {
        one_row(isa, job, row, job.weights.format, job.weights.row(row));
    }
}

/// The output of some rows of weights that are made floats first, one row at a time.
pub(super) fn dequantised(isa: Isa, job: &Job<'_>, rows: Range<usize>) {
    let mut floats = vec![0.0; job.weights.cols];
    let mut bytes = vec![0; job.weights.cols * size_of::<f32>()];
    for row in rows {
        dequantise_row(job.weights.format, job.weights.row(row), &mut floats);
        for (bytes, x) in bytes.as_chunks_mut().0.iter_mut().zip(&floats) {
            *bytes = x.to_le_bytes();
        }
        one_row(isa, job, row, Format::F32, &bytes);
    }
}

/// The output of a weight row, given as floats of some format.
fn one_row(isa: Isa, job: &Job<'_>, row: usize, format: Format, weights: &[u8]) {
    let put = |i: usize, y: f32| {
        // SAFETY: one task has the row.
        unsafe { job.put(i, row, &[y]) };
    };
    let whole = job.n / TILE * TILE;
    for first in (0..whole).step_by(TILE) {
        let x = std::array::from_fn(|i| job.input.values(job.input_row(first + i)));
        four(isa, format, weights, x).into_iter().enumerate().for_each(|(i, y)| put(first + i, y));
    }
    for i in whole..job.n {
        put(i, one(isa, format, weights, [job.input.values(job.input_row(i))])[0]);
    }
}

dispatch! {
    fn four(format: Format, weights: &[u8], x: [&[f32]; TILE]) -> [f32; TILE] => dots::<_, TILE>;
}

dispatch! {
    fn one(format: Format, weights: &[u8], x: [&[f32]; 1]) -> [f32; 1] => dots::<_, 1>;
}

#[inline(always)]
fn dots<S: Simd, const N: usize>(s: S, format: Format, weights: &[u8], x: [&[f32]; N]) -> [f32; N] {
    match format {
        Format::F16 => dot_stored::<StoredF16, S, N>(s, weights, x),
        Format::BF16 => dot_stored::<StoredBf16, S, N>(s, weights, x),
        _ => dot_stored::<StoredF32, S, N>(s, weights, x),
    }
}
