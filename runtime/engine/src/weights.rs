//! The weights of a model: which tensors it needs, their shapes, and the memory of those that are always
//! resident.

use membrane_formats::{Checkpoint, DType, TensorInfo};
use membrane_kernels::{Format, Matrix};
use membrane_pager::{ByteRange, Catalog, Record};
use memmap2::MmapMut;

use crate::architectures::Architecture;
use crate::error::{EngineError, Result};
use crate::hyper::{Hyperparameters, Moe};
use crate::plan::Bytes;

/// Resident weights start at multiples of it, in bytes: a cache line and the widest vector.
const ALIGNMENT: u64 = 64;

/// A matrix of the model: where its bytes stand in the resident memory.
#[derive(Debug, Clone)]
pub(crate) struct Weight {
    name: String,
    format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs; contiguous.
    pub cols: usize,
    offset: u64,
    bytes: u64,
}

/// Format and shape of one of an expert's three matrices, the same for all experts of a block.
#[derive(Debug, Clone)]
pub(crate) struct ExpertMatrix {
    name: String,
    format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs; contiguous.
    pub cols: usize,
}

impl ExpertMatrix {
    /// The matrix over an expert's bytes.
    pub fn over<'a>(&self, bytes: &'a [u8]) -> Result<Matrix<'a>> {
        Matrix::new(self.format, self.rows, self.cols, bytes)
            .map_err(|source| EngineError::Weight { tensor: self.name.clone(), source })
    }
}

/// A gated feed-forward that is always resident: down(silu(gate x) * up x).
#[derive(Debug)]
pub(crate) struct GatedUnit {
    pub gate: Weight, // [inner, hidden]
    pub up: Weight,   // [inner, hidden]
    pub down: Weight, // [hidden, inner]
}

/// The paged experts of a block and what chooses them.
#[derive(Debug)]
pub(crate) struct MoeBlock {
    pub router: Weight,     // [experts, hidden]
    pub gate: ExpertMatrix, // [inner, hidden]
    pub up: ExpertMatrix,   // [inner, hidden]
    pub down: ExpertMatrix, // [hidden, inner]
    /// The shared expert and its gate [1, hidden].
    pub shared: Option<(GatedUnit, Weight)>,
}

#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(GatedUnit),
    Moe(Box<MoeBlock>),
}

/// One transformer block.
#[derive(Debug)]
pub(crate) struct Block {
    pub attn_norm: Vec<f32>, // [hidden]
    pub q: Weight,           // [heads * head_dim, hidden]
    pub k: Weight,           // [kv_heads * head_dim, hidden]
    pub v: Weight,           // [kv_heads * value_dim, hidden]
    pub q_bias: Option<Vec<f32>>,
    pub k_bias: Option<Vec<f32>>,
    pub v_bias: Option<Vec<f32>>,
    pub q_norm: Option<Vec<f32>>, // [head_dim]
    pub k_norm: Option<Vec<f32>>, // [head_dim]
    pub output: Weight,           // [hidden, heads * value_dim]
    pub ffn_norm: Vec<f32>,       // [hidden]
    pub ffn: FeedForward,
}

/// Where embedding rows are read.
#[derive(Debug)]
pub(crate) enum Embedding {
    /// It is also the output head, so it is resident.
    Tied,
    /// Rows stay on disk; the index of the tensor in the checkpoint.
    OnDisk(usize),
}

/// Every tensor of a model, checked, with its place in memory or on disk.
#[derive(Debug)]
pub(crate) struct Layout {
    pub blocks: Vec<Block>,
    pub embedding: Embedding,
    pub embedding_format: Format,
    pub output_norm: Vec<f32>, // [hidden]
    pub head: Weight,          // [vocabulary, hidden]
    /// Divisors of the rotary frequencies (Llama 3's long-context scaling), one a pair.
    pub rope_factors: Option<Vec<f32>>,
    /// The paged experts, a group a block; none in a dense model.
    pub experts: Option<Catalog>,
    /// Size of the resident memory.
    pub resident_bytes: u64,
    resident: Vec<(usize, u64)>, // (tensor index, offset in the resident memory)
}

impl Layout {
    /// Finds and checks every tensor that the architecture needs. Small vectors are read at once.
    pub fn of(checkpoint: &Checkpoint, architecture: &Architecture, hyper: &Hyperparameters) -> Result<Self> {
        let mut finder = Finder { checkpoint, resident: Vec::new(), resident_bytes: 0 };
        let hidden = hyper.hidden;
        let embedding_tensor = finder.tensor("token_embd.weight", &[hidden, hyper.vocabulary])?.1;
        let embedding_format = format_of(embedding_tensor)?;
        let (embedding, head) = if checkpoint.tensor("output.weight").is_some() {
            let index = finder.index("token_embd.weight")?;
            (Embedding::OnDisk(index), finder.weight("output.weight", hyper.vocabulary, hidden)?)
        } else {
            (Embedding::Tied, finder.weight("token_embd.weight", hyper.vocabulary, hidden)?)
        };
        let mut groups = Vec::with_capacity(hyper.blocks);
        let mut blocks = Vec::with_capacity(hyper.blocks);
        for index in 0..hyper.blocks {
            let (block, group) = finder.block(index, architecture, hyper)?;
            blocks.push(block);
            groups.push(group);
        }
        let experts = hyper.moe.as_ref().map(|_| Catalog::new(groups)).transpose()?;
        Ok(Self {
            blocks,
            embedding,
            embedding_format,
            output_norm: finder.vector("output_norm.weight", hidden)?,
            head,
            rope_factors: finder.optional_vector("rope_freqs.weight", hyper.rope.dims / 2)?,
            experts,
            resident_bytes: finder.resident_bytes,
            resident: finder.resident,
        })
    }

    /// Bytes of all experts together.
    pub fn expert_bytes(&self) -> u64 {
        self.experts.as_ref().map_or(0, Catalog::bytes)
    }

    /// Experts over all blocks.
    pub fn expert_count(&self) -> u64 {
        self.experts.as_ref().map_or(0, |catalog| catalog.experts() as u64)
    }

    /// Reads all resident weights into memory of this process' own, so that reclaim can't take them.
    /// `progress` is told the bytes read so far.
    pub fn load(&self, checkpoint: &Checkpoint, progress: &mut dyn FnMut(u64)) -> Result<Resident> {
        let length = self.resident_bytes.max(1) as usize;
        let mut memory = MmapMut::map_anon(length).map_err(|source| EngineError::Reserve {
            what: "resident weights",
            bytes: Bytes(self.resident_bytes),
            source,
        })?;
        #[cfg(target_os = "linux")]
        if length >= 2 << 20 {
            // A refusal costs speed, nothing else.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        let mut done = 0;
        for &(index, offset) in &self.resident {
            let tensor = &checkpoint.tensors()[index];
            let start = offset as usize;
            checkpoint.read(tensor, 0, &mut memory[start..start + tensor.bytes as usize])?;
            done += tensor.bytes;
            progress(done);
        }
        Ok(Resident { memory })
    }
}

/// The memory of the resident weights.
pub(crate) struct Resident {
    memory: MmapMut,
}

impl Resident {
    /// The matrix of a weight.
    pub fn matrix(&self, weight: &Weight) -> Result<Matrix<'_>> {
        Matrix::new(weight.format, weight.rows, weight.cols, self.bytes(weight))
            .map_err(|source| EngineError::Weight { tensor: weight.name.clone(), source })
    }

    /// The bytes of a weight, row after row.
    pub fn bytes(&self, weight: &Weight) -> &[u8] {
        &self.memory[weight.offset as usize..(weight.offset + weight.bytes) as usize]
    }
}

/// The kernels' name of a tensor's type.
fn format_of(tensor: &TensorInfo) -> Result<Format> {
    Ok(match tensor.dtype {
        DType::F32 => Format::F32,
        DType::F16 => Format::F16,
        DType::BF16 => Format::BF16,
        DType::Q4_0 => Format::Q4_0,
        DType::Q4_1 => Format::Q4_1,
        DType::Q5_0 => Format::Q5_0,
        DType::Q5_1 => Format::Q5_1,
        DType::Q8_0 => Format::Q8_0,
        DType::Q2_K => Format::Q2K,
        DType::Q3_K => Format::Q3K,
        DType::Q4_K => Format::Q4K,
        DType::Q5_K => Format::Q5K,
        DType::Q6_K => Format::Q6K,
        DType::IQ4_NL => Format::IQ4NL,
        DType::IQ4_XS => Format::IQ4XS,
        other => {
            return Err(EngineError::TensorType {
                tensor: tensor.name.clone(),
                found: other.name().into(),
                supported: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, \
                            IQ4_NL, IQ4_XS"
                    .into(),
            });
        }
    })
}

/// Looks tensors up, checks them and gives the resident ones a place.
struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    resident: Vec<(usize, u64)>,
    resident_bytes: u64,
}

impl<'a> Finder<'a> {
    fn index(&self, name: &str) -> Result<usize> {
        self.checkpoint.require(name)?;
        Ok(self.checkpoint.tensor_index(name).unwrap_or_default())
    }

    /// A tensor of exactly these dimensions, contiguous one first; trailing dimensions of 1 do not count.
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<(usize, &'a TensorInfo)> {
        let tensor = self.checkpoint.require(name)?;
        let found = trimmed(tensor.shape.dims().iter().copied());
        let wanted = trimmed(dims.iter().map(|&d| d as u64));
        if found != wanted {
            return Err(EngineError::TensorShape { tensor: name.into(), found, wanted });
        }
        Ok((self.index(name)?, tensor))
    }

    fn weight(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (index, tensor) = self.tensor(name, &[cols, rows])?;
        let format = format_of(tensor)?;
        let offset = self.resident_bytes.next_multiple_of(ALIGNMENT);
        self.resident.push((index, offset));
        self.resident_bytes = offset + tensor.bytes;
        Ok(Weight { name: name.into(), format, rows, cols, offset, bytes: tensor.bytes })
    }

    /// A vector of f32, whatever type it is stored in.
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        let (_, tensor) = self.tensor(name, &[length])?;
        let format = format_of(tensor)?;
        let mut bytes = vec![0; tensor.bytes as usize];
        self.checkpoint.read(tensor, 0, &mut bytes)?;
        let mut values = vec![0.0; length];
        membrane_kernels::quant::dequantise_row(format, &bytes, &mut values);
        Ok(values)
    }

    fn optional_vector(&self, name: &str, length: usize) -> Result<Option<Vec<f32>>> {
        self.checkpoint.tensor(name).map(|_| self.vector(name, length)).transpose()
    }

    fn block(
        &mut self,
        index: usize,
        architecture: &Architecture,
        hyper: &Hyperparameters,
    ) -> Result<(Block, Vec<Record>)> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let hidden = hyper.hidden;
        let query_width = hyper.heads * hyper.head_dim;
        let (key_width, value_width) = (hyper.key_width(), hyper.value_width());
        let head_norm = |finder: &Self, part: &str| match architecture.head_norm {
            true => finder.vector(&name(part), hyper.head_dim).map(Some),
            false => Ok(None),
        };
        let (ffn, experts) = match &hyper.moe {
            Some(moe) => {
                let (block, experts) = self.moe(index, hidden, moe)?;
                (FeedForward::Moe(Box::new(block)), experts)
            }
            None => (FeedForward::Dense(self.gated_unit(index, "", hyper.inner, hidden)?), Vec::new()),
        };
        let block = Block {
            attn_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            q: self.weight(&name("attn_q.weight"), query_width, hidden)?,
            k: self.weight(&name("attn_k.weight"), key_width, hidden)?,
            v: self.weight(&name("attn_v.weight"), value_width, hidden)?,
            q_bias: self.optional_vector(&name("attn_q.bias"), query_width)?,
            k_bias: self.optional_vector(&name("attn_k.bias"), key_width)?,
            v_bias: self.optional_vector(&name("attn_v.bias"), value_width)?,
            q_norm: head_norm(self, "attn_q_norm.weight")?,
            k_norm: head_norm(self, "attn_k_norm.weight")?,
            output: self.weight(&name("attn_output.weight"), hidden, hyper.heads * hyper.value_dim)?,
            ffn_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            ffn,
        };
        Ok((block, experts))
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
        let (gate, gates) = self.experts(index, "ffn_gate", moe.inner, hidden, moe.experts)?;
        let (up, ups) = self.experts(index, "ffn_up", moe.inner, hidden, moe.experts)?;
        let (down, downs) = self.experts(index, "ffn_down", hidden, moe.inner, moe.experts)?;
        let records = gates
            .into_iter()
            .zip(ups)
            .zip(downs)
            .map(|((gate, up), down)| Record { parts: vec![gate, up, down] })
            .collect();
        Ok((MoeBlock { router, gate, up, down, shared }, records))
    }

    /// The same matrix of every expert: one fused tensor [experts, rows, cols], or one tensor an expert as
    /// early Mixtral files have it.
    fn experts(
        &self,
        index: usize,
        part: &str,
        rows: usize,
        cols: usize,
        count: usize,
    ) -> Result<(ExpertMatrix, Vec<ByteRange>)> {
        let fused = format!("blk.{index}.{part}_exps.weight");
        let first = format!("blk.{index}.{part}.0.weight");
        if self.checkpoint.tensor(&fused).is_some() || self.checkpoint.tensor(&first).is_none() {
            let (_, tensor) = self.tensor(&fused, &[cols, rows, count])?;
            let bytes = tensor.bytes / count as u64;
            let ranges = (0..count as u64)
                .map(|e| ByteRange { file: tensor.file, offset: tensor.offset + e * bytes, bytes })
                .collect();
            return Ok((ExpertMatrix { name: fused, format: format_of(tensor)?, rows, cols }, ranges));
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
        Ok((ExpertMatrix { name: first, format, rows, cols }, ranges))
    }
}

fn trimmed(dims: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut dims: Vec<u64> = dims.collect();
    while dims.len() > 1 && dims.last() == Some(&1) {
        dims.pop();
    }
    dims
}
