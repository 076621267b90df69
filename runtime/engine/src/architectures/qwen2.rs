//! Qwen2 and Qwen2.5, dense, and the mixtures Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024).

use super::blocks::{self, Weighing};
use super::rotary::Rotation;
use crate::error::Result;
use crate::hyper::{FeedForward, Hyperparameters, Layer, Mixer, Moe};
use crate::keys::Keys;

/// Biases on queries, keys and values, which are tensors of the file.
pub(super) fn dense(keys: &Keys<'_>) -> Result<Hyperparameters> {
    decoder(keys, blocks::dense(keys)?)
}

/// Many small experts, weighed by the softmax over all of them as it is, beside one gated shared expert.
pub(super) fn moe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let moe = blocks::moe(keys, Weighing::AsItIs)?;
    decoder(keys, FeedForward::Moe(Moe { shared: Some(blocks::gated_shared_expert(keys)?), ..moe }))
}

fn decoder(keys: &Keys<'_>, feed_forward: FeedForward) -> Result<Hyperparameters> {
    let attention = blocks::attention(keys, Rotation::Halves)?;
    blocks::decoder(keys, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
