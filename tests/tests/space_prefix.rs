//! A small Mixtral whose SentencePiece vocabulary has a space put before a text: the tokens are those of llama.cpp
//! (`tests/peer/pieces.py`), and nothing that stands behind another text gets a space that nobody wrote.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex};

use membrane_engine::{LoadOptions, Model, tokenizer};
use membrane_formats::Checkpoint;
use membrane_generate::{AgentOptions, Agents, EndReason, Event, EventSink};
use membrane_host::agent::Store;
use membrane_host::{Grant, PluginSource, World};
use membrane_tests::guests::guest;
use membrane_tests::stage::Stage;
use membrane_tests::{isolation, pieces, tiny, workspace};
use membrane_text::{ChatMessage, Role, Specials, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Names a file that the model is written to as well, for the peer.
const WRITTEN: &str = "MEMBRANE_PIECES";

/// Holds the model.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixtral.gguf");
    tiny::write_mixtral(&path, &pieces::metadata());
    if let Some(copy) = std::env::var_os(WRITTEN) {
        std::fs::copy(&path, copy).unwrap();
    }
    folder
});

fn path() -> std::path::PathBuf {
    FOLDER.path().join("mixtral.gguf")
}

fn load() -> Model {
    let options = LoadOptions {
        context: Some(512),
        contexts: 4,
        sessions: 8,
        threads: Some(1),
        ..LoadOptions::default()
    };
    Model::open(&path(), &options).unwrap()
}

fn words(path: &Path) -> Tokenizer {
    tokenizer(&Checkpoint::open(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn tokens_and_texts_are_those_of_the_peer() {
    let tokenizer = words(&path());
    let golden = workspace().join("tests/fixtures/golden/pieces.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let cases = golden.as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        // Unlike llama.cpp, nothing makes the unknown token of its text.
        if !text.contains("<unk>") {
            assert_eq!(tokenizer.encode(text, Specials::Parse).unwrap(), ids(&case["parse"]), "{text:?}");
        }
        let as_text = tokenizer.encode(text, Specials::AsText).unwrap();
        assert_eq!(as_text, ids(&case["as_text"]), "{text:?}");
        assert_eq!(tokenizer.begin(text).unwrap(), ids(&case["begun"]), "{text:?}");
        assert_eq!(tokenizer.decode_whole(&as_text), case["whole"].as_str().unwrap(), "{text:?}");
        let behind = tokenizer.encode_continuation(text).unwrap();
        assert_eq!(tokenizer.decode(&behind, false), text, "{text:?}");
    }
    assert!(cases.len() > 20);
}

#[test]
fn a_file_says_whether_there_is_a_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("told.gguf");
    let mut found = Vec::new();
    for told in [None, Some(true), Some(false)] {
        let mut metadata = pieces::metadata();
        if let Some(told) = told {
            metadata.set("tokenizer.ggml.add_space_prefix", told);
        }
        tiny::write_mixtral(&path, &metadata);
        let tokenizer = words(&path);
        let tokens = tokenizer.encode("the model", Specials::AsText).unwrap();
        assert_eq!(tokenizer.decode_whole(&tokens), "the model");
        found.push(tokenizer.decode(&tokens, false));
    }
    assert_eq!(found, [" the model", " the model", "the model"]);
    assert_eq!(words(&path).decode_whole(&words(&path).begin(" the").unwrap()), "<s> the");
}

fn message(role: Role, text: &str) -> ChatMessage {
    ChatMessage::new(role, text)
}

/// What the model has read and written in an answer, as text.
fn read(generator: &membrane_generate::Generator) -> String {
    let tokens = generator.session().tokens();
    generator.model().tokenizer().unwrap().decode(tokens, false)
}

#[test]
fn an_answer_goes_on_where_the_prompt_ends() {
    let stage = Stage::saying(&[" It is a plugin.", " The same."]);
    let mut generator = stage.generator_over(&path());
    let mut messages = vec![message(Role::User, "What is it?")];
    let seen = stage.ask_with(&mut generator, &messages);
    assert_eq!(seen.text(), " It is a plugin.", "the model's own space stays");
    assert_eq!(read(&generator), "<s> [INST] What is it? [/INST] It is a plugin.");
    messages.push(message(Role::Assistant, " It is a plugin."));
    messages.push(message(Role::User, "And the host?"));
    let mut reused = 0;
    stage.ask_and(&mut generator, &messages, &mut |event| {
        if let Event::Prefill { reused_tokens, .. } = event {
            reused = *reused_tokens;
        }
    });
    let tokenizer = generator.model().tokenizer().unwrap();
    let first = tokenizer.encode("<s>[INST] What is it? [/INST] It is a plugin.", Specials::Parse).unwrap();
    assert_eq!(reused, first.len(), "the answer is not computed again");
}

#[test]
fn a_forced_text_gets_no_space() {
    let script = json!({"hook": "output", "at": "plugin", "action": "force", "text": "the host"});
    let stage = Stage::saying(&[" It is a plugin, and more."]).scripted_policy(script);
    let mut generator = stage.generator_over(&path());
    let seen = stage.ask_with(&mut generator, &[message(Role::User, "What is it?")]);
    let text = seen.text();
    assert!(text.contains("the host") && !text.contains("plugin"), "{text:?}");
    assert_eq!(read(&generator), format!("<s> [INST] What is it? [/INST]{text}"));
}

#[test]
fn a_text_under_a_grammar_is_written_as_it_is() {
    let mut stage = Stage::saying(&["the host"]);
    stage.constraint = Some(membrane_text::Grammar::Regex("the (host|model)".into()));
    let mut generator = stage.generator_over(&path());
    let seen = stage.ask_with(&mut generator, &[message(Role::User, "What?")]);
    assert_eq!(seen.text(), "the host");
    assert_eq!(read(&generator), "<s> [INST] What? [/INST]the host");
}

#[test]
fn a_raw_prompt_begins_with_a_space_and_an_agents_further_texts_do_not() {
    let stage = Stage::empty();
    let grants = [Grant::RawDecoding, Grant::Store].into_iter().collect();
    let source = PluginSource {
        parameters: json!({}),
        grants,
        isolation: isolation::of_tests(),
        ..PluginSource::new("scripted-agent", guest("scripted-agent"), World::Agent)
    };
    let agent = stage.host().load(source, World::Agent).unwrap();
    let agents = Agents::new(stage.host().clone(), load(), stage.behaviour(), None).unwrap();
    let task = json!([
        {"new": "a"},
        {"append": ["a", "the model"]},
        {"append": ["a", "the host"]},
        {"tokens": "a"},
        {"encode": "the host"},
        {"new": "b"},
        {"chat": ["b", [["user", "What is it?"]], false]},
        {"append": ["b", "the host"]},
        {"tokens": "b"},
        "report",
    ]);
    let events = Arc::new(Mutex::new(Vec::new()));
    let into = events.clone();
    let sink: EventSink = Arc::new(Mutex::new(move |event| into.lock().unwrap().push(event)));
    let options = AgentOptions { seed: 1, max_tokens: Some(50), now: 0, template: Default::default() };
    let cancel = Arc::new(AtomicBool::new(false));
    let answer =
        agents.run(&agent, &task.to_string(), &options, Some(Store::in_memory()), &cancel, &sink).unwrap();
    assert_eq!(answer.reason, EndReason::Stop, "{:?}", answer.why);
    let text: String = events
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            Event::Text { text } => Some(text.clone()),
            _ => None,
        })
        .collect();
    let found: Vec<Value> = serde_json::from_str(&text).unwrap();
    let tokenizer = words(&path());
    let text = |value: &Value| tokenizer.decode(&ids(value), false);
    assert_eq!(text(&found[3]), "<s> the modelthe host");
    assert_eq!(text(&found[4]), "the host");
    assert_eq!(text(&found[8]), "<s> [INST] What is it? [/INST]the host");
}
