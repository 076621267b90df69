//! Qwen2 and Qwen2.5, dense, and the mixtures Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024); the text part of Qwen2-VL, Qwen2.5-VL
//! and Qwen2.5-Omni (Wang et al. 2024, Bai et al. 2025, Xu et al. 2025), whose rotary positions have several axes.

use super::blocks::{self, Weighing, Width};
use super::rotary::Rotation;
use crate::error::Result;
use crate::hyper::{Attention, Biases, FeedForward, Hyperparameters, Layer, Mixer, Moe};
use crate::keys::Keys;

const QKV_BIAS: &str = "attention.qkv_bias";

/// Biases on queries, keys and values, which are tensors of the file.
pub(super) fn dense(keys: &Keys<'_>) -> Result<Hyperparameters> {
    decoder(keys, blocks::dense(keys)?)
}

/// Many small experts, weighed by the softmax over all of them as it is, beside one gated shared expert.
pub(super) fn moe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let moe = blocks::moe(keys, Weighing::AsItIs, Width::Shared)?;
    decoder(keys, FeedForward::Moe(Moe { shared: Some(blocks::gated_shared_expert(keys)?), ..moe }))
}

fn decoder(keys: &Keys<'_>, feed_forward: FeedForward) -> Result<Hyperparameters> {
    // Only a folder's configuration can say that there are none.
    let biases = if keys.flag(QKV_BIAS)? == Some(false) { Biases::Optional } else { Biases::Inputs };
    let attention = Attention { biases, ..blocks::attention(keys, Rotation::Halves)? };
    blocks::decoder(keys, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
