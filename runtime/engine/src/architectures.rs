//! The architectures, each a description that reads like its paper.
//!
//! All of them are pre-norm decoders: `x += attention(norm(x)); x += feed_forward(norm(x))`. What differs
//! is named here and built from the shared blocks in `forward.rs`.

use membrane_formats::Checkpoint;

use crate::error::{EngineError, Result, shown};

/// How one architecture differs from the common decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// The name in `general.architecture`, which also prefixes its metadata keys.
    pub name: &'static str,
    /// Rotary pairs half a head apart (GPT-NeoX) rather than neighbours.
    pub neox_rope: bool,
    /// An RMS norm on each query and key head.
    pub head_norm: bool,
    /// Whether every feed-forward is a mixture of experts.
    pub always_moe: bool,
    /// A shared expert, weighted by the sigmoid of its own gate.
    pub shared_expert: bool,
    /// The chosen experts' weights are made to sum to 1.
    pub normalise_top_k: bool,
}

/// Llama 2 and 3 (Touvron et al. 2023); with `expert_count`, Mixtral (Jiang et al. 2024): softmax over the
/// chosen experts, which is the softmax over all of them made to sum to 1. The converter permutes query and
/// key rows, so rotary pairs are neighbours.
const LLAMA: Architecture = Architecture {
    name: "llama",
    neox_rope: false,
    head_norm: false,
    always_moe: false,
    shared_expert: false,
    normalise_top_k: true,
};

/// Qwen1.5-MoE and Qwen2-MoE: biases on queries, keys and values; many small experts beside one gated
/// shared expert; the softmax over all experts is used as it is.
const QWEN2MOE: Architecture = Architecture {
    name: "qwen2moe",
    neox_rope: true,
    head_norm: false,
    always_moe: true,
    shared_expert: true,
    normalise_top_k: false,
};

/// Qwen3 (Yang et al. 2025), dense: RMS norms on query and key heads, no biases.
const QWEN3: Architecture = Architecture {
    name: "qwen3",
    neox_rope: true,
    head_norm: true,
    always_moe: false,
    shared_expert: false,
    normalise_top_k: true,
};

/// Qwen3-MoE: the attention of Qwen3, no shared expert, weights made to sum to 1.
const QWEN3MOE: Architecture = Architecture { name: "qwen3moe", always_moe: true, ..QWEN3 };

/// Every architecture that this engine runs.
pub const ALL: [Architecture; 4] = [LLAMA, QWEN2MOE, QWEN3, QWEN3MOE];

impl Architecture {
    /// The architecture that a checkpoint names. Errors name it and those that are supported.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let found = checkpoint.metadata().str("general.architecture")?.unwrap_or("(none)");
        ALL.into_iter().find(|a| a.name == found).ok_or_else(|| EngineError::UnknownArchitecture {
            path: checkpoint.path().to_owned(),
            found: shown(found),
            supported: ALL.map(|a| a.name).join(", "),
        })
    }
}
