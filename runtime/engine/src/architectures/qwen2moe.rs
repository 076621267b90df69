//! Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024).

use super::blocks::{self, Rotation, Weighing};
use crate::error::Result;
use crate::hyper::{FeedForward, Hyperparameters, Layer, Mixer, Moe};
use crate::keys::Keys;

/// Biases on queries, keys and values; many small experts, weighed by the softmax over all of them as it is, beside one
/// gated shared expert.
pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let attention = blocks::attention(keys)?;
    let moe = Moe { shared_inner: blocks::shared_inner(keys)?, ..blocks::moe(keys, Weighing::AsItIs)? };
    let rope = blocks::rope(keys, attention.head_dim, Rotation::Halves)?;
    blocks::decoder(keys, rope, |_| Layer {
        mixer: Mixer::Attention(attention),
        feed_forward: FeedForward::Moe(moe),
    })
}
