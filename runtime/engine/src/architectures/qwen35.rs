//! Qwen3.5 and Qwen3.6, the text part, dense and as a mixture of experts (Qwen team, 2026).
//!
//! The hybrid of Qwen3-Next. What differs stands in the file: the gates have matrices of their own, and the GGUF converter
//! tiles the value heads over the key heads. Rotary positions have several axes (time, height, width) of which each turns some of
//! the pairs; all are equal in a text, which leaves plain rotary positions.

use membrane_formats::keys::GROUPED_VALUE_HEADS;

use super::{blocks, qwen3next};
use crate::error::Result;
use crate::hyper::{DeltaNet, FeedForward, Gate, HeadOrder, Hyperparameters, Projections};
use crate::keys::Keys;

/// One feed-forward a layer.
pub(super) fn dense(keys: &Keys<'_>) -> Result<Hyperparameters> {
    decoder(keys, blocks::dense(keys)?)
}

/// A mixture beside a gated shared expert.
pub(super) fn moe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    decoder(keys, qwen3next::moe(keys)?)
}

fn decoder(keys: &Keys<'_>, feed_forward: FeedForward) -> Result<Hyperparameters> {
    let grouped = keys.flag(GROUPED_VALUE_HEADS)?.unwrap_or(false);
    let shape = blocks::delta_shape(keys, if grouped { HeadOrder::Grouped } else { HeadOrder::Tiled })?;
    let delta_net =
        DeltaNet { shape, inputs: Projections::Apart, gates: Projections::Apart, output_gate: Gate::Silu };
    qwen3next::hybrid(keys, delta_net, feed_forward)
}
