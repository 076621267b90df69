//! Softmax attention of a chunk: `mixed = attention(q x, k x, v x)`, gated where the architecture says so.

use membrane_kernels::{AttentionArgs, AttentionScratch, Region, RopeTable, attention, matmul, ops};

use super::{Pass, Span, product};
use crate::error::Result;
use crate::hyper::Attention;
use crate::kv::BLOCK;
use crate::scratch::Scratch;
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
    for (x, bias) in [(projected, &block.q_bias), (&mut *k, &block.k_bias), (&mut *v, &block.v_bias)] {
        if let Some(bias) = bias {
            ops::add_bias(region, x, bias);
        }
    }
    if shape.gated {
        let gate = &mut s.mixer_gate[..rows * query];
        ops::split_pairs(region, &s.joined[..2 * rows * query], shape.head_dim, q, gate);
    }
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
        attend(span, region, block, rope, heads, &mut s.attention);
    }
    if shape.gated {
        ops::gate(region, ops::Gate::Sigmoid, mixed, &s.mixer_gate[..rows * query]);
    }
    Ok(())
}

/// mixed = attention of the span's rows to all positions of its session up to each.
fn attend(
    span: &mut Span<'_>,
    region: &Region<'_>,
    block: &AttentionBlock,
    rope: &RopeTable,
    Heads { q, k, v, mixed }: Heads<'_>,
    scratch: &mut AttentionScratch,
) {
    let Attention { heads, kv_heads, head_dim, value_dim, .. } = block.shape;
    ops::rope(region, q, heads, head_dim, 0, span.first, rope);
    ops::rope(region, k, kv_heads, head_dim, 0, span.first, rope);
    span.kv.store(block.slot, span.first, k, v);
    let (keys, values) = span.kv.slices(block.slot, span.end());
    attention(
        region,
        AttentionArgs {
            q,
            keys: &keys,
            values: &values,
            value_stride: block.shape.value_width(),
            block_len: BLOCK,
            first_position: span.first,
            n: span.tokens.len(),
            heads,
            kv_heads,
            head_dim,
            value_dim,
            scale: block.shape.scale,
            window: block.shape.window,
            sinks: block.sinks.as_deref(),
            out: mixed,
        },
        scratch,
    );
}
