//! Agents that are ended. Those that fail or take too much are in `tests/tests/hostile_plugins`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use membrane_generate::{EndReason, Event, EventSink};
use membrane_host::agent::Store;
use membrane_host::limits::MAX_RUN_GENERATIONS;
use serde_json::json;

use crate::policies::TURN;
use crate::{LOGGED, agents, drawing, run_into, run_with, scripted, steps};

#[test]
fn a_run_can_be_cancelled_wherever_it_is() {
    let agents = agents(drawing());
    for script in [
        json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, {"finish": "g"}, {"write": "late"}]),
        json!([{"write": "late"}]),
    ] {
        let cancel = Arc::new(AtomicBool::new(true));
        let seen = run_with(&agents, &scripted(), &script.to_string(), 1, &cancel);
        assert_eq!(seen.answer.reason, EndReason::Cancelled);
        assert!(cancel.load(Ordering::Relaxed));
    }
}

/// Also by those calls that ask nothing of the model.
#[test]
fn a_run_that_is_over_makes_no_further_call() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (agents, store, cancel) = (agents(drawing()), Store::in_memory(), Arc::new(AtomicBool::new(true)));
    let sink: EventSink = Arc::new(Mutex::new(|_: Event| {}));
    for script in [json!([{"set": ["key", "late"]}]), json!([{"log": "logged late"}])] {
        let answer = run_into(&agents, &script.to_string(), &store, &cancel, &sink);
        assert_eq!(answer.reason, EndReason::Cancelled);
    }
    assert!(store.keys("").is_empty());
    let logged = LOGGED.lock().unwrap().join("\n");
    assert!(!logged.contains("logged late"), "{logged}");
}

#[test]
fn a_run_begins_so_many_generations_and_no_more() {
    let start = json!({"start": ["a", "g", {"max-tokens": 1}]});
    let found = steps(
        &agents(drawing()),
        json!([
            {"new": "a"},
            {"append": ["a", "Once"]},
            start,
            {"repeat": [MAX_RUN_GENERATIONS - 1, start]},
            start,
            {"finish": "g"},
        ]),
    );
    assert_eq!((&found[2], &found[3]["error"]), (&json!("done"), &json!("busy")));
    assert_eq!(found[4]["error"], "limit", "{}", found[4]);
    assert!(found[4]["what"].as_str().unwrap().contains(&format!("{MAX_RUN_GENERATIONS} generations")));
    assert_eq!(found[5]["tokens"], 1);
}
