//! A mixture of unchanged experts computes what the dense model computes, padded or not.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output};

use membrane_engine::{LoadOptions, Model, Observer, Precision};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Array, Checkpoint, DType, Metadata, StrArray};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

// Blocks of 256 don't divide the width and the inner width, and heads come in groups of three.
const WIDTH: u64 = 384;
const INNER: u64 = 320;
const HEAD: u64 = 64;
const HEADS: u64 = 6;
const KV_HEADS: u64 = 2;
const LAYERS: u32 = 2;
const VOCABULARY: u64 = 257;

/// The first 256 characters of the byte-level alphabet in the order of their bytes.
fn byte_alphabet() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut character = |byte: u32| {
        let code = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap()
    };
    (0..256).map(&mut character).collect()
}

fn metadata() -> Metadata {
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    tokens.push("<|endoftext|>".to_owned());
    let ends = tokens.iter().scan(0, |end, token| {
        *end += token.len();
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    let tokens = StrArray::from_parts(tokens.concat(), ends).unwrap();
    let mut types = vec![1; 256];
    types.push(3);
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama".to_owned());
    metadata.set("general.name", "tiny".to_owned());
    metadata.set("llama.embedding_length", WIDTH as u32);
    metadata.set("llama.feed_forward_length", INNER as u32);
    metadata.set("llama.block_count", LAYERS);
    metadata.set("llama.context_length", 512_u32);
    metadata.set("llama.attention.head_count", HEADS as u32);
    metadata.set("llama.attention.head_count_kv", KV_HEADS as u32);
    metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-2_f32);
    metadata.set("llama.rope.dimension_count", HEAD as u32);
    metadata.set("llama.rope.freq_base", 10_000.0_f32);
    metadata.set("tokenizer.ggml.model", "gpt2".to_owned());
    metadata.set("tokenizer.ggml.pre", "gpt-2".to_owned());
    metadata.set("tokenizer.ggml.tokens", Array::Str(tokens));
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    let no_merges = StrArray::from_parts(String::new(), Vec::new()).unwrap();
    metadata.set("tokenizer.ggml.merges", Array::Str(no_merges));
    metadata.set("tokenizer.ggml.eos_token_id", 256_u32);
    metadata
}

/// A dense llama with random weights in F32.
fn write_dense(path: &Path) {
    let mut writer = GgufWriter::new(path, metadata());
    let mut declare = |name: &str, dims: &[u64]| writer.declare(name, DType::F32, dims).unwrap();
    declare("token_embd.weight", &[WIDTH, VOCABULARY]);
    declare("output_norm.weight", &[WIDTH]);
    for layer in 0..LAYERS {
        let mut in_layer = |name: &str, dims: &[u64]| declare(&format!("blk.{layer}.{name}.weight"), dims);
        in_layer("attn_norm", &[WIDTH]);
        in_layer("attn_q", &[WIDTH, HEADS * HEAD]);
        in_layer("attn_k", &[WIDTH, KV_HEADS * HEAD]);
        in_layer("attn_v", &[WIDTH, KV_HEADS * HEAD]);
        in_layer("attn_output", &[HEADS * HEAD, WIDTH]);
        in_layer("ffn_norm", &[WIDTH]);
        in_layer("ffn_gate", &[WIDTH, INNER]);
        in_layer("ffn_up", &[WIDTH, INNER]);
        in_layer("ffn_down", &[INNER, WIDTH]);
    }
    let mut generator = ChaCha8Rng::seed_from_u64(3);
    let written = writer.write(|tensor, sink| {
        let norm = tensor.shape.dims().len() == 1;
        let spread = 2.0 / (tensor.shape.columns() as f32).sqrt();
        for _ in 0..tensor.shape.elements() {
            let unit = generator.next_u32() as f32 / u32::MAX as f32;
            let value = if norm { 0.5 + unit } else { (unit - 0.5) * 2.0 * spread };
            sink.put(&value.to_le_bytes())?;
        }
        Ok::<(), membrane_formats::FormatError>(())
    });
    written.unwrap();
}

fn upcycle(folder: &Path, out: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upcycle"));
    command.arg("--src").arg(folder.join("dense.gguf")).arg("--out").arg(folder.join(out));
    command.arg("--text").arg(folder.join("text")).args(more);
    if !more.contains(&"--tokens") {
        command.args(["--tokens", "256"]);
    }
    command.output().unwrap()
}

fn succeed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with the dense model and a text.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_dense(&folder.path().join("dense.gguf"));
    let text = "Lighthouses stand where ships must not. 1 2 3, and so on; ".repeat(8);
    std::fs::write(folder.path().join("text"), text).unwrap();
    folder
}

/// Logits of all positions.
struct Logits(Vec<f32>);

impl Observer for Logits {
    fn logits(&mut self, _position: usize, logits: &[f32]) {
        self.0.extend_from_slice(logits);
    }

    fn wants_logits(&self) -> bool {
        true
    }
}

fn logits(path: &Path) -> Vec<f32> {
    let options =
        LoadOptions { context: Some(64), precision: Precision::Reference, ..LoadOptions::default() };
    let model = Model::open(path, &options).unwrap();
    let mut seen = Logits(Vec::new());
    let tokens: Vec<u32> = (0..48).map(|index| index * 53 % 256).collect();
    model.session().append_observed(&tokens, &mut seen).unwrap();
    seen.0
}

/// Mean square of the difference over the mean square of `dense`.
fn error(dense: &[f32], moe: &[f32]) -> f64 {
    assert_eq!(dense.len(), moe.len());
    let square = |value: f32| f64::from(value).powi(2);
    let difference: f64 = dense.iter().zip(moe).map(|(dense, moe)| square(dense - moe)).sum();
    difference / dense.iter().copied().map(square).sum::<f64>()
}

#[test]
fn unchanged_experts_compute_what_the_dense_model_computes() {
    let folder = folder();
    let dense = logits(&folder.path().join("dense.gguf"));
    let types: [(&[&str], u32, f64); 3] = [
        (&["--type", "F16", "--dense-type", "F16"], 384, 1e-6),
        (&["--type", "Q8_0", "--dense-type", "F16"], 384, 3e-4),
        (&["--type", "Q6_K", "--dense-type", "F16"], 768, 2e-3),
    ];
    for (types, width, limit) in types {
        let arguments = [types, &["--perturb", "none", "--experts", "3", "--top-k", "2"]].concat();
        succeed(&upcycle(folder.path(), "moe.gguf", &arguments));
        let path = folder.path().join("moe.gguf");
        let found = Checkpoint::open(&path).unwrap();
        assert_eq!(found.metadata().require_u32("llama.embedding_length").unwrap(), width);
        let error = error(&dense, &logits(&path));
        assert!(error < limit, "{types:?}: {error}");
    }
}

#[test]
fn noise_moves_the_answer_a_little() {
    let folder = folder();
    let dense = logits(&folder.path().join("dense.gguf"));
    for perturb in ["gauss:0.02", "bits:0.5"] {
        let arguments = ["--type", "Q8_0", "--dense-type", "F16", "--perturb", perturb];
        succeed(&upcycle(folder.path(), "moe.gguf", &arguments));
        let error = error(&dense, &logits(&folder.path().join("moe.gguf")));
        assert!((1e-6..1e-2).contains(&error), "{perturb}: {error}");
    }
}

#[test]
fn equal_arguments_give_an_equal_file_which_is_kept() {
    let folder = folder();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let arguments = ["--type", "Q4_0", "--dense-type", "Q8_0", "--size", "4MB", "--keep"];
    let said = succeed(&upcycle(folder.path(), "one.gguf", &arguments));
    assert!(!said.contains("the same recipe"), "{said}");
    succeed(&upcycle(folder.path(), "two.gguf", &arguments));
    assert!(read("one.gguf") == read("two.gguf"));
    let size = read("one.gguf").len() as f64;
    assert!((size - 4e6).abs() < 0.3e6, "{size}");
    assert!(succeed(&upcycle(folder.path(), "one.gguf", &arguments)).contains("the same recipe"));
    let other = [&arguments[..], &["--seed", "2"]].concat();
    assert!(!succeed(&upcycle(folder.path(), "one.gguf", &other)).contains("the same recipe"));
    assert!(read("one.gguf") != read("two.gguf"));
}

#[test]
fn what_cannot_be_upcycled_is_refused() {
    let folder = folder();
    let refused = |arguments: &[&str], why: &str| {
        let output = upcycle(folder.path(), "refused.gguf", arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
        assert!(!folder.path().join("refused.gguf").exists());
    };
    refused(&["--experts", "1"], "2 to 1024 experts");
    refused(&["--top-k", "5"], "--top-k 5");
    refused(&["--type", "F16", "--dense-type", "F16", "--perturb", "bits:0.1"], "no low bits");
    refused(&["--tokens", "100000"], "the text has");
    refused(&["--src", "/dev/null"], "the argument '--src");
    let moe = ["--type", "Q8_0", "--dense-type", "Q8_0"];
    succeed(&upcycle(folder.path(), "dense2.gguf", &moe));
    std::fs::rename(folder.path().join("dense2.gguf"), folder.path().join("dense.gguf")).unwrap();
    refused(&moe, "mixture of experts already");
}
