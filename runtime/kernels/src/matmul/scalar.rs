//! Quantised products in plain Rust: the oracle, and the way for matrices of fewer rows than a vector has
//! lanes.

use std::ops::Range;

use super::Job;
use super::activations::{BLOCK, BlockInfo, Integer};
use crate::format::Format;
use crate::quant::{SubBlocks, has_minimum, sub_block_elems, unpack};

/// The output of some weight rows; each is unpacked once for all rows of the input.
pub(super) fn product<Q: Integer>(job: &Job<'_>, rows: Range<usize>) {
    let format = job.weights.format;
    let mut unpacked = SubBlocks::default();
    let mut acc = vec![0.0; job.rows.count];
    let mut room = Vec::new();
    for row in rows {
        acc.fill(0.0);
        let blocks = job.weights.row(row, &mut room).chunks_exact(format.block_bytes());
        for (b, block) in blocks.enumerate() {
            unpack(format, block, &mut unpacked);
            let begin = b * format.block_elems();
            for (i, acc) in acc.iter_mut().enumerate() {
                let (q, info) = job.rows.quantised::<Q>(i);
                let (q, info) = (&q[begin..][..format.block_elems()], &info[begin / BLOCK..]);
                *acc = add_block(format, &unpacked, q, info, *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: one task has the row.
            unsafe { job.outputs(i, row, 1) }.fill(*acc);
        }
    }
}

/// The canonical steps for one block.
fn add_block<Q: Integer>(
    format: Format,
    weights: &SubBlocks,
    q: &[Q],
    info: &[BlockInfo],
    mut acc: f32,
) -> f32 {
    let size = sub_block_elems(format);
    for (sub, q) in q.chunks_exact(size).enumerate() {
        let info = &info[sub * size / BLOCK];
        let products = weights.q[sub * size..][..size].iter().enumerate();
        let isum: i32 =
            products.map(|(k, w)| i32::from(*w) * q[k / 16 * 16 + Q::PLACES[k % 16]].into()).sum();
        acc = (isum as f32).mul_add(weights.scale[sub] * info.scale, acc);
        if has_minimum(format) {
            let scaled_sum = if size == BLOCK { info.scaled_sum } else { info.scaled_half_sums[sub % 2] };
            acc = weights.minimum[sub].mul_add(scaled_sum, acc);
        }
    }
    acc
}
