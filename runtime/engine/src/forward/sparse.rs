//! Sparse attention: an indexer chooses the blocks of positions that each query goes over.
//!
//! A query attends to the blocks that its index chooses, in the order of their positions, and to the positions behind the last
//! whole block. Where it sees no more blocks than may be chosen, that is all positions.

use membrane_kernels::{AttentionScratch, ChoiceArgs, Region, RopeTable, choose_blocks, matmul, ops};

use super::attention::{CachePart, attend_to};
use super::{Pass, Span, product};
use crate::error::Result;
use crate::hyper::Indexer;
use crate::kv::BLOCK;
use crate::scratch::{Scratch, SparseScratch, part_positions};
use crate::weights::{AttentionBlock, IndexBlock, IndexWeights};

/// Queries and keys of the index for the chunk in `s.input`, into `s.joined`: [rows, heads, dim], then [rows, dim].
pub(super) fn project(
    pass: &Pass<'_>,
    block: &IndexBlock,
    indexer: Indexer,
    rows: usize,
    s: &mut Scratch,
) -> Result<()> {
    let (core, region) = (pass.core, pass.region);
    let (queries, dim) = (indexer.heads * indexer.dim, indexer.dim);
    let width = queries + dim;
    let (own, joined) = s.joined[..2 * rows * width].split_at_mut(rows * width);
    let (q, k) = own.split_at_mut(rows * queries);
    match &block.weights {
        IndexWeights::Apart { q: query, k: key } => {
            let products = &mut [product(core, query, &s.input, q)?, product(core, key, &s.input, k)?];
            matmul(region, core.precision, products);
        }
        IndexWeights::Joined(both) => {
            matmul(region, core.precision, &mut [product(core, both, &s.input, joined)?]);
            ops::copy_columns(region, joined, width, 0..queries, q, queries, 0);
            ops::copy_columns(region, joined, width, queries..width, k, dim, 0);
        }
    }
    Ok(())
}

/// Norms and rotates the queries of a span's index, keeps its keys, and makes those of the blocks that are whole now.
pub(super) fn index(
    span: &mut Span<'_>,
    region: &Region<'_>,
    (slot, weights, indexer): (usize, &IndexBlock, Indexer),
    [q, k]: [&mut [f32]; 2],
    (rope, eps): (&RopeTable, f32),
) {
    let Indexer { heads, dim, ratio, .. } = indexer;
    ops::rms_norm_in_place(region, q, &weights.q_norm, eps);
    ops::rope(region, q, heads, dim, 0, span.first, rope);
    span.kv.store_index(slot, span.first, k);
    let mut key = vec![0.0; dim];
    for block in span.first / ratio..span.end() / ratio {
        span.kv.index_mean(slot, block, &mut key);
        ops::rms_norm_in_place(region, &mut key, &weights.k_norm, eps);
        ops::rope(region, &mut key, 1, dim, 0, block * ratio, rope);
        span.kv.store_index_block(slot, block, &key);
    }
}

/// What one span's sparse queries are: those behind the first `dense` of it.
pub(super) struct Queries<'a> {
    pub dense: usize,
    /// Of the index, all of the span: [rows, heads, dim].
    pub index: &'a [f32],
    pub q: &'a [f32],       // [rows - dense, heads, head_dim]
    pub out: &'a mut [f32], // [rows - dense, heads, value_dim]
}

/// out = attention of queries that see more blocks than are chosen, one by one.
pub(super) fn attend(
    span: &Span<'_>,
    region: &Region<'_>,
    block: &AttentionBlock,
    indexer: Indexer,
    queries: Queries<'_>,
    (scratch, sparse): (&mut AttentionScratch, &mut SparseScratch),
) {
    let Indexer { heads, dim, ratio, blocks } = indexer;
    let Queries { dense, index, q, out } = queries;
    let (query, width) = (block.shape.query_width(), block.shape.mixed_width());
    let index_keys = span.kv.index_keys(block.slot, span.end() / ratio);
    let cache = span.kv.slices(block.slot, span.end());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let n = span.tokens.len();
    for first in (dense..n).step_by(sparse.rows.max(1)) {
        let rows = first..n.min(first + sparse.rows.max(1));
        let args = ChoiceArgs {
            queries: &index[rows.start * heads * dim..rows.end * heads * dim],
            heads,
            dim,
            keys: &index_keys,
            ratio,
            first_position: span.first + rows.start,
            chosen: blocks,
        };
        choose_blocks(region, &args, &mut sparse.choice);
        for row in rows {
            let end = span.first + row + 1;
            let chosen = sparse.choice.chosen(row - first);
            let whole = chosen.iter().map(|&block| block as usize * ratio..(block as usize + 1) * ratio);
            let tail = end / ratio * ratio..end;
            let unit = part_positions(ratio);
            keys.clear();
            values.clear();
            for begin in whole.chain([tail.clone()]).flat_map(|positions| positions.step_by(unit)) {
                let within = begin % BLOCK..begin % BLOCK + unit;
                keys.push(cache.0[begin / BLOCK].part(within.clone(), block.shape.key_width()));
                values.push(cache.1[begin / BLOCK].part(within, block.shape.value_width()));
            }
            let last = chosen.len() * ratio + tail.len() - 1;
            let chosen = CachePart { keys: &keys, values: &values, block_len: unit, first: last, n: 1 };
            let at = row - dense;
            let out = &mut out[at * width..(at + 1) * width];
            attend_to(region, block, chosen, &q[at * query..(at + 1) * query], out, scratch);
        }
    }
}
