//! Clauses on whole texts, against a definition that searches each text for each clause anew.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use membrane_plugin::policy::{Invocation, Policy, ToolCallVerdict, ToolResultVerdict};
use proptest::prelude::*;
use regex_lite::{NoExpand, Regex};

use crate::{Guard, Parameters};

#[derive(Clone, Debug)]
struct Simple {
    texts: Vec<String>,
    pattern: bool,
    case_sensitive: bool,
    words: bool,
    action: usize,
    replacement: &'static str,
}

const PATTERN: &str = "b+é|ca";

/// No text of the clauses is longer, in whatever case.
const MAX_MATCH_BYTES: usize = 16;

impl Simple {
    fn written(&self, number: usize) -> String {
        let Self { texts, case_sensitive, words, replacement, .. } = self;
        let action = match self.action {
            0 => "action = \"refuse\"\nmessage = \"No.\"".to_owned(),
            1 => "action = \"stop\"".to_owned(),
            _ => format!("action = \"redact\"\nreplacement = \"{replacement}\""),
        };
        let look = match self.pattern {
            true => format!("pattern = '{PATTERN}'"),
            false => format!("match = {texts:?}\nwords = {words}"),
        };
        format!(
            "[[clause]]\nid = \"{number}\"\nwhen = \"output\"\ncase_sensitive = {case_sensitive}\n{look}\n{action}\n"
        )
    }

    fn folded(&self, text: &str) -> String {
        let lower = |c: char| c.to_uppercase().flat_map(char::to_lowercase).collect::<String>();
        text.chars().map(|c| if self.case_sensitive { c.to_string() } else { lower(c) }).collect()
    }

    /// Where the longest match at `start` ends.
    fn end(&self, text: &str, start: usize) -> Option<usize> {
        let alphanumeric = |c: Option<char>| self.words && c.is_some_and(char::is_alphanumeric);
        let texts: Vec<String> = self.texts.iter().map(|text| self.folded(text)).collect();
        let most = text.len().min(start + MAX_MATCH_BYTES);
        let ends = (start + 1..=most).rev().filter(|end| text.is_char_boundary(*end));
        let mut ends = ends.filter(|end| {
            texts.contains(&self.folded(&text[start..*end])) && !alphanumeric(text[*end..].chars().next())
        });
        ends.next().filter(|_| !alphanumeric(text[..start].chars().next_back()))
    }

    fn first(&self, text: &str) -> Option<usize> {
        match self.pattern {
            true => Regex::new(&self.regex()).unwrap().find(text).map(|found| found.start()),
            false => text.char_indices().map(|(at, _)| at).find(|at| self.end(text, *at).is_some()),
        }
    }

    fn regex(&self) -> String {
        format!("{}{PATTERN}", if self.case_sensitive { "" } else { "(?i)" })
    }

    fn redact(&self, text: &str) -> String {
        if self.pattern {
            return Regex::new(&self.regex())
                .unwrap()
                .replace_all(text, NoExpand(self.replacement))
                .into_owned();
        }
        let (mut redacted, mut at) = (String::new(), 0);
        while let Some(character) = text[at..].chars().next() {
            match self.end(text, at) {
                Some(end) => {
                    redacted.push_str(self.replacement);
                    at = end;
                }
                None => {
                    redacted.push(character);
                    at += character.len_utf8();
                }
            }
        }
        redacted
    }
}

/// What a result becomes, and the clause of the verdict; no text if it is refused.
fn expected(clauses: &[Simple], text: &str) -> (Option<String>, Option<String>) {
    let (mut text, mut first) = (text.to_owned(), None);
    for (number, clause) in clauses.iter().enumerate() {
        let Some(start) = clause.first(&text) else { continue };
        match clause.action {
            0 => return (None, Some(number.to_string())),
            1 => text.truncate(start),
            _ => text = clause.redact(&text),
        }
        first.get_or_insert(number.to_string());
    }
    (Some(text), first)
}

fn guard(rules: String) -> Guard {
    Guard::new(Parameters { rules }).unwrap_or_else(|error| panic!("{error}"))
}

fn call(arguments: String) -> Invocation {
    Invocation { name: "t".to_owned(), arguments }
}

fn result(guard: &mut Guard, text: &str) -> (Option<String>, Option<String>) {
    match guard.tool_result(call("{}".to_owned()), text).unwrap() {
        ToolResultVerdict::Allow => (Some(text.to_owned()), None),
        ToolResultVerdict::Rewrite(rewritten) => (Some(rewritten.text), Some(rewritten.reason.clause)),
        ToolResultVerdict::Refuse(refusal) => (None, Some(refusal.reason.clause)),
    }
}

/// Clauses with texts of these forms, and a text.
fn scene(literal: &'static str, text: &'static str) -> impl Strategy<Value = (Vec<Simple>, String)> {
    let texts = prop::collection::vec(literal, 1..4);
    let replacements = prop::sample::select(vec!["", "a", "ab", "é", "-", "x b", "[redacted]", "ss"]);
    let clause = (texts, 0..8usize, any::<bool>(), any::<bool>(), 0..16usize, replacements).prop_map(
        |(texts, pattern, case_sensitive, words, action, replacement)| {
            let pattern = pattern == 0;
            Simple { texts, pattern, case_sensitive, words, action, replacement }
        },
    );
    (prop::collection::vec(clause, 1..7), text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn clauses_act_one_after_the_other_as_if_each_searched_anew(
        (clauses, text) in prop_oneof![
            scene("[abcAéßſs ]{0,5}[abcAéßs]", "[abcAéßſ ]{0,50}"),
            scene("[ab-]{1,2}", "[ab -]{0,30}"),
        ],
    ) {
        let rules: String = clauses.iter().enumerate().map(|(number, clause)| clause.written(number)).collect();
        let mut guard = guard(rules);
        prop_assert_eq!(result(&mut guard, &text), expected(&clauses, &text));
        let first = clauses.iter().position(|clause| clause.first(&text).is_some());
        let seen = match guard.tool_call(call(format!("[{text:?}]"))).unwrap() {
            ToolCallVerdict::Allow => None,
            ToolCallVerdict::Deny(reason) => Some(reason.clause),
            ToolCallVerdict::Refuse(refusal) => Some(refusal.reason.clause),
            ToolCallVerdict::Rewrite(_) => panic!("a guard rewrites no call"),
        };
        // The call is also searched as a whole, where quotes stand around the text.
        let quoted = clauses.iter().position(|clause| clause.first(&format!("t [\"{text}\"]")).is_some());
        let first = first.into_iter().chain(quoted).min();
        prop_assert_eq!(seen, first.map(|number| number.to_string()));
    }
}

/// The work must not grow with the number of clauses: the host grants a call so many steps only.
#[test]
fn a_thousand_clauses_on_a_long_text_are_one_search() {
    let (mut rules, mut text, mut left) = (String::new(), String::new(), String::new());
    for number in 0..1000 {
        let word = format!("word{number:04}");
        write!(
            rules,
            "[[clause]]\nid = \"{number}\"\nwhen = \"output\"\nmatch = \"{word}\"\naction = \"redact\"\n"
        )
        .unwrap();
        let filler = "weather and other words of no account, ".repeat(6);
        write!(text, "{filler}{word} ").unwrap();
        write!(left, "{filler}[redacted] ").unwrap();
    }
    let begun = Instant::now();
    assert_eq!(result(&mut guard(rules), &text), (Some(left), Some("0".to_owned())));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
