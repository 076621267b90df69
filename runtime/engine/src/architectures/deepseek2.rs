//! DeepSeek-V2 and V3, and what is built like them, such as Kimi K2 (DeepSeek-AI 2024).
//!
//! Latent attention in every layer. The first layers have one feed-forward, the others a mixture of many experts beside one that
//! every token uses. The router chooses from the best groups of experts: in V2 from those with the best expert by softmax. V3 takes
//! the sigmoid of its outputs and the two best of a group, chooses by scores with a bias that keeps the experts evenly used, and
//! weighs by the scores without it.

use membrane_formats::Container;
use membrane_formats::keys::ROPE_HALVES;

use super::blocks::{self, Weighing, Width};
use super::rotary::{self, Rotation, Untold};
use crate::error::Result;
use crate::hyper::{
    ExpertGroups, FeedForward, Hyperparameters, LatentAttention, Layer, Mixer, Moe, Rope, RopeScaling,
    Router, Scores, SharedExpert, Yarn,
};
use crate::keys::{Keys, MAX_BLOCKS, MAX_COUNT, MAX_WIDTH};

/// `expert_gating_func` of a softmax over all experts.
const SOFTMAX: u32 = 1;
/// `expert_gating_func` of the sigmoid of each output.
const SIGMOID: u32 = 2;
/// Experts of a group whose scores make up the group's.
const BEST_OF_GROUP_V2: usize = 1;
const BEST_OF_GROUP_V3: usize = 2;
/// What published code adds to the mean square of a latent vector, whatever the configuration has for the other norms. What else
/// reads GGUF files, which have one number too, takes that for all.
const PUBLISHED_LATENT_EPS: f32 = 1e-6;
/// What Ollama calls GLM-4.7-Flash. Its files tell what a head's keys and values are, as DeepSeek's of before April 2025 do.
const GLM_OF_OLLAMA: &str = "glm4moelite";

pub(super) fn describe(keys: &Keys<'_>) -> Result<Hyperparameters> {
    // Files that do not say what scores are have the softmax of before V3, or are some of GLM-4.7-Flash, whose routers have biases.
    let biased = keys.checkpoint.holds(&format!("blk.{}.exp_probs_b.bias", leading(keys)?));
    let untold = if biased { Scores::Sigmoid } else { Scores::Softmax };
    decoder(keys, Mixer::Latent(latent_attention(keys)?), untold)
}

/// Layers with this mixer and the feed-forwards of DeepSeek. `untold`: what routers take of their outputs where a file does not say it.
pub(super) fn decoder(keys: &Keys<'_>, mixer: Mixer, untold: Scores) -> Result<Hyperparameters> {
    let leading = leading(keys)?;
    let moe = FeedForward::Moe(moe(keys, untold)?);
    let dense = if leading > 0 { blocks::dense(keys)? } else { moe };
    let decoder = blocks::decoder(keys, |index| Layer {
        mixer,
        feed_forward: if index < leading { dense } else { moe },
    })?;
    let draft_layer = blocks::draft_layer(keys, Layer { mixer, feed_forward: moe })?;
    Ok(Hyperparameters { draft_layer, ..decoder })
}

/// Layers in front with one feed-forward.
fn leading(keys: &Keys<'_>) -> Result<usize> {
    match keys.number("leading_dense_block_count")?.unwrap_or(0) {
        0 => Ok(0),
        _ => keys.count("leading_dense_block_count", MAX_BLOCKS),
    }
}

fn latent_attention(keys: &Keys<'_>) -> Result<LatentAttention> {
    const HEADS: &str = "attention.head_count_kv";
    let heads = keys.count("attention.head_count", MAX_COUNT)?;
    let kv_heads = keys.count(HEADS, MAX_COUNT)?;
    // Files that tell what keys and values are before they share a latent vector, and have what makes both in one matrix.
    let unshared =
        keys.prefix() == GLM_OF_OLLAMA || kv_heads > 1 && keys.checkpoint.holds("blk.0.attn_kv_b.weight");
    keys.rule(HEADS, kv_heads, kv_heads == 1 || unshared && kv_heads == heads, || {
        "all heads share one latent vector, or have as many of their own as blk.0.attn_kv_b.weight makes"
            .into()
    })?;
    let [key, value] = match unshared {
        true => ["attention.key_length", "attention.value_length"],
        false => ["attention.key_length_mla", "attention.value_length_mla"],
    };
    let kv_rank = keys.count("attention.kv_lora_rank", MAX_WIDTH)?;
    let query_dim = keys.count(key, MAX_WIDTH)?;
    let halves = keys.flag(ROPE_HALVES)?.unwrap_or(false);
    let rotation = if halves { Rotation::Halves } else { Rotation::Neighbours };
    let rope = rotary::rope(keys, query_dim, rotation, Untold::default())?;
    keys.rule(key, query_dim, query_dim > rope.dims, || {
        format!("{} dimensions of a head are rotated, and some must not be", rope.dims)
    })?;
    let stated = keys.optional_count("attention.key_length", MAX_WIDTH * 2)?;
    if let Some(stated) = stated.filter(|_| !unshared) {
        let width = kv_rank + rope.dims;
        keys.rule("attention.key_length", stated, stated == width, || {
            format!("the latent vector of {kv_rank} and the rotated key of {} are {width}", rope.dims)
        })?;
    }
    let (growth, rope) = match rope.scaling {
        RopeScaling::Yarn(yarn) => score_growth(keys, rope, yarn)?,
        RopeScaling::None | RopeScaling::Linear(_) | RopeScaling::Llama3(_) => (1.0, rope),
    };
    Ok(LatentAttention {
        heads,
        query_rank: keys.optional_count("attention.q_lora_rank", MAX_WIDTH)?,
        kv_rank,
        plain_dim: query_dim - rope.dims,
        value_dim: keys.count(value, MAX_WIDTH)?,
        scale: growth * growth / (query_dim as f32).sqrt(),
        temperature: blocks::temperature(keys)?,
        rope,
        norm_eps: (keys.checkpoint.container() == Container::Folder).then_some(PUBLISHED_LATENT_EPS),
    })
}

/// In place of the rotated dimensions YaRN makes whole queries and keys greater, both by the same.
fn score_growth(keys: &Keys<'_>, rope: Rope, yarn: Yarn) -> Result<(f32, Rope)> {
    let rate = rotary::yarn_score_growth(keys)?;
    if rate == 0.0 {
        return Ok((1.0, rope));
    }
    let scaling = RopeScaling::Yarn(Yarn { magnitude: 1.0, ..yarn });
    Ok((rotary::growth(yarn.factor, rate), Rope { scaling, ..rope }))
}

fn moe(keys: &Keys<'_>, untold: Scores) -> Result<Moe> {
    let moe = blocks::moe(keys, Weighing::AsItIs, Width::Whole)?;
    let scores = match keys.number("expert_gating_func")? {
        None | Some(0) => untold,
        Some(SOFTMAX) => Scores::Softmax,
        Some(SIGMOID) => Scores::Sigmoid,
        Some(other) => {
            return Err(keys.broken(
                "expert_gating_func",
                other,
                "this build knows 1, softmax, and 2, sigmoid",
            ));
        }
    };
    let router = Router {
        scores,
        choice_bias: scores == Scores::Sigmoid,
        groups: groups(keys, &moe, scores)?,
        normalise: keys.flag("expert_weights_norm")?.unwrap_or(false),
        scale: keys.positive("expert_weights_scale")?.unwrap_or(1.0),
    };
    let shared = match keys.number("expert_shared_count")?.unwrap_or(0) {
        0 => None,
        _ => {
            let inner = moe.inner as u64 * keys.count("expert_shared_count", MAX_COUNT)? as u64;
            keys.rule("expert_shared_count", inner, inner <= u64::from(MAX_WIDTH), || {
                format!("together they may be {MAX_WIDTH} wide at most")
            })?;
            Some(SharedExpert { inner: inner as usize, gated: false })
        }
    };
    Ok(Moe { router, shared, ..moe })
}

/// Groups of experts, if there are several.
fn groups(keys: &Keys<'_>, moe: &Moe, scores: Scores) -> Result<Option<ExpertGroups>> {
    const COUNT: &str = "expert_group_count";
    const USED: &str = "expert_group_used_count";
    let count = match keys.number(COUNT)?.unwrap_or(1) {
        0 | 1 => return Ok(None),
        _ => keys.count(COUNT, MAX_COUNT)?,
    };
    let used = keys.count(USED, MAX_COUNT)?;
    keys.rule(COUNT, count, moe.experts.is_multiple_of(count), || {
        format!("it must divide the {} experts", moe.experts)
    })?;
    let room = used.saturating_mul(moe.experts / count);
    keys.rule(USED, used, used <= count && room >= moe.top_k, || {
        format!("there are {count} groups, and the used ones must hold the {} experts of a token", moe.top_k)
    })?;
    let best = match scores {
        Scores::Softmax => BEST_OF_GROUP_V2,
        Scores::Sigmoid => BEST_OF_GROUP_V3,
    };
    Ok(Some(ExpertGroups { count, used, best }))
}
