//! The generated Qwen3.8-Flash-Next as its family publishes it: value heads grouped by key head, experts and the two parts of an
//! index in one tensor, a table of n-grams in several, and what is hashed by in tensors of integers.

use std::collections::BTreeMap;

use membrane_tests::published::Tensor;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::twins::{Floats, Folder};

const PREFIX: &str = "model.language_model.";
const DIM: usize = 32;
/// Rows of queries and keys in front of the values of a delta-net.
const KEY_ROWS: usize = 2 * 2 * DIM;
const EXPERTS: usize = 8;
const TABLE_PARTS: usize = 4;

/// Four value heads of `unit` elements, from tiled over two key heads to grouped by them.
fn grouped(heads: &[f32], unit: usize) -> Vec<f32> {
    assert_eq!(heads.len(), 4 * unit);
    [0, 2, 1, 3].iter().flat_map(|head| heads[head * unit..][..unit].iter().copied()).collect()
}

pub fn publish(folder: &mut Folder, read: &mut BTreeMap<String, Floats>) {
    for (name, floats) in read.iter_mut() {
        let zero_centred = name.contains("norm") && !name.contains("ssm_norm");
        floats.elements.iter_mut().filter(|_| zero_centred).for_each(|weight| *weight -= 1.0);
        let part = name
            .rsplit_once('.')
            .map_or("", |(rest, _)| rest.rsplit_once('.').map_or(rest, |(_, part)| part));
        let cols = floats.shape.last().copied().unwrap_or(1);
        let x = &mut floats.elements;
        match part {
            "attn_qkv" | "ssm_conv1d" => {
                let values = grouped(&x[KEY_ROWS * cols..], DIM * cols);
                x.truncate(KEY_ROWS * cols);
                x.extend(values);
            }
            "attn_gate" => *x = grouped(x, DIM * cols),
            "ssm_alpha" | "ssm_beta" => *x = grouped(x, cols),
            "ssm_dt" => *x = grouped(x, 1),
            "ssm_out" => *x = x.chunks(cols).flat_map(|row| grouped(row, DIM)).collect(),
            _ if name.ends_with("ssm_a") => {
                *x = grouped(&x.iter().map(|rate| (-rate).ln()).collect::<Vec<_>>(), 1);
            }
            _ => {}
        }
        if part.ends_with("conv1d") {
            floats.shape.insert(1, 1);
        }
    }
    for block in 0..4 {
        let mut take = |part: &str| read.remove(&format!("blk.{block}.{part}.weight")).unwrap();
        let layer = format!("{PREFIX}layers.{block}.");
        let (gate, up, down) = (take("ffn_gate_exps"), take("ffn_up_exps"), take("ffn_down_exps"));
        let size = gate.elements.len() / EXPERTS;
        let both = gate.elements.chunks(size).zip(up.elements.chunks(size));
        let both: Vec<f32> = both.flat_map(|(gate, up)| [gate, up].concat()).collect();
        let shape = [EXPERTS, 2 * gate.shape[1], gate.shape[2]];
        folder.tensors.insert(format!("{layer}mlp.experts.gate_up_proj"), Tensor::bf16(&shape, &both));
        folder.tensors.insert(format!("{layer}mlp.experts.down_proj"), down.publish());
        if block % 2 == 1 {
            let (q, k) = (take("indexer.q_proj"), take("indexer.k_proj"));
            let shape = [q.shape[0] + k.shape[0], q.shape[1]];
            let both = Tensor::bf16(&shape, &[q.elements, k.elements].concat());
            folder.tensors.insert(format!("{layer}self_attn.indexer.index_qk_proj.weight"), both);
        }
    }
    let table = read.remove("per_layer_token_embd.weight").unwrap();
    let ngrams = format!("{PREFIX}layers.2.ple.ple_embedding.");
    let part = table.elements.len() / TABLE_PARTS;
    for (number, rows) in table.elements.chunks(part).enumerate() {
        let rows = Tensor::bf16(&[part / DIM, DIM], rows);
        folder.tensors.insert(format!("{ngrams}ngram_embedding.shard_{number}.weight"), rows);
    }
    for (name, numbers) in [
        ("layer_multipliers", &[4_295_158_889_766_209_i64, 8_433_018_892_997_163, 1_270_917][..]),
        ("ngram_heads_offsets", &[0, 101, 204, 311]),
        ("ngram_heads_vocab_sizes", &[101, 103, 107, 109]),
    ] {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let tensor = Tensor { dtype: Dtype::I64, shape: vec![numbers.len()], bytes };
        folder.tensors.insert(format!("{ngrams}{name}"), tensor);
    }
}

/// The published name of what a GGUF file calls `name`.
pub fn published(name: &str) -> String {
    let connection = |part: &str| match part {
        "norm" => "hc_norm".to_owned(),
        "inject" => "block_inject_weight".to_owned(),
        part => format!("input_mix_weight_{part}"),
    };
    match name {
        "token_embd.weight" => return format!("{PREFIX}embed_tokens.weight"),
        "output.weight" => return "lm_head.weight".into(),
        _ => {}
    }
    if let Some(part) = name.strip_prefix("output_hc_") {
        return format!(
            "{PREFIX}hyper_connection_mixer.{}.weight",
            connection(part.trim_end_matches(".weight"))
        );
    }
    let (block, part) = name.strip_prefix("blk.").unwrap().split_once('.').unwrap();
    let part = part.trim_end_matches(".weight");
    let part = match part {
        "attn_q" | "attn_k" | "attn_v" => format!("self_attn.{}_proj.weight", &part[5..]),
        "attn_output" => "self_attn.o_proj.weight".into(),
        "attn_q_norm" | "attn_k_norm" => format!("self_attn.{}.weight", &part[5..]),
        "indexer.q_norm" | "indexer.k_norm" => {
            format!("self_attn.indexer.{}_layernorm.weight", &part[8..9])
        }
        "attn_qkv" => "linear_attn.in_proj_qkv.weight".into(),
        "attn_gate" => "linear_attn.in_proj_z.weight".into(),
        "ssm_alpha" => "linear_attn.in_proj_a.weight".into(),
        "ssm_beta" => "linear_attn.in_proj_b.weight".into(),
        "ssm_conv1d" => "linear_attn.conv1d.weight".into(),
        "ssm_a" => "linear_attn.A_log".into(),
        "ssm_dt.bias" => "linear_attn.dt_bias".into(),
        "ssm_norm" => "linear_attn.norm.weight".into(),
        "ssm_out" => "linear_attn.out_proj.weight".into(),
        "ffn_gate_inp" => "mlp.gate.weight".into(),
        "ffn_gate_inp_shexp" => "mlp.shared_expert_gate.weight".into(),
        "ple_key" | "ple_value" => format!("ple.{}_proj.weight", &part[4..]),
        "ple_conv1d" => "ple.conv1d.weight".into(),
        _ => match part.split_once('_').unwrap() {
            ("hc", part) => {
                let (of, part) = part.split_once('_').unwrap();
                let of = if of == "ffn" { "mlp" } else { of };
                format!("{of}_hyper_connection.{}.weight", connection(part))
            }
            ("ple", part) => format!("ple.{part}.weight"),
            (_, part) => format!("mlp.shared_expert.{}_proj.weight", part.trim_end_matches("_shexp")),
        },
    };
    format!("{PREFIX}layers.{block}.{part}")
}

/// The configuration, with the keys that published ones have.
pub fn config() -> Value {
    let text = json!({
        "model_type": "qwen4_exp_text", "hidden_act": "silu", "hidden_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_value_head_dim": 32, "attn_output_gate": true,
        "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32, "norm_topk_prob": true, "mlp_only_layers": [],
        "max_position_embeddings": 4096, "vocab_size": 1024, "eos_token_id": [773, 5],
        "rope_parameters": {
            "rope_theta": 1e7, "partial_rotary_factor": 0.5, "rope_type": "default", "mrope_section": [4, 2, 2],
        },
        "hc_count": 3, "hc_lowrank": 32, "output_gate_type": "sigmoid",
        "indexer_n_heads": 3, "indexer_kv_heads": 1, "indexer_head_dim": 32, "indexer_budget": 12,
        "indexer_compress_ratio": 3, "ple_layer_ids": [3], "ple_embed_dim": 128, "ple_conv_kernel_size": 4,
        "ngram_size": 3, "heads_per_ngram": 2, "split_ngram_parts": TABLE_PARTS,
    });
    json!({
        "model_type": "qwen4_exp", "text_config": text, "vision_config": {"depth": 1},
        "tie_word_embeddings": false,
    })
}

/// Places in the configuration, what stands there, and what the error names.
pub fn lies() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let lies = [
        ("hc_count", json!(0), "hc_count"),
        ("hc_count", json!(1), "hc_count"),
        ("hc_count", json!(4), "hc_norm"),
        ("hc_count", json!(1 << 20), "hc_count"),
        ("hc_count", json!(1_u64 << 40), "hc_count"),
        ("hc_lowrank", json!(0), "hc_lowrank"),
        ("hc_lowrank", json!(33), "input_mix_weight_down"),
        ("output_gate_type", json!("relu"), "output_gate_type"),
        ("indexer_n_heads", json!(null), "indexer_n_heads"),
        ("indexer_n_heads", json!(0), "indexer_n_heads"),
        ("indexer_n_heads", json!(4), "index_qk_proj"),
        ("indexer_kv_heads", json!(2), "indexer_kv_heads"),
        ("indexer_head_dim", json!(8), "indexer_head_dim"),
        ("indexer_head_dim", json!(48), "index_qk_proj"),
        ("indexer_budget", json!(0), "indexer_budget"),
        ("indexer_budget", json!(13), "indexer_budget"),
        ("indexer_budget", json!(-3), "indexer_budget"),
        ("indexer_compress_ratio", json!(0), "indexer_compress_ratio"),
        ("indexer_compress_ratio", json!(5), "indexer_budget"),
        ("indexer_compress_ratio", json!(1 << 20), "indexer_compress_ratio"),
        ("indexer_compress_ratio", json!(null), "indexer_compress_ratio"),
        ("ple_layer_ids", json!([0]), "ple_layer_ids"),
        ("ple_layer_ids", json!([5]), "`ple_layer_ids` is 5, but there are 4 layers, the first of them is 1"),
        ("ple_layer_ids", json!([-1]), "ple_layer_ids"),
        ("ple_layer_ids", json!("3"), "ple_layer_ids"),
        ("ple_layer_ids", json!([1]), "layers.0.ple."),
        ("ple_layer_ids", json!([2, 3]), "layers.1.ple."),
        ("ple_embed_dim", json!(130), "ple_embed_dim"),
        ("ple_embed_dim", json!(64), "ngram_embedding.shard_0"),
        ("ple_conv_kernel_size", json!(0), "ple_conv_kernel_size"),
        ("ple_conv_kernel_size", json!(65), "ple_conv_kernel_size"),
        ("ple_conv_kernel_size", json!(3), "ple.conv1d"),
        ("ngram_size", json!(1), "ple_embed_dim"),
        ("ngram_size", json!(5), "layer_multipliers"),
        ("ngram_size", json!(17), "ngram_size"),
        ("heads_per_ngram", json!(0), "heads_per_ngram|ple_embed_dim"),
        ("heads_per_ngram", json!(4), "ngram_heads_offsets"),
        ("eos_token_id", json!(null), "eos_token_id"),
        ("eos_token_id", json!([]), "eos_token_id"),
        ("eos_token_id", json!(1024), "eos_token_id"),
        ("split_ngram_parts", json!(0), "split_ngram_parts"),
        ("split_ngram_parts", json!(3), "ngram_embedding.shard_0"),
        ("split_ngram_parts", json!(5), "ngram_embedding.shard_4"),
        ("split_ngram_parts", json!(1 << 30), "split_ngram_parts"),
        ("attn_output_gate", json!(false), "attn_output_gate"),
    ];
    let pointer = |key: &str| -> &'static str { format!("/text_config/{key}").leak() };
    lies.map(|(key, value, named)| ("qwen4exp", pointer(key), value, named)).to_vec()
}
