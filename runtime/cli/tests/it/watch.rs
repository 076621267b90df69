//! Plugins that are replaced in a running conversation when their files are saved.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use membrane_host::first_party;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{DENSE, command, fixture};

/// A conversation that goes on while files change.
struct Chat {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Chat {
    /// `membrane plugin dev` with a component or a folder.
    fn dev(plugin: &Path, state: &Path, more: &[&str]) -> Self {
        let model = fixture(DENSE);
        let mut arguments = vec!["plugin", "dev", plugin.to_str().unwrap(), "--model", &model];
        arguments.extend(["--json", "--raw", "-n", "6", "--seed", "1"]);
        arguments.extend(more);
        let mut command = command(&arguments);
        command.env("XDG_CACHE_HOME", state.join("cache")).env("XDG_STATE_HOME", state.join("state"));
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut chat = Self { child, input, output };
        chat.until("start");
        chat
    }

    /// Reads events up to one of this kind; gives all of them.
    fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        while events.last().is_none_or(|event| event["event"] != kind) {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before `{kind}`: {events:?}");
            events.push(serde_json::from_str(&line).unwrap());
        }
        events
    }

    /// The events of an answer.
    fn ask(&mut self, text: &str) -> Vec<Value> {
        writeln!(self.input.as_mut().unwrap(), "{text}").unwrap();
        self.until("end")
    }

    fn close(mut self) {
        drop(self.input.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Chat {
    /// A test that fails leaves no program behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(events: &[Value]) -> String {
    events
        .iter()
        .filter(|event| event["event"] == "text")
        .filter_map(|event| event["text"].as_str())
        .collect()
}

fn effects(events: &[Value]) -> Vec<&str> {
    let reloaded = events.iter().filter(|event| event["event"] == "reloaded");
    reloaded.filter_map(|event| event["effect"].as_str()).collect()
}

/// The component of `greedy`, with a custom section that makes another version of it.
fn version(number: u8) -> Vec<u8> {
    let mut bytes = first_party::find("greedy").unwrap().bytes.to_vec();
    bytes.extend([0, 3, 1, b'v', number]);
    bytes
}

/// Puts a file in the place of another, as compilers and editors do.
fn save(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes).unwrap();
    fs::rename(&fresh, path).unwrap();
}

#[test]
fn a_saved_component_is_live_with_the_next_answer_and_a_bad_one_is_not() {
    let folder = TempDir::new().unwrap();
    let component = folder.path().join("greedy.wasm");
    save(&component, &version(0));
    let mut chat = Chat::dev(&component, folder.path(), &[]);
    let first = chat.ask("Hello");
    assert!(!text(&first).is_empty());
    let begun = Instant::now();
    save(&component, &version(1));
    let ready = chat.until("behaviour").pop().unwrap();
    eprintln!("from save to ready: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    assert_eq!((ready["plugins"][0].as_str(), ready["golden_cases"].as_u64()), (Some("greedy"), Some(0)));
    let second = chat.ask("/clear\nHello");
    assert_eq!(effects(&second), ["live"]);
    assert_eq!(text(&second), text(&first));

    for (bad, why) in [(version(2)[..1000].to_vec(), "malformed"), (b"text".to_vec(), "not WebAssembly")] {
        save(&component, &bad);
        let failed = chat.until("reload-failed").pop().unwrap();
        assert!(failed["message"].as_str().unwrap().contains(why), "{failed}");
        let answer = chat.ask("/clear\nHello");
        assert_eq!((effects(&answer).len(), text(&answer)), (0, text(&first)));
    }
    fs::remove_file(&component).unwrap();
    chat.until("reload-failed");
    // What was in force comes back as it was, which is no change.
    save(&component, &version(1));
    save(&component, &version(3));
    chat.until("behaviour");
    assert_eq!(effects(&chat.ask("/clear\nHello")), ["live"]);
    chat.close();
}

#[test]
fn golden_cases_keep_a_version_out() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("golden")).unwrap();
    let manifest = first_party::find("greedy").unwrap().manifest;
    fs::write(folder.path().join("plugin.toml"), manifest).unwrap();
    let case = |token: u32| {
        let text = format!(
            "[{{\"about\": \"The likeliest.\", \"parameters\": {{}}, \"vocabulary\": [\"a\", \"b\"], \"prompt\": [], \
             \"seed\": 1, \"steps\": [{{\"logits\": [0, 1], \"token\": {token}}}]}}]"
        );
        fs::write(folder.path().join("golden/case.json"), text).unwrap();
    };
    let component = folder.path().join("greedy.wasm");
    save(&component, &version(0));
    case(0);
    let mut chat = Chat::dev(&component, folder.path(), &[]);
    save(&component, &version(1));
    let failed = chat.until("reload-failed").pop().unwrap();
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("1 of 1 golden cases fail") && message.contains("case.json, case 1"),
        "{message}"
    );
    assert_eq!(effects(&chat.ask("Hello")).len(), 0);
    case(1);
    save(&component, &version(2));
    assert_eq!(chat.until("behaviour").pop().unwrap()["golden_cases"], 1);
    assert_eq!(effects(&chat.ask("Hello")), ["live"]);
    chat.close();
}

#[test]
fn a_profile_is_taken_anew_with_the_files_that_it_refers_to() {
    let folder = TempDir::new().unwrap();
    let (profile, rules) = (folder.path().join("p.toml"), folder.path().join("rules.toml"));
    let clause = |word: &str| {
        let text = format!(
            "[[clause]]\nid = \"a\"\nwhen = [\"request\"]\nmatch = [\"{word}\"]\naction = \"refuse\"\nmessage = \"No.\"\n"
        );
        save(&rules, text.as_bytes());
    };
    clause("forbidden");
    let guarded = "[[policy]]\nplugin = \"guard\"\nparameters = { rules = \"file:rules.toml\" }\n";
    save(&profile, guarded.as_bytes());
    let component = folder.path().join("greedy.wasm");
    save(&component, &version(0));
    let mut chat = Chat::dev(&component, folder.path(), &["--profile", profile.to_str().unwrap()]);
    let reason = |events: Vec<Value>| events.last().unwrap()["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason(chat.ask("a forbidden word")), "refused");
    clause("secret");
    chat.until("behaviour");
    assert_ne!(reason(chat.ask("a forbidden word")), "refused");
    assert_eq!(reason(chat.ask("a secret word")), "refused");
    // A profile that can't be read changes nothing.
    save(&profile, b"[[policy]\n");
    chat.until("reload-failed");
    assert_eq!(reason(chat.ask("a secret word")), "refused");
    save(&profile, b"name = \"free\"\n");
    assert_eq!(chat.until("behaviour").pop().unwrap()["profile"], "free");
    assert_ne!(reason(chat.ask("a secret word")), "refused");
    chat.close();
}

#[test]
fn memory_for_new_versions_is_set_aside_under_a_budget() {
    let folder = TempDir::new().unwrap();
    let component = folder.path().join("greedy.wasm");
    save(&component, &version(0));
    let mut chat = Chat::dev(&component, folder.path(), &["--memory", "256MiB", "--threads", "1"]);
    chat.ask("Hello");
    for number in 1..6 {
        save(&component, &version(number));
        chat.until("behaviour");
        let answer = chat.ask("Hello");
        let peak = answer.last().unwrap()["stats"]["peak_memory_bytes"].as_u64().unwrap();
        assert!(peak <= 256 << 20, "{peak}");
    }
    chat.close();
}
