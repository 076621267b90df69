//! `tokenizer.json` of a published folder.

use membrane_text::{Tokenizer, VocabularySpec};
use serde_json::{Value, json};

use super::{shown, vocabulary::encode};
use crate::vocabulary;

/// What such a file is made of.
pub const WORDS: &[&str] = &[
    "\"added_tokens\"",
    "\"normalizer\"",
    "\"pre_tokenizer\"",
    "\"post_processor\"",
    "\"type\"",
    "\"Sequence\"",
    "\"pretokenizers\"",
    "\"Split\"",
    "\"ByteLevel\"",
    "\"NFC\"",
    "\"BPE\"",
    "\"vocab\"",
    "\"merges\"",
    "\"TemplateProcessing\"",
    "\"Digits\"",
    "\"individual_digits\"",
    "\"use_regex\"",
    "\"behavior\"",
];

/// A text to encode.
pub(super) const TEXT: &str = "the {\"the\": 12} <|im_end|> é\u{1f600}\r\n";

/// Makes a tokenizer and encodes a text.
pub fn target(data: &[u8]) {
    let tokenizer = VocabularySpec::from_tokenizer_json(data).and_then(Tokenizer::new);
    match tokenizer {
        Ok(tokenizer) => encode(&tokenizer, TEXT),
        Err(error) => shown(&error),
    }
}

/// Normal tokens with their ids, control tokens, and merge rules.
pub(super) fn parts() -> (serde_json::Map<String, Value>, Vec<(usize, String)>, Vec<String>) {
    let (tokens, types, merges) = vocabulary::tokens();
    let of_type = |wanted: i32| {
        let all = tokens.iter().cloned().enumerate();
        all.filter(|(id, _)| types[*id] == wanted).collect::<Vec<(usize, String)>>()
    };
    let vocab = of_type(1).into_iter().map(|(id, text)| (text, json!(id))).collect();
    (vocab, of_type(3), merges)
}

/// Files of two forms of merges and several pre-tokenizers.
pub fn seeds() -> Vec<Vec<u8>> {
    let (vocab, control, merges) = parts();
    let added: Vec<Value> =
        control.iter().map(|(id, text)| json!({"id": id, "content": text, "special": true})).collect();
    let pairs: Vec<Vec<&str>> = merges.iter().map(|merge| merge.split(' ').collect()).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let inner =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let first = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}});
    let files = [
        json!({"version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": byte_level, "post_processor": first,
            "decoder": byte_level, "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": false}}),
        json!({"added_tokens": added, "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, inner]},
            "model": {"type": "BPE", "vocab": vocab, "merges": pairs, "ignore_merges": true}}),
        json!({"pre_tokenizer": byte_level, "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}),
    ];
    files.iter().map(|file| file.to_string().into_bytes()).collect()
}
