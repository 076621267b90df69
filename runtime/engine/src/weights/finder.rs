//! Looks up the tensors of each block and checks their shapes and types.

use std::cell::RefCell;
use std::ops::Range;

use membrane_formats::{Checkpoint, Quantised, TensorInfo, Values};
use membrane_kernels::Format;
use membrane_pager::Record;

use super::packed::PackedExperts;
use super::stored::{ExpertRecoding, Stored};
use super::unused::{self, Ignored};
use super::{
    ALIGNMENT, AttentionBlock, Block, DeltaBlock, DraftHead, FeedForward, GateWeights, GatedUnit,
    InputWeights, Interleaving, Mixer, MoeBlock, RowLayout, Weight,
};
use crate::error::{EngineError, Result};
use crate::finite::is_finite;
use crate::hyper::{self, Attention, Biases, DeltaNet, Glu, Hyperparameters, Moe, Projections, Rope};

/// The kernels' name of a tensor's type. Integers, and blocks that only activations have, are no weights.
pub(super) fn format_of(tensor: &TensorInfo) -> Result<Format> {
    let stored = |format: &Format| format.is_stored();
    Format::from_name(tensor.dtype.name()).filter(stored).ok_or_else(|| EngineError::TensorType {
        tensor: tensor.name.clone(),
        found: tensor.dtype.name().into(),
        supported: Format::ALL
            .iter()
            .filter(|format| stored(format))
            .map(|format| format.name())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Looks tensors up, checks them and gives the resident ones a place.
pub(super) struct Finder<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// With what each is in the resident memory.
    pub resident: Vec<(Stored, Weight)>,
    pub recoding: ExpertRecoding,
    pub resident_bytes: u64,
    /// For each layer where in a record the matrices of its packed experts are; nothing if they are not packed.
    pub places: Vec<Vec<Range<usize>>>,
    /// Indices of the tensors that experts are made of.
    pub expert_tensors: Vec<usize>,
    /// Which matrices are interleaved.
    pub(super) interleaving: Interleaving,
    /// Of each tensor of the checkpoint whether it was looked up.
    used: RefCell<Vec<bool>>,
    /// The indices of those that were, in that order.
    found: RefCell<Vec<usize>>,
}

impl<'a> Finder<'a> {
    pub fn new(checkpoint: &'a Checkpoint, interleaving: Interleaving) -> Self {
        let used = RefCell::new(vec![false; checkpoint.tensors().len()]);
        Self {
            checkpoint,
            resident: Vec::new(),
            recoding: ExpertRecoding::of(checkpoint),
            resident_bytes: 0,
            places: Vec::new(),
            expert_tensors: Vec::new(),
            interleaving,
            used,
            found: RefCell::new(Vec::new()),
        }
    }

    /// What was not looked up and is left out. Error: leaving it out would change what the model computes.
    pub fn ignored(&self, hyper: &Hyperparameters) -> Result<Vec<Ignored>> {
        unused::check(self.checkpoint, hyper, &self.used.borrow())
    }

    pub(super) fn mark_used(&self, tensor: &TensorInfo) {
        if let Some(index) = self.checkpoint.index_of(tensor)
            && !std::mem::replace(&mut self.used.borrow_mut()[index], true)
        {
            self.found.borrow_mut().push(index);
        }
    }

    /// The parts of a quantised matrix, if it is one. Error: a part is missing.
    pub fn quantised(&self, name: &str) -> Result<Option<Quantised<'a>>> {
        let found = self.checkpoint.quantised(name)?;
        found.iter().flat_map(|found| &found.parts).for_each(|part| self.mark_used(part));
        Ok(found)
    }

    pub fn index(&self, name: &str) -> Result<usize> {
        let tensor = self.checkpoint.require(name)?;
        self.mark_used(tensor);
        Ok(self.checkpoint.tensor_index(name).unwrap_or_default())
    }

    /// A tensor of exactly these dimensions, contiguous one first; dimensions of 1 do not count.
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<(usize, &'a TensorInfo)> {
        let tensor = self.checkpoint.require(name)?;
        check_shape(tensor, dims)?;
        Ok((self.index(name)?, tensor))
    }

    pub fn weight(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let stored = Stored::find(self, name, rows, cols)?;
        let row_layout = match self.interleaving.row_bytes(stored.format, [rows, cols], stored.bytes) {
            Some(_) if stored.recoding.is_none() => RowLayout::Interleaved,
            _ => stored.row_layout(),
        };
        Ok(self.place(stored, rows, cols, row_layout))
    }

    /// `count` matrices of the same shape in one tensor, [count, rows, cols], as one matrix of all rows.
    pub fn stacked_weight(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Weight> {
        let stored = Stored::stacked(self, name, count, rows, cols)?;
        Ok(self.resident(stored, count * rows, cols))
    }

    /// Gives a matrix a place in the resident memory, its rows as they are stored.
    pub(super) fn resident(&mut self, stored: Stored, rows: usize, cols: usize) -> Weight {
        let row_layout = stored.row_layout();
        self.place(stored, rows, cols, row_layout)
    }

    fn place(&mut self, stored: Stored, rows: usize, cols: usize, row_layout: RowLayout) -> Weight {
        let offset = self.resident_bytes.next_multiple_of(ALIGNMENT);
        let Stored { ref name, format, bytes, factor, .. } = stored;
        let weight = Weight { name: name.clone(), format, rows, cols, offset, bytes, factor, row_layout };
        self.resident_bytes = offset + bytes;
        self.resident.push((stored, weight.clone()));
        weight
    }

    /// What the tensor `x.weight` is multiplied by: the number in `x.scale`, which files with NVFP4 have; 1 without.
    pub fn factor(&self, name: &str) -> Result<f32> {
        Ok(self.optional_vector(&scale_name(name), 1)?.map_or(1.0, |factor| factor[0]))
    }

    /// A vector of f32, whatever type it is stored in.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.floats(name, &[length])
    }

    /// All elements of a small tensor as f32, whatever type it is stored in.
    pub(super) fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let (_, tensor) = self.tensor(name, dims)?;
        let format = format_of(tensor)?;
        let mut bytes = vec![0; tensor.bytes as usize];
        self.checkpoint.read(tensor, 0, &mut bytes)?;
        let mut values = vec![0.0; dims.iter().product()];
        membrane_kernels::quant::dequantise_row(format, &bytes, &mut values);
        if !is_finite(&values) {
            let name = format!("tensor `{}`", tensor.name);
            return Err(EngineError::not_finite(self.checkpoint, Some(tensor.file), name));
        }
        match tensor.values {
            Values::AsStored => {}
            Values::OnePlus => values.iter_mut().for_each(|value| *value += 1.0),
            Values::MinusExp => values.iter_mut().for_each(|value| *value = -value.exp()),
        }
        Ok(values)
    }

    pub fn optional_vector(&self, name: &str, length: usize) -> Result<Option<Vec<f32>>> {
        self.checkpoint.tensor(name).map(|_| self.vector(name, length)).transpose()
    }

    /// The first of two names of a tensor, unless only the other is there, which Ollama's files have.
    fn either<'n>(&self, name: &'n str, other: &'n str) -> &'n str {
        if !self.checkpoint.holds(name) && self.checkpoint.holds(other) { other } else { name }
    }

    /// A bias, which must be there where the architecture has it.
    fn bias(&self, name: &str, length: usize, required: bool) -> Result<Option<Vec<f32>>> {
        if required { self.vector(name, length).map(Some) } else { self.optional_vector(name, length) }
    }

    /// The weights of a depthwise convolution, [kernel, channels]; in the file the taps of a channel follow one another.
    pub(super) fn taps(&self, name: &str, kernel: usize, channels: usize) -> Result<Vec<f32>> {
        let stored = self.floats(name, &[kernel, channels])?;
        Ok((0..kernel).flat_map(|tap| stored.iter().skip(tap).step_by(kernel).copied()).collect())
    }

    /// The head that drafts tokens around its block, which stands behind the others.
    pub fn draft_head(&mut self, hyper: &Hyperparameters, block: Block) -> Result<DraftHead> {
        let (index, hidden) = (hyper.blocks(), hyper.hidden);
        let name = |part: &str| format!("blk.{index}.nextn.{part}.weight");
        let norm = match self.optional_vector(&name("shared_head_norm"), hidden)? {
            Some(norm) => norm,
            None => self.vector("output_norm.weight", hidden)?,
        };
        Ok(DraftHead {
            block,
            join: self.weight(&name("eh_proj"), hidden, 2 * hidden)?,
            embedding_norm: self.vector(&name("enorm"), hidden)?,
            hidden_norm: self.vector(&name("hnorm"), hidden)?,
            norm,
        })
    }

    /// All blocks, that of a head that drafts tokens included, each with the records of its experts.
    pub fn blocks(&mut self, hyper: &Hyperparameters) -> Result<Vec<(Block, Vec<Record>)>> {
        let (mut caches, mut delta_nets) = (0.., 0..);
        let ropes = hyper.ropes();
        let rope_of = |rope: &Rope| ropes.iter().position(|known| known == rope).unwrap_or_default();
        let mut blocks = Vec::with_capacity(hyper.blocks() + 1);
        for (index, layer) in hyper.all_layers().enumerate() {
            let name = |part: &str| format!("blk.{index}.{part}");
            let ngrams = self.ngrams(hyper, index)?;
            let mixer_norm = self.input_norm(hyper, &name("attn_norm"), &name("hc_attn"), true)?;
            let mixer = match &layer.mixer {
                hyper::Mixer::Attention(shape) => {
                    let slot = caches.next().unwrap_or_default();
                    let rope = rope_of(&shape.rope);
                    Mixer::Attention(Box::new(self.attention(index, slot, rope, hyper.hidden, shape)?))
                }
                hyper::Mixer::Latent(shape) => {
                    let slot = caches.next().unwrap_or_default();
                    let rope = rope_of(&shape.rope);
                    Mixer::Latent(Box::new(self.latent(index, slot, rope, hyper.hidden, shape)?))
                }
                hyper::Mixer::DeltaNet(delta_net) => {
                    let slot = delta_nets.next().unwrap_or_default();
                    Mixer::DeltaNet(Box::new(self.delta_net(index, slot, hyper.hidden, delta_net)?))
                }
            };
            let norm = |part: &str| self.vector(&name(&format!("{part}.weight")), hyper.hidden);
            let after_mixer_norm = hyper.norms.after_mixer.map(norm).transpose()?;
            let after_ffn_norm = hyper.norms.after_ffn.map(norm).transpose()?;
            let ffn_norm = self.input_norm(hyper, &name(hyper.norms.ffn), &name("hc_ffn"), true)?;
            let (ffn, experts) = match &layer.feed_forward {
                hyper::FeedForward::Moe(moe) => {
                    let (block, experts) = self.moe(index, hyper.hidden, moe)?;
                    (FeedForward::Moe(Box::new(block)), experts)
                }
                hyper::FeedForward::Dense { inner, glu } => {
                    self.recoding.add(Vec::new());
                    self.places.push(Vec::new());
                    (FeedForward::Dense(self.gated_unit(index, "", *inner, hyper.hidden, *glu)?), Vec::new())
                }
            };
            let block = Block { ngrams, mixer_norm, mixer, after_mixer_norm, ffn_norm, ffn, after_ffn_norm };
            blocks.push((block, experts));
        }
        Ok(blocks)
    }

    fn attention(
        &mut self,
        index: usize,
        slot: usize,
        rope: usize,
        hidden: usize,
        shape: &Attention,
    ) -> Result<AttentionBlock> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let query_rows = shape.query_width() * if shape.gated { 2 } else { 1 };
        let (key_rows, value_rows) = (shape.key_width(), shape.value_width());
        let inputs = shape.biases != Biases::Optional;
        let head_norm = |finder: &Self, part: &str| match shape.head_norm {
            true => finder.vector(&name(part), shape.head_dim).map(Some),
            false => Ok(None),
        };
        let output = |part: &str| (name(&format!("attn_output.{part}")), name(&format!("attn_out.{part}")));
        let (output_weight, output_bias) = (output("weight"), output("bias"));
        let output_weight = self.either(&output_weight.0, &output_weight.1);
        let output_bias = self.either(&output_bias.0, &output_bias.1);
        Ok(AttentionBlock {
            shape: *shape,
            slot,
            rope,
            q: self.weight(&name("attn_q.weight"), query_rows, hidden)?,
            k: self.weight(&name("attn_k.weight"), key_rows, hidden)?,
            v: self.weight(&name("attn_v.weight"), value_rows, hidden)?,
            q_bias: self.bias(&name("attn_q.bias"), query_rows, inputs)?,
            k_bias: self.bias(&name("attn_k.bias"), key_rows, inputs)?,
            v_bias: self.bias(&name("attn_v.bias"), value_rows, inputs)?,
            q_norm: head_norm(self, "attn_q_norm.weight")?,
            k_norm: head_norm(self, "attn_k_norm.weight")?,
            output: self.weight(output_weight, hidden, shape.mixed_width())?,
            output_bias: self.bias(output_bias, hidden, shape.biases == Biases::All)?,
            sinks: match shape.sinks {
                true => {
                    let names = (name("attn_sinks.weight"), name("attn_sinks"));
                    Some(self.vector(self.either(&names.0, &names.1), shape.heads)?)
                }
                false => None,
            },
            index: match &shape.indexer {
                Some(indexer) => Some(self.index_block(index, hidden, indexer)?),
                None => None,
            },
        })
    }

    fn delta_net(
        &mut self,
        index: usize,
        slot: usize,
        hidden: usize,
        DeltaNet { shape, inputs, gates, output_gate }: &DeltaNet,
    ) -> Result<DeltaBlock> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (heads, width) = (shape.value_heads, shape.value_width());
        let gates = match gates {
            Projections::Apart => GateWeights::Apart {
                strength: self.weight(&name("ssm_beta.weight"), heads, hidden)?,
                decay: self.weight(&name("ssm_alpha.weight"), heads, hidden)?,
            },
            Projections::ByKeyHead => {
                GateWeights::ByKeyHead(self.weight(&name("ssm_ba.weight"), 2 * heads, hidden)?)
            }
        };
        let channels = shape.channels();
        let inputs = match inputs {
            Projections::Apart => InputWeights::Apart {
                qkv: self.weight(&name("attn_qkv.weight"), channels, hidden)?,
                z: self.weight(&name("attn_gate.weight"), width, hidden)?,
            },
            Projections::ByKeyHead => {
                InputWeights::ByKeyHead(self.weight(&name("ssm_in.weight"), channels + width, hidden)?)
            }
        };
        Ok(DeltaBlock {
            shape: *shape,
            output_gate: *output_gate,
            slot,
            inputs,
            gates,
            convolution: self.taps(&name("ssm_conv1d.weight"), shape.kernel, channels)?,
            decay_bias: self.vector(self.either(&name("ssm_dt.bias"), &name("ssm_dt")), heads)?,
            decay_rate: self.vector(&name("ssm_a"), heads)?,
            norm: self.vector(&name("ssm_norm.weight"), shape.value_dim)?,
            output: self.weight(&name("ssm_out.weight"), hidden, width)?,
        })
    }

    fn gated_unit(
        &mut self,
        index: usize,
        suffix: &str,
        inner: usize,
        hidden: usize,
        glu: Glu,
    ) -> Result<GatedUnit> {
        Ok(GatedUnit {
            glu,
            gate: self.weight(&format!("blk.{index}.ffn_gate{suffix}.weight"), inner, hidden)?,
            up: self.weight(&format!("blk.{index}.ffn_up{suffix}.weight"), inner, hidden)?,
            down: self.weight(&format!("blk.{index}.ffn_down{suffix}.weight"), hidden, inner)?,
        })
    }

    fn moe(&mut self, index: usize, hidden: usize, moe: &Moe) -> Result<(MoeBlock, Vec<Record>)> {
        let shared = match moe.shared {
            Some(shared) => {
                let unit = self.gated_unit(index, "_shexp", shared.inner, hidden, moe.glu)?;
                let gate = format!("blk.{index}.ffn_gate_inp_shexp.weight");
                Some((unit, shared.gated.then(|| self.weight(&gate, 1, hidden)).transpose()?))
            }
            None => None,
        };
        let router = self.weight(&format!("blk.{index}.ffn_gate_inp.weight"), moe.experts, hidden)?;
        let before = self.found.borrow().len();
        let PackedExperts { matrices: [gate, up, down], places } =
            match self.packed_experts(index, hidden, moe)? {
                Some(packed) => packed,
                None => PackedExperts { matrices: self.all_experts(index, hidden, moe)?, places: Vec::new() },
            };
        let [gate, up, down] = [gate, up, down].map(|matrix| matrix.interleaved(self.interleaving));
        self.places.push(places);
        self.expert_tensors.extend_from_slice(&self.found.borrow()[before..]);
        let parts = |expert: usize| {
            [&gate, &up, &down].into_iter().flat_map(move |matrix| matrix.parts[expert].iter().copied())
        };
        let records = (0..moe.experts).map(|expert| Record { parts: parts(expert).collect() }).collect();
        let [gate, up, down] = [gate, up, down].map(|matrix| (matrix.matrix, (matrix.form, matrix.bytes)));
        self.recoding.add(vec![gate.1, up.1, down.1]);
        let vector = |part: &str| self.vector(&format!("blk.{index}.{part}.bias"), moe.experts);
        let router_bias = moe.biased.then(|| vector("ffn_gate_inp")).transpose()?;
        let choice_bias = moe.router.choice_bias.then(|| vector("exp_probs_b")).transpose()?;
        let biases = moe.biased.then(|| self.expert_biases(index, hidden, moe)).transpose()?;
        let (shape, gate, up, down) = (*moe, gate.0, up.0, down.0);
        Ok((MoeBlock { shape, router, gate, up, down, router_bias, choice_bias, biases, shared }, records))
    }
}

/// Error: a tensor has other dimensions than these, contiguous one first; dimensions of 1 do not count.
pub(super) fn check_shape(tensor: &TensorInfo, dims: &[usize]) -> Result<()> {
    let wanted: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
    let found = tensor.shape.dims();
    if without_ones(found.iter().copied()) != without_ones(wanted.iter().copied()) {
        let (tensor, found) = (tensor.name.clone(), found.to_vec());
        return Err(EngineError::TensorShape { tensor, found, wanted });
    }
    Ok(())
}

/// The name of the factor beside a tensor.
pub(super) fn scale_name(name: &str) -> String {
    format!("{}.scale", name.trim_end_matches(".weight"))
}

fn without_ones(dims: impl Iterator<Item = u64>) -> Vec<u64> {
    dims.filter(|&dim| dim != 1).collect()
}
