//! Fixtures that several tests read.

use std::borrow::Cow;
use std::path::PathBuf;

use membrane_text::{Tokenizer, VocabularySpec};
use serde_json::Value;

/// A JSON file of `tests/fixtures`.
pub fn fixture(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The texts of a JSON array.
pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// The vocabulary of `words.json` with a pre-tokenizer.
pub fn spec(words: &Value, pre: &str) -> VocabularySpec<'static> {
    VocabularySpec {
        model: "gpt2".into(),
        pre: pre.into(),
        tokens: strings(&words["tokens"]).into_iter().map(Cow::Owned).collect(),
        token_types: words["types"]
            .as_array()
            .unwrap()
            .iter()
            .map(|kind| kind.as_i64().unwrap() as i32)
            .collect(),
        merges: strings(&words["merges"]).into_iter().map(Cow::Owned).collect(),
        bos: Some(1),
        eos: Some(2),
        ..VocabularySpec::default()
    }
}

/// A tokenizer of `words.json` with a pre-tokenizer.
#[allow(dead_code)]
pub fn tokenizer(pre: &str) -> Tokenizer {
    Tokenizer::new(spec(&fixture("words.json"), pre)).unwrap()
}
