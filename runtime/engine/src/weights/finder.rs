//! Looks up the tensors of each block and checks their shapes and types.

use membrane_formats::{Checkpoint, TensorInfo};
use membrane_kernels::Format;
use membrane_pager::{ByteRange, Record};

use super::{
    ALIGNMENT, AttentionBlock, Block, DeltaBlock, ExpertMatrix, FeedForward, GateWeights, GatedUnit,
    InputWeights, Mixer, MoeBlock, Weight,
};
use crate::error::{EngineError, Result};
use crate::hyper::{self, Attention, DeltaNet, Hyperparameters, Moe, Projections};

/// The kernels' name of a tensor's type. Integers, and blocks that only activations have, are no weights.
pub(super) fn format_of(tensor: &TensorInfo) -> Result<Format> {
    Format::from_name(tensor.dtype.name()).ok_or_else(|| EngineError::TensorType {
        tensor: tensor.name.clone(),
        found: tensor.dtype.name().into(),
        supported: Format::ALL.map(Format::name).join(", "),
    })
}

/// The same matrix of all experts of a block, and where each one's bytes lie.
type Experts = (ExpertMatrix, Vec<ByteRange>);

/// Looks tensors up, checks them and gives the resident ones a place.
pub(super) struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    pub resident: Vec<(usize, u64)>, // (tensor index, offset in the resident memory)
    pub resident_bytes: u64,
}

impl<'a> Finder<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, resident: Vec::new(), resident_bytes: 0 }
    }

    pub fn index(&self, name: &str) -> Result<usize> {
        self.checkpoint.require(name)?;
        Ok(self.checkpoint.tensor_index(name).unwrap_or_default())
    }

    /// A tensor of exactly these dimensions, contiguous one first; trailing dimensions of 1 do not count.
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<(usize, &'a TensorInfo)> {
        let tensor = self.checkpoint.require(name)?;
        let found = trimmed(tensor.shape.dims().iter().copied());
        let wanted = trimmed(dims.iter().map(|&d| d as u64));
        if found != wanted {
            return Err(EngineError::TensorShape { tensor: name.into(), found, wanted });
        }
        Ok((self.index(name)?, tensor))
    }

    pub fn weight(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (index, tensor) = self.tensor(name, &[cols, rows])?;
        let format = format_of(tensor)?;
        let offset = self.resident_bytes.next_multiple_of(ALIGNMENT);
        self.resident.push((index, offset));
        self.resident_bytes = offset + tensor.bytes;
        let factor = self.factor(name)?;
        Ok(Weight { name: name.into(), format, rows, cols, offset, bytes: tensor.bytes, factor })
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
    fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let (_, tensor) = self.tensor(name, dims)?;
        let format = format_of(tensor)?;
        let mut bytes = vec![0; tensor.bytes as usize];
        self.checkpoint.read(tensor, 0, &mut bytes)?;
        let mut values = vec![0.0; dims.iter().product()];
        membrane_kernels::quant::dequantise_row(format, &bytes, &mut values);
        Ok(values)
    }

    pub fn optional_vector(&self, name: &str, length: usize) -> Result<Option<Vec<f32>>> {
        self.checkpoint.tensor(name).map(|_| self.vector(name, length)).transpose()
    }

    /// All blocks, each with the records of its experts.
    pub fn blocks(&mut self, hyper: &Hyperparameters) -> Result<Vec<(Block, Vec<Record>)>> {
        let (mut attentions, mut delta_nets) = (0.., 0..);
        let mut blocks = Vec::with_capacity(hyper.blocks());
        for (index, layer) in hyper.layers.iter().enumerate() {
            let name = |part: &str| format!("blk.{index}.{part}");
            let mixer_norm = self.vector(&name("attn_norm.weight"), hyper.hidden)?;
            let mixer = match &layer.mixer {
                hyper::Mixer::Attention(shape) => {
                    let slot = attentions.next().unwrap_or_default();
                    Mixer::Attention(Box::new(self.attention(index, slot, hyper.hidden, shape)?))
                }
                hyper::Mixer::DeltaNet(delta_net) => {
                    let slot = delta_nets.next().unwrap_or_default();
                    Mixer::DeltaNet(Box::new(self.delta_net(index, slot, hyper.hidden, delta_net)?))
                }
            };
            let ffn_norm = self.vector(&name(&format!("{}.weight", hyper.ffn_norm)), hyper.hidden)?;
            let (ffn, experts) = match &layer.feed_forward {
                hyper::FeedForward::Moe(moe) => {
                    let (block, experts) = self.moe(index, hyper.hidden, moe)?;
                    (FeedForward::Moe(Box::new(block)), experts)
                }
                hyper::FeedForward::Dense { inner } => {
                    (FeedForward::Dense(self.gated_unit(index, "", *inner, hyper.hidden)?), Vec::new())
                }
            };
            blocks.push((Block { mixer_norm, mixer, ffn_norm, ffn }, experts));
        }
        Ok(blocks)
    }

    fn attention(
        &mut self,
        index: usize,
        slot: usize,
        hidden: usize,
        shape: &Attention,
    ) -> Result<AttentionBlock> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let query_rows = shape.query_width() * if shape.gated { 2 } else { 1 };
        let (key_rows, value_rows) = (shape.key_width(), shape.value_width());
        let head_norm = |finder: &Self, part: &str| match shape.head_norm {
            true => finder.vector(&name(part), shape.head_dim).map(Some),
            false => Ok(None),
        };
        Ok(AttentionBlock {
            shape: *shape,
            slot,
            q: self.weight(&name("attn_q.weight"), query_rows, hidden)?,
            k: self.weight(&name("attn_k.weight"), key_rows, hidden)?,
            v: self.weight(&name("attn_v.weight"), value_rows, hidden)?,
            q_bias: self.optional_vector(&name("attn_q.bias"), query_rows)?,
            k_bias: self.optional_vector(&name("attn_k.bias"), key_rows)?,
            v_bias: self.optional_vector(&name("attn_v.bias"), value_rows)?,
            q_norm: head_norm(self, "attn_q_norm.weight")?,
            k_norm: head_norm(self, "attn_k_norm.weight")?,
            output: self.weight(&name("attn_output.weight"), hidden, shape.mixed_width())?,
        })
    }

    fn delta_net(
        &mut self,
        index: usize,
        slot: usize,
        hidden: usize,
        DeltaNet { shape, inputs, gates }: &DeltaNet,
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
        let convolution = self.floats(&name("ssm_conv1d.weight"), &[shape.kernel, channels])?;
        Ok(DeltaBlock {
            shape: *shape,
            slot,
            inputs,
            gates,
            // In the file the taps of a channel follow one another.
            convolution: (0..shape.kernel)
                .flat_map(|tap| convolution.iter().skip(tap).step_by(shape.kernel).copied())
                .collect(),
            decay_bias: self.vector(&name("ssm_dt.bias"), heads)?,
            decay_rate: self.vector(&name("ssm_a"), heads)?,
            norm: self.vector(&name("ssm_norm.weight"), shape.value_dim)?,
            output: self.weight(&name("ssm_out.weight"), hidden, width)?,
        })
    }

    fn gated_unit(&mut self, index: usize, suffix: &str, inner: usize, hidden: usize) -> Result<GatedUnit> {
        Ok(GatedUnit {
            gate: self.weight(&format!("blk.{index}.ffn_gate{suffix}.weight"), inner, hidden)?,
            up: self.weight(&format!("blk.{index}.ffn_up{suffix}.weight"), inner, hidden)?,
            down: self.weight(&format!("blk.{index}.ffn_down{suffix}.weight"), hidden, inner)?,
        })
    }

    fn moe(&mut self, index: usize, hidden: usize, moe: &Moe) -> Result<(MoeBlock, Vec<Record>)> {
        let shared = if moe.shared_inner > 0 {
            let unit = self.gated_unit(index, "_shexp", moe.shared_inner, hidden)?;
            Some((unit, self.weight(&format!("blk.{index}.ffn_gate_inp_shexp.weight"), 1, hidden)?))
        } else {
            None
        };
        let router = self.weight(&format!("blk.{index}.ffn_gate_inp.weight"), moe.experts, hidden)?;
        let ((gate, gates), (up, ups)) = self.gates_and_ups(index, hidden, moe)?;
        let (down, downs) = self.experts(index, "ffn_down", hidden, moe.inner, moe.experts)?;
        let records = gates
            .into_iter()
            .zip(ups)
            .zip(downs)
            .map(|((gate, up), down)| Record { parts: vec![gate, up, down] })
            .collect();
        Ok((MoeBlock { shape: *moe, router, gate, up, down, shared }, records))
    }

    /// Gates and ups of all experts: in one tensor, the rows of a gate before those of its up, or in a tensor each.
    fn gates_and_ups(&self, index: usize, hidden: usize, moe: &Moe) -> Result<(Experts, Experts)> {
        let fused = format!("blk.{index}.ffn_gate_up_exps.weight");
        if self.checkpoint.tensor(&fused).is_none() {
            let gates = self.experts(index, "ffn_gate", moe.inner, hidden, moe.experts)?;
            return Ok((gates, self.experts(index, "ffn_up", moe.inner, hidden, moe.experts)?));
        }
        let (both, ranges) = self.experts(index, "ffn_gate_up", 2 * moe.inner, hidden, moe.experts)?;
        let half = |number: u64| {
            let range = |range: &ByteRange| {
                let bytes = range.bytes / 2;
                ByteRange { offset: range.offset + number * bytes, bytes, ..*range }
            };
            let matrix = ExpertMatrix { rows: moe.inner, ..both.clone() };
            (matrix, ranges.iter().map(range).collect())
        };
        Ok((half(0), half(1)))
    }

    /// The same matrix of every expert: one fused tensor [experts, rows, cols], or one tensor an expert as
    /// early Mixtral files have it.
    fn experts(&self, index: usize, part: &str, rows: usize, cols: usize, count: usize) -> Result<Experts> {
        let fused = format!("blk.{index}.{part}_exps.weight");
        let first = format!("blk.{index}.{part}.0.weight");
        if self.checkpoint.tensor(&fused).is_some() || self.checkpoint.tensor(&first).is_none() {
            let (_, tensor) = self.tensor(&fused, &[cols, rows, count])?;
            let bytes = tensor.bytes / count as u64;
            let ranges = (0..count as u64)
                .map(|e| ByteRange { file: tensor.file, offset: tensor.offset + e * bytes, bytes })
                .collect();
            let factors = self.optional_vector(&scale_name(&fused), count)?.unwrap_or_default();
            return Ok((
                ExpertMatrix { name: fused, format: format_of(tensor)?, rows, cols, factors },
                ranges,
            ));
        }
        let (_, tensor) = self.tensor(&first, &[cols, rows])?;
        let format = format_of(tensor)?;
        let ranges = (0..count)
            .map(|e| {
                let name = format!("blk.{index}.{part}.{e}.weight");
                let (_, tensor) = self.tensor(&name, &[cols, rows])?;
                if format_of(tensor)? != format {
                    return Err(EngineError::TensorType {
                        tensor: name,
                        found: tensor.dtype.name().into(),
                        supported: format!("the type of `{first}` for all experts of the block"),
                    });
                }
                Ok(ByteRange { file: tensor.file, offset: tensor.offset, bytes: tensor.bytes })
            })
            .collect::<Result<_>>()?;
        let factors = (0..count)
            .map(|e| self.factor(&format!("blk.{index}.{part}.{e}.weight")))
            .collect::<Result<_>>()?;
        Ok((ExpertMatrix { name: first, format, rows, cols, factors }, ranges))
    }
}

/// The name of the factor beside a tensor.
fn scale_name(name: &str) -> String {
    format!("{}.scale", name.trim_end_matches(".weight"))
}

fn trimmed(dims: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut dims: Vec<u64> = dims.collect();
    while dims.len() > 1 && dims.last() == Some(&1) {
        dims.pop();
    }
    dims
}
