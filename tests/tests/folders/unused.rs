//! Tensors that no part of an architecture asks for: known ones are left out, all others are errors.

use std::path::Path;

use membrane_engine::{Ignored, LoadOptions, Prepared};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, DType, FormatError};
use membrane_tests::published::Tensor;
use membrane_tests::tiny;
use serde_json::{Value, json};

use crate::publish::{Published, Scheme};
use crate::{source, trace};

/// A change of a model.
type Change<'a> = &'a dyn Fn(&mut Published);

/// What is left out of a model; or why it is refused.
fn opened(path: &Path) -> Result<Vec<Ignored>, String> {
    let checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    let prepared = Prepared::without_text(checkpoint.into(), &LoadOptions::default());
    prepared.map(|prepared| prepared.ignored().to_vec()).map_err(|error| error.to_string())
}

fn folder(change: &dyn Fn(&mut Published)) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut model = Published::of(&source());
    change(&mut model);
    model.write(root.path());
    root
}

fn with(name: &'static str, floats: &'static [f32]) -> impl Fn(&mut Published) {
    move |model| drop(model.tensors.insert(name.to_owned(), Tensor::bf16(&[floats.len()], floats)))
}

#[test]
fn what_would_change_the_numbers_is_refused_by_name() {
    let tied = |model: &mut Published| model.config["tie_word_embeddings"] = true.into();
    let fewer = |model: &mut Published| {
        model.config["num_hidden_layers"] = (model.config["num_hidden_layers"].as_u64().unwrap() - 1).into();
    };
    let wide = |model: &mut Published, last: f32| {
        tied(model);
        let embedding = &model.tensors["model.embed_tokens.weight"];
        let (shape, mut floats) = (embedding.shape.clone(), embedding.floats());
        *floats.last_mut().unwrap() += last;
        model.tensors.insert("lm_head.weight".into(), Tensor::f32(&shape, &floats));
    };
    let other_in_f32 = |model: &mut Published| wide(model, 1.0);
    let other_shape = |model: &mut Published| {
        tied(model);
        // The same numbers, but for another width.
        let embedding = &model.tensors["model.embed_tokens.weight"];
        let turned = Tensor::bf16(&[embedding.shape[1], embedding.shape[0]], &embedding.floats());
        model.tensors.insert("lm_head.weight".into(), turned);
    };
    let other_name = |model: &mut Published| {
        let embedding = model.tensors["model.embed_tokens.weight"].clone();
        model.tensors.insert("model.second_head.weight".into(), embedding);
    };
    let cases: [(Change<'_>, &[&str]); 13] = [
        (&fewer, &["`model.layers.3.", "num_hidden_layers", "0 to 2", "..."]),
        (
            &with("model.layers.0.self_attn.sinks", &[1.0; 8]),
            &["`model.layers.0.self_attn.sinks`", "1 tensor ("],
        ),
        (
            &with("model.layers.1.mlp.gate.e_score_correction_bias", &[0.5; 24]),
            &["e_score_correction_bias", "biases"],
        ),
        (&with("model.layers.0.mlp.gate.bias", &[0.0, 1.0]), &["mlp.gate.bias", "biases"]),
        (&with("model.layers.0.self_attn.q_proj.lora_A.weight", &[1.0]), &["lora_A", "merge"]),
        (&with("model.layers.0.mlp.shared_expert.up_proj.weight", &[1.0]), &["shared_expert", "variant"]),
        (
            &with("model.layers.0.self_attn.q_proj.pre_quant_scale", &[1.0]),
            &["pre_quant_scale", "quantising"],
        ),
        (&with("model.layers.0.mlp.experts.24.up_proj.weight", &[1.0]), &["experts.24", "24 experts"]),
        (&tied, &["lm_head.weight", "tie_word_embeddings"]),
        (&other_in_f32, &["lm_head.weight", "tie_word_embeddings"]),
        (&other_shape, &["lm_head.weight", "tie_word_embeddings"]),
        (&other_name, &["model.second_head.weight", "variant"]),
        // A mark of a head for multi-token prediction in a layer of the model's own.
        (&with("model.layers.1.eh_proj.weight", &[1.0]), &["model.layers.1.eh_proj.weight", "variant"]),
    ];
    for (change, words) in cases {
        let root = folder(change);
        let error = opened(root.path()).unwrap_err();
        for word in words.iter().chain(&["model.safetensors"]) {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}

#[test]
fn what_is_known_to_change_nothing_is_left_out_and_told() {
    let embedding_twice = |model: &mut Published| {
        model.config["tie_word_embeddings"] = true.into();
        let embedding = model.tensors["model.embed_tokens.weight"].clone();
        model.tensors.insert("lm_head.weight".into(), embedding);
    };
    let embedding_in_f32 = |model: &mut Published| {
        model.config["tie_word_embeddings"] = true.into();
        let embedding = &model.tensors["model.embed_tokens.weight"];
        let wide = Tensor::f32(&embedding.shape, &embedding.floats());
        model.tensors.insert("lm_head.weight".into(), wide);
    };
    let embedding_of_f32 = |model: &mut Published| {
        model.config["tie_word_embeddings"] = true.into();
        let embedding = &model.tensors["model.embed_tokens.weight"];
        let shape = embedding.shape.clone();
        // Numbers between those of BF16, of which the head is the rounding: of the ones down, of the others up.
        let between = |(at, x): (usize, f32)| f32::from_bits(x.to_bits() | [0x1234, 0x9234][at % 2]);
        let floats: Vec<f32> = embedding.floats().into_iter().enumerate().map(between).collect();
        model.tensors.insert("lm_head.weight".into(), Tensor::bf16(&shape, &floats));
        model.tensors.insert("model.embed_tokens.weight".into(), Tensor::f32(&shape, &floats));
    };
    let drafts = |model: &mut Published| {
        for part in ["eh_proj.weight", "input_layernorm.weight"] {
            let name = format!("model.layers.4.{part}");
            model.tensors.insert(name, Tensor::bf16(&[1], &[1.0]));
        }
    };
    let cases: [(Change<'_>, &str, u64); 14] = [
        (&with("model.layers.0.self_attn.q_proj.input_scale", &[1.0]), "inputs", 1),
        (&with("model.layers.0.self_attn.kv_scale", &[1.0]), "cache", 1),
        (&with("model.layers.0.self_attn.v_proj.output_scale", &[1.0]), "cache", 1),
        (&with("model.layers.1.mlp.gate.bias", &[-0.0; 8]), "zeros", 1),
        (&with("model.layers.0.self_attn.k_proj.k_scale", &[1.0]), "cache", 1),
        (&with("model.layers.0.self_attn.rotary_emb.inv_freq", &[1.0]), "rotary", 1),
        (&with("model.visual.blocks.0.attn.qkv.weight", &[1.0]), "images", 1),
        (&with("model.layers.0.mlp.gate.bias", &[0.0; 64]), "zeros", 1),
        (&with("mtp.fc.weight", &[1.0]), "multi-token", 1),
        (&drafts, "multi-token", 2),
        (&embedding_twice, "embedding", 1),
        (&embedding_in_f32, "embedding", 1),
        (&embedding_of_f32, "embedding", 1),
        (&|_| (), "", 0),
    ];
    let wanted = trace(&source(), &LoadOptions::default()).0;
    for (change, reason, count) in cases {
        let root = folder(change);
        let ignored = opened(root.path()).unwrap();
        assert_eq!(
            ignored.iter().map(|ignored| ignored.tensors).sum::<u64>(),
            count,
            "{reason}: {ignored:?}"
        );
        assert!(ignored.iter().all(|ignored| ignored.reason.contains(reason)), "{ignored:?}");
        // A tied head is another model.
        assert!(reason == "embedding" || trace(root.path(), &LoadOptions::default()).0 == wanted, "{reason}");
    }
}

/// The error of a quantised folder whose configuration and tensors were changed.
fn quantised_error(scheme: Scheme, change: &dyn Fn(&mut Published)) -> String {
    let root = tempfile::tempdir().unwrap();
    let (mut model, _) = Published::of(&source()).quantised(scheme);
    change(&mut model);
    model.write(root.path());
    opened(root.path()).unwrap_err()
}

#[test]
fn what_a_configuration_asks_for_beside_the_tensors_is_not_left_out() {
    let ordered = Scheme::Gptq { v2: false, symmetric: true, act_order: true };
    let no_order = |model: &mut Published| {
        drop(model.tensors.remove("model.layers.1.self_attn.q_proj.g_idx").expect("an order"))
    };
    let error = quantised_error(ordered, &no_order);
    assert!(error.contains("`model.layers.1.self_attn.q_proj.g_idx` is missing"), "{error}");
    let order = |model: &mut Published, order: Value| {
        model.config["quantization_config"]["config_groups"]["group_0"]["weights"]["actorder"] = order;
    };
    for said in [json!("group"), json!("dynamic"), json!(true)] {
        let no_order = |model: &mut Published| {
            order(model, said.clone());
            drop(model.tensors.remove("model.layers.1.self_attn.q_proj.weight_g_idx").expect("an order"));
        };
        let error = quantised_error(Scheme::PackQuantized { zeros: true, act_order: true }, &no_order);
        assert!(error.contains("`model.layers.1.self_attn.q_proj.weight_g_idx` is missing"), "{error}");
    }
    // One of calibration, and none.
    for said in [json!("weight"), json!("static"), json!(null), json!(false)] {
        let root = tempfile::tempdir().unwrap();
        let scheme = Scheme::PackQuantized { zeros: true, act_order: false };
        let (mut model, _) = Published::of(&source()).quantised(scheme);
        order(&mut model, said);
        model.write(root.path());
        opened(root.path()).unwrap();
    }
    let rotated = |model: &mut Published| {
        model.config["quantization_config"]["transform_config"] = json!({"config_groups": {"R3": {}}});
    };
    let error = quantised_error(Scheme::Fp8Blocks, &rotated);
    assert!(error.contains("transform_config") && error.contains("rotations"), "{error}");
}

#[test]
fn the_model_s_own_layers_are_not_taken_for_drafts() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("m.gguf");
    let checkpoint = Checkpoint::open(&source()).unwrap();
    let mut metadata = checkpoint.metadata().clone();
    metadata.set("qwen3moe.nextn_predict_layers", 1_u32);
    let mut writer = GgufWriter::new(&path, metadata);
    for tensor in checkpoint.tensors() {
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
    }
    let mut tensors = checkpoint.tensors().iter();
    let written = writer.write(|info, sink| -> Result<(), FormatError> {
        let mut bytes = vec![0; info.bytes as usize];
        checkpoint.read(tensors.next().unwrap(), 0, &mut bytes)?;
        sink.put(&bytes)
    });
    written.unwrap();
    let error = opened(&path).unwrap_err();
    assert!(error.contains("nextn_predict_layers") && error.contains("layer 3"), "{error}");
}

/// A GGUF file with one tensor more.
fn with_tensor(gguf: &Path, name: &str, floats: &[f32], out: &Path) {
    let checkpoint = Checkpoint::open(gguf).unwrap();
    let mut writer = GgufWriter::new(out, checkpoint.metadata().clone());
    for tensor in checkpoint.tensors() {
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
    }
    writer.declare(name, DType::F32, &[floats.len() as u64]).unwrap();
    let mut tensors = checkpoint.tensors().iter();
    let written = writer.write(|_, sink| -> Result<(), FormatError> {
        let bytes = match tensors.next() {
            Some(tensor) => {
                let mut bytes = vec![0; tensor.bytes as usize];
                checkpoint.read(tensor, 0, &mut bytes)?;
                bytes
            }
            None => floats.iter().flat_map(|float| float.to_le_bytes()).collect(),
        };
        sink.put(&bytes)
    });
    written.unwrap();
}

#[test]
fn gguf_files_are_held_to_the_same() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("m.gguf");
    for (name, floats, words) in [
        (
            "blk.9.attn_norm.weight",
            [1.0],
            &["`blk.9.attn_norm.weight`", "qwen3moe.block_count", "m.gguf"][..],
        ),
        ("blk.0.ffn_gate_inp.bias", [1.0], &["ffn_gate_inp.bias", "biases"]),
        ("blk.0.attn_sinks.weight", [1.0], &["attn_sinks"]),
        ("blk.0.attn_kv_b.weight", [1.0], &["attn_kv_b"]),
        ("rope_factors_long.weight", [1.0], &["rope_factors_long"]),
        ("blk.0.attn_q.weight.lora_a", [1.0], &["lora_a"]),
    ] {
        with_tensor(&source(), name, &floats, &path);
        let error = opened(&path).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
    }
    for (name, floats, reason) in [
        ("blk.0.ffn_gate_inp.bias", [0.0], "zeros"),
        ("blk.0.attn_q.input_scale", [1.0], "inputs"),
        ("blk.4.nextn.eh_proj.weight", [1.0], "multi-token"),
        ("v.patch_embd.weight", [1.0], "images"),
    ] {
        with_tensor(&source(), name, &floats, &path);
        let ignored = opened(&path).unwrap();
        assert!(ignored.len() == 1 && ignored[0].reason.contains(reason), "{name}: {ignored:?}");
        assert_eq!((ignored[0].example.as_str(), ignored[0].bytes), (name, 4));
    }
    assert_eq!(opened(&source()).unwrap(), []);
    // Keys and values in one matrix, which are there apart too.
    let latent = root.path().join("latent.gguf");
    tiny::write("deepseek2", &latent);
    with_tensor(&latent, "blk.0.attn_kv_b.weight", &[1.0], &path);
    let ignored = opened(&path).unwrap();
    assert!(ignored.len() == 1 && ignored[0].reason.contains("a second time apart"), "{ignored:?}");
}

/// Every reference model has a use for each of its tensors, or is known to have none for some.
#[test]
fn reference_models_have_nothing_that_is_not_known() {
    for root in membrane_tests::references() {
        for kind in ["gguf", "models"] {
            for entry in std::fs::read_dir(root.join(kind)).into_iter().flatten() {
                let path = entry.unwrap().path();
                let unknown = |error: &String| error.contains("is not supported; supported are");
                match opened(&path) {
                    Err(error) => assert!(unknown(&error), "{error}"),
                    Ok(ignored) => {
                        ignored.iter().for_each(|ignored| println!("{}: {ignored:?}", path.display()))
                    }
                }
            }
        }
    }
}
