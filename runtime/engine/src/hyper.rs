//! The shape of a model: what an architecture's description makes of a file's metadata.

use membrane_formats::Checkpoint;
pub use membrane_kernels::{DeltaShape, HeadOrder};

use crate::architectures::Architecture;
use crate::error::Result;
use crate::keys::Keys;

/// How positions are rotated into queries and keys (Su et al. 2021).
#[derive(Debug, Clone)]
pub struct Rope {
    /// Dimensions of a head that are rotated, from the first.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are multiplied by it (linear context extension); 1 is off.
    pub scale: f32,
    /// Pairs are (i, i + dims/2) as in GPT-NeoX; otherwise neighbours (2i, 2i + 1).
    pub neox: bool,
    /// Divisors of the frequencies, one a pair, where the metadata describe them. GGUF files have them in a tensor.
    pub factors: Option<Vec<f32>>,
}

/// Softmax attention over all positions so far, with heads of queries that share heads of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// What mixes the positions in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// A gated delta-net.
    DeltaNet(DeltaNet),
}

/// The mixture of experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moe {
    /// Experts in a layer.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Inner width of an expert.
    pub inner: usize,
    /// Inner width of the shared expert, which the sigmoid of its own gate weighs; 0 if there is none.
    pub shared_inner: usize,
    /// Whether the chosen experts' weights are made to sum to 1.
    pub normalise: bool,
}

/// What works on each position of a layer by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// One gated unit of this inner width.
    Dense {
        /// Inner width.
        inner: usize,
    },
    /// A mixture of gated units.
    Moe(Moe),
}

/// One layer of a pre-norm decoder: `x += mixer(norm(x)); x += feed_forward(norm(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// What mixes the positions.
    pub mixer: Mixer,
    /// What works on each position.
    pub feed_forward: FeedForward,
}

/// The shape of a model.
#[derive(Debug, Clone)]
pub struct Hyperparameters {
    /// The layers that a pass goes through, in order.
    pub layers: Vec<Layer>,
    /// Blocks for multi-token prediction that the file has behind the layers. They are not loaded.
    pub mtp_blocks: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// Name of the norm before a feed-forward, as tensors call it.
    pub ffn_norm: &'static str,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Context length that the model was trained for.
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

    /// The attention of each layer that has one, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> + Clone {
        self.layers.iter().filter_map(|layer| match &layer.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::DeltaNet(_) => None,
        })
    }

    /// The delta-net of each layer that has one, in order.
    pub fn delta_nets(&self) -> impl Iterator<Item = &DeltaNet> + Clone {
        self.layers.iter().filter_map(|layer| match &layer.mixer {
            Mixer::DeltaNet(delta_net) => Some(delta_net),
            Mixer::Attention(_) => None,
        })
    }

    /// The mixture of experts of each layer that has one, in order.
    pub fn moes(&self) -> impl Iterator<Item = &Moe> + Clone {
        self.layers.iter().filter_map(|layer| match &layer.feed_forward {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense { .. } => None,
        })
    }

    /// Inner width of each dense feed-forward, in order.
    pub fn dense(&self) -> impl Iterator<Item = usize> + Clone {
        self.layers.iter().filter_map(|layer| match layer.feed_forward {
            FeedForward::Dense { inner } => Some(inner),
            FeedForward::Moe(_) => None,
        })
    }
}
