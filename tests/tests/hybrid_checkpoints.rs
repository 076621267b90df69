//! Hybrid models against the reference outputs of their checkpoints in BF16: logits, routers, greedy continuations, recurrent
//! states. The files are converted here, since nobody keeps GGUF files in BF16 of these models; where the reference is not
//! there, there is nothing to compare with.

#![cfg(test)]
#![forbid(unsafe_code)]

#[path = "hybrid_checkpoints/convert.rs"]
mod convert;

use std::path::PathBuf;

use convert::{Heads, convert};
use membrane_engine::{FeedForward, LoadOptions, Mixer, Model, Precision, Prepared};
use membrane_formats::Checkpoint;
use membrane_tests::golden::Golden;
use membrane_tests::passes::{Record, largest_difference};
use membrane_tests::references;
use tempfile::TempDir;

/// Checkpoints, their names as GGUF files call them, and whether the inputs of delta-nets stay in one matrix.
const MODELS: [(&str, &str, bool); 4] = [
    ("tiny-qwen3next", "qwen3next", false),
    ("tiny-qwen3next", "qwen3next", true),
    ("tiny-qwen35moe", "qwen35moe", false),
    ("tiny-qwen35", "qwen35", false),
];
/// Largest difference of logits.
const LOGITS_MAX_ABS: f32 = 2e-3;
/// Largest difference of an element of a state.
const STATE_MAX_ABS: f32 = 1e-3;

/// A converted checkpoint with its golden outputs.
struct Case {
    name: &'static str,
    model: Model,
    heads: Heads,
    golden: Golden,
    _folder: TempDir,
}

fn cases() -> Vec<Case> {
    let found = references().into_iter().find(|root| root.join("models/tiny-qwen35moe").is_dir());
    let Some(root) = found else {
        println!("the reference checkpoints are not on this machine: nothing was compared");
        return Vec::new();
    };
    let case = |(name, architecture, fused): (&'static str, &str, bool)| {
        let folder = tempfile::tempdir().unwrap();
        let gguf: PathBuf = folder.path().join(format!("{name}-BF16.gguf"));
        let heads = convert(&root.join("models").join(name), architecture, fused, &gguf);
        let golden = Golden::read(&root.join(format!("golden/{name}.safetensors")));
        let precision = Precision::Reference;
        let options =
            LoadOptions { precision, context: Some(512), threads: Some(2), ..LoadOptions::default() };
        let checkpoint = Checkpoint::open(&gguf).unwrap().into();
        let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
        Case { name, model, heads, golden, _folder: folder }
    };
    MODELS.into_iter().map(case).collect()
}

#[test]
fn logits_are_the_references() {
    for case in cases() {
        for prompt in ["p1", "p7", "p64", "p300"] {
            let tokens = case.golden.ids(&format!("{prompt}.input_ids")).unwrap();
            let record = Record::of(&case.model, &tokens);
            let found = record.distance(&case.golden, prompt, record.logits.len() / tokens.len());
            println!("{} {prompt}: {found:?}", case.name);
            assert!(found.max_abs < LOGITS_MAX_ABS, "{} {prompt}: {found:?}", case.name);
        }
    }
}

#[test]
fn routers_choose_the_same_experts() {
    for case in cases() {
        let layers = &case.model.hyperparameters().layers;
        let moes = layers.iter().filter(|layer| matches!(layer.feed_forward, FeedForward::Moe(_))).count();
        let mut all = 0;
        for prompt in ["p1", "p7", "p64", "p300"] {
            let tokens = case.golden.ids(&format!("{prompt}.input_ids")).unwrap();
            let record = Record::of(&case.model, &tokens);
            assert_eq!(record.router.len(), moes, "{}", case.name);
            let (compared, others) = record.choices(&case.golden, prompt);
            assert!(others.is_empty(), "{}: {others:#?}", case.name);
            all += compared;
        }
        assert_eq!(all > 0, moes > 0, "{}", case.name);
        println!("{}: {all} choices compared", case.name);
    }
}

#[test]
fn greedy_continuations_are_the_references() {
    for case in cases() {
        for prompt in ["p7", "p64"] {
            let compared = case.golden.assert_greedy(&mut case.model.session(), prompt, case.name);
            assert!(compared > 0, "{} {prompt}: nothing was compared", case.name);
        }
    }
}

#[test]
fn recurrent_states_are_the_references() {
    for case in cases() {
        let record = Record::of(&case.model, &case.golden.ids("p64.input_ids").unwrap());
        let layers = &case.model.hyperparameters().layers;
        let mixers = layers.iter().enumerate().filter(|(_, layer)| matches!(layer.mixer, Mixer::DeltaNet(_)));
        for (layer, _) in mixers {
            let state = &record.states[&layer];
            let wanted = case.golden.f32(&format!("p64.state.{layer}.recurrent")).unwrap();
            let wanted = case.heads.reorder(&wanted, case.heads.key_dim * case.heads.value_dim);
            let memory = largest_difference(&state.memory(), &wanted);
            // All inputs that the convolution sees, the newest last; the state has no need of the oldest.
            let wanted = case.golden.f32(&format!("p64.state.{layer}.conv")).unwrap();
            let channels =
                2 * case.heads.key_heads * case.heads.key_dim + case.heads.value_heads * case.heads.value_dim;
            let kernel = wanted.len() / channels;
            let wanted = case.heads.reorder_values(&wanted, kernel);
            let wanted: Vec<f32> =
                (1..kernel).flat_map(|tap| wanted.iter().skip(tap).step_by(kernel).copied()).collect();
            let history = largest_difference(state.history(), &wanted);
            println!("{} layer {layer}: memory {memory:e}, history {history:e}", case.name);
            assert!(memory < STATE_MAX_ABS && history < STATE_MAX_ABS, "{} layer {layer}", case.name);
        }
    }
}

#[test]
fn blocks_for_multi_token_prediction_are_seen_and_not_loaded() {
    for case in cases().iter().filter(|case| case.name == "tiny-qwen35moe") {
        let hyper = case.model.hyperparameters();
        assert_eq!((hyper.blocks(), hyper.mtp_blocks), (8, 1));
        assert!(case.model.checkpoint().tensor("blk.8.nextn.eh_proj.weight").is_some());
        assert_eq!(case.model.plan().experts, 8 * 16);
        assert_eq!(case.model.plan().experts_per_token, 8 * 4);
    }
}
