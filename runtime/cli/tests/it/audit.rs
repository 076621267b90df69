//! `--audit`, `membrane audit` and `membrane replay`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::program::{DENSE, Ended, MOE, changed, command, fixture, membrane};

/// A folder with a log, apart from what the user's own runs remember.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn log(&self) -> String {
        self.path("log.jsonl")
    }

    fn membrane(&self, arguments: &[&str]) -> Ended {
        let mut command = command(arguments);
        command.env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command.output().unwrap().into()
    }

    /// Records an answer.
    fn run(&self, arguments: &[&str]) -> Ended {
        let (model, log) = (fixture(MOE), self.log());
        let all = [&["run", &model], arguments, &["--audit", &log, "--threads", "1"]].concat();
        self.membrane(&all)
    }

    fn verify(&self, arguments: &[&str]) -> Ended {
        self.membrane(&[&["audit", "verify", &self.log()], arguments].concat())
    }

    fn replay(&self, arguments: &[&str]) -> Ended {
        self.membrane(&[&["replay", &self.log()], arguments].concat())
    }

    /// The numbers of the answers.
    fn answers(&self) -> Vec<u64> {
        let shown = self.membrane(&["audit", "show", &self.log(), "--json"]).good();
        shown.events().iter().map(|answer| answer["answer"].as_u64().unwrap()).collect()
    }
}

fn cached(desk: &Desk) -> PathBuf {
    desk.folder.path().join("cache/membrane/model-digests.json")
}

#[test]
fn a_log_says_where_plugins_ran() {
    for mode in ["none", "process"] {
        let desk = Desk::new();
        desk.run(&["Hello", "-n", "2", "--seed", "1", "--isolation", mode]).good();
        desk.verify(&[]).good();
        let shown = desk.membrane(&["audit", "show", &desk.log(), "--answer", "4"]).good();
        assert!(shown.stdout.contains(&format!(", isolation {mode}")), "{}", shown.stdout);
        let said = std::fs::read_to_string(desk.log()).unwrap();
        let field = format!(",\"isolation\":\"{mode}\"");
        assert!(said.contains(&field), "{said}");
    }
}

#[test]
fn an_answer_is_recorded_verified_shown_and_replayed() {
    let desk = Desk::new();
    let plain = desk.membrane(&["run", &fixture(MOE), "Hello", "-n", "8", "--seed", "1", "-q"]).good();
    let run = desk.run(&["Hello", "-n", "8", "--seed", "1", "-q"]).good();
    assert_eq!(run.stdout, plain.stdout, "recording changes nothing");
    let run = desk.run(&["Hello again", "-n", "8", "--seed", "2"]).good();
    let head = run.stderr.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(run.stderr.contains("audit: ") && head.contains(':'), "{}", run.stderr);
    desk.run(&["Hello", "-n", "4", "--json"]).good();

    let verified = desk.verify(&["--head", &head]).good();
    assert!(verified.stdout.contains("3 answers: nothing is wrong"), "{}", verified.stdout);
    assert!(verified.stdout.contains("not signed"), "{}", verified.stdout);
    let json = desk.verify(&["--json"]).good().events().remove(0);
    assert_eq!((&json["answers"], &json["closed"]), (&Value::from(3), &Value::from(true)));

    let answers = desk.answers();
    let number = answers[1].to_string();
    let shown = desk.membrane(&["audit", "show", &desk.log(), "--answer", &number]).good();
    for part in
        ["8 tokens in 1 rounds", "seed 2: length", "tiny-qwen3moe", "sha256:", "standard-sampler 0.1.0"]
    {
        assert!(shown.stdout.contains(part), "`{part}` is not in: {}", shown.stdout);
    }
    assert!(shown.stdout.contains("(remembered)"), "{}", shown.stdout);
    assert!(cached(&desk).exists());

    for arguments in
        [&["--threads", "2"][..], &["--memory", "256MiB"], &["--prefill-chunk", "3", "--isa", "scalar"]]
    {
        let replayed = desk.replay(&[arguments, &["--json"]].concat()).good();
        let events = replayed.events();
        assert_eq!(events.len(), 3);
        for event in events {
            assert_eq!(event["generation"]["same"], event["generation"]["tokens"], "{event}");
        }
    }
    let replayed = desk.replay(&["--answer", &number, "-q"]).good();
    assert_eq!(replayed.stdout, format!("answer {number}: generation: 8 tokens in 1 rounds, identical\n"));
    desk.replay(&["--answer", "99"]).failed_saying(&["has no answer 99", &number]);
}

#[test]
fn other_samplers_and_models_are_told_apart() {
    let desk = Desk::new();
    desk.run(&["Hello", "-n", "12", "--seed", "1", "--temperature", "3"]).good();
    let other = desk.replay(&["--sampler", "greedy", "-q"]);
    assert_eq!(other.code, Some(1), "{}", other.stderr);
    for part in
        ["of 12 tokens are the same", "the first difference is token ", "drawn at", "greedy", "place 1)"]
    {
        assert!(other.stdout.contains(part), "`{part}` is not in: {}", other.stdout);
    }
    let other = desk.replay(&["--sampler", "standard-sampler,temperature=3", "--json"]).good();
    assert_eq!(other.events()[0]["generation"]["same"], 12);
    let profile = desk.path("cold.toml");
    std::fs::write(
        &profile,
        "[[sampler]]\nplugin = \"standard-sampler\"\nparameters = { temperature = 0.1 }\n",
    )
    .unwrap();
    assert_eq!(desk.replay(&["--profile", &profile, "-q"]).code, Some(1));

    let model = changed(MOE, desk.folder.path(), |metadata| metadata.set("general.name", "other"));
    let words = ["is not the recorded model", "the header of file 1", "file 1 as a whole"];
    desk.replay(&["--model", &model]).failed_saying(&words);
    desk.replay(&["--model", &fixture(DENSE)]).failed_saying(&["is not the recorded model"]);
    let template =
        changed(MOE, desk.folder.path(), |metadata| metadata.set("tokenizer.chat_template", "{{ 1 }}"));
    desk.replay(&["--model", &template]).failed_saying(&["the chat template"]);
}

fn rules(desk: &Desk, name: &str, clause: &str) -> String {
    let path = desk.path(name);
    std::fs::write(&path, clause).unwrap();
    format!("guard,rules=file:{path}")
}

/// A cache of blocks computes other numbers, so that the record says which it was and a replay has the same.
#[test]
fn an_answer_with_a_cache_of_blocks_is_replayed_with_one() {
    let desk = Desk::new();
    for kv in ["q8_0", "q4_0", "f16"] {
        desk.run(&["Hello there", "-n", "12", "--seed", "3", "--kv-cache", kv]).good();
        let log = std::fs::read_to_string(desk.log()).unwrap();
        let answer = log.lines().rev().find(|line| line.contains("instruction_set")).unwrap();
        assert_eq!(answer.contains(&format!("\"kv_cache\":\"{kv}\"")), kv != "f16", "{answer}");
    }
    let replayed = desk.replay(&["-q"]).good();
    assert_eq!(replayed.stdout.matches("identical").count(), 3, "{}", replayed.stdout);
    assert!(desk.run(&["x", "--kv-cache", "q3"]).stderr.contains("q8_0"));
    // The record says how the answer was computed.
    for flags in [&["--kv-cache", "q8_0"][..], &["--reference"]] {
        desk.replay(flags).failed_saying(&[flags[0], "unexpected argument"]);
    }
}

/// So do activations of 8 bits; what earlier versions recorded was computed with 16.
#[test]
fn an_answer_is_replayed_with_the_integers_that_it_was_made_with() {
    let desk = Desk::new();
    let kinds =
        [("int8", Some("int8")), ("int8-groups", Some("int8-groups")), ("int16", None), ("auto", None)];
    for (activations, recorded) in kinds {
        desk.run(&["Hello there", "-n", "24", "--seed", "3", "--activations", activations]).good();
        let log = std::fs::read_to_string(desk.log()).unwrap();
        let answer = log.lines().rev().find(|line| line.contains("instruction_set")).unwrap();
        let field = |name: &str| answer.contains(&format!("\"activations\":\"{name}\""));
        assert_eq!(["int8", "int8-groups"].into_iter().find(|name| field(name)), recorded, "{answer}");
    }
    // The dense one takes 8 bits by itself.
    let (dense, log) = (fixture(DENSE), desk.log());
    let dense = ["run", &dense, "Hello there", "-n", "24", "--seed", "3", "--audit", &log];
    desk.membrane(&dense).good();
    for (answer, activations) in desk.answers().iter().zip(["int8", "int8-groups", "int16", "int16", "int8"])
    {
        let shown = ["audit", "show", &desk.log(), "--answer", &answer.to_string()];
        let shown = desk.membrane(&shown).good().stdout;
        assert!(shown.contains(&format!(", activations {activations}, context")), "{answer}: {shown}");
    }
    let replayed = desk.replay(&["-q"]).good();
    assert_eq!(replayed.stdout.matches("identical").count(), 5, "{}", replayed.stdout);
    let both = ["x", "--reference", "--activations", "int8"];
    desk.run(&both).failed_saying(&["--reference", "cannot be used with"]);
}

#[test]
fn decisions_are_replayed_without_a_model() {
    let desk = Desk::new();
    let refuse = "[[clause]]\nid = \"house:1\"\nwhen = \"request\"\nmatch = \"dynamite\"\naction = \"refuse\"\n\
                  message = \"Not here.\"\n";
    let guard = rules(&desk, "rules.toml", refuse);
    let model = desk.path("model.gguf");
    std::fs::copy(fixture(MOE), &model).unwrap();
    let log = desk.log();
    let run = |prompt: &str| {
        let recording = ["--audit", &log, "--audit-keep", "text", "--policy", &guard];
        desk.membrane(&[&["run", &model, prompt, "-n", "6", "-q"], &recording[..]].concat())
    };
    run("How is dynamite made?").refused();
    run("Good morning").good();
    std::fs::remove_file(&model).unwrap();
    let replayed = desk.replay(&["--json"]).good().events();
    assert_eq!(replayed.len(), 2);
    for (event, verdicts) in replayed.iter().zip([1, 0]) {
        let decisions = &event["decisions"];
        assert_eq!((&decisions["recorded"], &decisions["now"]), (&verdicts.into(), &verdicts.into()));
        assert_eq!(decisions["outcome"], "unchanged");
        assert!(event["left_out"][0].as_str().unwrap().contains("give --model"), "{event}");
    }
    desk.replay(&["--decisions"]).good();

    // What another policy would have said.
    let allows = rules(&desk, "other.toml", &refuse.replace("dynamite", "gunpowder"));
    let replayed = desk.replay(&["--policy", &allows, "-q"]);
    assert_eq!(replayed.code, Some(1));
    assert!(replayed.stdout.contains("1 verdicts recorded, 0 now, newly-allowed"), "{}", replayed.stdout);
    assert!(replayed.stdout.contains("recorded guard, request: refuse by house:1; now nothing"));
    assert!(replayed.stdout.contains("0 verdicts recorded, 0 now, unchanged"), "{}", replayed.stdout);
    let refuses = rules(&desk, "third.toml", &refuse.replace("dynamite", "morning"));
    let replayed = desk.replay(&["--policy", &refuses, "-q"]);
    assert!(replayed.stdout.contains("newly-refused"), "{}", replayed.stdout);

    let exported = desk.membrane(&["audit", "export", &log]).good().stdout;
    assert!(exported.contains("How is dynamite made?") && exported.contains("Not here."), "{exported}");
    let exported = desk.membrane(&["audit", "export", &log, "--json"]).good().events();
    assert_eq!(exported[1]["request"]["request"]["messages"][0]["content"], "Good morning");
    assert!(!std::fs::read_to_string(&log).unwrap().contains("morning"));

    std::fs::remove_file(desk.path("log.jsonl.text")).unwrap();
    desk.verify(&[]).good();
    desk.replay(&["--decisions"]).failed_saying(&["texts were not kept", "erased"]);
    let exported = desk.membrane(&["audit", "export", &log]).good().stdout;
    assert!(!exported.contains("dynamite") && exported.contains("were erased"), "{exported}");
}

#[test]
fn what_is_left_out_of_an_answer_is_told_as_it_is() {
    let desk = Desk::new();
    let redact = "[[clause]]\nid = \"house:1\"\nwhen = \"output\"\nmatch = \"dynamite\"\n\
                  action = \"redact\"\n";
    let guard = rules(&desk, "rules.toml", redact);
    desk.run(&["Hello", "-n", "2", "-q"]).good();
    desk.run(&["Hello", "-n", "2", "-q", "--audit-keep", "digests", "--policy", &guard]).good();
    let replayed = desk.replay(&["-q"]).good().stdout;
    for part in ["identical", "decisions: texts were not kept", "generation: token ids were not kept"] {
        assert!(replayed.contains(part), "`{part}` is not in: {replayed}");
    }
    assert!(!replayed.contains("there is no policy"), "{replayed}");
    let replayed = desk.replay(&["--decisions", "--answer", &desk.answers()[0].to_string()]).good().stdout;
    assert!(replayed.contains("decisions: there is no policy"), "{replayed}");
}

#[test]
fn a_component_that_was_exchanged_is_refused_by_name() {
    let desk = Desk::new();
    let component = desk.path("chooser.wasm");
    let bytes = |name: &str| membrane_host::first_party::find(name).unwrap().bytes;
    std::fs::write(&component, bytes("greedy")).unwrap();
    desk.run(&["Hello", "-n", "3", "--sampler", &component]).good();
    desk.replay(&[]).good();
    std::fs::write(&component, bytes("mirostat")).unwrap();
    desk.replay(&[]).failed_saying(&["sampler `chooser`", "is not the recorded one", "sha256:"]);
    std::fs::remove_file(&component).unwrap();
    desk.replay(&[]).failed_saying(&["chooser"]);
}

#[test]
fn signed_logs_and_changed_ones() {
    let desk = Desk::new();
    let key = desk.path("key.pem");
    desk.membrane(&["audit", "keygen", &key]).good();
    desk.membrane(&["audit", "keygen", &key]).failed_saying(&["key.pem"]);
    desk.run(&["Hello", "-n", "3", "--audit-key", &key]).good();
    let public = key.clone() + ".pub";
    let verified = desk.verify(&["--key", &public]).good();
    assert!(verified.stdout.contains("signed by the given key up to record"), "{}", verified.stdout);
    let other = desk.path("other.pem");
    desk.membrane(&["audit", "keygen", &other]).good();
    let verified = desk.verify(&["--key", &(other.clone() + ".pub")]);
    assert_eq!(verified.code, Some(1));
    assert!(verified.stdout.contains("signature"), "{}", verified.stdout);

    let log = std::fs::read_to_string(desk.log()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    std::fs::write(desk.log(), log.replace("\"seed\":", "\"seed\": ")).unwrap();
    let verified = desk.verify(&[]);
    assert_eq!(verified.code, Some(1));
    assert!(verified.stdout.contains("line 4: modified: record 4 was modified"), "{}", verified.stdout);
    desk.replay(&[]).failed_saying(&["the log was changed", "audit verify"]);
    std::fs::write(desk.log(), lines[..lines.len() - 1].join("\n") + "\n").unwrap();
    let verified = desk.verify(&[]);
    assert!(verified.stdout.contains(": truncated: record "), "{}", verified.stdout);
    desk.run(&["Hello", "-n", "3"]).failed_saying(&["log.jsonl", "records are missing at the end"]);
    desk.membrane(&["audit", "verify", "/dev/zero"]).failed_saying(&["/dev/zero"]);
    desk.membrane(&["audit", "verify", &desk.path("none")]).failed_saying(&["none"]);
}

#[test]
fn a_writer_that_is_killed_loses_no_whole_record() {
    let desk = Desk::new();
    for seed in ["1", "3", "8"] {
        let (model, log) = (fixture(MOE), desk.log());
        // As slow as can be, so that the answer is not over before it is killed.
        let slow = ["--isa", "scalar", "--reference", "--ctx", "20000", "--temperature", "5"];
        let arguments = ["run", &model, "Hello", "--json", "--seed", seed, "--audit", &log];
        let mut command = command(&[&arguments[..], &slow].concat());
        let mut child = command.env("XDG_CACHE_HOME", desk.path("cache")).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Long enough for a run of tokens to be on record.
        assert_eq!(lines.take(80).count(), 80);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let verified = desk.verify(&["--json"]).events().remove(0);
    let findings = verified["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["kind"] == "torn"), "{verified}");
    assert_eq!(verified["closed"], false);
    desk.run(&["Hello", "-n", "3"]).good();
    let verified = desk.verify(&["--json"]).good().events().remove(0);
    assert_eq!((&verified["answers"], &verified["closed"]), (&Value::from(4), &Value::from(true)));
    let shown = desk.membrane(&["audit", "show", &desk.log()]).good().stdout;
    let killed = shown.lines().filter(|line| line.contains("not ended: the program was killed"));
    assert_eq!(killed.count(), 3, "{shown}");
    // What is on record of them still replays.
    let replayed = desk.replay(&["--json"]).good().events();
    let tokens: Vec<u64> =
        replayed.iter().map(|event| event["generation"]["tokens"].as_u64().unwrap()).collect();
    assert!(tokens[..3].iter().all(|tokens| *tokens >= 64), "{tokens:?}");
}

#[test]
fn a_chat_is_one_log() {
    let desk = Desk::new();
    let (model, log) = (fixture(MOE), desk.log());
    // Standard input that is no terminal is one prompt; `script` gives the chat a terminal.
    let inner = format!("{} run {model} -n 4 --audit {log} --seed 3", env!("CARGO_BIN_EXE_membrane"));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &inner, "/dev/null"]).env("XDG_CACHE_HOME", desk.path("cache"));
    let mut child =
        script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("`script` of util-linux starts");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Hello\nAnd again\n/exit\n").unwrap();
    child.wait().unwrap();
    desk.verify(&[]).good();
    assert_eq!(desk.answers().len(), 2);
    let replayed = desk.replay(&["--json"]).good().events();
    assert!(replayed[1]["generation"]["reused"].as_u64().unwrap() > 0, "{replayed:?}");
}

#[test]
fn flags_that_can_not_be_meant() {
    let desk = Desk::new();
    membrane(&["run", &fixture(MOE), "Hello", "--audit-keep", "text"]).failed_saying(&["--audit"]);
    desk.run(&["Hello", "-n", "1", "--audit-key", &desk.path("none.pem")]).failed_saying(&["none.pem"]);
    let folder = desk.folder.path().to_str().unwrap();
    membrane(&["run", &fixture(MOE), "Hello", "--audit", folder]).failed_saying(&["is no regular file"]);
    desk.run(&["Hello", "-n", "1"]).good();
    desk.replay(&["--decisions", "--sampler", "greedy"]).failed_saying(&["--sampler"]);
    desk.replay(&["--model", "nowhere.gguf"]).failed_saying(&["nowhere.gguf"]);
    assert!(Path::new(&desk.log()).exists());
}

#[test]
fn a_constrained_answer_is_replayed() {
    for keep in ["tokens", "text"] {
        let desk = Desk::new();
        let flags =
            ["--json-schema", r#"{"type":"array","items":{"enum":["a","b",1]},"minItems":2,"maxItems":5}"#];
        let options = ["Hello", "--seed", "4", "--temperature", "3", "-q", "--audit-keep", keep];
        let run = desk.run(&[&options[..], &flags].concat()).good();
        assert!(serde_json::from_str::<Value>(&run.stdout).unwrap().as_array().unwrap().len() >= 2);
        desk.run(&["Hello", "-q", "--regex", "[a-f]{4,9}", "--audit-keep", keep]).good();
        desk.verify(&[]).good();
        let replayed = desk.replay(&["--threads", "1"]).good();
        assert_eq!(replayed.stdout.matches("identical").count(), 2, "{}", replayed.stdout);
    }
}

#[test]
fn a_file_that_is_no_log_is_left_as_it_is() {
    let desk = Desk::new();
    std::fs::write(desk.log(), "sk-secret-token").unwrap();
    desk.membrane(&["run", "/nope.gguf", "hi", "--audit", &desk.log()]).failed_saying(&["is no audit log"]);
    assert_eq!(std::fs::read_to_string(desk.log()).unwrap(), "sk-secret-token");
    desk.membrane(&["audit", "show", &desk.log()]).failed_saying(&["log.jsonl:1", "is no line of a log"]);
}

#[test]
fn a_run_that_fails_while_it_starts_ends_its_log_in_order() {
    let desk = Desk::new();
    let log = desk.log();
    desk.membrane(&["run", "/nope.gguf", "hi", "--audit", &log]).failed_saying(&["nope.gguf"]);
    desk.membrane(&["agent", "react", "hi", "-m", "/nope.gguf", "--audit", &log])
        .failed_saying(&["nope.gguf"]);
    desk.run(&["Hello", "-n", "1", "--regex", "("]).failed_saying(&[]);
    let verified = desk.verify(&["--json"]).good().events().remove(0);
    assert_eq!((&verified["closed"], &verified["answers"]), (&Value::from(true), &Value::from(0)));
    let text = std::fs::read_to_string(log).unwrap();
    assert_eq!(text.matches("{\"open\":").count(), text.matches("\"close\"").count(), "{text}");
}

#[test]
fn a_torn_log_is_shown_exported_and_replayed_up_to_where_it_is_torn() {
    let desk = Desk::new();
    desk.run(&["Hello", "-n", "3", "--audit-keep", "text"]).good();
    let log = std::fs::read_to_string(desk.log()).unwrap();
    let torn = log.lines().count() + 1;
    std::fs::write(desk.log(), log.clone() + &log[..30]).unwrap();
    let note = format!("log.jsonl:{torn}: this last line is not whole");
    for verb in [&["audit", "show"][..], &["audit", "export"], &["replay"]] {
        let read = desk.membrane(&[verb, &[&desk.log()]].concat()).good();
        assert!(read.stderr.contains(&note) && !read.stdout.is_empty(), "{verb:?}: {}", read.stderr);
    }
    // The end of an answer is not a place to be cut at in silence.
    std::fs::write(desk.log(), log.clone() + "text\n").unwrap();
    desk.replay(&[]).failed_saying(&["the log was changed"]);
    let pipe = desk.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for verb in ["show", "export"] {
        desk.membrane(&["audit", verb, &pipe]).failed_saying(&["is no regular file"]);
    }

    std::fs::write(desk.log(), &log).unwrap();
    let kept = desk.verify(&["--json"]).good().events().remove(0)["contents"].to_string();
    assert!(desk.verify(&[]).good().stdout.contains(&format!("{kept} of {kept} texts are kept")));
    std::fs::remove_file(desk.path("log.jsonl.text")).unwrap();
    assert!(desk.verify(&[]).good().stdout.contains(&format!("0 of {kept} texts are kept")));
}

#[test]
fn no_half_of_a_pair_of_keys_is_left() {
    let desk = Desk::new();
    std::fs::write(desk.path("k.pub"), "mine").unwrap();
    desk.membrane(&["audit", "keygen", &desk.path("k")]).failed_saying(&["k.pub"]);
    desk.membrane(&["plugin", "keygen", &desk.path("k")]).failed_saying(&["k.pub"]);
    assert!(!Path::new(&desk.path("k")).exists() && !Path::new(&desk.path("k.key")).exists());
    assert_eq!(std::fs::read_to_string(desk.path("k.pub")).unwrap(), "mine");
}

#[test]
fn a_key_that_could_not_be_written_is_not_in_the_way_of_the_next() {
    let desk = Desk::new();
    for (verb, name, file) in [("audit", "a", "a"), ("plugin", "b", "b.key")] {
        // No file may have a byte, as on a full disk.
        let full = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", full, env!("CARGO_BIN_EXE_membrane"), verb, "keygen", &desk.path(name)]);
        Ended::from(shell.output().unwrap()).failed_saying(&[file]);
        assert!(!Path::new(&desk.path(file)).exists(), "{verb}");
        desk.membrane(&[verb, "keygen", &desk.path(name)]).good();
    }
}

#[test]
fn limits_of_a_crafted_log_do_not_overflow() {
    use membrane_audit::{Digest, Record, line};
    let desk = Desk::new();
    desk.run(&["Hello", "-n", "2", "--seed", "1"]).good();
    let (mut before, mut crafted) = (Digest::ZERO, Vec::new());
    for text in std::fs::read_to_string(desk.log()).unwrap().lines() {
        let mut read = line::decode(text.as_bytes()).unwrap();
        if let Record::Behaviour(behaviour) = &mut read.record {
            behaviour.plugins[0].memory_bytes = u64::MAX;
            behaviour.plugins = vec![behaviour.plugins[0].clone(); 3];
        }
        let (bytes, hash) = line::encode(read.number, before, read.at_ms, &read.record).unwrap();
        crafted.extend(bytes);
        before = hash;
    }
    std::fs::write(desk.log(), crafted).unwrap();
    std::fs::remove_file(desk.log() + ".head").unwrap();
    let replayed = desk.replay(&["--memory", "256MiB"]);
    assert!(!replayed.stderr.contains("panicked"), "{}", replayed.stderr);
    assert_eq!(replayed.code, Some(2), "{}", replayed.stdout);
}
