//! Recorded answers come out the same again: generation to the bit, and each decision.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use membrane_audit::text::Texts;
use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{Keep, Script, Transcript};
use membrane_engine::{LoadOptions, Model};
use membrane_generate::{AnswerOptions, Behaviour, Decided, Generator, Replayed, Sameness, Versions, decide};
use membrane_host::{Host, HostOptions, Plugin, PluginSource, first_party};
use membrane_tests::guests::code_cache;
use membrane_tests::stage::Stage;
use membrane_tests::{recorder, workspace};
use membrane_text::{ChatMessage, Role};
use serde_json::{Value, json};

/// Mixtures of experts, a dense model and a hybrid.
const MODELS: [&str; 4] = [
    "tiny-qwen3moe-Q8_0.gguf",
    "tiny-qwen2moe-Q8_0.gguf",
    "tiny-qwen3-IQ4_NL.gguf",
    "tiny-qwen35moe-Q8_0.gguf",
];
/// Part of the experts that the memory holds: all, an eighth, a twentieth.
const SHARES: [u64; 3] = [1, 8, 20];

fn path(model: &str) -> PathBuf {
    workspace().join("tests/fixtures/gguf").join(model)
}

fn host() -> Host {
    Host::new(HostOptions { cache: Some(code_cache()), ..HostOptions::default() }).unwrap()
}

fn plugin(host: &Host, name: &str, parameters: Value) -> Plugin {
    let found = first_party::find(name).unwrap();
    let source = PluginSource { parameters, ..PluginSource::new(name, found.bytes, found.world) };
    host.load(source, found.world).unwrap()
}

/// A host with a sampler that draws. Compiled once: a component costs more than an answer of these models.
fn drawing() -> (Host, Behaviour) {
    static DRAWING: LazyLock<(Host, Behaviour)> = LazyLock::new(|| {
        let host = host();
        let parameters = json!({ "temperature": 1.4, "top_k": 60, "repeat_penalty": 1.1 });
        let samplers = vec![plugin(&host, "standard-sampler", parameters)];
        (host, Behaviour { samplers, ..Behaviour::default() })
    });
    DRAWING.clone()
}

/// A generator with so many threads and that part of the experts in memory.
fn generator(name: &str, threads: usize, share: u64) -> Generator {
    let options = LoadOptions { context: Some(512), threads: Some(threads), ..LoadOptions::default() };
    let mut model = Model::open(&path(name), &options).unwrap();
    let experts = model.plan().experts;
    if share > 1 && experts > 0 {
        drop(model);
        let options = LoadOptions { experts: Some(experts / share), ..options };
        model = Model::open(&path(name), &options).unwrap();
        assert!(model.plan().paged());
    }
    let (host, behaviour) = drawing();
    Generator::new(host, model, behaviour).unwrap()
}

/// Two turns of a chat for each seed, so that every second prompt has a prefix that the session holds.
fn chats(generator: &mut Generator, seeds: std::ops::Range<u64>, tokens: usize) {
    let cancel = Arc::default();
    for seed in seeds {
        let mut messages = Vec::new();
        for turn in 0..2 {
            messages.push(ChatMessage::new(Role::User, format!("Question {seed}, part {turn}?")));
            let options = AnswerOptions {
                seed,
                max_tokens: Some(tokens),
                raw: false,
                now: 0,
                constraint: None,
                template: Default::default(),
            };
            messages = generator.answer(&messages, &options, &cancel, &mut |_| {}).unwrap().messages;
        }
    }
}

fn scripts(log: &Path) -> Vec<(u64, u64, Script)> {
    let transcript = Transcript::read(log, None).unwrap();
    let texts = Texts::beside(log).unwrap();
    let answers = transcript.answers.iter();
    answers.map(|a| (a.number, a.start.seed, Script::of(a, texts.as_ref()).unwrap())).collect()
}

/// Replays everything in one session, and gives how much of it the session still had.
fn replay_all(generator: &mut Generator, scripts: &[(u64, u64, Script)], what: &str) -> Replayed {
    let mut all = Replayed::default();
    for (number, seed, script) in scripts {
        let replayed = generator.replay(*number, *seed, script, Sameness::Bits, &Versions::new()).unwrap();
        assert!(replayed.identical() && replayed.tokens > 0, "{what}, answer {number}: {:?}", replayed.first);
        all.tokens += replayed.tokens;
        all.reused += replayed.reused;
    }
    all
}

/// Records `chats` chats of two answers with each setting in turn, and replays them all with each.
fn recorded_and_replayed(models: &[&str], chats_each: u64, tokens: usize) {
    for model in models {
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = recorder::open(folder.path(), Keep::Tokens);
        let settings: Vec<(usize, u64)> =
            SHARES.iter().flat_map(|share| [1, 2].map(|threads| (threads, *share))).collect();
        for (index, (threads, share)) in settings.iter().enumerate() {
            let mut generator = generator(model, *threads, *share);
            generator.record(recorder::audit(&log));
            let first = index as u64 * chats_each;
            chats(&mut generator, first..first + chats_each, tokens);
        }
        log.lock().unwrap().close().unwrap();
        assert!(verify(&path, &Trusted::default()).unwrap().good());
        let scripts = scripts(&path);
        assert_eq!(scripts.len() as u64, 2 * chats_each * settings.len() as u64);
        for (threads, share) in settings {
            let mut one = generator(model, threads, share);
            let what = format!("{model}, {threads} threads, 1/{share} of the experts");
            let reused = replay_all(&mut one, &scripts, &what);
            assert!(reused.reused > 0, "{what}: prefixes were reused");
            // Each answer with a session of its own: nothing is reused.
            for script in &scripts {
                let (host, behaviour) = drawing();
                let mut fresh = Generator::new(host, one.model().clone(), behaviour).unwrap();
                let replayed =
                    replay_all(&mut fresh, std::slice::from_ref(script), &format!("{what}, fresh"));
                assert_eq!(replayed.reused, 0);
            }
        }
    }
}

#[test]
fn generation_is_identical_over_threads_budgets_and_prefixes() {
    recorded_and_replayed(&MODELS, 1, 12);
}

/// 204 generations, each replayed in 12 ways:
/// `cargo test --workspace --release --test audit_replay -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn two_hundred_generations_are_identical() {
    recorded_and_replayed(&MODELS[..1], 17, 48);
}

#[test]
fn another_sampler_differs_at_a_place_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Tokens);
    let mut generator = generator(MODELS[0], 1, 1);
    generator.record(recorder::audit(&log));
    chats(&mut generator, 0..1, 24);
    let (number, seed, script) = scripts(&path).remove(0);
    let host = host();
    let greedy = Behaviour { samplers: vec![plugin(&host, "greedy", json!({}))], ..Behaviour::default() };
    let mut other = Generator::new(host, generator.model().clone(), greedy).unwrap();
    let replayed = other.replay(number, seed, &script, Sameness::Bits, &Versions::new()).unwrap();
    assert_eq!((replayed.tokens, replayed.same), (24, 0), "another sampler is another, whatever it chooses");
    let replayed = other.replay(number, seed, &script, Sameness::Tokens, &Versions::new()).unwrap();
    assert!(replayed.tokens == 24 && replayed.same < 24);
    let first = replayed.first.unwrap();
    let before = script.tokens().take(first.index as usize).count() as u64;
    assert!(replayed.same >= before, "all before the first difference are the same");
    assert_eq!((first.now.by.as_str(), first.now.rank), ("greedy", 1));
    assert!(first.recorded.token != first.now.token && first.recorded.rank > 1);
    assert!(first.now.model_probability >= first.recorded.model_probability);
    // Another seed: the same place, token and probability until the first draw that turns out otherwise.
    let replayed = generator.replay(number, seed + 1, &script, Sameness::Tokens, &Versions::new()).unwrap();
    let first = replayed.first.expect("another seed draws otherwise");
    assert_ne!(first.recorded.token, first.now.token);
    let recorded = script.tokens().nth(first.index as usize).unwrap();
    assert_eq!((recorded.id, recorded.probability), (Some(first.recorded.token), first.recorded.probability));
}

#[test]
fn digests_alone_can_not_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Digests);
    let mut generator = generator(MODELS[0], 1, 1);
    generator.record(recorder::audit(&log));
    chats(&mut generator, 0..1, 4);
    let (number, seed, script) = scripts(&path).remove(0);
    let error =
        generator.replay(number, seed, &script, Sameness::Bits, &Versions::new()).unwrap_err().to_string();
    assert!(error.contains("only digests"), "{error}");
    let error = decide(&host(), &[], number, &script, None).unwrap_err().to_string();
    assert!(error.contains("texts were not kept"), "{error}");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("\"ids\"") && !text.contains("Question"));
}

const CALL: &str = "Let me see. <tool_call>\n{\"name\": \"calculator\", \
                    \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";
const ANSWER: &str =
    "Welcome. Remember: the door code is heliotrope 7731, and lunch is at noon. The code is 7731.";

fn rule(when: &str, matched: &str, more: &str) -> String {
    format!("[[clause]]\nid = \"house:1\"\nwhen = \"{when}\"\nmatch = '{matched}'\n{more}\n")
}

/// Answers with verdicts of every kind in every hook.
fn scenes() -> Vec<(&'static str, Stage)> {
    let scripted = |hook: &str, at: &str, action: &str, text: &str| {
        let parameters = json!({"hook": hook, "at": at, "action": action, "text": text});
        Stage::saying(&[ANSWER]).scripted_policy(parameters)
    };
    let tools = |hook: &str, at: &str, action: &str, text: &str| {
        let parameters = json!({"hook": hook, "at": at, "action": action, "text": text});
        Stage::saying(&[CALL, "It is 42."]).first_party("calculator", json!({})).scripted_policy(parameters)
    };
    let guarded = |rules: &str| Stage::saying(&[ANSWER]).guard(rules);
    let refuse = "action = \"refuse\"\nmessage = \"No.\"";
    let redact = "action = \"redact\"\nreplacement = \"[code]\"";
    vec![
        ("nothing to say", guarded(&rule("output", "nowhere", redact))),
        ("redact twice", guarded(&rule("output", "7731", redact))),
        ("stop", guarded(&rule("output", "heliotrope", "action = \"stop\""))),
        ("refuse output", guarded(&rule("output", "heliotrope", refuse))),
        ("refuse request", guarded(&rule("request", "Hello", refuse))),
        ("refuse prompt", scripted("prompt", "Hello", "refuse", "No.")),
        ("trap in prompt", scripted("prompt", "", "trap", "")),
        ("force", scripted("output", "heliotrope", "force", "All is well.")),
        ("trap in output", scripted("output", "heliotrope", "trap", "")),
        ("error in finish", scripted("finish", "Welcome", "error", "")),
        (
            "rewrite request",
            Stage::saying(&[ANSWER]).first_party("system-prompt", json!({ "text": "Be kind." })),
        ),
        ("deny a call", tools("tool-call", "6*7", "deny", "")),
        ("refuse a call", tools("tool-call", "6*7", "refuse", "No.")),
        ("rewrite a call", tools("tool-call", "6*7", "rewrite", "{\"expression\": \"7*7\"}")),
        ("rewrite a result", tools("tool-result", "42", "rewrite", "43")),
        ("refuse a result", tools("tool-result", "42", "refuse", "No.")),
        (
            "force after a redaction",
            guarded(&rule("output", "Welcome", redact)).scripted_policy(
                json!({"hook": "output", "at": "lunch", "action": "force", "text": "Then dinner."}),
            ),
        ),
    ]
}

#[test]
fn decisions_of_every_kind_come_out_again() {
    for (name, stage) in scenes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = recorder::open(folder.path(), Keep::Text);
        let mut generator = stage.generator();
        generator.record(recorder::audit(&log));
        let seen = stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "Hello there")]);
        log.lock().unwrap().close().unwrap();
        let report = verify(&path, &Trusted::default()).unwrap();
        assert!(report.good() && report.texts == report.contents, "{name}: {:?}", report.findings);
        let (number, seed, script) = scripts(&path).remove(0);
        assert!(script.texts && script.ids, "{name}");
        // The record has what the person saw.
        let end = script.end.as_ref().unwrap();
        assert_eq!((&end.released, &end.message), (&seen.text(), &seen.refusal()), "{name}");
        let recorded: Vec<Decided> = script.verdicts.iter().map(Decided::from).collect();
        let told: Vec<String> = recorded
            .iter()
            .map(|made| format!("{} {} {} {}", made.policy, made.hook, made.verdict, made.clause))
            .collect();
        assert_eq!(told, seen.verdicts(), "{name}");
        // Decisions alone.
        let now = decide(stage.host(), stage.policies(), number, &script, None).unwrap();
        let plain = |decided: &Decided| Decided { token: None, ..decided.clone() };
        let (was, is): (Vec<_>, Vec<_>) =
            (recorded.iter().map(plain).collect(), now.verdicts.iter().map(plain).collect());
        assert_eq!(is, was, "{name}");
        assert_eq!((&now.released, &now.refused), (&end.released, &end.message), "{name}");
        // And the generation.
        let replayed =
            stage.generator().replay(number, seed, &script, Sameness::Bits, &Versions::new()).unwrap();
        assert!(replayed.identical(), "{name}: {:?}", replayed.first);
        assert_eq!(replayed.tokens, script.tokens().count() as u64);
    }
}

#[test]
fn a_verdict_names_the_tokens_that_it_concerns() {
    let rules = rule("output", "heliotrope", "action = \"redact\"\nreplacement = \"[flower]\"");
    let stage = Stage::saying(&[ANSWER]).guard(&rules);
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Text);
    let mut generator = stage.generator();
    generator.record(recorder::audit(&log));
    stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "Hello")]);
    let (_, _, script) = scripts(&path).remove(0);
    let span = script.verdicts[0].tokens.unwrap();
    let tokenizer = generator.model().tokenizer().unwrap();
    let ids: Vec<u32> = script.tokens().map(|token| token.id.unwrap()).collect();
    let text = tokenizer.decode(&ids[span.start as usize..span.end as usize], false);
    assert!(text.contains("heliotrope") && text.len() < "heliotrope".len() + 8, "{text:?}");
}

#[test]
fn another_policy_is_shown_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Text);
    let stage = Stage::saying(&[ANSWER]).guard(&rule("output", "nowhere", "action = \"stop\""));
    let mut generator = stage.generator();
    generator.record(recorder::audit(&log));
    stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "Hello")]);
    let (number, _, script) = scripts(&path).remove(0);
    let strict =
        Stage::saying(&[ANSWER]).guard(&rule("output", "code", "action = \"refuse\"\nmessage = \"No.\""));
    let now = decide(strict.host(), strict.policies(), number, &script, None).unwrap();
    assert_eq!(now.refused.as_deref(), Some("No."));
    assert_eq!(now.released, "Welcome. Remember: the door ");
    let refusal = now.verdicts.last().unwrap();
    assert_eq!((refusal.hook.as_str(), refusal.verdict.as_str()), ("output", "refuse"));
    assert!(refusal.token.unwrap() < script.tokens().count() as u64);
}
