//! Qwen2 and Qwen2.5, dense, and the mixtures Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024).

use super::blocks::{self, Rotation, Weighing};
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
    decoder(keys, FeedForward::Moe(Moe { shared_inner: blocks::shared_inner(keys)?, ..moe }))
}

fn decoder(keys: &Keys<'_>, feed_forward: FeedForward) -> Result<Hyperparameters> {
    let attention = blocks::attention(keys)?;
    let rope = blocks::rope(keys, attention.head_dim, Rotation::Halves)?;
    blocks::decoder(keys, rope, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
