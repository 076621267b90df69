//! Quantised products in plain Rust: the oracle, and the way for matrices of fewer rows than a vector has
//! lanes.

use std::ops::Range;

use super::Job;
use super::activations::{BLOCK, BlockInfo, GROUP, Integer};
use crate::format::Format;
use crate::quant::{IntegerScales, SubBlocks, has_minimum, integer_scales, sub_block_elems, unpack};

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
            let scales = job.grouped.then(|| integer_scales(format, block));
            let begin = b * format.block_elems();
            for (i, acc) in acc.iter_mut().enumerate() {
                let (q, info) = job.rows.quantised::<Q>(i);
                let (q, info) = (&q[begin..][..format.block_elems()], &info[begin / BLOCK..]);
                *acc = match &scales {
                    Some(scales) => add_groups(format, (&unpacked, scales), q, info, *acc),
                    None => add_block(format, &unpacked, q, info, *acc),
                };
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
        let isum = sum_of_products(&weights.q[sub * size..][..size], q);
        acc = (isum as f32).mul_add(weights.scale[sub] * info.scale, acc);
        if has_minimum(format) {
            let scaled_sum = if size == BLOCK { info.scaled_sum } else { info.scaled_half_sums[sub % 2] };
            acc = weights.minimum[sub].mul_add(scaled_sum, acc);
        }
    }
    acc
}

/// The canonical steps for the groups of one block.
fn add_groups<Q: Integer>(
    format: Format,
    (weights, scales): (&SubBlocks, &IntegerScales),
    q: &[Q],
    info: &[BlockInfo],
    mut acc: f32,
) -> f32 {
    let size = sub_block_elems(format);
    for (group, info) in info[..q.len() / BLOCK].chunks_exact(GROUP / BLOCK).enumerate() {
        let (mut isum, mut msum) = (0, 0);
        for place in 0..GROUP / size {
            let sub = group * GROUP / size + place;
            let elems = sub * size..(sub + 1) * size;
            isum += scales.scale[sub] * sum_of_products(&weights.q[elems.clone()], &q[elems]);
            let asum = info[place * size / BLOCK].sum;
            msum += if has_minimum(format) { scales.minimum[sub] * asum } else { 0 };
        }
        let mut t = scales.unit * isum as f32;
        if has_minimum(format) {
            t = (msum as f32).mul_add(scales.minimum_unit, t);
        }
        acc = t.mul_add(info[0].scale, acc);
    }
    acc
}

fn sum_of_products<Q: Integer>(weights: &[i8], q: &[Q]) -> i32 {
    let products = weights.iter().enumerate();
    products.map(|(k, w)| i32::from(*w) * q[k / 16 * 16 + Q::PLACES[k % 16]].into()).sum()
}
