//! The texts beside an audit log: as a file, and each line as a content that its digest fits.

use std::fs;

use membrane_audit::text::{Texts, text_path};
use membrane_audit::{Content, Digest, EndText, Output, PromptText, RequestText, Salt, TokensText};
use serde_json::json;

use super::shown;
use crate::scratch;

/// What contents are made of.
pub const WORDS: &[&str] = &[
    "\n",
    "{\"digest\":\"sha256:",
    "\",\"salt\":\"",
    "\",\"content\":",
    "\"request\"",
    "\"prompt\"",
    "\"tokens\"",
    "\"judgement\"",
    "\"call\"",
    "\"end\"",
    "\"ids\":[",
    "\"outputs\":[",
    "\"messages\":[",
    "\"grammar\":",
];

/// Reads both.
pub fn target(data: &[u8]) {
    read(data);
    let salt = Salt::from_hex(&"0".repeat(32)).expect("32 digits");
    let mut fitting = Vec::new();
    for content in data.split(|byte| *byte == b'\n') {
        let head = format!(
            "{{\"digest\":\"sha256:{}\",\"salt\":\"{}\",\"content\":",
            Digest::salted(salt, content).hex(),
            salt.hex()
        );
        fitting.extend_from_slice(head.as_bytes());
        fitting.extend_from_slice(content);
        fitting.extend_from_slice(b"}\n");
    }
    read(&fitting);
}

fn read(bytes: &[u8]) {
    let log = scratch::folder().join("texts.jsonl");
    scratch::file_or_none(&text_path(&log), Some(bytes));
    match Texts::beside(&log) {
        Ok(texts) => {
            let texts = texts.expect("the file just written");
            texts.bad.iter().for_each(|bad| shown(&bad.what));
        }
        Err(error) => shown(&error),
    }
    let _ = fs::remove_file(text_path(&log));
}

/// A line each of several contents.
pub fn seeds() -> Vec<Vec<u8>> {
    let outputs = vec![Output { token: 1, text: "a".into(), done: false }];
    let contents = [
        Content::Request(RequestText {
            messages: vec![json!({"role": "user", "content": "q"})],
            grammar: None,
        }),
        Content::Prompt(PromptText { rendered: "q".into(), ids: vec![1, 2, 3] }),
        Content::Tokens(TokensText { ids: vec![4, 5], outputs }),
        Content::End(EndText {
            released: "a".into(),
            message: None,
            error: None,
            notes: vec!["a note".into()],
        }),
    ];
    let lines: Vec<Vec<u8>> =
        contents.iter().map(|content| serde_json::to_vec(content).expect("plain data")).collect();
    vec![lines.join(&b'\n'), lines[0].clone()]
}
