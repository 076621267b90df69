//! Policies that have the model judge what agents ask, generate and say.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use membrane_audit::text::Texts;
use membrane_audit::{self as audit, Keep, Log, LogOptions, Script, Transcript};
use membrane_engine::LoadOptions;
use membrane_generate::{Agents, Audit, Behaviour, EndReason, GenerateError, Versions, decide};
use membrane_host::{Grant, Plugin, World, first_party};
use serde_json::json;

use crate::policies::TURN;
use crate::{host, load, model, own, run, run_with, saying, scripted};

fn judge(threshold: f64) -> Plugin {
    let plugin = first_party::find("judged-guard").unwrap();
    let rules = format!(
        "[[clause]]\nid = \"house:1\"\nwhen = [\"request\", \"output\"]\nquestion = \"Is it unkind?\"\n\
         threshold = {threshold:.1}\naction = \"refuse\"\nmessage = \"No.\"\n"
    );
    let parameters = json!({ "rules": rules });
    load("judged-guard", plugin.bytes.to_vec(), World::Policy, parameters, &[Grant::Judge])
}

fn judged(threshold: f64, audit: Option<Audit>) -> Agents {
    let behaviour = saying(&["It is fine. All of it"]);
    let policies = vec![judge(threshold)];
    let options = LoadOptions { threads: Some(1), side_contexts: 1, ..LoadOptions::default() };
    Agents::new(host(), model(options), Behaviour { policies, ..behaviour }, audit).unwrap()
}

#[test]
fn an_agent_is_judged_by_the_model_and_learns_nothing_of_it() {
    let agent = own("best-of-n", json!({ "n": 3, "max_tokens": 40 }));
    let plain = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let plain = Agents::new(host(), model(plain), saying(&["It is fine. All of it"]), None).unwrap();
    let free = run(&plain, &agent, "Say something");
    let passed = run(&judged(1.0, None), &agent, "Say something");
    assert_eq!((passed.text(), passed.answer.reason), (free.text(), EndReason::Stop));
    let refused = run(&judged(0.0, None), &agent, "Say something");
    assert_eq!((refused.text().as_str(), refused.answer.reason), ("", EndReason::Refused));
    assert_eq!(refused.answer.why.as_deref(), Some("No."));
}

#[test]
fn a_behaviour_that_asks_where_no_memory_was_set_aside_is_not_taken() {
    let plain = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let agents = Agents::new(host(), model(plain), saying(&["It is fine."]), None).unwrap();
    let more = Behaviour { policies: vec![judge(1.0)], ..agents.behaviour().clone() };
    let Err(error) = agents.behaving(more.clone()) else { panic!("it was taken") };
    assert!(matches!(error, GenerateError::NoJudge), "{error}");
    assert!(judged(1.0, None).behaving(more).is_ok());
    assert!(agents.behaving(saying(&["Fine."])).is_ok());
}

/// What is asked of conversations from which nothing is generated, of log lines and of failures is on the record of the run.
#[test]
fn what_is_judged_beside_generations_is_on_the_record_of_the_run() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let (log, audit) = recording(&path);
    let agents = judged(1.0, Some(audit));
    let script = json!([
        {"new": "a"},
        {"chat": ["a", [["user", "Talk only"]], false]},
        {"log": "A line of the log"},
        {"give-up": "A sad end"},
    ]);
    let seen = run(&agents, &scripted(), &script.to_string());
    assert_eq!(seen.answer.reason, EndReason::GaveUp, "{:?}", seen.answer.why);
    log.lock().unwrap().close().unwrap();
    let transcript = Transcript::read(&path, None).unwrap();
    assert_eq!(transcript.answers.len(), 1);
    let script = Script::of(&transcript.answers[0], Texts::beside(&path).unwrap().as_ref()).unwrap();
    let questions: Vec<String> =
        script.judgements.iter().map(|judged| judged.text.as_ref().unwrap().question.to_string()).collect();
    // The task is asked too, and holds all of these.
    let task = |question: &&String| question.contains("give-up");
    assert_eq!(questions.iter().filter(task).count(), 1, "{questions:?}");
    for asked in ["Talk only", "A line of the log", "A sad end"] {
        let alone = questions.iter().filter(|question| !task(question) && question.contains(asked));
        assert_eq!(alone.count(), 1, "{asked}: {questions:?}");
    }
    assert!(script.judgements.iter().all(|judged| judged.scores.is_some()));
}

fn recording(path: &Path) -> (Arc<Mutex<Log>>, Audit) {
    let options = LogOptions { program: "test 1.0.0".into(), keep: Keep::Text, key: None };
    let log = Arc::new(Mutex::new(Log::open(path, options).unwrap()));
    let recorded = audit::Model {
        path: "model.gguf".into(),
        architecture: "test".into(),
        files: Vec::new(),
        tokenizer: audit::Digest::of(b""),
        template: None,
    };
    let audit = Audit::new(log.clone(), recorded).unwrap();
    (log, audit)
}

/// Several agents at a time ask one model, and each judgement stands with the answer that it is of.
#[test]
fn what_is_judged_of_generations_at_the_same_time_is_on_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let (log, audit) = recording(&path);
    let agents = judged(1.0, Some(audit));
    let agent = own("best-of-n", json!({ "n": 3, "max_tokens": 40 }));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (agents, agent) = (&agents, &agent);
            scope.spawn(move || run_with(agents, agent, &format!("Task {seed}"), seed, &Arc::default()));
        }
    });
    log.lock().unwrap().close().unwrap();
    let transcript = Transcript::read(&path, None).unwrap();
    let kept = Texts::beside(&path).unwrap();
    assert_eq!(transcript.answers.len(), 3 * (3 + 1));
    for answer in &transcript.answers {
        let script = Script::of(answer, kept.as_ref()).unwrap();
        assert!(script.judgements.len() >= 2, "the request and a sentence: {}", script.judgements.len());
        let versions = Versions::new();
        let decided = decide(&host(), &agents.behaviour().policies, answer.number, &script, Some(&versions));
        let decided = decided.unwrap();
        assert_eq!((decided.unknown, decided.refused), (None, None), "answer {}", answer.number);
        assert_eq!(decided.released, script.end.unwrap().released);
    }
}
