//! Folders of gpt-oss, DeepSeek-V2 and V3, GLM, Gemma 3 and Qwen3.8-Flash-Next as they are published, beside the GGUF files that a
//! converter would have made of them: the same numbers, however they are stored, the same bits, however they are paged and cut, and errors
//! in the words of the folder.

#![cfg(test)]
#![forbid(unsafe_code)]

mod qwen4exp;
mod twins;

use std::path::Path;

use membrane_engine::{IoMode, LoadOptions, Model, Precision, Prepared};
use membrane_formats::{Checkpoint, Value as Stored};
use membrane_tests::golden::distance;
use membrane_tests::published::Tensor;
use membrane_tests::tiny;
use membrane_text::Specials;
use serde_json::{Value, json};
use twins::Folder;

fn reference() -> LoadOptions {
    LoadOptions { precision: Precision::Reference, ..LoadOptions::default() }
}

fn opened(path: &Path, options: &LoadOptions) -> Result<Model, String> {
    let options = LoadOptions { context: Some(256), ..options.clone() };
    let checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    let prepared = Prepared::without_text(checkpoint.into(), &options).map_err(|error| error.to_string())?;
    prepared.load(&mut |_, _| {}).map_err(|error| error.to_string())
}

/// Logits behind a prompt and behind a few further tokens.
fn trace(path: &Path, options: &LoadOptions) -> (Vec<u32>, Model) {
    let model = opened(path, options).unwrap();
    let mut session = model.session();
    let mut bits = Vec::new();
    for tokens in [(0..120).map(|i| (i * 7919 + 13) % 1000).collect(), vec![5], vec![900]] {
        session.append(&tokens).unwrap();
        assert!(session.logits().iter().all(|logit| logit.is_finite()));
        bits.extend(session.logits().iter().map(|logit| logit.to_bits()));
    }
    drop(session);
    (bits, model)
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|bits| f32::from_bits(*bits)).collect()
}

/// Each folder that is stored in another way.
fn folders(root: &Path) -> Vec<(&'static str, Folder)> {
    let [gemma, deepseek, gpt_oss, qwen4exp] =
        tiny::ARCHITECTURES.map(|architecture| Folder::of(architecture, &root.join("tiny.gguf")));
    vec![
        ("gpt-oss in MXFP4", gpt_oss.mxfp4().0),
        ("deepseek in FP8", deepseek.fp8([32, 32]).0),
        ("gemma3", gemma),
        ("deepseek", deepseek),
        ("gpt-oss", gpt_oss),
        ("qwen4exp", qwen4exp),
    ]
}

#[test]
fn folders_give_the_bits_of_the_files_that_a_converter_makes() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    for architecture in tiny::ARCHITECTURES {
        let folder = Folder::of(architecture, &gguf);
        let (wanted, _) = trace(&gguf, &reference());
        let mut variants = vec![folder.clone()];
        if architecture == "gemma3" {
            variants.push(folder.in_a_larger_one("model.language_model."));
            variants.push(folder.in_a_larger_one("language_model.model."));
            let mut nested = folder.clone();
            nested.config["rope_parameters"] = json!({
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            });
            for key in ["rope_scaling", "rope_theta", "rope_local_base_freq"] {
                nested.config[key].take();
            }
            variants.push(nested);
        }
        for (number, variant) in variants.iter().enumerate() {
            variant.write(&path);
            let (found, _) = trace(&path, &reference());
            if architecture == "qwen4exp" {
                // A converter changes the order of value heads, and so that of sums over them.
                let moved = distance(&floats(&found), &floats(&wanted), tiny::VOCABULARY).max_abs;
                assert!(moved < 1e-4, "{architecture}: {moved}");
            } else {
                assert!(found == wanted, "{architecture} {number}");
            }
        }
    }
}

#[test]
fn glm_is_read_as_published() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    let folder = Folder::of("glm4moe", &gguf);
    let (wanted, _) = trace(&gguf, &reference());
    let mut fifth = folder.clone();
    // As version 5 of transformers writes it, without what its class has of itself.
    fifth.config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e6});
    for key in ["rope_theta", "partial_rotary_factor", "n_group", "topk_group", "n_shared_experts"] {
        fifth.config.as_object_mut().unwrap().remove(key);
    }
    for variant in [&folder, &fifth] {
        variant.write(&path);
        assert!(trace(&path, &reference()).0 == wanted);
    }
    // GLM-4.7-Flash: latent attention, all of whose rotated part is rotated.
    let mut flash = Folder::of("deepseek2", &gguf);
    flash.config["model_type"] = json!("glm4_moe_lite");
    flash.config["partial_rotary_factor"] = json!(1.0);
    let (wanted, _) = trace(&gguf, &reference());
    let kinds = |first: &str| json!([first, "sparse", "sparse"]);
    for listed in [Value::Null, kinds("dense")] {
        flash.config["mlp_layer_types"] = listed.clone();
        flash.config["first_k_dense_replace"] = if listed.is_null() { json!(1) } else { json!(2) };
        flash.write(&path);
        assert!(trace(&path, &reference()).0 == wanted, "{listed}");
    }
    for (wrong, named) in [
        (json!(["sparse", "dense", "sparse"]), "mlp_layer_types"),
        (json!(["dense", "sparse"]), "mlp_layer_types"),
        (kinds("sparse"), "layers.0.mlp.shared_experts.gate_proj.weight"),
    ] {
        flash.config["mlp_layer_types"] = wrong;
        flash.write(&path);
        let error = opened(&path, &reference()).map(drop).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn deepseek_v2_has_another_router() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    let mut seen = Vec::new();
    for (method, groups) in [(json!("group_limited_greedy"), 4), (json!("greedy"), 1), (Value::Null, 1)] {
        let router = [
            ("expert_gating_func", Some(Stored::U32(1))),
            ("expert_group_count", Some(Stored::U32(groups))),
            ("expert_weights_norm", None),
        ];
        let without_bias =
            |name: &str, dims: &[u64]| (!name.ends_with("exp_probs_b.bias")).then(|| dims.to_vec());
        tiny::write_changed("deepseek2", &gguf, &router, without_bias);
        let mut folder = Folder::published("deepseek2", &gguf);
        for (key, value) in [
            ("model_type", json!("deepseek_v2")),
            ("scoring_func", json!("softmax")),
            ("norm_topk_prob", json!(false)),
            ("topk_method", method.clone()),
        ] {
            folder.config[key] = value;
        }
        folder.write(&path);
        let (wanted, _) = trace(&gguf, &reference());
        assert!(trace(&path, &reference()).0 == wanted, "{method}");
        seen.push(wanted);
        let groups = (method == "group_limited_greedy").then_some(("n_group", Value::Null));
        let others = [
            ("topk_method", json!("noaux_tc")),
            ("scoring_func", json!("sigmoid")),
            ("norm_topk_prob", json!(true)),
        ];
        for (key, value) in others.into_iter().chain(groups) {
            let mut refused = folder.clone();
            refused.config[key] = value;
            refused.write(&path);
            let error = opened(&path, &reference()).map(drop).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }
    assert!(seen[0] != seen[1] && seen[1] == seen[2]);
}

/// Configurations within others are written without what the class of the model has of itself.
#[test]
fn what_a_configuration_leaves_out_is_what_its_class_has() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    for kind in ["deepseek_v3", "kimi_k2"] {
        let mut folder = Folder::of("deepseek2", &gguf);
        for (key, value) in
            [("n_group", json!(8)), ("topk_group", json!(4)), ("routed_scaling_factor", json!(2.5))]
        {
            folder.config[key] = value;
        }
        folder.config["model_type"] = json!(kind);
        folder.write(&path);
        let (wanted, _) = trace(&path, &reference());
        for key in ["n_group", "topk_group", "routed_scaling_factor"] {
            folder.config.as_object_mut().unwrap().remove(key);
            folder.write(&path);
            assert!(trace(&path, &reference()).0 == wanted, "{kind} without {key}");
        }
    }
    let mut folder = Folder::of("gpt-oss", &gguf);
    folder.config.as_object_mut().unwrap().remove("rope_theta");
    folder.write(&path);
    assert!(trace(&path, &reference()).0 == trace(&gguf, &reference()).0);
}

/// As Kimi K2 is published, without a `tokenizer.json`.
#[test]
fn ranks_of_tokens_make_a_tokenizer() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    let mut folder = Folder::of("deepseek2", &gguf);
    folder.config["model_type"] = json!("kimi_k2");
    folder.write(&path);
    let ranks = "aA== 0\naQ== 1\naGk= 2\n";
    let added =
        json!({"4": {"content": "[BOS]", "special": true}, "7": {"content": "[EOS]", "special": true}});
    let config = json!({
        "tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
        "added_tokens_decoder": added,
    });
    std::fs::write(path.join("tokenizer_config.json"), config.to_string()).unwrap();
    let open = || membrane_engine::tokenizer(&Checkpoint::open(&path).unwrap());
    let error = open().map(drop).unwrap_err().to_string();
    assert!(error.contains("tiktoken.model"), "{error}");
    std::fs::write(path.join("tiktoken.model"), ranks).unwrap();
    let tokenizer = open().unwrap();
    assert_eq!(tokenizer.encode("[BOS]hihi", Specials::Parse).unwrap(), [4, 2, 2]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.end_tokens()), (8, Some(4), &[7][..]));
    let joined = Checkpoint::open(&path).unwrap().tokenizer_documents().unwrap().unwrap().joined().len();
    assert_eq!(joined, 16 + ranks.len() + config.to_string().len());
    std::fs::write(path.join("tiktoken.model"), "hi 0").unwrap();
    let error = open().map(drop).unwrap_err().to_string();
    assert!(error.contains("tiktoken.model") && error.contains("line 1"), "{error}");
}

/// What is a constant of published code, and no file says.
#[test]
fn latent_vectors_of_folders_have_a_norm_of_their_own() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    let eps = [("attention.layer_norm_rms_epsilon", Some(Stored::F32(1e-3)))];
    tiny::write_changed("deepseek2", &gguf, &eps, |_, dims| Some(dims.to_vec()));
    let mut folder = Folder::published("deepseek2", &gguf);
    folder.config["rms_norm_eps"] = json!(1e-3);
    folder.write(&path);
    let [(published, folder), (converted, file)] = [&path, &gguf].map(|path| trace(path, &reference()));
    assert!(published != converted);
    let eps =
        |model: &Model| model.hyperparameters().latents().map(|latent| latent.norm_eps).collect::<Vec<_>>();
    assert!(eps(&folder).iter().all(|eps| *eps == Some(1e-6)), "{:?}", eps(&folder));
    assert!(eps(&file).iter().all(Option::is_none), "{:?}", eps(&file));
}

/// Each number that a family has of its own must count, or the test above could not fail for it.
#[test]
fn numbers_of_a_configuration_change_logits() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    for (architecture, pointer, value) in [
        ("gpt-oss", "/rope_scaling/truncate", json!(true)),
        ("gpt-oss", "/rope_scaling/beta_slow", json!(0.5)),
        ("gpt-oss", "/rope_scaling/attention_factor", json!(1.2)),
        ("gpt-oss", "/rope_scaling/attn_factor", json!(0.9)),
        ("gpt-oss", "/layer_types", json!(["full_attention", "sliding_attention", "sliding_attention"])),
        ("deepseek2", "/rope_interleave", json!(false)),
        ("deepseek2", "/routed_scaling_factor", json!(1.5)),
        ("deepseek2", "/norm_topk_prob", json!(false)),
        ("deepseek2", "/topk_group", json!(3)),
        ("gemma3", "/query_pre_attn_scalar", json!(48)),
        ("gemma3", "/rope_local_base_freq", json!(2e4)),
        ("gemma3", "/sliding_window_pattern", json!(3)),
        ("qwen4exp", "/text_config/indexer_budget", json!(9)),
        ("qwen4exp", "/text_config/indexer_compress_ratio", json!(4)),
        ("qwen4exp", "/text_config/output_gate_type", json!("silu")),
        ("qwen4exp", "/text_config/eos_token_id", json!(5)),
        ("qwen4exp", "/text_config/num_experts_per_tok", json!(4)),
    ] {
        let mut folder = Folder::of(architecture, &gguf);
        folder.write(&path);
        let (before, _) = trace(&path, &reference());
        set(&mut folder.config, pointer, value.clone());
        folder.write(&path);
        let (after, _) = trace(&path, &reference());
        let moved = distance(&floats(&after), &floats(&before), tiny::VOCABULARY).max_abs;
        assert!(moved > 1e-3, "{architecture} {pointer} {value} changes nothing: {moved}");
    }
}

#[test]
fn quantised_matrices_stand_for_the_numbers_of_their_formula() {
    let root = tempfile::tempdir().unwrap();
    let gguf = root.path().join("tiny.gguf");
    let paths = ["quantised", "twin"].map(|name| root.path().join(name));
    let [deepseek, gpt_oss] = ["deepseek2", "gpt-oss"].map(|name| Folder::of(name, &gguf));
    for (name, (quantised, twin)) in [
        ("MXFP4", gpt_oss.mxfp4()),
        // The transposed keys have the scales of blocks of 32, and floats where there are fewer rows to a block.
        ("FP8", deepseek.fp8([32, 32])),
        ("FP8 in small blocks", deepseek.fp8([16, 32])),
        ("FP8 as published", deepseek.fp8([128, 128])),
        ("FP8 in groups", deepseek.fp8_in_groups()),
        // Integers are floats where columns of theirs become rows.
        ("integers of 8 bits", deepseek.int8()),
    ] {
        quantised.write(&paths[0]);
        twin.write(&paths[1]);
        let [(found, _), (wanted, _)] = paths.each_ref().map(|path| trace(path, &reference()));
        assert!(found == wanted, "{name}");
        let (fast, _) = trace(&paths[0], &LoadOptions::default());
        let fast = distance(&floats(&fast), &floats(&wanted), tiny::VOCABULARY);
        println!("{name}: fast {fast:?}");
        assert!(fast.nmse < 1e-4, "{name}: {fast:?}");
    }
}

#[test]
fn budgets_threads_and_chunks_do_not_change_a_bit() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("folder");
    for (name, folder) in folders(root.path()) {
        folder.write(&path);
        let (wanted, whole) = trace(&path, &LoadOptions::default());
        let experts = whole.plan().experts;
        for (threads, chunk, share, io) in
            [(1, 7, 3, IoMode::Direct), (3, 64, 8, IoMode::Buffered), (2, 512, 1, IoMode::Auto)]
        {
            let options = LoadOptions {
                threads: Some(threads),
                prefill_chunk: Some(chunk),
                experts: (experts > 0).then_some((experts / share).max(1)),
                io,
                ..LoadOptions::default()
            };
            let (found, model) = trace(&path, &options);
            assert!(found == wanted, "{name} {threads} {chunk} {share}");
            let counters = model.counters();
            assert_eq!(counters.misses > 0, share > 1 && experts > 0, "{name}: {counters:?}");
            assert_eq!(
                counters.recode_time_ns > 0,
                experts > 0 && !matches!(name, "deepseek" | "qwen4exp"),
                "{name}: {counters:?}"
            );
        }
    }
}

#[test]
fn parts_that_are_missing_or_of_another_shape_are_named_as_published() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("folder");
    for (kind, folder) in folders(root.path()) {
        for name in folder.tensors.keys() {
            let mut without = folder.clone();
            without.tensors.remove(name);
            without.write(&path);
            let error = opened(&path, &LoadOptions::default()).err().unwrap_or_default();
            // Without its blocks a matrix is looked for as one of floats.
            let shown = name.trim_end_matches("_blocks");
            // And experts that are not in one tensor are looked for one by one.
            let shown = shown.split("experts.").next().filter(|_| kind == "qwen4exp").unwrap_or(shown);
            // What stands before the names is known by the embedding.
            let shown = shown.trim_start_matches("model.language_model.");
            assert!(error.contains(shown), "{kind} without {name}: {error}");

            let mut wider = folder.clone();
            let tensor = wider.tensors.get_mut(name).unwrap();
            let Some(last) = tensor.shape.last_mut() else { continue };
            *last *= 2;
            tensor.bytes = tensor.bytes.repeat(2);
            wider.write(&path);
            let error = opened(&path, &LoadOptions::default()).err().unwrap_or_default();
            assert!(error.contains(name.as_str()), "{kind}, {name} twice as wide: {error}");
        }
    }
}

#[test]
fn types_that_can_not_be_taken_apart_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("folder");
    let [_, deepseek, gpt_oss, _] =
        tiny::ARCHITECTURES.map(|architecture| Folder::of(architecture, &root.path().join("tiny.gguf")));
    let changed = [
        (&deepseek, "model.layers.0.self_attn.kv_b_proj.weight", safetensors::Dtype::I16),
        (&gpt_oss, "model.layers.1.mlp.experts.gate_up_proj", safetensors::Dtype::U16),
        (&gpt_oss.mxfp4().0, "model.layers.1.mlp.experts.down_proj_scales", safetensors::Dtype::I8),
    ]
    .map(|(folder, name, dtype)| {
        let mut folder = folder.clone();
        folder.tensors.get_mut(name).unwrap().dtype = dtype;
        (folder, name)
    });
    for (folder, name) in changed {
        folder.write(&path);
        let error = opened(&path, &LoadOptions::default()).err().unwrap();
        assert!(error.contains(name), "{error}");
    }
    // A scale that is no number is found when its expert is read.
    let mut folder = gpt_oss.mxfp4().0;
    let name = "model.layers.1.mlp.experts.gate_up_proj_scales";
    let scales = folder.tensors[name].clone();
    folder.tensors.insert(name.into(), Tensor::u8(&scales.shape, vec![0xFF; scales.bytes.len()]));
    folder.write(&path);
    let error = match opened(&path, &LoadOptions::default()) {
        Err(error) => error,
        Ok(model) => model.session().append(&[1, 2, 3]).unwrap_err().to_string(),
    };
    assert!(error.contains("gate_up_proj_blocks") && error.contains("no number"), "{error}");
}

/// Sets what a pointer leads to, or adds it.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[key] = value;
}

/// An architecture, a place in its configuration, what stands there, and what the error names.
fn lies() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let mut lies = vec![
        ("gpt-oss", "/swiglu_limit", json!(6), "swiglu_limit"),
        ("gpt-oss", "/attention_bias", json!(false), "attention_bias"),
        ("gpt-oss", "/hidden_act", json!("gelu"), "hidden_act"),
        (
            "gpt-oss",
            "/layer_types",
            json!(["linear_attention", "full_attention", "full_attention"]),
            "layer_types",
        ),
        ("gpt-oss", "/layer_types", json!(["sliding_attention", "full_attention"]), "layer_types"),
        ("gpt-oss", "/num_local_experts", json!(9), "mlp.router.weight"),
        ("gpt-oss", "/num_experts_per_tok", json!(9), "num_experts_per_tok"),
        ("gpt-oss", "/intermediate_size", json!(33), "mlp.experts.gate_up_proj"),
        ("gpt-oss", "/sliding_window", json!(0), "sliding_window"),
        ("gpt-oss", "/rope_scaling/truncate", json!("no"), "truncate"),
        ("gpt-oss", "/rope_scaling/factor", json!(0.5), "rope_scaling.factor"),
        ("gpt-oss", "/rope_scaling/beta_fast", json!(0.5), "beta_fast"),
        ("gpt-oss", "/rope_scaling/attn_factor", json!(0), "rope_scaling.attn_factor"),
        ("deepseek2", "/topk_method", json!("greedy"), "topk_method"),
        ("deepseek2", "/scoring_func", json!("softmax"), "scoring_func"),
        ("deepseek2", "/moe_layer_freq", json!(2), "moe_layer_freq"),
        ("deepseek2", "/attention_bias", json!(true), "attention_bias"),
        ("deepseek2", "/qk_nope_head_dim", json!(null), "qk_nope_head_dim"),
        ("deepseek2", "/qk_nope_head_dim", json!(u32::MAX), "qk_nope_head_dim"),
        ("deepseek2", "/qk_nope_head_dim", json!(48), "self_attn.q_b_proj.weight"),
        ("deepseek2", "/v_head_dim", json!(64), "self_attn.kv_b_proj.weight"),
        ("deepseek2", "/kv_lora_rank", json!(65), "self_attn.kv_b_proj.weight"),
        ("deepseek2", "/n_group", json!(3), "n_group"),
        ("deepseek2", "/topk_group", json!(5), "topk_group"),
        ("deepseek2", "/first_k_dense_replace", json!(2), "layers.1.mlp.gate_proj.weight"),
        ("deepseek2", "/routed_scaling_factor", json!(0), "routed_scaling_factor"),
        ("deepseek2", "/rope_scaling/mscale", json!(0.7), "mscale_all_dim"),
        ("deepseek2", "/rope_scaling/mscale_all_dim", json!(-1), "mscale_all_dim"),
        ("deepseek2", "/rope_scaling/attn_factor", json!(0.9), "mscale_all_dim"),
        ("gemma3", "/hidden_activation", json!("silu"), "hidden_activation"),
        ("gemma3", "/attn_logit_softcapping", json!(50), "attn_logit_softcapping"),
        ("gemma3", "/final_logit_softcapping", json!(30), "final_logit_softcapping"),
        ("gemma3", "/use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        ("gemma3", "/query_pre_attn_scalar", json!(0), "query_pre_attn_scalar"),
        ("gemma3", "/head_dim", json!(64), "self_attn.q_proj.weight"),
        ("gemma3", "/num_attention_heads", json!(null), "self_attn.q_proj.weight"),
        ("gemma3", "/rope_local_base_freq", json!(-1), "rope_local_base_freq"),
        ("gemma3", "/rope_scaling/rope_type", json!("longrope"), "rope_type"),
        (
            "gemma3",
            "/rope_scaling",
            json!({"sliding_attention": {"rope_type": "linear"}}),
            "sliding_attention",
        ),
    ];
    lies.extend(qwen4exp::lies());
    for value in [json!(0), json!(-1), json!(0.5), json!(1u64 << 40), json!("64")] {
        let key = "original_max_position_embeddings";
        lies.push(("gpt-oss", "/rope_scaling/original_max_position_embeddings", value, key));
    }
    lies
}

#[test]
fn configurations_that_lie_are_named() {
    let root = tempfile::tempdir().unwrap();
    let (gguf, path) = (root.path().join("tiny.gguf"), root.path().join("folder"));
    for architecture in tiny::ARCHITECTURES {
        let folder = Folder::of(architecture, &gguf);
        for (_, pointer, value, named) in lies().into_iter().filter(|lie| lie.0 == architecture) {
            let mut folder = folder.clone();
            set(&mut folder.config, pointer, value.clone());
            folder.write(&path);
            let error = opened(&path, &LoadOptions::default()).err().unwrap_or_default();
            let names = named.split('|').any(|named| error.contains(named));
            assert!(names, "{architecture} {pointer} {value}: {error}");
        }
    }
}
