//! What a grammar costs a token: the mask over a large vocabulary, telling of a token, and a fork.
//!
//! `cargo run --release --package membrane-text --example grammar_cost`, or with another number of tokens behind it.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use membrane_text::{Constraint, Grammar, GrammarCompiler, Tokenizer, VocabularySpec};
use serde_json::json;

/// As many as Qwen's models have logits.
const TOKENS: usize = 151_936;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens = std::env::args().nth(1).map_or(Ok(TOKENS), |count| count.parse())?;
    let tokenizer = Arc::new(Tokenizer::new(vocabulary(tokens))?);
    let before = resident_bytes();
    let start = Instant::now();
    let compiler = GrammarCompiler::new(tokenizer)?;
    let made = start.elapsed();
    println!("{tokens} tokens: sorted in {made:.1?}, {:.1} MB", (resident_bytes() - before) as f64 / 1e6);
    let string = json!({"type": "string"});
    let schema = json!({
        "type": "object", "required": ["name", "tags", "born"], "additionalProperties": false,
        "properties": {
            "name": string, "tags": {"type": "array", "items": string}, "born": {"type": "integer", "maximum": 2100},
            "kind": {"enum": ["person", "place", "thing"]}, "mail": {"type": "string", "format": "email"},
        },
    });
    for (name, grammar) in [
        ("a schema", Grammar::JsonSchema(schema)),
        ("any JSON", Grammar::JsonSchema(json!(true))),
        ("an expression", Grammar::Regex(r"[A-Z][a-z]+( [A-Z][a-z]+)*, \d{4}-\d{2}-\d{2}(; .+)?".into())),
        (
            "a grammar",
            Grammar::Lark(
                "start: sum\nsum: (sum (\"+\" | \"-\"))? item\nitem: /[0-9]+/ | \"(\" sum \")\"".into(),
            ),
        ),
    ] {
        measure(name, &compiler, &grammar, tokens)?;
    }
    Ok(())
}

/// Walks through many texts and prints the times.
fn measure(
    name: &str,
    compiler: &GrammarCompiler,
    grammar: &Grammar,
    tokens: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut constraint = compiler.compile(grammar)?;
    let compiled = start.elapsed();
    let (mut found, mut masked, mut accepted, mut forks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut random = 1_u64;
    let mut logits = vec![0.0; tokens];
    for _ in 0..20 {
        constraint.walk(&[])?;
        for _ in 0..50 {
            if constraint.is_complete() {
                break;
            }
            let start = Instant::now();
            constraint.allowed()?;
            found.push(start.elapsed());
            logits.fill(0.0);
            let start = Instant::now();
            constraint.mask(&mut logits)?;
            masked.push(start.elapsed());
            let token = choose(&mut constraint, &mut random)?;
            let start = Instant::now();
            constraint.accept(token)?;
            accepted.push(start.elapsed());
            let start = Instant::now();
            let fork = constraint.clone();
            forks.push(start.elapsed());
            drop(fork);
        }
    }
    println!(
        "{name}: compiled in {compiled:.1?}; allowed tokens {}; setting {tokens} logits {}; accept {}; fork {}; {} tokens",
        times(found),
        times(masked),
        times(accepted),
        times(forks),
        logits.len()
    );
    Ok(())
}

fn choose(constraint: &mut Constraint, random: &mut u64) -> Result<u32, Box<dyn std::error::Error>> {
    let words = constraint.allowed()?;
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let from = (*random >> 33) as usize % words.len();
    let set = (from..words.len()).chain(0..from).find(|&at| words[at] != 0).ok_or("nothing is allowed")?;
    Ok(set as u32 * 32 + words[set].trailing_zeros())
}

/// Median and largest, in microseconds.
fn times(mut all: Vec<Duration>) -> String {
    all.sort();
    let micros = |at: usize| all.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6);
    format!("{:.1} us (most {:.0})", micros(all.len() / 2), micros(all.len().saturating_sub(1)))
}

/// Bytes, words of made-up syllables with and without a blank before them, numbers and signs: lengths as in real
/// vocabularies.
fn vocabulary(count: usize) -> VocabularySpec<'static> {
    let mut tokens: Vec<Cow<'static, str>> = (0..=255).map(|byte| format!("<0x{byte:02X}>").into()).collect();
    let mut types = vec![6; tokens.len()];
    let syllables =
        ["ba", "ce", "di", "fo", "gu", "ran", "ter", "sion", "ly", "est", "un", "pre", "con", "a", "e", "th"];
    for signs in [
        "\":", "\",", "{\"", "\"}", "[\"", "],", "},", "\",\"", "\":\"", "\":[", "true", "false", "null",
        "\n\n",
    ] {
        tokens.push(signs.replace('\n', "Ċ").into());
    }
    for number in 0..1000 {
        tokens.push(number.to_string().into());
    }
    for index in 0.. {
        if tokens.len() >= count - 2 {
            break;
        }
        let (mut left, mut word) = (index / 4 + 16, String::new());
        while left > 0 {
            word += syllables[left % 16];
            left /= 16;
        }
        let word = match index % 4 {
            0 => format!("Ġ{word}"),
            1 => word,
            2 => format!("Ġ{}{}", word[..1].to_uppercase(), &word[1..]),
            _ => format!("_{word}"),
        };
        tokens.push(format!("{word}{}", if index % 11 == 0 { "." } else { "" }).into());
    }
    let mut seen = std::collections::HashSet::new();
    let mut spare = 0;
    for token in &mut tokens {
        while !seen.insert(token.to_string()) {
            spare += 1;
            *token = format!("{token}{spare}").into();
        }
    }
    tokens.extend(["<|im_start|>".into(), "<|im_end|>".into()]);
    types.resize(tokens.len() - 2, 1);
    types.extend([3, 3]);
    let eos = Some(tokens.len() as u32 - 1);
    VocabularySpec {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens,
        token_types: types,
        eos,
        ..VocabularySpec::default()
    }
}

/// Memory of this process, bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}
