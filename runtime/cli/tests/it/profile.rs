//! `membrane profile`: show, check, lock, diff, and runs that a lock holds to.

use std::fs;

use serde_json::{Value, json};

use crate::plugin::Bench;
use crate::program::{DENSE, Ended, MOE, changed, fixture, membrane, workspace};

const RULES: &str = "[[clause]]\nid = \"house:1\"\nwhen = \"request\"\nmatch = \"dynamite\"\naction = \"refuse\"\nmessage = \"No.\"\n";

/// A folder with a profile of a sampler, a policy with a file of rules, and a signed tool from a file.
fn bench() -> Bench {
    let bench = Bench::with(&["clock"]);
    bench.sign("clock.wasm", "house").good();
    fs::write(bench.file("rules.toml"), RULES).unwrap();
    fs::write(bench.file("p.toml"), profile("")).unwrap();
    bench
}

fn profile(more: &str) -> String {
    format!(
        "[generation]\nmax_tokens = 4\nseed = 1\n[publishers]\nhouse = \"file:house.pub\"\n\
         [[sampler]]\nplugin = \"standard-sampler\"\nparameters = {{ temperature = 0.5 }}\n\
         [[policy]]\nplugin = \"guard\"\nparameters = {{ rules = \"file:rules.toml\" }}\n\
         [[tool]]\nplugin = \"clock.wasm\"\npublisher = \"house\"\ngrants = [\"clock\"]\n{more}"
    )
}

fn edit(bench: &Bench, from: &str, to: &str) {
    let text = fs::read_to_string(bench.file("p.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(bench.file("p.toml"), text.replace(from, to)).unwrap();
}

fn verb(bench: &Bench, verb: &str, arguments: &[&str]) -> Ended {
    membrane(&[&["profile", verb, &bench.path("p.toml")], arguments].concat())
}

fn run(bench: &Bench, model: &str, arguments: &[&str]) -> Ended {
    let start = ["run", model, "Hello", "--quiet", "--profile", &bench.path("p.toml")];
    membrane(&[&start, arguments].concat())
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap()
}

#[track_caller]
fn found(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    for word in words {
        assert!(ended.stdout.contains(word), "`{word}` is not in: {}", ended.stdout);
    }
}

#[test]
fn a_profile_is_shown_with_what_its_plugins_may_do() {
    let bench = bench();
    let shown = verb(&bench, "show", &[]).good().stdout;
    for part in [
        "at most 4 tokens an answer, seed 1, context by the model",
        "sampler standard-sampler (first-party standard-sampler)",
        "temperature = 0.5",
        "may do no more than any sampler",
        "signed by house (sha256:",
        "may read the time of day and the local time zone (clock)",
        "200000000 units of fuel a call and 64.00 MiB of memory",
        "lock: none",
        "model: any",
    ] {
        assert!(shown.contains(part), "`{part}` is not in: {shown}");
    }
    let report = json_of(&verb(&bench, "show", &["--json"]).good());
    assert_eq!(report["plugins"][2]["grants"][0]["name"], "clock");
    assert_eq!(report["plugins"][1]["parameters"]["rules"], RULES);
    let digest = report["digest"].as_str().unwrap();
    let start = run(&bench, &fixture(MOE), &["--json"]).good().events().remove(0);
    assert_eq!(start["profile_digest"], json!(digest));
}

#[test]
fn a_check_finds_all_that_is_wrong_at_once() {
    let bench = bench();
    let good = verb(&bench, "check", &[]).good().stdout;
    assert!(good.ends_with("p: 3 plugins, nothing wrong\n"), "{good}");
    edit(&bench, "temperature = 0.5", "temperature = -3");
    fs::write(bench.file("rules.toml"), "nonsense").unwrap();
    fs::write(bench.file("clock.wasm"), membrane_host::first_party::find("calculator").unwrap().bytes)
        .unwrap();
    let ended = verb(&bench, "check", &[]);
    let words =
        ["sampler standard-sampler: ", "-3 is less than 0", "policy guard: ", "tool clock: ", "other bytes"];
    found(&ended, &[&words[..], &["3 findings"]].concat());
    let report = json_of(&verb(&bench, "check", &["--json"]));
    assert_eq!(report["findings"].as_array().unwrap().len(), 3, "{report}");
}

#[test]
fn a_check_names_grants_that_are_missing_unknown_or_not_used() {
    let bench = bench();
    edit(&bench, "grants = [\"clock\"]", "");
    found(&verb(&bench, "check", &[]), &["tool clock: ", "needs the grant `clock`"]);
    edit(&bench, "publisher = \"house\"\n", "publisher = \"house\"\ngrants = [\"clock\", \"network\"]\n");
    found(&verb(&bench, "check", &[]), &["there is no grant `network`"]);
    edit(&bench, "\"clock\", \"network\"", "\"clock\"");
    let more = "[[tool]]\nplugin = \"calculator\"\ngrants = [\"clock\"]\n";
    fs::write(bench.file("p.toml"), profile(more)).unwrap();
    found(&verb(&bench, "check", &[]), &["tool calculator: has the grant `clock` and does not import"]);
    fs::write(bench.file("p.toml"), "surprise = 1").unwrap();
    found(&verb(&bench, "check", &[]), &["profile: ", "p.toml:1: unknown field `surprise`"]);
    fs::remove_file(bench.file("p.toml")).unwrap();
    found(&verb(&bench, "check", &[]), &["profile: ", "can't be read"]);
}

#[test]
fn values_of_grants_are_shown_checked_and_locked() {
    let bench = bench();
    fs::create_dir(bench.file("notes")).unwrap();
    let tool = "[[tool]]\nplugin = \"files\"\ngrants = [\"files\"]\nfolders = [{ name = \"notes\", path = \"notes\" }]\n";
    fs::write(bench.file("p.toml"), profile(tool)).unwrap();
    verb(&bench, "check", &[]).good();
    let shown = verb(&bench, "show", &[]).good().stdout;
    assert!(
        shown.contains("may read the folder notes (notes)") && shown.contains("60000 ms a call"),
        "{shown}"
    );
    let report = json_of(&verb(&bench, "show", &["--json"]).good());
    assert_eq!(report["plugins"][3]["authority"], json!(["read the folder notes (notes)"]));
    verb(&bench, "lock", &[]).good();
    verb(&bench, "lock", &[]).good();
    edit(&bench, "path = \"notes\"", "path = \"notes\", write = true");
    let refused = run(&bench, &fixture(MOE), &[]);
    let added = "tool files: authority added: write the folder notes (notes) (may do more)";
    refused.failed_saying(&[added, "--approve"]);
    found(&verb(&bench, "lock", &[]), &[added]);
    verb(&bench, "lock", &["--approve"]).good();
    run(&bench, &fixture(MOE), &[]).good();
    edit(&bench, ", write = true", "");
    verb(&bench, "lock", &[]).good();
    // What can't be opened is found, and so is a grant with nothing behind it.
    fs::remove_dir(bench.file("notes")).unwrap();
    found(
        &verb(&bench, "check", &[]),
        &["tool files: ", "the folder `notes` (", "can't be opened: is not there"],
    );
    let empty = "[[tool]]\nplugin = \"files\"\ngrants = [\"files\"]\n";
    fs::write(bench.file("p.toml"), profile(empty)).unwrap();
    found(&verb(&bench, "check", &[]), &["has the grant `files` and no `folders`"]);
    let stray = "[[tool]]\nplugin = \"calculator\"\nhosts = [\"example.org\"]\n";
    fs::write(bench.file("p.toml"), profile(stray)).unwrap();
    found(&verb(&bench, "check", &[]), &["has `hosts` and not the grant `http`"]);
}

#[test]
fn a_check_with_a_model_starts_the_samplers() {
    let bench = bench();
    let sampler = "parameters = { temperature = 0.5 }";
    let bias = "parameters = { logit_bias = [{ token = 5 }] }";
    edit(&bench, sampler, bias);
    found(&verb(&bench, "check", &[]), &["sampler standard-sampler: ", "needs either a finite `bias`"]);
    let model = fixture(MOE);
    found(
        &verb(&bench, "check", &["--model", &model]),
        &["sampler standard-sampler: ", "needs either a finite `bias`"],
    );
    edit(&bench, bias, sampler);
    verb(&bench, "check", &["--model", &model]).good();
}

#[test]
fn a_run_refuses_what_differs_from_the_lock_by_name() {
    let bench = bench();
    let model = fixture(MOE);
    run(&bench, &model, &["--locked"]).failed_saying(&["--locked: there is no", "profile lock"]);
    let locked = verb(&bench, "lock", &[]).good().stdout;
    assert!(locked.contains("p.lock: written: 3 plugins, any model"), "{locked}");
    run(&bench, &model, &["--locked"]).good();
    for (from, to, expected) in [
        ("temperature = 0.5", "temperature = 0.6", "sampler standard-sampler: parameters.temperature"),
        ("max_tokens = 4", "max_tokens = 5", "generation: max_tokens 4 -> 5"),
        ("[[tool]]", "[[tool]]\nplugin = \"calculator\"\n[[tool]]", "tool calculator: plugin added"),
    ] {
        edit(&bench, from, to);
        run(&bench, &model, &[]).failed_saying(&["is not as its lock", expected, "membrane profile lock"]);
        found(&verb(&bench, "check", &[]), &[expected]);
        assert!(verb(&bench, "show", &[]).good().stdout.contains(expected));
        edit(&bench, to, from);
    }
    run(&bench, &model, &["--temperature", "0"]).failed_saying(&["parameters.temperature"]);
    run(&bench, &model, &["--policy", "guard,rules="]).failed_saying(&["policy guard-2: plugin added"]);
    fs::write(bench.file("rules.toml"), RULES.replace("dynamite", "chalk")).unwrap();
    run(&bench, &model, &[]).failed_saying(&["policy guard: parameters.rules"]);
    fs::write(bench.file("rules.toml"), RULES).unwrap();
    run(&bench, &model, &[]).good();
    fs::write(bench.file("p.lock"), "version = 1\nx = 1").unwrap();
    run(&bench, &model, &[]).failed_saying(&["p.lock:2: unknown field `x`"]);
}

#[test]
fn what_may_do_more_is_approved_by_a_word_of_its_own() {
    let bench = bench();
    verb(&bench, "lock", &[]).good();
    let before = fs::read(bench.file("p.lock")).unwrap();
    // An upgrade that asks for nothing more is a matter of locking again.
    edit(&bench, "temperature = 0.5", "temperature = 0.7");
    let ended = verb(&bench, "lock", &[]).good();
    assert!(ended.stdout.contains("parameters.temperature"), "{}", ended.stdout);
    let second = fs::read(bench.file("p.lock")).unwrap();
    assert_ne!(second, before);
    // Another publisher's component in the place of the first one, with a valid signature.
    bench.key("fork");
    bench.sign("clock.wasm", "fork").good();
    edit(&bench, "file:house.pub", "file:fork.pub");
    let ended = verb(&bench, "lock", &[]);
    found(&ended, &["tool clock: publisher", "(may do more)", "not written"]);
    assert!(ended.stderr.contains("--approve"), "{}", ended.stderr);
    assert_eq!(fs::read(bench.file("p.lock")).unwrap(), second);
    run(&bench, &fixture(MOE), &[]).failed_saying(&["tool clock: publisher", "profile lock", "--approve"]);
    verb(&bench, "lock", &["--approve"]).good();
    run(&bench, &fixture(MOE), &[]).good();
    // A policy that is gone.
    edit(&bench, "[[policy]]\nplugin = \"guard\"\nparameters = { rules = \"file:rules.toml\" }\n", "");
    found(&verb(&bench, "lock", &["--json"]), &["\"widens\": true", "\"written\": false"]);
    let left: Vec<_> =
        fs::read_dir(bench.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("tmp")), "{left:?}");
}

#[test]
fn a_fork_is_refused_before_there_is_a_lock() {
    let bench = bench();
    bench.key("fork");
    bench.sign("clock.wasm", "fork").good();
    run(&bench, &fixture(MOE), &[]).failed_saying(&["plugin `clock`: must be signed by `house`"]);
    verb(&bench, "lock", &[]).failed_saying(&["must be signed by `house`"]);
    edit(&bench, "publisher = \"house\"\n", "");
    run(&bench, &fixture(MOE), &[]).failed_saying(&["does not say whose it is", "unsigned = true"]);
}

#[test]
fn a_lock_pins_a_model_by_its_bytes_tokenizer_and_template() {
    let bench = bench();
    let model = fixture(MOE);
    verb(&bench, "lock", &["--model", &model]).good();
    run(&bench, &model, &[]).good();
    let renamed = bench.path("renamed.gguf");
    fs::copy(&model, &renamed).unwrap();
    run(&bench, &renamed, &[]).good();
    run(&bench, &fixture(DENSE), &[]).failed_saying(&["is not as its lock", "model: file"]);
    let swapped = changed(MOE, bench.folder(), |metadata| {
        metadata.set("tokenizer.chat_template", "{{ messages[0].content }}");
    });
    run(&bench, &swapped, &[]).failed_saying(&["model: chat template", "model: file changed.gguf"]);
    let swapped = changed(MOE, bench.folder(), |metadata| {
        metadata.set("tokenizer.ggml.add_bos_token", true);
    });
    run(&bench, &swapped, &[]).failed_saying(&["model: tokenizer"]);
    found(&verb(&bench, "check", &["--model", &swapped]), &["model: tokenizer"]);
    // Locking again without a model keeps it.
    verb(&bench, "lock", &[]).good();
    run(&bench, &swapped, &[]).failed_saying(&["model: tokenizer"]);
    found(&verb(&bench, "lock", &["--any-model"]), &["model: pin removed"]);
    verb(&bench, "lock", &["--any-model", "--approve"]).good();
    run(&bench, &swapped, &[]).good();
}

#[test]
fn a_check_gives_agents_their_parameters() {
    let bench = bench();
    let agent = |entry: &str| {
        fs::write(bench.file("p.toml"), profile(&format!("[[agent]]\nplugin = \"extractor\"\n{entry}")))
            .unwrap();
        verb(&bench, "check", &[])
    };
    found(&agent(""), &["agent extractor: ", "schema", "missing"]);
    found(&agent("parameters = { schema = \"[1]\" }"), &["agent extractor: ", "schema: is no JSON object"]);
    agent("parameters = { schema = \"{}\" }").good();
    agent("parameters = { schema = { type = \"object\" } }").good();
    // A first-party plugin has a manifest that says what is missing; what has none is asked itself.
    let extractor = membrane_host::first_party::find("extractor").unwrap();
    fs::write(bench.file("own.wasm"), extractor.bytes).unwrap();
    fs::write(bench.file("p.toml"), profile("[[agent]]\nplugin = \"own.wasm\"\nunsigned = true\n")).unwrap();
    found(
        &verb(&bench, "check", &[]),
        &["agent own: ", "configure failed: parameters: missing field `schema`"],
    );
}

#[test]
fn values_that_differ_are_told_apart_however_long_they_are() {
    let bench = bench();
    let profile = |name: &str, text: &str| {
        let policy = format!(
            "[[policy]]\nplugin = \"system-prompt\"\ngrants = [\"system-prompt\"]\nparameters.text = {text:?}\n"
        );
        fs::write(bench.file(name), policy).unwrap();
        bench.path(name)
    };
    let long = "Be kind to everybody. ".repeat(40);
    let (a, b) = (
        profile("a.toml", &format!("{long}Say no.{long}")),
        profile("b.toml", &format!("{long}Say yes.{long}")),
    );
    let diff = membrane(&["profile", "diff", &a, &b]);
    found(&diff, &["Say no.Be kind", "Say yes.Be kind", "sha256"]);
    assert!(diff.stdout.lines().all(|line| line.len() < 400), "{}", diff.stdout);
}

#[test]
fn a_diff_says_what_differs_in_behaviour() {
    let bench = bench();
    let other = "[[policy]]\nplugin = \"system-prompt\"\ngrants = [\"system-prompt\"]\nparameters = { text = \"x\" }\n";
    let text = profile(other).replace("0.5", "0.6").replace("file:rules.toml", "a rule");
    fs::write(bench.file("q.toml"), text).unwrap();
    let diff = |arguments: &[&str]| verb(&bench, "diff", arguments);
    let same = diff(&[&bench.path("p.toml")]).good();
    assert!(same.stdout.contains("nothing differs"), "{}", same.stdout);
    let ended = diff(&[&bench.path("q.toml")]);
    let words = ["parameters.temperature 0.5 -> 0.6", "policy guard: parameters.rules", "\"a rule\""];
    found(&ended, &[&words[..], &["policy system-prompt: plugin added", "(may do more)"]].concat());
    let report = json_of(&diff(&[&bench.path("q.toml"), "--json"]));
    assert_eq!(report["differences"].as_array().unwrap().len(), 3, "{report}");
    diff(&[&bench.path("none.toml")]).failed_saying(&["none.toml"]);
}

#[test]
fn a_diff_says_where_plugins_run_in_both_directions() {
    let bench = bench();
    fs::write(bench.file("q.toml"), profile("isolation = \"required\"\n")).unwrap();
    let (p, q) = (bench.path("p.toml"), bench.path("q.toml"));
    let stricter = membrane(&["profile", "diff", &p, &q]);
    found(&stricter, &["tool clock: isolation none -> required\n"]);
    found(&membrane(&["profile", "diff", &q, &p]), &["tool clock: isolation required -> none (may do more)"]);
    let report = json_of(&membrane(&["profile", "diff", &p, &q, "--json"]));
    assert_eq!(report["differences"].as_array().unwrap().len(), 1, "{report}");
}

#[test]
fn the_profiles_of_the_examples_are_good() {
    for name in ["default", "demo", "strict"] {
        let path = workspace().join(format!("examples/profiles/{name}.toml"));
        membrane(&["profile", "check", path.to_str().unwrap(), "--model", &fixture(MOE)]).good();
        membrane(&["profile", "show", path.to_str().unwrap()]).good();
    }
}

#[test]
fn advice_about_a_lock_works() {
    let bench = bench();
    let (model, dense) = (fixture(MOE), fixture(DENSE));
    verb(&bench, "lock", &["--model", &model]).good();
    let pin = format!("membrane profile lock {} --model {dense}", bench.path("p.toml"));
    run(&bench, &dense, &[]).failed_saying(&["model: file", &pin]);
    found(&verb(&bench, "check", &["--model", &dense]), &[&pin]);
    verb(&bench, "lock", &["--model", &dense]).good();
    run(&bench, &dense, &[]).good();
    // What is given beside a profile is no matter for its lock.
    let words = ["parameters.temperature", "from the command line", "leave it out there", "put it into"];
    let given = run(&bench, &dense, &["--temperature", "0"]);
    given.failed_saying(&words);
    assert!(!given.stderr.contains("approve it with"), "{}", given.stderr);
    edit(&bench, "max_tokens = 4", "max_tokens = 5");
    let both = run(&bench, &dense, &["--temperature", "0"]);
    both.failed_saying(&[&words[..], &["generation: max_tokens 4 -> 5\n", "approve it with"]].concat());
    // A lock of another version, or one that is damaged, is written anew by whoever says so.
    for text in ["version = 2", "version = 1\nx = 1", "no lock"] {
        fs::write(bench.file("p.lock"), text).unwrap();
        run(&bench, &dense, &[]).failed_saying(&["p.lock"]);
        let ended = verb(&bench, "lock", &[]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        for word in ["p.lock", "nothing is compared", "nothing was written", "--approve", "--model"] {
            assert!(ended.stderr.contains(word), "`{word}` is not in: {}", ended.stderr);
        }
        assert_eq!(fs::read_to_string(bench.file("p.lock")).unwrap(), text);
        verb(&bench, "lock", &["--approve", "--model", &dense]).good();
        run(&bench, &dense, &["--locked"]).good();
    }
}

#[test]
fn a_limit_of_more_memory_than_there_can_be_is_refused_by_name() {
    let bench = bench();
    let sampler = "parameters = { temperature = 0.5 }\n";
    edit(&bench, sampler, &format!("{sampler}limits = {{ memory = \"8388608TiB\" }}\n"));
    let words = ["sampler 1: limits.memory: 8388608TiB", "at most 4GiB"];
    run(&bench, &fixture(MOE), &[]).failed_saying(&words);
    edit(&bench, "8388608TiB", "4GiB");
    let most = run(&bench, &fixture(MOE), &["--memory", "1GiB"]);
    assert!(!most.stderr.contains("panicked") && !most.stderr.contains("limits.memory"), "{}", most.stderr);
}
