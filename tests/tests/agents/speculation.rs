//! Agents whose generations draft tokens: nothing that they are told is another than without.

use membrane_engine::{LoadOptions, Speculate};
use membrane_generate::{Agents, Behaviour};
use serde_json::{Value, json};

use crate::{drawing, host, model, run, saying, scripted, steps};

const REPEATING: &str =
    "one two three. one two three. one two three. one two three! one two three. one two three.";

fn agents(behaviour: Behaviour, speculate: Speculate) -> Agents {
    let options = LoadOptions { threads: Some(1), speculate, ..LoadOptions::default() };
    Agents::new(host(), model(options), behaviour, None).unwrap()
}

/// Generations one by one and two at a time, forks, truncations, one that is cancelled and one that is dropped in the middle.
fn work() -> Value {
    let options = |seed: u64| json!({"max-tokens": 24, "seed": seed});
    json!([
        {"new": "a"},
        {"append": ["a", "one two three. one two three. one"]},
        {"start": ["a", "first", options(1)]},
        {"finish": "first"},
        {"tokens": "a"},
        {"fork": ["a", "b"]},
        {"start": ["b", "second", options(2)]},
        {"start": ["a", "third", options(3)]},
        {"finish": "second"},
        {"finish": "third"},
        {"tokens": "a"},
        {"tokens": "b"},
        {"score": ["a", [" one two three.", " three two one."]]},
        {"start": ["a", "cancelled", options(4)]},
        {"next": "cancelled"},
        {"cancel": "cancelled"},
        {"length": "a"},
        {"start": ["a", "dropped", options(5)]},
        {"drop": "dropped"},
        {"truncate": ["a", 7]},
        {"append": ["a", " two three. one two"]},
        {"start": ["a", "last", options(6)]},
        {"finish": "last"},
        {"tokens": "a"},
    ])
}

#[test]
fn generations_forks_and_scores_are_the_same_with_drafts() {
    for behaviour in [drawing, || saying(&[REPEATING])] {
        let told = [Speculate::Off, Speculate::Auto, Speculate::Always]
            .map(|speculate| steps(&agents(behaviour(), speculate), work()));
        // How far one that is cancelled had come depends on timing.
        let without_next = |told: &[Value]| [&told[..14], &told[15..]].concat();
        assert!(told[0].len() == work().as_array().unwrap().len());
        assert_eq!(without_next(&told[1]), without_next(&told[0]));
        assert_eq!(without_next(&told[2]), without_next(&told[0]));
    }
}

#[test]
fn drafts_of_generations_are_counted() {
    let task = json!([
        {"new": "a"},
        {"append": ["a", "Say:"]},
        {"start": ["a", "g", {"max-tokens": 60}]},
        {"finish": "g"},
    ]);
    let seen = run(&agents(saying(&[REPEATING]), Speculate::Always), &scripted(), &task.to_string());
    let stats = seen.answer.stats;
    assert!(stats.accepted_tokens > 10 && stats.drafted_tokens >= stats.accepted_tokens, "{stats:?}");
}
