//! Hybrid checkpoints of random numbers, as they are published: value heads grouped, norms around zero, decays as logarithms.

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use serde_json::{Value, json};

use membrane_tests::published::{Tensor, write_weights};

const HIDDEN: usize = 64;
const LAYERS: usize = 4;
const VOCABULARY: usize = 96;
const HEAD: usize = 16;
const KEY_HEADS: usize = 2;
const VALUE_HEADS: usize = 6;
const EXPERTS: usize = 6;
const INNER: usize = 32;

/// Kinds of hybrids: `model_type`, and our name of the architecture.
pub const KINDS: [(&str, &str); 3] =
    [("qwen3_next", "qwen3next"), ("qwen3_5", "qwen35"), ("qwen3_5_moe", "qwen35moe")];

struct Maker {
    state: u64,
    prefix: &'static str,
    tensors: BTreeMap<String, Tensor>,
}

/// Writes the checkpoint of a kind into a folder; the layer with this number has attention, the others are delta-nets.
pub fn write(kind: &str, attention: usize, folder: &Path) {
    let prefix = if kind == "qwen3_next" { "model." } else { "model.language_model." };
    let mut maker = Maker { state: 0x9E37_79B9_7F4A_7C15, prefix, tensors: BTreeMap::new() };
    maker.all(kind, attention);
    std::fs::write(folder.join("config.json"), config(kind, attention).to_string()).unwrap();
    write_weights(&folder.join("model.safetensors"), &maker.tensors, |_| true);
}

fn config(kind: &str, attention: usize) -> Value {
    let rope = json!({"rope_theta": 1e7, "partial_rotary_factor": 0.5, "rope_type": "default"});
    let mut text = json!({
        "model_type": kind, "hidden_act": "silu", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD, "rms_norm_eps": 1e-6,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": HEAD,
        "linear_num_key_heads": KEY_HEADS, "linear_num_value_heads": VALUE_HEADS, "linear_value_head_dim": HEAD,
        "intermediate_size": INNER, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
        "tie_word_embeddings": false,
    });
    if attention + 1 == LAYERS {
        text["full_attention_interval"] = LAYERS.into();
    } else {
        let layer = |layer| if layer == attention { "full_attention" } else { "linear_attention" };
        text["layer_types"] = (0..LAYERS).map(layer).collect();
    }
    if kind != "qwen3_5" {
        text["num_experts"] = EXPERTS.into();
        text["num_experts_per_tok"] = 2.into();
        text["moe_intermediate_size"] = INNER.into();
        text["shared_expert_intermediate_size"] = INNER.into();
    }
    if kind == "qwen3_next" {
        text["rope_theta"] = 1e7.into();
        text["partial_rotary_factor"] = 0.5.into();
        return text;
    }
    text["rope_parameters"] = rope;
    json!({"model_type": kind, "text_config": text, "vision_config": {"depth": 1}})
}

impl Maker {
    fn number(&mut self) -> f32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn add(&mut self, name: String, shape: &[usize], limit: f32) {
        let count = shape.iter().product();
        let bytes = (0..count).flat_map(|_| bf16::from_f32(self.number() * limit).to_le_bytes()).collect();
        self.tensors.insert(name, Tensor { dtype: Dtype::BF16, shape: shape.to_vec(), bytes });
    }

    fn all(&mut self, kind: &str, attention: usize) {
        let prefix = self.prefix;
        self.add(format!("{prefix}embed_tokens.weight"), &[VOCABULARY, HIDDEN], 1.0);
        self.add("lm_head.weight".into(), &[VOCABULARY, HIDDEN], 0.3);
        self.add(format!("{prefix}norm.weight"), &[HIDDEN], 0.3);
        if kind != "qwen3_next" {
            self.add("model.visual.patch_embed.proj.weight".into(), &[2, 3, 2, 4, 4], 1.0);
        }
        for layer in 0..LAYERS {
            let to = format!("{prefix}layers.{layer}.");
            self.add(format!("{to}input_layernorm.weight"), &[HIDDEN], 0.3);
            self.add(format!("{to}post_attention_layernorm.weight"), &[HIDDEN], 0.3);
            if layer == attention {
                self.attention(&to)
            } else {
                self.delta_net(&to, kind == "qwen3_next")
            }
            match kind {
                "qwen3_5" => self.unit(&format!("{to}mlp.")),
                "qwen3_next" => self.experts(&to, false),
                _ => self.experts(&to, true),
            }
        }
    }

    fn attention(&mut self, to: &str) {
        for (part, rows, cols) in [
            ("q", 8 * HEAD, HIDDEN),
            ("k", 2 * HEAD, HIDDEN),
            ("v", 2 * HEAD, HIDDEN),
            ("o", HIDDEN, 4 * HEAD),
        ] {
            self.add(format!("{to}self_attn.{part}_proj.weight"), &[rows, cols], 0.3);
        }
        for part in ["q", "k"] {
            self.add(format!("{to}self_attn.{part}_norm.weight"), &[HEAD], 0.3);
        }
    }

    fn delta_net(&mut self, to: &str, fused: bool) {
        let to = format!("{to}linear_attn.");
        let (channels, values) = ((2 * KEY_HEADS + VALUE_HEADS) * HEAD, VALUE_HEADS * HEAD);
        let matrices: &[(&str, usize)] = match fused {
            true => &[("in_proj_qkvz", channels + values), ("in_proj_ba", 2 * VALUE_HEADS)],
            false => &[
                ("in_proj_qkv", channels),
                ("in_proj_z", values),
                ("in_proj_a", VALUE_HEADS),
                ("in_proj_b", VALUE_HEADS),
            ],
        };
        for (part, rows) in matrices {
            self.add(format!("{to}{part}.weight"), &[*rows, HIDDEN], 0.3);
        }
        self.add(format!("{to}conv1d.weight"), &[channels, 1, 4], 0.5);
        self.add(format!("{to}A_log"), &[VALUE_HEADS], 1.0);
        self.add(format!("{to}dt_bias"), &[VALUE_HEADS], 1.0);
        self.add(format!("{to}norm.weight"), &[HEAD], 1.0);
        self.add(format!("{to}out_proj.weight"), &[HIDDEN, values], 0.3);
    }

    fn unit(&mut self, to: &str) {
        for (part, rows, cols) in [("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)] {
            self.add(format!("{to}{part}_proj.weight"), &[rows, cols], 0.3);
        }
    }

    fn experts(&mut self, to: &str, fused: bool) {
        self.add(format!("{to}mlp.gate.weight"), &[EXPERTS, HIDDEN], 0.3);
        self.add(format!("{to}mlp.shared_expert_gate.weight"), &[1, HIDDEN], 0.3);
        self.unit(&format!("{to}mlp.shared_expert."));
        if fused {
            self.add(format!("{to}mlp.experts.gate_up_proj"), &[EXPERTS, 2 * INNER, HIDDEN], 0.3);
            self.add(format!("{to}mlp.experts.down_proj"), &[EXPERTS, HIDDEN, INNER], 0.3);
        } else {
            (0..EXPERTS).for_each(|expert| self.unit(&format!("{to}mlp.experts.{expert}.")));
        }
    }
}
