//! The policy as the host drives it. No credential here is real: each is written in two parts, so that scanners of
//! source code don't find it.

use std::time::{Duration, Instant};

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, RequestVerdict, Role, ToolCallVerdict, ToolResultVerdict,
};
use proptest::prelude::*;

use crate::{KeepSecrets, Parameters};

/// A made-up credential of each kind, and its clause.
fn examples() -> Vec<(String, &'static str)> {
    let digits = "0123456789abcdefghijABCDEFGHIJ0123456789";
    let body = |length: usize| digits.chars().cycle().take(length).collect::<String>();
    let key = format!(
        "-----BEGIN RSA {}-----\n{}\n{}\n-----END RSA PRIVATE KEY-----",
        "PRIVATE KEY",
        body(64),
        body(20)
    );
    vec![
        (format!("AK{}{}", "IA", body(16).to_uppercase()), "aws"),
        (format!("gh{}{}", "p_", body(36)), "github"),
        (format!("github_{}{}", "pat_", body(60)), "github"),
        (format!("gl{}{}", "pat-", body(20)), "gitlab"),
        (format!("xo{}{}", "xb-", body(30)), "slack"),
        (format!("AI{}{}", "za", body(35)), "google"),
        (format!("sk_{}{}", "live_", body(24)), "stripe"),
        (format!("s{}ant-api03-{}", "k-", body(40)), "sk"),
        (format!("h{}{}", "f_", body(34)), "hugging-face"),
        (format!("np{}{}", "m_", body(36)), "npm"),
        (format!("py{}{}", "pi-", body(60)), "pypi"),
        (format!("ey{}{}.eyJ{}.{}", "J", body(20), body(30), body(43)), "jwt"),
        (key, "private-key"),
    ]
}

fn policy(parameters: Parameters) -> KeepSecrets {
    KeepSecrets::new(parameters).unwrap_or_else(|error| panic!("{error}"))
}

/// Feeds an answer in pieces, as the host does. Gives what is released, and the clauses of what was replaced.
fn feed(pieces: &[&str], parameters: Parameters) -> (String, Vec<String>) {
    let mut policy = policy(parameters);
    let (mut pending, mut released, mut clauses) = (String::new(), String::new(), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        pending.push_str(piece);
        loop {
            match policy.output(&pending, index + 1 == pieces.len()).unwrap() {
                OutputVerdict::Release(bytes) => {
                    released.extend(pending.drain(..bytes as usize));
                    break;
                }
                OutputVerdict::Replace(replacement) => {
                    assert!(replacement.bytes > 0 && replacement.text.len() <= 64 << 10);
                    let before: String = pending.drain(..replacement.bytes as usize).collect();
                    if before != replacement.text {
                        clauses.push(replacement.reason.clause);
                    }
                    released.push_str(&replacement.text);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    (released, clauses)
}

fn by_character(text: &str) -> Vec<&str> {
    text.split_inclusive(|_: char| true).collect()
}

#[test]
fn each_kind_is_redacted_however_it_arrives() {
    for (secret, kind) in examples() {
        let answer = format!("It is ({secret}), I think.");
        let expected = ("It is ([redacted]), I think.".to_owned(), vec![format!("secrets:{kind}")]);
        assert_eq!(feed(&[&answer], Parameters::default()), expected, "{kind}");
        assert_eq!(feed(&by_character(&answer), Parameters::default()), expected, "{kind}");
        assert_eq!(feed(&[&secret], Parameters::default()).0, "[redacted]", "{kind} alone");
    }
}

#[test]
fn passwords_in_addresses_leave_the_address() {
    let answer = "postgres://app:hunter2@db.local/x and https://example.org:8080/a@b";
    let expected = "postgres://app:[redacted]@db.local/x and https://example.org:8080/a@b";
    assert_eq!(feed(&by_character(answer), Parameters::default()).0, expected);
    assert_eq!(feed(&[answer], Parameters::default()).0, expected);
}

#[test]
fn what_only_looks_alike_passes() {
    for text in [
        "sk-learn-is-a-library-for-machine-learning-in-python",
        "AKIA is how they begin",
        "a task-0123456789abcdefghij0123456789abcdefghij",
        "gh",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "eyJhbGciOiJIUzI1NiJ9 is a header",
        "http://host:80/path",
    ] {
        assert_eq!(feed(&by_character(text), Parameters::default()), (text.to_owned(), vec![]));
    }
}

#[test]
fn no_end_of_a_long_secret_gets_out() {
    let long = format!("gh{}{}", "p_", "a1".repeat(6000));
    assert_eq!(feed(&by_character(&format!("{long}, yes")), Parameters::default()).0, "[redacted], yes");
    let key = format!("-----BEGIN {}-----\n{}", "PRIVATE KEY", "Zm9v\n".repeat(4000));
    assert_eq!(feed(&by_character(&key), Parameters::default()).0, "[redacted]");
    let ended = format!("{key}-----END PRIVATE KEY-----\nDone.");
    assert_eq!(feed(&by_character(&ended), Parameters::default()).0, "[redacted]\nDone.");
    assert_eq!(feed(&[&ended], Parameters::default()).0, "[redacted]\nDone.");
}

#[test]
fn a_long_text_before_a_secret_at_the_end_is_kept() {
    let (secret, _) = examples().swap_remove(0);
    let before = "é, ".repeat(30_000);
    assert_eq!(feed(&[&format!("{before}{secret}")], Parameters::default()).0, format!("{before}[redacted]"));
}

#[test]
fn texts_of_ones_own_are_secret() {
    let own = Parameters { texts: vec!["blue heron".into()], kinds: vec![], ..Parameters::default() };
    let expected = ("the [redacted]s".to_owned(), vec!["secrets:text".to_owned()]);
    assert_eq!(feed(&by_character("the blue herons"), own), expected);
}

#[test]
fn of_ones_own_texts_the_longest_is_kept() {
    let texts = ["our project", "our project Falcon", "our pond"].map(String::from).to_vec();
    let own = Parameters { texts, ..Parameters::default() };
    for (answer, expected) in [
        ("It is our project Falcon.", "It is [redacted]."),
        ("our project Falco", "[redacted] Falco"),
        ("our pond, our!", "[redacted], our!"),
    ] {
        assert_eq!(feed(&[answer], own.clone()).0, expected);
        assert_eq!(feed(&by_character(answer), own.clone()).0, expected);
    }
}

#[test]
fn a_text_that_begins_as_a_token_does_hides_no_more_of_it_than_both_have() {
    let (token, _) = examples().swap_remove(1);
    for (text, expected) in [(token[..6].to_owned(), "[redacted]!"), (format!("{token}!"), "[redacted]")] {
        let own = Parameters { texts: vec![text], ..Parameters::default() };
        assert_eq!(feed(&[&format!("{token}!")], own).0, expected);
    }
    let own = Parameters { texts: vec!["://me:hunter2@host".into()], ..Parameters::default() };
    assert_eq!(feed(&["ftp://me:hunter2@host/"], own).0, "ftp[redacted]/");
}

#[test]
fn an_escape_before_a_secret_is_no_part_of_it() {
    for (secret, _) in examples() {
        for before in ["\\n", "\\t", "\\u000a", "\\\\n"] {
            let answer = format!(r#"{{"text":"a{before}{secret}\nb"}}"#);
            let expected = format!(r#"{{"text":"a{before}[redacted]\nb"}}"#);
            assert_eq!(feed(&[&answer], Parameters::default()).0, expected);
            assert_eq!(feed(&by_character(&answer), Parameters::default()).0, expected);
        }
        // A word before a token is one with it, as are four digits that no escape has.
        for before in ["a_", "u000a", "\\u00g0", "\\na"].into_iter().filter(|_| !secret.starts_with('-')) {
            let answer = format!("{before}{secret}");
            assert_eq!(feed(&by_character(&answer), Parameters::default()).0, answer);
        }
    }
}

/// The work must grow with the text and not with its square: the host grants a call so many steps only.
#[test]
fn many_secrets_in_a_long_text_are_one_search() {
    let (secret, _) = examples().swap_remove(1);
    let text = |secret: &str| format!("{secret}, and\n").repeat(20_000);
    let call = Invocation { name: "read".into(), arguments: "{}".into() };
    let begun = Instant::now();
    let result = policy(Parameters::default()).tool_result(call, &text(&secret)).unwrap();
    assert!(matches!(result, ToolResultVerdict::Rewrite(rewritten) if rewritten.text == text("[redacted]")));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn calls_are_denied_and_results_are_redacted() {
    let (secret, _) = examples().swap_remove(1);
    let mut policy = policy(Parameters { request: true, ..Parameters::default() });
    let escaped = secret.replacen('g', "\\u0067", 1);
    let call = |arguments: String| Invocation { name: "send".into(), arguments };
    let verdict = policy.tool_call(call(format!("{{\"to\":\"{escaped}\"}}"))).unwrap();
    assert!(matches!(verdict, ToolCallVerdict::Deny(reason) if reason.clause == "secrets:github"));
    assert!(matches!(policy.tool_call(call("{}".into())).unwrap(), ToolCallVerdict::Allow));
    let result = policy.tool_result(call("{}".into()), &format!("token={secret}\n")).unwrap();
    assert!(matches!(result, ToolResultVerdict::Rewrite(text) if text.text == "token=[redacted]\n"));
    let messages = vec![Message::new(Role::System, secret.clone()), Message::new(Role::User, secret.clone())];
    let RequestVerdict::Rewrite(rewritten) = policy.request(messages).unwrap() else { panic!() };
    assert_eq!((&rewritten.messages[0].content, &*rewritten.messages[1].content), (&secret, "[redacted]"));
}

#[test]
fn parameters_that_would_do_nothing_are_refused_by_name() {
    for (parameters, name) in [
        (Parameters { kinds: vec!["visa".into()], ..Parameters::default() }, "kinds"),
        (Parameters { kinds: vec![], ..Parameters::default() }, "kinds"),
        (Parameters { texts: vec!["abc".into()], ..Parameters::default() }, "texts"),
        (Parameters { replacement: "x".repeat(2000), ..Parameters::default() }, "replacement"),
    ] {
        assert!(KeepSecrets::new(parameters).err().unwrap().starts_with(name), "{name}");
    }
}

proptest! {
    #[test]
    fn pieces_never_change_what_is_released(
        parts in prop::collection::vec((0usize..13, "[ -~é\n]{0,12}"), 1..4),
        cuts in prop::collection::vec(0usize..600, 0..8),
    ) {
        let examples = examples();
        let answer: String = parts.iter().map(|(kind, text)| format!("{text} {} ", examples[*kind].0)).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| answer.floor_char_boundary(cut.min(answer.len()))).collect();
        cuts.sort_unstable();
        let mut from = 0;
        let mut pieces: Vec<&str> = cuts.iter().map(|cut| &answer[std::mem::replace(&mut from, *cut)..*cut]).collect();
        pieces.push(&answer[from..]);
        let whole = feed(&[&answer], Parameters::default());
        prop_assert_eq!(&feed(&pieces, Parameters::default()), &whole);
        for (kind, _) in &parts {
            prop_assert!(!whole.0.contains(&examples[*kind].0));
        }
    }
}
