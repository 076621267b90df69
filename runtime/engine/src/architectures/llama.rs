//! Llama 2 and 3 (Touvron et al. 2023); with `expert_count`, Mixtral (Jiang et al. 2024); with `attention.temperature_scale`,
//! Ministral 3 and Devstral Small 2 (Mistral AI 2025), whose queries grow with their position.

use membrane_formats::keys::ROPE_HALVES;

use super::blocks::{self, Weighing, Width};
use super::rotary::Rotation;
use crate::error::Result;
use crate::hyper::{Attention, FeedForward, Hyperparameters, Layer, Mixer};
use crate::keys::Keys;

/// Attention without biases or norms of heads. The GGUF converter permutes query and key rows, so rotary pairs are neighbours
/// there.
/// Mixtral's router is a softmax over the chosen experts, which is the softmax over all of them made to sum to 1.
pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let halves = keys.flag(ROPE_HALVES)?.unwrap_or(false);
    let rotation = if halves { Rotation::Halves } else { Rotation::Neighbours };
    let temperature = blocks::temperature(keys)?;
    let attention = Attention { temperature, ..blocks::attention(keys, rotation)? };
    let feed_forward = match blocks::optional_moe(keys, Weighing::SumToOne, Width::Whole)? {
        Some(moe) => FeedForward::Moe(moe),
        None => blocks::dense(keys)?,
    };
    blocks::decoder(keys, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
