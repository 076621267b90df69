//! `vocab.json`, `merges.txt` and `tokenizer_config.json` of a folder without `tokenizer.json`, split by the byte 0x1e.

use membrane_text::{Tokenizer, VocabularySpec};
use serde_json::{Value, json};

use super::shown;
use super::tokenizer_json::{TEXT, parts};
use super::vocabulary::encode;

const SEPARATOR: u8 = 0x1e;

/// What such documents are made of.
pub const WORDS: &[&str] = &[
    "\u{1e}",
    "#version: 0.2",
    "\"tokenizer_class\"",
    "\"Qwen2Tokenizer\"",
    "\"added_tokens_decoder\"",
    "\"content\"",
    "\"special\"",
    "\"add_prefix_space\"",
    "\u{120}",
    "\u{85}",
    "\u{a0}",
];

/// Makes a tokenizer and encodes a text.
pub fn target(data: &[u8]) {
    let mut documents = data.split(|byte| *byte == SEPARATOR);
    let mut next = || documents.next().unwrap_or_default();
    let (vocab, merges, config) = (next(), next(), next());
    match VocabularySpec::from_parts(vocab, merges, config).and_then(Tokenizer::new) {
        Ok(tokenizer) => encode(&tokenizer, TEXT),
        Err(error) => shown(&error),
    }
}

/// The documents of a whole vocabulary, and of a very small one.
pub fn seeds() -> Vec<Vec<u8>> {
    let (vocab, control, merges) = parts();
    let added: serde_json::Map<String, Value> = control
        .into_iter()
        .map(|(id, text)| (id.to_string(), json!({"content": text, "special": true})))
        .collect();
    let config = json!({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added});
    let whole = [
        Value::from(vocab).to_string(),
        format!("#version: 0.2\n{}\n", merges.join("\n")),
        config.to_string(),
    ];
    let small = [
        r#"{"a":0,"b":1,"ab":2}"#,
        "a b",
        r#"{"tokenizer_class":"Qwen2TokenizerFast","added_tokens_decoder":{}}"#,
    ]
    .map(str::to_owned);
    [whole, small].map(|documents| documents.join("\u{1e}").into_bytes()).into()
}
