//! Qwen3-Next: a hybrid of gated delta-nets and gated attention (Qwen team, 2025).
//!
//! Three layers of four are gated delta-nets, the fourth is attention, whose output a gate from the query matrix scales and
//! of whose heads a part only is rotated. Every feed-forward is a mixture of many small experts beside a gated shared one.
//! GGUF files hold w + 1 of all RMS norms but the delta-net's own, and so these are read from folders; they are plain here.

use super::blocks::{self, Weighing, Width};
use super::rotary::Rotation;
use crate::error::Result;
use crate::hyper::{
    DeltaNet, FeedForward, Gate, HeadOrder, Hyperparameters, Layer, Mixer, Moe, Norms, Projections,
};
use crate::keys::Keys;

/// Value heads stand as in the checkpoint, grouped by key head, and so do the rows of the fused gates; in files of the first
/// converters those of queries, keys, values and the output's gate, too.
pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    let first = blocks::recurrent_layers(keys)?.iter().position(|&recurrent| recurrent);
    let fused = first.is_some_and(|first| keys.checkpoint.holds(&format!("blk.{first}.ssm_in.weight")));
    let delta_net = DeltaNet {
        shape: blocks::delta_shape(keys, HeadOrder::Grouped)?,
        inputs: if fused { Projections::ByKeyHead } else { Projections::Apart },
        gates: Projections::ByKeyHead,
        output_gate: Gate::Silu,
    };
    hybrid(keys, delta_net, moe(keys)?)
}

/// The mixture of this family.
pub(super) fn moe(keys: &Keys<'_>) -> Result<FeedForward> {
    let moe = blocks::moe(keys, Weighing::SumToOne, Width::Shared)?;
    Ok(FeedForward::Moe(Moe { shared: Some(blocks::gated_shared_expert(keys)?), ..moe }))
}

/// The decoder of this family.
pub(super) fn hybrid(
    keys: &Keys<'_>,
    delta_net: DeltaNet,
    feed_forward: FeedForward,
) -> Result<Hyperparameters> {
    let attention = blocks::gated_attention(keys, Rotation::Halves)?;
    let recurrent = blocks::recurrent_layers(keys)?;
    blocks::check_heads(keys, |layer| !recurrent[layer])?;
    let layer = |index: usize| Layer {
        mixer: if recurrent[index] { Mixer::DeltaNet(delta_net) } else { Mixer::Attention(attention) },
        feed_forward,
    };
    let decoder = blocks::decoder(keys, layer)?;
    let draft_layer = blocks::draft_layer(keys, Layer { mixer: Mixer::Attention(attention), feed_forward })?;
    Ok(Hyperparameters {
        draft_layer,
        norms: Norms { ffn: "post_attention_norm", ..decoder.norms },
        ..decoder
    })
}
