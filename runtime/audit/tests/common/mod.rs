//! Logs as a program writes them.
#![allow(dead_code)]

use std::path::Path;

use membrane_audit::{
    Answer, Behaviour, Content, Digest, End, EndText, Engine, Keep, Log, LogOptions, Model, Output,
    PromptText, Record, RequestText, Round, SigningKey, Swap, Swapped, Tokens, TokensText, Verdict,
};
use serde_json::json;

/// Options of a writer.
pub fn options(keep: Keep, key: Option<SigningKey>) -> LogOptions {
    LogOptions { program: "test 1.0.0".into(), keep, key }
}

/// Writes a model and a behaviour, and gives their numbers.
pub fn write_setting(log: &mut Log) -> (u64, u64) {
    let model = Model {
        path: "model.gguf".into(),
        architecture: "llama".into(),
        files: Vec::new(),
        tokenizer: Digest::of(b"tokenizer"),
        template: None,
    };
    let behaviour =
        Behaviour { profile: "default".into(), digest: Digest::of(b"profile"), plugins: Vec::new() };
    let model = log.append(&Record::Model(model)).unwrap();
    (model, log.append(&Record::Behaviour(behaviour)).unwrap())
}

/// Writes an answer with a few tokens and a reload in seven records, a checkpoint not counted.
pub fn write_answer(log: &mut Log, setting: (u64, u64), question: &str) {
    let request = RequestText { messages: vec![json!({"role": "user", "content": question})], grammar: None };
    let request = log.seal(&Content::Request(request)).unwrap();
    let engine = Engine {
        version: "1.0.0".into(),
        instruction_set: "scalar".into(),
        reference: false,
        activations: None,
        kv_cache: None,
        context: 64,
    };
    let start = Answer {
        model: setting.0,
        behaviour: setting.1,
        before: None,
        engine,
        seed: 7,
        max_tokens: Some(3),
        raw: false,
        now: 0,
        constraint: None,
        request,
    };
    let answer = log.append(&Record::Answer(start)).unwrap();
    let inline = |ids: &[u32]| (log_keeps_ids(log)).then(|| ids.to_vec());
    let (prompt_ids, ids) = (inline(&[1, 2, 3]), inline(&[4, 5]));
    let prompt = PromptText { rendered: question.into(), ids: vec![1, 2, 3] };
    let prompt = log.seal(&Content::Prompt(prompt)).unwrap();
    log.append(&Record::Round(Round { answer, tokens: 3, ids: prompt_ids, prompt })).unwrap();
    for first in [0, 2] {
        let outputs = vec![Output { token: first + 1, text: "a".into(), done: false }];
        let text = log.seal(&Content::Tokens(TokensText { ids: vec![4, 5], outputs })).unwrap();
        let by = vec![("greedy".into(), 2)];
        let probabilities = vec![Some(0.25), None];
        let tokens = Tokens { answer, first, count: 2, ids: ids.clone(), by, probabilities, text };
        log.append(&Record::Tokens(tokens)).unwrap();
        if first == 0 {
            log.append(&Record::Swap(swap(answer, setting.1))).unwrap();
        }
    }
    let verdict = Verdict {
        answer,
        policy: "guard".into(),
        hook: "output".into(),
        verdict: "stop".into(),
        clause: "house:1".into(),
        offset_bytes: None,
        tokens: None,
    };
    log.append(&Record::Verdict(verdict)).unwrap();
    let text = EndText { released: "aa".into(), message: None, error: None, notes: vec!["a note".into()] };
    let text = log.seal(&Content::End(text)).unwrap();
    let end = End { answer, reason: "stop".into(), rounds: 1, tokens: 4, text };
    log.append(&Record::End(end)).unwrap();
    log.checkpoint().unwrap();
}

fn swap(answer: u64, behaviour: u64) -> Swap {
    let swapped = Swapped {
        kind: "sampler".into(),
        plugin: "greedy".into(),
        from: Some(Digest::of(b"greedy 1")),
        to: Some(Digest::of(b"greedy 2")),
        effect: "live".into(),
        state: false,
    };
    Swap { answer, token: 2, behaviour, rolled_back: false, plugins: vec![swapped] }
}

fn log_keeps_ids(log: &Log) -> bool {
    log.keep() == Keep::Tokens
}

/// A closed log of exactly `records` records, at least 20.
pub fn write_log(path: &Path, records: u64, keep: Keep, key: Option<SigningKey>) {
    let mut log = Log::open(path, options(keep, key.clone())).unwrap();
    let setting = write_setting(&mut log);
    let answer = 7 + u64::from(key.is_some());
    let close = 1 + u64::from(key.is_some());
    let mut question = 0;
    while log.head().number + answer + close <= records {
        write_answer(&mut log, setting, &format!("question {question}"));
        question += 1;
    }
    while log.head().number + close < records {
        write_setting_model(&mut log);
    }
    log.close().unwrap();
}

fn write_setting_model(log: &mut Log) {
    let behaviour =
        Behaviour { profile: "filler".into(), digest: Digest::of(b"filler"), plugins: Vec::new() };
    log.append(&Record::Behaviour(behaviour)).unwrap();
}
