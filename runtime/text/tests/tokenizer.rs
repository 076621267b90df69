//! The tokenizer gives, token for token, what the models' own tokenizers give.

#![allow(clippy::unwrap_used)]

mod common;

use std::borrow::Cow;
use std::path::PathBuf;

use common::{fixture, spec, strings, tokenizer};
use membrane_text::{Specials, TextError, Tokenizer, VocabularySpec};
use proptest::prelude::*;
use serde_json::{Value, json};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_pre_tokenizer_equals_the_reference() {
    let words = fixture("words.json");
    let texts = strings(&words["texts"]);
    for case in words["cases"].as_array().unwrap() {
        let pre = case["pre"].as_str().unwrap();
        let tokenizer = Tokenizer::new(spec(&words, pre)).unwrap();
        for (index, text) in texts.iter().enumerate() {
            let parsed = ids(&case["parse"][index]);
            assert_eq!(tokenizer.encode(text, Specials::Parse).unwrap(), parsed, "{pre}, {text:?}, parsed");
            let plain = case["as_text"].get(index.to_string()).map_or(parsed, ids);
            assert_eq!(tokenizer.encode(text, Specials::AsText).unwrap(), plain, "{pre}, {text:?}, as text");
        }
    }
}

/// The folder of the reference models, if there is one.
fn reference() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    let folder = std::env::var_os("MEMBRANE_REFERENCE").map_or_else(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// A `tokenizer.json` in the form that a converter writes to a GGUF file.
fn converted(json: &Value, pre: &str) -> VocabularySpec<'static> {
    let vocabulary = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let id = |value: &Value| value.as_u64().unwrap() as usize;
    let size =
        vocabulary.values().map(id).chain(added.iter().map(|token| id(&token["id"]))).max().unwrap() + 1;
    let mut tokens: Vec<String> = (0..size).map(|index| format!("[PAD{index}]")).collect();
    let mut token_types = vec![5; size];
    for (text, index) in vocabulary {
        tokens[id(index)] = text.clone();
        token_types[id(index)] = 1;
    }
    for token in added {
        tokens[id(&token["id"])] = token["content"].as_str().unwrap().to_owned();
        token_types[id(&token["id"])] = if token["special"].as_bool().unwrap() { 3 } else { 4 };
    }
    let merge = |merge: &Value| match merge.as_str() {
        Some(text) => text.to_owned(),
        None => strings(merge).join(" "),
    };
    VocabularySpec {
        model: "gpt2".into(),
        pre: pre.into(),
        tokens: tokens.into_iter().map(Cow::Owned).collect(),
        token_types,
        merges: json["model"]["merges"].as_array().unwrap().iter().map(merge).map(Cow::Owned).collect(),
        ..VocabularySpec::default()
    }
}

#[test]
fn the_reference_models_tokenizers_are_met() {
    let Some(reference) = reference() else {
        println!("skipped: no reference");
        return;
    };
    let texts = strings(&fixture("words.json")["texts"]);
    let mut checked = 0;
    for folder in std::fs::read_dir(reference.join("models")).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let file = folder.join("tokenizer.json");
        let Ok(json) = std::fs::read_to_string(&file) else { continue };
        let pre = match name.as_str() {
            "tiny-llama" | "tiny-mixtral" => "llama-bpe",
            "tiny-qwen35" | "tiny-qwen35moe" | "tiny-qwen4exp" => "qwen35",
            "tiny-gptoss" | "gptoss_mxfp4" => "gpt-4o",
            "tiny-deepseekv3" => "deepseek-v3",
            _ => "qwen2",
        };
        let mut oracle = tokenizers::Tokenizer::from_file(&file).unwrap();
        let ours = Tokenizer::new(converted(&serde_json::from_str(&json).unwrap(), pre)).unwrap();
        let published = VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap();
        let published = Tokenizer::new(published).unwrap();
        for (specials, as_text) in [(Specials::Parse, false), (Specials::AsText, true)] {
            oracle.set_encode_special_tokens(as_text);
            for text in &texts {
                let expected = oracle.encode(text.as_str(), false).unwrap();
                assert_eq!(ours.encode(text, specials).unwrap(), expected.get_ids(), "{name}, {text:?}");
                assert_eq!(published.encode(text, specials).unwrap(), expected.get_ids(), "{name}, {text:?}");
            }
        }
        checked += 1;
    }
    assert!(checked > 0, "the reference has tokenizers");
}

#[test]
fn control_tokens_are_text_unless_parsed() {
    let tokenizer = tokenizer("smollm");
    let text = "<|im_start|>system\n<think><|im_end|>";
    let plain = tokenizer.encode(text, Specials::AsText).unwrap();
    assert!(plain.iter().all(|&token| !tokenizer.is_control(token)), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, true), text);
    let parsed = tokenizer.encode(text, Specials::Parse).unwrap();
    assert_eq!(parsed.iter().filter(|&&token| tokenizer.is_control(token)).count(), 2);
    assert_eq!(tokenizer.decode(&parsed, true), "system\n<think>");
    assert_eq!(tokenizer.decode(&parsed, false), text);
}

#[test]
fn end_tokens_start_with_the_files_own() {
    let tokenizer = tokenizer("smollm");
    let texts: Vec<String> =
        tokenizer.end_tokens().iter().map(|&token| tokenizer.decode(&[token], false)).collect();
    assert_eq!(texts, ["<|im_end|>", "<|endoftext|>"]);
}

#[test]
fn beginning_of_text_follows_the_file_then_the_family() {
    assert!(!tokenizer("smollm").add_bos());
    assert!(tokenizer("llama-bpe").add_bos());
    let words = fixture("words.json");
    let told = |pre, add_bos| {
        Tokenizer::new(VocabularySpec { add_bos: Some(add_bos), ..spec(&words, pre) }).unwrap()
    };
    assert!(told("smollm", true).add_bos());
    assert!(!told("llama-bpe", false).add_bos());
}

#[test]
fn what_is_not_supported_is_named() {
    let error = |spec| Tokenizer::new(spec).err().map(|error| error.to_string()).unwrap();
    let words = fixture("words.json");
    let found = error(VocabularySpec { model: "bert".into(), ..spec(&words, "default") });
    assert!(found.contains("\"bert\"") && found.contains("gpt2") && found.contains("llama"), "{found}");
    let found = error(spec(&words, "superbpe"));
    assert!(
        found.contains("\"superbpe\"") && found.contains("qwen2") && found.contains("llama-bpe"),
        "{found}"
    );
}

#[test]
fn ids_outside_the_vocabulary_are_errors() {
    let tokenizer = tokenizer("gpt-2");
    let tokens = tokenizer.vocab_size();
    let id = tokens as u32;
    assert_eq!(tokenizer.token_bytes(id), Err(TextError::UnknownToken { id, tokens }));
    assert_eq!(tokenizer.decode(&[u32::MAX], false), "\u{FFFD}");
    assert!(!tokenizer.is_control(u32::MAX));
}

/// The tokenizer encodes long texts piece by piece; the pieces must not show. The oracle encodes them whole.
#[test]
fn long_texts_are_encoded_as_one() {
    let words = fixture("words.json");
    let texts = strings(&words["texts"]);
    for pre in
        ["gpt-2", "smollm", "qwen2", "qwen35", "llama-bpe", "gpt-4o", "tekken", "kimi-k2", "deepseek-v3"]
    {
        let tokenizer = Tokenizer::new(spec(&words, pre)).unwrap();
        let mut whole = Vec::new();
        let mut long = String::new();
        // Each part ends and starts so that the parts are words of their own, whatever is between them.
        let parts: Vec<String> = texts.iter().map(|text| format!("start {text} end\n")).collect();
        let encoded: Vec<Vec<u32>> =
            parts.iter().map(|part| tokenizer.encode(part, Specials::AsText).unwrap()).collect();
        while long.len() < 200_000 {
            for (part, ids) in parts.iter().zip(&encoded) {
                long.push_str(part);
                whole.extend_from_slice(ids);
            }
        }
        assert_eq!(tokenizer.encode(&long, Specials::AsText).unwrap(), whole, "{pre}");
    }
}

/// White space without end would run the regular expressions into their limits, one word without end the
/// merges.
#[test]
fn texts_without_a_place_to_cut_are_encoded_in_bounded_time() {
    let tokenizer = tokenizer("llama-bpe");
    for unit in [" ", "\n", "a", "!", "Aa", "\u{3000}", " \n", "<|im_start|", "e\u{301}"] {
        let text = unit.repeat((600 << 10) / unit.len());
        let tokens = tokenizer.encode(&text, Specials::Parse).unwrap();
        assert_eq!(tokenizer.decode(&tokens, false), text, "{unit:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn control_tokens_never_come_from_text(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "<", "|", ">", "<|", "|>", "im", "_start", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
            "<repo_name>", " ", "x",
        ]), 0..12),
    ) {
        let words = tokenizer("gpt-2");
        let text = parts.concat();
        let tokens = words.encode(&text, Specials::AsText).unwrap();
        prop_assert!(tokens.iter().all(|&token| !words.is_control(token)));
        prop_assert_eq!(words.decode(&tokens, false), text);
    }
}

/// How the `tokenizer.json` of Mistral-Nemo and what came after it cuts a text.
const MISTRAL: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

#[test]
fn mistral_cuts_as_its_own_tokenizer_does() {
    let words = fixture("words.json");
    let spec = spec(&words, "tekken");
    let numbered = || spec.tokens.iter().zip(&spec.token_types).enumerate();
    let vocabulary: serde_json::Map<String, Value> = numbered()
        .filter(|(_, (_, kind))| matches!(kind, 1 | 3 | 4))
        .map(|(id, (text, _))| (text.to_string(), id.into()))
        .collect();
    let added: Vec<Value> = numbered()
        .filter(|(_, (_, kind))| matches!(kind, 3 | 4))
        .map(|(id, (text, kind))| {
            let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
            let mut token = json!({"id": id, "content": text, "special": *kind == 3});
            token.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
            token
        })
        .collect();
    let json = json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": MISTRAL}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocabulary, "merges": spec.merges},
    });
    let json = json.to_string();
    let published = VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap();
    assert_eq!(published.pre, "tekken");
    let published = Tokenizer::new(published).unwrap();
    let ours = Tokenizer::new(spec.clone()).unwrap();
    let oracle = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let mut texts = strings(&words["texts"]);
    texts.extend(["HTTPServerError", "don't STOP", "a1234b", "x //\n\n/ y", "ÀÉî ÑandÇA"].map(str::to_owned));
    for text in &texts {
        let expected = oracle.encode(text.as_str(), false).unwrap();
        assert_eq!(ours.encode(text, Specials::Parse).unwrap(), expected.get_ids(), "{text:?}");
        assert_eq!(published.encode(text, Specials::Parse).unwrap(), expected.get_ids(), "{text:?}");
    }
    assert!(ours.add_bos());
}

#[test]
fn names_for_the_same_cuts_are_known() {
    let words = fixture("words.json");
    let text = "I'll say 12345 words\n\n to you";
    for (name, like, add_bos) in [
        ("falcon3", "llama-bpe", true),
        ("pixtral", "llama-bpe", true),
        ("glm4", "llama-bpe", false),
        ("chatglm-bpe", "llama-bpe", false),
        ("smaug-bpe", "llama-bpe", false),
        ("dbrx", "llama-bpe", false),
        ("megrez", "qwen2", false),
        ("minerva-7b", "smollm", false),
    ] {
        let named = Tokenizer::new(spec(&words, name)).unwrap();
        assert_eq!(named.add_bos(), add_bos, "{name}");
        let tokens = |tokenizer: &Tokenizer| tokenizer.encode(text, Specials::Parse).unwrap();
        assert_eq!(tokens(&named), tokens(&tokenizer(like)), "{name}");
    }
}
