//! Softmax attention of a chunk: `mixed = attention(q x, k x, v x)`, gated where the architecture says so.

use membrane_kernels::{AttentionArgs, AttentionScratch, KvSlice, Region, RopeTable, attention, matmul, ops};

use super::{Pass, Span, product, sparse, temper};
use crate::error::Result;
use crate::hyper::Attention;
use crate::kv::BLOCK;
use crate::scratch::{Scratch, SparseScratch};
use crate::stages::Stage;
use crate::weights::AttentionBlock;

/// What attention of one span works on: rows of the span, before and after.
struct Heads<'a> {
    q: &'a mut [f32],     // [rows, heads * head_dim]
    k: &'a mut [f32],     // [rows, kv_heads * head_dim]
    v: &'a [f32],         // [rows, kv_heads * value_dim]
    mixed: &'a mut [f32], // [rows, heads * value_dim]
}

/// Mixes the chunk in `s.input` into `s.mixed` [rows, heads * value_dim].
pub(super) fn mix(
    pass: &mut Pass<'_>,
    block: &AttentionBlock,
    rows: usize,
    s: &mut Scratch,
    rope: &RopeTable,
) -> Result<()> {
    let (core, region, shape) = (pass.core, pass.region, &block.shape);
    let (query, key, value) = (shape.query_width(), shape.key_width(), shape.value_width());
    let width = shape.mixed_width();
    let (q, k, v) = (&mut s.q[..rows * query], &mut s.k[..rows * key], &mut s.v[..rows * value]);
    let projected = if shape.gated { &mut s.joined[..2 * rows * query] } else { &mut *q };
    matmul(
        region,
        core.precision,
        &mut [
            product(core, &block.q, &s.input, projected)?,
            product(core, &block.k, &s.input, k)?,
            product(core, &block.v, &s.input, v)?,
        ],
    );
    s.clock.lap(region, Stage::AttentionProjections);
    for (x, bias) in [(projected, &block.q_bias), (&mut *k, &block.k_bias), (&mut *v, &block.v_bias)] {
        if let Some(bias) = bias {
            ops::add_bias(region, x, bias);
        }
    }
    if shape.gated {
        let gate = &mut s.mixer_gate[..rows * query];
        ops::split_pairs(region, &s.joined[..2 * rows * query], shape.head_dim, q, gate);
    }
    if let (Some(index), Some(indexer)) = (&block.index, shape.indexer) {
        sparse::project(pass, index, indexer, rows, s)?;
    }
    let indexed = block.shape.indexer.map_or([0, 0], |indexer| [indexer.heads * indexer.dim, indexer.dim]);
    let (index_q, rest) = s.joined.split_at_mut(rows * indexed[0]);
    let index_k = &mut rest[..rows * indexed[1]];
    let (q, k, v) = (&mut s.q[..rows * query], &mut s.k[..rows * key], &s.v[..rows * value]);
    for (x, weight) in [(&mut *q, &block.q_norm), (&mut *k, &block.k_norm)] {
        if let Some(weight) = weight {
            ops::rms_norm_in_place(region, x, weight, core.hyper.norm_eps);
        }
    }
    let mixed = &mut s.mixed[..rows * width];
    let mut row = 0;
    for span in &mut pass.spans {
        let rows = row..row + span.tokens.len();
        row = rows.end;
        let heads = Heads {
            q: &mut q[rows.start * query..rows.end * query],
            k: &mut k[rows.start * key..rows.end * key],
            v: &v[rows.start * value..rows.end * value],
            mixed: &mut mixed[rows.start * width..rows.end * width],
        };
        let index = [(&mut *index_q, indexed[0]), (&mut *index_k, indexed[1])]
            .map(|(x, width)| &mut x[rows.start * width..rows.end * width]);
        let scratch = (&mut s.attention, &mut s.sparse);
        attend(span, region, block, (rope, core.hyper.norm_eps), heads, index, scratch);
    }
    if shape.gated {
        ops::gate(region, ops::Gate::Sigmoid, mixed, &s.mixer_gate[..rows * query]);
    }
    s.clock.lap(region, Stage::Attention);
    Ok(())
}

/// mixed = attention of the span's rows to all positions of its session up to each, or to those that an indexer chooses.
/// `index`: the queries and keys of the indexer, if there is one.
fn attend(
    span: &mut Span<'_>,
    region: &Region<'_>,
    block: &AttentionBlock,
    (rope, eps): (&RopeTable, f32),
    Heads { q, k, v, mixed }: Heads<'_>,
    [index_q, index_k]: [&mut [f32]; 2],
    (scratch, choice): (&mut AttentionScratch, &mut SparseScratch),
) {
    let Attention { heads, kv_heads, head_dim, .. } = block.shape;
    ops::rope(region, q, heads, head_dim, 0, span.first, rope);
    if let Some(temperature) = block.shape.temperature {
        temper(region, q, block.shape.query_width(), span.first, temperature);
    }
    ops::rope(region, k, kv_heads, head_dim, 0, span.first, rope);
    span.kv.store(region, block.slot, span.first, k, v);
    let n = span.tokens.len();
    let dense = match (&block.index, block.shape.indexer) {
        (Some(weights), Some(indexer)) => {
            sparse::index(
                span,
                region,
                (block.slot, weights, indexer),
                [&mut *index_q, index_k],
                (rope, eps),
            );
            // The first queries see no more blocks than are chosen.
            ((indexer.blocks + 1).saturating_mul(indexer.ratio) - 1).saturating_sub(span.first).min(n)
        }
        _ => n,
    };
    let (q_dense, q_sparse) = q.split_at(dense * block.shape.query_width());
    let (out_dense, out_sparse) = mixed.split_at_mut(dense * block.shape.mixed_width());
    if dense > 0 {
        let (keys, values) = span.kv.slices(block.slot, span.first + dense);
        let cache = CachePart { keys: &keys, values: &values, block_len: BLOCK, first: span.first, n: dense };
        attend_to(region, block, cache, q_dense, out_dense, scratch);
    }
    if dense < n
        && let Some(indexer) = block.shape.indexer
    {
        let queries = sparse::Queries { dense, index: index_q, q: q_sparse, out: out_sparse };
        sparse::attend(span, region, block, indexer, queries, (scratch, choice));
    }
}

/// Keys and values in blocks, and which of their positions are queries.
pub(super) struct CachePart<'a> {
    pub keys: &'a [KvSlice<'a>],
    pub values: &'a [KvSlice<'a>],
    /// Positions in a block.
    pub block_len: usize,
    /// Position of the first query.
    pub first: usize,
    /// Queries.
    pub n: usize,
}

/// out = attention of queries to all positions up to each.
pub(super) fn attend_to(
    region: &Region<'_>,
    block: &AttentionBlock,
    cache: CachePart<'_>,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let Attention { heads, kv_heads, head_dim, value_dim, scale, window, .. } = block.shape;
    let args = AttentionArgs {
        q,
        keys: cache.keys,
        values: cache.values,
        value_stride: block.shape.value_width(),
        block_len: cache.block_len,
        first_position: cache.first,
        n: cache.n,
        heads,
        kv_heads,
        head_dim,
        value_dim,
        scale,
        window,
        sinks: block.sinks.as_deref(),
        out,
    };
    attention(region, args, scratch);
}
