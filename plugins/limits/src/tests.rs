//! The policy as the host drives it.

use membrane_plugin::policy::{OutputVerdict, Policy};
use proptest::prelude::*;

use crate::{Limits, Parameters};

/// Feeds an answer in pieces, as the host does. Gives what is released, and the clause that ended it.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a str>, parameters: Parameters) -> (String, Option<String>) {
    let mut limits = Limits::new(parameters).unwrap_or_else(|error| panic!("{error}"));
    let mut released = String::new();
    for piece in pieces {
        match limits.output(piece, false).unwrap() {
            OutputVerdict::Release(bytes) => released.push_str(&piece[..bytes as usize]),
            OutputVerdict::Stop(ending) => {
                released.push_str(&piece[..ending.release as usize]);
                return (released, Some(ending.reason.clause));
            }
            other => panic!("{other:?}"),
        }
    }
    (released, None)
}

#[test]
fn an_answer_ends_at_its_length_in_characters() {
    let parameters = Parameters { characters: 5, ..Parameters::default() };
    assert_eq!(
        feed(["né", "e à l"], parameters.clone()),
        ("née à".to_owned(), Some("limits:length".to_owned()))
    );
    assert_eq!(feed(["née à"], parameters), ("née à".to_owned(), None));
}

#[test]
fn a_circle_ends_when_it_has_closed_often_enough() {
    let sentence = "I am sorry, I can't say that, and so I say it again. ";
    let answer = format!("Well:\n{}", sentence.repeat(20));
    let (released, clause) = feed([answer.as_str()], Parameters::default());
    assert_eq!(clause.as_deref(), Some("limits:circle"));
    assert_eq!(released, format!("Well:\n{}", sentence.repeat(5)));
    let (released, _) = feed(["ha".repeat(400).as_str()], Parameters::default());
    assert_eq!(released.len(), 160);
}

#[test]
fn lists_tables_and_indented_code_are_no_circles() {
    let numbers: String = (0..200).map(|i| format!("- item {i}\n")).collect();
    let table = format!("| a | b |\n|{}|{}|\n| 1 | 2 |\n", "-".repeat(40), "-".repeat(40));
    let code = format!("{}x = 1\n{}y = 2\n", " ".repeat(300), "\n".repeat(300));
    for answer in [numbers, table, code] {
        assert_eq!(feed([answer.as_str()], Parameters::default()), (answer, None));
    }
}

#[test]
fn parameters_that_would_do_nothing_are_refused_by_name() {
    let default = Parameters::default;
    for (parameters, name) in [
        (Parameters { characters: 0, repeats: 0, ..default() }, "characters"),
        (Parameters { repeats: 1, ..default() }, "repeats"),
        (Parameters { stretch: 0, ..default() }, "stretch"),
        (Parameters { circle: 0, ..default() }, "circle"),
        (Parameters { characters: 20_000_000, ..default() }, "characters"),
    ] {
        assert!(Limits::new(parameters).err().unwrap().starts_with(name), "{name}");
    }
}

/// Where the first circle closes, by the definition.
fn reference(answer: &[char], repeats: usize, longest: usize, least: usize) -> Option<usize> {
    (1..=answer.len()).find(|&end| {
        (1..=longest).any(|length| {
            let all = (repeats * length).max(least);
            let circle = all <= end && (end - all + length..end).all(|at| answer[at] == answer[at - length]);
            circle && !answer[end - length..end].iter().all(|c| c.is_whitespace())
        })
    })
}

proptest! {
    #[test]
    fn circles_are_those_of_the_definition(
        answer in "[ab ]{0,60}",
        (repeats, stretch, circle) in (2u32..5, 1u32..7, 1u32..20),
        cut in 0usize..60,
    ) {
        let parameters = Parameters { characters: 0, repeats, stretch, circle };
        let (first, second) = answer.split_at(cut.min(answer.len()));
        let (released, clause) = feed([first, second], parameters);
        let characters: Vec<char> = answer.chars().collect();
        let expected = reference(&characters, repeats as usize, stretch as usize, circle as usize);
        prop_assert_eq!(clause.is_some(), expected.is_some());
        prop_assert_eq!(released.len(), expected.unwrap_or(answer.len()));
    }
}
