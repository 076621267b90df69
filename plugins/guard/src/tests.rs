//! The policy as the host drives it.

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, RequestVerdict, Role, ToolCallVerdict, ToolResultVerdict,
};
use proptest::prelude::*;

use crate::{Guard, Parameters};

fn try_guard(rules: &str) -> Result<Guard, String> {
    Guard::new(Parameters { rules: rules.to_owned() })
}

fn guard(rules: &str) -> Guard {
    try_guard(rules).unwrap_or_else(|error| panic!("{error}"))
}

/// What the person saw, how the answer ended and the clauses of the verdicts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    released: String,
    end: Option<String>,
    clauses: Vec<String>,
}

/// Feeds an answer in pieces, as the host does; the last piece comes with `done` if `last_is_done`.
fn feed(guard: &mut Guard, pieces: &[&str], last_is_done: bool) -> Seen {
    let (mut pending, mut seen) = (String::new(), Seen::default());
    let last = if last_is_done { pieces.len() - 1 } else { pieces.len() };
    let pieces = pieces.iter().enumerate().map(|(index, piece)| (*piece, index == last));
    for (piece, done) in pieces.chain((!last_is_done).then_some(("", true))) {
        pending.push_str(piece);
        loop {
            match guard.output(&pending, done).unwrap() {
                OutputVerdict::Release(bytes) => {
                    seen.released.extend(pending.drain(..bytes as usize));
                    break;
                }
                OutputVerdict::Replace(replacement) => {
                    assert!(replacement.bytes > 0 && replacement.text.len() <= 64 << 10);
                    let before: String = pending.drain(..replacement.bytes as usize).collect();
                    seen.released.push_str(&replacement.text);
                    if before != replacement.text {
                        seen.clauses.push(replacement.reason.clause);
                    }
                }
                OutputVerdict::Stop(ending) => {
                    seen.released.push_str(&pending[..ending.release as usize]);
                    seen.clauses.push(ending.reason.clause);
                    return Seen { end: Some("stopped".to_owned()), ..seen };
                }
                OutputVerdict::Refuse(refusal) => {
                    seen.clauses.push(refusal.reason.clause);
                    return Seen { end: Some(refusal.message), ..seen };
                }
                OutputVerdict::Force(_) => panic!("a guard forces no text"),
            }
        }
    }
    seen
}

fn answer(rules: &str, text: &str) -> Seen {
    feed(&mut guard(rules), &[text], false)
}

fn clause(fields: &str) -> String {
    format!("[[clause]]\nid = \"c\"\nwhen = \"output\"\n{fields}\n")
}

#[test]
fn literals_match_in_any_case_of_any_script() {
    let rules = clause("match = [\"geheim\", \"ÄPFEL\", \"тайна\"]\naction = \"redact\"");
    let seen = answer(&rules, "Das GEHEIMnis: äpfel. ТАЙНА, geheißen.");
    assert_eq!(seen.released, "Das [redacted]nis: [redacted]. [redacted], geheißen.");
    assert_eq!(seen.clauses, ["c", "c", "c"]);
}

#[test]
fn case_and_words_can_be_asked_for() {
    let rules = clause(
        "match = \"Ass\"\naction = \"redact\"\nreplacement = \"*\"\nwords = true\ncase_sensitive = true",
    );
    assert_eq!(answer(&rules, "Ass, Assess, bAss, ass; Ass").released, "*, Assess, bAss, ass; *");
}

#[test]
fn the_longest_text_of_a_clause_counts_and_the_first_clause_of_the_file() {
    let rules = clause("match = [\"ab\", \"abcd\"]\naction = \"redact\"\nreplacement = \"1\"")
        + &clause("match = \"abcde\"\naction = \"redact\"\nreplacement = \"2\"").replace("\"c\"", "\"d\"");
    assert_eq!(answer(&rules, "abc abcd abcde xabcde").released, "1c 1 1e x1e");
}

#[test]
fn a_stop_releases_what_is_before_and_a_refusal_shows_its_message() {
    let stop = clause("match = \"END\"\naction = \"stop\"\ncase_sensitive = true");
    let seen = answer(&stop, "The end. END of it");
    assert_eq!((seen.released.as_str(), seen.end.as_deref()), ("The end. ", Some("stopped")));
    let refuse = clause("match = \"bomb\"\naction = \"refuse\"\nmessage = \"No.\"");
    let seen = answer(&refuse, "A bomb is");
    assert_eq!((seen.released.as_str(), seen.end.as_deref()), ("A ", Some("No.")));
}

#[test]
fn patterns_know_what_stands_before_them() {
    let rules = clause("pattern = '\\b\\d{3}-\\d{4}\\b|^secret'\naction = \"redact\"\nreplacement = \"#\"");
    let text = "secret 555-1234, 1555-1234 555-12345 secret 555-9999";
    assert_eq!(answer(&rules, text).released, "# #, 1555-1234 555-12345 secret #");
}

#[test]
fn a_pattern_holds_back_its_window_and_no_more() {
    let rules = clause("pattern = 'x+y'\nmax_match = 10\naction = \"redact\"");
    let mut guard = guard(&rules);
    assert_eq!(guard.output("0123456789abc", false).unwrap(), OutputVerdict::Release(4));
    assert_eq!(guard.output("456789abc", true).unwrap(), OutputVerdict::Release(9));
}

#[test]
fn a_literal_holds_back_only_what_may_become_one() {
    let rules = clause("match = \"password\"\naction = \"redact\"");
    let mut guard = guard(&rules);
    assert_eq!(guard.output("the pass", false).unwrap(), OutputVerdict::Release(4));
    assert_eq!(guard.output("passenger", false).unwrap(), OutputVerdict::Release(9));
}

#[test]
fn the_request_is_redacted_or_refused_but_for_system_messages() {
    let rules = r#"
[[clause]]
id = "mail"
when = ["request", "output"]
pattern = '[\w.]+@[\w.]+\w'
action = "redact"
replacement = "[mail]"
note = "Addresses stay here."
[[clause]]
id = "dose"
when = "request"
match = "dose"
action = "refuse"
message = "Ask a doctor."
"#;
    let messages = |user: &str| {
        vec![
            Message::new(Role::System, "dose a@b.c"),
            Message::new(Role::User, user),
            Message::new(Role::Assistant, "dose"),
        ]
    };
    match guard(rules).request(messages("from jo.d@example.org. to x@y.de")).unwrap() {
        RequestVerdict::Rewrite(rewrite) => {
            assert_eq!(rewrite.messages[1].content, "from [mail]. to [mail]");
            assert_eq!(rewrite.messages[0].content, "dose a@b.c");
            assert_eq!(
                (rewrite.reason.clause.as_str(), rewrite.reason.note.as_str()),
                ("mail", "Addresses stay here.")
            );
        }
        other => panic!("{other:?}"),
    }
    match guard(rules).request(messages("Which DOSE for a@b.c?")).unwrap() {
        RequestVerdict::Refuse(refusal) => assert_eq!(refusal.message, "Ask a doctor."),
        other => panic!("{other:?}"),
    }
    assert_eq!(guard(rules).request(messages("Hello")).unwrap(), RequestVerdict::Allow);
}

#[test]
fn a_tool_call_is_denied_however_its_arguments_are_written() {
    let rules = r#"
[[clause]]
id = "paths"
when = "tool-call"
match = "/etc"
action = "deny"
[[clause]]
id = "never"
when = "tool-call"
pattern = '^delete '
action = "refuse"
message = "No."
"#;
    let call = |name: &str, arguments: &str| {
        guard(rules).tool_call(Invocation { name: name.to_owned(), arguments: arguments.to_owned() }).unwrap()
    };
    for arguments in
        [r#"{"p": "/etc/x"}"#, r#"{"p": "\/\u0065tc"}"#, r#"{"a": [{"/ETC": 1}]}"#, "not JSON /etc"]
    {
        assert!(
            matches!(call("read", arguments), ToolCallVerdict::Deny(r) if r.clause == "paths"),
            "{arguments}"
        );
    }
    assert!(matches!(call("delete", "{}"), ToolCallVerdict::Refuse(r) if r.message == "No."));
    assert_eq!(call("read", r#"{"p": "/home/delete "}"#), ToolCallVerdict::Allow);
}

#[test]
fn what_is_for_the_answer_holds_for_its_calls_and_their_results() {
    let call = |arguments: &str| Invocation { name: "search".to_owned(), arguments: arguments.to_owned() };
    for action in ["action = \"redact\"", "action = \"stop\""] {
        let mut guard = guard(&clause(&format!("match = \"heliotrope\"\n{action}")));
        let verdict = guard.tool_call(call(r#"{"query":"\u0068eliotrope"}"#)).unwrap();
        assert!(matches!(verdict, ToolCallVerdict::Deny(reason) if reason.clause == "c"), "{action}");
        assert!(matches!(guard.tool_call(call("{}")).unwrap(), ToolCallVerdict::Allow));
        match guard.tool_result(call("{}"), "It is Heliotrope, I think.").unwrap() {
            ToolResultVerdict::Rewrite(rewritten) if action.contains("stop") => {
                assert_eq!(rewritten.text, "It is ");
            }
            ToolResultVerdict::Rewrite(rewritten) => {
                assert_eq!(rewritten.text, "It is [redacted], I think.");
            }
            other => panic!("{other:?}"),
        }
    }
    let rules = clause("match = \"heliotrope\"\naction = \"refuse\"\nmessage = \"No.\"");
    let verdict = guard(&rules).tool_call(call(r#"{"heliotrope":1}"#)).unwrap();
    assert!(matches!(verdict, ToolCallVerdict::Refuse(refusal) if refusal.message == "No."));
}

#[test]
fn letters_with_several_forms_are_one() {
    let rules = clause("match = [\"σοφος\", \"straße\"]\naction = \"redact\"");
    let seen = answer(&rules, "ΣΟΦΟΣ, σοφοσ; STRASSE, Straße.");
    assert_eq!(seen.released, "[redacted], [redacted]; [redacted], [redacted].");
}

#[test]
fn a_tool_result_is_redacted() {
    let rules =
        "[[clause]]\nid = \"k\"\nwhen = \"tool-result\"\npattern = 'sk-[a-z0-9]+'\naction = \"redact\"";
    let call = Invocation { name: "t".to_owned(), arguments: "{}".to_owned() };
    match guard(rules).tool_result(call, "key sk-12ab, SK-9.").unwrap() {
        ToolResultVerdict::Rewrite(rewrite) => assert_eq!(rewrite.text, "key [redacted], [redacted]."),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rules_that_would_not_do_what_they_seem_to_are_refused() {
    let base = "match = \"x\"\naction = \"redact\"";
    for (rules, expected) in [
        (String::new(), "no [[clause]]"),
        ("clause = 3".to_owned(), "rules: "),
        (
            clause("match = \"x\"\naction = \"delete\""),
            "unknown variant `delete`, expected one of `refuse`, `redact`",
        ),
        (clause(&format!("{base}\nmatches = 1")), "unknown field `matches`"),
        (clause(base) + &clause(base), "clause `c`: another clause has this id"),
        (clause(base).replace("\"c\"", "\"membrane:c\""), "belong to the host"),
        (clause(base).replace("\"c\"", "\"\""), "`id` is not"),
        (clause("action = \"redact\""), "needs either `match` or `pattern`"),
        (clause("match = \"\"\naction = \"redact\""), "a text that is blank"),
        (clause("match = [\"a\", \" \"]\naction = \"redact\""), "a text that is blank"),
        (clause(&format!("match = \"{}\"\naction = \"redact\"", "x".repeat(1025))), "longer than 1024 bytes"),
        (clause("match = []\naction = \"redact\""), "0 texts"),
        (clause("pattern = '('\naction = \"redact\""), "`pattern`: "),
        (clause("pattern = 'a*'\naction = \"redact\""), "matches the empty text"),
        (clause("pattern = 'a{900}{900}'\naction = \"redact\""), "`pattern`: "),
        (clause("pattern = 'a'\nmax_match = 0\naction = \"redact\""), "`max_match` 0"),
        (clause("pattern = 'a'\nmax_match = 1025\naction = \"redact\""), "`max_match` 1025"),
        (clause("pattern = 'a'\nwords = true\naction = \"redact\""), "`words`"),
        (clause(&format!("{base}\nmax_match = 5")), "`max_match` has no meaning"),
        (clause("match = \"x\"\naction = \"refuse\""), "needs a `message`"),
        (clause(&format!("{base}\nmessage = \"m\"")), "`message` has no meaning"),
        (clause("match = \"x\"\naction = \"deny\""), "`output` can't deny"),
        (clause(base).replace("\"output\"", "\"tool-call\""), "`tool-call` can't redact"),
        (
            clause("match = \"x\"\naction = \"stop\"").replace("\"output\"", "[\"request\"]"),
            "`request` can't stop",
        ),
        (clause(base).replace("\"output\"", "[]"), "`when` is empty"),
    ] {
        let error = try_guard(&rules).err().unwrap_or_else(|| panic!("accepted: {rules}"));
        assert!(error.contains(expected), "{rules}: {error}");
    }
}

/// Clauses with overlapping texts, in which every action occurs.
const LITERALS: &str = r#"
[[clause]]
id = "short"
when = "output"
match = ["ab", "abca", "bcé", "ẞ"]
action = "redact"
replacement = "<1>"
[[clause]]
id = "word"
when = "output"
match = ["c ab", "ca"]
words = true
action = "redact"
replacement = ""
[[clause]]
id = "stop"
when = "output"
match = "aaaa"
action = "stop"
[[clause]]
id = "refuse"
when = "output"
match = "bbb b"
action = "refuse"
message = "refused"
"#;

/// A pattern beside them; it holds back its window at every position, whatever the texts need.
const PATTERN: &str = r#"
[[clause]]
id = "pattern"
when = "output"
pattern = '\bc+(é|b a)?|^a|e$'
max_match = 6
action = "redact"
replacement = "<2>"
"#;

/// What a guard with these literals, each redacted by its place, should release; written without any of its
/// code.
fn expected(literals: &[&str], text: &str) -> String {
    let mut released = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        match literals.iter().position(|literal| rest.starts_with(literal)) {
            Some(index) => {
                released.push_str(&format!("<{index}>"));
                rest = &rest[literals[index].len()..];
            }
            None => {
                released.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    released
}

fn pieces<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(*cut)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_pieces_in_which_an_answer_arrives_do_not_matter(
        text in "[abcé ẞe]{0,40}",
        cuts in prop::collection::vec(0..60usize, 0..20),
        last_is_done: bool,
    ) {
        let pieces = pieces(&text, &cuts);
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
        for rules in [LITERALS.to_owned(), format!("{PATTERN}{LITERALS}")] {
            let whole = feed(&mut guard(&rules), &[&text], false);
            prop_assert_eq!(feed(&mut guard(&rules), &pieces, last_is_done), whole.clone());
            prop_assert_eq!(feed(&mut guard(&rules), &characters, false), whole);
        }
    }

    #[test]
    fn literals_are_found_as_by_hand(
        text in "[abc ]{0,30}",
        literals in prop::collection::hash_set("[abc ]{0,3}[abc]", 1..5),
        cuts in prop::collection::vec(0..30usize, 0..10),
    ) {
        let literals: Vec<&str> = literals.iter().map(String::as_str).collect();
        let rule = |(index, literal): (usize, &&str)| {
            let fields = format!("match = \"{literal}\"\naction = \"redact\"\nreplacement = \"<{index}>\"");
            clause(&fields).replace("id = \"c\"", &format!("id = \"clause-{index}\""))
        };
        let rules: String = literals.iter().enumerate().map(rule).collect();
        let released = feed(&mut guard(&rules), &pieces(&text, &cuts), false).released;
        prop_assert_eq!(released, expected(&literals, &text));
    }
}
