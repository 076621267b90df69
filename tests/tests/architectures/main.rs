//! Architectures that no fixture has: their generated models against the formulas of their papers in f64, and what they take of
//! the memory; longer contexts in all architectures whose files ask for them; and files of other converters.

#![cfg(test)]
#![forbid(unsafe_code)]

mod converters;
mod formula;

use std::path::Path;

use membrane_engine::{
    Hyperparameters, LoadOptions, Model, Observer, Precision, Prepared, RopeScaling, Speculate, Yarn,
};
use membrane_formats::{Checkpoint, Value};
use membrane_tests::golden::argmax;
use membrane_tests::{tiny, with_metadata, workspace};

/// Largest difference of logits of f32 computations from those in f64.
const LOGITS_MAX_ABS: f64 = 1e-3;
/// Normalised mean square error with activations of 16 bits.
const INT16_NMSE: f64 = 1e-4;
/// The same of 8 bits where nothing is chosen by what was rounded.
const INT8_NMSE: f64 = 5e-3;

fn load(path: &Path, precision: Precision) -> Model {
    let options = LoadOptions { precision, context: Some(256), threads: Some(2), ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(path).unwrap().into();
    Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap()
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 + 13) % 1000).collect()
}

#[test]
fn logits_are_those_of_the_papers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    for architecture in tiny::ARCHITECTURES {
        tiny::write(architecture, &path);
        compare(architecture, &path);
    }
    // DeepSeek-V2 differs by its router.
    let router = [
        ("expert_gating_func", Some(Value::U32(1))),
        ("expert_weights_norm", None),
        ("expert_weights_scale", Some(Value::F32(8.0))),
    ];
    let without_bias =
        |name: &str, dims: &[u64]| (!name.ends_with("exp_probs_b.bias")).then(|| dims.to_vec());
    tiny::write_changed("deepseek2", &path, &router, without_bias);
    compare("DeepSeek-V2", &path);
    // Of GLM some have norms of heads, and some do not say that the router is one of sigmoids.
    for told in [None, Some(Value::U32(2))] {
        let plain = |name: &str, dims: &[u64]| {
            let is_norm = name.ends_with("attn_q_norm.weight") || name.ends_with("attn_k_norm.weight");
            (told.is_none() || !is_norm).then(|| dims.to_vec())
        };
        tiny::write_changed("glm4moe", &path, &[("expert_gating_func", told.clone())], plain);
        compare("glm4moe", &path);
    }
    // It always is, for which it needs a bias.
    tiny::write_changed("glm4moe", &path, &[("expert_gating_func", None)], without_bias);
    let checkpoint = Checkpoint::open(&path).unwrap().into();
    let refused = Prepared::without_text(checkpoint, &LoadOptions::default()).map(drop);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("exp_probs_b.bias"), "{error}");
}

#[test]
fn queries_grow_with_their_position() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    // As Mistral Large 3 has it.
    let large = [
        ("attention.temperature_scale", Some(Value::F32(0.3))),
        ("attention.temperature_length", Some(Value::U32(16))),
    ];
    for (architecture, change) in [("mistral3", &[][..]), ("deepseek2", &large[..])] {
        tiny::write_changed(architecture, &path, change, |_, dims| Some(dims.to_vec()));
        compare(architecture, &path);
        let model = load(&path, Precision::Fast);
        let logits = |cuts: &[usize]| {
            let tokens = tokens(120);
            let mut session = model.session();
            for cut in cuts.windows(2) {
                session.append(&tokens[cut[0]..cut[1]]).unwrap();
            }
            session.logits().to_vec()
        };
        assert!(logits(&[0, 120]) == logits(&[0, 31, 33, 96, 119, 120]), "{architecture}");
    }
}

/// Compares a model with its formula.
fn compare(architecture: &str, path: &Path) {
    let formula = formula::Model::read(path);
    for count in [1, 20, 120] {
        let tokens = tokens(count);
        let wanted = formula.logits(&tokens);
        let logits = |precision| {
            let mut session = load(path, precision).session();
            session.append(&tokens).unwrap();
            session.logits().to_vec()
        };
        let found = logits(Precision::Reference);
        let difference = |found: &[f32]| -> Vec<f64> {
            found.iter().zip(&wanted).map(|(found, wanted)| f64::from(*found) - wanted).collect()
        };
        let furthest = difference(&found).iter().fold(0.0, |most: f64, d| most.max(d.abs()));
        let power: f64 = wanted.iter().map(|x| x * x).sum();
        let of_squares =
            |precision| difference(&logits(precision)).iter().map(|d| d * d).sum::<f64>() / power;
        let (words, bytes) = (of_squares(Precision::Int16), of_squares(Precision::Int8));
        println!("{architecture}, {count} tokens: {furthest:e}, 16 bits {words:e}, 8 bits {bytes:e} (nmse)");
        assert!(furthest < LOGITS_MAX_ABS, "{architecture}, {count} tokens: off by {furthest}");
        assert!(words < INT16_NMSE, "{architecture}, {count} tokens: {words}");
        // Routers and the index of sparse attention may choose otherwise.
        assert!(bytes < 0.5, "{architecture}, {count} tokens: {bytes}");
        if matches!(load(path, Precision::Fast).precision(), Precision::Int8 | Precision::Int8Groups) {
            assert!(bytes < INT8_NMSE, "{architecture}, {count} tokens: {bytes}");
        }
        assert!(found.iter().all(|logit| logit.is_finite()) && argmax(&found) < tiny::VOCABULARY);
    }
}

/// What the head for multi-token prediction says.
#[derive(Default)]
struct Drafts(Vec<Vec<f32>>);

impl Observer for Drafts {
    fn draft(&mut self, number: usize, logits: &[f32]) {
        assert_eq!(number, self.0.len());
        self.0.push(logits.to_vec());
    }
}

#[test]
fn the_head_for_multi_token_prediction_drafts_by_its_formula() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.gguf");
    tiny::write_with_head(&path);
    let formula = formula::Model::read(&path);
    for (precision, most) in [(Precision::Reference, LOGITS_MAX_ABS), (Precision::Fast, 0.1)] {
        let options = LoadOptions {
            precision,
            context: Some(256),
            threads: Some(2),
            speculate: Speculate::Always,
            ..LoadOptions::default()
        };
        let checkpoint = Checkpoint::open(&path).unwrap().into();
        let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
        for count in [2, 20, 71] {
            let tokens = tokens(count);
            let (last, seen) = tokens.split_last().unwrap();
            let mut session = model.session();
            session.append(seen).unwrap();
            let mut drafts = Drafts::default();
            let proposed = session.propose_observed(*last, 3, &mut drafts).unwrap();
            assert_eq!(proposed.len(), 3);
            let wanted = formula.drafted(&tokens, &proposed[..2]);
            for (number, (found, wanted)) in drafts.0.iter().zip(&wanted).enumerate() {
                let off =
                    found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                println!("{precision:?}, {count} tokens, draft {number}: {off:e}");
                assert!(off < most, "{precision:?}, {count} tokens, draft {number}: off by {off}");
                assert_eq!(argmax(found), proposed[number] as usize);
            }
            // The head is not the model, and a draft is not the one before.
            let model_says = formula.logits(&tokens);
            let apart =
                |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart(&wanted[0], &model_says) > 0.5 && apart(&wanted[0], &wanted[1]) > 0.5);
        }
    }
}

/// The formula must see what is changed, or the test above could not fail for it.
#[test]
fn numbers_of_one_architecture_change_logits() {
    let folder = tempfile::tempdir().unwrap();
    let changes: [(&str, &str, Value); 12] = [
        ("gemma3", "attention.sliding_window", Value::U32(39)),
        ("gemma3", "rope.scaling.factor", Value::F32(4.0)),
        ("gpt-oss", "attention.sliding_window", Value::U32(25)),
        ("gpt-oss", "rope.scaling.factor", Value::F32(8.0)),
        ("deepseek2", "rope.scaling.yarn_log_multiplier", Value::F32(0.07)),
        ("glm4moe", "rope.dimension_count", Value::U32(32)),
        ("glm4moe", "expert_weights_scale", Value::F32(1.5)),
        ("mistral3", "attention.temperature_scale", Value::F32(0.4)),
        ("mistral3", "rope.scaling.original_context_length", Value::U32(16)),
        ("qwen4exp", "attention.indexer.top_k", Value::U32(9)),
        ("qwen4exp", "attention.compress_ratios", Value::U32(4)),
        ("qwen4exp", "ple.eos_token_id", Value::U32(tokens(60)[57])),
    ];
    for (architecture, key, value) in changes {
        let logits = |name: &str, change: &[(&str, Option<Value>)]| {
            let path = folder.path().join(name);
            tiny::write_changed(architecture, &path, change, |_, dims| Some(dims.to_vec()));
            let mut session = load(&path, Precision::Reference).session();
            session.append(&tokens(60)).unwrap();
            session.logits().to_vec()
        };
        let (plain, changed) = (logits("plain.gguf", &[]), logits("changed.gguf", &[(key, Some(value))]));
        let furthest = plain.iter().zip(&changed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest > 2e-3, "{architecture} {key} changes nothing: {furthest}");
    }
}

/// Two sessions whose tokens differ only before the window of every layer that slides, and a model that has no other layers.
#[test]
fn what_is_out_of_every_window_is_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sliding.gguf");
    let all = Value::Array(membrane_formats::Array::Bool(vec![true; 7]));
    let changes =
        [("attention.sliding_window_pattern", Some(all)), ("attention.sliding_window", Some(Value::U32(5)))];
    tiny::write_changed("gemma3", &path, &changes, |_, dims| Some(dims.to_vec()));
    let model = load(&path, Precision::Fast);
    let logits = |first: u32| {
        let mut tokens = tokens(60);
        tokens[0] = first;
        let mut session = model.session();
        session.append(&tokens).unwrap();
        session.logits().to_vec()
    };
    // Seven layers that see four positions before their own reach 28 back.
    assert!(logits(1) == logits(2));
}

#[test]
fn the_plan_counts_what_is_kept_of_a_position() {
    let folder = tempfile::tempdir().unwrap();
    // f16: of DeepSeek a latent vector of 64 and a rotated key of 16, whatever its 4 heads; of the others 2 heads of 32, twice.
    for (architecture, bytes_per_token) in
        [("deepseek2", 3 * 2 * (64 + 16)), ("gemma3", 7 * 2 * 2 * 64), ("gpt-oss", 3 * 2 * 2 * 64)]
    {
        let path = folder.path().join("tiny.gguf");
        tiny::write(architecture, &path);
        let plan = load(&path, Precision::Fast).plan().clone();
        assert_eq!(plan.kv.0, 256 * bytes_per_token, "{architecture}");
        let file = Checkpoint::open(&path).unwrap();
        let resident = |name: &str| {
            let experts = name.ends_with("_exps.weight");
            let on_disk = name == "token_embd.weight" && architecture != "gemma3";
            let small = name.ends_with("norm.weight")
                || name.ends_with("sinks.weight")
                || name.ends_with(".bias") && !name.ends_with("_exps.bias");
            !experts && !on_disk && !small
        };
        let weights: u64 = file.tensors().iter().filter(|t| resident(&t.name)).map(|t| t.bytes).sum();
        let count = file.tensors().len() as u64;
        let planned = plan.weights.0;
        assert!(
            planned >= weights && planned < weights + 64 * count,
            "{architecture}: {planned}, tensors {weights}"
        );
    }
}

/// Architectures whose files may ask for a longer context, each with its fixture.
const STRETCHED: [(&str, &str); 5] = [
    ("qwen3", "tiny-qwen3-Q5_1"),
    ("qwen3moe", "tiny-qwen3moe-Q8_0"),
    ("qwen3next", "tiny-qwen3next-Q8_0"),
    ("qwen35", "tiny-qwen35-Q8_0"),
    ("qwen35moe", "tiny-qwen35moe-Q8_0"),
];

#[test]
fn contexts_are_stretched_where_a_file_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, fixture) in STRETCHED {
        let source =
            Checkpoint::open(&workspace().join(format!("tests/fixtures/gguf/{fixture}.gguf"))).unwrap();
        let with = |kind: &str| -> Model {
            let path = folder.path().join(format!("{kind}.gguf"));
            let mut metadata = source.metadata().clone();
            let mut set =
                |key: &str, value: Value| metadata.set(&format!("{architecture}.rope.scaling.{key}"), value);
            set("type", Value::Str(kind.into()));
            set("factor", Value::F32(4.0));
            set("original_context_length", Value::U32(64));
            metadata.set(&format!("{architecture}.context_length"), Value::U32(100));
            with_metadata(&source, metadata, &path).unwrap();
            load(&path, Precision::Reference)
        };
        let logits = |model: &Model| {
            let mut session = model.session();
            session.append(&tokens(200)).unwrap();
            session.logits().to_vec()
        };
        let models = ["none", "linear", "yarn"].map(with);
        let scaling = |model: &Model| model.hyperparameters().attentions().next().unwrap().rope.scaling;
        assert_eq!(scaling(&models[0]), RopeScaling::None);
        assert_eq!(scaling(&models[1]), RopeScaling::Linear(4.0));
        let magnitude = 0.1 * 4.0_f32.ln() + 1.0;
        let yarn = Yarn {
            factor: 4.0,
            original_context: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            whole_pairs: true,
            magnitude,
        };
        assert_eq!(scaling(&models[2]), RopeScaling::Yarn(yarn));
        let contexts = models.each_ref().map(|model| model.hyperparameters().trained_context);
        assert_eq!(contexts, [100, 256, 256]);
        let [none, linear, yarn] = [logits(&models[0]), logits(&models[1]), logits(&models[2])];
        let furthest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        for (a, b) in [(&none, &linear), (&none, &yarn), (&linear, &yarn)] {
            assert!(furthest(a, b) > 1e-3 && furthest(a, b).is_finite(), "{architecture}: nothing changed");
        }
        // The plan has 256 positions, whatever the file's factor: beyond them is an error with the numbers.
        let mut session = models[2].session();
        session.append(&tokens(250)).unwrap();
        let error = session.append(&tokens(7)).unwrap_err().to_string();
        assert!(error.contains("256") && error.contains("250") && error.contains('7'), "{error}");
        assert!(error.contains("trained for 256"), "{error}");
    }
}

#[test]
fn shapes_are_what_the_files_say() {
    let folder = tempfile::tempdir().unwrap();
    let of = |architecture: &str| -> Hyperparameters {
        let path = folder.path().join("tiny.gguf");
        tiny::write(architecture, &path);
        load(&path, Precision::Fast).hyperparameters().clone()
    };
    let windows = |hyper: &Hyperparameters| -> Vec<Option<usize>> {
        hyper.attentions().map(|attention| attention.window).collect()
    };
    let w = Some(40);
    assert_eq!(windows(&of("gemma3")), [w, w, w, w, w, None, w]);
    assert_eq!(windows(&of("gpt-oss")), [Some(24), None, Some(24)]);
    assert_eq!((of("gemma3").ropes().len(), of("gpt-oss").ropes().len()), (2, 1));
    let deepseek = of("deepseek2");
    assert_eq!((deepseek.latents().count(), deepseek.dense().count(), deepseek.moes().count()), (3, 1, 2));
}
