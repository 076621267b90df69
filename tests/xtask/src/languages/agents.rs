//! One agent in every language, given the same tasks with the same seeds and the demo model: all must do the same. What is
//! compared is what a person sees (texts, calls of tools, their results, the end) and what the audit log has of each generation: its
//! seed, its prompt and every token that was chosen, with its probability.

use super::{Built, MODEL_LANGUAGE};
use crate::workspace::{output, phase};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the agent is asked, each with the seed of the run.
const TASKS: [(&str, u64); 3] = [
    ("A box has 12 eggs. How many eggs are in 7 boxes?", 7),
    ("Tom had 25 apples and gave away 8. How many are left?", 8),
    ("What is 17 times 23?", 9),
];

/// What came of a run.
#[derive(Debug, PartialEq)]
struct Transcript {
    /// What the person saw.
    events: Vec<Value>,
    /// The records of each answer, in the order in which they began: first that of the run, then its generations.
    answers: Vec<Vec<Value>>,
}

/// Gives every task to the agent in every language and compares.
///
/// # Errors
/// When a run fails, two differ, or a run does so little that there is nothing to compare.
pub fn compare(membrane: &Path, model: &Path, built: &[&Built]) -> Result<()> {
    let first = built.iter().find(|built| built.language == MODEL_LANGUAGE);
    let first = first.with_context(|| format!("the agent was not built in {MODEL_LANGUAGE}"))?;
    let example = first.example;
    phase(&format!("{example} in {} languages with the demo model", built.len()));
    for (number, (task, seed)) in TASKS.into_iter().enumerate() {
        let expected = run(membrane, model, first, (task, seed))?;
        check(&expected).with_context(|| format!("{example} in {}, {task:?}", first.language))?;
        for other in built.iter().filter(|other| other.language != first.language) {
            let found = run(membrane, model, other, (task, seed))?;
            let what = format!("{example} in {} and {}, {task:?}", first.language, other.language);
            same(&expected, &found).with_context(|| what)?;
        }
        if number == 0 {
            let other_seed = run(membrane, model, first, (task, seed + 100))?;
            ensure!(expected != other_seed, "{example}: the seed has no effect on {task:?}");
        }
        let tokens: usize = expected.answers.iter().map(|answer| chosen(answer)).sum();
        println!("{example}: {task:?}: {} answers, {tokens} tokens, the same in all", expected.answers.len());
    }
    Ok(())
}

fn run(membrane: &Path, model: &Path, built: &Built, (task, seed): (&str, u64)) -> Result<Transcript> {
    let component = built.folder.join("build").join(format!("{}.wasm", built.example));
    let log = built.folder.join("build/audit.jsonl");
    for file in [log.clone(), log.with_extension("jsonl.head")] {
        if file.exists() {
            fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
    }
    let mut agent = Command::new(membrane);
    agent.arg("agent").arg(component).args([task, "--json", "--tool", "calculator"]);
    agent.args(["--seed", &seed.to_string(), "--model"]).arg(model).arg("--audit").arg(&log);
    let events = output(&mut agent)?;
    output(Command::new(membrane).args(["audit", "verify"]).arg(&log))?;
    let records = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    Transcript::new(&events, &records)
}

impl Transcript {
    fn new(events: &str, records: &str) -> Result<Self> {
        let lines = |text: &str| -> Result<Vec<Value>> {
            text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
        };
        let events = lines(events).context("what the agent printed")?.into_iter().filter_map(event).collect();
        let answers = answers(&lines(records).context("the audit log")?);
        Ok(Self { events, answers })
    }
}

/// What of an event does not depend on the component and the clock.
fn event(mut event: Value) -> Option<Value> {
    let kind = event["event"].as_str().unwrap_or_default();
    match kind {
        "start" | "audit" => None,
        "end" => {
            event.as_object_mut()?.remove("stats");
            Some(event)
        }
        _ => Some(event),
    }
}

/// The records of each answer. Generations run at the same time, so their records come in any order; those of one do not.
fn answers(log: &[Value]) -> Vec<Vec<Value>> {
    let mut places = BTreeMap::new();
    let mut answers: Vec<Vec<Value>> = Vec::new();
    for line in log {
        let Some((kind, body)) = line["record"].as_object().and_then(|record| record.iter().next()) else {
            continue;
        };
        if kind == "answer" {
            places.insert(line["number"].as_u64(), answers.len());
            let of = |field: &str| (field.to_owned(), body[field].clone());
            answers.push(vec![Value::Object([of("seed"), of("max_tokens")].into_iter().collect())]);
        } else if let Some(place) = places.get(&body["answer"].as_u64()) {
            let kept = body.as_object().into_iter().flatten();
            // Digests of texts are salted, and answers are numbered by when they began.
            let kept = kept.filter(|(name, value)| *name != "answer" && value["salt"].is_null());
            let kept: Map<String, Value> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            answers[*place].push(Value::Object(Map::from_iter([(kind.clone(), Value::Object(kept))])));
        }
    }
    answers
}

/// Tokens that were chosen in an answer.
fn chosen(answer: &[Value]) -> usize {
    let ids = answer.iter().filter_map(|record| record["tokens"]["ids"].as_array());
    ids.map(Vec::len).sum()
}

/// That a run used a tool, several generations and the output.
fn check(transcript: &Transcript) -> Result<()> {
    let has = |kind: &str| transcript.events.iter().any(|event| event["event"] == kind);
    ensure!(has("tool-call") && has("tool-result") && has("text"), "it called no tool or said nothing");
    let generations = transcript.answers.iter().filter(|answer| chosen(answer) > 0).count();
    ensure!(generations > 2, "it generated only {generations} texts");
    Ok(())
}

/// The first difference, as an error.
fn same(one: &Transcript, other: &Transcript) -> Result<()> {
    let events = (one.events.as_slice(), other.events.as_slice());
    if let Some(place) = difference(events.0, events.1) {
        let of = |events: &[Value]| events.get(place).map_or("its end".to_owned(), Value::to_string);
        anyhow::bail!("event {}: {} and {}", place + 1, of(events.0), of(events.1));
    }
    let answers = one.answers.iter().zip(&other.answers).enumerate();
    for (answer, (one, other)) in answers {
        if let Some(place) = difference(one, other) {
            let of = |records: &[Value]| records.get(place).map_or("its end".to_owned(), Value::to_string);
            anyhow::bail!("answer {}, record {}: {} and {}", answer + 1, place + 1, of(one), of(other));
        }
    }
    let counts = (one.answers.len(), other.answers.len());
    ensure!(counts.0 == counts.1, "{} answers and {}", counts.0, counts.1);
    Ok(())
}

/// The place of the first difference.
fn difference(one: &[Value], other: &[Value]) -> Option<usize> {
    let equal = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    (equal < one.len().max(other.len())).then_some(equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "{\"event\":\"start\",\"seed\":1,\"agent_digest\":\"x\"}\n{\"event\":\"text\",\"text\":\"a\"}\n\
                          {\"event\":\"end\",\"reason\":\"stop\",\"stats\":{\"decode_seconds\":1.5}}\n";

    fn log(order: [u64; 2], token: u64, salt: &str) -> String {
        let mut lines = vec![r#"{"number":1,"record":{"open":{"log":"x"}}}"#.to_owned()];
        for number in [2, 3] {
            lines.push(format!(
                r#"{{"number":{number},"record":{{"answer":{{"seed":{number},"now":{token}}}}}}}"#
            ));
        }
        for (number, answer) in (4..).zip(order) {
            let ids = if answer == 2 { token } else { 7 };
            lines.push(format!(
                r#"{{"number":{number},"record":{{"tokens":{{"answer":{answer},"ids":[{ids}],"text":{{"salt":"{salt}"}}}}}}}}"#
            ));
        }
        lines.push(r#"{"number":6,"record":"close"}"#.to_owned());
        lines.join("\n")
    }

    #[test]
    fn runs_that_differ_in_order_and_salt_alone_are_the_same() {
        let one = Transcript::new(EVENTS, &log([2, 3], 5, "a")).unwrap();
        let other = Transcript::new(EVENTS, &log([3, 2], 5, "b")).unwrap();
        assert_eq!(one.answers.len(), 2);
        assert_eq!(one.events.len(), 2);
        assert_eq!(chosen(&one.answers[0]), 1);
        same(&one, &other).unwrap();
    }

    #[test]
    fn a_token_a_text_and_an_answer_make_a_difference() {
        let one = Transcript::new(EVENTS, &log([2, 3], 5, "a")).unwrap();
        let token = Transcript::new(EVENTS, &log([2, 3], 6, "a")).unwrap();
        assert!(same(&one, &token).unwrap_err().to_string().contains("answer 1, record 2"));
        let text = Transcript::new(&EVENTS.replace("\"a\"", "\"b\""), &log([2, 3], 5, "a")).unwrap();
        assert!(same(&one, &text).unwrap_err().to_string().contains("event 1"));
        let fewer = Transcript { answers: one.answers[..1].to_vec(), events: one.events.clone() };
        assert!(same(&one, &fewer).unwrap_err().to_string().contains("2 answers and 1"));
        assert!(check(&one).is_err());
    }
}
