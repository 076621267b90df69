//! Files of latent attention, sliding windows, grouped experts, several residual streams, n-grams and sparse attention that lie
//! about their shapes: each lie is an error that names the key or the tensor.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use membrane_engine::{LoadOptions, Prepared};
use membrane_formats::{Array, Checkpoint, Value};
use membrane_tests::tiny;

fn opened(path: &Path) -> Result<(), String> {
    let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    Prepared::without_text(checkpoint.into(), &options).map(drop).map_err(|error| error.to_string())
}

/// Opens a tiny model with one key changed or left out.
fn changed(architecture: &str, folder: &Path, key: &str, value: Option<Value>) -> Result<(), String> {
    let path = folder.join("changed.gguf");
    tiny::write_changed(architecture, &path, &[(key, value)], |_, dims| Some(dims.to_vec()));
    opened(&path)
}

fn slides(layers: usize) -> Value {
    Array::Bool(vec![true; layers]).into()
}

/// An architecture, a key, what it says, and what the error names: one of several where it depends on other numbers.
fn lies() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let mut lies = Vec::new();
    let counts = [
        ("gemma3", "attention.head_count", "attention.head_count"),
        ("gemma3", "attention.head_count_kv", "attention.head_count_kv"),
        ("gemma3", "attention.key_length", "attention.key_length"),
        ("gemma3", "block_count", "block_count"),
        ("gpt-oss", "expert_count", "expert_count"),
        ("gpt-oss", "expert_used_count", "expert_used_count"),
        ("deepseek2", "attention.head_count", "attention.head_count"),
        ("deepseek2", "attention.q_lora_rank", "attention.q_lora_rank"),
        ("deepseek2", "attention.kv_lora_rank", "attention.kv_lora_rank"),
        ("deepseek2", "attention.key_length_mla", "attention.key_length_mla|rope.dimension_count"),
        ("deepseek2", "attention.value_length_mla", "attention.value_length_mla"),
        ("deepseek2", "expert_feed_forward_length", "expert_feed_forward_length"),
        ("deepseek2", "rope.scaling.original_context_length", "rope.scaling.original_context_length"),
        ("qwen4exp", "hyper_connection.count", "hyper_connection.count"),
        ("qwen4exp", "hyper_connection.low_rank", "hyper_connection.low_rank"),
        ("qwen4exp", "attention.indexer.head_count", "attention.indexer.head_count"),
        ("qwen4exp", "attention.indexer.key_length", "attention.indexer.key_length"),
        ("qwen4exp", "ple.ngram_size", "ple.ngram_size"),
        ("qwen4exp", "ple.heads_per_ngram", "ple.heads_per_ngram"),
        ("qwen4exp", "ple.conv_kernel", "ple.conv_kernel"),
        ("qwen4exp", "embedding_length_per_layer_input", "embedding_length_per_layer_input"),
    ];
    for (architecture, key, named) in counts {
        if key != "rope.scaling.original_context_length" {
            lies.push((architecture, key, Value::U32(u32::MAX), named));
        }
        lies.extend(
            [Value::U32(0), Value::Str("many".into())].map(|value| (architecture, key, value, named)),
        );
    }
    let floats = [
        "rope.freq_base",
        "rope.scaling.factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    ];
    for key in floats {
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            lies.push(("deepseek2", key, Value::F32(value), key));
        }
    }
    lies.extend([
        ("gemma3", "attention.sliding_window", Value::U32(0), "attention.sliding_window"),
        ("gemma3", "attention.sliding_window_pattern", Value::U32(0), "attention.sliding_window_pattern"),
        ("gemma3", "attention.sliding_window_pattern", slides(6), "attention.sliding_window_pattern"),
        (
            "gemma3",
            "attention.sliding_window_pattern",
            Array::F32(vec![1.0; 7]).into(),
            "attention.sliding_window_pattern",
        ),
        ("gemma3", "attention.head_count_kv", Value::U32(3), "attention.head_count_kv"),
        ("gemma3", "attention.head_count", Value::U32(6), "attn_q.weight"),
        ("gemma3", "attention.key_length", Value::U32(33), "rope.dimension_count"),
        ("gemma3", "attention.value_length", Value::U32(16), "attn_v.weight"),
        ("gemma3", "rope.freq_base_swa", Value::F32(-1.0), "rope.freq_base_swa"),
        ("gemma3", "rope.scaling.type", Value::Str("longrope".into()), "rope.scaling.type"),
        ("gemma3", "final_logit_softcapping", Value::F32(30.0), "final_logit_softcapping"),
        ("gemma3", "block_count", Value::U32(8), "blk.7."),
        ("gpt-oss", "attention.sliding_window", Value::U32(0), "attention.sliding_window"),
        ("gpt-oss", "expert_used_count", Value::U32(9), "expert_used_count"),
        ("gpt-oss", "expert_count", Value::U32(16), "ffn_gate_inp"),
        ("gpt-oss", "rope.scaling.factor", Value::F32(0.5), "rope.scaling.factor"),
        ("gpt-oss", "rope.freq_base", Value::F32(1.0), "rope.freq_base"),
        ("gpt-oss", "rope.scaling.yarn_ext_factor", Value::F32(0.5), "rope.scaling.yarn_ext_factor"),
        ("gpt-oss", "rope.scaling.yarn_beta_fast", Value::F32(0.5), "rope.scaling.yarn_beta_fast"),
        ("gpt-oss", "rope.scaling.yarn_attn_factor", Value::F32(f32::NAN), "rope.scaling.yarn_attn_factor"),
        ("deepseek2", "attention.head_count_kv", Value::U32(4), "attention.head_count_kv"),
        ("deepseek2", "attention.head_count", Value::U32(8), "attn_q_b.weight"),
        ("deepseek2", "attention.q_lora_rank", Value::U32(64), "attn_q_a.weight"),
        ("deepseek2", "attention.kv_lora_rank", Value::U32(32), "attention.key_length"),
        ("deepseek2", "attention.key_length", Value::U32(81), "attention.key_length"),
        ("deepseek2", "attention.key_length_mla", Value::U32(16), "attention.key_length_mla"),
        ("deepseek2", "attention.key_length_mla", Value::U32(15), "rope.dimension_count"),
        ("deepseek2", "attention.key_length_mla", Value::U32(1 << 20), "attn_q_b.weight"),
        ("deepseek2", "attention.value_length_mla", Value::U32(64), "attn_v_b.weight"),
        ("deepseek2", "rope.dimension_count", Value::U32(17), "rope.dimension_count"),
        ("deepseek2", "rope.dimension_count", Value::U32(18), "attention.key_length"),
        (
            "deepseek2",
            "rope.scaling.yarn_log_multiplier",
            Value::F32(-0.1),
            "rope.scaling.yarn_log_multiplier",
        ),
        (
            "deepseek2",
            "rope.scaling.yarn_log_multiplier",
            Value::F32(f32::NAN),
            "rope.scaling.yarn_log_multiplier",
        ),
        ("deepseek2", "leading_dense_block_count", Value::U32(1 << 31), "leading_dense_block_count"),
        ("deepseek2", "leading_dense_block_count", Value::U32(2), "blk.1.ffn_gate.weight"),
        ("deepseek2", "leading_dense_block_count", Value::U32(0), "blk.0.ffn"),
        ("deepseek2", "expert_gating_func", Value::U32(3), "expert_gating_func"),
        ("deepseek2", "expert_gating_func", Value::U32(1), "exp_probs_b"),
        ("deepseek2", "expert_group_count", Value::U32(3), "expert_group_count"),
        ("deepseek2", "expert_group_count", Value::U32(u32::MAX), "expert_group_count"),
        ("deepseek2", "expert_group_used_count", Value::U32(5), "expert_group_used_count"),
        ("deepseek2", "expert_group_used_count", Value::U32(1), "expert_group_used_count"),
        ("deepseek2", "expert_group_used_count", Value::U32(0), "expert_group_used_count"),
        ("deepseek2", "expert_shared_count", Value::U32(1 << 20), "expert_shared_count"),
        ("deepseek2", "expert_shared_count", Value::U32(3), "shexp"),
        ("deepseek2", "expert_weights_scale", Value::F32(0.0), "expert_weights_scale"),
        ("deepseek2", "expert_weights_scale", Value::F32(f32::INFINITY), "expert_weights_scale"),
        ("deepseek2", "expert_weights_norm", Value::U32(1), "expert_weights_norm"),
    ]);
    lies.extend(qwen4exp_lies().into_iter().map(|(key, value, named)| ("qwen4exp", key, value, named)));
    lies
}

fn qwen4exp_lies() -> Vec<(&'static str, Value, &'static str)> {
    let whole = |numbers: &[i64]| -> Value { Array::I64(numbers.to_vec()).into() };
    let firsts = "ple.head_offsets";
    let rows = "ple.head_vocab_sizes";
    vec![
        ("hyper_connection.count", Value::U32(1), "hyper_connection.count"),
        ("hyper_connection.count", Value::U32(257), "hyper_connection.count"),
        ("hyper_connection.count", Value::U32(2), "hc_attn_norm"),
        ("hyper_connection.low_rank", Value::U32(64), "hc_attn_down"),
        ("attention.indexer.head_count", Value::U32(4), "indexer.q_proj"),
        ("attention.indexer.key_length", Value::U32(8), "attention.indexer.key_length"),
        ("attention.indexer.key_length", Value::U32(64), "indexer.q_proj"),
        ("attention.indexer.top_k", Value::U32(0), "attention.indexer.top_k"),
        ("attention.indexer.top_k", Value::U32(13), "attention.indexer.top_k"),
        ("attention.indexer.top_k", Value::Str("many".into()), "attention.indexer.top_k"),
        ("attention.compress_ratios", Value::U32(0), "attention.compress_ratios"),
        ("attention.compress_ratios", Value::U32(u32::MAX), "attention.compress_ratios"),
        ("attention.compress_ratios", whole(&[0, 3, 0]), "attention.compress_ratios"),
        ("attention.compress_ratios", whole(&[0, -3, 0, 3]), "attention.compress_ratios"),
        ("attention.compress_ratios", whole(&[0, 1 << 20, 0, 3]), "attention.compress_ratios"),
        ("attention.compress_ratios", whole(&[0, 5, 0, 3]), "attention.indexer.top_k"),
        ("ple.layers", whole(&[4]), "ple.layers"),
        ("ple.layers", whole(&[-1]), "ple.layers"),
        ("ple.layers", whole(&[0, 2]), "ple.layers"),
        ("ple.layers", whole(&[2; 100]), "ple.layers"),
        ("ple.layers", whole(&[0]), "blk.0.ple_key"),
        ("ple.layers", Value::U32(2), "ple.layers"),
        ("ple.ngram_size", Value::U32(1), "ple.ngram_size"),
        ("ple.ngram_size", Value::U32(4), "ple.layer_multipliers"),
        ("ple.ngram_size", Value::U32(17), "ple.ngram_size"),
        ("ple.heads_per_ngram", Value::U32(3), firsts),
        ("ple.heads_per_ngram", Value::U32(257), "ple.heads_per_ngram"),
        ("ple.conv_kernel", Value::U32(5), "ple_conv1d"),
        ("ple.conv_kernel", Value::U32(65), "ple.conv_kernel"),
        ("ple.eos_token_id", Value::U32(1024), "ple.eos_token_id"),
        ("ple.eos_token_id", Value::Str("end".into()), "ple.eos_token_id"),
        ("embedding_length_per_layer_input", Value::U32(64), "per_layer_token_embd"),
        ("embedding_length_per_layer_input", Value::U32(1 << 20), "embedding_length_per_layer_input"),
        ("ple.layer_multipliers", whole(&[1, 2]), "ple.layer_multipliers"),
        ("ple.layer_multipliers", Array::F32(vec![1.0; 3]).into(), "ple.layer_multipliers"),
        ("ple.layer_multipliers", Array::U64(vec![u64::MAX; 3]).into(), "ple.layer_multipliers"),
        (firsts, whole(&[0, 101, 204]), firsts),
        (firsts, whole(&[0, -1, 204, 311]), firsts),
        (firsts, whole(&[0, i64::MAX, 204, 311]), firsts),
        (firsts, whole(&[0, 101, 204, 340]), "per_layer_token_embd"),
        (rows, whole(&[101, 0, 107, 109]), rows),
        (rows, whole(&[101, -7, 107, 109]), rows),
        (rows, whole(&[101, i64::MAX, 107, 109]), rows),
        (rows, whole(&[101, 103, 107, 138]), "per_layer_token_embd"),
    ]
}

#[test]
fn numbers_that_lie_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, key, value, named) in lies() {
        match changed(architecture, folder.path(), key, Some(value.clone())) {
            Err(error) => {
                let names = named.split('|').any(|named| error.contains(named));
                assert!(names, "{architecture} {key} {value}: {error}");
            }
            Ok(()) => panic!("{architecture} opens with {key} {value}"),
        }
    }
}

#[test]
fn numbers_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, key) in [
        ("gemma3", "attention.sliding_window"),
        ("gemma3", "attention.head_count"),
        ("gemma3", "feed_forward_length"),
        ("gpt-oss", "attention.sliding_window"),
        ("gpt-oss", "expert_count"),
        ("gpt-oss", "expert_used_count"),
        ("deepseek2", "attention.kv_lora_rank"),
        ("deepseek2", "attention.key_length_mla"),
        ("deepseek2", "attention.value_length_mla"),
        ("deepseek2", "expert_group_used_count"),
        ("qwen4exp", "hyper_connection.count"),
        ("qwen4exp", "hyper_connection.low_rank"),
        ("qwen4exp", "attention.indexer.head_count"),
        ("qwen4exp", "attention.indexer.key_length"),
        ("qwen4exp", "attention.indexer.top_k"),
        ("qwen4exp", "ple.ngram_size"),
        ("qwen4exp", "ple.heads_per_ngram"),
        ("qwen4exp", "ple.conv_kernel"),
        ("qwen4exp", "ple.eos_token_id"),
        ("qwen4exp", "ple.layer_multipliers"),
        ("qwen4exp", "ple.head_offsets"),
        ("qwen4exp", "ple.head_vocab_sizes"),
        ("qwen4exp", "embedding_length_per_layer_input"),
    ] {
        let error = changed(architecture, folder.path(), key, None).expect_err(key);
        assert!(error.contains(key), "{architecture} without {key}: {error}");
    }
    // Without a rank queries are made of the input, by a matrix that is not there.
    let error = changed("deepseek2", folder.path(), "attention.q_lora_rank", None).unwrap_err();
    assert!(error.contains("blk.0.attn_q.weight"), "{error}");
}

#[test]
fn tensors_that_are_not_what_the_numbers_ask_for_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    for architecture in tiny::ARCHITECTURES {
        tiny::write(architecture, &path);
        opened(&path).unwrap();
        let names: Vec<String> =
            Checkpoint::open(&path).unwrap().tensors().iter().map(|t| t.name.clone()).collect();
        for wrong in &names {
            tiny::write_changed(architecture, &path, &[], |name, dims| {
                (name != wrong).then(|| dims.to_vec())
            });
            match opened(&path) {
                // The embedding is the head then.
                Ok(()) => assert_eq!(wrong, "output.weight", "{architecture}"),
                Err(error) => {
                    assert!(error.contains(wrong.as_str()), "{architecture} without {wrong}: {error}")
                }
            }
            tiny::write_changed(architecture, &path, &[], |name, dims| {
                let mut dims = dims.to_vec();
                if name == wrong {
                    dims[0] *= 2;
                }
                Some(dims)
            });
            let error = opened(&path).expect_err(wrong);
            assert!(error.contains(wrong.as_str()), "{architecture}, {wrong} twice as wide: {error}");
        }
    }
}

/// The sigmoid of no number is none, and such an expert is the last of all choices: the pass would go on without it.
#[test]
fn a_router_of_sigmoids_that_is_no_number_is_named() {
    const ROUTER: &str = "blk.1.ffn_gate_inp.weight";
    const BIAS: &str = "blk.1.exp_probs_b.bias";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    // The scale of the last block of the last expert's row, and the expert's bias.
    for (name, back, bytes) in
        [(ROUTER, 34, &0x7E00_u16.to_le_bytes()[..]), (BIAS, 4, &f32::NAN.to_le_bytes()[..])]
    {
        tiny::write("deepseek2", &path);
        let tensor = Checkpoint::open(&path).unwrap().tensor(name).unwrap().clone();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(bytes, tensor.offset + tensor.bytes - back).unwrap();
        let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
        let checkpoint = Checkpoint::open(&path).unwrap();
        let loaded = Prepared::without_text(checkpoint.into(), &options)
            .and_then(|prepared| prepared.load(&mut |_, _| {}));
        let ran = loaded.and_then(|model| model.session().append(&[1, 2, 3, 4, 5]));
        let error = ran.expect_err(name).to_string();
        for words in [name, "not finite", "m.gguf"] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
