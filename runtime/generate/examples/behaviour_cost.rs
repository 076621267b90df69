//! What a behaviour of plugins costs an answer: decode with the standard sampler, two policies and the audit log, beside a loop
//! that makes the same choices natively, in turn.
//!
//!     cargo run --release -p membrane-generate --example behaviour_cost -- MODEL.gguf [TOKENS] [PAIRS]

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use membrane_audit::{self as audit, Keep, Log, LogOptions};
use membrane_engine::{LoadOptions, Model};
use membrane_generate::{AnswerOptions, Audit, Behaviour, Generator};
use membrane_host::sampling::{Candidates, Context, Operation, Repetition, Temperature};
use membrane_host::{Host, HostOptions, Plugin, PluginSource, Random, Vocabulary, first_party};
use membrane_text::{ChatMessage, Role};
use serde_json::{Value, json};

const PROMPT: &str = "Once upon a time, in a lighthouse by the sea, there lived a keeper who";
const SEED: u64 = 1;
const RULES: &str = r#"
[[clause]]
id = "bench:word"
when = "output"
match = ["heliotrope", "amaranth"]
action = "redact"
"#;

/// The operations ask for no texts here.
struct Unasked;

impl Vocabulary for Unasked {
    fn size(&self) -> u32 {
        0
    }

    fn bytes_of(&self, _: u32) -> Option<&[u8]> {
        None
    }

    fn encode(&self, _: &str) -> Result<Vec<u32>, String> {
        Ok(Vec::new())
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }

    fn end_token(&self) -> Option<u32> {
        None
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("give the path of a model")?;
    let tokens: usize = arguments.next().map_or(Ok(256), |tokens| tokens.parse())?;
    let pairs: usize = arguments.next().map_or(Ok(7), |pairs| pairs.parse())?;
    let options = LoadOptions { context: Some(2048), ..LoadOptions::default() };
    let model = Model::open(Path::new(&path), &options)?;
    let host = Host::new(HostOptions::default())?;
    let behaviour = behaviour(&host)?;
    let folder = std::env::temp_dir().join(format!("behaviour-cost-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut generator = Generator::new(host, model.clone(), behaviour)?;
    generator.record(record(&folder)?);
    let mut ratios = Vec::new();
    for _ in 0..pairs {
        let (plugins, text) = with_plugins(&mut generator, tokens)?;
        let (native, same) = natively(&model, tokens)?;
        if text != same {
            return Err(format!("the two loops chose differently:\n{text}\n{same}").into());
        }
        ratios.push(plugins / native);
        println!("plugins {plugins:7.2} tok/s, native {native:7.2} tok/s, ratio {:.3}", plugins / native);
    }
    std::fs::remove_dir_all(&folder)?;
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.3} over {pairs} pairs of {tokens} tokens", ratios[ratios.len() / 2]);
    Ok(())
}

fn behaviour(host: &Host) -> Result<Behaviour, Box<dyn Error>> {
    let load = |name: &str, parameters: Value| -> Result<Plugin, Box<dyn Error>> {
        let plugin = first_party::find(name)?;
        let source = PluginSource { parameters, ..PluginSource::new(name, plugin.bytes, plugin.world) };
        Ok(host.load(source, plugin.world)?)
    };
    Ok(Behaviour {
        samplers: vec![load("standard-sampler", json!({}))?],
        policies: vec![load("guard", json!({ "rules": RULES }))?, load("limits", json!({}))?],
        tools: Vec::new(),
        record: None,
    })
}

fn record(folder: &Path) -> Result<Audit, Box<dyn Error>> {
    let options = LogOptions { program: "behaviour_cost".into(), keep: Keep::Tokens, key: None };
    let log = Log::open(&folder.join("log.jsonl"), options)?;
    let model = audit::Model {
        path: String::new(),
        architecture: String::new(),
        files: Vec::new(),
        tokenizer: audit::Digest::of(b""),
        template: None,
    };
    Ok(Audit::new(Arc::new(Mutex::new(log)), model)?)
}

/// Tokens a second of decode, and the text.
fn with_plugins(generator: &mut Generator, tokens: usize) -> Result<(f64, String), Box<dyn Error>> {
    let options = AnswerOptions {
        seed: SEED,
        max_tokens: Some(tokens),
        raw: true,
        now: 0,
        constraint: None,
        template: Default::default(),
    };
    let messages = [ChatMessage::new(Role::User, PROMPT)];
    let answer = generator.answer(&messages, &options, &Arc::default(), &mut |_| {})?;
    let text = answer.messages.last().map(|message| message.content.clone()).unwrap_or_default();
    Ok((answer.stats.decode_speed().unwrap_or_default(), text))
}

/// The same choices without plugins, policies and records.
fn natively(model: &Model, tokens: usize) -> Result<(f64, String), Box<dyn Error>> {
    let tokenizer = model.tokenizer()?;
    let prompt = tokenizer.begin(PROMPT)?;
    let mut session = model.session();
    session.append(&prompt)?;
    // The standard sampler's defaults.
    let temperature = Temperature { temperature: 0.8, range: 0.0, exponent: 1.0 };
    let operations = [
        Operation::TopK(40),
        Operation::TopP(0.95),
        Operation::MinP(0.05),
        Operation::Temperature(temperature),
    ];
    let (mut random, mut candidates) = (Random::new(SEED), Candidates::default());
    let mut repetition = Repetition::default();
    let (mut logits, mut chosen) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while chosen.len() < tokens {
        logits.clear();
        logits.extend_from_slice(session.logits());
        candidates.start(&mut logits)?;
        for operation in &operations {
            let mut context = Context {
                history: session.tokens(),
                vocabulary: &Unasked,
                random: &mut || random.bits(),
                repetition: &mut repetition,
            };
            operation.apply(&mut candidates, &mut context)?;
        }
        let uniform = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let (token, _) = candidates.draw(uniform)?;
        candidates.finish(&mut logits);
        chosen.push(token);
        if tokenizer.end_tokens().contains(&token) {
            break;
        }
        session.append(&[token])?;
    }
    let speed = chosen.len() as f64 / start.elapsed().as_secs_f64();
    chosen.retain(|token| !tokenizer.is_control(*token));
    Ok((speed, tokenizer.decode(&chosen, false)))
}
