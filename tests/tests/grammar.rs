//! Answers under a grammar: whatever samplers and policies do, what comes out follows it, or the answer says that it does
//! not.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use membrane_audit::text::Texts;
use membrane_audit::{Keep, Script, Step, Transcript};
use membrane_engine::{LoadOptions, Model};
use membrane_generate::{
    Answer, AnswerOptions, Behaviour, EndReason, Event, GenerateError, Generator, Sameness, Versions,
};
use membrane_host::{Host, HostOptions, PluginSource, first_party};
use membrane_tests::guests::code_cache;
use membrane_tests::stage::Stage;
use membrane_tests::{recorder, workspace};
use membrane_text::{ChatMessage, Grammar, GrammarError, Role};
use serde_json::{Value, json};

static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::new(HostOptions { cache: Some(code_cache()), ..HostOptions::default() }).unwrap());

/// A model of random weights with one sampler: it has no idea of JSON.
fn generator(sampler: &str, parameters: Value) -> Generator {
    let found = first_party::find(sampler).unwrap();
    let source = PluginSource { parameters, ..PluginSource::new(sampler, found.bytes, found.world) };
    let behaviour =
        Behaviour { samplers: vec![HOST.load(source, found.world).unwrap()], ..Behaviour::default() };
    let options = LoadOptions { context: Some(1024), threads: Some(1), ..LoadOptions::default() };
    let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-Q8_0.gguf");
    Generator::new(HOST.clone(), Model::open(&path, &options).unwrap(), behaviour).unwrap()
}

fn ask(generator: &mut Generator, grammar: &Grammar, seed: u64) -> Result<(Answer, String), GenerateError> {
    let options = AnswerOptions {
        seed,
        max_tokens: Some(700),
        raw: false,
        now: 0,
        constraint: Some(grammar.clone()),
        template: Default::default(),
    };
    let mut text = String::new();
    let messages = [ChatMessage::new(Role::User, "Who are you?")];
    let answer = generator.answer(&messages, &options, &Arc::default(), &mut |event| {
        if let Event::Text { text: more } = event {
            text += &more;
        }
    })?;
    Ok((answer, text))
}

fn schema() -> Grammar {
    Grammar::JsonSchema(json!({
        "type": "object", "required": ["name", "tags", "born"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "\"blue\"\n"]}, "maxItems": 3},
            "born": {"type": "integer", "minimum": 1900, "maximum": 2026},
            "of": {"$ref": "#/$defs/of"},
        },
        "$defs": {"of": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}},
    }))
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let object = value.as_object().unwrap();
    assert!(object.keys().all(|key| ["name", "tags", "born", "of"].contains(&key.as_str())), "{text}");
    let name = object["name"].as_str().unwrap().chars().count();
    assert!((1..=12).contains(&name), "{text}");
    let tags = object["tags"].as_array().unwrap();
    assert!(
        tags.len() <= 3
            && tags.iter().all(|tag| ["red", "green", "\"blue\"\n"].contains(&tag.as_str().unwrap()))
    );
    assert!((1900.0..=2026.0).contains(&object["born"].as_f64().unwrap()), "{text}");
    assert!(object.get("of").is_none_or(|of| of.is_null() || of.is_boolean()), "{text}");
}

#[test]
fn answers_under_a_schema_are_valid_whatever_the_sampler() {
    let standard = |parameters: Value| ("standard-sampler", parameters);
    for (sampler, parameters) in [
        standard(json!({"temperature": 0.0})),
        standard(json!({"temperature": 1.0, "top_k": 3})),
        standard(json!({"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0})),
        standard(json!({"temperature": 2.0, "top_p": 0.1, "repeat_penalty": 1.8})),
        ("greedy", json!({})),
        ("mirostat", json!({})),
    ] {
        let mut generator = generator(sampler, parameters.clone());
        for seed in 0..6 {
            let (answer, text) = ask(&mut generator, &schema(), seed).unwrap();
            assert_eq!(answer.reason, EndReason::Stop, "{sampler} {parameters}: {text:?}");
            check(&text);
            assert_eq!(answer.messages.last().unwrap().content, text);
        }
    }
}

#[test]
fn an_answer_ends_where_nothing_can_follow() {
    let mut generator = generator("standard-sampler", json!({"temperature": 5.0}));
    for (pattern, expected) in [("yes", "yes"), ("", ""), ("\\{\"a\": 1\\}", "{\"a\": 1}")] {
        let (answer, text) = ask(&mut generator, &Grammar::Regex(pattern.into()), 1).unwrap();
        assert_eq!((answer.reason, text.as_str()), (EndReason::Stop, expected));
    }
    let (answer, text) = ask(&mut generator, &Grammar::Lark("start: (\"ab\" | \"c\")+".into()), 2).unwrap();
    let whole = answer.reason == EndReason::Stop;
    assert!(!text.is_empty() && text.replace("ab", "").chars().all(|c| c == 'c' || !whole), "{text}");
}

/// A log of answers in a folder.
fn recorded(
    folder: &Path,
    keep: Keep,
    generator: &mut Generator,
    grammars: &[Grammar],
) -> Vec<(u64, u64, Script)> {
    let (path, log) = recorder::open(folder, keep);
    generator.record(recorder::audit(&log));
    for (seed, grammar) in grammars.iter().enumerate() {
        let _ = ask(generator, grammar, seed as u64);
    }
    log.lock().unwrap().close().unwrap();
    let transcript = Transcript::read(&path, None).unwrap();
    let texts = Texts::beside(&path).unwrap();
    let scripts = transcript.answers.iter();
    scripts.map(|a| (a.number, a.start.seed, Script::of(a, texts.as_ref()).unwrap())).collect()
}

#[test]
fn masks_come_before_sampling_and_what_is_left_counts_as_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut generator =
        generator("standard-sampler", json!({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}));
    let one = Grammar::Regex("only this".into());
    let two = Grammar::Regex("x|y".into());
    let all = recorded(folder.path(), Keep::Tokens, &mut generator, &[&[one][..], &vec![two; 40]].concat());
    let chosen = |script: &Script| script.tokens().cloned().collect::<Vec<_>>();
    // Where there is one way, it has the whole of the probability, of hundreds of tokens.
    assert!(chosen(&all[0].2).len() > 1);
    assert!(chosen(&all[0].2).iter().all(|token| token.probability == Some(1.0)));
    // Of two ways, the probabilities add up.
    let mut by_token = std::collections::BTreeMap::new();
    for (_, _, script) in &all[1..] {
        let token = chosen(script)[0].clone();
        by_token.insert(token.id.unwrap(), token.probability.unwrap());
    }
    assert_eq!(by_token.len(), 2, "both come up");
    assert!((by_token.values().sum::<f32>() - 1.0).abs() < 1e-4, "{by_token:?}");
}

#[test]
fn a_constrained_answer_is_replayed_to_the_bit() {
    let grammars = [
        schema(),
        Grammar::Regex("[a-z]{3,9}( [a-z]{2,5}){4}".into()),
        Grammar::Lark("start: \"(\" start \")\" | /[xyz]{1,3}/".into()),
        Grammar::JsonSchema(
            json!({"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 4}),
        ),
    ];
    for keep in [Keep::Tokens, Keep::Text] {
        let folder = tempfile::tempdir().unwrap();
        let mut one = generator("standard-sampler", json!({"temperature": 1.6, "top_k": 50}));
        let scripts = recorded(folder.path(), keep, &mut one, &grammars);
        assert_eq!(scripts.len(), grammars.len());
        let mut other = generator("standard-sampler", json!({"temperature": 1.6, "top_k": 50}));
        for (number, seed, script) in &scripts {
            let replayed = other.replay(*number, *seed, script, Sameness::Bits, &Versions::new()).unwrap();
            assert!(replayed.identical() && replayed.tokens > 0, "{keep:?} {number}: {:?}", replayed.first);
            // It is the constraint that made it.
            let without = Script { constraint: None, ..script.clone() };
            assert!(
                !other
                    .replay(*number, *seed, &without, Sameness::Bits, &Versions::new())
                    .unwrap()
                    .identical()
            );
        }
    }
}

#[test]
fn the_log_has_the_grammar_where_it_has_token_ids_and_elsewhere_its_digest() {
    let grammar = Grammar::Regex("secret-word|other".into());
    for keep in [Keep::Digests, Keep::Tokens, Keep::Text] {
        let folder = tempfile::tempdir().unwrap();
        let mut generator = generator("greedy", json!({}));
        let scripts = recorded(folder.path(), keep, &mut generator, std::slice::from_ref(&grammar));
        let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
        assert!(log.contains("\"kind\":\"regex\""));
        assert_eq!(log.contains("secret-word"), keep == Keep::Tokens, "{keep:?}");
        let known = scripts[0].2.constraint.as_ref().unwrap().grammar.is_some();
        assert_eq!(known, keep != Keep::Digests);
        let mut unknown = scripts[0].2.clone();
        unknown.constraint.as_mut().unwrap().grammar = None;
        let error = generator
            .replay(scripts[0].0, scripts[0].1, &unknown, Sameness::Bits, &Versions::new())
            .unwrap_err();
        assert!(error.to_string().contains("only"), "{error}");
    }
}

#[test]
fn a_sampler_can_not_choose_what_the_grammar_does_not_allow() {
    let mut stage = Stage::saying(&["no, never"]);
    stage.constraint = Some(Grammar::Regex("no, never|yes".into()));
    let seen = stage.ask("?");
    assert_eq!(seen.text(), "no, never");
    assert_eq!(seen.answer.unwrap().reason, EndReason::Stop);
    stage.constraint = Some(Grammar::Regex("no, not now|yes".into()));
    let seen = stage.ask("?");
    assert!("no, n".starts_with(&seen.text()), "{}", seen.text());
    assert!(
        matches!(seen.answer, Err(GenerateError::Host(_))),
        "{:?}",
        seen.answer.map(|answer| answer.reason)
    );
}

#[test]
fn text_that_a_policy_forces_must_fit() {
    let forced = |pattern: &str| {
        let script = json!({"hook": "output", "at": "lunch", "action": "force", "text": "dinner is served"});
        let mut stage = Stage::saying(&["at noon lunch is served."]).scripted_policy(script);
        stage.constraint = Some(Grammar::Regex(pattern.into()));
        stage.ask("?")
    };
    let fits = forced("at noon (lunch|dinner).*|dinner is served.*");
    assert!(fits.text().contains("dinner is served"), "{}", fits.text());
    let against = forced("at noon lunch is served\\.");
    assert!(
        matches!(against.answer, Err(GenerateError::ForcedAgainstGrammar(GrammarError::Token { .. }))),
        "{:?}",
        against.answer.map(|answer| answer.reason)
    );
    let text = against.text();
    assert!(!text.contains("served."), "nothing comes behind it: {text}");
    // The same at the end of an answer that has no room for more.
    let script = json!({"hook": "output", "at": "noon", "action": "force", "text": "Goodbye."});
    let mut stage = Stage::saying(&["at noon lunch is served."]).scripted_policy(script);
    stage.constraint = Some(Grammar::Regex("at noon lunch is served\\.".into()));
    stage.max_tokens = Some(4);
    assert!(matches!(stage.ask("?").answer, Err(GenerateError::ForcedAgainstGrammar(_))));
}

#[test]
fn a_grammar_without_a_way_on_ends_the_answer_with_an_error() {
    let mut generator = generator("standard-sampler", json!({}));
    let error = ask(&mut generator, &Grammar::JsonSchema(json!({"$ref": "#"})), 1).unwrap_err();
    assert!(matches!(error, GenerateError::Grammar(GrammarError::DeadEnd { position: 0, .. })), "{error}");
    // The generator goes on with the next answer.
    assert_eq!(ask(&mut generator, &Grammar::Regex("fine".into()), 1).unwrap().1, "fine");
}

#[test]
fn what_can_not_be_followed_is_refused_before_anything_is_computed() {
    let refused = |stage: &Stage| {
        let mut generator = stage.generator();
        let seen = stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "?")]);
        assert!(seen.events.is_empty() && generator.session().tokens().is_empty());
        seen.answer.err().unwrap()
    };
    let mut stage = Stage::saying(&["a"]);
    stage.constraint = Some(Grammar::JsonSchema(json!({"not": {}})));
    assert!(matches!(refused(&stage), GenerateError::Grammar(GrammarError::Refused { .. })));
    let mut stage = Stage::saying(&["a"]).first_party("calculator", json!({}));
    stage.constraint = Some(Grammar::Regex("a".into()));
    assert!(matches!(refused(&stage), GenerateError::GrammarWithTools));
}

#[test]
fn a_replay_follows_forced_text() {
    let script = json!({"hook": "output", "at": "lunch", "action": "force", "text": "dinner is served"});
    let mut stage = Stage::saying(&["at noon lunch is served."]).scripted_policy(script);
    stage.constraint = Some(Grammar::Regex("at noon (lunch|dinner).*|dinner is served.*".into()));
    let mut generator = stage.generator();
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = recorder::open(folder.path(), Keep::Tokens);
    generator.record(recorder::audit(&log));
    let _ = stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "?")]);
    log.lock().unwrap().close().unwrap();
    let transcript = Transcript::read(&path, None).unwrap();
    let answer = &transcript.answers[0];
    let script = Script::of(answer, None).unwrap();
    assert!(script.steps.iter().any(|step| matches!(step, Step::Rewind { .. })));
    let replayed = stage
        .generator()
        .replay(answer.number, answer.start.seed, &script, Sameness::Bits, &Versions::new())
        .unwrap();
    assert!(replayed.identical() && replayed.tokens > 0, "{:?}", replayed.first);
}
