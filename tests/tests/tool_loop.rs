//! Tool calls from the model's text to the next prompt, with policies on the way.

#[path = "tool_loop/channels.rs"]
mod channels;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use membrane_generate::{AnswerOptions, EndReason, Event};
use membrane_tests::stage::{Seen, Stage};
use membrane_text::{ChatMessage, Role};
use serde_json::{Value, json};

const CALL: &str = "Let me see. <tool_call>\n{\"name\": \"calculator\", \
                    \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";

fn calculating(texts: &[&str]) -> Stage {
    Stage::saying(texts).first_party("calculator", json!({}))
}

/// The tool results that the model reads.
fn results(seen: &Seen) -> Vec<String> {
    let messages = &seen.answer.as_ref().expect("there is an answer").messages;
    let results = messages.iter().filter(|message| message.role == Role::Tool);
    results.map(|message| message.content.clone()).collect()
}

fn reason(seen: &Seen) -> EndReason {
    seen.answer.as_ref().expect("there is an answer").reason
}

#[test]
fn a_call_is_made_and_its_result_comes_back() {
    let seen = calculating(&[CALL, "It is 42."]).ask("What is six times seven?");
    assert_eq!(seen.calls(), [r#"calculator {"expression":"6*7"}"#]);
    assert_eq!(seen.text(), "Let me see.It is 42.");
    assert_eq!(reason(&seen), EndReason::Stop);
    assert!(seen.verdicts().is_empty());
    let messages = seen.answer.unwrap().messages;
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    assert_eq!(messages[1].content, "Let me see.");
    assert_eq!(messages[1].tool_calls[0].name, "calculator");
    assert_eq!(messages[1].tool_calls[0].arguments, json!({"expression": "6*7"}));
    assert_eq!((messages[2].name.as_deref(), messages[2].content.as_str()), (Some("calculator"), "42"));
    assert_eq!(messages[3].content, "It is 42.");
}

/// The engine takes a flag that was set before a pass for one of the pass before.
#[test]
fn an_answer_that_is_cancelled_before_its_prompt_is_computed_computes_nothing() {
    let stage = calculating(&["It is 42."]);
    let mut generator = stage.generator();
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = generator.model().cancel_flag();
    let (constraint, template) = (None, serde_json::Map::new());
    let options = AnswerOptions { seed: 1, max_tokens: Some(8), raw: false, now: 0, constraint, template };
    let messages = [ChatMessage::new(Role::User, "What is six times seven?")];
    let answer = generator.answer(&messages, &options, &cancel, &mut |event| {
        if matches!(event, Event::Prefill { .. }) {
            cancel.store(true, Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
        }
    });
    let answer = answer.unwrap();
    assert_eq!(answer.reason, EndReason::Cancelled);
    assert_eq!((answer.stats.prefill_tokens, answer.stats.decode_tokens), (0, 0));
}

#[test]
fn the_next_prompt_holds_the_call_and_the_result() {
    // The policy sees each prompt as the model will read it, and refuses the one that has the text.
    let refused = |at: &str| {
        let script = json!({"hook": "prompt", "at": at, "action": "refuse", "text": "Seen."});
        let seen = calculating(&[CALL, "It is 42."]).scripted_policy(script).ask("What is six times seven?");
        (reason(&seen) == EndReason::Refused, seen)
    };
    let (stopped, seen) = refused("<tool_response>\n42\n</tool_response>");
    assert!(stopped);
    assert_eq!(seen.refusal().as_deref(), Some("Seen."));
    assert_eq!(seen.calls().len(), 1, "the first prompt did not have it");
    assert!(refused(r#"{"name": "calculator", "arguments": {"expression": "6*7"}}"#).0);
    assert!(!refused("<tool_response>\n43\n</tool_response>").0);
}

#[test]
fn the_second_round_computes_only_what_is_new() {
    let seen = calculating(&[CALL, "It is 42."]).ask("What is six times seven?");
    let prompts: Vec<(usize, usize)> = seen
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Prefill { prompt_tokens, reused_tokens } => Some((*prompt_tokens, *reused_tokens)),
            _ => None,
        })
        .collect();
    let [(first, 0), (second, reused)] = prompts[..] else { panic!("{prompts:?}") };
    // What the model wrote behind its prompt may be cut into other tokens when it is read back.
    assert!(second > first && reused + 16 > first, "{prompts:?}");
    let stats = seen.answer.unwrap().stats;
    assert_eq!(stats.prefill_tokens, first + second - reused);
    assert!(stats.decode_tokens > 10);
}

#[test]
fn several_calls_in_one_round_are_answered_in_their_order() {
    let call = |sum: &str| {
        format!(
            "<tool_call>{{\"name\":\"calculator\",\"arguments\":{{\"expression\":\"{sum}\"}}}}</tool_call>"
        )
    };
    let both = call("1+1") + "\n" + &call("10-3");
    let seen = calculating(&[&both, "Two and seven."]).ask("Compute.");
    assert_eq!(results(&seen), ["2", "7"]);
    assert_eq!(seen.text(), "Two and seven.");
}

#[test]
fn a_failed_call_is_told_to_the_model() {
    for (text, told) in [
        (r#"{"name": "calculator", "arguments": {"expression": "6*"}}"#, "error: "),
        (r#"{"name": "calculator", "arguments": {"expression": "1/0"}}"#, "error: "),
        (
            r#"{"name": "weather", "arguments": {}}"#,
            "error: there is no tool `weather`; there are: calculator",
        ),
    ] {
        let text = format!("<tool_call>{text}</tool_call>");
        let seen = calculating(&[&text, "I can't."]).ask("Compute.");
        let results = results(&seen);
        assert!(results.len() == 1 && results[0].starts_with(told), "{text}: {results:?}");
        assert!(
            seen.events.iter().any(|event| matches!(event, Event::ToolResult { ok: false, .. })),
            "{text}"
        );
        assert_eq!(reason(&seen), EndReason::Stop);
    }
}

#[test]
fn what_is_no_call_is_text() {
    let seen = calculating(&["<tool_call>not JSON</tool_call> and on"]).ask("Compute.");
    assert!(seen.calls().is_empty());
    assert!(seen.text().contains("not JSON"));
    let without_tools = Stage::saying(&[CALL]).ask("Compute.");
    assert_eq!(without_tools.text(), CALL);
}

#[test]
fn a_model_that_calls_for_ever_is_ended() {
    let mut stage = calculating(&[CALL; 20]);
    stage.max_tokens = None;
    let seen = stage.ask("Compute.");
    assert_eq!(reason(&seen), EndReason::ToolRounds);
    assert_eq!(seen.calls().len(), 16);
}

#[test]
fn the_guard_sees_calls_and_results() {
    let rule = |when: &str, matched: &str, more: &str| {
        format!("[[clause]]\nid = \"house:1\"\nwhen = \"{when}\"\nmatch = '{matched}'\n{more}\n")
    };
    let ask = |rules: &str| calculating(&[CALL, "Done."]).guard(rules).ask("What is six times seven?");

    let allowed = ask(&rule("tool-call", "7*7", "action = \"deny\""));
    assert_eq!((results(&allowed), allowed.verdicts().len()), (vec!["42".to_owned()], 0));

    let denied = ask(&rule("tool-call", "6*7", "action = \"deny\"\nnote = \"No products.\""));
    assert!(denied.calls().is_empty(), "a denied call is not made");
    assert_eq!(results(&denied), ["error: this call is not allowed: No products."]);
    assert_eq!(denied.verdicts(), ["guard tool-call deny house:1"]);
    assert_eq!(denied.text(), "Let me see.Done.");

    let refused = ask(&rule("tool-call", "6*7", "action = \"refuse\"\nmessage = \"Not that.\""));
    assert!(refused.calls().is_empty());
    assert_eq!((reason(&refused), refused.refusal().as_deref()), (EndReason::Refused, Some("Not that.")));
    assert_eq!(refused.verdicts(), ["guard tool-call refuse house:1"]);

    let redacted = ask(&rule("tool-result", "42", "action = \"redact\"\nreplacement = \"[hidden]\""));
    assert_eq!(results(&redacted), ["[hidden]"]);
    assert_eq!(redacted.verdicts(), ["guard tool-result rewrite house:1"]);
    assert!(!redacted.everything().contains("42"), "the result itself is seen by no one");

    let refused = ask(&rule("tool-result", "42", "action = \"refuse\"\nmessage = \"Not that.\""));
    assert_eq!((reason(&refused), refused.refusal().as_deref()), (EndReason::Refused, Some("Not that.")));
    assert!(!refused.everything().contains("42"));
}

#[test]
fn a_policy_rewrites_a_call() {
    let script =
        json!({"hook": "tool-call", "at": "6*7", "action": "rewrite", "text": "{\"expression\": \"2+3\"}"});
    let seen = calculating(&[CALL, "Five."]).scripted_policy(script).ask("Compute.");
    assert_eq!(seen.calls(), [r#"calculator {"expression": "2+3"}"#]);
    assert_eq!(results(&seen), ["5"]);
    assert_eq!(seen.verdicts(), ["scripted-policy tool-call rewrite script:1"]);
    let made: &Value = &seen.answer.as_ref().unwrap().messages[1].tool_calls[0].arguments;
    assert_eq!(*made, json!({"expression": "2+3"}), "the model reads the call that was made");
}

#[test]
fn a_policy_that_fails_at_a_call_lets_nothing_through() {
    for hook in ["tool-call", "tool-result"] {
        for action in ["trap", "error", "loop"] {
            let script = json!({"hook": hook, "at": "", "action": action});
            let seen = calculating(&[CALL, "It is 42."]).scripted_policy(script).ask("Compute.");
            assert_eq!(reason(&seen), EndReason::Refused, "{hook} {action}");
            let message = seen.refusal().unwrap();
            assert!(message.contains("`scripted-policy` failed") && message.contains(hook), "{message}");
            assert_eq!(seen.verdicts(), [format!("scripted-policy {hook} fail membrane:policy-failed")]);
            assert!(!seen.everything().contains("42"), "{hook} {action}");
            assert_eq!(seen.calls().len(), usize::from(hook == "tool-result"));
        }
    }
}

#[test]
fn a_call_keeps_its_place_in_a_longer_chat() {
    let stage = calculating(&[CALL, "It is 42."]);
    let mut generator = stage.generator();
    let first = stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "What is six times seven?")]);
    let mut messages = first.answer.unwrap().messages;
    messages.push(ChatMessage::new(Role::User, "And again?"));
    let second = stage.ask_with(&mut generator, &messages).answer.unwrap();
    assert_eq!(second.messages[..5], messages);
    assert_eq!(second.messages.len(), 8);
}
