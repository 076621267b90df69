//! Agents that fail, are ended or are not granted what they ask for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_generate::EndReason;
use membrane_host::{Grant, PluginSource, World};
use membrane_tests::guests::guest;
use serde_json::json;

use crate::{agents, drawing, host, run, run_with, scripted};

#[test]
fn hostile_agents_end_with_a_clear_error() {
    let agents = agents(drawing());
    for (script, part) in [
        (json!(["loop"]), "ran out of fuel"),
        (json!(["recurse"]), "recursed too deep"),
        (json!([{"eat": 1000}]), "more memory than its limit"),
        (json!([{"panic": "boom"}]), "boom"),
        (json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, "loop"]), "ran out of fuel"),
    ] {
        let limits =
            membrane_host::Limits { fuel_per_call: 300_000_000, memory_bytes: 64 << 20, wall_ms: None };
        let grants = BTreeSet::from([Grant::RawDecoding, Grant::Store]);
        let source = PluginSource {
            grants,
            limits,
            ..PluginSource::new("scripted-agent", guest("scripted-agent"), World::Agent)
        };
        let agent = host().load(source, World::Agent).unwrap();
        let seen = run(&agents, &agent, &script.to_string());
        assert_eq!(seen.answer.reason, EndReason::AgentFailed, "{script}");
        let why = seen.answer.why.unwrap();
        assert!(why.contains(part), "{script}: {why}");
    }
    // The model is as usable as before.
    assert_eq!(run(&agents, &scripted(), r#"[{"write": "ok"}]"#).text(), "ok");
}

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
fn interfaces_that_were_not_granted_are_named() {
    for (grants, missing) in [(vec![], "raw-decoding"), (vec![Grant::RawDecoding], "store")] {
        let grants = BTreeSet::from_iter(grants);
        let source = PluginSource {
            grants,
            ..PluginSource::new("scripted-agent", guest("scripted-agent"), World::Agent)
        };
        let error = host().load(source, World::Agent).unwrap_err().to_string();
        assert!(error.contains(missing) && error.contains("grants = "), "{error}");
    }
}
