//! DeepSeek-V3 and gpt-oss against the reference outputs of their checkpoints in BF16: logits, routers, greedy continuations. The
//! files are converted here, as the converter that users have does it; where the reference is not there, there is nothing to
//! compare with.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use membrane_engine::{LoadOptions, Model, Observer, Precision, Prepared};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, DType, FormatError};
use membrane_tests::golden::{Golden, distance};
use membrane_tests::references;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

/// Checkpoints, the GGUF files whose numbers are theirs, and the largest difference of logits.
const MODELS: [(&str, &str, f32); 2] =
    [("tiny-deepseekv3", "tiny-deepseekv3-Q8_0", 5e-3), ("tiny-gptoss", "tiny-gptoss-MXFP4_MOE", 2e-3)];
/// Router choices count where the last chosen expert is ahead of the first rejected one by more than this.
const ROUTER_MARGIN: f32 = 1e-3;

/// Parts of names in the checkpoint, and what GGUF files call them.
const PARTS: [(&str, &str); 33] = [
    ("lm_head.weight", "output.weight"),
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.router.", "ffn_gate_inp."),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    ("mlp.experts.gate_proj_bias", "ffn_gate_exps.bias"),
    ("mlp.experts.up_proj_bias", "ffn_up_exps.bias"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("self_attn.k_b", "attn_k_b"),
    ("self_attn.v_b", "attn_v_b"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// A tensor on its way: as in the checkpoint, the contiguous dimension last.
struct Tensor {
    name: String,
    dims: Vec<usize>,
    elements: Vec<f32>,
}

fn read(folder: &Path) -> Vec<Tensor> {
    let data = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&data).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let elements = match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::BF16 => {
                let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                view.data().as_chunks().0.iter().map(wide).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        Tensor { name, dims: view.shape().to_vec(), elements }
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// Experts that are tensors of their own become one tensor.
fn stacked(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let mut out: Vec<Tensor> = Vec::new();
    let number = |name: &str| -> Option<(String, usize)> {
        let (before, behind) = name.split_once("mlp.experts.")?;
        let (number, part) = behind.split_once('.')?;
        Some((format!("{before}mlp.experts.{part}"), number.parse().ok()?))
    };
    let (mut experts, others): (Vec<Tensor>, Vec<Tensor>) =
        tensors.into_iter().partition(|tensor| number(&tensor.name).is_some());
    experts.sort_by_key(|tensor| number(&tensor.name));
    for Tensor { name, dims, elements } in experts {
        let (name, _) = number(&name).unwrap();
        match out.last_mut().filter(|last| last.name == name) {
            Some(all) => {
                all.dims[0] += 1;
                all.elements.extend(elements);
            }
            None => out.push(Tensor { name, dims: [&[1], &dims[..]].concat(), elements }),
        }
    }
    out.extend(others);
    out
}

/// What the converter cuts, turns and takes apart.
fn converted(tensor: Tensor, heads: usize, plain: usize) -> Vec<Tensor> {
    let Tensor { name, dims, elements } = tensor;
    if let Some(before) = name.strip_suffix("kv_b_proj.weight") {
        // A head's rows make its keys, those behind them its values. The matrix of keys is transposed.
        let (rank, rows) = (dims[1], dims[0] / heads);
        let head = |head: usize| &elements[head * rows * rank..(head + 1) * rows * rank];
        let keys = |h: usize| (0..rank).flat_map(move |j| (0..plain).map(move |i| head(h)[i * rank + j]));
        let values = (0..heads).flat_map(|h| head(h)[plain * rank..].iter().copied()).collect();
        return vec![
            Tensor {
                name: format!("{before}k_b.weight"),
                dims: vec![heads, rank, plain],
                elements: (0..heads).flat_map(keys).collect(),
            },
            Tensor {
                name: format!("{before}v_b.weight"),
                dims: vec![heads, rows - plain, rank],
                elements: values,
            },
        ];
    }
    let fused = name.contains("experts.gate_up_proj");
    if !fused && !name.ends_with("experts.down_proj") {
        return vec![Tensor { name, dims, elements }];
    }
    // Matrices of experts are [experts, inputs, outputs]; gates and ups take turns as outputs.
    let (dims, elements) = if dims.len() == 3 {
        let (inputs, outputs) = (dims[1], dims[2]);
        let turned = |expert: &[f32]| -> Vec<f32> {
            (0..outputs).flat_map(|o| (0..inputs).map(move |i| expert[i * outputs + o])).collect()
        };
        (vec![dims[0], outputs, inputs], elements.chunks(inputs * outputs).flat_map(turned).collect())
    } else {
        (dims, elements)
    };
    let named = |name: String| if name.ends_with("bias") { name } else { format!("{name}.weight") };
    if !fused {
        return vec![Tensor { name: named(name), dims, elements }];
    }
    let width = dims.get(2).copied().unwrap_or(1);
    let half = |which: usize, part: &str| {
        let rows = elements.chunks(width).skip(which).step_by(2).flatten().copied().collect();
        let mut dims = dims.clone();
        dims[1] /= 2;
        Tensor { name: named(name.replace("gate_up_proj", part)), dims, elements: rows }
    };
    vec![half(0, "gate_proj"), half(1, "up_proj")]
}

fn renamed(name: &str, gpt_oss: bool) -> String {
    let mut name = name.to_owned();
    // The longest part first: some begin like others.
    let mut parts = PARTS;
    parts.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    for (from, to) in parts {
        let to = if gpt_oss && to == "ffn_norm" { "post_attention_norm" } else { to };
        name = name.replace(from, to);
    }
    name
}

/// Writes the checkpoint in BF16 (vectors in f32), with the numbers of a GGUF file of it.
fn convert(folder: &Path, numbers: &Path, out: &Path) {
    let metadata = Checkpoint::open(numbers).unwrap().metadata().clone();
    let gpt_oss = metadata.require_str("general.architecture").unwrap() == "gpt-oss";
    let number = |key: &str| metadata.u32(&format!("deepseek2.{key}")).unwrap().unwrap_or(0) as usize;
    let (heads, plain) =
        (number("attention.head_count"), number("attention.key_length_mla") - number("rope.dimension_count"));
    let tensors = stacked(read(folder)).into_iter().flat_map(|tensor| converted(tensor, heads, plain));
    let tensors: Vec<Tensor> = tensors.collect();
    let mut writer = GgufWriter::new(out, metadata.clone());
    let is_vector = |tensor: &Tensor| tensor.dims.len() == 1 || tensor.name.contains("bias");
    for tensor in &tensors {
        let dims: Vec<u64> = tensor.dims.iter().rev().map(|&dim| dim as u64).collect();
        let dtype = if is_vector(tensor) { DType::F32 } else { DType::BF16 };
        writer.declare(&renamed(&tensor.name, gpt_oss), dtype, &dims).unwrap();
    }
    let mut written = tensors.iter();
    let put = writer.write(|_, sink| -> Result<(), FormatError> {
        let tensor = written.next().unwrap();
        let bytes: Vec<u8> = match is_vector(tensor) {
            true => tensor.elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
            false => {
                tensor.elements.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
        };
        sink.put(&bytes)
    });
    put.unwrap();
}

struct Case {
    name: &'static str,
    max_abs: f32,
    model: Model,
    golden: Golden,
    _folder: TempDir,
}

fn cases() -> Vec<Case> {
    let Some(root) = references().into_iter().find(|root| root.join("models/tiny-gptoss").is_dir()) else {
        println!("the reference checkpoints are not on this machine: nothing was compared");
        return Vec::new();
    };
    let case = |(name, numbers, max_abs): (&'static str, &str, f32)| {
        let folder = tempfile::tempdir().unwrap();
        let gguf: PathBuf = folder.path().join(format!("{name}-BF16.gguf"));
        convert(&root.join("models").join(name), &root.join(format!("gguf/{numbers}.gguf")), &gguf);
        let precision = Precision::Reference;
        let options =
            LoadOptions { precision, context: Some(512), threads: Some(2), ..LoadOptions::default() };
        let checkpoint = Checkpoint::open(&gguf).unwrap().into();
        let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
        let golden = Golden::read(&root.join(format!("golden/{name}.safetensors")));
        Case { name, max_abs, model, golden, _folder: folder }
    };
    MODELS.into_iter().map(case).collect()
}

/// What a pass shows: logits, and of each router's choices (layer, row, ids ascending).
#[derive(Default)]
struct Record {
    logits: Vec<f32>,
    router: Vec<(usize, usize, Vec<u32>)>,
}

impl Observer for Record {
    fn router(&mut self, layer: usize, rows: usize, ids: &[u32], _weights: &[f32]) {
        for (row, ids) in ids.chunks(ids.len() / rows).enumerate() {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            self.router.push((layer, row, ids));
        }
    }

    fn logits(&mut self, _position: usize, logits: &[f32]) {
        self.logits.extend_from_slice(logits);
    }

    fn wants_logits(&self) -> bool {
        true
    }
}

#[test]
fn logits_and_routers_are_the_references() {
    for case in cases() {
        let (mut compared, mut close) = (0, 0);
        for prompt in ["p1", "p7", "p64", "p300"] {
            let tokens = case.golden.ids(&format!("{prompt}.input_ids")).unwrap();
            let mut record = Record::default();
            case.model.session().append_observed(&tokens, &mut record).unwrap();
            let whole = case.golden.f32(&format!("{prompt}.logits"));
            let wanted = whole.or_else(|| case.golden.f32(&format!("{prompt}.logits_last16"))).unwrap();
            let vocabulary = record.logits.len() / tokens.len();
            let found = distance(&record.logits[record.logits.len() - wanted.len()..], &wanted, vocabulary);
            println!("{} {prompt}: {found:?}", case.name);
            assert!(found.max_abs < case.max_abs, "{} {prompt}: {found:?}", case.name);
            for (layer, row, ids) in &record.router {
                let wanted = case.golden.ids(&format!("{prompt}.router.{layer}.ids")).unwrap();
                let margin = case.golden.f32(&format!("{prompt}.router.{layer}.margin")).unwrap()[*row];
                if margin > ROUTER_MARGIN {
                    let wanted = &wanted[row * ids.len()..(row + 1) * ids.len()];
                    assert_eq!(ids, wanted, "{} {prompt} layer {layer} row {row}", case.name);
                    compared += 1;
                } else {
                    close += 1;
                }
            }
        }
        println!("{}: {compared} choices compared, {close} were too close", case.name);
        assert!(compared > 0, "{}", case.name);
    }
}

#[test]
fn greedy_continuations_are_the_references() {
    for case in cases() {
        for prompt in ["p7", "p64"] {
            let compared = case.golden.assert_greedy(&mut case.model.session(), prompt, case.name);
            println!("{} {prompt}: {compared} choices compared", case.name);
            assert!(compared > 0, "{} {prompt}: nothing was compared", case.name);
        }
    }
}
