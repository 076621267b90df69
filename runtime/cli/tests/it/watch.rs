//! Plugins that are replaced in a running conversation when their files are saved.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use membrane_host::first_party;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{DENSE, Ended, command, fixture};

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
    let mut chat = Chat::dev(&component, folder.path(), &["--memory", "288MiB", "--threads", "1"]);
    chat.ask("Hello");
    for number in 1..6 {
        save(&component, &version(number));
        chat.until("behaviour");
        let answer = chat.ask("Hello");
        let peak = answer.last().unwrap()["stats"]["peak_memory_bytes"].as_u64().unwrap();
        assert!(peak <= 288 << 20, "{peak}");
    }
    chat.close();
}

/// The component of the standard sampler, as another version.
fn standard(number: u8) -> Vec<u8> {
    let mut bytes = first_party::find("standard-sampler").unwrap().bytes.to_vec();
    bytes.extend([0, 3, 1, b'v', number]);
    bytes
}

/// Reads events up to one that `wanted` is true of.
fn read_to(lines: &mut impl Iterator<Item = String>, wanted: impl Fn(&Value) -> bool) -> Value {
    lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .find(|event| wanted(event))
        .expect("it comes before the end")
}

#[test]
fn reloads_in_the_middle_of_an_answer_are_on_record_and_made_again() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (component, rules, profile) = (path("chooser.wasm"), path("rules.toml"), path("p.toml"));
    // Every version that there will be, for the replay.
    fs::create_dir(path("kept")).unwrap();
    for number in 0..4 {
        fs::write(path(&format!("kept/{number}.wasm")), standard(number)).unwrap();
    }
    save(Path::new(&component), &standard(0));
    let clause = |word: &str| {
        format!("[[clause]]\nid = \"{word}\"\nwhen = \"output\"\nmatch = \"{word}\"\naction = \"redact\"\n")
    };
    fs::write(&rules, clause("first")).unwrap();
    // Without any of its end tokens, so that the answer is not over before the files change.
    let ends = (1008..1015).map(|token| format!("{{ token = {token}, forbid = true }}"));
    let biases = ends.collect::<Vec<_>>().join(", ");
    let text = format!(
        "[[sampler]]\nplugin = \"chooser.wasm\"\nunsigned = true\nparameters = {{ logit_bias = [{biases}] }}\n\
         [[policy]]\nplugin = \"guard\"\nparameters = {{ rules = \"file:rules.toml\" }}\n"
    );
    fs::write(&profile, text).unwrap();
    let (model, log) = (fixture(DENSE), path("log.jsonl"));
    let arguments = ["run", &model, "Hello", "--json", "--ctx", "20000", "--seed", "1", "--threads", "1"];
    let recording = ["--profile", &profile, "--watch", "--audit", &log, "--audit-keep", "text"];
    let own = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("XDG_CACHE_HOME", path("cache")).env("XDG_STATE_HOME", path("state"));
        command
    };
    let mut child = own(&[&arguments[..], &recording].concat()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    read_to(&mut lines, |event| event["event"] == "text");
    for number in 1..4 {
        save(Path::new(&component), &standard(number));
        let reloaded = read_to(&mut lines, |event| event["event"] == "reloaded");
        assert_eq!(
            (&reloaded["effect"], &reloaded["kind"]),
            (&"live".into(), &"sampler".into()),
            "{reloaded}"
        );
    }
    save(Path::new(&component), &standard(2)[..5000]);
    read_to(&mut lines, |event| event["event"] == "reload-failed");
    save(Path::new(&component), &standard(3));
    save(Path::new(&rules), clause("second").as_bytes());
    let reloaded = read_to(&mut lines, |event| event["event"] == "reloaded");
    assert_eq!((&reloaded["effect"], &reloaded["kind"]), (&"beside".into(), &"policy".into()), "{reloaded}");
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let run = |arguments: &[&str]| -> Ended { own(arguments).output().unwrap().into() };
    run(&["audit", "verify", &log]).good();
    let shown = run(&["audit", "show", &log, "--json"]).good().events().remove(0);
    let (answer, swaps) = (shown["answer"].to_string(), shown["swaps"].as_array().unwrap().len());
    assert_eq!(swaps, 4, "{shown}");
    let shown = run(&["audit", "show", &log, "--answer", &answer]).good().stdout;
    for part in [
        "4 reloads",
        "plugins are exchanged",
        "sampler chooser: sha256:",
        ", live",
        "policy guard:",
        "beside",
    ] {
        assert!(shown.contains(part), "`{part}` is not in: {shown}");
    }
    let exported = run(&["audit", "export", &log, "--json"]).good().events().remove(0);
    assert_eq!(exported["behaviours"].as_object().unwrap().len(), 4, "{exported}");
    assert!(run(&["audit", "export", &log]).good().stdout.contains("plugins are exchanged"));

    let lacking = run(&["replay", &log]);
    let digest = membrane_profile::Digest::of(&standard(0)).hex();
    lacking.failed_saying(&["sampler `chooser`", "is not the recorded one", &digest, "--components"]);
    fs::copy(path("kept/0.wasm"), &component).unwrap();
    let digest = membrane_profile::Digest::of(&standard(1)).hex();
    run(&["replay", &log]).failed_saying(&["needs behaviour", "from token", &digest, "--components"]);
    let replayed = run(&["replay", &log, "--components", &path("kept"), "--json"]).good().events().remove(0);
    let generation = &replayed["generation"];
    assert_eq!((&generation["same"], &generation["swaps"]), (&generation["tokens"], &4.into()), "{replayed}");
    assert_eq!(replayed["decisions"]["outcome"], "unchanged", "{replayed}");
    let told = run(&["replay", &log, "--components", &path("kept"), "-q"]).good().stdout;
    assert!(told.contains("4 reloads, identical"), "{told}");
    // Decisions need no sampler.
    run(&["replay", &log, "--decisions"]).good();

    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"effect\":\"beside\"", "\"effect\":\"live\"")).unwrap();
    let verified = run(&["audit", "verify", &log]);
    assert_eq!(verified.code, Some(1));
    assert!(verified.stdout.contains(": modified: record "), "{}", verified.stdout);
    run(&["replay", &log]).failed_saying(&["the log was changed"]);
}

#[test]
fn an_approval_and_files_that_come_later_are_taken() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let profile = path("p.toml");
    // Without any of its end tokens, so that the answer is not over before the files change.
    let ends = (1008..1015).map(|token| format!("{{ token = {token}, forbid = true }}"));
    let biases = ends.collect::<Vec<_>>().join(", ");
    let sampler =
        format!("[[sampler]]\nplugin = \"standard-sampler\"\nparameters = {{ logit_bias = [{biases}] }}\n");
    fs::write(&profile, &sampler).unwrap();
    let lock = |more: &[&str]| {
        Ended::from(command(&[&["profile", "lock", &profile], more].concat()).output().unwrap())
    };
    lock(&[]).good();
    let model = fixture(DENSE);
    let arguments = ["run", &model, "Hello", "--json", "--ctx", "20000", "--seed", "1", "--threads", "1"];
    let mut child = command(&[&arguments[..], &["--profile", &profile, "--watch"]].concat()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    read_to(&mut lines, |event| event["event"] == "text");
    let widened = sampler.clone() + "[[tool]]\nplugin = \"calculator\"\n";
    save(Path::new(&profile), widened.as_bytes());
    let failed = read_to(&mut lines, |event| event["event"] == "reload-failed");
    assert!(failed["message"].as_str().unwrap().contains("--approve"), "{failed}");
    lock(&["--approve"]).good();
    read_to(&mut lines, |event| event["event"] == "behaviour");

    fs::remove_file(path("p.lock")).unwrap();
    let rules = "[[policy]]\nplugin = \"guard\"\nparameters = { rules = \"file:later.toml\" }\n";
    let tool = "[[tool]]\nplugin = \"later.wasm\"\nunsigned = true\n";
    save(Path::new(&profile), (sampler + rules + tool).as_bytes());
    let missing = |name: &'static str| {
        move |event: &Value| {
            event["event"] == "reload-failed" && event["message"].as_str().unwrap().contains(name)
        }
    };
    read_to(&mut lines, missing("later.toml"));
    let clause = "[[clause]]\nid = \"a\"\nwhen = \"request\"\nmatch = \"word\"\naction = \"refuse\"\nmessage = \"No.\"\n";
    fs::write(path("later.toml"), clause).unwrap();
    read_to(&mut lines, missing("later.wasm"));
    save(Path::new(&path("later.wasm")), first_party::find("calculator").unwrap().bytes);
    read_to(&mut lines, |event| event["event"] == "behaviour");
    child.kill().unwrap();
    child.wait().unwrap();
}
