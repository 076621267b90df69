//! Qwen3 and Qwen3-MoE (Yang et al. 2025), and the text part of Qwen3-VL and Qwen3-Omni (Bai et al. 2025, Xu et al. 2025).
//!
//! Those that see have rotary positions of several axes, and add what images are in the first layers; of a text it leaves Qwen3.

use super::blocks::{self, Weighing, Width};
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
    decoder(keys, FeedForward::Moe(blocks::moe(keys, Weighing::SumToOne, Width::Shared)?))
}

fn decoder(keys: &Keys<'_>, feed_forward: FeedForward) -> Result<Hyperparameters> {
    let attention = Attention { head_norm: true, ..blocks::attention(keys, Rotation::Halves)? };
    blocks::decoder(keys, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
