//! The blocks that architectures are put together from: each reads its keys and checks them.

use crate::error::Result;
use crate::hyper::{Attention, DeltaShape, FeedForward, HeadOrder, Hyperparameters, Layer, Moe, Rope};
use crate::keys::{Keys, MAX_BLOCKS, MAX_COUNT, MAX_WIDTH};

/// Longest convolution before a delta-net; published models have 4. A state keeps as many tokens of all channels.
const MAX_CONVOLUTION: u32 = 256;
/// Most delta-net heads, and widest head: with it no size of a state overflows.
const MAX_DELTA: u32 = 1 << 16;
/// Layers from one with attention to the next where a hybrid does not say it.
const ATTENTION_INTERVAL: usize = 4;

/// Which elements of a head make a rotary pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Those half the rotated part apart, as in GPT-NeoX.
    Halves,
    /// Neighbours.
    Neighbours,
}

/// What becomes of the softmax over all experts where the file does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighing {
    /// The chosen experts' weights are made to sum to 1.
    SumToOne,
    /// They stay as they are.
    AsItIs,
}

/// The decoder around the layers: embedding, norms, head.
pub(super) fn decoder(
    keys: &Keys<'_>,
    rope: Rope,
    layer: impl FnMut(usize) -> Layer,
) -> Result<Hyperparameters> {
    let (blocks, mtp_blocks) = block_counts(keys)?;
    let norm_eps = keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5);
    keys.rule("attention.layer_norm_rms_epsilon", norm_eps, (0.0..1.0).contains(&norm_eps), || {
        "it must lie between 0 and 1".into()
    })?;
    let embedding = keys.checkpoint.require("token_embd.weight")?;
    let vocabulary = embedding.shape.dims().get(1).copied().unwrap_or(0) as usize;
    if let Some(stated) = keys.optional_count("vocab_size", MAX_COUNT * 4)? {
        keys.rule("vocab_size", stated, stated == vocabulary, || {
            format!("the embedding has {vocabulary} rows")
        })?;
    }
    Ok(Hyperparameters {
        layers: (0..blocks).map(layer).collect(),
        mtp_blocks,
        hidden: keys.count("embedding_length", MAX_WIDTH)?,
        norm_eps,
        rope,
        ffn_norm: "ffn_norm",
        vocabulary,
        trained_context: keys.optional_count("context_length", u32::MAX)?.unwrap_or(2048) as u32,
    })
}

/// Layers of the decoder, and blocks for multi-token prediction that stand behind them and are counted with them.
fn block_counts(keys: &Keys<'_>) -> Result<(usize, usize)> {
    let blocks = keys.count("block_count", MAX_BLOCKS)?;
    let mtp_blocks = keys.number("nextn_predict_layers")?.unwrap_or(0) as usize;
    keys.rule("nextn_predict_layers", mtp_blocks, mtp_blocks < blocks, || {
        format!("there are {blocks} blocks, these among them")
    })?;
    Ok((blocks - mtp_blocks, mtp_blocks))
}

/// Softmax attention with grouped heads, neither gated nor with norms of heads.
pub(super) fn attention(keys: &Keys<'_>) -> Result<Attention> {
    let hidden = keys.count("embedding_length", MAX_WIDTH)?;
    let heads = keys.count("attention.head_count", MAX_COUNT)?;
    let kv_heads = keys.optional_count("attention.head_count_kv", MAX_COUNT)?.unwrap_or(heads);
    keys.rule("attention.head_count_kv", kv_heads, heads.is_multiple_of(kv_heads), || {
        format!("it must divide the {heads} query heads")
    })?;
    let width = |key: &str| -> Result<usize> {
        let dim = keys.optional_count(key, MAX_WIDTH)?.unwrap_or(hidden / heads);
        keys.rule(key, dim, dim > 0, || format!("{heads} heads do not fit a width of {hidden}"))?;
        Ok(dim)
    };
    let (head_dim, value_dim) = (width("attention.key_length")?, width("attention.value_length")?);
    Ok(Attention { heads, kv_heads, head_dim, value_dim, head_norm: false, gated: false })
}

/// Softmax attention with norms of heads, whose output is gated element by element.
pub(super) fn gated_attention(keys: &Keys<'_>) -> Result<Attention> {
    let attention = attention(keys)?;
    let (key, value) = (attention.head_dim, attention.value_dim);
    keys.rule("attention.value_length", value, value == key, || {
        format!("a gate has the {key} columns of attention.key_length for each head")
    })?;
    Ok(Attention { head_norm: true, gated: true, ..attention })
}

/// Rotary positions of heads of `head_dim`.
pub(super) fn rope(keys: &Keys<'_>, head_dim: usize, rotation: Rotation) -> Result<Rope> {
    let dims = keys.optional_count("rope.dimension_count", MAX_WIDTH)?.unwrap_or(head_dim);
    keys.rule("rope.dimension_count", dims, dims <= head_dim && dims.is_multiple_of(2), || {
        format!("it must be even and at most the head's {head_dim} dimensions")
    })?;
    let base = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    keys.rule("rope.freq_base", base, base.is_finite() && base > 0.0, || "it must be positive".into())?;
    let (scale, factors) = match keys.text("rope.scaling.type")?.unwrap_or("none") {
        "none" => (1.0, None),
        "linear" => (1.0 / keys.float("rope.scaling.factor")?.unwrap_or(1.0), None),
        "llama3" => (1.0, Some(llama3_factors(keys, dims, base)?)),
        other => {
            return Err(keys.broken(
                "rope.scaling.type",
                other,
                "this build extends contexts by none, linear or llama3 only",
            ));
        }
    };
    keys.rule("rope.scaling.factor", 1.0 / scale, scale.is_finite() && scale > 0.0, || {
        "it must be positive".into()
    })?;
    Ok(Rope { dims, base, scale, neox: rotation == Rotation::Halves, factors })
}

/// Divisors of the frequencies as Llama 3 extends contexts: slow pairs by the whole factor, fast ones not at all, those between
/// by a mean. GGUF files have the result in a tensor.
fn llama3_factors(keys: &Keys<'_>, dims: usize, base: f32) -> Result<Vec<f32>> {
    let figure = |key: &str| -> Result<f64> {
        let value = keys.float(key)?.unwrap_or(f32::NAN);
        keys.rule(key, value, value.is_finite() && value > 0.0, || "it must be positive".into())?;
        Ok(f64::from(value))
    };
    let factor = figure("rope.scaling.factor")?;
    let (low, high) = (figure("rope.scaling.low_freq_factor")?, figure("rope.scaling.high_freq_factor")?);
    let original = figure("rope.scaling.original_context_length")?;
    keys.rule("rope.scaling.high_freq_factor", high, high > low, || format!("it must be above {low}"))?;
    let of_pair = |pair: usize| {
        let frequency = f64::from(base).powf(-2.0 * pair as f64 / dims as f64);
        let turns = original * frequency / std::f64::consts::TAU;
        let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - share) / factor + share)) as f32
    };
    Ok((0..dims / 2).map(of_pair).collect())
}

/// Refuses axes of positions that do not share all rotary pairs among them. In a text their positions are equal, so that
/// nothing else is to be known of them.
pub(super) fn check_rope_sections(keys: &Keys<'_>, rope: &Rope) -> Result<()> {
    const KEY: &str = "rope.dimension_sections";
    let Some(sections) = keys.numbers(KEY)? else { return Ok(()) };
    let pairs: u64 = sections.iter().map(|&pairs| u64::from(pairs)).sum();
    keys.rule(KEY, format!("{sections:?}"), pairs == rope.dims as u64 / 2, || {
        format!("the axes must share the {} pairs of rope.dimension_count", rope.dims / 2)
    })
}

/// One gated unit.
pub(super) fn dense(keys: &Keys<'_>) -> Result<FeedForward> {
    Ok(FeedForward::Dense { inner: keys.count("feed_forward_length", MAX_WIDTH)? })
}

/// A mixture of experts without a shared one.
pub(super) fn moe(keys: &Keys<'_>, weighing: Weighing) -> Result<Moe> {
    optional_moe(keys, weighing)?.ok_or_else(|| {
        keys.broken("expert_count", "absent or 0", "this architecture is a mixture of experts")
    })
}

/// A mixture of experts, if the file says that there are any.
pub(super) fn optional_moe(keys: &Keys<'_>, weighing: Weighing) -> Result<Option<Moe>> {
    if keys.number("expert_count")?.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let experts = keys.count("expert_count", 1 << 16)?;
    let top_k = keys.count("expert_used_count", 1 << 16)?;
    keys.rule("expert_used_count", top_k, top_k <= experts, || format!("there are {experts} experts"))?;
    let inner = match keys.optional_count("expert_feed_forward_length", MAX_WIDTH)? {
        Some(inner) => inner,
        None => keys.count("feed_forward_length", MAX_WIDTH)?,
    };
    let normalise = keys.flag("expert_weights_norm")?.unwrap_or(weighing == Weighing::SumToOne);
    Ok(Some(Moe { experts, top_k, inner, shared_inner: 0, normalise }))
}

/// Inner width of the gated shared expert.
pub(super) fn shared_inner(keys: &Keys<'_>) -> Result<usize> {
    keys.count("expert_shared_feed_forward_length", MAX_WIDTH)
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
/// multi-token prediction, or all but every n-th.
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
    let interval = keys.optional_count("full_attention_interval", MAX_BLOCKS)?.unwrap_or(ATTENTION_INTERVAL);
    Ok((1..=layers).map(|block| !block.is_multiple_of(interval)).collect())
}
