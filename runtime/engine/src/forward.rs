//! The forward pass: tokens in, hidden states and logits out.
//!
//! A chunk goes through one block after the other (layer-major), so that each expert is read once for the
//! whole chunk. Every output element is computed by one task in a fixed order, so that neither the number
//! of threads, nor the chunk, nor what happens to be in memory changes a bit of it.

use std::sync::atomic::{AtomicBool, Ordering};

use membrane_kernels::{AttentionArgs, Product, Region, RopeTable, attention, matmul, ops};

use crate::error::{EngineError, Result};
use crate::kv::{BLOCK, KvCache};
use crate::model::{Compute, Core};
use crate::moe;
use crate::scratch::{LOGIT_ROWS, Scratch};
use crate::weights::{Block, Embedding, FeedForward, GatedUnit};

/// Looks at intermediate results, for tests and tools; what it sees it can't change.
pub trait Observer {
    /// The input of a block's feed-forward, after its norm: [rows, hidden].
    fn ffn_input(&mut self, _layer: usize, _rows: usize, _x: &[f32]) {}
    /// The router's choice for rows of a chunk: ids and weights as applied, [rows, top_k], best first.
    fn router(&mut self, _layer: usize, _rows: usize, _ids: &[u32], _weights: &[f32]) {}
    /// Logits of one position, [vocabulary]; only if `wants_logits`.
    fn logits(&mut self, _position: usize, _logits: &[f32]) {}
    /// Whether logits of all positions are to be computed.
    fn wants_logits(&self) -> bool {
        false
    }
}

/// The observer that looks at nothing.
pub(crate) struct Unobserved;
impl Observer for Unobserved {}

/// One chunk on its way through the model.
pub(crate) struct Pass<'a> {
    pub core: &'a Core,
    pub region: &'a Region<'a>,
    pub kv: &'a mut KvCache,
    /// Position of the chunk's first token.
    pub first: usize,
    /// Tokens in the chunk.
    pub rows: usize,
    pub cancel: &'a AtomicBool,
}

impl Pass<'_> {
    /// Runs a chunk. The logits of its last position are left in the first row of `scratch.logits` if
    /// `last_logits`.
    pub fn run(
        &mut self,
        compute: &mut Compute,
        tokens: &[u32],
        last_logits: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let core = self.core;
        let hidden = core.hyper.hidden;
        self.embed(tokens, &mut compute.scratch.hidden)?;
        compute.rope.extend(self.first + self.rows);
        for (index, block) in core.layout.blocks.iter().enumerate() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            self.attend(index, block, &mut compute.scratch, &compute.rope)?;
            self.feed_forward(index, block, compute, observer)?;
        }
        let scratch = &mut compute.scratch;
        if observer.wants_logits() {
            for from in (0..self.rows).step_by(LOGIT_ROWS.min(core.plan.prefill_chunk)) {
                let rows = (self.rows - from).min(LOGIT_ROWS);
                self.logits(from, rows, scratch)?;
                for (row, logits) in scratch.logits.chunks_exact(core.hyper.vocabulary).take(rows).enumerate()
                {
                    observer.logits(self.first + from + row, logits);
                }
            }
        }
        if last_logits {
            self.logits(self.rows - 1, 1, scratch)?;
        }
        debug_assert!(scratch.hidden.len() >= self.rows * hidden);
        Ok(())
    }

    /// Rows of the embedding, from memory or from disk.
    fn embed(&self, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let core = self.core;
        let format = core.layout.embedding_format;
        let hidden = core.hyper.hidden;
        let mut on_disk = Vec::new();
        for (&token, row) in tokens.iter().zip(out.chunks_exact_mut(hidden)) {
            let bytes = match core.layout.embedding {
                Embedding::Tied => {
                    let all = core.resident.bytes(&core.layout.head);
                    let width = all.len() / core.hyper.vocabulary;
                    &all[token as usize * width..(token as usize + 1) * width]
                }
                Embedding::OnDisk(index) => {
                    let tensor = &core.checkpoint.tensors()[index];
                    let width = tensor.bytes / core.hyper.vocabulary as u64;
                    on_disk.resize(width as usize, 0);
                    core.checkpoint.read(tensor, u64::from(token) * width, &mut on_disk)?;
                    &on_disk
                }
            };
            membrane_kernels::quant::dequantise_row(format, bytes, row);
        }
        Ok(())
    }

    /// x += output(attention(norm(x))).
    fn attend(&mut self, index: usize, block: &Block, s: &mut Scratch, rope: &RopeTable) -> Result<()> {
        let (core, region, rows) = (self.core, self.region, self.rows);
        let hyper = &core.hyper;
        let precision = core.precision;
        let (hidden, query) = (hyper.hidden, hyper.heads * hyper.head_dim);
        let (key, value) = (hyper.key_width(), hyper.value_width());
        let x = &mut s.hidden[..rows * hidden];
        let normed = &mut s.normed[..rows * hidden];
        ops::rms_norm(region, x, &block.attn_norm, hyper.norm_eps, normed);
        s.input.set(region, rows, hidden, normed, precision);
        let (q, k, v) = (&mut s.q[..rows * query], &mut s.k[..rows * key], &mut s.v[..rows * value]);
        matmul(
            region,
            precision,
            &mut [
                Product {
                    weights: core.resident.matrix(&block.q)?,
                    input: &s.input,
                    input_rows: None,
                    output: q,
                },
                Product {
                    weights: core.resident.matrix(&block.k)?,
                    input: &s.input,
                    input_rows: None,
                    output: k,
                },
                Product {
                    weights: core.resident.matrix(&block.v)?,
                    input: &s.input,
                    input_rows: None,
                    output: v,
                },
            ],
        );
        for (x, bias) in [(&mut *q, &block.q_bias), (k, &block.k_bias), (v, &block.v_bias)] {
            if let Some(bias) = bias {
                ops::add_bias(region, x, bias);
            }
        }
        for (x, weight) in [(&mut *q, &block.q_norm), (k, &block.k_norm)] {
            if let Some(weight) = weight {
                ops::rms_norm_in_place(region, x, weight, hyper.norm_eps);
            }
        }
        ops::rope(region, q, hyper.heads, hyper.head_dim, self.first, rope);
        ops::rope(region, k, hyper.kv_heads, hyper.head_dim, self.first, rope);
        self.kv.store(index, self.first, k, v);
        let mixed = &mut s.mixed[..rows * hyper.heads * hyper.value_dim];
        let (keys, values) = self.kv.slices(index, self.first + rows);
        attention(
            region,
            AttentionArgs {
                q,
                keys: &keys,
                values: &values,
                block_len: BLOCK,
                first_position: self.first,
                n: rows,
                heads: hyper.heads,
                kv_heads: hyper.kv_heads,
                head_dim: hyper.head_dim,
                value_dim: hyper.value_dim,
                scale: 1.0 / (hyper.head_dim as f32).sqrt(),
                out: mixed,
            },
            &mut s.attention,
        );
        s.input.set(region, rows, hyper.heads * hyper.value_dim, mixed, precision);
        let branch = &mut s.branch[..rows * hidden];
        let weights = core.resident.matrix(&block.output)?;
        matmul(
            region,
            precision,
            &mut [Product { weights, input: &s.input, input_rows: None, output: branch }],
        );
        ops::add(region, x, branch);
        Ok(())
    }

    /// x += feed_forward(norm(x)).
    fn feed_forward(
        &mut self,
        index: usize,
        block: &Block,
        compute: &mut Compute,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (core, region, rows) = (self.core, self.region, self.rows);
        let s = &mut compute.scratch;
        let hidden = core.hyper.hidden;
        let x = &mut s.hidden[..rows * hidden];
        let normed = &mut s.normed[..rows * hidden];
        ops::rms_norm(region, x, &block.ffn_norm, core.hyper.norm_eps, normed);
        observer.ffn_input(index, rows, normed);
        s.input.set(region, rows, hidden, normed, core.precision);
        match &block.ffn {
            FeedForward::Dense(unit) => gated_unit(core, region, unit, rows, s)?,
            FeedForward::Moe(moe) => moe::run(core, region, index, moe, rows, compute, observer)?,
        }
        let s = &mut compute.scratch;
        ops::add(region, &mut s.hidden[..rows * hidden], &s.branch[..rows * hidden]);
        Ok(())
    }

    /// Logits of `rows` positions of the chunk from row `from` on, into `s.logits`.
    fn logits(&self, from: usize, rows: usize, s: &mut Scratch) -> Result<()> {
        let (core, region) = (self.core, self.region);
        let hidden = core.hyper.hidden;
        let x = &s.hidden[from * hidden..(from + rows) * hidden];
        let normed = &mut s.normed[..rows * hidden];
        ops::rms_norm(region, x, &core.layout.output_norm, core.hyper.norm_eps, normed);
        s.input.set(region, rows, hidden, normed, core.precision);
        let weights = core.resident.matrix(&core.layout.head)?;
        let output = &mut s.logits[..rows * core.hyper.vocabulary];
        matmul(region, core.precision, &mut [Product { weights, input: &s.input, input_rows: None, output }]);
        Ok(())
    }
}

/// branch = down(silu(gate x) * up x) for the chunk in `s.input`.
pub(crate) fn gated_unit(
    core: &Core,
    region: &Region<'_>,
    unit: &GatedUnit,
    rows: usize,
    s: &mut Scratch,
) -> Result<()> {
    let precision = core.precision;
    let inner = unit.gate.rows;
    let (gate, up) = (&mut s.gate[..rows * inner], &mut s.up[..rows * inner]);
    matmul(
        region,
        precision,
        &mut [
            Product {
                weights: core.resident.matrix(&unit.gate)?,
                input: &s.input,
                input_rows: None,
                output: gate,
            },
            Product {
                weights: core.resident.matrix(&unit.up)?,
                input: &s.input,
                input_rows: None,
                output: up,
            },
        ],
    );
    ops::silu_mul(region, gate, up);
    s.inner.set(region, rows, inner, gate, precision);
    let branch = &mut s.branch[..rows * core.hyper.hidden];
    let weights = core.resident.matrix(&unit.down)?;
    matmul(region, precision, &mut [Product { weights, input: &s.inner, input_rows: None, output: branch }]);
    Ok(())
}
