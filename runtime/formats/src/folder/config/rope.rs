//! Rotary positions in a configuration: in `rope_parameters`, or in `rope_scaling` and beside it.

use serde_json::{Map, Value};

use super::{Config, refused};
use crate::error::FormatError;
use crate::keys;
use crate::value::Array;

const ORIGINAL: &str = "original_max_position_embeddings";
/// What queries of Ministral 3 grow by with their position.
const TEMPERATURE: &str = "llama_4_scaling_beta";
/// Bases of Gemma 3's rotary positions where a configuration does not say them.
const GEMMA_BASE: f64 = 1e6;
const GEMMA_LOCAL_BASE: f64 = 1e4;
/// Bases of others where a configuration does not say them.
const BASES: [(&str, f64); 8] = [
    ("gpt_oss", 150_000.0),
    ("mixtral", 1e6),
    ("qwen2_5_omni", 1e6),
    ("qwen2_5_vl", 1e6),
    ("qwen2_vl", 1e6),
    ("qwen3_omni_moe", 1e6),
    ("qwen3_vl", 5e5),
    ("qwen3_vl_moe", 5e5),
];
/// What part of a head is rotated where a configuration does not say it, by how the `model_type` begins; else all of it.
const PARTS: [(&str, f64); 4] =
    [("glm4_moe", 0.5), ("glm4v_moe", 0.5), ("qwen3_next", 0.25), ("qwen3_5", 0.25)];
/// What YaRN's paper found best for the magnitude of queries and keys, for each factor e of the context.
const YARN_GROWTH: f64 = 0.1;
/// Magnitudes whose difference is no more than this part of them are the same.
const SAME_MAGNITUDE: f64 = 1e-4;
/// What may be in a group of YaRN: what is read, here or with positions of other kinds, and what changes nothing.
const YARN_KEYS: [&str; 19] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "mrope_section",
    "mrope_interleaved",
    "factor",
    ORIGINAL,
    "attention_factor",
    "attn_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "finetuned",
    "max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
];

type Group<'a> = Option<&'a Map<String, Value>>;

impl<'a> Config<'a> {
    /// `kind`: the `model_type`.
    pub(super) fn rope(&mut self, kind: &str) -> Result<(), FormatError> {
        let mut group = self.rope_group()?;
        if self.architecture == "gemma3" {
            group = self.local_rope(group)?;
        }
        let number = |key: &str| Ok(self.rope_number(group, key)?.or(self.number(self.text, key)?));
        let own_base = (self.architecture == "gemma3").then_some(GEMMA_BASE);
        let usual = BASES.iter().find(|(of, _)| *of == kind).map(|(_, base)| *base);
        let base = number("rope_theta")?.or(own_base).or(usual);
        let partial = number("partial_rotary_factor")?;
        let usual = PARTS.iter().find(|(of, _)| kind.starts_with(*of)).map(|(_, part)| *part);
        let partial = partial.or(usual.filter(|_| self.architecture != "deepseek2"));
        if let Some(base) = base {
            self.set("rope.freq_base", base as f32);
        }
        if let Some(partial) = partial {
            let hidden = self.count("hidden_size")?.unwrap_or(0);
            let heads = self.count("num_attention_heads")?.filter(|&heads| heads > 0).unwrap_or(1);
            let key = if self.architecture == "deepseek2" { "qk_rope_head_dim" } else { "head_dim" };
            let width = self.count(key)?.unwrap_or(hidden / heads);
            self.set("rope.dimension_count", (width as f64 * partial) as u32);
        }
        self.sections(group)?;
        self.scaling(group)?;
        if self.architecture == "mistral3" {
            self.temperature(group)?;
        }
        // A converter would permute query and key rows so that pairs become neighbours.
        if matches!(self.architecture.as_str(), "llama" | "mistral3") {
            self.set(keys::ROPE_HALVES, true);
        }
        // A converter would tile the value heads of these over the key heads.
        if self.architecture.starts_with("qwen35") || self.architecture == "qwen4exp" {
            self.set(keys::GROUPED_VALUE_HEADS, true);
        }
        Ok(())
    }

    fn rope_group(&self) -> Result<Group<'a>, FormatError> {
        let text: &'a Map<String, Value> = self.text;
        let key = ["rope_parameters", "rope_scaling"].into_iter().find(|key| self.get(key).is_some());
        let Some(key) = key else { return Ok(None) };
        let group = text.get(key).and_then(Value::as_object);
        group.map(Some).ok_or_else(|| self.refused(key, "it must be an object"))
    }

    fn rope_number(&self, group: Group<'_>, key: &str) -> Result<Option<f64>, FormatError> {
        group.map_or(Ok(None), |group| self.number(group, key))
    }

    /// Reads the rotary positions of layers that slide, and gives the group of the others: configurations have both in one
    /// object, each under the name of its layers, or those of the others alone.
    fn local_rope(&mut self, group: Group<'a>) -> Result<Group<'a>, FormatError> {
        let of = |layers: &str| group?.get(layers)?.as_object();
        let local = of("sliding_attention");
        if let Some(scaling) = local.and_then(|local| scaling_of(local)).filter(|name| *name != "default") {
            let rule = "positions within a window are not stretched here";
            return Err(refused(self.source, "rope_parameters.sliding_attention.rope_type", scaling, rule));
        }
        let base = self.rope_number(local, "rope_theta")?;
        let base = base.or(self.number(self.text, "rope_local_base_freq")?).unwrap_or(GEMMA_LOCAL_BASE);
        self.set("rope.freq_base_swa", base as f32);
        Ok(of("full_attention").or(group))
    }

    fn sections(&mut self, group: Group<'_>) -> Result<(), FormatError> {
        const KEY: &str = "mrope_section";
        let value = group.and_then(|group| group.get(KEY)).filter(|value| !value.is_null());
        let Some(value) = value else { return Ok(()) };
        let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
        let sections: Option<Vec<u32>> = value.as_array().and_then(|list| list.iter().map(count).collect());
        let sections =
            sections.ok_or_else(|| refused(self.source, KEY, &value.to_string(), "it must list counts"))?;
        self.set("rope.dimension_sections", Array::U32(sections));
        Ok(())
    }

    /// What queries grow by with their position, and after how many positions.
    fn temperature(&mut self, group: Group<'_>) -> Result<(), FormatError> {
        let absent = |key: &str| refused(self.source, key, "absent", "the architecture needs it");
        let rate = self.rope_number(group, TEMPERATURE)?.ok_or_else(|| absent(TEMPERATURE))?;
        let length = group.map_or(Ok(None), |group| self.original_context(group))?;
        let length = length.ok_or_else(|| absent(ORIGINAL))?;
        self.set("attention.temperature_scale", rate as f32);
        self.set("attention.temperature_length", length);
        Ok(())
    }

    /// Positions of the training where these are stretched.
    fn original_context(&self, group: &Map<String, Value>) -> Result<Option<u32>, FormatError> {
        let Some(original) = self.number(group, ORIGINAL)? else { return Ok(None) };
        if (1.0..=f64::from(u32::MAX)).contains(&original) && original.fract() == 0.0 {
            return Ok(Some(original as u32));
        }
        Err(refused(self.source, ORIGINAL, &original.to_string(), "it must be a number of positions"))
    }

    /// How positions are stretched over a longer context.
    fn scaling(&mut self, group: Group<'_>) -> Result<(), FormatError> {
        let Some(group) = group else { return Ok(()) };
        let told = ["rope_type", "type"].into_iter().find_map(|key| Some((key, group.get(key)?)));
        if let Some((key, value)) = told.filter(|(_, value)| !value.is_string() && !value.is_null()) {
            return Err(refused(self.source, key, &value.to_string(), "it must be a name"));
        }
        for layers in ["full_attention", "sliding_attention"] {
            if let Some(value) = group.get(layers).filter(|value| value.is_object()) {
                let rule = "rotary positions by kinds of layers are read for gemma3 only";
                return Err(refused(self.source, layers, &value.to_string(), rule));
            }
        }
        let Some(name) = scaling_of(group) else {
            let factor = group.get("factor").filter(|factor| !factor.is_null());
            let untold = |factor: &Value| {
                refused(self.source, "factor", &factor.to_string(), "there is no rope_type that says of what")
            };
            return factor.map_or(Ok(()), |factor| Err(untold(factor)));
        };
        if matches!(name, "default" | "mrope") {
            return Ok(());
        }
        self.set("rope.scaling.type", name);
        let original = self.original_context(group)?;
        if let Some(original) = original {
            self.set("rope.scaling.original_context_length", original);
        }
        let mut factor = self.number(group, "factor")?;
        if name == "yarn" {
            // As transformers does it where the factor is left open.
            let longest = self.count("max_position_embeddings")?.map(|longest| longest as f64);
            let stretch = longest.zip(original).map(|(longest, original)| longest / f64::from(original));
            factor = factor.or(stretch);
            self.yarn(group, factor.unwrap_or(1.0))?;
        }
        if name == "linear" && factor.is_none() {
            return Err(refused(self.source, "factor", "absent", "rope_type linear needs it"));
        }
        if let Some(factor) = factor {
            self.set("rope.scaling.factor", factor as f32);
        }
        for (ours, published) in [
            ("low_freq_factor", "low_freq_factor"),
            ("high_freq_factor", "high_freq_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ] {
            if let Some(figure) = self.number(group, published)? {
                self.set(&format!("rope.scaling.{ours}"), figure as f32);
            }
        }
        Ok(())
    }

    fn yarn(&mut self, group: &Map<String, Value>, factor: f64) -> Result<(), FormatError> {
        let tempered = self.architecture == "mistral3";
        let known = |key: &str| YARN_KEYS.contains(&key) || tempered && key == TEMPERATURE;
        let unknown = |(key, value): &(&String, &Value)| !value.is_null() && !known(key.as_str());
        if let Some((key, value)) = group.iter().find(unknown) {
            return Err(refused(
                self.source,
                key,
                &value.to_string(),
                "it is not known of rope_type yarn here",
            ));
        }
        let whole_pairs = match group.get("truncate").filter(|value| !value.is_null()) {
            None => true,
            Some(value) => value.as_bool().ok_or_else(|| {
                refused(self.source, "truncate", &value.to_string(), "it must be true or false")
            })?,
        };
        self.set(keys::YARN_WHOLE_PAIRS, whole_pairs);
        let growth = |rate: f64| 1.0 + YARN_GROWTH * rate * factor.max(1.0).ln();
        let figure = |key: &str| Ok(self.number(group, key)?.filter(|&figure| figure != 0.0));
        let (stated, own, all) = (figure("attention_factor")?, figure("mscale")?, figure("mscale_all_dim")?);
        // transformers does not read it, vLLM multiplies by it, as llama.cpp does by a file's.
        let more = self.number(group, "attn_factor")?.unwrap_or(1.0);
        if let Some(all) = all.filter(|_| self.architecture == "deepseek2") {
            if stated.is_some() || more != 1.0 || own != Some(all) {
                let rule =
                    "with it mscale must be equal to it, and no attention_factor or attn_factor may be there";
                return Err(refused(self.source, "mscale_all_dim", &all.to_string(), rule));
            }
            self.set("rope.scaling.yarn_log_multiplier", (YARN_GROWTH * all) as f32);
            return Ok(());
        }
        if let Some(whole) = stated.filter(|_| more != 1.0) {
            let told = more * growth(1.0);
            if (whole - told).abs() > SAME_MAGNITUDE * whole.abs() {
                let rule = format!("attention_factor is {whole}, and with this it would be {told}");
                return Err(refused(self.source, "attn_factor", &more.to_string(), &rule));
            }
        } else if more != 1.0 {
            self.set("rope.scaling.attn_factor", more as f32);
        }
        // It stands for the factor of the context and the growth that YaRN's paper found, where it stands.
        let whole = stated.or(own.zip(all).map(|(own, all)| growth(own) / growth(all)));
        if let Some(whole) = whole {
            self.set("rope.scaling.yarn_attn_factor", (whole / growth(1.0)) as f32);
        }
        Ok(())
    }
}

/// The name of the way in which positions are stretched.
fn scaling_of(group: &Map<String, Value>) -> Option<&str> {
    ["rope_type", "type"].into_iter().find_map(|key| group.get(key).and_then(Value::as_str))
}
