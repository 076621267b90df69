//! Rotary positions, and how a file asks for a longer context than that of the training.

use membrane_formats::keys::YARN_WHOLE_PAIRS;

use crate::error::Result;
use crate::hyper::{Hyperparameters, Llama3, Rope, RopeScaling, Yarn};
use crate::keys::{Keys, MAX_WIDTH};

/// What YaRN's paper found best for the magnitude of queries and keys, for each factor e of the context.
const YARN_GROWTH: f32 = 0.1;
/// Turns within the original context from which on YaRN leaves a pair as it is, where a file does not say it.
const BETA_FAST: f32 = 32.0;
/// Turns up to which YaRN slows a pair down wholly, where a file does not say it.
const BETA_SLOW: f32 = 1.0;

/// Positions of the training where these are stretched.
pub(super) const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";

/// Which elements of a head make a rotary pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Those half the rotated part apart, as in GPT-NeoX.
    Halves,
    /// Neighbours.
    Neighbours,
}

/// What rotary positions are where a file does not say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Untold {
    pub base: f32,
    /// How a factor of the context is meant.
    pub scaling: &'static str,
    pub factor: f32,
}

impl Default for Untold {
    fn default() -> Self {
        Self { base: 10_000.0, scaling: "linear", factor: 1.0 }
    }
}

/// Rotary positions of heads of `head_dim`.
pub(super) fn rope(keys: &Keys<'_>, head_dim: usize, rotation: Rotation, untold: Untold) -> Result<Rope> {
    let dims = keys.optional_count("rope.dimension_count", MAX_WIDTH)?.unwrap_or(head_dim);
    keys.rule("rope.dimension_count", dims, dims <= head_dim && dims.is_multiple_of(2), || {
        format!("it must be even and at most the head's {head_dim} dimensions")
    })?;
    let base = keys.positive("rope.freq_base")?.unwrap_or(untold.base);
    Ok(Rope { dims, base, scaling: scaling(keys, base, untold)?, neox: rotation == Rotation::Halves })
}

fn scaling(keys: &Keys<'_>, base: f32, untold: Untold) -> Result<RopeScaling> {
    const TYPE: &str = "rope.scaling.type";
    const FACTOR: &str = "rope.scaling.factor";
    // What Ollama's files have where there is nothing to stretch.
    if keys.text(TYPE)? == Some("") && keys.float(FACTOR)?.unwrap_or(0.0) == 0.0 {
        return Ok(RopeScaling::None);
    }
    let told = keys.positive(FACTOR)?;
    // What files of 2023 have in its place.
    let factor = told.or(keys.positive("rope.scale_linear")?).unwrap_or(untold.factor);
    match keys.text(TYPE)?.unwrap_or(untold.scaling) {
        "none" => Ok(RopeScaling::None),
        "linear" if factor == 1.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear(factor)),
        "yarn" => Ok(RopeScaling::Yarn(yarn(keys, base, factor)?)),
        "llama3" => Ok(RopeScaling::Llama3(llama3(keys, factor)?)),
        other => {
            Err(keys.broken(TYPE, other, "this build extends contexts by none, linear, yarn or llama3 only"))
        }
    }
}

/// What configurations say of Llama 3's way. GGUF files have the result in a tensor.
fn llama3(keys: &Keys<'_>, factor: f32) -> Result<Llama3> {
    let figure = |key: &str| match keys.positive(key)? {
        Some(figure) => Ok(figure),
        None => Err(keys.broken(key, "absent", "rope.scaling.type llama3 needs it")),
    };
    let low_turns = figure("rope.scaling.low_freq_factor")?;
    let high_turns = figure("rope.scaling.high_freq_factor")?;
    keys.rule("rope.scaling.high_freq_factor", high_turns, high_turns > low_turns, || {
        format!("it must be above {low_turns}")
    })?;
    let original_context = keys.count(ORIGINAL_CONTEXT, u32::MAX)? as u32;
    Ok(Llama3 { factor, low_turns, high_turns, original_context })
}

fn yarn(keys: &Keys<'_>, base: f32, factor: f32) -> Result<Yarn> {
    keys.rule("rope.scaling.factor", factor, factor >= 1.0, || "YaRN makes a context longer".into())?;
    keys.rule("rope.freq_base", base, base > 1.0, || "with YaRN it must be above 1".into())?;
    let original_context = match keys.optional_count(ORIGINAL_CONTEXT, u32::MAX)? {
        Some(context) => context,
        None => keys.count("context_length", u32::MAX)?,
    };
    let fast_key = either(keys, "rope.scaling.yarn_beta_fast", "rope.scaling.beta_fast");
    let slow_key = either(keys, "rope.scaling.yarn_beta_slow", "rope.scaling.beta_slow");
    let beta_fast = keys.positive(fast_key)?.unwrap_or(BETA_FAST);
    let beta_slow = keys.positive(slow_key)?.unwrap_or(BETA_SLOW);
    keys.rule(fast_key, beta_fast, beta_fast >= beta_slow, || {
        format!("it must not be below the {beta_slow} of {slow_key}")
    })?;
    // Negative is what converters write for "not said".
    let mixed = keys.float("rope.scaling.yarn_ext_factor")?.filter(|&mixed| mixed >= 0.0).unwrap_or(1.0);
    keys.rule("rope.scaling.yarn_ext_factor", mixed, mixed == 1.0, || {
        "this build has YaRN in full only".into()
    })?;
    let attention = keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0)
        * keys.positive("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0);
    let magnitude = attention * growth(factor, YARN_GROWTH) / growth(factor, yarn_score_growth(keys)?);
    Ok(Yarn {
        factor,
        original_context: original_context as u32,
        beta_fast,
        beta_slow,
        whole_pairs: keys.flag(YARN_WHOLE_PAIRS)?.unwrap_or(true),
        magnitude,
    })
}

/// The longest context that positions are stretched to by their factor: files may give that of the training beside it as theirs. 0 if
/// they are not, or by Llama 3's way, whose factor is not that of the context.
pub(super) fn stretched_context(keys: &Keys<'_>, ropes: &[Rope]) -> Result<u32> {
    let mut longest = 0;
    for rope in ropes {
        let (original, factor) = match rope.scaling {
            RopeScaling::Yarn(yarn) => (yarn.original_context, yarn.factor),
            RopeScaling::Linear(factor) => (keys.number(ORIGINAL_CONTEXT)?.unwrap_or(0), factor),
            RopeScaling::None | RopeScaling::Llama3(_) => continue,
        };
        longest = longest.max((f64::from(original) * f64::from(factor)) as u32);
    }
    Ok(longest)
}

/// What scores grow by for each factor e of the context, beside what the rotated dimensions do; 0 if they don't. Converters write
/// `mscale_all_dim` for most architectures, and for DeepSeek's what that is multiplied by there, too.
pub(super) fn yarn_score_growth(keys: &Keys<'_>) -> Result<f32> {
    let key = either(keys, "rope.scaling.yarn_log_multiplier", "rope.scaling.mscale_all_dim");
    let (unit, most) = if keys.prefix() == "deepseek2" { (1.0, 1.0) } else { (YARN_GROWTH, 10.0) };
    let told = keys.float(key)?.unwrap_or(0.0);
    keys.rule(key, told, (0.0..=most).contains(&told), || format!("it must lie between 0 and {most}"))?;
    Ok(unit * told)
}

/// The first of two keys, unless only the other is there, which the first files of Mistral 3 by Ollama have. Of no other architecture.
pub(super) fn either<'n>(keys: &Keys<'_>, key: &'n str, other: &'n str) -> &'n str {
    if keys.prefix() == "mistral3" && !keys.holds(key) && keys.holds(other) { other } else { key }
}

/// By what something grows at a factor of the context, if by `rate` for each factor e.
pub(super) fn growth(factor: f32, rate: f32) -> f32 {
    1.0 + rate * factor.ln()
}

/// Refuses axes of positions that do not share all rotary pairs among them. In a text their positions are equal, so that
/// nothing else is to be known of them.
pub(super) fn check_sections(keys: &Keys<'_>, hyper: &Hyperparameters) -> Result<()> {
    const KEY: &str = "rope.dimension_sections";
    let Some(sections) = keys.numbers(KEY)? else { return Ok(()) };
    let pairs: u64 = sections.iter().map(|&pairs| u64::from(pairs)).sum();
    for rope in hyper.ropes() {
        keys.rule(KEY, format!("{sections:?}"), pairs == rope.dims as u64 / 2, || {
            format!("the axes must share the {} pairs of rope.dimension_count", rope.dims / 2)
        })?;
    }
    Ok(())
}
