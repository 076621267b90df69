//! Quantised products in plain Rust: the oracle, and the way for matrices of fewer rows than a vector has
//! lanes.

use std::ops::Range;

use super::Job;
use super::activations::{BLOCK, QuantisedRow, RADIX};
use crate::format::Format;
use crate::quant::{SubBlocks, has_minimum, sub_block_elems, unpack};

/// The output of some weight rows; each is unpacked once for all rows of the input.
pub(super) fn product(job: &Job<'_>, rows: Range<usize>) {
    let format = job.weights.format;
    let mut unpacked = SubBlocks::default();
    let mut acc = vec![0.0; job.n];
    for row in rows {
        acc.fill(0.0);
        for (b, block) in job.weights.row(row).chunks_exact(format.block_bytes()).enumerate() {
            unpack(format, block, &mut unpacked);
            let begin = b * format.block_elems();
            for (i, acc) in acc.iter_mut().enumerate() {
                let row = job.input.quantised(job.input_row(i));
                let elems = begin..begin + format.block_elems();
                let row = QuantisedRow {
                    high: &row.high[elems.clone()],
                    low: &row.low[elems],
                    info: &row.info[begin / BLOCK..],
                };
                *acc = add_block(format, &unpacked, row, *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: one task has the row.
            unsafe { job.put(i, row, &[*acc]) };
        }
    }
}

/// The canonical steps for one block.
fn add_block(format: Format, weights: &SubBlocks, row: QuantisedRow<'_>, mut acc: f32) -> f32 {
    let size = sub_block_elems(format);
    for (sub, digits) in row.high.chunks_exact(size).zip(row.low.chunks_exact(size)).enumerate() {
        let info = &row.info[sub * size / BLOCK];
        let sum = |digits: &[i8]| -> i32 {
            let products = weights.q[sub * size..].iter().zip(digits);
            products.map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
        };
        let isum = RADIX * sum(digits.0) + sum(digits.1);
        acc = (isum as f32).mul_add(weights.scale[sub] * info.scale, acc);
        if has_minimum(format) {
            let scaled_sum = if size == BLOCK { info.scaled_sum } else { info.scaled_half_sums[sub % 2] };
            acc = weights.minimum[sub].mul_add(scaled_sum, acc);
        }
    }
    acc
}
