//! Folders made of the generated GGUF files, as their families publish models: what a converter does is done backwards.

use std::collections::BTreeMap;
use std::path::Path;

use membrane_formats::Checkpoint;
use membrane_kernels::Format;
use membrane_kernels::quant::dequantise_row;
use membrane_tests::published::{Tensor, fp8, write_weights};
use membrane_tests::tiny;
use serde_json::{Value, json};

use super::qwen4exp;

/// Rows of a head of the generated DeepSeek: keys that are not rotated, then values.
const HEAD_ROWS: [usize; 2] = [32, 32];

/// A model on its way into a folder.
#[derive(Clone)]
pub struct Folder {
    pub config: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

/// A tensor of a GGUF file: dimensions, the contiguous one last, and elements.
pub struct Floats {
    pub shape: Vec<usize>,
    pub elements: Vec<f32>,
    /// A vector in single precision.
    plain: bool,
}

impl Floats {
    /// Their 8-bit integers times a power of two are exact in bfloat16.
    pub fn publish(&self) -> Tensor {
        let of = if self.plain { Tensor::f32 } else { Tensor::bf16 };
        of(&self.shape, &self.elements)
    }
}

fn read(gguf: &Path) -> BTreeMap<String, Floats> {
    let checkpoint = Checkpoint::open(gguf).unwrap();
    let floats = |info: &membrane_formats::TensorInfo| {
        let mut bytes = vec![0; info.bytes as usize];
        checkpoint.read(info, 0, &mut bytes).unwrap();
        let format = Format::from_name(info.dtype.name()).unwrap();
        let shape: Vec<usize> = info.shape.dims().iter().rev().map(|&dim| dim as usize).collect();
        let mut elements = vec![0.0; shape.iter().product()];
        dequantise_row(format, &bytes, &mut elements);
        (info.name.clone(), Floats { shape, elements, plain: format == Format::F32 })
    };
    checkpoint.tensors().iter().map(floats).collect()
}

impl Folder {
    /// The generated model of an architecture, which is written to `gguf`.
    pub fn of(architecture: &str, gguf: &Path) -> Self {
        tiny::write(architecture, gguf);
        Self::published(architecture, gguf)
    }

    /// A generated model that is there.
    pub fn published(architecture: &str, gguf: &Path) -> Self {
        let mut read = read(gguf);
        let mut folder = Self { config: config(architecture), tensors: BTreeMap::new() };
        match architecture {
            "deepseek2" => folder.deepseek(&mut read),
            "glm4moe" => folder.experts(&mut read),
            "gpt-oss" => folder.gpt_oss(&mut read),
            "qwen4exp" => qwen4exp::publish(&mut folder, &mut read),
            _ => {
                let norms = read.iter_mut().filter(|(name, _)| name.ends_with("norm.weight"));
                norms.for_each(|(_, norm)| norm.elements.iter_mut().for_each(|weight| *weight -= 1.0));
            }
        }
        for (name, floats) in read {
            folder.tensors.insert(published(architecture, &name), floats.publish());
        }
        folder
    }

    fn deepseek(&mut self, read: &mut BTreeMap<String, Floats>) {
        for block in 0..3 {
            let mut take = |part: &str| read.remove(&format!("blk.{block}.{part}.weight")).unwrap();
            let (keys, values) = (take("attn_k_b"), take("attn_v_b"));
            let [heads, rank] = [keys.shape[0], keys.shape[1]];
            let [plain, value] = HEAD_ROWS;
            let element = |head: usize, row: usize, col: usize| match row.checked_sub(plain) {
                None => keys.elements[(head * rank + col) * plain + row],
                Some(row) => values.elements[(head * value + row) * rank + col],
            };
            let rows = (0..heads).flat_map(|head| (0..plain + value).map(move |row| (head, row)));
            let floats: Vec<f32> = rows
                .flat_map(|(head, row)| (0..rank).map(move |col| (head, row, col)))
                .map(|(head, row, col)| element(head, row, col))
                .collect();
            let name = format!("model.layers.{block}.self_attn.kv_b_proj.weight");
            self.tensors.insert(name, Tensor::bf16(&[heads * (plain + value), rank], &floats));
        }
        self.experts(read);
    }

    /// Experts one by one.
    fn experts(&mut self, read: &mut BTreeMap<String, Floats>) {
        for block in 0..3 {
            for matrix in ["gate", "up", "down"] {
                let Some(all) = read.remove(&format!("blk.{block}.ffn_{matrix}_exps.weight")) else {
                    continue;
                };
                let size = all.elements.len() / all.shape[0];
                for (expert, floats) in all.elements.chunks(size).enumerate() {
                    let name = format!("model.layers.{block}.mlp.experts.{expert}.{matrix}_proj.weight");
                    self.tensors.insert(name, Tensor::bf16(&all.shape[1..], floats));
                }
            }
        }
    }

    fn gpt_oss(&mut self, read: &mut BTreeMap<String, Floats>) {
        for block in 0..3 {
            let mut take = |part: &str| read.remove(&format!("blk.{block}.ffn_{part}")).unwrap();
            let prefix = format!("model.layers.{block}.mlp.experts.");
            let (gate, up, down) =
                (take("gate_exps.weight"), take("up_exps.weight"), take("down_exps.weight"));
            let [experts, inner, hidden] = [gate.shape[0], gate.shape[1], gate.shape[2]];
            let turns: Vec<f32> = (0..experts * hidden * 2 * inner)
                .map(|index| {
                    let (expert, rest) = (index / (hidden * 2 * inner), index % (hidden * 2 * inner));
                    let (input, output) = (rest / (2 * inner), rest % (2 * inner));
                    let matrix = [&gate, &up][output % 2];
                    matrix.elements[(expert * inner + output / 2) * hidden + input]
                })
                .collect();
            let tensor = Tensor::bf16(&[experts, hidden, 2 * inner], &turns);
            self.tensors.insert(format!("{prefix}gate_up_proj"), tensor);
            let floats = transposed(&down.elements, hidden, inner);
            self.tensors
                .insert(format!("{prefix}down_proj"), Tensor::bf16(&[experts, inner, hidden], &floats));
            let (gate, up) = (take("gate_exps.bias"), take("up_exps.bias"));
            let turns: Vec<f32> =
                gate.elements.iter().zip(&up.elements).flat_map(|(gate, up)| [*gate, *up]).collect();
            self.tensors
                .insert(format!("{prefix}gate_up_proj_bias"), Tensor::f32(&[experts, 2 * inner], &turns));
        }
    }

    /// The experts of gpt-oss in MXFP4, and a twin with the floats that they stand for.
    pub fn mxfp4(&self) -> (Self, Self) {
        let (mut quantised, mut twin) = (self.clone(), self.clone());
        for (name, tensor) in &self.tensors {
            if !name.ends_with("_proj") {
                continue;
            }
            let &[experts, inputs, outputs] = &tensor.shape[..] else { panic!("{name}") };
            let rows = transposed(&tensor.floats(), inputs, outputs);
            let (nibbles, scales, meaning) = float4(&rows);
            quantised.tensors.remove(name);
            let blocks = Tensor::u8(&[experts, outputs, inputs / 32, 16], nibbles);
            quantised.tensors.insert(format!("{name}_blocks"), blocks);
            let scales = Tensor::u8(&[experts, outputs, inputs / 32], scales);
            quantised.tensors.insert(format!("{name}_scales"), scales);
            let meaning = transposed(&meaning, outputs, inputs);
            twin.tensors.insert(name.clone(), Tensor::bf16(&tensor.shape, &meaning));
        }
        quantised.config["quantization_config"] = json!({"quant_method": "mxfp4"});
        (quantised, twin)
    }

    /// The matrices of attention and feed-forwards of DeepSeek in FP8, and a twin with the floats that they stand for.
    pub fn fp8(&self, block: [usize; 2]) -> (Self, Self) {
        let (mut quantised, mut twin) = (self.clone(), self.clone());
        for (name, tensor) in &self.tensors {
            let (Some(base), &[rows, cols]) = (name.strip_suffix(".weight"), &tensor.shape[..]) else {
                continue;
            };
            if !name.contains("_proj") {
                continue;
            }
            let (parts, meaning) = fp8(&tensor.floats(), rows, cols, block);
            for (part, tensor) in parts {
                quantised.tensors.insert(format!("{base}.{part}"), tensor);
            }
            twin.tensors.insert(name.clone(), Tensor::f32(&[rows, cols], &meaning));
        }
        quantised.config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": block});
        (quantised, twin)
    }

    /// The same with a scale for 32 columns of a row, as compressed-tensors has it.
    pub fn fp8_in_groups(&self) -> (Self, Self) {
        let (mut quantised, twin) = self.fp8([1, 32]);
        let plain = |name: String| name.replace("weight_scale_inv", "weight_scale");
        let tensors = std::mem::take(&mut quantised.tensors);
        quantised.tensors = tensors.into_iter().map(|(name, tensor)| (plain(name), tensor)).collect();
        quantised.config["quantization_config"] = json!({
            "quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {
                "type": "float", "num_bits": 8, "strategy": "group", "group_size": 32, "symmetric": true,
            }}},
        });
        (quantised, twin)
    }

    /// What makes keys and values of DeepSeek's latent vectors in integers of 8 bits, as compressed-tensors has them, and a twin with the
    /// floats that they stand for.
    pub fn int8(&self) -> (Self, Self) {
        const SCALE: f32 = 1.0 / 512.0;
        let (mut quantised, mut twin) = (self.clone(), self.clone());
        for (name, tensor) in &self.tensors {
            let Some(base) = name.strip_suffix(".weight").filter(|base| base.ends_with("kv_b_proj")) else {
                continue;
            };
            let integers: Vec<i8> = tensor.floats().iter().map(|x| (x / SCALE).round() as i8).collect();
            let bytes = integers.iter().map(|x| x.cast_unsigned()).collect();
            let stored = Tensor { dtype: safetensors::Dtype::I8, ..Tensor::u8(&tensor.shape, bytes) };
            quantised.tensors.insert(name.clone(), stored);
            let scales = Tensor::bf16(&[tensor.shape[0], 1], &vec![SCALE; tensor.shape[0]]);
            quantised.tensors.insert(format!("{base}.weight_scale"), scales);
            let meaning: Vec<f32> = integers.iter().map(|x| f32::from(*x) * SCALE).collect();
            twin.tensors.insert(name.clone(), Tensor::f32(&tensor.shape, &meaning));
        }
        quantised.config["quantization_config"] = json!({
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": {"group_0": {"weights": {
                "type": "int", "num_bits": 8, "strategy": "channel", "symmetric": true,
            }}},
        });
        (quantised, twin)
    }

    /// The text part of a model that sees, as such are published.
    pub fn in_a_larger_one(&self, prefix: &str) -> Self {
        let name = |name: &String| format!("{prefix}{}", name.strip_prefix("model.").unwrap());
        Self {
            config: json!({"model_type": "gemma3", "text_config": self.config, "vision_config": {}}),
            tensors: self.tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect(),
        }
    }

    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        write_weights(&folder.join("model.safetensors"), &self.tensors, |_| true);
    }
}

/// Matrices [rows, cols], one after the other, each transposed.
fn transposed(floats: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let turned = |matrix: &[f32]| -> Vec<f32> {
        (0..rows * cols).map(|index| matrix[index % rows * cols + index / rows]).collect()
    };
    floats.chunks(rows * cols).flat_map(turned).collect()
}

/// Nibbles, scales and what they stand for, of rows whose elements share a power of two by 32.
fn float4(rows: &[f32]) -> (Vec<u8>, Vec<u8>, Vec<f32>) {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let value = |code: u8| MAGNITUDES[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 };
    let (mut codes, mut scales, mut meaning) = (Vec::new(), Vec::new(), Vec::new());
    for block in rows.chunks(32) {
        let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let exponent = (largest / 6.0).max(1e-9).log2().ceil() as i32;
        scales.push((exponent + 127) as u8);
        for x in block {
            let x = x / 2f32.powi(exponent);
            let near = |&a: &u8, &b: &u8| (value(a) - x).abs().total_cmp(&(value(b) - x).abs());
            let code = (0..16).min_by(near).unwrap();
            codes.push(code);
            meaning.push(value(code) * 2f32.powi(exponent));
        }
    }
    (codes.chunks(2).map(|two| two[0] | two[1] << 4).collect(), scales, meaning)
}

/// The published name of what a GGUF file calls `name`.
fn published(architecture: &str, name: &str) -> String {
    if architecture == "qwen4exp" {
        return qwen4exp::published(name);
    }
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => {}
    }
    let (block, part) = name.strip_prefix("blk.").unwrap().split_once('.').unwrap();
    let (part, kind) = part.rsplit_once('.').unwrap();
    let gemma = architecture == "gemma3";
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_norm" | "post_attention_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_q_a" => "self_attn.q_a_proj",
        "attn_q_a_norm" => "self_attn.q_a_layernorm",
        "attn_q_b" => "self_attn.q_b_proj",
        "attn_kv_a_mqa" => "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_norm" => "self_attn.kv_a_layernorm",
        "attn_sinks" => return format!("model.layers.{block}.self_attn.sinks"),
        "exp_probs_b" => return format!("model.layers.{block}.mlp.gate.e_score_correction_bias"),
        "ffn_down_exps" => return format!("model.layers.{block}.mlp.experts.down_proj_bias"),
        "ffn_gate_inp" if architecture == "gpt-oss" => "mlp.router",
        "ffn_gate_inp" => "mlp.gate",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_gate_shexp" => "mlp.shared_experts.gate_proj",
        "ffn_up_shexp" => "mlp.shared_experts.up_proj",
        "ffn_down_shexp" => "mlp.shared_experts.down_proj",
        other => panic!("{other} has no published name"),
    };
    format!("model.layers.{block}.{part}.{kind}")
}

/// The configurations of the generated models, with the keys that published ones have.
fn config(architecture: &str) -> Value {
    match architecture {
        "qwen4exp" => qwen4exp::config(),
        "gemma3" => json!({
            "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 40, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "max_position_embeddings": 4096, "attn_logit_softcapping": null, "final_logit_softcapping": null,
            "attention_bias": false, "vocab_size": 1024,
        }),
        "glm4moe" => json!({
            "model_type": "glm4_moe", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "partial_rotary_factor": 0.5, "use_qk_norm": true, "attention_bias": true, "n_group": 1, "topk_group": 1,
            "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "first_k_dense_replace": 1,
            "moe_intermediate_size": 32, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000, "rope_scaling": null,
            "tie_word_embeddings": false, "vocab_size": 1024,
        }),
        "deepseek2" => json!({
            "model_type": "deepseek_v3", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 32,
            "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
            "max_position_embeddings": 2560, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 4,
            "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "topk_group": 2,
            "moe_intermediate_size": 32, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
            "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rms_norm_eps": 1e-6, "rope_theta": 10000,
            "rope_scaling": {
                "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 64,
            },
            "tie_word_embeddings": false, "attention_bias": false, "vocab_size": 1024,
        }),
        _ => json!({
            "model_type": "gpt_oss", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 32,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 24,
            "num_local_experts": 8, "num_experts_per_tok": 2, "attention_bias": true, "swiglu_limit": 7.0,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 150000,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                "original_max_position_embeddings": 64,
            },
            "tie_word_embeddings": false, "vocab_size": 1024,
        }),
    }
}
