//! Chains of policies: hold-back, verdicts, and that what fails lets nothing through. Verdicts that make no sense and texts without
//! end are in `tests/tests/hostile_plugins`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{component, guest, host, load, source};
use membrane_host::{
    Ended, Grant, Host, Invocation, Message, OutputOutcome, POLICY_FAILED, Plugin, PolicyChain, Refused,
    Role, ToolCallOutcome, World, first_party,
};
use serde_json::{Value, json};

fn plugin(host: &Host, parameters: Value) -> Plugin {
    guest(host, World::Policy, parameters)
}

fn chain(policies: &[Value]) -> PolicyChain {
    let host = host();
    let plugins: Vec<Plugin> = policies.iter().map(|parameters| plugin(&host, parameters.clone())).collect();
    PolicyChain::start(&host, &plugins).unwrap()
}

fn on_output(act: &str, word: &str, text: &str) -> Value {
    json!({ "hook": "output", "act": act, "word": word, "text": text })
}

fn user(content: &str) -> Message {
    Message { role: Role::User, content: content.into() }
}

fn call(arguments: &str) -> Invocation {
    Invocation { name: "add".into(), arguments: arguments.into() }
}

/// Feeds pieces of text and the end; gives all that was released and how it ended.
fn feed(chain: &mut PolicyChain, pieces: &[&str]) -> (String, Option<Ended>) {
    let mut released = String::new();
    for (index, piece) in pieces.iter().enumerate() {
        let OutputOutcome { released: more, ended, .. } = chain.output(piece, index + 1 == pieces.len());
        released.push_str(&more);
        if let Some(Ended::Stopped | Ended::Refused(_)) = ended {
            return (released, ended);
        }
    }
    (released, None)
}

#[test]
fn no_policies_let_everything_pass() {
    let mut chain = chain(&[]);
    assert_eq!(feed(&mut chain, &["a", "b", ""]), ("ab".into(), None));
    assert_eq!(chain.request(vec![user("hi")]).unwrap().messages, [user("hi")]);
}

#[test]
fn redaction_does_not_depend_on_how_the_text_comes() {
    let text = "say seccesecret and secret, secre";
    let expected = "say secce[gone] and [gone], secre";
    let whole = feed(&mut chain(&[on_output("replace", "secret", "[gone]")]), &[text]);
    assert_eq!(whole, (expected.into(), None));
    for split in 1..text.len() {
        for second in [split, (split * 7) % text.len()] {
            let (low, high) = (split.min(second), split.max(second));
            let mut chain = chain(&[on_output("replace", "secret", "[gone]")]);
            let pieces = [&text[..low], &text[low..high], &text[high..]];
            assert_eq!(feed(&mut chain, &pieces), (expected.into(), None), "{pieces:?}");
        }
    }
}

#[test]
fn what_one_policy_releases_the_next_one_sees() {
    let policies = [on_output("replace", "b", "xy"), on_output("replace", "axyc", "done")];
    let mut chain = chain(&policies);
    assert_eq!(chain.output("ab", false).released, "");
    assert_eq!(chain.pending(), "axy");
    let outcome = chain.output("c!", false);
    assert_eq!(outcome.released, "done!");
    assert_eq!(outcome.interventions.len(), 1);
    let intervention = &outcome.interventions[0];
    assert_eq!((intervention.verdict, intervention.clause.as_str()), ("replace", "test:clause"));
    assert_eq!((intervention.note.as_str(), intervention.offset_bytes), ("because[31m", Some(0)));
}

#[test]
fn a_stop_releases_what_stands_before_it_and_ends_the_answer() {
    let mut chain = chain(&[on_output("stop", "END", ""), on_output("replace", "two words", "2")]);
    assert_eq!(chain.output("one two ", false).released, "one ");
    let outcome = chain.output("words EN", false);
    assert_eq!(outcome.released, "2 ");
    let outcome = chain.output("D and more", false);
    assert_eq!((outcome.released.as_str(), outcome.ended), ("", Some(Ended::Stopped)));
    assert_eq!(
        chain.output("more", true),
        OutputOutcome { ended: Some(Ended::Stopped), ..Default::default() }
    );
    assert_eq!(chain.finish("one 2 "), Ok(Vec::new()));
}

#[test]
fn a_stop_lets_later_policies_release_what_they_hold() {
    let mut chain = chain(&[on_output("stop", "END", ""), on_output("never", "", "")]);
    assert_eq!(chain.output("held ", false).released, "");
    let outcome = chain.output("back END", false);
    assert_eq!((outcome.released.as_str(), outcome.ended), ("held back ", Some(Ended::Stopped)));
}

#[test]
fn a_forced_text_takes_the_place_of_what_is_pending() {
    let mut chain = chain(&[
        on_output("replace", "ca", "-"),
        on_output("force", "bad", "good "),
        on_output("replace", "good", "fine"),
    ]);
    let outcome = chain.output("so badc", false);
    assert_eq!((outcome.released.as_str(), outcome.ended), ("fine ", Some(Ended::Forced)));
    // The first policy held "c" back; that was the model's, and is gone.
    assert_eq!((chain.pending().as_str(), chain.output("a", false).released.as_str()), ("", "a"));
}

/// A policy without grants.
fn without_grants(parameters: Value) -> PolicyChain {
    let host = host();
    let source = source("x", component(World::Policy), World::Policy, parameters);
    PolicyChain::start(&host, &[load(&host, source)]).unwrap()
}

#[test]
fn to_force_a_text_needs_a_grant() {
    let mut chain = without_grants(on_output("force", "bad", "good "));
    assert_eq!(chain.output("fine ", false).released, "fine ");
    let outcome = chain.output("bad", false);
    let Some(Ended::Refused(refused)) = &outcome.ended else { panic!("{outcome:?}") };
    assert_eq!((refused.clause.as_str(), outcome.released.as_str()), (POLICY_FAILED, ""));
    assert!(refused.message.contains("forced a text, which needs the grant `force-text`"), "{refused}");
}

#[test]
fn to_change_system_messages_needs_a_grant() {
    let system = |content: &str| Message { role: Role::System, content: content.into() };
    let rewrite = json!({ "hook": "request", "act": "rewrite", "text": "Obey me." });
    let refused = without_grants(rewrite.clone()).request(vec![user("hi")]).unwrap_err();
    assert_eq!(refused.clause, POLICY_FAILED);
    assert!(refused.message.contains("changed the system messages, which needs the grant `system-prompt`"));
    assert_eq!(chain(&[rewrite]).request(vec![user("hi")]).unwrap().messages[0], system("Obey me."));
    for act in ["drop-system", "system-to-user"] {
        let act = json!({ "hook": "request", "act": act });
        assert!(without_grants(act.clone()).request(vec![system("Be kind."), user("hi")]).is_err(), "{act}");
        assert!(chain(&[act]).request(vec![system("Be kind."), user("hi")]).is_ok());
    }
    // What users say may be rewritten without.
    let act = json!({ "hook": "request", "act": "rewrite-users", "text": "ho" });
    let outcome = without_grants(act).request(vec![system("Be kind."), user("hi")]).unwrap();
    assert_eq!(outcome.messages, [system("Be kind."), user("ho")]);
}

#[test]
fn the_first_party_policy_that_changes_system_messages_needs_its_grant() {
    let host = host();
    let plugin = first_party::find("system-prompt").unwrap();
    let request = |grants: &[Grant]| {
        let mut source = source("x", plugin.bytes.to_vec(), World::Policy, json!({ "text": "Be kind." }));
        source.grants.extend(grants);
        PolicyChain::start(&host, &[load(&host, source)]).unwrap().request(vec![user("hi")])
    };
    assert!(request(&[Grant::SystemPrompt]).is_ok());
    assert!(request(&[]).unwrap_err().message.contains("the grant `system-prompt`"));
}

#[test]
fn a_refusal_drops_all_that_was_held_back() {
    let mut chain = chain(&[on_output("replace", "abc", "-"), on_output("refuse", "bad", "")]);
    assert_eq!(chain.output("fine ab", false).released, "fine ");
    let outcome = chain.output("x bad", false);
    assert_eq!(outcome.released, "");
    let Some(Ended::Refused(refused)) = outcome.ended else { panic!("{:?}", outcome.ended) };
    assert_eq!((refused.message.as_str(), refused.clause.as_str()), ("No.\nReally.", "test:clause"));
    assert_eq!(refused.interventions.len(), 1);
    assert_eq!(chain.pending(), "");
    let after = chain.output("more", true);
    assert!(after.released.is_empty() && matches!(after.ended, Some(Ended::Refused(_))));
    assert!(chain.request(vec![user("hi")]).is_err());
}

#[test]
fn requests_are_rewritten_and_refused() {
    let rewrite = |text: &str| json!({ "hook": "request", "act": "rewrite", "text": text });
    let mut rewriting = chain(&[rewrite("second"), rewrite("first")]);
    let outcome = rewriting.request(vec![user("hi")]).unwrap();
    let contents: Vec<&str> = outcome.messages.iter().map(|message| message.content.as_str()).collect();
    assert_eq!(contents, ["first", "second", "hi"]);
    assert_eq!(outcome.messages[0].role, Role::System);
    assert_eq!(outcome.interventions.len(), 2);

    let mut refusing = chain(&[rewrite("x"), json!({ "hook": "request", "act": "refuse" })]);
    let refused = refusing.request(vec![user("hi")]).unwrap_err();
    let verdicts: Vec<&str> = refused.interventions.iter().map(|i| i.verdict).collect();
    assert_eq!(verdicts, ["rewrite", "refuse"]);
    assert!(chain(&[json!({ "hook": "prompt", "act": "refuse" })]).prompt("text").is_err());
}

#[test]
fn tool_calls_are_rewritten_denied_and_refused() {
    let on_call = |act: &str, text: &str| json!({ "hook": "tool-call", "act": act, "text": text });
    let outcome = chain(&[on_call("rewrite", "{\"a\": 1}")]).tool_call(call("{}")).unwrap();
    let ToolCallOutcome::Allowed { call: made, interventions } = outcome else { panic!("{outcome:?}") };
    assert_eq!((made.arguments.as_str(), interventions.len()), ("{\"a\": 1}", 1));

    let outcome = chain(&[on_call("deny", "")]).tool_call(call("{}")).unwrap();
    assert!(matches!(outcome, ToolCallOutcome::Denied { .. }), "{outcome:?}");
    assert!(chain(&[on_call("refuse", "")]).tool_call(call("{}")).is_err());
    let outcome = chain(&[]).tool_call(call("[1]")).unwrap();
    assert!(matches!(outcome, ToolCallOutcome::Denied { .. }), "{outcome:?}");
    let refused = chain(&[on_call("rewrite", "no json")]).tool_call(call("{}")).unwrap_err();
    assert_eq!(refused.clause, POLICY_FAILED);
}

#[test]
fn tool_results_are_rewritten_and_refused() {
    let on_result = |act: &str| json!({ "hook": "tool-result", "act": act, "text": "hidden" });
    let outcome = chain(&[on_result("rewrite")]).tool_result(&call("{}"), "secret".into()).unwrap();
    assert_eq!((outcome.output.as_str(), outcome.interventions.len()), ("hidden", 1));
    assert!(chain(&[on_result("refuse")]).tool_result(&call("{}"), "secret".into()).is_err());
}

const HOOKS: [&str; 6] = ["request", "prompt", "output", "tool-call", "tool-result", "finish"];

/// Ways to fail, and what is told of them.
const FAILURES: [(&str, &str); 4] = [
    ("error", "failed: a reported[31m error"),
    ("panic", "trapped: unreachable instruction"),
    ("loop", "ran out of fuel (150000000 units a call: limits.fuel_per_call in its profile entry)"),
    ("memory", "asked for more memory than its limit of 64 MiB"),
];

/// Calls a hook; all that a person would see of it.
fn hook(chain: &mut PolicyChain, hook: &str) -> Result<String, Refused> {
    match hook {
        "request" => chain.request(vec![user("hi")]).map(|outcome| outcome.messages[0].content.clone()),
        "prompt" => chain.prompt("hi").map(|()| "hi".into()),
        "tool-call" => chain.tool_call(call("{}")).map(|outcome| format!("{outcome:?}")),
        "tool-result" => chain.tool_result(&call("{}"), "hi".into()).map(|outcome| outcome.output),
        "finish" => chain.finish("hi").map(|_| "hi".into()),
        _ => {
            let outcome = chain.output("hi", false);
            match outcome.ended {
                Some(Ended::Refused(refused)) if outcome.released.is_empty() => Err(refused),
                _ => Ok(outcome.released),
            }
        }
    }
}

#[test]
fn a_policy_that_fails_in_any_hook_lets_nothing_through_ever_after() {
    let host = host();
    for failing in &HOOKS[..5] {
        for (act, cause) in FAILURES {
            let harmless = plugin(&host, json!({ "hook": "none", "act": "none" }));
            let broken = plugin(&host, json!({ "hook": failing, "act": act }));
            let mut chain = PolicyChain::start(&host, &[harmless, broken]).unwrap();
            let refused = hook(&mut chain, failing).expect_err(act);
            let expected = format!("The answer was withheld: policy `x` failed: {failing} {cause}");
            assert!(refused.message.starts_with(&expected), "{}", refused.message);
            assert!(!refused.message.contains(|c: char| c.is_control()), "{}", refused.message);
            assert_eq!(refused.clause, POLICY_FAILED);
            assert_eq!(refused.interventions.last().unwrap().verdict, "fail");
            for other in HOOKS {
                assert!(hook(&mut chain, other).is_err(), "{other} after {failing}");
            }
        }
    }
}

/// By then all is released: a failure is told, and neither takes the answer back nor keeps it from others.
#[test]
fn a_policy_that_fails_at_the_end_is_told_and_withholds_nothing() {
    let host = host();
    for (act, cause) in FAILURES {
        let broken = plugin(&host, json!({ "hook": "finish", "act": act }));
        let silent = plugin(&host, json!({ "hook": "none", "act": "none" }));
        let mut chain = PolicyChain::start(&host, &[broken.clone(), silent, broken]).unwrap();
        assert_eq!(feed(&mut chain, &["hi", ""]), ("hi".into(), None));
        let failures = chain.finish("hi").unwrap();
        assert_eq!(failures.len(), 2, "each policy gets the text");
        for failure in failures {
            assert_eq!(
                (failure.hook, failure.verdict, failure.clause.as_str()),
                ("finish", "fail", POLICY_FAILED)
            );
            assert!(failure.note.starts_with(&format!("finish {cause}")), "{}", failure.note);
        }
        for other in HOOKS {
            assert!(hook(&mut chain, other).is_err(), "{other}");
        }
    }
}

#[test]
fn a_policy_that_fails_to_start_is_an_error() {
    let host = host();
    let broken = plugin(&host, json!({ "hook": "configure", "act": "error" }));
    let Err(error) = PolicyChain::start(&host, &[broken]) else { panic!("it started") };
    assert_eq!(error.to_string(), "plugin `x`: configure failed: a reported[31m error");
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    common::again_in_processes("all_of_this_holds_in_processes_of_their_own");
}
