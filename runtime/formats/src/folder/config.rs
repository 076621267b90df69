//! `config.json`: what a GGUF file of the model would have as metadata.

mod families;
mod qwen4;
mod rope;

use serde_json::{Map, Value};

use crate::error::{FormatError, quoted};
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::value::Array;

/// Names of architectures: `model_type`, with `_text` behind it or not, and ours.
const ARCHITECTURES: [(&str, &str); 26] = [
    ("deepseek_v2", "deepseek2"),
    ("deepseek_v3", "deepseek2"),
    ("gemma3", "gemma3"),
    ("glm4_moe", "glm4moe"),
    ("glm4_moe_lite", "deepseek2"),
    ("glm4v_moe", "glm4moe"),
    ("gpt_oss", "gpt-oss"),
    ("kimi_k2", "deepseek2"),
    ("llama", "llama"),
    ("ministral3", "mistral3"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen2_5_omni", "qwen2vl"),
    ("qwen2_5_vl", "qwen2vl"),
    ("qwen2_moe", "qwen2moe"),
    ("qwen2_vl", "qwen2vl"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
    ("qwen3_next", "qwen3next"),
    ("qwen3_omni_moe", "qwen3vlmoe"),
    ("qwen3_vl", "qwen3vl"),
    ("qwen3_vl_moe", "qwen3vlmoe"),
    ("qwen3_5", "qwen35"),
    ("qwen3_5_moe", "qwen35moe"),
    ("qwen4_exp", "qwen4exp"),
];

/// Integers that only have another name: ours without the architecture, and the published ones of which a model has one.
const COUNTS: [(&str, &[&str]); 25] = [
    ("block_count", &["num_hidden_layers"]),
    ("embedding_length", &["hidden_size"]),
    ("feed_forward_length", &["intermediate_size"]),
    ("attention.head_count", &["num_attention_heads"]),
    ("attention.head_count_kv", &["num_key_value_heads"]),
    ("attention.key_length", &["head_dim"]),
    ("attention.value_length", &["head_dim"]),
    ("context_length", &["max_position_embeddings"]),
    ("vocab_size", &["vocab_size"]),
    ("attention.sliding_window", &["sliding_window"]),
    ("attention.sliding_window_pattern", &["sliding_window_pattern", "_sliding_window_pattern"]),
    ("attention.q_lora_rank", &["q_lora_rank"]),
    ("attention.kv_lora_rank", &["kv_lora_rank"]),
    ("attention.value_length_mla", &["v_head_dim"]),
    ("rope.dimension_count", &["qk_rope_head_dim"]),
    ("leading_dense_block_count", &["first_k_dense_replace"]),
    ("expert_count", &["num_experts", "num_local_experts", "n_routed_experts"]),
    ("expert_used_count", &["num_experts_per_tok", "experts_per_token"]),
    ("expert_shared_count", &["n_shared_experts"]),
    ("expert_group_count", &["n_group"]),
    ("expert_group_used_count", &["topk_group"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
    ("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"]),
    ("full_attention_interval", &["full_attention_interval"]),
    ("ssm.conv_kernel", &["linear_conv_kernel_dim"]),
];
/// What norms have where a configuration does not say it: most, and these.
const NORM_EPSILON: f64 = 1e-6;
const LARGER_EPSILON: f64 = 1e-5;
const WITH_LARGER_EPSILON: [&str; 8] =
    ["glm4_moe", "glm4_moe_lite", "glm4v_moe", "gpt_oss", "ministral3", "mixtral", "qwen2_5_vl", "qwen2_vl"];
const DELTA_COUNTS: [(&str, &str); 3] = [
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
];

/// The published name of a key of ours, where it is known by one.
pub(crate) fn published_key(key: &str) -> Option<&'static str> {
    let (_, name) = key.split_once('.')?;
    let counts = COUNTS.iter().map(|(ours, published)| (*ours, published[0]));
    let others = [
        ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("rope.freq_base", "rope_theta"),
        ("rope.dimension_sections", "rope_parameters.mrope_section"),
        ("rope.scaling.type", "rope_scaling.rope_type"),
        ("rope.scaling.factor", "rope_scaling.factor"),
        ("rope.scaling.original_context_length", "rope_scaling.original_max_position_embeddings"),
        ("rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast"),
        ("rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow"),
        ("rope.scaling.yarn_attn_factor", "rope_scaling.attention_factor"),
        ("rope.scaling.attn_factor", "rope_scaling.attn_factor"),
        ("rope.scaling.yarn_log_multiplier", "rope_scaling.mscale_all_dim"),
        ("rope.freq_base_swa", "rope_local_base_freq"),
        ("attention.scale", "query_pre_attn_scalar"),
        ("attention.temperature_scale", "rope_parameters.llama_4_scaling_beta"),
        ("attention.temperature_length", "rope_parameters.original_max_position_embeddings"),
        ("attention.key_length_mla", "qk_nope_head_dim"),
        ("expert_weights_scale", "routed_scaling_factor"),
        ("expert_weights_norm", "norm_topk_prob"),
        ("expert_gating_func", "scoring_func"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("ssm.inner_size", "linear_value_head_dim"),
        ("attention.recurrent_layers", "layer_types"),
    ];
    let qwen4 = qwen4::COUNTS.iter().map(|(ours, published, _)| (*ours, *published)).chain(qwen4::OTHERS);
    counts
        .chain(DELTA_COUNTS)
        .chain(others)
        .chain(qwen4)
        .find(|(ours, _)| *ours == name)
        .map(|(_, published)| published)
}

/// The part of a configuration that describes the text model.
pub(super) fn text_part(object: &Map<String, Value>) -> &Map<String, Value> {
    let [_, _, text] = levels(object);
    text
}

/// The configuration and what is in it, down to that of the text model. Models that speak have another model beside the one that thinks.
pub(super) fn levels(object: &Map<String, Value>) -> [&Map<String, Value>; 3] {
    let thinker = within(object, "thinker_config");
    [object, thinker, within(thinker, "text_config")]
}

fn within<'a>(object: &'a Map<String, Value>, key: &str) -> &'a Map<String, Value> {
    object.get(key).and_then(Value::as_object).unwrap_or(object)
}

/// A configuration on its way to metadata.
struct Config<'a> {
    source: &'a SourceFile,
    text: &'a Map<String, Value>,
    metadata: Metadata,
    /// Our name of the architecture.
    architecture: String,
}

/// The metadata of a model with this `config.json`. What an architecture does not know is an error only where ignoring it
/// would change what the model computes.
pub(super) fn metadata(source: &SourceFile, object: &Map<String, Value>) -> Result<Metadata, FormatError> {
    let text = text_part(object);
    let kind = [text, object].into_iter().find_map(|part| part.get("model_type").and_then(Value::as_str));
    let kind = kind.ok_or_else(|| refused(source, "model_type", "absent", "it names the architecture"))?;
    let base = kind.strip_suffix("_text").unwrap_or(kind);
    let known = ARCHITECTURES.iter().find(|(published, _)| *published == base);
    let architecture = known.map_or(kind, |(_, ours)| ours).to_owned();
    let metadata = Metadata::from_entries(source.path.as_path().into(), Vec::new())?;
    let mut config = Config { source, text, metadata, architecture };
    config.metadata.set("general.architecture", config.architecture.clone());
    if known.is_some() {
        config.sizes(base)?;
        config.layer_kinds()?;
        config.rope(base)?;
        config.family(base)?;
    }
    Ok(config.metadata)
}

impl Config<'_> {
    fn set(&mut self, key: &str, value: impl Into<crate::Value>) {
        self.metadata.set(&format!("{}.{key}", self.architecture), value);
    }

    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.text.get(key).filter(|value| !value.is_null())
    }

    fn count(&self, key: &str) -> Result<Option<u64>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|&number| number <= u64::from(u32::MAX));
        number.map(Some).ok_or_else(|| self.refused(key, "it must be an integer from 0 to 4294967295"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.refused(key, "it must be true or false"))
    }

    fn refused(&self, key: &str, rule: &str) -> FormatError {
        let found = self.get(key).map_or("absent".into(), Value::to_string);
        refused(self.source, key, &found, rule)
    }

    /// `kind`: the `model_type`.
    fn sizes(&mut self, kind: &str) -> Result<(), FormatError> {
        for (ours, published) in COUNTS {
            let found = published.iter().find(|key| self.get(key).is_some());
            if let Some(number) = found.map(|key| self.count(key)).transpose()?.flatten() {
                self.set(ours, number as u32);
            }
        }
        for (ours, published) in DELTA_COUNTS {
            if let Some(number) = self.count(published)? {
                self.set(ours, number as u32);
            }
        }
        let heads = self.count("linear_num_value_heads")?;
        if let (Some(heads), Some(width)) = (heads, self.count("linear_value_head_dim")?) {
            self.set("ssm.inner_size", heads * width);
        }
        let usual = if WITH_LARGER_EPSILON.contains(&kind) { LARGER_EPSILON } else { NORM_EPSILON };
        let epsilon = self.number(self.text, "rms_norm_eps")?.unwrap_or(usual);
        self.set("attention.layer_norm_rms_epsilon", epsilon as f32);
        Ok(())
    }

    /// Whether the architecture has layers whose attention slides over a window.
    fn slides(&self) -> bool {
        matches!(self.architecture.as_str(), "gemma3" | "gpt-oss")
    }

    /// Which layers are others than attention over all positions.
    fn layer_kinds(&mut self) -> Result<(), FormatError> {
        const KEY: &str = "layer_types";
        let Some(value) = self.get(KEY) else { return Ok(()) };
        let (other, ours) = if self.slides() {
            (Some("sliding_attention"), "attention.sliding_window_pattern")
        } else if self.get("linear_num_value_heads").is_some() {
            // A hybrid, since it says what its delta-nets have.
            (Some("linear_attention"), "attention.recurrent_layers")
        } else {
            (None, "")
        };
        let kind = |kind: &Value| match kind.as_str()? {
            "full_attention" => Some(false),
            // What transformers makes of it.
            "indexed_attention" if self.architecture == "qwen4exp" => Some(false),
            kind => (Some(kind) == other).then_some(true),
        };
        let listed = value.as_array().map_or(&[][..], Vec::as_slice);
        let layers = self.count("num_hidden_layers")?.unwrap_or(0);
        if listed.len() as u64 != layers {
            let rule = format!("it must name the kind of each of the {layers} layers of num_hidden_layers");
            return Err(self.refused(KEY, &rule));
        }
        let kinds: Option<Vec<bool>> = listed.iter().map(kind).collect();
        let kinds = kinds.ok_or_else(|| {
            let or = other.map_or(String::new(), |other| format!(" or {other}"));
            self.refused(KEY, &format!("layers of this architecture can be full_attention{or}"))
        })?;
        if other.is_some() {
            self.set(ours, Array::Bool(kinds));
        }
        Ok(())
    }

    fn number(&self, object: &Map<String, Value>, key: &str) -> Result<Option<f64>, FormatError> {
        let Some(value) = object.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| refused(self.source, key, &value.to_string(), "it must be a number"))
    }
}

pub(super) fn refused(source: &SourceFile, key: &str, found: &str, rule: &str) -> FormatError {
    FormatError::Config {
        path: source.path.clone(),
        key: key.to_owned(),
        found: quoted(found),
        rule: rule.to_owned(),
    }
}
