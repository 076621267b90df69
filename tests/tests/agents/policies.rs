//! What an agent can't do past the policies of its run.

use std::sync::{Mutex, PoisonError};

use membrane_generate::EndReason;
use membrane_host::{Grant, World, first_party};
use membrane_tests::guests::guest;
use serde_json::{Value, json};

use crate::{LOGGED, agents, load, own, run, saying, scripted, steps};

/// Tests that look at what was logged take turns.
pub static TURN: Mutex<()> = Mutex::new(());

/// What is asked may have the word, what is said may not.
const OUTPUT_RULES: &str = r#"
[[clause]]
id = "secret"
when = ["output", "tool-call", "tool-result"]
match = "forbidden"
action = "refuse"
message = "No."
"#;

/// Everything by which an agent can try to hand a text on, after it got at it past all policies.
#[test]
fn no_text_of_an_agent_passes_a_policy() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let ways = [
        ("written", json!([{"write": "it is for"}, {"write": "bidden"}])),
        (
            "written behind more",
            json!([{"write": "fine. "}, {"write": "forbid"}, {"write": "den"}, {"write": "!"}]),
        ),
        ("returned", json!([{"write": "forb"}, {"return": "idden"}])),
        ("given up", json!([{"give-up": "forbidden"}])),
        ("panicked", json!([{"panic": "forbidden"}])),
        ("logged", json!([{"log": "forbidden"}])),
        ("logged in two lines", json!([{"log": "it is forbid"}, {"log": "den here"}])),
        (
            "logged a letter a line",
            "forbidden".chars().map(|letter| json!({"log": letter.to_string()})).collect(),
        ),
        ("as a name", json!([{"start": ["forbidden", "g", {}]}])),
        (
            "generated",
            json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, {"finish": "g"}, "tell", "report"]),
        ),
        (
            "streamed",
            json!([{"new": "a"}, {"append": ["a", "x"]}, {"start": ["a", "g", {}]}, {"next": "g"}, {"next": "g"}, {"next": "g"}, "tell"]),
        ),
        ("called", json!([{"call": ["calculator", {"expression": "forbidden"}]}, "report"])),
        ("not JSON", json!(["forbidden"])),
    ];
    let mut behaviour = saying(&["it is forbidden here"]);
    behaviour.policies.push(own("guard", json!({ "rules": OUTPUT_RULES })));
    behaviour.tools.push(own("calculator", json!({})));
    let agents = agents(behaviour);
    for (way, script) in ways {
        LOGGED.lock().unwrap().clear();
        let seen = run(&agents, &scripted(), &script.to_string());
        let logged = LOGGED.lock().unwrap().join("\n");
        assert!(!seen.everything().contains("forbidden"), "{way}: {}", seen.everything());
        let joined = logged.replace('\n', "");
        assert!(!logged.contains("forbidden") && !joined.contains("forbidden"), "{way}: {logged}");
    }
}

/// A line is withheld for what it makes of those before it; those behind it are shown again.
#[test]
fn a_log_is_judged_as_one_text() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut behaviour = saying(&["fine"]);
    let rules = OUTPUT_RULES.replace("match = \"forbidden\"", "match = [\"forbidden\", \"two words\"]");
    behaviour.policies.push(own("guard", json!({ "rules": rules })));
    let agents = agents(behaviour);
    let script =
        json!([{"log": "one forbid"}, {"log": "den"}, {"log": "two"}, {"log": "words"}, {"log": "harmless"}]);
    LOGGED.lock().unwrap().clear();
    run(&agents, &scripted(), &script.to_string());
    let withheld = "(withheld by a policy)";
    assert_eq!(*LOGGED.lock().unwrap(), ["one forbid", withheld, "two", withheld, "harmless"]);
}

#[test]
fn an_agent_learns_of_a_refusal_and_goes_on() {
    let mut behaviour = saying(&["it is forbidden here"]);
    behaviour.policies.push(own("guard", json!({ "rules": OUTPUT_RULES })));
    let agents = agents(behaviour);
    let script = json!([
        {"new": "a"},
        {"append": ["a", "x"]},
        {"start": ["a", "g", {}]},
        {"finish": "g"},
        {"length": "a"},
        {"start": ["a", "h", {"sampling": "{\"texts\": [\"all is well\"]}"}]},
        {"finish": "h"},
        "report",
    ]);
    let seen = run(&agents, &scripted(), &script.to_string());
    let found: Vec<Value> = serde_json::from_str(&seen.text()).unwrap();
    assert_eq!((&found[3]["error"], &found[3]["what"]), (&json!("refused"), &json!("No.")));
    assert_eq!(found[4], found[1], "nothing of it is in the session");
    assert_eq!(found[6]["text"], "all is well");
    assert_eq!(seen.answer.stats.interventions, 1);
}

#[test]
fn a_system_prompt_can_not_be_left_out() {
    let mut behaviour = saying(&["fine"]);
    let plugin = first_party::find("system-prompt").unwrap();
    let parameters = json!({ "text": "Be kind." });
    let policy =
        load("system-prompt", plugin.bytes.to_vec(), World::Policy, parameters, &[Grant::SystemPrompt]);
    behaviour.policies.push(policy);
    let found = steps(
        &agents(behaviour),
        json!([
            {"new": "a"},
            {"append": ["a", "no system message here"]},
            {"start": ["a", "g", {}]},
            {"chat": ["a", [["user", "Hi"]], false]},
            {"start": ["a", "g", {}]},
            {"finish": "g"},
            {"append": ["a", " and so on"]},
            {"start": ["a", "g", {"max-tokens": 1}]},
            {"truncate": ["a", 3]},
            {"start": ["a", "h", {}]},
        ]),
    );
    assert_eq!(found[2]["error"], "invalid", "{}", found[2]);
    assert_eq!(found[5]["text"], "fine");
    assert_eq!(found[7], "done", "what follows a conversation is part of it");
    assert_eq!(found[9]["error"], "busy");
}

/// However much an agent says at once, policies look at it a piece at a time.
#[test]
fn a_long_text_of_an_agent_passes() {
    let mut behaviour = saying(&["fine"]);
    behaviour.policies.push(own("guard", json!({ "rules": OUTPUT_RULES })));
    let guarded = agents(behaviour.clone());
    let seen = run(&guarded, &scripted(), &json!([{"return-letters": 1_500_000}]).to_string());
    let why = seen.answer.why.as_deref();
    assert_eq!((seen.answer.reason, seen.text().len(), why), (EndReason::Stop, 1_500_000, None));
    behaviour.policies = vec![own("limits", json!({}))];
    let text: String = (0..6000).map(|number| format!("{number} ")).collect();
    let seen = run(&agents(behaviour), &scripted(), &json!([{ "write": text }]).to_string());
    assert_eq!((seen.answer.reason, seen.text(), seen.answer.why), (EndReason::Stop, text, None));
}

#[test]
fn policies_are_told_of_the_end_of_a_text_that_ends_in_calls() {
    let call =
        r#"Let me see. <tool_call>{"name": "calculator", "arguments": {"expression": "1"}}</tool_call>"#;
    let mut behaviour = saying(&[call]);
    let holding = json!({"hook": "output", "at": "nowhere", "action": "stop"});
    behaviour.policies.push(load("late", guest("scripted-policy"), World::Policy, holding, &[]));
    behaviour.tools.push(own("calculator", json!({})));
    let found = steps(
        &agents(behaviour),
        json!([
            {"new": "a"},
            {"chat": ["a", [["user", "Hi"]], true]},
            {"start": ["a", "g", {}]},
            {"finish": "g"},
        ]),
    );
    assert_eq!((&found[3]["text"], &found[3]["calls"][0][0]), (&json!("Let me see."), &json!("calculator")));
}
