//! A gated delta-net over a chunk: `mixed = norm(delta_rule(convolution(qkv x), gates x)) * gate(z x)`.
//!
//! Each session's tokens go through its own state, in order; at a mark the state is copied between two tokens.

use membrane_kernels::delta_net::{convolve, decays, l2_norm, split_by_key_head, strengths};
use membrane_kernels::{DeltaRule, Region, delta_rule, matmul, ops};

use super::{Observer, Pass, Span, product};
use crate::error::Result;
use crate::scratch::Scratch;
use crate::stages::Stage;
use crate::weights::{DeltaBlock, GateWeights, InputWeights};

/// What the states of one span work on: rows of the span.
struct Rows<'a> {
    joined: &'a [f32],    // [rows, channels], before the convolution
    qkv: &'a mut [f32],   // [rows, channels]
    decay: &'a [f32],     // [rows, value_heads]
    strength: &'a [f32],  // [rows, value_heads]
    mixed: &'a mut [f32], // [rows, value_heads * value_dim]
}

/// Mixes the chunk in `s.input` into `s.mixed` [rows, value_heads * value_dim].
pub(super) fn mix(
    pass: &mut Pass<'_>,
    index: usize,
    block: &DeltaBlock,
    rows: usize,
    s: &mut Scratch,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (core, region, shape) = (pass.core, pass.region, &block.shape);
    let (channels, width, heads) = (shape.channels(), shape.value_width(), shape.value_heads);
    project(pass, block, rows, s)?;
    s.clock.lap(region, Stage::DeltaProjections);
    let (decay, rest) = s.decays.split_at_mut(rows * heads);
    let strength = &mut rest[..rows * heads];
    decays(region, decay, &block.decay_bias, &block.decay_rate);
    strengths(region, strength);
    let mut row = 0;
    for span in &mut pass.spans {
        let rows = row..row + span.tokens.len();
        row = rows.end;
        let rows = Rows {
            joined: &s.joined[rows.start * channels..rows.end * channels],
            qkv: &mut s.q[rows.start * channels..rows.end * channels],
            decay: &decay[rows.start * heads..rows.end * heads],
            strength: &strength[rows.start * heads..rows.end * heads],
            mixed: &mut s.mixed[rows.start * width..rows.end * width],
        };
        recur(span, region, block, rows);
        if let Some(state) = span.recurrent.as_mut().and_then(|recurrent| recurrent.layer(block.slot)) {
            observer.delta_state(index, state);
        }
    }
    let mixed = &mut s.mixed[..rows * width];
    ops::rms_norm_in_place(region, mixed, &block.norm, core.hyper.norm_eps);
    ops::gate(region, block.output_gate, mixed, &s.mixer_gate[..rows * width]);
    s.clock.lap(region, Stage::DeltaNet);
    Ok(())
}

/// Queries, keys and values before the convolution into `s.joined`, what the output is gated by into `s.mixer_gate`, and of
/// the state's gates first the decays, then the strengths into `s.decays` [2, rows, value_heads], before their functions.
fn project(pass: &Pass<'_>, block: &DeltaBlock, rows: usize, s: &mut Scratch) -> Result<()> {
    let (core, region, shape) = (pass.core, pass.region, &block.shape);
    let gates = rows * shape.value_heads;
    let (decays, rest) = s.decays.split_at_mut(gates);
    let (strengths, rest) = rest.split_at_mut(gates);
    let pairs = &mut rest[..2 * gates];
    let (channels, width) = (shape.channels(), shape.value_width());
    let (joined, z) = (&mut s.joined[..rows * channels], &mut s.mixer_gate[..rows * width]);
    let fused = &mut s.q[..];
    let mut products = Vec::with_capacity(4);
    match &block.inputs {
        InputWeights::Apart { qkv, z: gate } => {
            products.push(product(core, qkv, &s.input, joined)?);
            products.push(product(core, gate, &s.input, z)?);
        }
        InputWeights::ByKeyHead(all) => {
            products.push(product(core, all, &s.input, &mut fused[..rows * (channels + width)])?);
        }
    }
    match &block.gates {
        GateWeights::Apart { strength, decay } => {
            products.push(product(core, decay, &s.input, decays)?);
            products.push(product(core, strength, &s.input, strengths)?);
        }
        GateWeights::ByKeyHead(both) => products.push(product(core, both, &s.input, pairs)?),
    }
    matmul(region, core.precision, &mut products);
    if let InputWeights::ByKeyHead(_) = &block.inputs {
        split_by_key_head(
            region,
            &s.q[..rows * (channels + width)],
            shape,
            &mut s.joined[..rows * channels],
            &mut s.mixer_gate[..rows * width],
        );
    }
    if let GateWeights::ByKeyHead(_) = &block.gates {
        ops::split_pairs(region, pairs, shape.value_heads / shape.key_heads, strengths, decays);
    }
    Ok(())
}

/// mixed = what the span's state gives for its rows.
fn recur(span: &mut Span<'_>, region: &Region<'_>, block: &DeltaBlock, rows: Rows<'_>) {
    let Some(recurrent) = &mut span.recurrent else { return };
    let shape = &block.shape;
    let (channels, heads, width) = (shape.channels(), shape.value_heads, shape.value_width());
    let (keys, scale) = (shape.key_heads, 1.0 / (shape.key_dim as f32).sqrt());
    let mut from = 0;
    for to in recurrent.pieces(span.first, span.tokens.len()) {
        let Some(state) = recurrent.layer(block.slot) else { return };
        let qkv = &mut rows.qkv[from * channels..to * channels];
        convolve(region, &rows.joined[from * channels..to * channels], &block.convolution, state, qkv);
        l2_norm(region, qkv, channels, 0..keys, shape.key_dim, scale);
        l2_norm(region, qkv, channels, keys..2 * keys, shape.key_dim, 1.0);
        let call = DeltaRule {
            qkv,
            decay: &rows.decay[from * heads..to * heads],
            strength: &rows.strength[from * heads..to * heads],
            out: &mut rows.mixed[from * width..to * width],
        };
        delta_rule(region, call, state);
        recurrent.mark(block.slot, span.first + to);
        from = to;
    }
}
