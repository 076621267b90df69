//! Ctrl-C stops an answer, not the program.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::component;
use crate::program::{MOE, command, fixture};

/// An answer without any of its end tokens, which would fill a large context.
fn endless(model: &str) -> Vec<String> {
    let ends = (1008..1015).map(|token| format!(r#"{{"token":{token},"forbid":true}}"#));
    let sampler = format!("standard-sampler,logit_bias=[{}]", ends.collect::<Vec<_>>().join(","));
    let arguments = ["run", model, "Hello", "--json", "--ctx", "20000", "--seed=1", "--sampler", &sampler];
    arguments.map(str::to_owned).to_vec()
}

/// A process that gives such an answer.
fn answering() -> Child {
    let arguments = endless(&fixture(MOE));
    command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap()
}

#[test]
fn ctrl_c_ends_an_answer_in_order() {
    let mut child = answering();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let event = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
    let texts = lines.by_ref().filter(|line| event(line)["event"] == "text").take(5).count();
    assert_eq!(texts, 5);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let end = event(&lines.last().expect("the answer ends"));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(end["event"], "end");
    assert_eq!(end["reason"], "cancelled");
    assert!(end["stats"]["decode_tokens"].as_u64().unwrap() >= 5);
}

/// The first is for the answer, which waits for a plugin that computes for an hour.
#[test]
fn a_second_ctrl_c_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spin = component::sampler("", "(loop $for_ever (br $for_ever))", None);
    fs::write(folder.path().join("spin.wasm"), spin).unwrap();
    let profile = folder.path().join("spin.toml");
    let entry = "[[sampler]]\nplugin = \"spin.wasm\"\nunsigned = true\nlimits = { fuel_per_call = 4_000_000_000_000 }\n";
    for isolation in ["none", "process"] {
        fs::write(&profile, format!("{entry}isolation = \"{isolation}\"\n")).unwrap();
        let (model, profile) = (fixture(MOE), profile.to_str().unwrap());
        for verb in [&["run", &model, "Hello"][..], &["agent", "react", "Hello", "--model", &model]] {
            let mut child = command(&[verb, &["--json", "--profile", profile]].concat()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
            assert!(lines.any(|line| line.contains(r#""event":"start""#)), "{verb:?}");
            let interrupt = |child: &Child| {
                std::thread::sleep(Duration::from_millis(1500));
                Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap()
            };
            assert!(interrupt(&child).success());
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(child.try_wait().unwrap(), None, "{verb:?}, {isolation}: the first one waits");
            let begun = Instant::now();
            assert!(interrupt(&child).success());
            assert_eq!(child.wait().unwrap().code(), Some(130), "{verb:?}, {isolation}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_request_to_end_ends_the_program() {
    use std::os::unix::process::ExitStatusExt;

    let mut child = answering();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line.contains(r#""event":"text""#)));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

#[test]
fn an_answer_is_not_lost_because_standard_error_is() {
    let model = fixture(MOE);
    let mut command = command(&["run", &model, "Hello", "-n", "3", "--seed", "1"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stderr(full).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!output.stdout.is_empty());
}
