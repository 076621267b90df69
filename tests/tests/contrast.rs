//! What two sets of policies say to recorded answers: what is newly allowed, newly refused, changed, unchanged, and what a
//! record can't tell.
#![cfg(test)]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::sync::OnceLock;

use membrane_generate::contrast::{Contrast, Difference, Outcome, contrast};
use membrane_host::{Plugin, World, first_party};
use membrane_tests::guests::guest;
use membrane_tests::recorder::{Recorded, Recorder};
use membrane_tests::stage::Stage;
use membrane_text::{ChatMessage, Role};
use proptest::prelude::*;
use serde_json::{Value, json};

const ANSWER: &str =
    "Welcome. Remember: the door code is heliotrope 7731, and lunch is at noon. The code is 7731.";
const CALL: &str = "Let me see. <tool_call>\n{\"name\": \"calculator\", \
                    \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";

/// A recorded answer, and the stage that it was made on.
struct Case {
    stage: Stage,
    recorded: Recorded,
}

impl Case {
    fn of(stage: Stage) -> Self {
        let mut generator = stage.generator();
        let recorder = Recorder::new(&mut generator);
        stage.ask_with(&mut generator, &[ChatMessage::new(Role::User, "Hello there")]);
        let recorded = recorder.read();
        Self { stage, recorded }
    }

    /// An answer that no policy looked at.
    fn plain() -> &'static Self {
        static PLAIN: OnceLock<Case> = OnceLock::new();
        PLAIN.get_or_init(|| Self::of(Stage::saying(&[ANSWER])))
    }

    fn calculating(stage: impl FnOnce(Stage) -> Stage) -> Self {
        Self::of(stage(Stage::saying(&[CALL, "It is 42."]).first_party("calculator", json!({}))))
    }

    fn contrast(&self, a: &[Plugin], b: &[Plugin]) -> Contrast {
        let (answer, script) = self.recorded.answer(0);
        let behaviour = &self.recorded.transcript.behaviours[&answer.start.behaviour];
        contrast(self.stage.host(), (a, b), behaviour, answer, &script).unwrap()
    }
}

/// The guard with these rules. It is compiled once.
fn guard(rules: &str) -> Plugin {
    static GUARD: OnceLock<Plugin> = OnceLock::new();
    with_rules(GUARD.get_or_init(|| load_guard("guard")), rules)
}

/// The guard under another name.
fn second(rules: &str) -> Plugin {
    static SECOND: OnceLock<Plugin> = OnceLock::new();
    with_rules(SECOND.get_or_init(|| load_guard("second")), rules)
}

fn load_guard(name: &str) -> Plugin {
    let guard = first_party::find("guard").unwrap();
    Case::plain().stage.load(World::Policy, name, guard.bytes.to_vec(), json!({})).unwrap()
}

fn with_rules(guard: &Plugin, rules: &str) -> Plugin {
    guard.with_parameters(json!({ "rules": rules }).as_object().unwrap().clone())
}

fn scripted(hook: &str, at: &str, action: &str, text: &str) -> Plugin {
    static SCRIPTED: OnceLock<Plugin> = OnceLock::new();
    let parameters = json!({"hook": hook, "at": at, "action": action, "text": text});
    let load = || {
        let bytes = guest("scripted-policy");
        Case::plain().stage.load(World::Policy, "scripted", bytes, parameters.clone()).unwrap()
    };
    SCRIPTED.get_or_init(load).with_parameters(parameters.as_object().unwrap().clone())
}

fn rule(id: &str, when: &str, matched: &str, more: &str) -> String {
    format!("[[clause]]\nid = \"{id}\"\nwhen = \"{when}\"\nmatch = '{matched}'\n{more}\n")
}

fn redact(id: &str, matched: &str, by: &str) -> String {
    rule(id, "output", matched, &format!("action = \"redact\"\nreplacement = \"{by}\""))
}

fn refuse(id: &str, when: &str, matched: &str) -> String {
    rule(id, when, matched, "action = \"refuse\"\nmessage = \"No.\"")
}

fn nothing() -> Plugin {
    guard(&redact("none", "nowhere in it", "x"))
}

/// Where a text stands in the answer.
fn places(text: &str) -> Vec<Range<u64>> {
    ANSWER.match_indices(text).map(|(at, found)| at as u64..(at + found.len()) as u64).collect()
}

fn spans(contrast: &Contrast, outcome: Outcome) -> Vec<Range<u64>> {
    let of = contrast.differences.iter().filter(|difference| difference.outcome == outcome);
    of.filter_map(|difference| difference.bytes.clone()).collect()
}

/// The clause ids of both sides.
fn clauses(Difference { a, b, .. }: &Difference) -> (Vec<&str>, Vec<&str>) {
    (a.iter().map(|it| it.clause.as_str()).collect(), b.iter().map(|it| it.clause.as_str()).collect())
}

/// The outcome the other way round.
fn mirrored(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::NewlyAllowed => Outcome::NewlyRefused,
        Outcome::NewlyRefused => Outcome::NewlyAllowed,
        same => same,
    }
}

#[test]
fn what_a_redaction_less_lets_out_is_newly_allowed_at_its_bytes() {
    let case = Case::plain();
    let strict = guard(&redact("house:1", "7731", "[code]"));
    let found = case.contrast(std::slice::from_ref(&strict), &[nothing()]);
    assert_eq!(found.outcome, Outcome::NewlyAllowed);
    assert_eq!(spans(&found, Outcome::NewlyAllowed), places("7731"));
    assert_eq!((found.differences.len(), found.unknown.as_deref()), (2, None));
    assert_eq!(clauses(&found.differences[0]), (vec!["house:1"], vec![]));
    let found = case.contrast(&[nothing()], std::slice::from_ref(&strict));
    assert_eq!(spans(&found, Outcome::NewlyRefused), places("7731"));
    assert_eq!((found.outcome, found.differences.len()), (Outcome::NewlyRefused, 2));
    // Less of the same place is let out, too.
    let wide = guard(&redact("house:2", "heliotrope 7731", "[code]"));
    let found = case.contrast(&[wide], &[strict]);
    assert_eq!(spans(&found, Outcome::NewlyAllowed), places("heliotrope "));
    assert_eq!(spans(&found, Outcome::NewlyRefused), places("7731")[1..]);
    assert_eq!(found.outcome, Outcome::NewlyAllowed, "the gravest counts");
}

#[test]
fn the_same_withheld_in_other_words_or_by_another_clause_is_changed() {
    let case = Case::plain();
    let one = || guard(&redact("house:1", "heliotrope", "[flower]"));
    for other in [redact("house:1", "heliotrope", "[plant]"), redact("house:2", "heliotrope", "[flower]")] {
        let found = case.contrast(&[one()], &[guard(&other)]);
        assert_eq!((found.outcome, found.differences.len()), (Outcome::Changed, 1), "{found:?}");
    }
    let refusing = guard(&refuse("house:1", "output", "heliotrope"));
    let stopping = guard(&rule("house:1", "output", "heliotrope", "action = \"stop\""));
    assert_eq!(case.contrast(&[refusing], &[stopping]).outcome, Outcome::Changed);
    assert_eq!(case.contrast(&[one()], &[one()]).outcome, Outcome::Unchanged);
    assert_eq!(case.contrast(&[nothing()], &[]).outcome, Outcome::Unchanged, "a clause that matches nothing");
    // One that holds everything back to the end comes to the same.
    let holding = scripted("output", "not in it", "stop", "");
    assert_eq!(case.contrast(&[one(), holding], &[one()]).outcome, Outcome::Unchanged);
}

#[test]
fn an_end_less_is_newly_allowed() {
    let case = Case::plain();
    let redacting = guard(&redact("house:2", "heliotrope", "[flower]"));
    for (ending, hook) in [
        (guard(&refuse("house:1", "output", "heliotrope")), "output"),
        (guard(&rule("house:1", "output", "heliotrope", "action = \"stop\"")), "output"),
        (guard(&refuse("house:1", "request", "Hello")), "request"),
        (scripted("prompt", "Hello", "refuse", "No."), "prompt"),
        (scripted("output", "heliotrope", "trap", ""), "output"),
    ] {
        let found = case.contrast(std::slice::from_ref(&ending), std::slice::from_ref(&redacting));
        assert_eq!((found.outcome, &found.unknown), (Outcome::NewlyAllowed, &None), "{found:?}");
        assert_eq!(found.differences[0].hook, hook);
        assert_eq!(found.differences[0].a.len(), 1, "{found:?}");
        let back = case.contrast(std::slice::from_ref(&redacting), &[ending]);
        assert_eq!(back.outcome, Outcome::NewlyRefused, "{back:?}");
    }
    // Both end it, the second later: what is between is let out.
    let (early, late) = (refuse("house:1", "output", "heliotrope"), refuse("house:1", "output", "noon"));
    let found = case.contrast(&[guard(&early)], &[guard(&late)]);
    assert_eq!(found.outcome, Outcome::NewlyAllowed);
    let between = spans(&found, Outcome::NewlyAllowed);
    let (start, end) = (places("heliotrope")[0].start, places("noon")[0].start);
    assert!(between.iter().eq(std::iter::once(&(start..end))), "{between:?}");
}

#[test]
fn what_the_record_does_not_have_can_not_be_told() {
    let refusing = || guard(&refuse("house:1", "output", "heliotrope"));
    let rules = refuse("house:1", "output", "heliotrope");
    let case = Case::of(Stage::saying(&[ANSWER]).guard(&rules));
    // The record ends where its policies ended it.
    let found = case.contrast(&[refusing()], &[nothing()]);
    assert_eq!(found.outcome, Outcome::NewlyAllowed);
    assert!(found.unknown.unwrap().contains("ended the answer"));
    let found = case.contrast(&[nothing()], &[guard(&redact("x", "also not in it", "y"))]);
    assert_eq!((found.outcome, found.differences.len()), (Outcome::CantTell, 0), "{found:?}");
    let found = case.contrast(&[refusing()], &[guard(&rules.replace("house:1", "house:9"))]);
    assert_eq!((found.outcome, found.unknown), (Outcome::Changed, None), "both end it before that");
    // A forced text turns the model.
    let forcing = scripted("output", "heliotrope", "force", "All is well.");
    let redacting = || guard(&redact("house:1", "7731", "x"));
    let found = Case::plain().contrast(std::slice::from_ref(&forcing), &[redacting()]);
    assert_eq!(found.outcome, Outcome::NewlyAllowed, "what it held back until then");
    assert!(found.unknown.unwrap().contains("forces a text"));
    let found = Case::plain().contrast(std::slice::from_ref(&forcing), &[forcing.clone(), redacting()]);
    assert_eq!((found.outcome, found.differences.len()), (Outcome::CantTell, 0), "{found:?}");
    // Another request than the recorded one; but the same as the recorded one is known.
    let system = |text: &str| {
        let plugin = first_party::find("system-prompt").unwrap();
        let load = |parameters: Value| {
            Case::plain().stage.load(World::Policy, "system-prompt", plugin.bytes.to_vec(), parameters)
        };
        load(json!({ "text": text })).unwrap()
    };
    let found = Case::plain().contrast(&[system("Be kind.")], &[system("Be kind."), redacting()]);
    assert_eq!(found.outcome, Outcome::CantTell);
    assert!(found.unknown.unwrap().contains("another request"));
    let case = Case::of(Stage::saying(&[ANSWER]).first_party("system-prompt", json!({ "text": "Be kind." })));
    let found = case.contrast(&[system("Be kind."), redacting()], &[system("Be kind.")]);
    assert_eq!((found.outcome, found.unknown), (Outcome::NewlyAllowed, None));
    let found = case.contrast(&[system("Be kind.")], &[system("Be rude.")]);
    assert_eq!(found.outcome, Outcome::Changed);
    assert!(found.unknown.is_some());
    // Texts that are gone; the same policies say the same all the same.
    let mut erased = Case::of(Stage::saying(&[ANSWER]));
    erased.recorded.texts = None;
    let found = erased.contrast(&[redacting()], &[nothing()]);
    assert_eq!(found.outcome, Outcome::CantTell);
    assert!(found.unknown.unwrap().contains("erased"));
    assert_eq!(erased.contrast(&[redacting()], &[redacting()]).outcome, Outcome::Unchanged);
}

#[test]
fn calls_and_results_are_compared() {
    let deny = || guard(&rule("house:1", "tool-call", "6*7", "action = \"deny\""));
    let hide = || guard(&rule("house:2", "tool-result", "42", "action = \"redact\""));
    let rewrite = || scripted("tool-call", "6*7", "rewrite", "{\"expression\": \"7*7\"}");
    let free = Case::calculating(|stage| stage);
    for (a, hook) in [(deny(), "tool-call"), (hide(), "tool-result"), (rewrite(), "tool-call")] {
        let found = free.contrast(std::slice::from_ref(&a), &[nothing()]);
        assert_eq!((found.outcome, found.differences[0].hook), (Outcome::NewlyAllowed, hook), "{found:?}");
        assert!(found.unknown.is_some(), "the model would have read something else");
        let found = free.contrast(&[nothing()], &[a]);
        assert_eq!((found.outcome, found.differences[0].hook), (Outcome::NewlyRefused, hook), "{found:?}");
    }
    // As in the record: what follows is known.
    let rules = rule("house:1", "tool-call", "6*7", "action = \"deny\"");
    let denied = Case::calculating(|stage| stage.guard(&rules));
    let found = denied.contrast(&[deny(), second(&redact("x", "It is", "y"))], &[deny()]);
    assert_eq!((found.outcome, &found.unknown), (Outcome::NewlyAllowed, &None), "{found:?}");
    assert_eq!(found.differences[0].hook, "output");
    let found = free.contrast(&[second(&redact("x", "It is", "y"))], &[nothing()]);
    assert_eq!((found.outcome, &found.unknown), (Outcome::NewlyAllowed, &None), "{found:?}");
}

const WORDS: [&str; 9] = ["Welcome", "Remember", "door", "code", "heliotrope", "7731", "lunch", "noon", "is"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Redactions of any words, in one policy or two: newly allowed are the bytes that the first chain withholds and the
    /// second does not, found here by plain search.
    #[test]
    fn newly_allowed_is_what_the_first_withholds_and_the_second_does_not(
        a in proptest::sample::subsequence(WORDS.to_vec(), 0..6),
        b in proptest::sample::subsequence(WORDS.to_vec(), 0..6),
        split in 0usize..4,
        by in "[a-z]{0,12}",
    ) {
        let chain = |words: &[&str]| -> Vec<Plugin> {
            let (ahead, behind) = words.split_at(split.min(words.len()));
            let rules = |words: &[&str]| words.iter().map(|word| redact(word, word, &by)).collect::<String>();
            let policies = [("guard", ahead), ("second", behind)].into_iter();
            policies
                .filter(|(_, words)| !words.is_empty())
                .map(|(name, words)| match name {
                    "guard" => guard(&rules(words)),
                    _ => second(&rules(words)),
                })
                .collect()
        };
        // What is put in must not be a word to be taken out by the second.
        prop_assume!(!WORDS.iter().any(|word| by.contains(&word.to_lowercase())));
        let withheld = |words: &[&str]| {
            let mut bytes = vec![false; ANSWER.len()];
            for word in words {
                for (at, found) in ANSWER.to_lowercase().match_indices(&word.to_lowercase()) {
                    bytes[at..at + found.len()].fill(true);
                }
            }
            bytes
        };
        let (from_a, from_b) = (withheld(&a), withheld(&b));
        let found = Case::plain().contrast(&chain(&a), &chain(&b));
        let mut marked = [vec![false; ANSWER.len()], vec![false; ANSWER.len()]];
        for (marks, outcome) in marked.iter_mut().zip([Outcome::NewlyAllowed, Outcome::NewlyRefused]) {
            for span in spans(&found, outcome) {
                marks[span.start as usize..span.end as usize].fill(true);
            }
        }
        for at in 0..ANSWER.len() {
            // A letter that the replacement begins or ends with is out either way.
            let blurred = by.chars().any(|letter| ANSWER[at..=at].eq_ignore_ascii_case(&letter.to_string()));
            if !blurred {
                prop_assert_eq!(marked[0][at], from_a[at] && !from_b[at], "allowed, byte {}", at);
                prop_assert_eq!(marked[1][at], from_b[at] && !from_a[at], "refused, byte {}", at);
            }
        }
        let back = Case::plain().contrast(&chain(&b), &chain(&a));
        let both = !spans(&found, Outcome::NewlyAllowed).is_empty() && !spans(&found, Outcome::NewlyRefused).is_empty();
        prop_assert_eq!(back.outcome, if both { Outcome::NewlyAllowed } else { mirrored(found.outcome) });
    }
}
