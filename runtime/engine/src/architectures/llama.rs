//! Llama 2 and 3 (Touvron et al. 2023); with `expert_count`, Mixtral (Jiang et al. 2024).

use super::blocks::{self, Weighing};
use super::rotary::Rotation;
use crate::error::Result;
use crate::hyper::{FeedForward, Hyperparameters, Layer, Mixer};
use crate::keys::Keys;

/// Attention without biases or norms of heads; the converter permutes query and key rows, so rotary pairs are neighbours.
/// Mixtral's router is a softmax over the chosen experts, which is the softmax over all of them made to sum to 1.
pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let attention = blocks::attention(keys, Rotation::Neighbours)?;
    let feed_forward = match blocks::optional_moe(keys, Weighing::SumToOne)? {
        Some(moe) => FeedForward::Moe(moe),
        None => blocks::dense(keys)?,
    };
    blocks::decoder(keys, |_| Layer { mixer: Mixer::Attention(attention), feed_forward })
}
