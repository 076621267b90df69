//! Qwen3 and Qwen3-MoE (Yang et al. 2025).

use super::blocks::{self, Weighing};
use super::rotary::Rotation;
use crate::error::Result;
use crate::hyper::{Attention, FeedForward, Hyperparameters, Layer, Mixer};
use crate::keys::Keys;

/// RMS norms on query and key heads, no biases.
pub(super) fn dense(keys: &Keys<'_>) -> Result<Hyperparameters> {
    decoder(keys, blocks::dense(keys)?)
}

/// The attention of Qwen3; no shared expert, weights made to sum to 1.
pub(super) fn moe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    decoder(keys, FeedForward::Moe(blocks::moe(keys, Weighing::SumToOne)?))
}

fn decoder(keys: &Keys<'_>, feed_forward: FeedForward) -> Result<Hyperparameters> {
    let attention = Attention { head_norm: true, ..blocks::attention(keys, Rotation::Halves)? };
    blocks::decoder(keys, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
