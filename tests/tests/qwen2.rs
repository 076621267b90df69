//! Dense Qwen2 has no reference file. It is Qwen2-MoE, which has, with its mixture replaced by one gated unit: so a mixture
//! of one expert beside a shared expert that gives nothing must have the same logits.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use membrane_engine::{LoadOptions, Precision, Prepared};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, FormatError, Metadata};
use membrane_tests::workspace;

const EXPERT: &str = "qwen2moe.expert_feed_forward_length";

/// A file with tensors of the fixture: the name of each in the file, or none to leave it out; of what lies in experts, the
/// first one; what `silent` names is zeros.
fn written(
    path: PathBuf,
    metadata: Metadata,
    name: impl Fn(&str) -> Option<String>,
    silent: &str,
    source: &Checkpoint,
) -> PathBuf {
    let experts = u64::from(source.metadata().require_u32("qwen2moe.expert_count").unwrap());
    let mut writer = GgufWriter::new(&path, metadata);
    let mut sources = Vec::new();
    for tensor in source.tensors() {
        let Some(name) = name(&tensor.name) else { continue };
        let dims = tensor.shape.dims();
        let first: Vec<u64> = match dims.split_last() {
            Some((&last, rest)) if last == experts && !rest.is_empty() => [rest, &[1]].concat(),
            _ => dims.to_vec(),
        };
        writer.declare(&name, tensor.dtype, &first).unwrap();
        sources.push(tensor);
    }
    let mut sources = sources.into_iter();
    let written = writer.write::<FormatError>(|info, sink| {
        let mut bytes = vec![0; info.bytes as usize];
        let tensor = sources.next().unwrap();
        if !tensor.name.contains(silent) {
            source.read(tensor, 0, &mut bytes)?;
        }
        sink.put(&bytes)
    });
    written.unwrap();
    path
}

fn logits(path: &Path) -> Vec<u32> {
    // By itself a dense model rounds activations to 8 bits, and a mixture of one expert does not.
    let precision = Precision::Int16;
    let options = LoadOptions { context: Some(128), threads: Some(2), precision, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(path).unwrap().into();
    let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
    let mut session = model.session();
    session.append(&[5, 17, 900, 3, 3, 512, 77]).unwrap();
    session.append(&[12]).unwrap();
    session.logits().iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn dense_qwen2_is_a_mixture_of_one() {
    let source = Checkpoint::open(&workspace().join("tests/fixtures/gguf/tiny-qwen2moe-Q8_0.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut of_one = source.metadata().clone();
    of_one.set("qwen2moe.expert_count", 1_u32);
    of_one.set("qwen2moe.expert_used_count", 1_u32);
    let mixture =
        written(folder.path().join("mixture.gguf"), of_one, |name| Some(name.into()), "down_shexp", &source);
    // What sees is the same in a text.
    for (architecture, sections) in [("qwen2", None), ("qwen2vl", Some(vec![8_u32, 4, 4, 0]))] {
        let mut dense = Metadata::default();
        dense.set("general.architecture", architecture);
        for (key, value) in source.metadata().iter() {
            if let Some(key) = key.strip_prefix("qwen2moe.").filter(|key| !key.starts_with("expert_")) {
                dense.set(&format!("{architecture}.{key}"), value.clone());
            }
        }
        let inner = source.metadata().require_u32(EXPERT).unwrap();
        dense.set(&format!("{architecture}.feed_forward_length"), inner);
        if let Some(sections) = sections {
            dense.set(&format!("{architecture}.rope.dimension_sections"), Array::U32(sections));
        }
        let name = |name: &str| match name {
            _ if name.contains("_shexp") || name.contains("ffn_gate_inp") => None,
            _ => Some(name.replace("_exps", "")),
        };
        let dense = written(folder.path().join("dense.gguf"), dense, name, "nothing is silent", &source);
        assert!(logits(&dense) == logits(&mixture), "{architecture}");
    }
}

#[test]
fn biases_of_queries_keys_and_values_must_be_there() {
    let source = Checkpoint::open(&workspace().join("tests/fixtures/gguf/tiny-qwen2moe-Q8_0.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for part in ["blk.1.attn_q.bias", "blk.0.attn_k.bias", "blk.1.attn_v.bias"] {
        let mut of_one = source.metadata().clone();
        of_one.set("qwen2moe.expert_count", 1_u32);
        of_one.set("qwen2moe.expert_used_count", 1_u32);
        let name = |name: &str| (name != part).then(|| name.to_owned());
        let path = written(folder.path().join("m.gguf"), of_one, name, "nothing is silent", &source);
        let checkpoint = Checkpoint::open(&path).unwrap().into();
        let error = Prepared::without_text(checkpoint, &LoadOptions::default()).map(drop).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
