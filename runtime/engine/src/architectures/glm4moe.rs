//! GLM-4.5 to 4.7, and the text part of GLM-4.5V and 4.6V (Zeng et al. 2025).
//!
//! The feed-forwards of DeepSeek-V3 behind attention with grouped heads, of each of which a part is rotated. Some of the models have
//! norms of heads, and most have biases.

use super::rotary::Rotation;
use super::{blocks, deepseek2};
use crate::error::Result;
use crate::hyper::{Attention, Hyperparameters, Mixer, Norms, Scores};
use crate::keys::Keys;

pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let head_norm = keys.checkpoint.holds("blk.0.attn_q_norm.weight");
    let attention = Attention { head_norm, ..blocks::attention(keys, Rotation::Halves)? };
    let decoder = deepseek2::decoder(keys, Mixer::Attention(attention), Scores::Sigmoid)?;
    Ok(Hyperparameters { norms: Norms { ffn: "post_attention_norm", ..decoder.norms }, ..decoder })
}
