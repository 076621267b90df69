//! An audit log: verified as it is, then with its hashes made right so that the records behind them are read.

use std::fs;

use membrane_audit::verify::{Trusted, verify_reader};
use membrane_audit::{
    Answer, Behaviour, Content, Digest, End, EndText, Engine, Head, Keep, Log, LogOptions, Model, Output,
    PromptText, Record, RequestText, Round, Script, SigningKey, Tokens, TokensText, Transcript, Verdict,
    head_path, line,
};
use serde_json::json;

use super::shown;
use crate::scratch;

/// What records are made of.
pub const WORDS: &[&str] = &[
    "\n",
    "{\"number\":",
    "\"previous\":\"",
    "\"at_ms\":",
    "\"record\":",
    "\"hash\":\"",
    "\"open\"",
    "\"model\"",
    "\"behaviour\"",
    "\"answer\"",
    "\"round\"",
    "\"tokens\"",
    "\"verdict\"",
    "\"judgement\"",
    "\"tool\"",
    "\"rewind\"",
    "\"swap\"",
    "\"end\"",
    "\"checkpoint\"",
    "\"close\"",
    "\"ids\":[",
    "\"count\":18446744073709551615",
    "\"first\":",
    "\"salt\":",
];

const PREVIOUS: &[u8] = b"\"previous\":\"";
const HASH: &[u8] = b",\"hash\":\"";
const DIGITS: usize = 64;

/// Verifies and reads it.
pub fn target(data: &[u8]) {
    verify(data);
    let rehashed = rehashed(data);
    verify(&rehashed);
    let path = scratch::file("log.jsonl", &rehashed);
    scratch::file_or_none(&head_path(&path), None);
    match Transcript::read(&path, None) {
        Ok(transcript) => {
            for answer in &transcript.answers {
                let _ = (answer.tokens(), answer.end(), answer.verdicts().count(), answer.swaps().count());
                let _ = Script::of(answer, None).inspect_err(|error| shown(error));
            }
        }
        Err(error) => shown(&error),
    }
    scratch::file_or_none(&head_path(&path), Some(&data[..data.len().min(4096)]));
    let _ = Head::read(&head_path(&path)).inspect_err(|error| shown(error));
    scratch::file_or_none(&head_path(&path), None);
    // To write to it is the last thing that is done with it.
    let _ = Log::open(&path, LogOptions::default()).inspect_err(|error| shown(error));
}

fn verify(log: &[u8]) {
    let report = verify_reader(log, &Trusted::default()).expect("bytes that can be read");
    for finding in &report.findings {
        shown(&finding.what);
    }
    assert_eq!(report.good(), report.findings.is_empty());
    for bytes in log.split(|byte| *byte == b'\n') {
        if let Ok(read) = line::decode(bytes) {
            let (again, _) =
                line::encode(read.number, read.previous, read.at_ms, &read.record).expect("a short line");
            let again = line::decode(&again[..again.len() - 1]).expect("a line as written");
            assert_eq!(serde_json::to_value(&again.record).ok(), serde_json::to_value(&read.record).ok());
        }
    }
}

/// Each line with the hash of the line before and its own.
fn rehashed(log: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(log.len());
    let mut before = Digest::ZERO;
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let end = line.windows(HASH.len()).rposition(|window| window == HASH).unwrap_or(line.len());
        let mut body = line[..end].to_vec();
        let at =
            body.windows(PREVIOUS.len()).position(|window| window == PREVIOUS).map(|at| at + PREVIOUS.len());
        if let Some(digits) = at.and_then(|at| body.get_mut(at..at + DIGITS)) {
            digits.copy_from_slice(before.hex().as_bytes());
        }
        before = Digest::of(&body);
        out.extend_from_slice(&body);
        out.extend_from_slice(format!(",\"hash\":\"{}\"}}\n", before.hex()).as_bytes());
    }
    out
}

/// Logs as programs write them, one signed.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = SigningKey::generate().expect("random bytes from the system");
    let log = |keep: Keep, key: Option<SigningKey>| {
        let path = scratch::folder().join("seed.jsonl");
        for path in [path.clone(), head_path(&path)] {
            scratch::file_or_none(&path, None);
        }
        let mut log =
            Log::open(&path, LogOptions { program: "test 1.0.0".into(), keep, key }).expect("a new log");
        write(&mut log).expect("a log that can be written");
        log.close().expect("a log that can be closed");
        fs::read(&path).expect("the log just written")
    };
    vec![log(Keep::Tokens, None), log(Keep::Digests, Some(key))]
}

fn write(log: &mut Log) -> membrane_audit::Result<()> {
    let model = Model {
        path: "model.gguf".into(),
        architecture: "llama".into(),
        files: Vec::new(),
        tokenizer: Digest::of(b"tokenizer"),
        template: None,
    };
    let behaviour =
        Behaviour { profile: "default".into(), digest: Digest::of(b"profile"), plugins: Vec::new() };
    let engine = Engine {
        version: "1.0.0".into(),
        instruction_set: "scalar".into(),
        reference: false,
        activations: Some("int8".into()),
        kv_cache: None,
        context: 64,
    };
    let model = log.append(&Record::Model(model))?;
    let behaviour = log.append(&Record::Behaviour(behaviour))?;
    let request = RequestText { messages: vec![json!({"role": "user", "content": "q"})], grammar: None };
    let request = log.seal(&Content::Request(request))?;
    let start = Answer {
        model,
        behaviour,
        before: None,
        engine,
        seed: 7,
        max_tokens: Some(3),
        raw: false,
        now: 0,
        constraint: None,
        request,
    };
    let answer = log.append(&Record::Answer(start))?;
    let prompt = log.seal(&Content::Prompt(PromptText { rendered: "q".into(), ids: vec![1, 2, 3] }))?;
    log.append(&Record::Round(Round { answer, tokens: 3, ids: Some(vec![1, 2, 3]), prompt }))?;
    let outputs = vec![Output { token: 1, text: "a".into(), done: false }];
    let text = log.seal(&Content::Tokens(TokensText { ids: vec![4, 5], outputs }))?;
    let (by, probabilities) = (vec![("greedy".into(), 2)], vec![Some(0.25), None]);
    log.append(&Record::Tokens(Tokens {
        answer,
        first: 0,
        count: 2,
        ids: Some(vec![4, 5]),
        by,
        probabilities,
        text,
    }))?;
    let verdict = Verdict {
        answer,
        policy: "guard".into(),
        hook: "output".into(),
        verdict: "stop".into(),
        clause: "house:1".into(),
        offset_bytes: None,
        tokens: None,
    };
    log.append(&Record::Verdict(verdict))?;
    let text = EndText { released: "a".into(), message: None, error: None, notes: vec!["a note".into()] };
    let text = log.seal(&Content::End(text))?;
    log.append(&Record::End(End { answer, reason: "stop".into(), rounds: 1, tokens: 2, text }))?;
    log.checkpoint()
}
