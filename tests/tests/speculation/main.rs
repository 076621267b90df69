//! Tokens that are drafted and computed ahead change nothing but speed: not a bit of the logits, not a token, not an event, not
//! a record.

#![cfg(test)]
#![forbid(unsafe_code)]

mod answers;
mod heads;
mod sessions;

use std::path::PathBuf;

use membrane_engine::{LoadOptions, Model, Prepared, Speculate};
use membrane_formats::Checkpoint;
use membrane_tests::sessions::{bits, fresh, tokens};
use membrane_tests::{tiny, workspace};

/// Mixtures of experts, dense models and hybrids of all kinds.
const FIXTURES: [&str; 6] = [
    "tiny-qwen3next-Q8_0",
    "tiny-qwen35moe-Q8_0",
    "tiny-qwen35-Q8_0",
    "tiny-qwen3moe-Q8_0",
    "tiny-qwen2moe-Q8_0",
    "tiny-qwen3-IQ4_NL",
];
/// How many of them are hybrids.
const HYBRIDS: usize = 3;

fn fixture(name: &str) -> PathBuf {
    workspace().join(format!("tests/fixtures/gguf/{name}.gguf"))
}

/// The fixtures, and models of the architectures that have none.
fn models() -> Vec<PathBuf> {
    let write = |architecture: &str| {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("speculation-{architecture}.gguf"));
        tiny::write(architecture, &path);
        path
    };
    let generated = tiny::ARCHITECTURES.map(write).into_iter().chain(heads::with_heads().iter().cloned());
    FIXTURES.map(fixture).into_iter().chain(generated).collect()
}

fn options() -> LoadOptions {
    LoadOptions {
        context: Some(640),
        contexts: 3,
        threads: Some(2),
        speculate: Speculate::Always,
        ..LoadOptions::default()
    }
}

fn load(path: &std::path::Path, options: &LoadOptions) -> Model {
    let checkpoint = Checkpoint::open(path).unwrap().into();
    Prepared::without_text(checkpoint, options).unwrap().load(&mut |_, _| {}).unwrap()
}
