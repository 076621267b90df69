//! `membrane eval perplexity`: its figure is that of the logits which `membrane logits` writes.

use std::path::Path;

use membrane_formats::Checkpoint;
use membrane_text::Specials;
use safetensors::SafeTensors;

use crate::program::{MOE, fixture, membrane};

const TEXT: &str = "The old lighthouse keeper counted the ships each night, and wrote their names in a book that nobody \
                    read. One winter a ship came that was not in any register; he wrote down its number, put out his \
                    pipe and rang the bell until morning.\n";
const WINDOW: usize = 16;

/// Mean surprise of the tokens of a window's second half, computed from its logits in a file.
fn surprises(window: &[u32], folder: &Path) -> Vec<f64> {
    let ids: Vec<String> = window.iter().map(u32::to_string).collect();
    let out = folder.join("logits");
    let verb = ["logits", &fixture(MOE), "--tokens", &ids.join(","), "--out", out.to_str().unwrap()];
    membrane(&verb).good();
    let file = std::fs::read(out).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let logits: Vec<f64> = tensors
        .tensor("logits")
        .unwrap()
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect();
    let vocabulary = logits.len() / window.len();
    let surprise = |position: usize| {
        let row = &logits[position * vocabulary..][..vocabulary];
        row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[window[position + 1] as usize]
    };
    (WINDOW / 2..WINDOW - 1).map(surprise).collect()
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).unwrap();
    let tokenizer = membrane_engine::tokenizer(&Checkpoint::open(Path::new(&fixture(MOE))).unwrap()).unwrap();
    let tokens = tokenizer.encode(TEXT.trim_end(), Specials::AsText).unwrap();
    assert!(!tokenizer.add_bos() && tokens.len() > 3 * WINDOW, "{}", tokens.len());
    let verb = ["eval", "perplexity", &fixture(MOE), "--file", text.to_str().unwrap(), "--ctx", "16"];
    let report = membrane(&[&verb[..], &["--windows", "3", "--json"]].concat()).good();
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    let all: Vec<f64> =
        tokens.chunks_exact(WINDOW).take(3).flat_map(|window| surprises(window, folder.path())).collect();
    let expected = (all.iter().sum::<f64>() / all.len() as f64).exp();
    let found = report["perplexity"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} is not {expected}");
    assert_eq!(report["scored"], 21);
    assert_eq!((report["windows"].as_u64(), report["window"].as_u64()), (Some(3), Some(16)));
    assert!(report["error"].as_f64().unwrap() > 0.0);
    let words = membrane(&[&verb[..], &["--windows", "3"]].concat()).good();
    assert!(words.stdout.starts_with(&format!("perplexity {found:.4} +/- ")), "{}", words.stdout);
}

#[test]
fn what_can_not_be_measured_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT).unwrap();
    let model = fixture(MOE);
    let verb =
        |ctx: &str| membrane(&["eval", "perplexity", &model, "--file", text.to_str().unwrap(), "--ctx", ctx]);
    verb("512").failed_saying(&["text.txt", "two windows of 512"]);
    verb("3").failed_saying(&["--ctx 3", "at least 4"]);
    std::fs::write(&text, b"\xFF\xFE").unwrap();
    verb("16").failed_saying(&["text.txt", "UTF-8"]);
    let missing = folder.path().join("missing");
    membrane(&["eval", "perplexity", &model, "--file", missing.to_str().unwrap()])
        .failed_saying(&["missing"]);
}
