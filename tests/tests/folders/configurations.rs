//! What configurations say that a model is computed with, or refused for.

use membrane_engine::ChatTemplates;
use membrane_formats::{Checkpoint, FormatError};
use serde_json::{Value, json};

use crate::publish::Published;
use crate::published::{Tensor, write_weights};
use crate::source;

/// A folder with this configuration and an embedding, opened.
fn opened(config: &Value) -> Result<Checkpoint, FormatError> {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("config.json"), config.to_string()).unwrap();
    let embedding = [("model.embed_tokens.weight".to_owned(), Tensor::f32(&[2, 8], &[1.0; 16]))];
    write_weights(&root.path().join("model.safetensors"), &embedding.into(), |_| true);
    Checkpoint::open(root.path())
}

#[test]
fn a_window_that_no_layer_attends_over_is_none() {
    let with = |kind: &str, layers: usize, more: Value| {
        let mut config = json!({"model_type": kind, "num_hidden_layers": layers, "hidden_size": 8});
        config["use_sliding_window"] = json!(true);
        config["sliding_window"] = json!(9);
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        opened(&config).map(drop).map_err(|error| error.to_string())
    };
    let full = |count: usize| json!({"layer_types": vec!["full_attention"; count], "max_window_layers": 0});
    for (kind, layers, more) in [
        ("qwen2", 2, json!({"max_window_layers": 2})),
        ("qwen2", 28, json!({})),
        ("qwen2", 2, full(2)),
        ("qwen3", 36, json!({"max_window_layers": 70})),
        ("qwen3", 3, json!({"max_window_layers": 0, "sliding_window": null})),
        ("qwen3", 3, json!({"max_window_layers": 0, "use_sliding_window": false})),
        ("qwen2_5_vl", 80, json!({})),
    ] {
        with(kind, layers, more).unwrap();
    }
    let one = json!({"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 2});
    for (kind, layers, more, named) in [
        ("qwen2", 3, json!({"max_window_layers": 2}), "sliding_window"),
        ("qwen3", 29, json!({}), "sliding_window"),
        ("qwen3", 2, one, "layer_types"),
        ("qwen3", 2, json!({"max_window_layers": "2"}), "max_window_layers"),
        // All of its layers slide, and of the other those of even numbers.
        ("qwen3_moe", 2, json!({"max_window_layers": 2}), "sliding_window"),
        ("qwen2_moe", 2, json!({"max_window_layers": 2}), "sliding_window"),
    ] {
        let error = with(kind, layers, more.clone()).unwrap_err();
        assert!(error.contains(named), "{kind} {more}: {error}");
    }
}

#[test]
fn what_is_not_known_of_yarn_is_refused() {
    for (more, named) in [
        (json!({"attn_facter": 0.9}), "attn_facter"),
        (json!({"llama_4_scaling_beta": 0.1}), "llama_4_scaling_beta"),
        (json!({"attn_factor": "x"}), "attn_factor"),
        (json!({"attn_factor": 0.9, "attention_factor": 1.2}), "attn_factor"),
    ] {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = opened(&json!({"model_type": "qwen3", "rope_scaling": scaling})).unwrap_err().to_string();
        assert!(error.contains(named), "{more}: {error}");
    }
}

#[test]
fn a_list_of_chat_templates_has_one_for_conversations_with_tools() {
    let root = tempfile::tempdir().unwrap();
    Published::of(&source()).write(root.path());
    std::fs::remove_file(root.path().join("chat_template.jinja")).unwrap();
    let templates = |value: Value| {
        let config = json!({"eos_token": "<|im_end|>", "chat_template": value}).to_string();
        std::fs::write(root.path().join("tokenizer_config.json"), config).unwrap();
        membrane_engine::chat_templates(&Checkpoint::open(root.path()).unwrap()).unwrap()
    };
    let found = |default: &str, tool_use: Option<&str>| {
        Some(ChatTemplates { default: default.into(), tool_use: tool_use.map(Into::into) })
    };
    let named = |names: &[&str]| {
        Value::Array(
            names.iter().map(|name| json!({"name": name, "template": format!("of {name}")})).collect(),
        )
    };
    assert_eq!(templates(named(&["default", "rag", "tool_use"])), found("of default", Some("of tool_use")));
    assert_eq!(templates(named(&["default", "rag"])), found("of default", None));
    assert_eq!(templates(json!("plain")), found("plain", None));
    assert_eq!(templates(named(&["rag"])), None);
    // In files of their own.
    std::fs::create_dir(root.path().join("additional_chat_templates")).unwrap();
    std::fs::write(root.path().join("additional_chat_templates/tool_use.jinja"), "of a file").unwrap();
    assert_eq!(templates(json!("plain")), found("plain", Some("of a file")));
}

#[test]
fn mistral_is_llama_where_it_attends_to_all_positions() {
    let mistral = |more: Value| {
        let mut config = json!({"model_type": "mistral", "num_hidden_layers": 2, "hidden_size": 8});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        opened(&config)
            .map(|checkpoint| checkpoint.metadata().str("general.architecture").unwrap().unwrap().to_owned())
    };
    for more in [
        json!({"sliding_window": null, "max_position_embeddings": 131_072}),
        json!({"sliding_window": 4096, "max_position_embeddings": 4096}),
        json!({"max_position_embeddings": 2048}),
        json!({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "default"}}),
    ] {
        assert_eq!(mistral(more.clone()).unwrap(), "llama", "{more}");
    }
    // The first 7B, and what its class has where nothing is said.
    let stretched = json!({
        "sliding_window": 4096, "max_position_embeddings": 4096,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    });
    let mut parameters = stretched.clone();
    let group = parameters.as_object_mut().unwrap().remove("rope_scaling").unwrap();
    parameters["rope_parameters"] = group;
    let (windowed, unsaid) = (json!({"sliding_window": 4096}), json!({"max_position_embeddings": 32_768}));
    for more in [windowed, unsaid, stretched, parameters] {
        let error = mistral(more.clone()).unwrap_err().to_string();
        assert!(error.contains("sliding_window"), "{more}: {error}");
    }
    // The text part of a model that sees.
    let text =
        json!({"model_type": "mistral", "sliding_window": null, "hidden_size": 8, "num_hidden_layers": 2});
    opened(&json!({"model_type": "mistral3", "text_config": text})).unwrap();
}

#[test]
fn ministral_is_read_with_what_its_queries_grow_by() {
    let parameters = json!({
        "rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16_384, "llama_4_scaling_beta": 0.1,
    });
    let ministral = |parameters: &Value, more: Value| {
        let mut text = json!({"model_type": "ministral3", "hidden_size": 8, "num_hidden_layers": 2});
        text["rope_parameters"] = parameters.clone();
        text.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        opened(&json!({"model_type": "mistral3", "text_config": text}))
    };
    let checkpoint = ministral(&parameters, json!({"sliding_window": null})).unwrap();
    let metadata = checkpoint.metadata();
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("mistral3"));
    let float = |key: &str| metadata.f32(&format!("mistral3.{key}")).unwrap();
    assert_eq!(float("attention.temperature_scale"), Some(0.1));
    assert_eq!(float("attention.layer_norm_rms_epsilon"), Some(1e-5));
    assert_eq!(float("rope.scaling.factor"), Some(16.0));
    let count = |key: &str| metadata.u32(&format!("mistral3.{key}")).unwrap();
    assert_eq!(count("attention.temperature_length"), Some(16_384));
    // What configurations within others leave out.
    assert_eq!((count("attention.key_length"), count("attention.head_count_kv")), (Some(128), Some(8)));
    for (key, value) in
        [("llama_4_scaling_beta", Value::Null), ("original_max_position_embeddings", json!(0.5))]
    {
        let mut parameters = parameters.clone();
        parameters[key] = value;
        let error = ministral(&parameters, json!({})).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let error = ministral(&parameters, json!({"sliding_window": 64})).unwrap_err().to_string();
    assert!(error.contains("sliding_window"), "{error}");
}

/// What the classes of these have where a configuration is silent.
#[test]
fn norms_add_what_their_class_does() {
    for (kind, architecture, epsilon) in [
        ("mixtral", "llama", 1e-5),
        ("mistral", "llama", 1e-6),
        ("qwen2_vl", "qwen2vl", 1e-5),
        ("qwen2_5_vl", "qwen2vl", 1e-5),
        ("qwen2_5_omni", "qwen2vl", 1e-6),
        ("qwen3", "qwen3", 1e-6),
    ] {
        let config = json!({"model_type": kind, "hidden_size": 8, "sliding_window": null});
        let found = opened(&config).unwrap();
        let key = format!("{architecture}.attention.layer_norm_rms_epsilon");
        assert_eq!(found.metadata().f32(&key).unwrap(), Some(epsilon), "{kind}");
    }
}

#[test]
fn what_thinks_in_qwen_omni_is_qwen2_vl() {
    let text = json!({
        "model_type": "qwen2_5_omni_text", "hidden_size": 8, "num_hidden_layers": 2, "sliding_window": 32_768,
        "use_sliding_window": false, "rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]},
    });
    let thinker = json!({"model_type": "qwen2_5_omni_thinker", "text_config": text});
    let checkpoint = opened(&json!({"model_type": "qwen2_5_omni", "thinker_config": thinker})).unwrap();
    let metadata = checkpoint.metadata();
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("qwen2vl"));
    assert_eq!(metadata.f32("qwen2vl.rope.freq_base").unwrap(), Some(1e6));
    let sections = metadata.u32_array("qwen2vl.rope.dimension_sections").unwrap().unwrap();
    assert_eq!(sections[..], [16, 24, 24]);
}

#[test]
fn integers_of_mlx_are_called_so() {
    let form = json!({"group_size": 64, "bits": 4, "mode": "affine"});
    for more in [json!({"quantization": form, "quantization_config": form}), json!({"quantization": form})] {
        let mut config = json!({"model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": 8});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = opened(&config).unwrap_err().to_string();
        assert!(error.contains("quantization.bits") && error.contains("MLX"), "{error}");
    }
}

#[test]
fn other_packings_of_integers_are_named() {
    let with = |method: &str, key: &str, value: Value| {
        let mut group = json!({"quant_method": method, "bits": 4, "group_size": 128, "zero_point": true});
        group[key] = value;
        let config = json!({"model_type": "qwen3", "hidden_size": 8, "quantization_config": group});
        opened(&config).map(drop).map_err(|error| error.to_string())
    };
    for version in ["gemm", "GEMM", "exllama", "ipex"] {
        with("awq", "version", json!(version)).unwrap();
    }
    with("awq", "version", Value::Null).unwrap();
    with("gptq", "is_marlin_format", json!(false)).unwrap();
    for version in ["gemv", "GEMVFast", "gemv_fast", "marlin"] {
        let error = with("awq", "version", json!(version)).unwrap_err();
        assert!(error.contains("quantization_config.version") && error.contains(version), "{error}");
    }
    let error = with("gptq", "is_marlin_format", json!(true)).unwrap_err();
    assert!(error.contains("is_marlin_format"), "{error}");
}

#[test]
fn the_document_is_named_that_says_what_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let mut model = Published::of(&source());
    let form = json!({"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": null});
    let separate = json!({"producer": {"name": "modelopt"}, "quantization": form});
    model.write(root.path());
    std::fs::write(root.path().join("hf_quant_config.json"), separate.to_string()).unwrap();
    let error = || Checkpoint::open(root.path()).map(drop).unwrap_err().to_string();
    assert!(error().contains("hf_quant_config.json") && error().contains("quantization.quant_algo"));
    model.config["quantization_config"] = form;
    model.write(root.path());
    let error = error();
    assert!(error.contains("/config.json") && error.contains("quantization_config.quant_algo"), "{error}");
}

#[test]
fn what_makers_suggest_for_sampling_is_told_as_gguf_files_do() {
    let root = tempfile::tempdir().unwrap();
    Published::of(&source()).write(root.path());
    let suggested =
        json!({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": "none", "do_sample": true});
    std::fs::write(root.path().join("generation_config.json"), suggested.to_string()).unwrap();
    let checkpoint = Checkpoint::open(root.path()).unwrap();
    let told = |key: &str| checkpoint.metadata().f32(&format!("general.sampling.{key}")).unwrap();
    assert_eq!(["temp", "top_k", "top_p", "min_p"].map(told), [Some(0.6), Some(20.0), Some(0.95), None]);
}
