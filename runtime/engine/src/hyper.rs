//! Hyper-parameters: what a file says of a model's shape, checked once.
//!
//! Keys follow the GGUF specification, `{architecture}.{name}`.

use std::path::Path;

use membrane_formats::{Checkpoint, Metadata};

use crate::architectures::Architecture;
use crate::error::{EngineError, Result, shown};

/// Largest number of blocks that a file may claim; the largest published models have 126.
const MAX_BLOCKS: u32 = 1024;
/// Largest number of heads, experts and so on; keeps every product of two of them within 64 bits.
const MAX_COUNT: u32 = 1 << 20;
/// Largest width of a hidden vector or a feed-forward.
const MAX_WIDTH: u32 = 1 << 20;

/// How positions are rotated into queries and keys (Su et al. 2021).
#[derive(Debug, Clone)]
pub struct Rope {
    /// Dimensions of a head that are rotated, from the first.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are multiplied by it (linear context extension); 1 is off.
    pub scale: f32,
    /// Pairs are (i, i + dims/2) as in GPT-NeoX; otherwise neighbours (2i, 2i + 1).
    pub neox: bool,
}

/// The mixture of experts of a block.
#[derive(Debug, Clone)]
pub struct Moe {
    /// Experts in a block.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Inner width of an expert.
    pub inner: usize,
    /// Inner width of the shared expert, 0 if there is none.
    pub shared_inner: usize,
    /// Whether the chosen experts' weights are made to sum to 1.
    pub normalise: bool,
}

/// The shape of a model.
#[derive(Debug, Clone)]
pub struct Hyperparameters {
    /// Transformer blocks.
    pub blocks: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Inner width of a dense feed-forward; 0 in a pure mixture of experts.
    pub inner: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// The mixture of experts, if the model has one.
    pub moe: Option<Moe>,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Context length that the model was trained for.
    pub trained_context: u32,
}

impl Hyperparameters {
    /// Reads and checks the hyper-parameters of a checkpoint.
    ///
    /// Errors name the key and the rule that it breaks.
    pub fn read(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self> {
        let keys =
            Keys { path: checkpoint.path(), metadata: checkpoint.metadata(), prefix: architecture.name };
        let blocks = keys.count("block_count", MAX_BLOCKS)?;
        let hidden = keys.count("embedding_length", MAX_WIDTH)?;
        let heads = keys.count("attention.head_count", MAX_COUNT)?;
        let kv_heads = keys.optional_count("attention.head_count_kv", MAX_COUNT)?.unwrap_or(heads);
        keys.rule("attention.head_count_kv", kv_heads, heads % kv_heads == 0, || {
            format!("it must divide the {heads} query heads")
        })?;
        let default_dim = hidden / heads;
        let head_dim = keys.optional_count("attention.key_length", MAX_WIDTH)?.unwrap_or(default_dim);
        let value_dim = keys.optional_count("attention.value_length", MAX_WIDTH)?.unwrap_or(default_dim);
        keys.rule("attention.key_length", head_dim, head_dim > 0, || {
            format!("{heads} heads do not fit a width of {hidden}")
        })?;
        keys.rule("attention.value_length", value_dim, value_dim > 0, || {
            format!("{heads} heads do not fit a width of {hidden}")
        })?;
        let norm_eps = keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5);
        keys.rule("attention.layer_norm_rms_epsilon", norm_eps, (0.0..1.0).contains(&norm_eps), || {
            "it must lie between 0 and 1".into()
        })?;
        let embedding = checkpoint.require("token_embd.weight")?;
        let vocabulary = embedding.shape.dims().get(1).copied().unwrap_or(0) as usize;
        if let Some(stated) = keys.optional_count("vocab_size", MAX_COUNT * 4)? {
            keys.rule("vocab_size", stated, stated == vocabulary, || {
                format!("the embedding has {vocabulary} rows")
            })?;
        }
        Ok(Self {
            blocks,
            hidden,
            heads,
            kv_heads,
            head_dim,
            value_dim,
            inner: keys.optional_count("feed_forward_length", MAX_WIDTH)?.unwrap_or(0),
            norm_eps,
            rope: rope(&keys, head_dim, architecture.neox_rope)?,
            moe: moe(&keys, architecture)?,
            vocabulary,
            trained_context: keys.optional_count("context_length", u32::MAX)?.unwrap_or(2048) as u32,
        })
    }

    /// Width of all key heads together.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of all value heads together.
    pub fn value_width(&self) -> usize {
        self.kv_heads * self.value_dim
    }
}

fn rope(keys: &Keys<'_>, head_dim: usize, neox: bool) -> Result<Rope> {
    let dims = keys.optional_count("rope.dimension_count", MAX_WIDTH)?.unwrap_or(head_dim);
    keys.rule("rope.dimension_count", dims, dims <= head_dim && dims % 2 == 0, || {
        format!("it must be even and at most the head's {head_dim} dimensions")
    })?;
    let base = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    keys.rule("rope.freq_base", base, base.is_finite() && base > 0.0, || "it must be positive".into())?;
    let kind = keys.metadata.str(&keys.name("rope.scaling.type"))?.unwrap_or("none").to_owned();
    let scale = match kind.as_str() {
        "none" => 1.0,
        "linear" => 1.0 / keys.float("rope.scaling.factor")?.unwrap_or(1.0),
        other => {
            return Err(keys.broken(
                "rope.scaling.type",
                other,
                "this build extends contexts by none or linear only",
            ));
        }
    };
    keys.rule("rope.scaling.factor", 1.0 / scale, scale.is_finite() && scale > 0.0, || {
        "it must be positive".into()
    })?;
    Ok(Rope { dims, base, scale, neox })
}

fn moe(keys: &Keys<'_>, architecture: &Architecture) -> Result<Option<Moe>> {
    let experts = keys.metadata.u32(&keys.name("expert_count"))?.unwrap_or(0);
    if experts == 0 {
        return if architecture.always_moe {
            Err(keys.broken("expert_count", "absent or 0", "this architecture is a mixture of experts"))
        } else {
            Ok(None)
        };
    }
    let experts = keys.count("expert_count", 1 << 16)?;
    let top_k = keys.count("expert_used_count", 1 << 16)?;
    keys.rule("expert_used_count", top_k, top_k <= experts, || format!("there are {experts} experts"))?;
    let inner = match keys.optional_count("expert_feed_forward_length", MAX_WIDTH)? {
        Some(inner) => inner,
        None => keys.count("feed_forward_length", MAX_WIDTH)?,
    };
    let shared_inner = if architecture.shared_expert {
        keys.count("expert_shared_feed_forward_length", MAX_WIDTH)?
    } else {
        0
    };
    Ok(Some(Moe { experts, top_k, inner, shared_inner, normalise: architecture.normalise_top_k }))
}

/// Metadata of one architecture, with its prefix.
struct Keys<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// A required number from 1 to `max`.
    fn count(&self, key: &str, max: u32) -> Result<usize> {
        match self.optional_count(key, max)? {
            Some(count) => Ok(count),
            None => Err(self.broken(key, "absent", "the architecture needs it")),
        }
    }

    fn optional_count(&self, key: &str, max: u32) -> Result<Option<usize>> {
        let Some(value) = self.metadata.u32(&self.name(key))? else { return Ok(None) };
        self.rule(key, value, (1..=max).contains(&value), || format!("it must lie between 1 and {max}"))?;
        Ok(Some(value as usize))
    }

    fn float(&self, key: &str) -> Result<Option<f32>> {
        Ok(self.metadata.f32(&self.name(key))?)
    }

    fn rule(
        &self,
        key: &str,
        found: impl ToString,
        holds: bool,
        rule: impl FnOnce() -> String,
    ) -> Result<()> {
        if holds { Ok(()) } else { Err(self.broken(key, found, rule())) }
    }

    fn broken(&self, key: &str, found: impl ToString, rule: impl Into<String>) -> EngineError {
        EngineError::Hyperparameter {
            path: self.path.to_owned(),
            key: self.name(key),
            found: shown(&found.to_string()),
            rule: rule.into(),
        }
    }
}
