//! `membrane plugin`: folders that it makes, toolchains that it finds or misses, cases that it runs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::program::{Ended, command, membrane};

const LANGUAGES: [(&str, &str); 4] =
    [("rust", "Cargo.toml"), ("c", "plugin.c"), ("js", "plugin.js"), ("python", "plugin.py")];
const WORLDS: [&str; 4] = ["sampler", "policy", "tool", "agent"];

/// Makes a plugin in `into`; gives its folder.
fn new(world: &str, name: &str, lang: &str, into: &Path) -> PathBuf {
    membrane(&["plugin", "new", world, name, "--lang", lang, "--into", into.to_str().unwrap()]).good();
    into.join(name)
}

/// A folder of a first-party sampler with its component beside, and nothing to build it from.
fn greedy(folder: &Path, cases: &Value) -> String {
    let greedy = membrane_host::first_party::find("greedy").unwrap();
    fs::write(folder.join("greedy.wasm"), greedy.bytes).unwrap();
    fs::write(folder.join("plugin.toml"), greedy.manifest).unwrap();
    fs::create_dir_all(folder.join("golden")).unwrap();
    fs::write(folder.join("golden/cases.json"), cases.to_string()).unwrap();
    folder.join("greedy.wasm").to_str().unwrap().to_owned()
}

fn case(token: u32) -> Value {
    let step = json!({"logits": [0, 5, 1], "token": token});
    json!({"about": "One.", "parameters": {}, "vocabulary": ["a", "b", "c"], "prompt": [], "seed": 1, "steps": [step]})
}

/// Runs a verb on a folder without any toolchain.
fn bare(verb: &str, folder: &Path) -> Ended {
    let mut command = command(&["plugin", verb, folder.to_str().unwrap()]);
    command.env("PATH", folder.join("nowhere")).output().unwrap().into()
}

#[test]
fn every_kind_in_every_language_has_its_files() {
    let folder = tempfile::tempdir().unwrap();
    for (lang, marker) in LANGUAGES {
        for world in WORLDS {
            let plugin = new(world, &format!("a-{lang}-{world}"), lang, folder.path());
            for file in [marker, "plugin.toml", "README.md", "golden/first.json"] {
                assert!(plugin.join(file).is_file(), "{lang} {world}: {file}");
            }
        }
    }
    let json = ["plugin", "new", "tool", "b", "--json", "--into", folder.path().to_str().unwrap()];
    let made: Value = serde_json::from_str(&membrane(&json).good().stdout).unwrap();
    assert_eq!((&made["world"], &made["language"]), (&json!("tool"), &json!("rust")));
    assert!(made["files"].as_array().unwrap().contains(&json!("plugin.toml")));
}

#[test]
fn what_is_there_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = new("policy", "mine", "c", folder.path());
    fs::write(plugin.join("plugin.c"), "changed").unwrap();
    let into = folder.path().to_str().unwrap();
    membrane(&["plugin", "new", "policy", "mine", "--into", into]).failed_saying(&["mine is there already"]);
    assert_eq!(fs::read_to_string(plugin.join("plugin.c")).unwrap(), "changed");
    membrane(&["plugin", "new", "policy", "../up", "--into", into])
        .failed_saying(&["`../up` can't be the name"]);
    membrane(&["plugin", "new", "policy", "x", "--into", "/no/such"]).failed_saying(&["/no/such/x"]);
}

#[test]
fn a_missing_toolchain_is_named_with_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    for (lang, words) in [
        ("rust", ["cargo", "https://rustup.rs"]),
        ("c", ["pip install ziglang", "clang lld wasi-libc"]),
        ("js", ["componentize-qjs", "npm install"]),
        ("python", ["componentize-py", ".venv/bin/pip install -r requirements.txt"]),
    ] {
        let plugin = new("policy", lang, lang, folder.path());
        for verb in ["build", "test", "bench"] {
            bare(verb, &plugin).failed_saying(&words);
        }
        assert!(!plugin.join("build").join(format!("{lang}.wasm")).exists());
    }
    bare("build", folder.path()).failed_saying(&["has no plugin.toml", "membrane plugin new"]);
}

/// A plugin in JavaScript that has a component, and a toolchain that is this shell script, with the output's path as `$output`.
fn with_toolchain(into: &Path, script: &str) -> PathBuf {
    let plugin = new("sampler", "mine", "js", into);
    let tools = plugin.join("node_modules/.bin");
    fs::create_dir_all(&tools).unwrap();
    let tool = tools.join("componentize-qjs");
    fs::write(&tool, format!("#!/bin/sh\nfor output; do :; done\n{script}\n")).unwrap();
    fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(plugin.join("build")).unwrap();
    fs::write(plugin.join("build/mine.wasm"), "good").unwrap();
    plugin
}

#[test]
fn a_build_that_is_killed_leaves_the_component_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    // The first is killed while the output is written; the second fails.
    let script = "test -e killed && exit 1\n: > killed\nprintf par > \"$output\"\nkill -9 $PPID";
    let plugin = with_toolchain(folder.path(), script);
    let build = ["plugin", "build", plugin.to_str().unwrap()];
    assert_eq!(membrane(&build).code, None);
    membrane(&build).failed_saying(&["componentize-qjs"]);
    assert_eq!(fs::read_to_string(plugin.join("build/mine.wasm")).unwrap(), "good");
}

#[test]
fn two_builds_at_once_leave_the_component_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    // Both fail, the second when the first is over.
    let script = "if mkdir first; then while ! test -e go; do sleep 0.05; done; exit 1; fi\n\
        for i in 1 2 3 4 5 6 7 8 9 10; do test -e build/mine.wasm && exit 1; sleep 0.1; done\nexit 1";
    let plugin = with_toolchain(folder.path(), script);
    let build = || command(&["plugin", "build", plugin.to_str().unwrap()]).spawn().unwrap();
    let first = build();
    while !plugin.join("first").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = build();
    std::thread::sleep(Duration::from_millis(500));
    fs::write(plugin.join("go"), "").unwrap();
    for child in [first, second] {
        Ended::from(child.wait_with_output().unwrap()).failed_saying(&["componentize-qjs"]);
    }
    assert_eq!(fs::read_to_string(plugin.join("build/mine.wasm")).unwrap(), "good");
}

#[test]
fn cases_are_run_against_a_given_component() {
    let folder = tempfile::tempdir().unwrap();
    let component = greedy(folder.path(), &json!([case(1), case(2)]));
    let path = folder.path().to_str().unwrap();
    let verb = ["plugin", "test", path, "--component", &component];
    let failed = membrane(&verb);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stdout.contains("case 2, One.: step 1: the token is 1, expected 2"), "{}", failed.stdout);
    assert!(failed.stdout.ends_with("greedy: 1 passed, 1 failed\n"), "{}", failed.stdout);
    let json: Value = serde_json::from_str(&membrane(&[&verb[..], &["--json"]].concat()).stdout).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&json!(1), &json!(1)));
    assert_eq!((&json["cases"][0]["mismatch"], &json["cases"][1]["passed"]), (&Value::Null, &json!(false)));
    greedy(folder.path(), &json!([case(1)]));
    membrane(&verb).good();
    greedy(folder.path(), &json!([]));
    membrane(&verb).failed_saying(&["has no cases"]);
    greedy(folder.path(), &json!([{"about": "One."}]));
    membrane(&verb).failed_saying(&["cases.json, case 1: `parameters` is missing"]);
    let mut loud = case(2);
    loud["about"] = json!("\x1b[2J");
    greedy(folder.path(), &json!([loud]));
    let failed = membrane(&verb);
    assert!(
        failed.stdout.contains("case 1, [2J: step 1") && !failed.stdout.contains('\x1b'),
        "{:?}",
        failed.stdout
    );
    membrane(&["plugin", "test", path]).failed_saying(&["has none of Cargo.toml, plugin.c", "--component"]);
}

#[test]
fn a_component_of_another_world_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let component = greedy(folder.path(), &json!([]));
    let manifest = "name = \"x\"\nversion = \"0.1.0\"\nworld = \"tool\"\nsummary = \"x\"\n";
    fs::write(folder.path().join("plugin.toml"), manifest).unwrap();
    let path = folder.path().to_str().unwrap();
    membrane(&["plugin", "bench", path, "--component", &component]).failed_saying(&["is a sampler"]);
}

#[test]
fn costs_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let component = greedy(folder.path(), &json!([case(1)]));
    let path = folder.path().to_str().unwrap();
    let verb = ["plugin", "bench", path, "--component", &component, "--calls", "10", "--vocabulary", "1000"];
    let people = membrane(&verb).good().stdout;
    assert!(
        people.starts_with("greedy, a sampler\n") && people.contains("10 calls: a token of 1000"),
        "{people}"
    );
    let json: Value =
        serde_json::from_str(&membrane(&[&verb[..], &["--json"]].concat()).good().stdout).unwrap();
    assert_eq!(json["component_bytes"], fs::metadata(&component).unwrap().len());
    for time in ["/compile_ms", "/cached_ms", "/start_us", "/calls/median_us", "/calls/p99_us"] {
        assert!(json.pointer(time).unwrap().as_f64().unwrap() > 0.0, "{json}");
    }
    // An empty cache would take as long as the compiler.
    assert!(json["cached_ms"].as_f64() < json["compile_ms"].as_f64(), "{json}");
    membrane(&[&verb[..], &["--parameters", "heat=1"]].concat()).failed_saying(&["unknown field `heat`"]);
    membrane(&[&verb[..], &["--calls", "0"]].concat()).failed_saying(&["--calls"]);
}

#[test]
fn a_new_plugin_in_rust_builds_and_does_what_its_cases_say() {
    let folder = tempfile::tempdir().unwrap();
    for world in WORLDS {
        let plugin = new(world, world, "rust", folder.path());
        let mut command = command(&["plugin", "test", plugin.to_str().unwrap()]);
        for (name, _) in std::env::vars() {
            let of_cargo = name.starts_with("CARGO") && name != "CARGO_HOME";
            if of_cargo || name.starts_with("RUST") && !name.starts_with("RUSTUP_") {
                command.env_remove(name);
            }
        }
        // One folder for all: their dependencies are the same.
        command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugins"));
        let ended = Ended::from(command.output().unwrap()).good();
        assert!(ended.stdout.ends_with(" 0 failed\n"), "{}", ended.stdout);
        assert!(plugin.join(format!("build/{world}.wasm")).is_file());
    }
    let plugin = folder.path().join("policy");
    let built = fs::read(plugin.join("build/policy.wasm")).unwrap();
    // Without a toolchain nothing can be built again.
    let again = || {
        let mut command = command(&["plugin", "test", plugin.to_str().unwrap()]);
        Ended::from(command.env("PATH", "").output().unwrap())
    };
    let profile = "[[policy]]\nplugin = \"build/policy.wasm\"\n";
    for (name, text) in [("house.pub", "key"), ("NOTES.md", "notes"), ("house.toml", profile), (".swp", "")] {
        fs::write(plugin.join(name), text).unwrap();
    }
    fs::copy(plugin.join("golden/first.json"), plugin.join("golden/second.json")).unwrap();
    again().good();
    let (source, more) = (plugin.join("src/lib.rs"), plugin.join("src/more.rs"));
    let (component, text) = (plugin.join("build/policy.wasm"), fs::read(&source).unwrap());
    let old = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).unwrap();
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    };
    for (path, bytes) in [(&source, &b"// Less."[..]), (&more, b""), (&component, &built[..100])] {
        old(path, bytes);
        let before = fs::read(&component).unwrap();
        again().failed_saying(&["cargo"]);
        assert_eq!(fs::read(&component).unwrap(), before, "what can't be built again is kept");
        old(&source, &text);
        old(&component, &built);
        let _ = fs::remove_file(&more);
        again().good();
    }
    // Where nothing was kept, times decide.
    fs::remove_file(plugin.join("build/policy.sources.json")).unwrap();
    fs::write(&component, &built).unwrap();
    for path in [plugin.join("Cargo.toml"), plugin.join("plugin.toml"), plugin.join("Cargo.lock")] {
        old(&path, &fs::read(&path).unwrap());
    }
    again().good();
    fs::write(&source, &text).unwrap();
    again().failed_saying(&["cargo"]);
}
