//! Gemma 3, the text part (Gemma team, 2025).
//!
//! Five layers of six slide over a window and have rotary positions of their own, short ones; the sixth goes over all positions,
//! and its rotary positions are those that a longer context stretches. Norms stand before and behind mixer and feed-forward.
//! GGUF files hold w + 1 of all norms, and so these are read from folders; they are plain here. The output head is the embedding,
//! whose rows are scaled.

use super::blocks;
use super::rotary::{Rotation, Untold};
use crate::error::Result;
use crate::hyper::{Attention, FeedForward, Glu, Hyperparameters, Layer, Mixer, Norms, Rope, RopeScaling};
use crate::keys::{Keys, MAX_WIDTH};

/// A layer of so many goes over all positions.
const PERIOD: usize = 6;
/// Base of the rotary positions within a window.
const LOCAL_BASE: f32 = 10_000.0;
/// Base of the others.
const GLOBAL_BASE: f32 = 1e6;
/// What norms add to the mean square.
const EPSILON: f32 = 1e-6;
/// The context of the models whose positions were stretched after the training, and by how much.
const LONG_CONTEXT: u32 = 131_072;
const LONG_FACTOR: f32 = 8.0;
/// Layers of the 27B model, whose scores are scaled by the width of a head as it would be if heads shared the hidden width. No key
/// of a GGUF file says so, since converters leave `query_pre_attn_scalar` out; llama.cpp knows the model by its layers, too. Folders
/// have the number, and nothing depends on this there.
const LAYERS_27B: usize = 62;

pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    const CAP: &str = "final_logit_softcapping";
    let cap = keys.float(CAP)?.unwrap_or(0.0);
    keys.rule(CAP, cap, cap == 0.0, || "this build does not cap logits; Gemma 3 has none to cap".into())?;
    let global = blocks::attention_untold(keys, Rotation::Halves, untold(keys)?)?;
    let global = Attention { head_norm: true, ..global };
    let windows = blocks::windows(keys, PERIOD)?;
    let scale = match keys.positive("attention.scale")? {
        Some(stated) => stated,
        None if windows.len() == LAYERS_27B => {
            let width = keys.count("embedding_length", MAX_WIDTH)? as f32 / global.heads as f32;
            1.0 / width.sqrt()
        }
        None => global.scale,
    };
    let global = Attention { scale, ..global };
    let told = keys.positive("rope.freq_base_swa")?.or(keys.positive("rope.local.freq_base")?);
    let base = told.unwrap_or(LOCAL_BASE);
    let local = Attention { rope: Rope { base, scaling: RopeScaling::None, ..global.rope }, ..global };
    let inner = keys.count("feed_forward_length", MAX_WIDTH)?;
    let norm_eps = keys.float(blocks::NORM_EPSILON)?.unwrap_or(EPSILON);
    let decoder = blocks::decoder_with_epsilon(keys, norm_eps, |index| Layer {
        mixer: Mixer::Attention(match windows[index] {
            Some(window) => Attention { window: Some(window), ..local },
            None => global,
        }),
        feed_forward: FeedForward::Dense { inner, glu: Glu::GeGlu },
    })?;
    let norms =
        Norms { ffn: "ffn_norm", after_mixer: Some("post_attention_norm"), after_ffn: Some("post_ffw_norm") };
    Ok(Hyperparameters { embedding_scale: (decoder.hidden as f32).sqrt(), norms, ..decoder })
}

/// Files of Ollama's first converters have other names for the bases or none, and say neither what norms add nor that positions are
/// stretched.
fn untold(keys: &Keys<'_>) -> Result<Untold> {
    let base = keys.positive("rope.global.freq_base")?.unwrap_or(GLOBAL_BASE);
    let long = keys.number("context_length")?.is_some_and(|context| context >= LONG_CONTEXT);
    let factor = if long && keys.float(blocks::NORM_EPSILON)?.is_none() { LONG_FACTOR } else { 1.0 };
    Ok(Untold { base, factor, ..Untold::default() })
}
