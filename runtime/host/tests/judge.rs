//! Policies that have the model judge: what they get, and that what they ask beyond the limits costs nothing and ends in a
//! clear error, in the host's process and in one of their own.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use membrane_host::limits::{MAX_JUDGE_CALLS, MAX_JUDGE_TOKENS, MAX_JUDGED_BYTES_TOGETHER};
use membrane_host::{
    Grant, Host, HostError, Judge, JudgeError, Judged, Limits, Message, POLICY_FAILED, Plugin, PluginSource,
    PolicyChain, Question, Refused, Role, SharedJudge, World,
};
use serde_json::json;

/// Scores texts by their lengths; `tokens` are those of each question.
struct Lengths {
    tokens: u64,
    calls: Arc<AtomicU64>,
    /// What was left at the last call.
    left: Arc<AtomicU64>,
}

impl Judge for Lengths {
    fn score(
        &mut self,
        policy: &str,
        question: &Question,
        continuations: &[String],
        left: u64,
    ) -> Result<Judged, JudgeError> {
        assert_eq!(policy, "x");
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.left.store(left, Ordering::Relaxed);
        if *question == Question::Text("unknown".into()) {
            return Err(JudgeError::Unavailable("nobody\u{1b}[31m is there".into()));
        }
        if self.tokens > left {
            return Err(JudgeError::Tokens { tokens: self.tokens });
        }
        let scores = continuations.iter().map(|text| -(text.len() as f64)).collect();
        Ok(Judged { scores, tokens: self.tokens })
    }
}

/// The guest that does `act`; what it gets is the message of its refusal.
fn judging(host: &Host, act: &str, granted: bool) -> Result<Plugin, HostError> {
    let mut source = common::source("x", common::package("test-judge"), World::Policy, json!({ "act": act }));
    source.grants.extend(granted.then_some(Grant::Judge));
    // Enough for all calls that the limits allow, but of the one that must run out of it.
    let fuel_per_call = if act == "endless-blindly" { source.limits.fuel_per_call } else { 1_000_000_000 };
    let limits = Limits { fuel_per_call, memory_bytes: 128 << 20, ..source.limits };
    host.load(PluginSource { limits, ..source }, World::Policy)
}

fn refused(act: &str, tokens: u64) -> (Refused, u64) {
    let (refused, calls, _) = refused_with(act, tokens);
    (refused, calls)
}

/// The same, with how many tokens were left at the last call.
fn refused_with(act: &str, tokens: u64) -> (Refused, u64, u64) {
    let host = common::host();
    let plugin = judging(&host, act, true).unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let left = Arc::new(AtomicU64::new(MAX_JUDGE_TOKENS));
    let judge = SharedJudge::new(Lengths { tokens, calls: calls.clone(), left: left.clone() });
    let mut chain = PolicyChain::start_with(&host, &[plugin], Some(judge)).unwrap();
    let refused = chain.request(vec![Message { role: Role::User, content: "Hi".into() }]).unwrap_err();
    (refused, calls.load(Ordering::Relaxed), left.load(Ordering::Relaxed))
}

#[test]
fn a_policy_gets_the_scores_in_their_order() {
    let (refused, calls) = refused("score", 3);
    assert_eq!((refused.message.as_str(), refused.clause.as_str(), calls), ("[-1.0, -2.0]", "test:judge", 1));
}

#[test]
fn without_the_grant_it_is_refused_by_name_before_it_is_compiled() {
    let host = common::host();
    let error = judging(&host, "score", false).unwrap_err();
    assert!(matches!(error, HostError::NotGranted { grant: Grant::Judge, .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("plugin `x`") && error.contains("grants = [\"judge\"]"), "{error}");
}

#[test]
fn what_is_beyond_a_limit_is_told_and_never_reaches_the_model() {
    for (act, words) in [
        ("huge", "the question has 65537 bytes; the limit is 65536"),
        ("many", "10000 continuations; there must be 1 to 16"),
        ("none", "0 continuations; there must be 1 to 16"),
        ("empty", "a continuation has 1 to 256 bytes, and this one 0"),
        ("long", "a continuation has 1 to 256 bytes, and this one 257"),
        ("no-messages", "a conversation has 1 to 64 messages, and this one 0"),
        ("many-messages", "a conversation has 1 to 64 messages, and this one 10000"),
    ] {
        let (refused, calls) = refused(act, 1);
        assert_eq!((refused.message.as_str(), calls), (words, 0), "{act}");
    }
}

#[test]
fn what_is_too_much_to_be_handed_over_ends_the_call() {
    let (refused, calls) = refused("larger-than-memory", 1);
    assert_eq!((refused.clause.as_str(), calls), (POLICY_FAILED, 0), "{}", refused.message);
}

#[test]
fn asking_for_ever_ends_by_calls_by_tokens_and_by_fuel() {
    let (endless, calls) = refused("endless", 1);
    assert!(endless.message.contains(&format!("asked {MAX_JUDGE_CALLS} times")), "{}", endless.message);
    assert_eq!(calls, u64::from(MAX_JUDGE_CALLS));
    let each = MAX_JUDGE_TOKENS / 10 + 1;
    let (endless, calls) = refused("endless", each);
    assert!(endless.message.contains(&format!("have {each} tokens")), "{}", endless.message);
    assert_eq!(calls, 10, "nine were judged");
    let (blind, calls) = refused("endless-blindly", 1);
    assert!(blind.message.contains("ran out of fuel"), "{}", blind.message);
    assert_eq!(calls, MAX_JUDGED_BYTES_TOGETHER as u64 / 60_001);
}

#[test]
fn refused_questions_count_too() {
    let most = MAX_JUDGED_BYTES_TOGETHER as u64 / 65_536;
    let (much, calls, left) = refused_with("much", 1);
    assert!(much.message.contains("the limit is 8388608"), "{}", much.message);
    assert_eq!((calls, left), (most, MAX_JUDGE_TOKENS - (most - 1)));
    // More tokens than an answer has: each call is refused, and is paid for all the same.
    let (much, calls, left) = refused_with("much", MAX_JUDGE_TOKENS + 1);
    assert!(much.message.contains("the limit is 8388608"), "{}", much.message);
    assert_eq!((calls, left), (most, 0));
}

#[test]
fn where_the_model_fails_no_policy_goes_on() {
    let (refused, _) = refused("swallow", 1);
    assert_eq!(refused.clause, POLICY_FAILED);
    let words = "asked the model to judge, which can't be done: nobody";
    assert!(refused.message.contains(words) && !refused.message.contains('\u{1b}'), "{}", refused.message);
}

#[test]
fn a_panic_between_two_questions_is_a_failure() {
    let (refused, calls) = refused("panic-between", 1);
    assert_eq!((refused.clause.as_str(), calls), (POLICY_FAILED, 1));
    assert!(refused.message.contains("on purpose"), "{}", refused.message);
}

#[test]
fn without_a_judge_and_in_configure_asking_fails() {
    let host = common::host();
    let plugin = judging(&host, "swallow", true).unwrap();
    let mut chain = PolicyChain::start(&host, &[plugin]).unwrap();
    let refused = chain.request(Vec::new()).unwrap_err();
    assert_eq!(refused.clause, POLICY_FAILED);
    assert!(refused.message.contains("can't be done: there is no model to ask here"), "{}", refused.message);
    let plugin = judging(&host, "configure", true).unwrap();
    let judge = SharedJudge::new(Lengths { tokens: 1, calls: Arc::default(), left: Arc::default() });
    let Err(error) = PolicyChain::start_with(&host, &[plugin], Some(judge)) else { panic!("it started") };
    assert!(error.to_string().contains("`configure` can't ask"), "{error}");
}

#[test]
fn the_same_in_processes_of_their_own() {
    common::again_in_processes("the_same_in_processes_of_their_own");
}
