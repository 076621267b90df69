//! `membrane model inspect` and `membrane doctor`.

use std::fs;
use std::os::unix::fs::symlink;

use membrane_formats::{Array, StrArray};
use membrane_profile::Digest;
use serde_json::{Value, json};

use crate::program::{MOE, changed, fixture, membrane};

#[test]
fn a_model_is_described() {
    let run = membrane(&["model", "inspect", &fixture(MOE)]).good();
    for part in [
        "GGUF version 3",
        "architecture: qwen3moe",
        "24 experts",
        "Q8_0",
        "memory plan, without what plugins take:",
        "tokenizer.ggml.model",
    ] {
        assert!(run.stdout.contains(part), "`{part}` is not in:\n{}", run.stdout);
    }
}

#[test]
fn a_model_is_described_in_json() {
    let run = membrane(&["model", "inspect", &fixture(MOE), "--json", "--memory", "1GiB"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["architecture"], "qwen3moe");
    assert_eq!(report["problem"], Value::Null);
    assert_eq!(report["plan"]["budget"], 1 << 30);
    assert_eq!(report["plan"]["experts"], 4 * 24);
    let of_types: u64 =
        report["tensors"].as_object().unwrap().values().map(|t| t["parameters"].as_u64().unwrap()).sum();
    assert_eq!(report["parameters"].as_u64().unwrap(), of_types);
    assert_eq!(report["metadata"]["general.architecture"], "qwen3moe");
}

#[test]
fn arrays_are_shown_by_type_length_and_first_elements() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed(MOE, folder.path(), |metadata| {
        metadata.set("x.bytes", Array::U8(vec![7; 60_000]));
        metadata.set("x.short", Array::F32(vec![0.5, 1e-6]));
        metadata.set("x.flags", Array::Bool([true, false].repeat(10)));
        metadata.set("x.text", "word ".repeat(100) + "\x1b[2J");
        metadata.set("x.words", ["\u{9b}31m"].repeat(30).into_iter().collect::<StrArray>());
    });
    let run = membrane(&["model", "inspect", &model]).good();
    for line in [
        "  x.bytes = [u8; 60000] 7, 7, 7, 7, ...\n",
        "  x.short = [f32; 2] 0.5, 0.000001\n",
        "  x.flags = [bool; 20] true, false, true, false, ...\n",
        "  x.text = \"word word ",
        "  tokenizer.ggml.tokens = [str; 1024] \"!\", \"\\\"\", \"#\", \"$\", ...\n",
    ] {
        assert!(run.stdout.contains(line), "`{line}` is not in:\n{}", run.stdout);
    }
    assert!(run.stdout.lines().all(|line| line.chars().count() < 200), "{}", run.stdout);
    assert!(run.stdout.chars().all(|c| !c.is_control() || c == '\n'));

    let run = membrane(&["model", "inspect", &model, "--json"]).good();
    assert!(run.stdout.chars().all(|c| !c.is_control() || c == '\n'));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let metadata = &report["metadata"];
    assert_eq!(metadata["x.bytes"], json!({"type": "u8", "len": 60_000, "first": [7, 7, 7, 7]}));
    assert_eq!(metadata["x.short"], json!([0.5, 0.000001]));
    assert_eq!(metadata["x.words"]["first"][3], "\u{9b}31m");
    assert_eq!(metadata["x.text"].as_str().unwrap().len(), 504);
    assert_eq!(metadata["tokenizer.ggml.tokens"]["len"], 1024);
}

#[test]
fn a_budget_that_is_too_small_is_a_finding() {
    let run = membrane(&["model", "inspect", &fixture(MOE), "--memory", "8MiB"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("no memory plan: --memory 8MiB"), "{}", run.stdout);
}

#[test]
fn the_doctor_reports() {
    let run = membrane(&["doctor", "--json", "--disk", &fixture(MOE)]);
    assert!(run.code == Some(0) || run.code == Some(1), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(report["processors"].as_u64().unwrap() > 0);
    assert!(report["memory_read_gb_s"].as_f64().unwrap() > 0.1);
    let plugins = report["first_party_plugins"].as_array().unwrap();
    let names: Vec<&str> = plugins.iter().map(|plugin| plugin["name"].as_str().unwrap()).collect();
    for name in ["standard-sampler", "greedy", "mirostat", "system-prompt", "guard", "calculator", "clock"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(report["plugin_contract"], "membrane:plugin@0.1.0");

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = membrane(&["doctor", "--disk", pipe.to_str().unwrap()]);
    assert!(run.stdout.contains("not a regular file"), "{}", run.stdout);
}

#[test]
fn a_hybrid_is_described_with_its_states() {
    let inspect = membrane(&["model", "inspect", &fixture("tiny-qwen35moe-Q8_0.gguf")]).good();
    for words in [
        "architecture: qwen35moe",
        "8 blocks, width 128, 4 query and 2 kv heads of 32, gated in 2 blocks, delta-nets of 2 key heads of 32 and 4 value \
         heads of 32, convolution 4, in 6",
        "16 experts of 32, 4 a token, a shared expert of 32",
        "recurrent states",
        "1 at a time and 8 checkpoints",
    ] {
        assert!(inspect.stdout.contains(words), "{words}: {}", inspect.stdout);
    }
}

#[test]
fn quantisation_tokenizer_and_template_are_named_with_digests() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed(MOE, folder.path(), |_| ());
    let found = Digest::of(&std::fs::read(&model).unwrap()).to_string();
    let run = membrane(&["model", "inspect", &model]).good();
    for part in [
        &found[..],
        "quantisation: Q8_0 9",
        "tokenizer: byte-level BPE, cut as qwen2, 1024 tokens\n  sha256:",
        "chat template: that of Qwen3, ",
    ] {
        assert!(run.stdout.contains(part), "`{part}` is not in:\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("unusual:") && !run.stdout.contains("remembered"), "{}", run.stdout);
    let run = membrane(&["model", "inspect", &model, "--json"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&report["files"][0]["digest"], &report["files"][0]["remembered"]),
        (&json!(found), &json!(true))
    );
    // Those of the lock and of `model verify`.
    let run = membrane(&["model", "verify", &model, "--json"]);
    let verified: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["tokenizer"]["digest"], verified["tokenizer"]);
    assert_eq!(report["chat_template"]["digest"], verified["chat_template"]);

    // A touched file is read again, and a template with one character more is nobody's.
    let model = changed(MOE, folder.path(), |metadata| {
        let template = metadata.str("tokenizer.chat_template").unwrap().unwrap().to_owned();
        metadata.set("tokenizer.chat_template", format!("{template}."));
    });
    let run = membrane(&["model", "inspect", &model, "--json"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(report["files"][0]["digest"] != json!(found) && report["files"][0]["remembered"] == json!(false));
    assert_eq!(report["chat_template"]["known"], Value::Null);
    assert!(report["unusual"][0].as_str().unwrap().contains("template"), "{}", report["unusual"]);
}

/// Characters that say in which order others are shown.
const TURNING: &str =
    "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{200e}\u{200f}\u{61c}";

#[test]
fn nothing_in_a_file_turns_the_order_of_what_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let turned = |c: char| format!("gnp{c}exe");
    let model = changed(MOE, folder.path(), |metadata| {
        for (number, c) in TURNING.chars().enumerate() {
            metadata.set(&format!("x.{number}.{}", turned(c)), turned(c));
        }
        metadata.set("x.words", TURNING.chars().take(4).map(turned).collect::<StrArray>());
        metadata.set("general.name", turned('\u{202e}'));
        metadata.set("tokenizer.chat_template", turned('\u{202e}'));
    });
    let run = membrane(&["model", "inspect", &model]).good();
    assert!(run.stdout.contains("gnp") && run.stdout.contains("x.11."), "{}", run.stdout);
    assert!(!run.stdout.contains(|c| TURNING.contains(c)), "{:?}", run.stdout);
    // What can't be run is told in words of the file.
    let model = changed(MOE, folder.path(), |metadata| {
        metadata.set("general.architecture", turned('\u{202e}'));
    });
    let run = membrane(&["model", "inspect", &model]);
    let said = run.stdout.clone() + &run.stderr;
    assert!(said.contains("gnp") && !said.contains(|c| TURNING.contains(c)), "{said:?}");
}

#[test]
fn a_chat_template_that_is_no_text_is_named_and_is_not_none() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed(MOE, folder.path(), |metadata| metadata.set("tokenizer.chat_template", 7_u32));
    let run = membrane(&["model", "inspect", &model, "--json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let unusual: Vec<&str> =
        report["unusual"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let of_template: Vec<&&str> = unusual.iter().filter(|line| line.contains("template")).collect();
    assert_eq!(of_template.len(), 1, "{unusual:?}");
    for words in ["the chat template can't be read", "tokenizer.chat_template", "string"] {
        assert!(of_template[0].contains(words), "{words}: {unusual:?}");
    }
    assert_eq!(report["chat_template"], Value::Null);
    let run = membrane(&["run", &model, "Hello", "-n", "1"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("tokenizer.chat_template"), "{}", run.stderr);
}

#[test]
fn links_of_a_hub_are_usual_in_folders_of_its_snapshots_too_and_others_are_told() {
    let root = tempfile::tempdir().unwrap();
    let repository = root.path().join("models--org--name");
    let blob = repository.join("blobs/0123");
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::copy(fixture(MOE), &blob).unwrap();
    let links = |place: &std::path::Path, target: &std::path::Path| -> Vec<String> {
        fs::create_dir_all(place).unwrap();
        let path = place.join("m.gguf");
        symlink(target, &path).unwrap();
        let run = membrane(&["model", "inspect", path.to_str().unwrap(), "--json"]).good();
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let unusual = report["unusual"].as_array().unwrap().iter();
        unusual.map(|line| line.as_str().unwrap().to_owned()).filter(|line| line.contains("link")).collect()
    };
    let snapshot = repository.join("snapshots/abc");
    assert_eq!(links(&snapshot, &blob), [""; 0]);
    assert_eq!(links(&snapshot.join("Q8_0"), "../../../blobs/0123".as_ref()), [""; 0]);
    assert_eq!(links(&snapshot.join("a/b"), &blob), [""; 0]);
    // Another repository's blobs, and a folder that is no hub's.
    let other = root.path().join("models--org--other/snapshots/abc");
    for place in [other, root.path().join("plain")] {
        let told = links(&place, &blob);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("m.gguf is a link to") && told[0].contains("blobs/0123"), "{told:?}");
    }
}

#[test]
fn a_conversation_that_does_not_begin_as_texts_do_is_unusual() {
    let folder = tempfile::tempdir().unwrap();
    let told = |add: Option<bool>, template: Option<&str>| -> Vec<String> {
        let model = changed(MOE, folder.path(), |metadata| {
            let tokens = metadata.str_array("tokenizer.ggml.tokens").unwrap().unwrap();
            let begin = tokens.iter().position(|token| token == "<|endoftext|>").unwrap();
            metadata.set("tokenizer.ggml.bos_token_id", begin as u32);
            match add {
                Some(add) => metadata.set("tokenizer.ggml.add_bos_token", add),
                None => drop(metadata.remove("tokenizer.ggml.add_bos_token")),
            }
            if let Some(template) = template {
                metadata.set("tokenizer.chat_template", template);
            }
        });
        let run = membrane(&["model", "inspect", &model, "--json"]).good();
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let lines = report["unusual"].as_array().unwrap().iter();
        let lines = lines.map(|line| line.as_str().unwrap().to_owned());
        lines.filter(|line| line.contains("before a text")).collect()
    };
    let lines = told(Some(true), None);
    assert!(lines.len() == 1 && lines[0].contains("`<|endoftext|>`"), "{lines:?}");
    assert_eq!(told(Some(false), None), [""; 0]);
    assert_eq!(told(None, None), [""; 0]);
    for template in ["{{ bos_token }}{{ messages[0].content }}", "<|endoftext|>{{ messages[0].content }}"] {
        assert_eq!(told(Some(true), Some(template)), [""; 0]);
    }
}

#[test]
fn a_file_that_does_not_say_how_texts_are_cut_is_unusual() {
    let folder = tempfile::tempdir().unwrap();
    let report = |architecture: Option<&str>| {
        let model = changed(MOE, folder.path(), |metadata| {
            metadata.remove("tokenizer.ggml.pre");
            if let Some(architecture) = architecture {
                metadata.set("general.architecture", architecture);
            }
        });
        let run = membrane(&["model", "inspect", &model, "--json"]);
        serde_json::from_str::<Value>(&run.stdout).unwrap()
    };
    for (architecture, pre) in [(None, "default"), (Some("qwen2"), "qwen2")] {
        let report = report(architecture);
        assert_eq!(report["tokenizer"]["pre"], pre);
        let lines = report["unusual"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        let named: Vec<&str> = lines.filter(|line| line.contains("tokenizer.ggml.pre")).collect();
        assert!(named.len() == 1 && named[0].contains(&format!("`{pre}`")), "{named:?}");
    }
}
