//! Models that see and speak, whose text part is Qwen3: Qwen3-VL and Qwen3-Omni as they are published and converted give the bits of
//! the Qwen3 that is in them.

use std::path::Path;

use membrane_engine::{LoadOptions, Precision, Prepared};
use membrane_formats::{Array, Checkpoint, Value as Stored};
use membrane_tests::published::{Tensor, fp8, write_weights};
use membrane_tests::workspace;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::publish::Published;
use crate::{source, trace};

/// Layers and experts of the fixture.
const LAYERS: usize = 4;
const EXPERTS: usize = 24;
/// Rows and columns that share a scale.
const FP8_BLOCK: usize = 32;

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
fn widened(matrix: &Tensor, rows: usize, cols: usize) -> Vec<f32> {
    let (floats, old) = (matrix.floats(), matrix.shape[1]);
    let mut wide = vec![0.0; rows * cols];
    for (to, from) in wide.chunks_mut(cols).zip(floats.chunks(old)) {
        to[..old].copy_from_slice(from);
    }
    wide
}

/// Matrices [rows, cols] of elements of so many bytes, each transposed.
fn turned(bytes: &[u8], [rows, cols]: [usize; 2], size: usize) -> Vec<u8> {
    let matrix = |matrix: &[u8]| -> Vec<u8> {
        let place = |index: usize| (index % rows * cols + index / rows) * size;
        (0..rows * cols).flat_map(|index| matrix[place(index)..][..size].to_vec()).collect()
    };
    bytes.chunks(rows * cols * size).flat_map(matrix).collect()
}

/// Parts of a matrix [rows, cols], by the endings of their names.
type Stores<'a> = &'a dyn Fn(&[f32], usize, usize) -> Vec<(&'static str, Tensor)>;

fn in_bf16(x: &[f32], rows: usize, cols: usize) -> Vec<(&'static str, Tensor)> {
    vec![("weight", Tensor::bf16(&[rows, cols], x))]
}

fn in_fp8(x: &[f32], rows: usize, cols: usize) -> Vec<(&'static str, Tensor)> {
    fp8(x, rows, cols, [FP8_BLOCK; 2]).0
}

/// Floats of 4 bits without a factor: whatever these stand for, it is the same in all layouts.
fn in_nvfp4(x: &[f32], rows: usize, cols: usize) -> Vec<(&'static str, Tensor)> {
    let code = |x: f32| (64.0 * x.abs()).min(7.0) as u8 | if x < 0.0 { 8 } else { 0 };
    let codes = x.chunks(2).map(|two| code(two[0]) | code(two[1]) << 4).collect();
    // From 0.5 to 1.125.
    let scales = (0..rows * cols / 16).map(|block| 0x30 + (block * 7 % 10) as u8).collect();
    let scales = Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols / 16], bytes: scales };
    vec![("weight", Tensor::u8(&[rows, cols / 2], codes)), ("weight_scale", scales)]
}

/// The model with experts of `inner` units, of which those that it has not are dead.
fn with_experts(model: &Published, inner: usize, layout: Layout, store: Stores<'_>) -> Published {
    let mut model = model.clone();
    let hidden = model.config["hidden_size"].as_u64().unwrap() as usize;
    model.config["moe_intermediate_size"] = inner.into();
    for layer in 0..LAYERS {
        let prefix = format!("model.layers.{layer}.mlp.experts.");
        // What is fused of all experts: the parts of gates and ups, and those of downs.
        let mut fused: [Vec<(&str, Tensor)>; 2] = [Vec::new(), Vec::new()];
        for expert in 0..EXPERTS {
            for (matrix, rows, cols) in
                [("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)]
            {
                let base = format!("{prefix}{expert}.{matrix}_proj");
                let wide = widened(&model.tensors.remove(&format!("{base}.weight")).unwrap(), rows, cols);
                for (number, (part, tensor)) in store(&wide, rows, cols).into_iter().enumerate() {
                    if layout == Layout::OneByOne {
                        model.tensors.insert(format!("{base}.{part}"), tensor);
                        continue;
                    }
                    let all = &mut fused[usize::from(matrix == "down")];
                    match all.get_mut(number) {
                        Some((_, all)) => all.bytes.extend(tensor.bytes),
                        None => all.push((part, tensor)),
                    }
                }
            }
        }
        for (name, twice, parts) in [("gate_up_proj", 2, &fused[0]), ("down_proj", 1, &fused[1])] {
            for (part, Tensor { dtype, shape, bytes }) in parts {
                let [rows, cols] = [twice * shape[0], shape[1]];
                let size = bytes.len() / (EXPERTS * rows * cols);
                let (shape, bytes) = match layout {
                    Layout::InputsFirst => (vec![EXPERTS, cols, rows], turned(bytes, [rows, cols], size)),
                    _ => (vec![EXPERTS, rows, cols], bytes.clone()),
                };
                let name = format!("{prefix}{name}{}", part.strip_prefix("weight").unwrap());
                model.tensors.insert(name, Tensor { dtype: *dtype, shape, bytes });
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
            let model = with_experts(&published, inner, layout, &in_bf16);
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

#[test]
fn fused_experts_in_fp8_are_those_one_by_one() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    let bits = |model: &Published, experts: Option<u64>| {
        model.write(root.path());
        trace(root.path(), &LoadOptions { experts, ..LoadOptions::default() }).0
    };
    let refused = |model: &Published| {
        model.write(root.path());
        Prepared::open(root.path(), &LoadOptions::default()).map(drop).unwrap_err().to_string()
    };
    for inner in [32, 64] {
        let [one_by_one, outputs_first, inputs_first] =
            [Layout::OneByOne, Layout::OutputsFirst, Layout::InputsFirst].map(|layout| {
                let mut model = seeing(&with_experts(&published, inner, layout, &in_fp8));
                model.config["quantization_config"] =
                    json!({"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]});
                model
            });
        let wanted = bits(&one_by_one, None);
        let mut thinker = speaking(&with_experts(&published, inner, Layout::OneByOne, &in_fp8));
        thinker.config["thinker_config"]["quantization_config"] =
            one_by_one.config["quantization_config"].clone();
        assert!(bits(&thinker, None) == wanted, "{inner}, said of the thinker");
        for fused in [&outputs_first, &inputs_first] {
            assert!(bits(fused, None) == wanted, "{inner}");
            assert!(bits(fused, Some((LAYERS * EXPERTS / 3) as u64)) == wanted, "{inner}, paged");
        }
        let mut without = inputs_first.clone();
        without.tensors.retain(|name, _| !name.ends_with("layers.1.mlp.experts.down_proj_scale_inv"));
        let error = refused(&without);
        assert!(error.contains("layers.1.mlp.experts.down_proj_scale_inv"), "{error}");
        // As many scales, of blocks that begin in gates and end in ups.
        let mut straddling = outputs_first.clone();
        straddling.config["quantization_config"]["weight_block_size"] = json!([FP8_BLOCK * 3 / 2, FP8_BLOCK]);
        let error = refused(&straddling);
        let named =
            if inner == FP8_BLOCK { "from gates to ups" } else { "mlp.experts.gate_up_proj_scale_inv" };
        assert!(error.contains(named), "{error}");
        let [one, other] = [outputs_first, inputs_first].map(|mut model| {
            let scales = model.tensors.iter_mut().filter(|(name, _)| name.ends_with("_proj_scale_inv"));
            scales.for_each(|(_, scale)| *scale = Tensor::f32(&[EXPERTS, 1, 1], &[0.001; EXPERTS]));
            let name = "model.language_model.layers.0.mlp.experts.down_proj_activation_scale";
            model.tensors.insert(name.to_owned(), Tensor::f32(&[EXPERTS], &[1.0; EXPERTS]));
            bits(&model, None)
        });
        assert!(one == other && one != wanted, "{inner}, a scale for each expert");
    }
}

/// The factor of an expert's matrix in NVFP4: gates and ups have the same. All are powers of two, so that one over each is exact.
fn factor(expert: usize, downs: bool) -> f32 {
    0.5f32.powi((3 + expert % 3 + usize::from(downs)) as i32)
}

/// Two fused tensors of experts in NVFP4 by other names of their parts, and with factors.
fn with_factors(
    model: &Published,
    [weight, scale, factors]: [&str; 3],
    written: fn(f32) -> f32,
) -> Published {
    let is_expert = |name: &str| name.contains(".experts.");
    let mut out = model.clone();
    out.tensors.retain(|name, _| !is_expert(name));
    for (name, tensor) in model.tensors.iter().filter(|(name, _)| is_expert(name)) {
        let Some(base) = name.strip_suffix("_scale") else {
            let all: Vec<f32> =
                (0..EXPERTS).map(|expert| written(factor(expert, name.ends_with("down_proj")))).collect();
            out.tensors.insert(format!("{name}{weight}"), tensor.clone());
            out.tensors.insert(format!("{name}{factors}"), Tensor::f32(&[EXPERTS], &all));
            continue;
        };
        out.tensors.insert(format!("{base}{scale}"), tensor.clone());
    }
    out
}

#[test]
fn fused_experts_in_nvfp4_are_those_one_by_one() {
    const NAMES: [&str; 3] = ["", "_weight_scale", "_weight_scale_2"];
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    let bits = |model: &Published, experts: Option<u64>| {
        seeing(model).write(root.path());
        trace(root.path(), &LoadOptions { experts, ..LoadOptions::default() }).0
    };
    let inner = 64;
    let one_by_one = |factor: &dyn Fn(usize, bool) -> f32| {
        let mut model = with_experts(&published, inner, Layout::OneByOne, &in_nvfp4);
        for place in 0..LAYERS * EXPERTS {
            let (layer, expert) = (place / EXPERTS, place % EXPERTS);
            for matrix in ["gate", "up", "down"] {
                let base = format!("model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj");
                let factor = Tensor::f32(&[], &[factor(expert, matrix == "down")]);
                model.tensors.insert(format!("{base}.weight_scale_2"), factor);
            }
        }
        model
    };
    let model = one_by_one(&factor);
    let wanted = bits(&model, None);
    // As modelopt takes Qwen3-VL apart: the matrix before the number of the expert.
    let matrix_first = renamed(&model, |name| {
        let Some((before, part)) = name.split_once(".experts.") else { return name.to_owned() };
        let parts: Vec<&str> = part.splitn(3, '.').collect();
        format!("{before}.experts.{}.{}.{}", parts[1], parts[0], parts[2])
    });
    assert!(matrix_first.tensors.contains_key("model.layers.3.mlp.experts.down_proj.23.weight_scale"));
    assert!(bits(&matrix_first, Some((LAYERS * EXPERTS / 3) as u64)) == wanted);
    let fused = with_experts(&published, inner, Layout::OutputsFirst, &in_nvfp4);
    let [same, one_over]: [fn(f32) -> f32; 2] = [|factor| factor, |factor| 1.0 / factor];
    for (names, input, written) in [
        (NAMES, "_input_scale", same),
        (["_packed", "_scale", "_global_scale"], "_input_global_scale", one_over),
        ([".weight_packed", ".weight_scale", ".weight_global_scale"], ".input_global_scale", one_over),
    ] {
        let mut model = with_factors(&fused, names, written);
        for matrix in ["gate_up", "down"] {
            let name = format!("model.layers.1.mlp.experts.{matrix}_proj{input}");
            model.tensors.insert(name, Tensor::f32(&[EXPERTS], &[1.0; EXPERTS]));
        }
        assert!(bits(&model, None) == wanted, "{names:?}");
        assert!(bits(&model, Some((LAYERS * EXPERTS / 3) as u64)) == wanted, "{names:?}, paged");
        let form = Checkpoint::open(root.path()).unwrap().forms()["NVFP4"];
        let hidden = published.config["hidden_size"].as_u64().unwrap();
        let numbers = (LAYERS * EXPERTS * 3 * inner) as u64 * hidden;
        assert_eq!((form.tensors, form.parameters), (2 * LAYERS as u64, numbers), "{names:?}");
    }
    // One factor for all.
    let mut model = with_factors(&fused, NAMES, same);
    let all = model.tensors.iter_mut().filter(|(name, _)| name.ends_with("_weight_scale_2"));
    all.for_each(|(_, factors)| *factors = Tensor::f32(&[], &[0.0625]));
    let found = bits(&model, None);
    assert!(found == bits(&one_by_one(&|_, _| 0.0625), None) && found != wanted);
    let turned = with_experts(&published, inner, Layout::InputsFirst, &in_nvfp4);
    for (model, named) in [(turned, "gate_up_proj"), (fused, "gate_up_proj_weight_scale_2")] {
        let mut model = with_factors(&model, NAMES, same);
        if named.ends_with('2') {
            model.tensors.retain(|name, _| !name.ends_with(named));
        }
        seeing(&model).write(root.path());
        let error = Prepared::open(root.path(), &LoadOptions::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("mlp.experts.{named}")), "{error}");
    }
}

#[test]
fn of_fused_experts_one_tensor_may_be_floats() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    for downs in [false, true] {
        let is_float = |name: &str| name.contains(".experts.") && name.contains("down_proj") != downs;
        let bits = |layout: Layout| {
            let [mut model, floats] = [&in_fp8 as Stores<'_>, &in_bf16]
                .map(|store| with_experts(&published, 2 * FP8_BLOCK, layout, store));
            model.tensors.retain(|name, _| !is_float(name));
            model.tensors.extend(floats.tensors.into_iter().filter(|(name, _)| is_float(name)));
            let mut model = seeing(&model);
            model.config["quantization_config"] =
                json!({"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]});
            model.write(root.path());
            trace(root.path(), &reference()).0
        };
        let wanted = bits(Layout::OneByOne);
        for layout in [Layout::OutputsFirst, Layout::InputsFirst] {
            assert!(bits(layout) == wanted, "{layout:?}, FP8 are downs: {downs}");
        }
    }
}

/// Tools that write a configuration again set what they have not read, and not at all levels the same.
#[test]
fn a_head_that_is_there_is_used_where_the_configuration_contradicts_itself() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    let (wanted, _) = trace(&source(), &reference());
    let mut tied = published.clone();
    tied.config["tie_word_embeddings"] = true.into();
    tied.tensors.remove("lm_head.weight").unwrap();
    tied.write(root.path());
    let (tied, _) = trace(root.path(), &reference());
    for (within, outside) in [(true, false), (false, true)] {
        let mut model = seeing(&published);
        model.config["text_config"]["tie_word_embeddings"] = within.into();
        model.config["tie_word_embeddings"] = outside.into();
        model.write(root.path());
        assert!(trace(root.path(), &reference()).0 == wanted, "{within} {outside}");
        model.tensors.remove("lm_head.weight").unwrap();
        model.write(root.path());
        let (without, _) = trace(root.path(), &reference());
        assert!(without == tied && tied != wanted, "{within} {outside}");
    }
}

#[test]
fn configurations_of_models_that_see_are_those_of_their_text_part() {
    let root = tempfile::tempdir().unwrap();
    let text = json!({
        "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 8,
        "intermediate_size": 96, "rms_norm_eps": 1e-6, "sliding_window": 32768, "use_sliding_window": false,
    });
    let with = |more: Value| {
        let mut text = text.clone();
        text.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text
    };
    let old = json!({"type": "mrope", "mrope_section": [8, 4, 4]});
    let new = json!({"type": "mrope", "rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 2e6});
    let nested =
        |kind: &str, text: Value| json!({"model_type": kind, "text_config": text, "vision_config": {}});
    for (config, architecture, base) in [
        (with(json!({"model_type": "qwen2_vl", "rope_theta": 2e6, "rope_scaling": old})), "qwen2vl", 2e6),
        (with(json!({"model_type": "qwen2_5_vl", "rope_scaling": old})), "qwen2vl", 1e6),
        (
            nested("qwen2_5_vl", with(json!({"model_type": "qwen2_5_vl_text", "rope_parameters": new}))),
            "qwen2vl",
            2e6,
        ),
        (
            nested("qwen3_vl", with(json!({"model_type": "qwen3_vl_text", "rope_scaling": old}))),
            "qwen3vl",
            5e5,
        ),
    ] {
        std::fs::write(root.path().join("config.json"), config.to_string()).unwrap();
        let embedding = Tensor::bf16(&[8, 64], &[0.5; 8 * 64]);
        let tensors = [("model.embed_tokens.weight".to_owned(), embedding)].into();
        write_weights(&root.path().join("model.safetensors"), &tensors, |_| true);
        let checkpoint = Checkpoint::open(root.path()).unwrap();
        let metadata = checkpoint.metadata();
        assert_eq!(metadata.str("general.architecture").unwrap(), Some(architecture));
        let key = |key: &str| format!("{architecture}.{key}");
        let sections = metadata.u32_array(&key("rope.dimension_sections")).unwrap().unwrap();
        assert_eq!(&sections[..], [8, 4, 4]);
        assert_eq!(metadata.f32(&key("rope.freq_base")).unwrap(), Some(base), "{config}");
        assert_eq!(metadata.u32(&key("embedding_length")).unwrap(), Some(64));
        assert_eq!(metadata.str(&key("rope.scaling.type")).unwrap(), None);
    }
    let mixture = json!({"model_type": "qwen3_vl_moe_text", "num_experts": 4, "norm_topk_prob": false});
    let config = nested("qwen3_vl_moe", with(mixture));
    std::fs::write(root.path().join("config.json"), config.to_string()).unwrap();
    let error = Checkpoint::open(root.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("norm_topk_prob"), "{error}");
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

#[test]
fn floats_beside_nvfp4_may_have_inputs_first() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    // Downs are square, gates and ups are not.
    let inner = 128;
    let names = ["", "_weight_scale", "_weight_scale_2"];
    let downs =
        with_factors(&with_experts(&published, inner, Layout::OutputsFirst, &in_nvfp4), names, |factor| {
            factor
        });
    let [outputs_first, inputs_first] = [Layout::OutputsFirst, Layout::InputsFirst].map(|layout| {
        let mut model = with_experts(&published, inner, layout, &in_bf16);
        model.tensors.retain(|name, _| !name.ends_with("experts.down_proj"));
        let downs = downs.tensors.iter().filter(|(name, _)| name.contains("experts.down_proj"));
        model.tensors.extend(downs.map(|(name, tensor)| (name.clone(), tensor.clone())));
        seeing(&model).write(root.path());
        trace(root.path(), &LoadOptions::default()).0
    });
    assert!(inputs_first == outputs_first);
}
