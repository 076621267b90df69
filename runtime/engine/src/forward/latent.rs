//! Latent attention of a chunk: `mixed = values(attention(absorb(q x), kv x))`.
//!
//! What is kept of a position is its latent vector, normed, and behind it the rotated key that all heads share. A head's plain
//! query goes through its key matrix and so becomes a query over latent vectors; their weighted sum goes through its value
//! matrix.

use membrane_kernels::{
    Activations, AttentionArgs, Precision, Product, Region, RopeTable, attention, matmul, ops,
};

use super::{Pass, Span, product, temper};
use crate::error::Result;
use crate::hyper::LatentAttention;
use crate::kv::BLOCK;
use crate::model::Core;
use crate::scratch::{LATENT_ROWS, Scratch};
use crate::stages::Stage;
use crate::weights::{LatentBlock, QueryWeights, Weight};

/// Rows of one session within a chunk that go through attention together.
struct Piece {
    /// The first of them in the chunk.
    row: usize,
    rows: usize,
    /// Its position.
    position: usize,
}

/// Mixes the chunk in `s.input` into `s.mixed` [rows, heads * value_dim].
pub(super) fn mix(
    pass: &mut Pass<'_>,
    block: &LatentBlock,
    rows: usize,
    s: &mut Scratch,
    rope: &RopeTable,
) -> Result<()> {
    let (core, region) = (pass.core, pass.region);
    project(core, region, block, rows, s)?;
    s.clock.lap(region, Stage::AttentionProjections);
    let (key, query) = (block.shape.key_width(), block.shape.query_width());
    let mut row = 0;
    for span in &mut pass.spans {
        let length = span.tokens.len();
        let k = &mut s.k[row * key..(row + length) * key];
        ops::rope(region, k, 1, key, block.shape.kv_rank, span.first, rope);
        span.kv.store(region, block.slot, span.first, k, &[]);
        let q = &mut s.joined[row * query..(row + length) * query];
        ops::rope(
            region,
            q,
            block.shape.heads,
            block.shape.query_dim(),
            block.shape.plain_dim,
            span.first,
            rope,
        );
        if let Some(temperature) = block.shape.temperature {
            temper(region, q, query, span.first, temperature);
        }
        for first in (0..length).step_by(LATENT_ROWS) {
            let rows = (length - first).min(LATENT_ROWS);
            attend(
                core,
                region,
                block,
                span,
                Piece { row: row + first, rows, position: span.first + first },
                s,
            )?;
        }
        row += length;
    }
    s.clock.lap(region, Stage::Attention);
    Ok(())
}

/// Queries into `s.joined` [rows, heads * query_dim], latent vectors and keys into `s.k` [rows, kv_rank + rotated dimensions],
/// neither rotated. Uses up `s.input` and `s.v`.
fn project(
    core: &Core,
    region: &Region<'_>,
    block: &LatentBlock,
    rows: usize,
    s: &mut Scratch,
) -> Result<()> {
    let LatentAttention { kv_rank, .. } = block.shape;
    let (key, precision) = (block.shape.key_width(), core.precision);
    let eps = block.shape.norm_eps.unwrap_or(core.hyper.norm_eps);
    let k = &mut s.k[..rows * key];
    let queries = &mut s.joined[..rows * block.shape.query_width()];
    match &block.q {
        QueryWeights::Whole(q) => {
            let mut products = [product(core, q, &s.input, queries)?, product(core, &block.kv, &s.input, k)?];
            matmul(region, precision, &mut products);
        }
        QueryWeights::Latent { down, norm, up } => {
            let latent = &mut s.q[..rows * down.rows];
            let mut products =
                [product(core, down, &s.input, latent)?, product(core, &block.kv, &s.input, &mut *k)?];
            matmul(region, precision, &mut products);
            ops::rms_norm_in_place(region, latent, norm, eps);
            s.input.set(region, rows, down.rows, latent, precision);
            matmul(region, precision, &mut [product(core, up, &s.input, queries)?]);
        }
    }
    let (k, latent) = (&mut s.k[..rows * key], &mut s.v[..rows * kv_rank]);
    ops::copy_columns(region, k, key, 0..kv_rank, latent, kv_rank, 0);
    ops::rms_norm_in_place(region, latent, &block.kv_norm, eps);
    ops::copy_columns(region, latent, kv_rank, 0..kv_rank, k, key, 0);
    Ok(())
}

/// `s.mixed` of a piece = its attention to all positions of its session up to each.
fn attend(
    core: &Core,
    region: &Region<'_>,
    block: &LatentBlock,
    span: &Span<'_>,
    Piece { row, rows, position }: Piece,
    s: &mut Scratch,
) -> Result<()> {
    let shape = &block.shape;
    let LatentAttention { heads, kv_rank, plain_dim, value_dim, .. } = *shape;
    let (query_dim, key) = (shape.query_dim(), shape.key_width());
    let of_piece = |width: usize| row * width..(row + rows) * width;
    let l = &mut s.latent;
    for (place, index) in l.index[..heads * rows].iter_mut().enumerate() {
        *index = (place % rows * heads + place / rows) as u32;
    }
    let by_head = |weight: &Weight, inputs: &Activations, index: &[u32], out: &mut [f32]| {
        head_products(core, region, weight, heads, inputs, &index[..heads * rows], out)
    };
    let queries = &mut l.queries[..rows * heads * key];
    let mixed = &mut l.mixed[..rows * heads * kv_rank];
    let q = &s.joined[of_piece(shape.query_width())];
    let plain = &mut l.parts[..rows * heads * plain_dim];
    ops::copy_columns(region, q, query_dim, 0..plain_dim, plain, plain_dim, 0);
    l.inputs.set(region, rows * heads, plain_dim, plain, core.precision);
    by_head(&block.absorb, &l.inputs, &l.index, mixed)?;
    ops::merge_heads(region, mixed, heads, kv_rank, queries, key);
    ops::copy_columns(region, q, query_dim, plain_dim..query_dim, queries, key, kv_rank);
    let (keys, _) = span.kv.slices(block.slot, position + rows);
    let args = AttentionArgs {
        q: queries,
        keys: &keys,
        values: &keys,
        value_stride: key,
        block_len: BLOCK,
        first_position: position,
        n: rows,
        heads,
        kv_heads: 1,
        head_dim: key,
        value_dim: kv_rank,
        scale: shape.scale,
        window: None,
        sinks: None,
        out: mixed,
    };
    attention(region, args, &mut s.attention);
    l.inputs.set(region, rows * heads, kv_rank, mixed, core.precision);
    let values = &mut l.parts[..rows * heads * value_dim];
    by_head(&block.values, &l.inputs, &l.index, values)?;
    ops::merge_heads(region, values, heads, value_dim, &mut s.mixed[of_piece(heads * value_dim)], value_dim);
    Ok(())
}

/// The product of each head's matrix with its rows of the input, `index` [heads, rows]; `out` [heads, rows, rows of a matrix].
fn head_products(
    core: &Core,
    region: &Region<'_>,
    weight: &Weight,
    heads: usize,
    input: &Activations,
    index: &[u32],
    out: &mut [f32],
) -> Result<()> {
    let rows = index.len() / heads;
    let outputs = out.chunks_exact_mut(rows * (weight.rows / heads));
    let heads_of_rows = index.chunks_exact(rows).zip(outputs).enumerate();
    let product = |(head, (rows, output))| {
        Ok(Product {
            weights: core.resident.part(weight, head, heads)?,
            input,
            input_rows: Some(rows),
            output,
        })
    };
    let mut products = heads_of_rows.map(product).collect::<Result<Vec<Product<'_>>>>()?;
    let precision: Precision = core.precision;
    matmul(region, precision, &mut products);
    Ok(())
}
