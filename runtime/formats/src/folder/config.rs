//! `config.json`: what a GGUF file of the model would have as metadata.

use serde_json::{Map, Value};

use crate::error::{FormatError, quoted};
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::value::Array;

/// Names of architectures: `model_type`, and ours.
const ARCHITECTURES: [(&str, &str); 10] = [
    ("llama", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen2_moe", "qwen2moe"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
    ("qwen3_next", "qwen3next"),
    ("qwen3_5", "qwen35"),
    ("qwen3_5_text", "qwen35"),
    ("qwen3_5_moe", "qwen35moe"),
];

/// Whether an architecture, by our name, is one whose configurations are read here.
pub(super) fn is_known(architecture: &str) -> bool {
    ARCHITECTURES.iter().any(|(_, ours)| *ours == architecture)
}

/// Integers that only have another name: ours without the architecture, and the published ones of which a model has one.
const COUNTS: [(&str, &[&str]); 15] = [
    ("block_count", &["num_hidden_layers"]),
    ("embedding_length", &["hidden_size"]),
    ("feed_forward_length", &["intermediate_size"]),
    ("attention.head_count", &["num_attention_heads"]),
    ("attention.head_count_kv", &["num_key_value_heads"]),
    ("attention.key_length", &["head_dim"]),
    ("attention.value_length", &["head_dim"]),
    ("context_length", &["max_position_embeddings"]),
    ("vocab_size", &["vocab_size"]),
    ("expert_count", &["num_experts", "num_local_experts"]),
    ("expert_used_count", &["num_experts_per_tok"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
    ("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"]),
    ("full_attention_interval", &["full_attention_interval"]),
    ("ssm.conv_kernel", &["linear_conv_kernel_dim"]),
];
/// What norms have where a configuration does not say it.
const NORM_EPSILON: f64 = 1e-6;
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
        ("rope.dimension_count", "partial_rotary_factor"),
        ("rope.dimension_sections", "rope_parameters.mrope_section"),
        ("rope.scaling.type", "rope_scaling.rope_type"),
        ("rope.scaling.factor", "rope_scaling.factor"),
        ("ssm.inner_size", "linear_value_head_dim"),
        ("attention.recurrent_layers", "layer_types"),
    ];
    counts.chain(DELTA_COUNTS).chain(others).find(|(ours, _)| *ours == name).map(|(_, published)| published)
}

/// The part of a configuration that describes the text model.
pub(super) fn text_part(object: &Map<String, Value>) -> &Map<String, Value> {
    object.get("text_config").and_then(Value::as_object).unwrap_or(object)
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
    let base = kind.strip_suffix("_text").filter(|base| *base == "qwen3_5_moe").unwrap_or(kind);
    let known = ARCHITECTURES.iter().find(|(published, _)| *published == base);
    let architecture = known.map_or(kind, |(_, ours)| ours).to_owned();
    let metadata = Metadata::from_entries(source.path.as_path().into(), Vec::new())?;
    let mut config = Config { source, text, metadata, architecture };
    config.metadata.set("general.architecture", config.architecture.clone());
    if known.is_some() {
        config.sizes()?;
        config.rope(kind)?;
        config.refuse_variants(kind)?;
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

    fn sizes(&mut self) -> Result<(), FormatError> {
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
        let epsilon = self.number(self.text, "rms_norm_eps")?.unwrap_or(NORM_EPSILON);
        self.set("attention.layer_norm_rms_epsilon", epsilon as f32);
        if let Some(value) = self.get("layer_types") {
            let kinds = value.as_array().map(|kinds| {
                kinds.iter().map(|kind| match kind.as_str()? {
                    "linear_attention" => Some(true),
                    "full_attention" => Some(false),
                    _ => None,
                })
            });
            let kinds: Option<Vec<bool>> = kinds.and_then(Iterator::collect);
            let rule = "layers can be full_attention or linear_attention";
            let kinds = kinds.ok_or_else(|| self.refused("layer_types", rule))?;
            if kinds.contains(&true) {
                self.set("attention.recurrent_layers", Array::Bool(kinds));
            }
        }
        Ok(())
    }

    /// Rotary positions: in `rope_parameters`, or in `rope_scaling` and beside it.
    fn rope(&mut self, kind: &str) -> Result<(), FormatError> {
        let group = ["rope_parameters", "rope_scaling"].into_iter().find(|key| self.get(key).is_some());
        let empty = Map::new();
        let nested = match group {
            None => &empty,
            Some(key) => self
                .text
                .get(key)
                .and_then(Value::as_object)
                .ok_or_else(|| self.refused(key, "it must be an object"))?,
        };
        let number = |key: &str| -> Result<Option<f64>, FormatError> {
            Ok(self.number(nested, key)?.or(self.number(self.text, key)?))
        };
        let (base, partial) = (number("rope_theta")?, number("partial_rotary_factor")?);
        let partial =
            partial.or((matches!(kind, "qwen3_next") || kind.starts_with("qwen3_5")).then_some(0.25));
        let name = ["rope_type", "type"].into_iter().find_map(|key| nested.get(key).and_then(Value::as_str));
        let scaling = name.unwrap_or("default").to_owned();
        let figures: Vec<(&str, Option<f64>)> = [
            ("factor", "factor"),
            ("low_freq_factor", "low_freq_factor"),
            ("high_freq_factor", "high_freq_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ]
        .into_iter()
        .map(|(ours, published)| Ok((ours, self.number(nested, published)?)))
        .collect::<Result<_, FormatError>>()?;
        const ORIGINAL: &str = "original_max_position_embeddings";
        let original = self.number(nested, ORIGINAL)?;
        // It stands for the factor of the context and the growth that YaRN's paper found, where it stands.
        let attention = self.number(nested, "attention_factor")?;
        let attention = attention.zip(figures[0].1).map(|(whole, factor)| whole / (1.0 + 0.1 * factor.ln()));
        let sections = nested.get("mrope_section").filter(|value| !value.is_null()).map(|value| {
            let sections = value.as_array().and_then(|sections| {
                sections.iter().map(|s| s.as_u64().and_then(|s| u32::try_from(s).ok())).collect()
            });
            sections.ok_or_else(|| {
                refused(self.source, "mrope_section", &value.to_string(), "it must list counts")
            })
        });
        let sections: Option<Vec<u32>> = sections.transpose()?;
        if let Some(base) = base {
            self.set("rope.freq_base", base as f32);
        }
        if let Some(partial) = partial {
            let hidden = self.count("hidden_size")?.unwrap_or(0);
            let heads = self.count("num_attention_heads")?.filter(|&heads| heads > 0).unwrap_or(1);
            let width = self.count("head_dim")?.unwrap_or(hidden / heads);
            self.set("rope.dimension_count", (width as f64 * partial) as u32);
        }
        if let Some(sections) = sections {
            self.set("rope.dimension_sections", Array::U32(sections));
        }
        if scaling != "default" && scaling != "mrope" {
            if let Some(original) = original {
                let whole = (1.0..=f64::from(u32::MAX)).contains(&original) && original.fract() == 0.0;
                if !whole {
                    return Err(self.refused(ORIGINAL, "it must be a number of positions"));
                }
                self.set("rope.scaling.original_context_length", original as u32);
            }
            if let Some(attention) = attention.filter(|_| scaling == "yarn") {
                self.set("rope.scaling.yarn_attn_factor", attention as f32);
            }
            self.set("rope.scaling.type", scaling);
            for (key, value) in figures {
                if let Some(value) = value {
                    self.set(&format!("rope.scaling.{key}"), value as f32);
                }
            }
        }
        // A converter would permute query and key rows so that pairs become neighbours.
        if self.architecture == "llama" {
            self.set(crate::keys::ROPE_HALVES, true);
        }
        // A converter would tile the value heads of these over the key heads.
        if self.architecture.starts_with("qwen35") {
            self.set(crate::keys::GROUPED_VALUE_HEADS, true);
        }
        Ok(())
    }

    fn number(&self, object: &Map<String, Value>, key: &str) -> Result<Option<f64>, FormatError> {
        let Some(value) = object.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| refused(self.source, key, &value.to_string(), "it must be a number"))
    }

    /// Refuses what these architectures are not computed with here.
    fn refuse_variants(&mut self, kind: &str) -> Result<(), FormatError> {
        if let Some(name) = self.get("hidden_act")
            && name.as_str() != Some("silu")
        {
            return Err(self.refused("hidden_act", "only \"silu\" is computed here"));
        }
        let slides = self.flag("use_sliding_window")?.unwrap_or(kind == "mixtral");
        if slides && self.get("sliding_window").is_some() {
            return Err(self.refused("sliding_window", "attention over a window is not computed here"));
        }
        if self.count("decoder_sparse_step")?.is_some_and(|step| step != 1) {
            return Err(self.refused("decoder_sparse_step", "only a mixture in every layer is computed here"));
        }
        let dense =
            self.get("mlp_only_layers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if dense && self.get("num_experts").is_some() {
            return Err(self.refused("mlp_only_layers", "only a mixture in every layer is computed here"));
        }
        if self.flag("attn_output_gate")? == Some(false) {
            return Err(self.refused("attn_output_gate", "only gated attention is computed here"));
        }
        // Where the configuration is silent, transformers does not normalise for these.
        let silent = matches!(kind, "qwen2_moe" | "qwen3_moe").then_some(false);
        if let Some(normalise) = self.flag("norm_topk_prob")?.or(silent) {
            self.set("expert_weights_norm", normalise);
        }
        Ok(())
    }
}

fn refused(source: &SourceFile, key: &str, found: &str, rule: &str) -> FormatError {
    FormatError::Config {
        path: source.path.clone(),
        key: key.to_owned(),
        found: quoted(found),
        rule: rule.to_owned(),
    }
}
