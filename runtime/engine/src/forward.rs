//! The forward pass: tokens in, hidden states and logits out.
//!
//! A chunk goes through one block after the other (layer-major), so that each expert is read once for the
//! whole chunk. It may hold tokens of several sessions, which share all but positions, keys and values. Every
//! output element is computed by one task in a fixed order, so that neither the number of threads, nor the chunk,
//! nor who shares it, nor what happens to be in memory changes a bit of it.

mod attention;
mod delta_net;
mod draft;
mod latent;
mod ngrams;
mod sparse;
mod streams;

use std::sync::atomic::{AtomicBool, Ordering};

use membrane_kernels::{Activations, DeltaState, Product, Region, RopeTable, matmul, ops};

use crate::error::{EngineError, Result};
use crate::finite;
use crate::hyper::Temperature;
use crate::kv::KvCache;
use crate::model::{Compute, Core};
use crate::moe;
use crate::scratch::Scratch;
use crate::stages::Stage;
use crate::state::Recurrent;
use crate::weights::{Block, Embedding, FeedForward, GatedUnit, Mixer, Weight};

pub(crate) use draft::DraftState;

/// Looks at intermediate results, for tests and tools; what it sees it can't change.
pub trait Observer {
    /// The input of a block's feed-forward, after its norm: [rows, hidden].
    fn ffn_input(&mut self, _layer: usize, _rows: usize, _x: &[f32]) {}
    /// The router's choice for rows of a chunk: ids and weights as applied, [rows, top_k], best first.
    fn router(&mut self, _layer: usize, _rows: usize, _ids: &[u32], _weights: &[f32]) {}
    /// The state of a delta-net layer behind the last token of a session in a chunk.
    fn delta_state(&mut self, _layer: usize, _state: &DeltaState) {}
    /// Logits of the head that drafts tokens, [vocabulary], for the draft with this number.
    fn draft(&mut self, _number: usize, _logits: &[f32]) {}
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

/// The tokens of one session in a chunk: rows that follow one another.
pub(crate) struct Span<'a> {
    pub kv: &'a mut KvCache,
    /// None in a model without recurrent layers.
    pub recurrent: Option<&'a mut Recurrent>,
    /// The tokens before the span, for blocks with n-grams: those computed before this pass, then those before it in this pass.
    pub before: [&'a [u32]; 2],
    /// Position of the span's first token.
    pub first: usize,
    pub tokens: &'a [u32],
}

impl Span<'_> {
    /// The position behind the span's last token.
    fn end(&self) -> usize {
        self.first + self.tokens.len()
    }
}

/// One chunk on its way through the model.
pub(crate) struct Pass<'a> {
    pub core: &'a Core,
    pub region: &'a Region<'a>,
    /// At least one; together at most the rows that the scratch has.
    pub spans: Vec<Span<'a>>,
    pub cancel: &'a AtomicBool,
}

impl Pass<'_> {
    fn rows(&self) -> usize {
        self.spans.iter().map(|span| span.tokens.len()).sum()
    }

    /// Runs the chunk. What it leaves in the scratch is for [`Pass::logits_of`].
    pub fn run(&mut self, compute: &mut Compute, observer: &mut dyn Observer) -> Result<()> {
        let core = self.core;
        compute.scratch.clock.start(self.region);
        self.embed(&mut compute.scratch.hidden)?;
        let embedded = &compute.scratch.hidden[..self.rows() * core.hyper.stream_width()];
        finite::outside_layers(core, self.region, "the embeddings", embedded)?;
        compute.scratch.clock.lap(self.region, Stage::Embedding);
        let end = self.spans.iter().map(Span::end).max().unwrap_or(0);
        compute.ropes.iter_mut().for_each(|rope| rope.extend(end));
        for (index, block) in core.layout.blocks.iter().enumerate() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            if let Some(block) = &block.ngrams {
                ngrams::add(self, block, &mut compute.scratch)?;
                compute.scratch.clock.lap(self.region, Stage::Ngrams);
            }
            self.mix(index, block, &mut compute.scratch, &compute.ropes, observer)?;
            self.feed_forward(index, block, compute, observer)?;
            finite::layer(core, self.region, index, block, self.rows(), compute)?;
            compute.scratch.clock.lap(self.region, Stage::Residual);
        }
        if observer.wants_logits() {
            self.observe_logits(&mut compute.scratch, observer)?;
        }
        Ok(())
    }

    /// Logits of all positions, for an observer.
    fn observe_logits(&self, scratch: &mut Scratch, observer: &mut dyn Observer) -> Result<()> {
        let positions: Vec<usize> = self.spans.iter().flat_map(|span| span.first..span.end()).collect();
        for (group, positions) in positions.chunks(scratch.logit_rows).enumerate() {
            self.logits(group * scratch.logit_rows, positions.len(), scratch)?;
            let logits = scratch.logits.chunks_exact(self.core.hyper.vocabulary);
            positions.iter().zip(logits).for_each(|(&position, logits)| observer.logits(position, logits));
        }
        Ok(())
    }

    /// Computes the logits behind the rows `wanted` of the chunk, in ascending order, and calls `each` with the place in
    /// `wanted` and the logits, [vocabulary]. Uses up the hidden states.
    pub fn logits_of(
        &self,
        wanted: &[usize],
        scratch: &mut Scratch,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let width = self.core.hyper.stream_width();
        // The rows move to the front. None moves over one that is still to move, since they ascend.
        for (to, &row) in wanted.iter().enumerate() {
            scratch.hidden.copy_within(row * width..(row + 1) * width, to * width);
        }
        for first in (0..wanted.len()).step_by(scratch.logit_rows) {
            let rows = (wanted.len() - first).min(scratch.logit_rows);
            self.logits(first, rows, scratch)?;
            let logits = scratch.logits.chunks_exact(self.core.hyper.vocabulary);
            (first..first + rows).zip(logits).for_each(|(place, logits)| each(place, logits));
        }
        Ok(())
    }

    /// Rows of the embedding, from memory or from disk, the same in all streams.
    fn embed(&self, out: &mut [f32]) -> Result<()> {
        let core = self.core;
        let format = core.layout.embedding_format;
        let (hidden, width) = (core.hyper.hidden, core.hyper.stream_width());
        let mut on_disk = Vec::new();
        let factor = core.layout.embedding_factor;
        let tokens = self.spans.iter().flat_map(|span| span.tokens);
        for (&token, streams) in tokens.zip(out.chunks_exact_mut(width)) {
            let row = &mut streams[..hidden];
            match core.layout.embedding {
                Embedding::Tied => core.resident.row(&core.layout.head, token as usize, row)?,
                Embedding::OnDisk(index) => {
                    let tensor = &core.checkpoint.tensors()[index];
                    let width = tensor.bytes / core.hyper.vocabulary as u64;
                    on_disk.resize(width as usize, 0);
                    core.checkpoint.read(tensor, u64::from(token) * width, &mut on_disk)?;
                    membrane_kernels::quant::dequantise_row(format, &on_disk, row);
                    row.iter_mut().for_each(|x| *x *= factor);
                }
            }
            (1..core.hyper.streams()).for_each(|stream| streams.copy_within(..hidden, stream * hidden));
        }
        if core.hyper.embedding_scale != 1.0 {
            ops::scale(self.region, &mut out[..self.rows() * width], core.hyper.embedding_scale);
        }
        Ok(())
    }

    /// x += output(mixer(norm(x))), with streams in the place of x and norm where there are several, normed where the architecture says so.
    fn mix(
        &mut self,
        index: usize,
        block: &Block,
        s: &mut Scratch,
        ropes: &[RopeTable],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (core, region, rows) = (self.core, self.region, self.rows());
        let hidden = core.hyper.hidden;
        streams::read(core, region, &block.mixer_norm, 0, rows, s)?;
        s.input.set(region, rows, hidden, &s.normed[..rows * hidden], core.precision);
        s.clock.lap(region, Stage::Norms);
        let (output, bias, stage) = match &block.mixer {
            Mixer::Attention(block) => {
                attention::mix(self, block, rows, s, &ropes[block.rope])?;
                (&block.output, block.output_bias.as_ref(), Stage::AttentionProjections)
            }
            Mixer::Latent(block) => {
                latent::mix(self, block, rows, s, &ropes[block.rope])?;
                (&block.output, None, Stage::AttentionProjections)
            }
            Mixer::DeltaNet(block) => {
                delta_net::mix(self, index, block, rows, s, observer)?;
                (&block.output, None, Stage::DeltaProjections)
            }
        };
        s.input.set(region, rows, output.cols, &s.mixed[..rows * output.cols], core.precision);
        let branch = &mut s.branch[..rows * hidden];
        matmul(region, core.precision, &mut [product(core, output, &s.input, branch)?]);
        s.clock.lap(region, stage);
        if let Some(bias) = bias {
            ops::add_bias(region, branch, bias);
        }
        if let Some(norm) = &block.after_mixer_norm {
            ops::rms_norm_in_place(region, branch, norm, core.hyper.norm_eps);
        }
        streams::write(core, region, rows, s);
        Ok(())
    }

    /// x += feed_forward(norm(x)), normed where the architecture says so.
    fn feed_forward(
        &mut self,
        index: usize,
        block: &Block,
        compute: &mut Compute,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (core, region, rows) = (self.core, self.region, self.rows());
        let s = &mut compute.scratch;
        let hidden = core.hyper.hidden;
        streams::read(core, region, &block.ffn_norm, 0, rows, s)?;
        let normed = &s.normed[..rows * hidden];
        observer.ffn_input(index, rows, normed);
        s.input.set(region, rows, hidden, normed, core.precision);
        s.clock.lap(region, Stage::Norms);
        match &block.ffn {
            FeedForward::Dense(unit) => gated_unit(core, region, unit, rows, s)?,
            FeedForward::Moe(moe) => moe::run(core, region, index, moe, rows, compute, observer)?,
        }
        let s = &mut compute.scratch;
        let branch = &mut s.branch[..rows * hidden];
        if let Some(norm) = &block.after_ffn_norm {
            ops::rms_norm_in_place(region, branch, norm, core.hyper.norm_eps);
        }
        streams::write(core, region, rows, s);
        Ok(())
    }

    /// Logits of `rows` rows of the hidden states from row `from` on, into `s.logits`.
    fn logits(&self, from: usize, rows: usize, s: &mut Scratch) -> Result<()> {
        let (core, region) = (self.core, self.region);
        let hidden = core.hyper.hidden;
        streams::read(core, region, &core.layout.output_norm, from, rows, s)?;
        s.input.set(region, rows, hidden, &s.normed[..rows * hidden], core.precision);
        s.clock.lap(region, Stage::Norms);
        let output = &mut s.logits[..rows * core.hyper.vocabulary];
        matmul(region, core.precision, &mut [product(core, &core.layout.head, &s.input, output)?]);
        let finite = finite::outside_layers(core, region, "the logits", output);
        s.clock.lap(region, Stage::Head);
        finite
    }
}

/// The product of a resident weight with all rows of an input.
fn product<'a>(
    core: &'a Core,
    weight: &Weight,
    input: &'a Activations,
    output: &'a mut [f32],
) -> Result<Product<'a>> {
    Ok(Product { weights: core.resident.matrix(weight)?, input, input_rows: None, output })
}

/// Multiplies each query of `q` [rows, width], the first of them at `position`, by what belongs to its position.
fn temper(region: &Region<'_>, q: &mut [f32], width: usize, position: usize, temperature: Temperature) {
    let (rows, context) = (q.len() / width, temperature.context);
    let mut first = 0;
    while first < rows {
        let next = (first + context - (position + first) % context).min(rows);
        if position + first >= context {
            let alike = &mut q[first * width..next * width];
            ops::scale(region, alike, temperature.factor(position + first));
        }
        first = next;
    }
}

/// branch = down(glu(gate x, up x)) for the chunk in `s.input`.
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
    let mut products = [product(core, &unit.gate, &s.input, gate)?, product(core, &unit.up, &s.input, up)?];
    matmul(region, precision, &mut products);
    s.clock.lap(region, Stage::DenseGateUp);
    s.inner.set_gated(region, rows, inner, unit.glu, gate, up, precision);
    s.clock.lap(region, Stage::Activation);
    let branch = &mut s.branch[..rows * core.hyper.hidden];
    matmul(region, precision, &mut [product(core, &unit.down, &s.inner, branch)?]);
    s.clock.lap(region, Stage::DenseDown);
    Ok(())
}
