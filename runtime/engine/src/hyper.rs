//! The shape of a model: what an architecture's description makes of a file's metadata.

use membrane_formats::Checkpoint;
pub use membrane_kernels::{DeltaShape, Gate, Glu, HeadOrder, Llama3, Rope, RopeScaling, Yarn};

use crate::architectures::Architecture;
use crate::error::Result;
use crate::keys::Keys;

/// What chooses the positions that a query of sparse attention goes over: it attends to the blocks whose keys score best, and to
/// the positions behind the last whole block. A block's key is the mean of its positions' keys, normed and then rotated to the
/// block's first position; its score is what several heads of queries make of it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indexer {
    /// Query heads; there is one key head.
    pub heads: usize,
    /// Width of a head.
    pub dim: usize,
    /// Positions in a block.
    pub ratio: usize,
    /// Most blocks that a query attends to.
    pub blocks: usize,
}

/// Which matrices of attention must have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Biases {
    /// None.
    Optional,
    /// Those of queries, keys and values.
    Inputs,
    /// All four.
    All,
}

/// Queries that grow with the logarithm of their position (as in Llama 4): behind each `context` positions they are multiplied by
/// more, so that the softmax over many scores stays as sharp as over few.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// By what they grow for each factor e of the position.
    pub rate: f32,
    /// Positions that share a factor; those before it have 1.
    pub context: usize,
}

impl Temperature {
    /// What the query at a position is multiplied by.
    pub fn factor(&self, position: usize) -> f32 {
        (1.0 + f64::from(self.rate) * (1.0 + (position / self.context) as f64).ln()) as f32
    }
}

/// Softmax attention over the positions so far, with heads of queries that share heads of keys and values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// An RMS norm on each query and key head.
    pub head_norm: bool,
    /// The result is multiplied by the sigmoid of a gate. The query matrix has its rows, behind those of each head.
    pub gated: bool,
    /// Which of the four matrices have biases. Those that need none may have them.
    pub biases: Biases,
    /// Each head has a score that no position has, beside those of the positions (attention sinks).
    pub sinks: bool,
    /// Most positions that a query attends to, its own included; all if none.
    pub window: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
    /// What queries are multiplied by beside it, if that depends on their position.
    pub temperature: Option<Temperature>,
    /// Rotary positions of queries and keys, from the first dimension of a head on.
    pub rope: Rope,
    /// What chooses the positions, if attention is sparse.
    pub indexer: Option<Indexer>,
}

impl Attention {
    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of all value heads together.
    pub fn value_width(&self) -> usize {
        self.kv_heads * self.value_dim
    }

    /// Width of what all heads give.
    pub fn mixed_width(&self) -> usize {
        self.heads * self.value_dim
    }
}

/// Multi-head latent attention (DeepSeek-AI 2024): keys and values of all heads are made of one narrow latent vector a position,
/// which is all that is kept of it, beside one rotated key that the heads share.
///
/// The matrices that make a head's keys and values of the latent vector are applied to its queries and to its result instead
/// (absorbed), so that attention goes over the latent vectors as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentAttention {
    /// Query heads.
    pub heads: usize,
    /// Width of the latent vector that queries are made of; none: they are made of the input.
    pub query_rank: Option<usize>,
    /// Width of the latent vector that keys and values are made of.
    pub kv_rank: usize,
    /// Dimensions of a query or key head that are not rotated; those rotated stand behind them.
    pub plain_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// What queries are multiplied by beside it, if that depends on their position.
    pub temperature: Option<Temperature>,
    /// Rotary positions; all of their dimensions are behind the plain ones.
    pub rope: Rope,
    /// What the norms of latent vectors add to the mean square, if not [`Hyperparameters::norm_eps`].
    pub norm_eps: Option<f32>,
}

impl LatentAttention {
    /// Width of a query head.
    pub fn query_dim(&self) -> usize {
        self.plain_dim + self.rope.dims
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.query_dim()
    }

    /// Width of what is kept of a position, and of a query over it.
    pub fn key_width(&self) -> usize {
        self.kv_rank + self.rope.dims
    }

    /// Width of what all heads give.
    pub fn mixed_width(&self) -> usize {
        self.heads * self.value_dim
    }
}

/// How a file stores the matrices that make a delta-net's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// A matrix for each: queries, keys and values in `attn_qkv` and the output's gate in `attn_gate`; strengths in
    /// `ssm_beta` and decays in `ssm_alpha`.
    Apart,
    /// One matrix, of each key head what belongs to it: query, key, values and gates in `ssm_in`; strengths and decays in
    /// `ssm_ba`. Only where value heads are grouped by key head.
    ByKeyHead,
}

/// A gated delta-net: linear attention with a recurrent state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaNet {
    /// Heads and widths.
    pub shape: DeltaShape,
    /// How the matrices of queries, keys, values and the output's gate are stored.
    pub inputs: Projections,
    /// How the matrices of strengths and decays are stored.
    pub gates: Projections,
    /// What becomes of the gate of its output.
    pub output_gate: Gate,
}

/// What mixes the positions in a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// Softmax attention over latent vectors.
    Latent(LatentAttention),
    /// A gated delta-net.
    DeltaNet(DeltaNet),
}

/// What keys and values of a layer take in the cache, in elements a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheWidths {
    /// All key heads.
    pub key: usize,
    /// All value heads; 0 where values are the first elements of the key.
    pub value: usize,
    /// What the indexer of sparse attention takes beside them.
    pub indexer: Option<Indexer>,
}

/// What becomes of a router's outputs before the best are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scores {
    /// Softmax over all experts.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
}

/// Experts in groups, of which only the best may be chosen from: those whose best experts have the highest sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups of consecutive experts, equally large.
    pub count: usize,
    /// Groups that experts are chosen from.
    pub used: usize,
    /// Best experts of a group that are summed up.
    pub best: usize,
}

/// What chooses and weighs experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    /// What its outputs become.
    pub scores: Scores,
    /// A bias on the scores, for choosing only: the weights are without it.
    pub choice_bias: bool,
    /// Groups, if experts are chosen from some of them only.
    pub groups: Option<ExpertGroups>,
    /// Whether the chosen experts' weights are made to sum to 1.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// An expert that every token uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpert {
    /// Inner width.
    pub inner: usize,
    /// The sigmoid of its own gate weighs it.
    pub gated: bool,
}

/// The mixture of experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moe {
    /// Experts in a layer.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Inner width of an expert.
    pub inner: usize,
    /// The shared expert, if there is one.
    pub shared: Option<SharedExpert>,
    /// What chooses and weighs experts.
    pub router: Router,
    /// The router and the experts' matrices have biases.
    pub biased: bool,
    /// What joins gate and up.
    pub glu: Glu,
}

/// What works on each position of a layer by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeedForward {
    /// One gated unit of this inner width.
    Dense {
        /// Inner width.
        inner: usize,
        /// What joins gate and up.
        glu: Glu,
    },
    /// A mixture of gated units.
    Moe(Moe),
}

/// One layer of a pre-norm decoder: `x += mixer(norm(x)); x += feed_forward(norm(x))`; with norms of what is added where
/// [`Norms`] has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// What mixes the positions.
    pub mixer: Mixer,
    /// What works on each position.
    pub feed_forward: FeedForward,
}

/// Hyper-connections (Zhu et al. 2024, with weights of the input): several residual streams. Each part of a layer reads a gated
/// mean of all of them, normed, and adds what it gives to each by a share of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HyperConnections {
    /// Streams of a token.
    pub streams: usize,
    /// Width of what the gates of the mean are made of.
    pub rank: usize,
}

/// Rows of a table of n-grams that a hash leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NgramHead {
    /// The first row.
    pub first: u64,
    /// How many there are; the hash is taken modulo it.
    pub rows: u64,
}

/// What a layer adds to its streams for the last tokens: rows of a table, found by hashes of n-grams, weighed by what the
/// streams hold, and behind it a short convolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ngrams {
    /// The layer, in front of whose mixer it stands.
    pub layer: usize,
    /// The heads of pairs of tokens, then those of triples and so on, equally many of each.
    pub heads: Vec<NgramHead>,
    /// Width of a row.
    pub head_dim: usize,
    /// What a token's id is multiplied by in a hash, for the newest token, the one before, and so on.
    pub multipliers: Vec<i64>,
    /// The token that no n-gram reaches beyond.
    pub separator: u32,
    /// Tensors that a folder's table is cut into by rows, where it is not one.
    pub table_parts: usize,
    /// Taps of the convolution. They are as many tokens apart as the longest n-gram has.
    pub kernel: usize,
}

impl Ngrams {
    /// Tokens of the longest n-gram.
    pub fn longest(&self) -> usize {
        self.multipliers.len()
    }

    /// Width of all rows of a token together.
    pub fn width(&self) -> usize {
        self.heads.len() * self.head_dim
    }

    /// Tokens before the present one that the convolution looks back.
    pub fn history(&self) -> usize {
        (self.kernel - 1) * self.longest()
    }

    /// Rows that the table must have.
    pub fn table_rows(&self) -> u64 {
        self.heads.iter().map(|head| head.first + head.rows).max().unwrap_or(0)
    }
}

/// The norms of a layer beside the one before its mixer, by the names of their tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norms {
    /// Before the feed-forward.
    pub ffn: &'static str,
    /// Of what the mixer adds.
    pub after_mixer: Option<&'static str>,
    /// Of what the feed-forward adds.
    pub after_ffn: Option<&'static str>,
}

/// The shape of a model.
#[derive(Debug, Clone)]
pub struct Hyperparameters {
    /// The layers that a pass goes through, in order.
    pub layers: Vec<Layer>,
    /// Blocks for multi-token prediction that the file has behind the layers.
    pub mtp_blocks: usize,
    /// The layer of the head that drafts tokens, which is the first of those blocks. None where the file has none, or it is
    /// not loaded.
    pub draft_layer: Option<Layer>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Factor on the rows of the embedding.
    pub embedding_scale: f32,
    /// Norms of every layer; hyper-connections have norms of their own instead.
    pub norms: Norms,
    /// Hyper-connections, if there is more than one residual stream.
    pub connections: Option<HyperConnections>,
    /// What layers add for n-grams.
    pub ngrams: Vec<Ngrams>,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Context length that the model was trained for, or that its file stretches positions to, if that is more.
    pub trained_context: u32,
}

impl Hyperparameters {
    /// Reads and checks the hyper-parameters of a checkpoint.
    ///
    /// Errors name the key and the rule that it breaks.
    pub fn read(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self> {
        (architecture.describe)(&Keys::new(checkpoint, architecture.name))
    }

    /// Layers that a pass goes through.
    pub fn blocks(&self) -> usize {
        self.layers.len()
    }

    /// Whether a session keeps a recurrent state, of delta-nets or of n-grams.
    pub fn is_recurrent(&self) -> bool {
        self.delta_nets().next().is_some() || !self.ngrams.is_empty()
    }

    /// Residual streams of a token.
    pub fn streams(&self) -> usize {
        self.connections.map_or(1, |connections| connections.streams)
    }

    /// Width of all residual streams of a token.
    pub fn stream_width(&self) -> usize {
        self.streams() * self.hidden
    }

    /// The indexer of each layer that has one, in order.
    pub fn indexers(&self) -> impl Iterator<Item = &Indexer> + Clone {
        self.attentions().filter_map(|attention| attention.indexer.as_ref())
    }

    /// All layers, that of the head that drafts tokens behind the others.
    pub(crate) fn all_layers(&self) -> impl Iterator<Item = &Layer> + Clone {
        self.layers.iter().chain(&self.draft_layer)
    }

    /// The attention of each layer that has one, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> + Clone {
        self.all_layers().filter_map(|layer| match &layer.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Latent(_) | Mixer::DeltaNet(_) => None,
        })
    }

    /// The latent attention of each layer that has one, in order.
    pub fn latents(&self) -> impl Iterator<Item = &LatentAttention> + Clone {
        self.all_layers().filter_map(|layer| match &layer.mixer {
            Mixer::Latent(latent) => Some(latent),
            Mixer::Attention(_) | Mixer::DeltaNet(_) => None,
        })
    }

    /// What each layer with keys and values takes in the cache, in order.
    pub fn caches(&self) -> impl Iterator<Item = CacheWidths> + Clone {
        self.all_layers().filter_map(|layer| match &layer.mixer {
            Mixer::Attention(attention) => {
                let (key, value) = (attention.key_width(), attention.value_width());
                Some(CacheWidths { key, value, indexer: attention.indexer })
            }
            Mixer::Latent(latent) => Some(CacheWidths { key: latent.key_width(), value: 0, indexer: None }),
            Mixer::DeltaNet(_) => None,
        })
    }

    /// The rotary positions of the layers, each kind once.
    pub fn ropes(&self) -> Vec<Rope> {
        let mut ropes: Vec<Rope> = Vec::new();
        let all =
            self.attentions().map(|attention| attention.rope).chain(self.latents().map(|latent| latent.rope));
        for rope in all {
            if !ropes.contains(&rope) {
                ropes.push(rope);
            }
        }
        ropes
    }

    /// The delta-net of each layer that has one, in order.
    pub fn delta_nets(&self) -> impl Iterator<Item = &DeltaNet> + Clone {
        self.all_layers().filter_map(|layer| match &layer.mixer {
            Mixer::DeltaNet(delta_net) => Some(delta_net),
            Mixer::Attention(_) | Mixer::Latent(_) => None,
        })
    }

    /// The mixture of experts of each layer that has one, in order.
    pub fn moes(&self) -> impl Iterator<Item = &Moe> + Clone {
        self.all_layers().filter_map(|layer| match &layer.feed_forward {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense { .. } => None,
        })
    }

    /// Inner width of each dense feed-forward, in order.
    pub fn dense(&self) -> impl Iterator<Item = usize> + Clone {
        self.all_layers().filter_map(|layer| match layer.feed_forward {
            FeedForward::Dense { inner, .. } => Some(inner),
            FeedForward::Moe(_) => None,
        })
    }
}
