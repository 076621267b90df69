//! The policy as the host drives it, with a model that finds what stands in a text.

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, RequestVerdict, Role, ToolCallVerdict, ToolResultVerdict,
};
use proptest::prelude::*;

use crate::question::{pieces, share};
use crate::{JudgedGuard, Parameters};

/// The model says yes where the text has `word`, and finds it that likely.
fn guard(rules: &str, word: &'static str, sure: f64) -> JudgedGuard {
    let scores = move |message: &str, answers: &[String]| {
        assert_eq!(answers, ["Yes", "No"]);
        let text = message.split("----------\n").nth(1).unwrap();
        let yes: f64 = if text.contains(word) { sure } else { 1.0 - sure };
        Ok(vec![yes.ln(), (1.0 - yes).ln()])
    };
    JudgedGuard::with(&Parameters { rules: rules.to_owned() }, Box::new(scores)).unwrap()
}

fn clause(id: &str, when: &str, more: &str) -> String {
    format!(
        "[[clause]]\nid = \"{id}\"\nwhen = {when}\nquestion = \"Is it bad?\"\naction = \"refuse\"\nmessage = \"No {id}.\"\n\
         {more}\n"
    )
}

/// What a person saw, and the message of a refusal. Pieces come as from the host; the last with `done` if `last_is_done`.
fn feed(guard: &mut JudgedGuard, pieces: &[&str], last_is_done: bool) -> (String, Option<String>) {
    let (mut pending, mut seen) = (String::new(), String::new());
    let last = if last_is_done { pieces.len() - 1 } else { pieces.len() };
    let pieces = pieces.iter().enumerate().map(|(index, piece)| (*piece, index == last));
    for (piece, done) in pieces.chain((!last_is_done).then_some(("", true))) {
        pending.push_str(piece);
        loop {
            match guard.output(&pending, done).unwrap() {
                OutputVerdict::Release(bytes) => {
                    seen.extend(pending.drain(..bytes as usize));
                    break;
                }
                OutputVerdict::Replace(replacement) => {
                    let before: String = pending.drain(..replacement.bytes as usize).collect();
                    assert_eq!(before, replacement.text, "nothing is changed");
                    assert!(!before.is_empty() && before.len() <= 64 << 10);
                    seen.push_str(&before);
                }
                OutputVerdict::Refuse(refusal) => return (seen, Some(refusal.message)),
                _ => panic!("only releases and refusals"),
            }
        }
    }
    (seen, None)
}

#[test]
fn what_comes_before_a_refused_sentence_goes_out_and_nothing_of_it() {
    let rules = clause("a", "\"output\"", "");
    let text = "One is fine. Version 2.0 is\ntoo. Now the secret! And more.";
    for last_is_done in [false, true] {
        let (seen, end) = feed(&mut guard(&rules, "secret", 0.9), &[text], last_is_done);
        assert_eq!((seen.as_str(), end.as_deref()), ("One is fine. Version 2.0 is\ntoo.", Some("No a.")));
    }
    let (seen, end) = feed(&mut guard(&rules, "absent", 0.9), &[text], true);
    assert_eq!((seen.as_str(), end), (text, None));
}

#[test]
fn a_clause_that_holds_the_answer_releases_all_or_nothing() {
    let rules = clause("a", "\"output\"", "hold = \"answer\"") + &clause("b", "\"output\"", "");
    let (seen, end) = feed(&mut guard(&rules, "secret", 0.9), &["Fine. ", "Fine. The secret."], false);
    assert_eq!((seen.as_str(), end.as_deref()), ("", Some("No b.")));
    let rules = clause("a", "\"output\"", "hold = \"answer\"");
    let (seen, end) = feed(&mut guard(&rules, "secret", 0.9), &["Fine. ", "The secret."], false);
    assert_eq!((seen.as_str(), end.as_deref()), ("", Some("No a.")));
    let (seen, end) = feed(&mut guard(&rules, "absent", 0.9), &["Fine. ", "The secret."], true);
    assert_eq!((seen.as_str(), end), ("Fine. The secret.", None));
}

#[test]
fn a_text_that_takes_the_place_of_the_pending_one_is_judged() {
    let mut guard = guard(&clause("a", "\"output\"", "hold = \"answer\""), "secret", 0.9);
    assert_eq!(guard.output("All is well.\n", false), Ok(OutputVerdict::Release(0)));
    // Of another policy that put it in the place of the text that was to be the last.
    assert_eq!(guard.output("All was well.\n", true), Ok(OutputVerdict::Release(14)));
    assert!(matches!(guard.output("The secret.\n", true), Ok(OutputVerdict::Refuse(_))));
}

#[test]
fn requests_calls_and_results_are_judged() {
    let all = "[\"request\", \"tool-result\"]";
    let deny = "[[clause]]\nid = \"d\"\nwhen = \"tool-call\"\nquestion = \"Is it bad?\"\naction = \"deny\"\n";
    let mut guard = guard(&(clause("a", all, "") + deny), "secret", 0.9);
    let ask = |role, text: &str| vec![Message::new(Role::User, "Hello."), Message::new(role, text)];
    assert_eq!(guard.request(ask(Role::System, "The secret.")), Ok(RequestVerdict::Allow));
    assert_eq!(guard.request(ask(Role::User, " \n")), Ok(RequestVerdict::Allow));
    assert!(matches!(guard.request(ask(Role::Tool, "The secret.")), Ok(RequestVerdict::Refuse(_))));
    let call = |arguments: &str| Invocation { name: "send".into(), arguments: arguments.into() };
    assert_eq!(guard.tool_call(call("{}")), Ok(ToolCallVerdict::Allow));
    assert!(matches!(guard.tool_call(call("{\"a\": \"secret\"}")), Ok(ToolCallVerdict::Deny(_))));
    assert_eq!(guard.tool_result(call("{}"), "fine"), Ok(ToolResultVerdict::Allow));
    let long = "a".repeat(9000) + " secret " + &"b".repeat(9000);
    assert!(matches!(guard.tool_result(call("{}"), &long), Ok(ToolResultVerdict::Refuse(_))));
}

#[test]
fn the_threshold_is_a_share_and_its_ends_decide_by_themselves() {
    let refuses = |threshold: &str, sure: f64| {
        let rules = clause("a", "\"request\"", &format!("threshold = {threshold}"));
        let verdict = guard(&rules, "secret", sure).request(vec![Message::new(Role::User, "secret")]);
        verdict.unwrap() != RequestVerdict::Allow
    };
    assert!(refuses("0.0", 1e-300) && refuses("0.0", 1.0) && !refuses("1.0", 1.0) && !refuses("1.0", 0.5));
    assert!(refuses("0.7", 0.71) && !refuses("0.7", 0.69));
}

#[test]
fn shares_are_of_probabilities() {
    assert!((share(&[0.6_f64.ln()], &[0.2_f64.ln()]) - 0.75).abs() < 1e-12);
    assert!((share(&[-1000.0, -1000.0], &[-1000.0]) - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(share(&[f64::NEG_INFINITY], &[-3.0]), 0.0);
    assert!(share(&[f64::NEG_INFINITY], &[f64::NEG_INFINITY]).is_nan());
}

#[test]
fn mistakes_in_the_rules_name_clause_and_field() {
    for (more, word) in [
        ("threshold = 1.5", "`threshold`"),
        ("threshold = nan", "`threshold`"),
        ("refuse_if = []", "`refuse_if`"),
        ("refuse_if = \"No\"", "`allow_if`"),
        ("allow_if = [\"A\", \"A\"]", "twice"),
        ("allow_if = \"  \"", "`allow_if` has an answer that is blank"),
        ("refuse_if = [\"A\", \"\"]", "`refuse_if` has an answer that is blank"),
        ("hold = \"answer\"", "`hold`"),
        ("match = \"x\"", "match"),
    ] {
        let rules = Parameters { rules: clause("a", "\"request\"", more) };
        let error = JudgedGuard::new(rules).err().unwrap_or_else(|| panic!("{more}"));
        assert!(error.contains(word), "{more}: {error}");
    }
    let long = clause("a", "\"request\"", &format!("allow_if = \"{}\"", "x".repeat(257)));
    let error = JudgedGuard::new(Parameters { rules: long }).err().unwrap();
    assert!(error.ends_with("`allow_if` has an answer that is longer than 256 bytes"), "{error}");
    for (question, word) in
        [("", "is blank"), (" \\n", "is blank"), (&"x".repeat(4097), "is longer than 4096 bytes")]
    {
        let rules = clause("a", "\"request\"", "").replace("Is it bad?", question);
        let error = JudgedGuard::new(Parameters { rules }).err().unwrap_or_else(|| panic!("{question:?}"));
        assert!(error.ends_with(&format!("`question` {word}")), "{error}");
    }
    let two = clause("a", "\"request\"", "") + &clause("a", "\"output\"", "");
    assert!(JudgedGuard::new(Parameters { rules: two }).err().unwrap().contains("another clause"));
}

proptest! {
    #[test]
    fn pieces_overlap_and_leave_nothing_out(text in "[a-zé☃]{0,4000}", times in 1usize..5) {
        let text = text.repeat(times);
        let mut behind = 0;
        for piece in pieces(&text) {
            let start = piece.as_ptr() as usize - text.as_ptr() as usize;
            prop_assert!(start <= behind && start + piece.len() >= behind);
            behind = start + piece.len();
        }
        prop_assert_eq!(behind, text.len());
    }

    #[test]
    fn how_an_answer_is_cut_changes_nothing(
        words in prop::collection::vec("[a-d]{1,400}[.!?]?|é|。|[.]{1,3}|secret|\n", 0..40),
        cuts in prop::collection::vec(0usize..8000, 0..20),
        hold in any::<bool>(),
        last_is_done in any::<bool>(),
    ) {
        let text = words.join(" ");
        let rules = clause("a", "\"output\"", if hold { "hold = \"answer\"" } else { "" });
        let whole = feed(&mut guard(&rules, "secret", 0.9), &[&text], false);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(*cut)).collect();
        ends.push(text.len());
        ends.sort_unstable();
        let mut from = 0;
        let parts: Vec<&str> = ends.iter().map(|end| &text[std::mem::replace(&mut from, *end)..*end]).collect();
        prop_assert_eq!(feed(&mut guard(&rules, "secret", 0.9), &parts, last_is_done), whole.clone());
        prop_assert!(!whole.0.contains("secret"));
    }
}
