//! `membrane agent`: tasks, several at a time, records, new versions between tasks.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use membrane_host::first_party;
use serde_json::Value;

use crate::component;
use crate::program::{Ended, MOE, command, fixture, membrane, membrane_reading};

fn agent(arguments: &[&str]) -> Ended {
    let model = fixture(MOE);
    membrane(&[&["agent", "--model", &model, "--seed", "1", "-n", "8", "--threads", "1"], arguments].concat())
}

#[test]
fn a_task_is_done_and_summed_up() {
    let run = agent(&["best-of-n,n=2", "Say something."]).good();
    assert!(!run.stdout.trim().is_empty());
    for part in ["agent: best-of-n", "4 times 4096 tokens", "decode 16 tokens"] {
        assert!(run.stderr.contains(part), "`{part}` is not in: {}", run.stderr);
    }
    let quiet = agent(&["best-of-n,n=2", "Say something.", "--quiet"]).good();
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (run.stdout, ""));
}

#[test]
fn each_of_several_tasks_gives_what_it_gives_alone() {
    let both = agent(&["react", "One.", "Two.", "--quiet"]).good();
    let one = agent(&["react", "One.", "--quiet"]).good();
    let model = fixture(MOE);
    let two = membrane(&["agent", "--model", &model, "--seed", "2", "-n", "8", "react", "Two.", "-q"]).good();
    let line = |run: &Ended| run.stdout.trim_end_matches('\n').to_owned() + "\n";
    assert_eq!(both.stdout, line(&one) + &line(&two));
    let events = agent(&["react", "One.", "Two.", "--json"]).good().events();
    let ends: Vec<&Value> = events.iter().filter(|event| event["event"] == "end").collect();
    assert_eq!(ends.len(), 2);
    assert!(ends.iter().all(|end| end["reason"] == "stop" && end["task"].is_u64()), "{ends:?}");
}

#[test]
fn tasks_in_processes_of_their_own_give_the_same_side_by_side() {
    for name in ["react", "best-of-n,n=2"] {
        let tasks = [name, "One.", "Two.", "Three.", "Four.", "--quiet"];
        let here = agent(&tasks).good();
        let apart = agent(&[&tasks[..], &["--isolation", "process"]].concat()).good();
        assert_eq!(apart.stdout, here.stdout, "{name}");
        assert!(here.stdout.lines().count() >= 4, "{}", here.stdout);
    }
}

#[test]
fn a_line_that_is_no_text_is_no_task_and_the_next_one_is() {
    let model = fixture(MOE);
    let arguments = [
        "agent",
        "react",
        "--watch",
        "--model",
        &model,
        "--seed",
        "1",
        "-n",
        "8",
        "--json",
        "--threads",
        "1",
    ];
    let mut child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\xfe\n\nOne.\ncaf\xc3\n").unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    let ended = ended.good();
    assert_eq!(ended.stderr.matches("That line is not UTF-8 and is no task.").count(), 2, "{}", ended.stderr);
    let ends = ended.events().into_iter().filter(|event| event["event"] == "end");
    assert_eq!(ends.count(), 1);
}

#[test]
fn new_versions_are_for_tasks_by_standard_input() {
    agent(&["react", "One.", "--watch"]).failed_saying(&["--watch", "cannot be used with"]);
}

#[test]
fn parameters_that_a_plugin_does_not_take_change_nothing_between_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    let clause = |id: &str| {
        format!(
            "[[clause]]\nid = \"{id}\"\nwhen = \"request\"\nmatch = \"Two\"\naction = \"refuse\"\nmessage = \"No.\"\n"
        )
    };
    fs::write(&rules, clause("first")).unwrap();
    let (model, guard) = (fixture(MOE), format!("guard,rules=file:{}", rules.display()));
    let task = [
        "agent", "react", "--watch", "--model", &model, "--seed", "1", "-n", "4", "--policy", &guard,
        "--json",
    ];
    let mut child = command(&task).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |name: &str| -> Value {
        let mut events = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        events.find(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name}"))
    };
    writeln!(input, "One.").unwrap();
    assert_eq!(until("end")["reason"], "stop");
    fs::write(&rules, clause("first") + "broken = [").unwrap();
    writeln!(input, "Two.").unwrap();
    assert!(until("reload-failed")["message"].as_str().unwrap().contains("guard"));
    assert_eq!(until("end")["reason"], "refused", "what was in force stays");
    drop(input);
    child.wait().unwrap();
}

/// A task for each line; the events of `--json` are read as they come.
struct Tasks {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tasks {
    fn start(arguments: &[&str]) -> Self {
        let model = fixture(MOE);
        let task = ["agent", "react", "--watch", "--model", &model, "--seed", "1", "-n", "4", "--json"];
        let mut child = command(&[&task[..], arguments].concat()).stdin(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, lines: BufReader::new(output).lines() }
    }

    /// The events of a task, and of what came before it.
    fn give(&mut self, task: &str) -> Vec<Value> {
        writeln!(self.input, "{task}").unwrap();
        let mut events: Vec<Value> = Vec::new();
        while events.last().is_none_or(|event| event["event"] != "end") {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended: {events:?}")).unwrap();
            events.push(serde_json::from_str(&line).unwrap());
        }
        events
    }

    fn end(mut self) {
        drop(self.input);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn where_plugins_run_is_taken_anew_between_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("p.toml");
    let policy = "[[policy]]\nplugin = \"limits\"\n";
    let agent = "[[agent]]\nplugin = \"react\"\n";
    let write = |policy_runs: &str, agent_runs: &str| {
        fs::write(&profile, format!("{policy}{policy_runs}\n{agent}{agent_runs}\n")).unwrap();
    };
    write("", "");
    let mut tasks = Tasks::start(&["--profile", profile.to_str().unwrap()]);
    let mut changes = || -> Vec<String> {
        let events = tasks.give("One.");
        let changed = events.iter().filter(|event| event["event"] == "behaviour");
        let changes = changed.flat_map(|event| event["changes"].as_array().unwrap());
        changes.map(|change| change.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(changes(), [""; 0]);
    write("isolation = \"process\"", "");
    assert_eq!(changes(), ["policy limits changed"]);
    write("isolation = \"process\"", "isolation = \"process\"");
    assert_eq!(changes(), ["agent react changed"]);
    assert_eq!(changes(), [""; 0]);
    tasks.end();
}

#[test]
fn what_a_new_version_of_a_policy_logs_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logs.wasm");
    let write = |line: &str| {
        let data = format!("(data (i32.const 1024) {line:?})");
        let says = format!("(call $log (i32.const 1) (i32.const 1024) (i32.const {}))", line.len());
        fs::write(&path, component::policy(&data, &says)).unwrap();
    };
    write("it is asked");
    let (model, policy) = (fixture(MOE), path.display().to_string());
    let task = ["agent", "react", "--watch", "--model", &model, "-n", "4", "--policy", &policy];
    let mut child = command(&task).stdin(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    let mut lines = BufReader::new(output).lines().map(Result::unwrap);
    writeln!(input, "One.").unwrap();
    let mut missing = vec!["[logs: it is asked]", " | interventions "];
    while !missing.is_empty() {
        let line = lines.next().unwrap_or_else(|| panic!("it ended without {missing:?}"));
        missing.retain(|part| !line.contains(part));
    }
    write("it is asked anew");
    writeln!(input, "Two.").unwrap();
    drop(input);
    assert!(lines.any(|line| line == "[logs: it is asked anew]"));
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_schema_is_taken_as_it_stands_on_the_command_line() {
    let schema = r#"extractor,schema={"type": "object", "properties": {"b, c": {"const": "x, y"}, "a": {"enum": [1, 2]}},
        "required": ["b, c", "a"], "additionalProperties": false},max_tokens=64"#;
    let model = fixture(MOE);
    let run =
        membrane(&["agent", schema, "One.", "--model", &model, "--seed", "1", "--threads", "1", "--quiet"])
            .good();
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(
        (&keys[..], &value["b, c"]),
        (&["b, c", "a"].map(str::to_owned).each_ref()[..], &"x, y".into())
    );
    agent(&["extractor,schema={\"a\": 1, b}", "One."])
        .failed_saying(&["is not KEY=VALUE; the comma before it"]);
    agent(&["extractor,schema=[1]", "One."]).failed_saying(&["schema: is no JSON object"]);
}

#[test]
fn the_task_may_come_by_standard_input() {
    let model = fixture(MOE);
    let arguments = ["agent", "react", "--model", &model, "--seed", "1", "-n", "8", "-q", "--threads", "1"];
    let piped = membrane_reading(&arguments, "One.").good();
    assert_eq!(piped.stdout, agent(&["react", "One.", "--quiet"]).good().stdout);
    membrane_reading(&arguments, "").failed_saying(&["standard input is empty"]);
}

#[test]
fn what_is_wrong_is_said() {
    for (arguments, part) in [
        (&["nobody", "x"][..], "there is no first-party plugin `nobody`"),
        (&["greedy", "x"], "is a sampler, and is used as an agent"),
        (&["react,steps=0", "x"], "not between 1 and 64"),
        (&["react", "x", "--store", "s"], "grant=store"),
        (&["react,grant=all-logits", "x"], "all-logits"),
    ] {
        agent(arguments).failed_saying(&[part]);
    }
}

#[test]
fn a_run_is_on_record_with_its_agent_and_every_generation() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let log = log.to_str().unwrap();
    agent(&["best-of-n,n=3", "Say something.", "--audit", log]).good();
    membrane(&["audit", "verify", log]).good();
    assert!(std::fs::read_to_string(log).unwrap().contains("\"name\":\"best-of-n\""));
    let replayed = membrane(&["replay", log]).good();
    assert!(replayed.stdout.contains("24") || replayed.stderr.contains("24"), "{}", replayed.stdout);
}

#[test]
fn a_new_version_of_an_agent_does_the_next_task() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.wasm");
    let bytes = first_party::find("react").unwrap().bytes;
    fs::write(&path, bytes).unwrap();
    let model = fixture(MOE);
    let plugin = path.to_str().unwrap();
    let arguments = ["plugin", "dev", plugin, "--model", &model, "--json", "-n", "6", "--seed", "1"];
    let mut child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut task = |text: &str| {
        writeln!(input, "{text}").unwrap();
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|kind| kind != "end") {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended: {kinds:?}");
            let event: Value = serde_json::from_str(&line).unwrap();
            kinds.push(event["event"].as_str().unwrap().to_owned());
        }
        kinds
    };
    assert!(!task("One.").contains(&"behaviour".to_owned()));
    fs::write(&path, [bytes, &[0, 3, 1, b'v', 2]].concat()).unwrap();
    assert!(task("Two.").contains(&"behaviour".to_owned()));
    fs::write(&path, b"no component").unwrap();
    assert!(task("Three.").contains(&"reload-failed".to_owned()));
    fs::write(&path, [bytes, &[0, 3, 1, b'v', 3]].concat()).unwrap();
    assert!(task("Four.").contains(&"behaviour".to_owned()));
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn each_agent_of_a_locked_profile_runs() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("two.toml");
    fs::write(&profile, "[[agent]]\nplugin = \"react\"\n\n[[agent]]\nplugin = \"best-of-n\"\n").unwrap();
    let profile = profile.to_str().unwrap();
    membrane(&["profile", "lock", profile, "--model", &fixture(MOE)]).good();
    for name in ["react", "best-of-n"] {
        let run = agent(&[name, "One.", "--profile", profile, "--locked"]).good();
        assert!(!run.stdout.trim().is_empty(), "{name}");
    }
    agent(&["extractor,schema={}", "One.", "--profile", profile, "--locked"]).failed_saying(&["agent"]);
}

#[test]
fn a_refusal_is_shown_for_each_of_several_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    let clause = "[[clause]]\nid = \"c\"\nwhen = \"request\"\nmatch = \"heliotrope\"\naction = \"refuse\"\nmessage = \"Not that.\"\n";
    fs::write(&rules, clause).unwrap();
    let guard = format!("guard,rules=file:{}", rules.display());
    let run = agent(&["react", "One.", "Say heliotrope.", "--policy", &guard]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.ends_with("Not that.\n"), "{}", run.stdout);
}

#[test]
fn grants_of_the_command_line_are_the_profiles_agents_too_and_its_lock_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("p.toml");
    fs::write(&profile, "[[agent]]\nplugin = \"react\"\n").unwrap();
    let (profile, store) = (profile.to_str().unwrap(), folder.path().join("store"));
    let task = ["One.", "--profile", profile, "--store", store.to_str().unwrap()];
    agent(&[&["react"], &task[..]].concat()).failed_saying(&["grant=store"]);
    agent(&[&["react,grant=store"], &task[..]].concat()).good();
    membrane(&["profile", "lock", profile]).good();
    agent(&[&["react,grant=store"], &task[..]].concat())
        .failed_saying(&["agent react: grants added: store", "from the command line"]);
}
