//! Ctrl-C stops an answer, not the program.

use std::io::{BufRead, BufReader};
use std::process::Command;

use serde_json::Value;

use crate::program::{MOE, command, fixture};

#[test]
fn ctrl_c_ends_an_answer_in_order() {
    let model = fixture(MOE);
    // Without an end token in sight, the answer would fill a large context.
    let arguments = ["run", &model, "Hello", "--json", "--ctx", "20000", "--seed", "1", "--temperature", "5"];
    let mut child = command(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let event = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
    let texts = lines.by_ref().filter(|line| event(line)["event"] == "text").take(5).count();
    assert_eq!(texts, 5);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let end = event(&lines.last().expect("the answer ends"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(end["event"], "end");
    assert_eq!(end["reason"], "cancelled");
    assert!(end["stats"]["decode_tokens"].as_u64().unwrap() >= 5);
}
