//! Agents that are ended. Those that fail or take too much are in `tests/tests/hostile_plugins`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_generate::EndReason;
use serde_json::json;

use crate::{agents, drawing, run_with, scripted};

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
