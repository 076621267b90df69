//! What ways of quantising take in memory, and what they are called.

use std::collections::BTreeMap;
use std::path::PathBuf;

use half::{bf16, f16};
use membrane_engine::{LoadOptions, Prepared};
use membrane_formats::{Checkpoint, Form};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::publish::{Published, Scheme};
use crate::published::Tensor;
use crate::{source, trace};

/// What is added to the name says how inputs are quantised, which are kept as they are here.
#[test]
fn modelopt_has_several_names_for_the_same_tensors() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    for (scheme, names) in [
        (Scheme::Nvfp4Of32, &["NVFP4", "W4A16_NVFP4", "W4A8_NVFP4_FP8"][..]),
        (Scheme::Mx { bits: 4, compressed: false }, &["mxfp4", "W4A8_MXFP4_FP8"]),
        (Scheme::Mx { bits: 8, compressed: false }, &["MXFP8"]),
        (Scheme::Fp8Tensor, &["FP8"]),
    ] {
        let mut model = published.quantised(scheme).0;
        for name in names {
            model.config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": name});
            model.write(root.path());
            Prepared::open(root.path(), &LoadOptions::default()).unwrap();
        }
    }
}

/// Llama 3.1 405B is published so.
#[test]
fn rows_in_fp8_by_fbgemm_are_those_of_others() {
    let root = tempfile::tempdir().unwrap();
    let mut model = Published::of(&source()).quantised(Scheme::Fp8Modelopt { by_rows: true }).0;
    model.write(root.path());
    let wanted = trace(root.path(), &LoadOptions::default()).0;
    let scales = model.tensors.iter_mut().filter(|(name, _)| name.ends_with(".weight_scale"));
    scales.for_each(|(_, scale)| scale.shape.push(1));
    model.config["quantization_config"] = json!({
        "quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"],
    });
    model.write(root.path());
    assert!(trace(root.path(), &LoadOptions::default()).0 == wanted);
}

/// Floats of Quark are the tensors of others; its configuration says which they are.
#[test]
fn quark_says_at_length_what_its_floats_are() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    let fp4 =
        |group: u32| json!({"dtype": "fp4", "qscheme": "per_group", "group_size": group, "ch_axis": -1});
    let fp8 = |qscheme: &str| json!({"dtype": "fp8_e4m3", "qscheme": qscheme, "scale_type": "float"});
    let with = |mut weight: Value, key: &str, value: Value| {
        weight[key] = value;
        weight
    };
    let mxfp8 = json!({
        "dtype": "fp8_e4m3", "qscheme": "per_group", "group_size": 32, "ch_axis": -1, "scale_format": "e8m0",
    });
    let blocks = with(fp8("per_block"), "block_size", json!([16, 32]));
    for (scheme, weight) in [
        (Scheme::Fp8Tensor, fp8("per_tensor")),
        (Scheme::Fp8Modelopt { by_rows: true }, with(fp8("per_channel"), "ch_axis", json!(0))),
        (Scheme::Fp8Modelopt { by_rows: true }, with(fp8("per_channel"), "axis", json!(0))),
        (Scheme::Fp8Modelopt { by_rows: false }, blocks),
        (Scheme::Mx { bits: 4, compressed: false }, with(fp4(32), "scale_format", json!("e8m0"))),
        (Scheme::Mx { bits: 8, compressed: false }, mxfp8),
        (
            Scheme::Nvfp4 { compressed: false },
            json!([fp4(16), with(fp8("per_tensor"), "is_scale_quant", json!(true))]),
        ),
    ] {
        let mut model = published.quantised(scheme).0;
        model.config["quantization_config"] = json!({
            "quant_method": "quark", "global_quant_config": {"weight": weight, "input_tensors": null, "bias": null},
            "layer_quant_config": {
                "lm_head": {"weight": null}, "*k_proj": {"weight": weight, "output_tensors": {"dtype": "fp8_e4m3"}},
            }, "export": {"weight_format": "real_quantized"},
            "algo_config": [{"name": "rotation", "r1": true, "r3": true, "r4": false, "online_r1_rotation": null}],
        });
        model.write(root.path());
        Prepared::open(root.path(), &LoadOptions::default()).unwrap_or_else(|e| panic!("{scheme:?}: {e}"));
    }
}

/// Attention in 8 bits, what has scales elsewhere in 4: each matrix is counted with the width that it has.
#[test]
fn packed_integers_of_two_widths_are_counted_as_what_they_are() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    let mut model = published.quantised(Scheme::PackQuantized { zeros: false, act_order: false }).0;
    let bytes = published.quantised(Scheme::Int8 { packed: true, act_order: false }).0;
    let attention = |name: &String| name.contains("self_attn.");
    model.tensors.retain(|name, _| !attention(name));
    let (mut numbers, mut matrices) = (0, 0);
    for (name, tensor) in bytes.tensors.iter().filter(|(name, _)| attention(name)) {
        if let Some(base) = name.strip_suffix(".weight_packed") {
            let shape = [tensor.shape[0], 4 * tensor.shape[1]];
            numbers += shape[0] * shape[1];
            matrices += 1;
            let bytes = shape.iter().flat_map(|dim| (*dim as i64).to_le_bytes()).collect();
            let stored = Tensor { dtype: Dtype::I64, shape: vec![2], bytes };
            model.tensors.insert(format!("{base}.weight_shape"), stored);
        }
        model.tensors.insert(name.clone(), tensor.clone());
    }
    let group = |bits: u32| json!({"weights": {"type": "int", "num_bits": bits, "symmetric": true}});
    model.config["quantization_config"]["config_groups"] = json!({"a": group(4), "b": group(8)});
    model.write(root.path());
    let checkpoint = Checkpoint::open(root.path()).unwrap();
    let forms = checkpoint.forms();
    let found = forms["packed integers of 8 bits"];
    assert_eq!((found.tensors, found.parameters), (matrices, numbers as u64));
    let all = |forms: &BTreeMap<&str, Form>| forms.values().map(|form| form.parameters).sum::<u64>();
    published.write(root.path());
    assert_eq!(all(&forms), all(&Checkpoint::open(root.path()).unwrap().forms()));
    assert!(forms["packed integers of 4 bits"].parameters > found.parameters);
}

/// Scales of GPTQ and AWQ stand for the same numbers in bfloat16, where that has them.
#[test]
fn scales_in_bfloat16_give_the_bits_of_the_same_in_half_precision() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    for scheme in [
        Scheme::Gptq { v2: false, symmetric: true, act_order: false },
        Scheme::Gptq { v2: true, symmetric: false, act_order: true },
        Scheme::GptqFewBits { bits: 2, symmetric: true },
        Scheme::GptqFewBits { bits: 3, symmetric: false },
        Scheme::Gptq8 { act_order: true },
        Scheme::Awq,
    ] {
        let mut models = [published.quantised(scheme).0, published.quantised(scheme).0];
        let mut changed = 0;
        let [halves, bfloats] = &mut models;
        for (name, tensor) in halves.tensors.iter_mut().filter(|(name, _)| name.ends_with(".scales")) {
            assert_eq!(tensor.dtype, Dtype::F16);
            let halves = tensor.bytes.as_chunks::<2>().0.iter().map(|half| f16::from_le_bytes(*half));
            let numbers: Vec<bf16> = halves.map(|half| bf16::from_f32(half.to_f32())).collect();
            let rounded = numbers.iter().map(|x| f16::from_f32(x.to_f32()));
            assert!(rounded.clone().zip(&numbers).all(|(half, x)| half.to_f32() == x.to_f32()), "{name}");
            tensor.bytes = rounded.flat_map(|half| half.to_le_bytes()).collect();
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let shape = tensor.shape.clone();
            bfloats.tensors.insert(name.clone(), Tensor { dtype: Dtype::BF16, shape, bytes });
            changed += 1;
        }
        assert!(changed > 0);
        let [wanted, found] = models.map(|model| {
            model.write(root.path());
            trace(root.path(), &LoadOptions::default()).0
        });
        assert!(found == wanted, "{scheme:?}");
    }
}

/// The factor of a matrix in NVFP4 is a number or a list of one, in any type of floats.
#[test]
fn factors_of_nvfp4_may_be_floats_of_16_bits() {
    let root = tempfile::tempdir().unwrap();
    let published = Published::of(&source());
    for compressed in [false, true] {
        let ending = if compressed { ".weight_global_scale" } else { ".weight_scale_2" };
        let quantised = published.quantised(Scheme::Nvfp4 { compressed }).0;
        let logits = |store: &dyn Fn(f32) -> Tensor| {
            let mut model = quantised.clone();
            let mut changed = 0;
            for (_, factor) in model.tensors.iter_mut().filter(|(name, _)| name.ends_with(ending)) {
                *factor = store(factor.floats()[0]);
                changed += 1;
            }
            assert!(changed > 0);
            model.write(root.path());
            trace(root.path(), &LoadOptions::default()).0
        };
        // They are powers of two, which all of these types have.
        let wanted = logits(&|factor| Tensor::f32(&[1], &[factor]));
        let half = |factor: f32| {
            let bytes = f16::from_f32(factor).to_le_bytes().to_vec();
            Tensor { dtype: Dtype::F16, shape: vec![1], bytes }
        };
        assert!(logits(&|factor| Tensor::f32(&[], &[factor])) == wanted, "{ending}");
        assert!(logits(&|factor| Tensor::bf16(&[1], &[factor])) == wanted, "{ending}");
        assert!(logits(&|factor| Tensor::bf16(&[], &[factor])) == wanted, "{ending}");
        // One over a small one may be more than half precision has.
        assert!(compressed || logits(&half) == wanted, "{ending}");
        assert!(logits(&|factor| Tensor::bf16(&[], &[2.0 * factor])) != wanted, "{ending}");
        // Nothing is computed with 0, nor with one over a factor that is infinite.
        let refused = if compressed { 1e-39 } else { 0.0 };
        let mut model = quantised.clone();
        let (name, factor) = model.tensors.iter_mut().find(|(name, _)| name.ends_with(ending)).unwrap();
        *factor = Tensor::f32(&[1], &[refused]);
        let name = name.clone();
        model.write(root.path());
        let error = Prepared::open(root.path(), &LoadOptions::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains(&name), "{error}");
    }
}

/// Quantised matrices are as small in memory as they are in the files, whatever the order of their groups.
pub fn quantised_in_memory(scheme: Scheme, [quantised, twin]: &[PathBuf; 2]) {
    let slot = |path: &PathBuf| {
        let prepared = Prepared::open(path, &LoadOptions::default()).unwrap();
        prepared.plan().expert_slot.0 as f64
    };
    let share = slot(quantised) / slot(twin);
    let most = match scheme {
        // Narrow matrices of NVFP4 become BF16.
        Scheme::Fp8Blocks | Scheme::Fp8Tensor | Scheme::Fp8Modelopt { .. } => 0.35,
        Scheme::Nvfp4 { .. } | Scheme::Nvfp4Of32 => 0.35,
        Scheme::Gptq8 { .. } | Scheme::Int8 { .. } | Scheme::Mx { bits: 8, .. } => 0.35,
        Scheme::Gptq { .. }
        | Scheme::GptqFewBits { .. }
        | Scheme::Awq
        | Scheme::PackQuantized { .. }
        | Scheme::Mx { .. } => 0.25,
    };
    assert!(share < most, "{scheme:?}: an expert takes {share} of what it takes in F32");
}
