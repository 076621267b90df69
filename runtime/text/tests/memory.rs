//! What a tokenizer of a large vocabulary costs in memory: the budget of a process has to hold it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;

use membrane_text::{Specials, Tokenizer, VocabularySpec};

/// Memory that the process holds, bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// A vocabulary as large as Qwen's, of texts of about the same length.
fn large() -> VocabularySpec<'static> {
    let mut tokens: Vec<String> = ('a'..='z').chain('A'..='Z').map(String::from).collect();
    let mut merges = Vec::new();
    let mut from = 0;
    while tokens.len() < 151_936 {
        let left = tokens[from % tokens.len()].clone();
        let right = tokens[from * 7 % 52].clone();
        from += 1;
        let made = format!("{left}{right}");
        if made.len() <= 9 && !tokens[tokens.len().saturating_sub(400)..].contains(&made) {
            merges.push(format!("{left} {right}"));
            tokens.push(made);
        }
    }
    let mut seen = std::collections::HashSet::new();
    let mut unique = Vec::new();
    for (index, token) in tokens.into_iter().enumerate() {
        unique.push(if seen.insert(token.clone()) { token } else { format!("[{index}]") });
    }
    VocabularySpec {
        model: "gpt2".into(),
        pre: "qwen2".into(),
        tokens: unique.into_iter().map(Cow::Owned).collect(),
        merges: merges.into_iter().map(Cow::Owned).collect(),
        ..VocabularySpec::default()
    }
}

#[test]
fn a_large_vocabulary_takes_little_memory() {
    let before = resident_bytes();
    let tokenizer = Tokenizer::new(large()).unwrap();
    let tokens = tokenizer.encode(&"Some text to encode. ".repeat(100_000), Specials::AsText).unwrap();
    assert!(!tokens.is_empty());
    drop(tokens);
    let taken = resident_bytes() - before;
    println!("{} bytes for {} tokens", taken, tokenizer.vocab_size());
    assert!(taken < 96 << 20, "{taken} bytes");
}
