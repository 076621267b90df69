//! What samplers say beside the answer, in their logs and their errors, is judged by the policies as the answer is.

use std::fs;
use std::path::Path;

use crate::component;
use crate::program::{Ended, MOE, fixture, membrane};

/// A sampler that logs lines, and then fails with an error or, without one, lets the next one choose.
fn sampler(lines: &[&str], error: Option<&str>) -> Vec<u8> {
    let (mut data, mut calls) = (String::new(), String::new());
    for (number, line) in lines.iter().enumerate() {
        let at = 1024 + 256 * number;
        data += &format!("(data (i32.const {at}) {line:?})");
        calls += &format!("(call $log (i32.const 1) (i32.const {at}) (i32.const {}))", line.len());
    }
    component::sampler(&data, &calls, error)
}

fn run(folder: &Path, component: &[u8], more: &[&str]) -> Ended {
    let path = folder.join("talker.wasm");
    fs::write(&path, component).unwrap();
    let rules = folder.join("rules.toml");
    fs::write(
        &rules,
        "[[clause]]\nid = \"c\"\nwhen = \"output\"\nmatch = \"heliotrope\"\naction = \"refuse\"\nmessage = \"No.\"\n",
    )
    .unwrap();
    let guard = format!("guard,rules=file:{}", rules.display());
    let (model, talker) = (fixture(MOE), path.display().to_string());
    let arguments =
        ["run", &model, "Hello.", "-n", "3", "--seed", "1", "--threads", "1", "--sampler", &talker];
    let greedy = ["--sampler", "greedy"];
    let policy: &[&str] = if more.contains(&"--free") { &[] } else { &["--policy", &guard] };
    let more: Vec<&str> = more.iter().copied().filter(|word| *word != "--free").collect();
    membrane(&[&arguments[..], &greedy, policy, &more].concat())
}

#[test]
fn a_forbidden_text_in_a_samplers_log_is_withheld() {
    let folder = tempfile::tempdir().unwrap();
    for lines in [&["it is heliotrope", "fine"][..], &["it is helio", "trope", "fine"]] {
        let component = sampler(lines, None);
        let free = run(folder.path(), &component, &["--free"]).good();
        lines.iter().for_each(|line| assert!(free.stderr.contains(line), "{line}: {}", free.stderr));
        for isolation in ["none", "process"] {
            let judged = run(folder.path(), &component, &["--isolation", isolation]).good();
            assert!(!judged.stderr.contains("trope"), "{isolation}: {}", judged.stderr);
            assert!(judged.stderr.contains("(withheld by a policy)"), "{isolation}: {}", judged.stderr);
            assert!(judged.stderr.contains("[talker: fine]"), "{isolation}: {}", judged.stderr);
        }
    }
}

/// A line of a policy is judged by that policy, too, which in a process of its own can't be asked before its call is over.
#[test]
fn a_policy_that_logs_is_judged_when_its_call_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (path, model) = (folder.path().join("logs.wasm"), fixture(MOE));
    let data = r#"(data (i32.const 1024) "it is asked")"#;
    let says = "(call $log (i32.const 1) (i32.const 1024) (i32.const 11))";
    for (body, status) in [(says.to_owned(), 0), (format!("{says} unreachable"), 2)] {
        fs::write(&path, component::policy(data, &body)).unwrap();
        let policy = path.display().to_string();
        for isolation in ["none", "process"] {
            let ended = membrane(&[
                "run",
                &model,
                "Hello.",
                "-n",
                "3",
                "--policy",
                &policy,
                "--isolation",
                isolation,
            ]);
            assert_eq!(ended.code, Some(status), "{isolation}: {}", ended.stderr);
            let lines = ended.stderr.matches("[logs: ").count();
            assert_eq!(lines, 1, "{isolation}: {}", ended.stderr);
            let shown = if status == 0 { "[logs: it is asked]" } else { "(withheld by a policy)" };
            assert!(ended.stderr.contains(shown), "{isolation}: {}", ended.stderr);
        }
    }
}

/// Policies judge it with the model in the agent's run; behind that there is no model to ask.
#[test]
fn a_line_of_an_agent_is_judged_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let data = r#"(data (i32.const 1024) "all is well")"#;
    let says = "(call $log (i32.const 1) (i32.const 1024) (i32.const 11))";
    fs::write(file("agent.wasm"), component::agent(data, says)).unwrap();
    for (threshold, line) in [(1, "[agent: all is well]"), (0, "[agent: (withheld by a policy)]")] {
        let clause =
            "[[clause]]\nid = \"c\"\nwhen = \"output\"\nquestion = \"Is it?\"\naction = \"refuse\"\n";
        fs::write(file("rules.toml"), format!("{clause}message = \"No.\"\nthreshold = {threshold}\n"))
            .unwrap();
        let policy = format!("judged-guard,grant=judge,rules=file:{}", file("rules.toml"));
        let ended =
            membrane(&["agent", &file("agent.wasm"), "-m", &fixture(MOE), "Task.", "--policy", &policy]);
        assert!(ended.stderr.contains(line), "{threshold}: {}", ended.stderr);
    }
}

#[test]
fn a_forbidden_text_in_a_samplers_error_is_withheld() {
    let folder = tempfile::tempdir().unwrap();
    let component = sampler(&[], Some("it is heliotrope"));
    run(folder.path(), &component, &["--free"]).failed_saying(&["sample failed: it is heliotrope"]);
    for more in [&[][..], &["--json"], &["--isolation", "process"]] {
        let judged = run(folder.path(), &component, more);
        assert_eq!(judged.code, Some(2), "{}", judged.stderr);
        let all = judged.stdout + &judged.stderr;
        assert!(!all.contains("heliotrope") && all.contains("(withheld by a policy)"), "{all}");
    }
    // What is harmless is told.
    run(folder.path(), &sampler(&[], Some("out of order")), &[])
        .failed_saying(&["sample failed: out of order"]);
}

#[test]
fn what_a_plugin_said_that_failed_is_not_exported_where_policies_judged() {
    let folder = tempfile::tempdir().unwrap();
    let component = sampler(&[], Some("it is heliotrope"));
    for (free, name) in [(true, "free.jsonl"), (false, "judged.jsonl")] {
        let log = folder.path().join(name).display().to_string();
        let recording = ["--audit", &log, "--audit-keep", "text", "--free"];
        let recording = if free { &recording[..] } else { &recording[..4] };
        run(folder.path(), &component, recording);
        for json in [&["--json"][..], &[]] {
            let export =
                |more: &[&str]| membrane(&[&["audit", "export", &log], json, more].concat()).good().stdout;
            let shown = export(&[]);
            assert_eq!(shown.contains("it is heliotrope"), free, "{name}: {shown}");
            assert!(shown.contains("failed"), "{name}: {shown}");
            assert!(export(&["--withheld"]).contains("it is heliotrope"), "{name}");
        }
    }
}
