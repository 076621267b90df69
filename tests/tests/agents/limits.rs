//! Agents that are ended. Those that fail or take too much are in `tests/tests/hostile_plugins`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_generate::EndReason;
use membrane_host::limits::MAX_RUN_GENERATIONS;
use serde_json::json;

use crate::{agents, drawing, run_with, scripted, steps};

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
