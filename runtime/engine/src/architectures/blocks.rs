//! The blocks that architectures are put together from: each reads its keys and checks them.

use super::rotary::{self, Rotation, Untold};
use crate::error::Result;
use crate::hyper::{
    Attention, Biases, DeltaShape, FeedForward, Glu, HeadOrder, Hyperparameters, Layer, Moe, Norms, Router,
    Scores, SharedExpert, Temperature,
};
use crate::keys::{Keys, MAX_BLOCKS, MAX_COUNT, MAX_WIDTH};

/// What norms add to the mean square.
pub(super) const NORM_EPSILON: &str = "attention.layer_norm_rms_epsilon";
/// Heads of keys and values: a number, or as many of them as there are layers.
const KV_HEADS: &str = "attention.head_count_kv";
/// Longest convolution before a delta-net; published models have 4. A state keeps as many tokens of all channels.
const MAX_CONVOLUTION: u32 = 256;
/// Most delta-net heads, and widest head: with it no size of a state overflows.
const MAX_DELTA: u32 = 1 << 16;
/// Layers from one with attention to the next where a hybrid does not say it.
const ATTENTION_INTERVAL: usize = 4;

/// What becomes of the softmax over all experts where the file does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighing {
    /// The chosen experts' weights are made to sum to 1.
    SumToOne,
    /// They stay as they are.
    AsItIs,
}

/// How wide an expert is where the file says how wide a feed-forward is, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// As wide.
    Whole,
    /// As wide are those of a token together.
    Shared,
}

/// The decoder around the layers: embedding, norms, head.
pub(super) fn decoder(keys: &Keys<'_>, layer: impl FnMut(usize) -> Layer) -> Result<Hyperparameters> {
    match keys.float(NORM_EPSILON)? {
        Some(stated) => decoder_with_epsilon(keys, stated, layer),
        None => Err(keys.broken(NORM_EPSILON, "absent", "the architecture needs it")),
    }
}

/// The same of an architecture of which it is known what norms add where the file does not say it.
pub(super) fn decoder_with_epsilon(
    keys: &Keys<'_>,
    norm_eps: f32,
    layer: impl FnMut(usize) -> Layer,
) -> Result<Hyperparameters> {
    let (blocks, mtp_blocks) = block_counts(keys)?;
    keys.rule(NORM_EPSILON, norm_eps, (0.0..1.0).contains(&norm_eps), || {
        "it must lie between 0 and 1".into()
    })?;
    let embedding = keys.checkpoint.require("token_embd.weight")?;
    let vocabulary = embedding.shape.dims().get(1).copied().unwrap_or(0) as usize;
    if let Some(stated) = keys.optional_count("vocab_size", MAX_COUNT * 4)? {
        keys.rule("vocab_size", stated, stated == vocabulary, || {
            format!("the embedding has {vocabulary} rows")
        })?;
    }
    let mut hyper = Hyperparameters {
        layers: (0..blocks).map(layer).collect(),
        mtp_blocks,
        draft_layer: None,
        hidden: keys.count("embedding_length", MAX_WIDTH)?,
        norm_eps,
        embedding_scale: 1.0,
        norms: Norms { ffn: "ffn_norm", after_mixer: None, after_ffn: None },
        connections: None,
        ngrams: Vec::new(),
        vocabulary,
        trained_context: keys.optional_count("context_length", u32::MAX)?.unwrap_or(2048) as u32,
    };
    hyper.trained_context = hyper.trained_context.max(rotary::stretched_context(keys, &hyper.ropes())?);
    rotary::check_sections(keys, &hyper)?;
    Ok(hyper)
}

/// Layers of the decoder, and blocks for multi-token prediction that stand behind them and are counted with them.
pub(super) fn block_counts(keys: &Keys<'_>) -> Result<(usize, usize)> {
    let blocks = keys.count("block_count", MAX_BLOCKS)?;
    let mtp_blocks = keys.number("nextn_predict_layers")?.unwrap_or(0) as usize;
    keys.rule("nextn_predict_layers", mtp_blocks, mtp_blocks < blocks, || {
        format!("there are {blocks} blocks, these among them")
    })?;
    Ok((blocks - mtp_blocks, mtp_blocks))
}

/// The layer of the head that drafts tokens, if the file has one with its weights.
pub(super) fn draft_layer(keys: &Keys<'_>, layer: Layer) -> Result<Option<Layer>> {
    let (layers, mtp_blocks) = block_counts(keys)?;
    let there = mtp_blocks > 0 && keys.checkpoint.holds(&format!("blk.{layers}.nextn.eh_proj.weight"));
    Ok(there.then_some(layer))
}

/// Softmax attention over all positions with grouped heads, neither gated nor with norms of heads.
pub(super) fn attention(keys: &Keys<'_>, rotation: Rotation) -> Result<Attention> {
    attention_untold(keys, rotation, Untold::default())
}

/// The same of an architecture of which it is known what rotary positions are where the file does not say it.
pub(super) fn attention_untold(keys: &Keys<'_>, rotation: Rotation, untold: Untold) -> Result<Attention> {
    check_heads(keys, |_| true)?;
    some_attention(keys, rotation, untold)
}

/// The same of layers of which others are something else.
fn some_attention(keys: &Keys<'_>, rotation: Rotation, untold: Untold) -> Result<Attention> {
    let hidden = keys.count("embedding_length", MAX_WIDTH)?;
    let heads = keys.count("attention.head_count", MAX_COUNT)?;
    let kv_heads = match heads_by_layer(keys)? {
        Some(listed) => listed.into_iter().max().unwrap_or_default() as usize,
        None => keys.optional_count(KV_HEADS, MAX_COUNT)?.unwrap_or(heads),
    };
    keys.rule(KV_HEADS, kv_heads, heads.is_multiple_of(kv_heads), || {
        format!("it must divide the {heads} query heads")
    })?;
    let width = |key: &str| -> Result<usize> {
        let dim = keys.optional_count(key, MAX_WIDTH)?.unwrap_or(hidden / heads);
        keys.rule(key, dim, dim > 0, || format!("{heads} heads do not fit a width of {hidden}"))?;
        Ok(dim)
    };
    let (head_dim, value_dim) = (width("attention.key_length")?, width("attention.value_length")?);
    let rope = rotary::rope(keys, head_dim, rotation, untold)?;
    let scale = 1.0 / (head_dim as f32).sqrt();
    Ok(Attention {
        heads,
        kv_heads,
        head_dim,
        value_dim,
        head_norm: false,
        gated: false,
        biases: Biases::Optional,
        sinks: false,
        window: None,
        scale,
        temperature: None,
        rope,
        indexer: None,
    })
}

/// What queries grow by with their position, where a file says so. Untold, the positions that share a factor are those of the
/// context that is stretched, or of all of it.
pub(super) fn temperature(keys: &Keys<'_>) -> Result<Option<Temperature>> {
    let key = rotary::either(keys, "attention.temperature_scale", "rope.scaling_beta");
    let Some(rate) = keys.float(key)?.filter(|rate| *rate != 0.0) else { return Ok(None) };
    keys.rule(key, rate, (0.0..=1.0).contains(&rate), || "it must lie between 0 and 1".into())?;
    for key in ["attention.temperature_length", rotary::ORIGINAL_CONTEXT] {
        if let Some(context) = keys.optional_count(key, u32::MAX)? {
            return Ok(Some(Temperature { rate, context }));
        }
    }
    Ok(Some(Temperature { rate, context: keys.count("context_length", u32::MAX)? }))
}

/// Heads of keys and values where a file lists them by layers: as many in all layers that have some.
fn heads_by_layer(keys: &Keys<'_>) -> Result<Option<Vec<u32>>> {
    if !keys.is_array(KV_HEADS) {
        return Ok(None);
    }
    let Some(listed) = keys.numbers(KV_HEADS)? else { return Ok(None) };
    let most = listed.iter().copied().max().unwrap_or(0);
    let (layers, mtp_blocks) = block_counts(keys)?;
    let alike = (1..=MAX_COUNT).contains(&most) && listed.iter().all(|&heads| heads == 0 || heads == most);
    let fits = listed.len() == layers || listed.len() == layers + mtp_blocks;
    keys.rule(KV_HEADS, format!("{listed:?}"), alike && fits, || {
        format!("it must be one number from 1 to {MAX_COUNT} for all of the {layers} layers with attention")
    })?;
    Ok(Some(listed))
}

/// Refuses a list of heads in which a layer has none though it has attention, or some and has not.
pub(super) fn check_heads(keys: &Keys<'_>, has_attention: impl Fn(usize) -> bool) -> Result<()> {
    let Some(listed) = heads_by_layer(keys)? else { return Ok(()) };
    let (layers, _) = block_counts(keys)?;
    let wrong = (0..layers).find(|&layer| (listed[layer] > 0) != has_attention(layer));
    keys.rule(KV_HEADS, format!("{listed:?}"), wrong.is_none(), || {
        format!(
            "layer {} has {}attention",
            wrong.unwrap_or(0),
            if wrong.is_some_and(&has_attention) { "" } else { "no " }
        )
    })
}

/// Softmax attention with norms of heads, whose output is gated element by element.
pub(super) fn gated_attention(keys: &Keys<'_>, rotation: Rotation) -> Result<Attention> {
    let attention = some_attention(keys, rotation, Untold::default())?;
    let (key, value) = (attention.head_dim, attention.value_dim);
    keys.rule("attention.value_length", value, value == key, || {
        format!("a gate has the {key} columns of attention.key_length for each head")
    })?;
    Ok(Attention { head_norm: true, gated: true, ..attention })
}

/// For each layer, the positions that its attention goes over where it slides over some only: all layers but the last of each
/// `period`, unless the file names another period or lists the layers that do.
pub(super) fn windows(keys: &Keys<'_>, period: usize) -> Result<Vec<Option<usize>>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let (layers, mtp_blocks) = block_counts(keys)?;
    let window = keys.count("attention.sliding_window", u32::MAX)?;
    if let Some(listed) = keys.truths_if_array(PATTERN)? {
        let fits = listed.len() == layers || listed.len() == layers + mtp_blocks;
        keys.rule(PATTERN, format!("{} values", listed.len()), fits, || {
            format!("there are {layers} layers")
        })?;
        return Ok(listed[..layers].iter().map(|&slides| slides.then_some(window)).collect());
    }
    let period = keys.optional_count(PATTERN, MAX_BLOCKS)?.unwrap_or(period);
    Ok((1..=layers).map(|layer| (!layer.is_multiple_of(period)).then_some(window)).collect())
}

/// One gated unit.
pub(super) fn dense(keys: &Keys<'_>) -> Result<FeedForward> {
    Ok(FeedForward::Dense { inner: keys.count("feed_forward_length", MAX_WIDTH)?, glu: Glu::SwiGlu })
}

/// A mixture of experts without a shared one.
pub(super) fn moe(keys: &Keys<'_>, weighing: Weighing, width: Width) -> Result<Moe> {
    optional_moe(keys, weighing, width)?.ok_or_else(|| {
        keys.broken("expert_count", "absent or 0", "this architecture is a mixture of experts")
    })
}

/// A mixture of experts, if the file says that there are any.
pub(super) fn optional_moe(keys: &Keys<'_>, weighing: Weighing, width: Width) -> Result<Option<Moe>> {
    const DENSE: &str = "feed_forward_length";
    if keys.number("expert_count")?.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let experts = keys.count("expert_count", 1 << 16)?;
    let top_k = keys.count("expert_used_count", 1 << 16)?;
    keys.rule("expert_used_count", top_k, top_k <= experts, || format!("there are {experts} experts"))?;
    let inner = match keys.optional_count("expert_feed_forward_length", MAX_WIDTH)? {
        Some(inner) => inner,
        None if width == Width::Whole => keys.count(DENSE, MAX_WIDTH)?,
        None => {
            let all = keys.count(DENSE, MAX_WIDTH)?;
            keys.rule(DENSE, all, all.is_multiple_of(top_k), || {
                format!(
                    "there is no expert_feed_forward_length, and then the {top_k} experts of a token share it"
                )
            })?;
            all / top_k
        }
    };
    let router = Router {
        scores: Scores::Softmax,
        choice_bias: false,
        groups: None,
        normalise: keys.flag("expert_weights_norm")?.unwrap_or(weighing == Weighing::SumToOne),
        scale: 1.0,
    };
    Ok(Some(Moe { experts, top_k, inner, shared: None, router, biased: false, glu: Glu::SwiGlu }))
}

/// The shared expert that a gate of its own weighs.
pub(super) fn gated_shared_expert(keys: &Keys<'_>) -> Result<SharedExpert> {
    let inner = match keys.optional_count("expert_shared_feed_forward_length", MAX_WIDTH)? {
        Some(inner) => inner,
        // The first files of Qwen1.5-MoE have one width for both.
        None => keys.count("feed_forward_length", MAX_WIDTH)?,
    };
    Ok(SharedExpert { inner, gated: true })
}

/// Heads and widths of a gated delta-net.
pub(super) fn delta_shape(keys: &Keys<'_>, order: HeadOrder) -> Result<DeltaShape> {
    let key_heads = keys.count("ssm.group_count", MAX_DELTA)?;
    let value_heads = keys.count("ssm.time_step_rank", MAX_DELTA)?;
    keys.rule("ssm.time_step_rank", value_heads, value_heads.is_multiple_of(key_heads), || {
        format!("the value heads must be a multiple of the {key_heads} key heads of ssm.group_count")
    })?;
    let width = keys.count("ssm.inner_size", MAX_WIDTH)?;
    keys.rule("ssm.inner_size", width, width.is_multiple_of(value_heads), || {
        format!("it must be a multiple of the {value_heads} value heads of ssm.time_step_rank")
    })?;
    Ok(DeltaShape {
        key_heads,
        value_heads,
        key_dim: keys.count("ssm.state_size", MAX_DELTA)?,
        value_dim: width / value_heads,
        kernel: keys.count("ssm.conv_kernel", MAX_CONVOLUTION)?,
        order,
    })
}

/// For each layer, whether it is a delta-net rather than attention: as the file lists them, with or without its blocks for
/// multi-token prediction, or all but every n-th, or those without heads of keys.
pub(super) fn recurrent_layers(keys: &Keys<'_>) -> Result<Vec<bool>> {
    const LISTED: &str = "attention.recurrent_layers";
    let (layers, mtp_blocks) = block_counts(keys)?;
    if let Some(listed) = keys.truths(LISTED)? {
        let fits = listed.len() == layers || listed.len() == layers + mtp_blocks;
        keys.rule(LISTED, format!("{} values", listed.len()), fits, || {
            format!(
                "there are {} blocks, {mtp_blocks} of them for multi-token prediction",
                layers + mtp_blocks
            )
        })?;
        return Ok(listed[..layers].to_vec());
    }
    let interval = match keys.optional_count("full_attention_interval", MAX_BLOCKS)? {
        Some(interval) => interval,
        None => match heads_by_layer(keys)? {
            Some(listed) => return Ok(listed[..layers].iter().map(|&heads| heads == 0).collect()),
            None => ATTENTION_INTERVAL,
        },
    };
    Ok((1..=layers).map(|block| !block.is_multiple_of(interval)).collect())
}
