//! Models that see and speak, whose text part is Qwen3: Qwen3-VL and Qwen3-Omni as they are published and converted give the bits of
//! the Qwen3 that is in them.

use std::path::Path;

use membrane_engine::{LoadOptions, Precision, Prepared};
use membrane_formats::{Array, Checkpoint, Value as Stored};
use membrane_tests::published::Tensor;
use membrane_tests::workspace;
use serde_json::json;

use crate::publish::Published;
use crate::{source, trace};

/// Layers and experts of the fixture.
const LAYERS: usize = 4;
const EXPERTS: usize = 24;

/// How the matrices of experts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    OneByOne,
    /// In two tensors; of an expert's matrix its outputs come first, as later tools write it.
    OutputsFirst,
    /// In two tensors; inputs come first, as the publisher has it.
    InputsFirst,
}

fn reference() -> LoadOptions {
    LoadOptions { precision: Precision::Reference, ..LoadOptions::default() }
}

/// A matrix [rows, cols] of so many rows and columns, of which the new ones are zeros.
fn widened(matrix: &Tensor, rows: usize, cols: usize) -> Tensor {
    let (floats, old) = (matrix.floats(), matrix.shape[1]);
    let mut wide = vec![0.0; rows * cols];
    for (to, from) in wide.chunks_mut(cols).zip(floats.chunks(old)) {
        to[..old].copy_from_slice(from);
    }
    Tensor::bf16(&[rows, cols], &wide)
}

/// The model with experts of `inner` units, of which those that it has not are dead.
fn with_experts(model: &Published, inner: usize, layout: Layout) -> Published {
    let mut model = model.clone();
    let hidden = model.config["hidden_size"].as_u64().unwrap() as usize;
    model.config["moe_intermediate_size"] = inner.into();
    for layer in 0..LAYERS {
        let prefix = format!("model.layers.{layer}.mlp.experts.");
        let (mut both, mut downs) = (Vec::new(), Vec::new());
        for expert in 0..EXPERTS {
            for (matrix, rows, cols) in
                [("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)]
            {
                let name = format!("{prefix}{expert}.{matrix}_proj.weight");
                let wide = widened(&model.tensors[&name], rows, cols);
                if layout == Layout::OneByOne {
                    model.tensors.insert(name, wide);
                    continue;
                }
                model.tensors.remove(&name);
                if matrix == "down" { &mut downs } else { &mut both }.extend(wide.floats());
            }
        }
        if layout != Layout::OneByOne {
            for (name, floats, [rows, cols]) in
                [("gate_up_proj", both, [2 * inner, hidden]), ("down_proj", downs, [hidden, inner])]
            {
                let tensor = if layout == Layout::OutputsFirst {
                    Tensor::bf16(&[EXPERTS, rows, cols], &floats)
                } else {
                    let turned = |expert: &[f32]| -> Vec<f32> {
                        (0..rows * cols).map(|index| expert[index % rows * cols + index / rows]).collect()
                    };
                    let floats: Vec<f32> = floats.chunks(rows * cols).flat_map(turned).collect();
                    Tensor::bf16(&[EXPERTS, cols, rows], &floats)
                };
                model.tensors.insert(format!("{prefix}{name}"), tensor);
            }
        }
    }
    model
}

/// The axes of positions share the 32 pairs of a head.
const SECTIONS: [u32; 3] = [12, 10, 10];

/// The model within one that sees.
fn seeing(model: &Published) -> Published {
    let mut text = model.config.clone();
    text["model_type"] = "qwen3_vl_moe_text".into();
    text["rope_scaling"] =
        json!({"rope_type": "default", "mrope_interleaved": true, "mrope_section": SECTIONS});
    let mut tensors = renamed(model, |name| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_owned(),
    });
    for name in ["model.visual.patch_embed.proj.bias", "model.visual.deepstack_merger_list.0.norm.weight"] {
        tensors.tensors.insert(name.to_owned(), Tensor::bf16(&[2], &[1.0, 2.0]));
    }
    let config = json!({"model_type": "qwen3_vl_moe", "text_config": text, "vision_config": {}});
    Published { config, ..tensors }
}

/// The model within one that also hears and speaks.
fn speaking(model: &Published) -> Published {
    let Published { config, .. } = seeing(model);
    let mut text = config["text_config"].clone();
    text["model_type"] = "qwen3_omni_moe_text".into();
    let mut tensors = renamed(model, |name| format!("thinker.{name}"));
    for name in
        ["thinker.visual.a.bias", "thinker.audio_tower.a.bias", "talker.a.weight", "code2wav.a.weight"]
    {
        tensors.tensors.insert(name.to_owned(), Tensor::bf16(&[2], &[1.0, 2.0]));
    }
    let thinker = json!({"model_type": "qwen3_omni_moe_thinker", "text_config": text});
    let config = json!({"model_type": "qwen3_omni_moe", "thinker_config": thinker, "talker_config": {}});
    Published { config, ..tensors }
}

fn renamed(model: &Published, name: impl Fn(&str) -> String) -> Published {
    let tensors = model.tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect();
    Published { tensors, ..model.clone() }
}

#[test]
fn folders_of_models_that_see_give_the_bits_of_their_text_part() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    assert_eq!(published.config["moe_intermediate_size"], 32);
    let (wanted, _) = trace(&source(), &reference());
    // With the second width, what is fused first is square.
    for inner in [32, 64] {
        for layout in [Layout::OneByOne, Layout::OutputsFirst, Layout::InputsFirst] {
            let model = with_experts(&published, inner, layout);
            for folder in [seeing(&model), speaking(&model)] {
                folder.write(root.path());
                let kind = &folder.config["model_type"];
                assert!(trace(root.path(), &reference()).0 == wanted, "{kind} {layout:?} {inner}");
                let paged = LoadOptions { experts: Some((LAYERS * EXPERTS / 3) as u64), ..reference() };
                let (bits, model) = trace(root.path(), &paged);
                assert!(model.counters().misses > 0, "{kind} {layout:?} {inner}: nothing was paged");
                assert!(bits == wanted, "{kind} {layout:?} {inner}, paged");
            }
        }
    }
}

/// Writes a fixture as a file of another architecture of the same numbers.
fn converted(fixture: &str, from: &str, to: &str, sections: &[u32], path: &Path) {
    let source = Checkpoint::open(&workspace().join("tests/fixtures/gguf").join(fixture)).unwrap();
    let mut metadata = source.metadata().clone();
    metadata.set("general.architecture", to);
    for (key, value) in source.metadata().iter() {
        if let Some(key) = key.strip_prefix(&format!("{from}.")) {
            metadata.set(&format!("{to}.{key}"), value.clone());
        }
    }
    metadata.set(&format!("{to}.rope.dimension_sections"), Stored::Array(Array::U32(sections.to_vec())));
    metadata.set(&format!("{to}.n_deepstack_layers"), 3_u32);
    membrane_tests::with_metadata(&source, metadata, path).unwrap();
}

#[test]
fn files_of_models_that_see_give_the_bits_of_their_text_part() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("seeing.gguf");
    for (fixture, from, to) in [
        ("tiny-qwen3moe-Q8_0.gguf", "qwen3moe", "qwen3vlmoe"),
        ("tiny-qwen3-IQ4_NL.gguf", "qwen3", "qwen3vl"),
    ] {
        let text = workspace().join("tests/fixtures/gguf").join(fixture);
        let (wanted, model) = trace(&text, &LoadOptions::default());
        let pairs = model.hyperparameters().ropes()[0].dims as u32 / 2;
        converted(fixture, from, to, &[pairs - 8, 4, 4, 0], &path);
        assert!(trace(&path, &LoadOptions::default()).0 == wanted, "{to}");
        converted(fixture, from, to, &[pairs - 7, 4, 4, 0], &path);
        let error = Prepared::open(&path, &LoadOptions::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains("rope.dimension_sections"), "{error}");
    }
}
