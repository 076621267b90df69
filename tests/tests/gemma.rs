//! Gemma 3 270M, a real model, against what llama.cpp makes of the same file: tokens of texts, logits, greedy continuations.
//! `tests/peer/golden.py` made the outputs; where `cargo xtask gemma` has not fetched the model there is nothing to compare.

#![cfg(test)]
#![forbid(unsafe_code)]

use membrane_engine::{LoadOptions, Model, Precision};
use membrane_tests::golden::argmax;
use membrane_tests::{gemma_model, workspace};
use membrane_text::Specials;
use serde_json::Value;

/// Largest difference of the best logits: llama.cpp, on weights in f32, has keys and values in f16 and GELU in a table of f16.
const LOGITS_MAX_ABS: f32 = 0.05;
/// A choice counts where llama.cpp's best logit is ahead of the second by more than this.
const MARGIN: f64 = 0.1;

fn golden() -> Value {
    let path = workspace().join("tests/fixtures/golden/real-gemma-3-270m.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn load(options: LoadOptions) -> Option<Model> {
    let Some(path) = gemma_model() else {
        println!("skipped: `cargo xtask gemma` has not fetched the model");
        return None;
    };
    Some(Model::open(&path, &LoadOptions { context: Some(1024), ..options }).unwrap())
}

#[test]
fn texts_have_the_tokens_of_the_peer() {
    let Some(model) = load(LoadOptions::default()) else { return };
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.add_bos()), (262_144, Some(2), true));
    let golden = golden();
    let cases = golden["tokens"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        for (specials, key) in [(Specials::AsText, "as_text"), (Specials::Parse, "parse")] {
            // llama.cpp takes the tag for an end of text, which it is in other vocabularies.
            if specials == Specials::AsText && text.contains("</s>") {
                continue;
            }
            let found = tokenizer.encode(text, specials).unwrap();
            assert_eq!(found, ids(&case[key]), "{text:?}, {key}");
            assert_eq!(tokenizer.decode(&found, false), text.replace('\u{2581}', " "), "{key}");
        }
    }
    assert!(cases.len() > 40);
}

#[test]
fn logits_and_continuations_are_those_of_the_peer() {
    for precision in [Precision::Int16, Precision::Reference] {
        let Some(model) = load(LoadOptions { precision, ..LoadOptions::default() }) else { return };
        let (mut compared, mut close) = (0, 0);
        for case in golden()["greedy"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let mut session = model.session();
            session.append(&ids(&case["prompt_ids"])).unwrap();
            let best = ids(&case["best"]).into_iter().zip(case["logits"].as_array().unwrap());
            for (token, logit) in best {
                let difference = session.logits()[token as usize] - logit.as_f64().unwrap() as f32;
                assert!(
                    difference.abs() < LOGITS_MAX_ABS,
                    "{precision:?} {prompt:?}: {token} off by {difference}"
                );
            }
            let margins = case["margins"].as_array().unwrap();
            for (step, (token, margin)) in ids(&case["ids"]).into_iter().zip(margins).enumerate() {
                if margin.as_f64().unwrap() > MARGIN {
                    assert_eq!(
                        argmax(session.logits()),
                        token as usize,
                        "{precision:?} {prompt:?} step {step}"
                    );
                    compared += 1;
                } else {
                    close += 1;
                }
                session.append(&[token]).unwrap();
            }
        }
        println!("{precision:?}: {compared} choices compared, {close} were too close");
        assert!(compared > 200, "{compared}");
    }
}

/// The window of 512 is behind, the sliding layers have left positions.
#[test]
fn a_prefix_beyond_the_window_is_reused_with_the_same_bits() {
    let Some(model) = load(LoadOptions { contexts: 3, sessions: 3, ..LoadOptions::default() }) else {
        return;
    };
    let text = "The harbour lay still while the lamps went out one after the other. ".repeat(60);
    let tokens = model.tokenizer().unwrap().encode(&text, Specials::AsText).unwrap();
    let tokens = &tokens[..700];
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    let mut fresh = model.session();
    fresh.append(tokens).unwrap();
    let wanted = bits(fresh.logits());
    let mut other = model.session();
    other.append(&tokens[..650]).unwrap();
    let mut fork = other.fork();
    other.append(&[5, 6, 7]).unwrap();
    let synced = other.sync(tokens).unwrap();
    assert_eq!((synced.reused, synced.computed), (650, 50));
    assert!(bits(other.logits()) == wanted);
    fork.truncate(40);
    fork.append(&tokens[40..]).unwrap();
    assert!(bits(fork.logits()) == wanted);
}
