//! The weights of a model: which tensors it needs, their shapes, and the memory of those that are always
//! resident.

mod experts;
mod factors;
mod finder;
mod latent;
mod ngrams;
mod packed;
mod reading;
mod row_layout;
mod stored;
mod streams;
mod unused;

use std::sync::Arc;

use finder::{Finder, format_of};
use membrane_formats::packed::PackedForm;
use membrane_formats::{Checkpoint, TensorInfo};
use membrane_kernels::{Format, Gate, Matrix, Region, Team, interleaved};
use membrane_pager::{Catalog, IoMode, Lease, Record};
use memmap2::MmapMut;
pub(crate) use ngrams::NgramBlock;
pub(crate) use reading::paged_files;
pub(crate) use row_layout::Interleaving;
use row_layout::RowLayout;
use stored::{ExpertName, Stored, blocks_are_finite};
pub(crate) use streams::{IndexBlock, IndexWeights, InputNorm, StreamMixer};
pub use unused::Ignored;
use unused::layer_of;

use crate::error::{EngineError, Result};
use crate::finite::is_finite;
use crate::hyper::{Attention, DeltaShape, Glu, Hyperparameters, LatentAttention, Moe};
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
    /// What all of it is multiplied by: the tensor `.scale` beside it.
    factor: f32,
    /// How its rows lie in memory.
    row_layout: RowLayout,
}

/// Format and shape of one of an expert's three matrices, the same for all experts of a block.
#[derive(Debug, Clone)]
pub(crate) struct ExpertMatrix {
    name: ExpertName,
    format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs; contiguous.
    pub cols: usize,
    /// What an expert's matrix is multiplied by: the tensor `.scale` beside it. Empty if there is none.
    factors: Vec<f32>, // [experts]
    /// How the rows of each expert's lie in memory once it is read.
    row_layout: RowLayout,
    /// Those of an expert that was rewritten are interleaved.
    rewritable: bool,
}

impl ExpertMatrix {
    /// The matrix of these experts [rows, cols], none of which gains by being rewritten. `factors`: see above.
    fn new(
        name: ExpertName,
        format: Format,
        [rows, cols]: [usize; 2],
        factors: Vec<f32>,
        row_layout: RowLayout,
    ) -> Self {
        Self { name, format, rows, cols, factors, row_layout, rewritable: false }
    }

    /// The matrix of an expert, which is part number `part` of it.
    pub fn of<'a>(&self, lease: &'a Lease<'_>, part: usize) -> Result<Matrix<'a>> {
        self.rows_of(lease)
            .matrix(self.format, self.rows, self.cols, lease.part(part))
            .map(|matrix| matrix.times(self.factor(lease.index() as usize)))
            .map_err(|source| EngineError::Weight { tensor: self.name.first().to_owned(), source })
    }

    /// Whether all numbers of an expert's matrix are finite.
    pub fn is_finite(&self, lease: &Lease<'_>, part: usize) -> bool {
        let rows = self.rows_of(lease);
        rows.are_finite(self.format, self.rows, self.cols, lease.part(part)) && is_finite(&self.factors)
    }

    /// How the rows of an expert's lie in memory now.
    fn rows_of(&self, lease: &Lease<'_>) -> RowLayout {
        if lease.is_rewritten() && self.rewritable { RowLayout::Interleaved } else { self.row_layout }
    }

    /// Rewrites the bytes of an expert's matrix.
    fn rewrite(&self, region: &Region<'_>, bytes: &mut [u8]) {
        if self.rewritable {
            interleaved::interleave_in_place(region, self.format, bytes.len() / self.rows, bytes);
        }
    }

    /// How packed models describe it.
    pub fn packed_form(&self) -> PackedForm {
        let (rows, cols) = (self.rows as u64, self.cols as u64);
        PackedForm {
            format: self.format.name().to_owned(),
            rows,
            cols,
            ordered: self.row_layout == RowLayout::Ordered,
        }
    }

    /// What the matrix of an expert is multiplied by.
    pub fn factor(&self, expert: usize) -> f32 {
        self.factors.get(expert).copied().unwrap_or(1.0)
    }

    /// What messages call it.
    pub fn name(&self) -> &ExpertName {
        &self.name
    }
}

/// A gated feed-forward that is always resident: down(glu(gate x, up x)).
#[derive(Debug)]
pub(crate) struct GatedUnit {
    pub glu: Glu,
    pub gate: Weight, // [inner, hidden]
    pub up: Weight,   // [inner, hidden]
    pub down: Weight, // [hidden, inner]
}

/// The paged experts of a block and what chooses them.
#[derive(Debug)]
pub(crate) struct MoeBlock {
    pub shape: Moe,
    pub router: Weight,                // [experts, hidden]
    pub gate: ExpertMatrix,            // [inner, hidden]
    pub up: ExpertMatrix,              // [inner, hidden]
    pub down: ExpertMatrix,            // [hidden, inner]
    pub router_bias: Option<Vec<f32>>, // [experts]
    /// What is added to scores for choosing only, [experts].
    pub choice_bias: Option<Vec<f32>>,
    pub biases: Option<ExpertBiases>,
    /// The shared expert and its gate [1, hidden].
    pub shared: Option<(GatedUnit, Option<Weight>)>,
}

impl MoeBlock {
    /// The parts of each expert.
    pub fn matrices(&self) -> [&ExpertMatrix; 3] {
        [&self.gate, &self.up, &self.down]
    }

    /// Whether experts gain by being rewritten.
    pub fn rewrites(&self) -> bool {
        self.matrices().iter().any(|matrix| matrix.rewritable)
    }

    /// Rewrites the bytes of an expert that stays in memory as the kernels like them best.
    pub fn rewrite(&self, region: &Region<'_>, parts: &mut [&mut [u8]]) {
        self.matrices().iter().zip(parts).for_each(|(matrix, part)| matrix.rewrite(region, part));
    }
}

/// What is added to the products of each expert; resident.
#[derive(Debug)]
pub(crate) struct ExpertBiases {
    pub gate: Weight, // [experts, inner]
    pub up: Weight,   // [experts, inner]
    pub down: Weight, // [experts, hidden]
}

#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(GatedUnit),
    Moe(Box<MoeBlock>),
}

/// Softmax attention of a block.
#[derive(Debug)]
pub(crate) struct AttentionBlock {
    pub shape: Attention,
    /// Which of the layers that have keys and values it is.
    pub slot: usize,
    /// Which of the model's tables of rotations it takes.
    pub rope: usize,
    pub q: Weight, // [heads * head_dim, hidden], or twice as many rows with a gate behind each head
    pub k: Weight, // [kv_heads * head_dim, hidden]
    pub v: Weight, // [kv_heads * value_dim, hidden]
    pub q_bias: Option<Vec<f32>>,
    pub k_bias: Option<Vec<f32>>,
    pub v_bias: Option<Vec<f32>>,
    pub q_norm: Option<Vec<f32>>,      // [head_dim]
    pub k_norm: Option<Vec<f32>>,      // [head_dim]
    pub output: Weight,                // [hidden, heads * value_dim]
    pub output_bias: Option<Vec<f32>>, // [hidden]
    pub sinks: Option<Vec<f32>>,       // [heads]
    pub index: Option<IndexBlock>,
}

/// How the queries of latent attention are made.
#[derive(Debug)]
pub(crate) enum QueryWeights {
    /// Of the input: [heads * query_dim, hidden].
    Whole(Weight),
    /// Of a latent vector, which is normed.
    Latent {
        down: Weight,   // [query_rank, hidden]
        norm: Vec<f32>, // [query_rank]
        up: Weight,     // [heads * query_dim, query_rank]
    },
}

/// Latent attention of a block.
#[derive(Debug)]
pub(crate) struct LatentBlock {
    pub shape: LatentAttention,
    /// Which of the layers that have keys and values it is.
    pub slot: usize,
    /// Which of the model's tables of rotations it takes.
    pub rope: usize,
    pub q: QueryWeights,
    pub kv: Weight,        // [kv_rank + rotated dimensions, hidden]
    pub kv_norm: Vec<f32>, // [kv_rank]
    /// From a head's plain query to one over latent vectors.
    pub absorb: Weight, // [heads * kv_rank, plain_dim]
    /// From a head's sum of latent vectors to its values.
    pub values: Weight, // [heads * value_dim, kv_rank]
    pub output: Weight,    // [hidden, heads * value_dim]
}

/// The matrices of a delta-net's queries, keys and values [channels, hidden] and of its output's gate [value_width, hidden].
#[derive(Debug)]
pub(crate) enum InputWeights {
    Apart { qkv: Weight, z: Weight },
    ByKeyHead(Weight), // [channels + value_width, hidden]
}

/// The matrices of a delta-net's gates.
#[derive(Debug)]
pub(crate) enum GateWeights {
    Apart { strength: Weight, decay: Weight }, // [value_heads, hidden] each
    ByKeyHead(Weight),                         // [key_heads * 2 * (value_heads / key_heads), hidden]
}

/// Gated delta-net of a block.
#[derive(Debug)]
pub(crate) struct DeltaBlock {
    pub shape: DeltaShape,
    pub output_gate: Gate,
    /// Which of the layers that have a recurrent state it is.
    pub slot: usize,
    pub inputs: InputWeights,
    pub gates: GateWeights,
    pub convolution: Vec<f32>, // [kernel, channels]
    pub decay_bias: Vec<f32>,  // [value_heads]
    pub decay_rate: Vec<f32>,  // [value_heads]
    pub norm: Vec<f32>,        // [value_dim]
    pub output: Weight,        // [hidden, value_heads * value_dim]
}

#[derive(Debug)]
pub(crate) enum Mixer {
    Attention(Box<AttentionBlock>),
    Latent(Box<LatentBlock>),
    DeltaNet(Box<DeltaBlock>),
}

/// One block of a pre-norm decoder.
#[derive(Debug)]
pub(crate) struct Block {
    pub ngrams: Option<Box<NgramBlock>>,
    pub mixer_norm: InputNorm,
    pub mixer: Mixer,
    pub after_mixer_norm: Option<Vec<f32>>, // [hidden]
    pub ffn_norm: InputNorm,
    pub ffn: FeedForward,
    pub after_ffn_norm: Option<Vec<f32>>, // [hidden]
}

/// The head that drafts tokens, around a block.
#[derive(Debug)]
pub(crate) struct DraftHead {
    pub block: Block,
    pub join: Weight,             // [hidden, 2 * hidden]
    pub embedding_norm: Vec<f32>, // [hidden]
    pub hidden_norm: Vec<f32>,    // [hidden]
    pub norm: Vec<f32>,           // [hidden], before the model's output matrix
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
    /// The head that drafts tokens, where it is to be loaded.
    pub draft: Option<DraftHead>,
    pub embedding: Embedding,
    pub embedding_format: Format,
    /// What all of the embedding is multiplied by.
    pub embedding_factor: f32,
    pub output_norm: InputNorm,
    pub head: Weight, // [vocabulary, hidden]
    /// Divisors of the rotary frequencies (Llama 3's long-context scaling), one a pair.
    pub rope_factors: Option<Vec<f32>>,
    /// The paged experts, a group a block; none in a dense model.
    pub experts: Option<Catalog>,
    /// Size of the resident memory.
    pub resident_bytes: u64,
    /// With what each is in the resident memory.
    resident: Vec<(Stored, Weight)>,
    /// Tensors that are left out.
    pub ignored: Vec<Ignored>,
    /// Indices of the tensors that experts are made of.
    pub expert_tensors: Vec<usize>,
}

impl Layout {
    /// Finds and checks every tensor that the architecture needs. Small vectors are read at once.
    pub fn of(checkpoint: &Checkpoint, hyper: &Hyperparameters, interleaving: Interleaving) -> Result<Self> {
        let mut finder = Finder::new(checkpoint, interleaving);
        let hidden = hyper.hidden;
        let embedding_tensor = finder.tensor("token_embd.weight", &[hidden, hyper.vocabulary])?.1;
        let embedding_format = format_of(embedding_tensor)?;
        let (embedding, head) = if checkpoint.holds("output.weight") {
            let index = finder.index("token_embd.weight")?;
            (Embedding::OnDisk(index), finder.weight("output.weight", hyper.vocabulary, hidden)?)
        } else {
            (Embedding::Tied, finder.weight("token_embd.weight", hyper.vocabulary, hidden)?)
        };
        let (mut blocks, groups): (Vec<Block>, Vec<Vec<Record>>) = finder.blocks(hyper)?.into_iter().unzip();
        let draft = match blocks.pop_if(|_| hyper.draft_layer.is_some()) {
            Some(block) => Some(finder.draft_head(hyper, block)?),
            None => None,
        };
        let recoding = std::mem::take(&mut finder.recoding);
        let places = std::mem::take(&mut finder.places);
        let catalog = |groups| match recoding.is_needed() {
            true => Catalog::recoded(groups, Arc::new(recoding)),
            false if places.iter().any(|places| !places.is_empty()) => Catalog::packed(groups, places),
            false => Catalog::new(groups),
        };
        let experts = hyper.moes().next().map(|_| catalog(groups)).transpose()?;
        // One vector of factors is for all layers.
        let rope_factors = match hyper.ropes().first() {
            Some(rope) => finder.optional_vector("rope_freqs.weight", rope.dims / 2)?,
            None => None,
        };
        let embedding_factor = finder.factor("token_embd.weight")?;
        let output_norm = finder.input_norm(hyper, "output_norm", "output_hc", false)?;
        let ignored = finder.ignored(hyper)?;
        Ok(Self {
            blocks,
            draft,
            embedding,
            embedding_format,
            embedding_factor,
            output_norm,
            head,
            rope_factors,
            experts,
            resident_bytes: finder.resident_bytes,
            resident: finder.resident,
            ignored,
            expert_tensors: finder.expert_tensors,
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

    /// Bytes of all tables of n-grams, which stay on disk.
    pub fn ngram_bytes(&self) -> u64 {
        self.blocks.iter().filter_map(|block| block.ngrams.as_ref()).map(|ngrams| ngrams.table.bytes()).sum()
    }

    /// Whether the columns of any matrix have an order of their own, for which inputs need room.
    pub fn ordered(&self) -> bool {
        let drafting = self.draft.iter().map(|head| &head.block);
        let experts = self.blocks.iter().chain(drafting).any(|block| match &block.ffn {
            FeedForward::Moe(moe) => {
                moe.matrices().iter().any(|matrix| matrix.row_layout == RowLayout::Ordered)
            }
            FeedForward::Dense(_) => false,
        });
        experts || self.resident.iter().any(|(_, weight)| weight.row_layout == RowLayout::Ordered)
    }

    /// The formats of all matrices that inputs are multiplied with, but for those of the head that drafts.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        let experts = self.blocks.iter().filter_map(|block| match &block.ffn {
            FeedForward::Moe(moe) => Some(moe.matrices().map(|matrix| matrix.format)),
            FeedForward::Dense(_) => None,
        });
        let of_blocks =
            |stored: &Stored| layer_of(&stored.name).is_none_or(|layer| layer < self.blocks.len());
        let resident = self.resident.iter().filter(move |(stored, _)| of_blocks(stored));
        experts.flatten().chain(resident.map(|(_, weight)| weight.format))
    }

    /// Bytes that loading takes beside the resident weights for a while: the parts of the largest matrix that is recoded.
    pub fn loading_bytes(&self) -> u64 {
        self.resident.iter().map(|(stored, _)| stored.loading_bytes()).max().unwrap_or(0)
    }

    /// The error of the first resident matrix of a layer, or of none, that has a number which is not finite.
    pub fn not_finite(
        &self,
        checkpoint: &Checkpoint,
        resident: &Resident,
        layer: Option<usize>,
    ) -> Option<EngineError> {
        if layer.is_none()
            && let Embedding::OnDisk(index) = self.embedding
            && let Some(tensor) = checkpoint.tensors().get(index)
            && !is_finite_on_disk(checkpoint, tensor, self.embedding_format)
        {
            return Some(EngineError::not_finite(checkpoint, Some(tensor.file), named(&tensor.name)));
        }
        let mut own = self.resident.iter().filter(|(stored, _)| layer_of(&stored.name) == layer);
        let broken = own.find(|(_, weight)| {
            let Weight { format, rows, cols, row_layout, .. } = *weight;
            !row_layout.are_finite(format, rows, cols, resident.bytes(weight))
        });
        broken.map(|(stored, _)| {
            let file = stored.parts.first().map(|part| part.file);
            EngineError::not_finite(checkpoint, file, named(&stored.name))
        })
    }

    /// The file that an expert's first part is in.
    pub fn expert_file(&self, layer: usize, expert: u32) -> Option<usize> {
        let record = self.experts.as_ref()?.groups().get(layer)?.get(expert as usize)?;
        record.parts.first().map(|part| part.file)
    }

    /// Reads all resident weights into memory of this process' own, so that reclaim can't take them; `again` as in
    /// [`membrane_pager::read_ranges`].
    /// `progress` is told the bytes read so far.
    pub fn load(
        &self,
        checkpoint: &Checkpoint,
        io: IoMode,
        again: bool,
        team: &Team,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Resident> {
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
        reading::read(&self.resident, checkpoint, io, again, &mut memory, progress)?;
        reading::interleave(&self.resident, team, &mut memory);
        Ok(Resident { memory })
    }
}

fn named(tensor: &str) -> String {
    format!("tensor `{tensor}`")
}

/// Whether all numbers of a tensor of rows of blocks are finite; also where it can't be read, which is another error.
fn is_finite_on_disk(checkpoint: &Checkpoint, tensor: &TensorInfo, format: Format) -> bool {
    /// Blocks that are read at a time.
    const BLOCKS: u64 = 4096;
    let piece = BLOCKS * format.block_bytes() as u64;
    let mut bytes = Vec::new();
    (0..tensor.bytes).step_by(piece as usize).all(|offset| {
        bytes.resize(piece.min(tensor.bytes - offset) as usize, 0);
        checkpoint.read(tensor, offset, &mut bytes).is_err() || blocks_are_finite(format, &bytes)
    })
}

/// The memory of the resident weights.
pub(crate) struct Resident {
    memory: MmapMut,
}

impl Resident {
    /// The matrix of a weight.
    pub fn matrix(&self, weight: &Weight) -> Result<Matrix<'_>> {
        weight
            .row_layout
            .matrix(weight.format, weight.rows, weight.cols, self.bytes(weight))
            .map(|matrix| matrix.times(weight.factor))
            .map_err(|source| EngineError::Weight { tensor: weight.name.clone(), source })
    }

    /// One of `count` equal parts of a weight's rows, such as a head's.
    pub fn part(&self, weight: &Weight, index: usize, count: usize) -> Result<Matrix<'_>> {
        debug_assert!(weight.row_layout == RowLayout::Plain, "parts of rows that follow one another");
        let (rows, bytes) = (weight.rows / count, weight.bytes as usize / count);
        Matrix::new(weight.format, rows, weight.cols, &self.bytes(weight)[index * bytes..(index + 1) * bytes])
            .map(|matrix| matrix.times(weight.factor))
            .map_err(|source| EngineError::Weight { tensor: weight.name.clone(), source })
    }

    /// One row of a weight as floats; of one whose columns are in order.
    pub fn row(&self, weight: &Weight, row: usize, out: &mut [f32]) -> Result<()> {
        self.matrix(weight)?.dequantise_row(row, out);
        Ok(())
    }

    fn bytes(&self, weight: &Weight) -> &[u8] {
        &self.memory[weight.offset as usize..(weight.offset + weight.bytes) as usize]
    }
}
