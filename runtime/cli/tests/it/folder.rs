//! Models in folders as they are published: the verbs that take a model take them, and name what is wrong with one.

#[path = "../../../../tests/tests/folders/publish.rs"]
#[allow(dead_code, reason = "the tests of the engine use more of it")]
mod publish;

use std::path::Path;

use publish::{Published, Scheme};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{fixture, membrane};

/// The fixture that folders are made of.
const SOURCE: &str = "tiny-qwen3moe-BF16.gguf";

fn published() -> Published {
    Published::of(Path::new(&fixture(SOURCE)))
}

fn folder(change: impl FnOnce(&mut Published)) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut model = published();
    change(&mut model);
    model.write_sharded(folder.path(), 2);
    let path = folder.path().to_str().unwrap().to_owned();
    (folder, path)
}

fn logits(model: &str, flags: &[&str]) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.safetensors");
    let verb = ["logits", model, "--tokens", "5,900,17,33", "--out", path.to_str().unwrap()];
    membrane(&[&verb[..], flags].concat()).good();
    let file = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&file).unwrap().tensor("logits").unwrap().data().to_vec()
}

#[test]
fn a_folder_is_described() {
    let (_kept, path) = folder(|_| {});
    let run = membrane(&["model", "inspect", &path]).good();
    for part in [
        "model-00001-of-00002.safetensors",
        "config.json",
        "safetensors, ",
        "architecture: qwen3moe",
        "24 experts",
        "BF16",
    ] {
        assert!(run.stdout.contains(part), "`{part}` is not in:\n{}", run.stdout);
    }
    let run = membrane(&["model", "inspect", &path, "--json"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["format"], &report["gguf_version"]), (&json!("safetensors"), &Value::Null));
    assert_eq!(report["plan"]["experts"], 4 * 24);
}

#[test]
fn logits_are_those_of_the_file_that_the_folder_was_made_of() {
    let (_kept, path) = folder(|_| {});
    assert!(logits(&path, &["--reference"]) == logits(&fixture(SOURCE), &["--reference"]));
    let (_kept, path) = folder(|model| *model = model.quantised(Scheme::Fp8Blocks).0);
    let whole = logits(&path, &[]);
    assert!(whole == logits(&path, &["--threads", "1", "--prefill-chunk", "2"]));
    assert!(whole != logits(&fixture(SOURCE), &[]));
}

#[test]
fn a_folder_runs_and_is_measured() {
    let (_kept, path) = folder(|_| {});
    let flags = ["--max-tokens", "6", "--seed", "3"];
    let run = |model: &str| membrane(&[&["run", model, "Hello"], &flags[..]].concat()).good().stdout;
    // The folder has a template of its own, which gives the text as it is; so does the flag for the file.
    assert!(!run(&path).is_empty());
    let run = membrane(&["bench", &path, "--prompt", "8", "--decode", "4", "--json"]).good();
    let figures: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(figures["runs"][0]["speed"]["decode"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_lock_pins_every_file_of_a_folder() {
    let (kept, path) = folder(|_| {});
    let profile = kept.path().join("profile.toml");
    std::fs::write(&profile, "[generation]\nmax_tokens = 4\n").unwrap();
    let profile = profile.to_str().unwrap();
    membrane(&["profile", "lock", profile, "--model", &path]).good();
    membrane(&["profile", "check", profile, "--model", &path]).good();
    for name in [
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "model-00002-of-00002.safetensors",
    ] {
        let place = kept.path().join(name);
        let before = std::fs::read(&place).unwrap();
        let mut changed = before.clone();
        match name.ends_with("safetensors") {
            true => *changed.last_mut().unwrap() ^= 1,
            false => changed.push(b' '),
        }
        std::fs::write(&place, changed).unwrap();
        let run = membrane(&["profile", "check", profile, "--model", &path]);
        assert!(run.code != Some(0), "{name}: {}", run.stdout);
        assert!(
            format!("{}{}", run.stdout, run.stderr).contains(name),
            "{name}: {} {}",
            run.stdout,
            run.stderr
        );
        std::fs::write(&place, before).unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";
    const EXPERT: &str = "model.layers.2.mlp.experts.7.up_proj.weight";
    let refused = |change: &dyn Fn(&mut Published), parts: &[&str]| {
        let (_kept, path) = folder(change);
        membrane(&["run", &path, "Hello"]).failed_saying(parts);
    };
    refused(&|model| model.config["model_type"] = json!("qwen9"), &["qwen9", "supported are"]);
    for name in [QUERY, EXPERT, "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"] {
        refused(&|model| drop(model.tensors.remove(name)), &[name, "missing"]);
    }
    for (key, value) in [
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1u64 << 31)),
        ("num_attention_heads", json!(0)),
        ("num_experts_per_tok", json!(25)),
        ("vocab_size", json!(7)),
        ("rms_norm_eps", json!(-1)),
    ] {
        refused(&|model| model.config[key] = value.clone(), &[key]);
    }
    refused(&|model| model.config["hidden_size"] = json!(64), &["model.embed_tokens.weight", "shape"]);
    refused(
        &|model| model.config["rope_scaling"] = json!({"rope_type": "longrope"}),
        &["rope_scaling", "longrope"],
    );
    refused(&|model| model.tokenizer["model"]["type"] = json!("Unigram"), &["Unigram"]);
    refused(&|model| model.tokenizer["added_tokens"][0]["id"] = json!(5000), &["5001", "1024 rows"]);
    refused(
        &|model| model.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(a+)+$"),
        &["(a+)+$"],
    );
}

#[test]
fn what_is_wrong_with_quantised_matrices_is_named() {
    const EXPERT: &str = "model.layers.2.mlp.experts.7.up_proj.";
    const QUERY: &str = "model.layers.1.self_attn.q_proj.";
    let gptq = Scheme::Gptq { v2: false, symmetric: true, act_order: false };
    let refused = |scheme: Scheme, change: &dyn Fn(&mut Published), parts: &[&str]| {
        let (_kept, path) = folder(|model| {
            *model = model.quantised(scheme).0;
            change(model);
        });
        membrane(&["run", &path, "Hello"]).failed_saying(parts);
    };
    for base in [EXPERT, QUERY] {
        for (scheme, part) in [
            (Scheme::Fp8Blocks, "weight_scale_inv"),
            (gptq, "qzeros"),
            (gptq, "scales"),
            (Scheme::Awq, "scales"),
            (Scheme::Nvfp4 { compressed: false }, "weight_scale_2"),
            (Scheme::Nvfp4 { compressed: true }, "weight_global_scale"),
        ] {
            let name = format!("{base}{part}");
            refused(scheme, &|model| drop(model.tensors.remove(&name)), &[&name, "missing"]);
            let cut = |model: &mut Published| {
                let tensor = model.tensors.get_mut(&name).unwrap();
                // A row, or an element, more than there should be.
                let shape = &mut tensor.shape;
                if shape.is_empty() {
                    shape.push(1)
                }
                let row = tensor.bytes.len() / shape[0];
                shape[0] += 1;
                let more = tensor.bytes[..row].to_vec();
                tensor.bytes.extend(more);
            };
            refused(scheme, &cut, &[base]);
        }
        let spoil = |part: &str, byte: u8| {
            let name = format!("{base}{part}");
            move |model: &mut Published| model.tensors.get_mut(&name).unwrap().bytes[0] = byte
        };
        refused(gptq, &spoil("g_idx", 99), &["g_idx", base.trim_end_matches("7.up_proj.")]);
        refused(gptq, &spoil("qzeros", 0), &["zero point is not 8"]);
        refused(Scheme::Nvfp4 { compressed: false }, &spoil("weight_scale", 0x7F), &["scale of a block"]);
    }
}
