//! The targets, one in a file.

pub mod answer;
pub mod argument;
pub mod audit_log;
pub mod audit_text;
pub mod chat_template;
pub mod folder;
pub mod gguf;
pub mod gguf_split;
pub mod json_schema;
pub mod key;
pub mod lark;
pub mod lock;
pub mod manifest;
pub mod profile;
pub mod regex;
pub mod routing_trace;
pub mod safetensors;
pub mod signature;
pub mod tokenizer_json;
pub mod tokenizer_parts;
pub mod vocabulary;

/// A parser with what it is tried on.
pub struct Target {
    /// The name of its fuzzer.
    pub name: &'static str,
    /// Takes bytes; panics where the parser is at fault.
    pub run: fn(&[u8]),
    /// Inputs that are valid, or nearly.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What mutations put in.
    pub words: &'static [&'static str],
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $name::target,
            seeds: $name::seeds,
            words: $name::WORDS,
        }),*];
    };
}

targets! {
    gguf, gguf_split, safetensors, folder,
    vocabulary, tokenizer_json, tokenizer_parts, chat_template, answer,
    json_schema, regex, lark,
    profile, lock, manifest, argument, signature, key,
    audit_log, audit_text, routing_trace,
}

/// Makes an error's text, which must say something. What shows it makes it fit for a terminal.
pub(crate) fn shown(error: &dyn std::fmt::Display) {
    assert!(!error.to_string().is_empty(), "an error without a text");
}

/// The same for errors of model files, which are fit for a terminal by themselves.
pub(crate) fn plain(error: &membrane_formats::FormatError) {
    let text = error.to_string();
    let control = text.chars().find(|c| c.is_control());
    assert!(!text.is_empty() && control.is_none(), "an error with {control:?}: {text:?}");
}
