//! gpt-oss (OpenAI, 2025).
//!
//! Every other layer slides over a window, each head has a sink, every matrix a bias. The chosen experts are weighed by the
//! softmax over their scores alone, which is the softmax over all of them made to sum to 1.

use membrane_formats::keys::YARN_WHOLE_PAIRS;

use super::blocks::{self, Weighing, Width};
use super::rotary::{Rotation, Untold};
use crate::error::Result;
use crate::hyper::{
    Attention, Biases, FeedForward, Glu, Hyperparameters, Layer, Mixer, Moe, Norms, Rope, RopeScaling, Yarn,
};
use crate::keys::Keys;

/// A layer of so many goes over all positions.
const PERIOD: usize = 2;

pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    // Ollama's files give a factor and do not say of what.
    let untold = Untold { scaling: "yarn", ..Untold::default() };
    let plain = blocks::attention_untold(keys, Rotation::Halves, untold)?;
    let rope = if keys.flag(YARN_WHOLE_PAIRS)?.is_some() { plain.rope } else { unrounded(plain.rope) };
    let attention = Attention { biases: Biases::All, sinks: true, rope, ..plain };
    let windows = blocks::windows(keys, PERIOD)?;
    let moe =
        Moe { biased: true, glu: Glu::ClampedSwiGlu, ..blocks::moe(keys, Weighing::SumToOne, Width::Whole)? };
    let decoder = blocks::decoder(keys, |index| Layer {
        mixer: Mixer::Attention(Attention { window: windows[index], ..attention }),
        feed_forward: FeedForward::Moe(moe),
    })?;
    let renamed = keys.checkpoint.holds("blk.0.ffn_norm.weight");
    let ffn = if renamed { "ffn_norm" } else { "post_attention_norm" };
    Ok(Hyperparameters { norms: Norms { ffn, ..decoder.norms }, ..decoder })
}

/// The checkpoints say that YaRN mixes between pairs that are not rounded, and a GGUF file has no key for it.
fn unrounded(rope: Rope) -> Rope {
    match rope.scaling {
        RopeScaling::Yarn(yarn) => {
            Rope { scaling: RopeScaling::Yarn(Yarn { whole_pairs: false, ..yarn }), ..rope }
        }
        RopeScaling::None | RopeScaling::Linear(_) | RopeScaling::Llama3(_) => rope,
    }
}
