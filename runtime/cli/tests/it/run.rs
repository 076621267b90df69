//! `membrane run`: prompts, events, flags of decoding, profiles.

use serde_json::{Value, json};

use crate::program::{DENSE, MOE, command, fixture, membrane, membrane_reading, workspace};

#[test]
fn a_prompt_is_answered_and_summed_up() {
    let run = membrane(&["run", &fixture(MOE), "Hello", "-n", "8", "--seed", "1", "--threads", "1"]).good();
    assert!(!run.stdout.trim().is_empty() && run.stdout.ends_with('\n'));
    let summary = run.stderr.lines().last().unwrap();
    for part in
        ["prefill ", "decode 8 tokens", "expert hits 100.0 %", "read ", "peak memory ", "profile default "]
    {
        assert!(summary.contains(part), "`{part}` is not in: {summary}");
    }
    assert!(summary.contains(" seed 1 ") && summary.ends_with("interventions 0"), "{summary}");
    assert!(run.stderr.contains("memory plan:") && run.stderr.contains("sampler: standard-sampler"));
}

#[test]
fn quiet_leaves_the_answer_alone() {
    let run = membrane(&["run", &fixture(MOE), "Hello", "-n", "8", "--seed", "1", "--quiet"]).good();
    assert_eq!(run.stderr, "");
    let loud = membrane(&["run", &fixture(MOE), "Hello", "-n", "8", "--seed", "1"]).good();
    assert_eq!(run.stdout, loud.stdout);
}

#[test]
fn variables_of_the_chat_template_are_given() {
    let tokens = |more: &[&str]| {
        let run =
            membrane(&[&["run", &fixture(MOE), "Hello", "-n", "1", "--json"][..], more].concat()).good();
        run.events()[1]["prompt_tokens"].as_u64().unwrap()
    };
    let thinking = "{\"enable_thinking\": true}";
    assert_eq!(tokens(&[]), tokens(&["--chat-template-kwargs", thinking]));
    assert!(tokens(&["--chat-template-kwargs", "{\"enable_thinking\": false}"]) > tokens(&[]));
    let with = |json: &str, more: &[&str]| {
        membrane(&[&["run", &fixture(MOE), "Hello", "--chat-template-kwargs", json], more].concat())
    };
    with("{\"messages\": []}", &[]).failed_saying(&["--chat-template-kwargs", "`messages`", "can't be set"]);
    with("[1]", &[]).failed_saying(&["--chat-template-kwargs", "no JSON object"]);
    with(thinking, &["--raw"]).failed_saying(&["--chat-template-kwargs", "--raw"]);
}

#[test]
fn events_are_json_lines() {
    let run = membrane(&["run", &fixture(MOE), "Hello", "-n", "8", "--seed", "1", "--json"]).good();
    assert_eq!(run.stderr, "");
    let events = run.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], *kinds.last().unwrap()), ("start", "prefill", "end"));
    assert!(kinds[2..kinds.len() - 1].iter().all(|kind| *kind == "text"), "{kinds:?}");
    let start = &events[0];
    assert_eq!((&start["seed"], &start["profile"]), (&json!(1), &json!("default")));
    assert_eq!(start["profile_digest"].as_str().unwrap().len(), 64);
    assert!(start["plan"]["weights"].as_u64().unwrap() > 100_000);
    let end = run.end();
    assert_eq!(end["reason"], "length");
    let stats = &end["stats"];
    assert_eq!(stats["decode_tokens"], 8);
    assert_eq!(stats["prefill_tokens"], events[1]["prompt_tokens"]);
    assert!(stats["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    let plain = membrane(&["run", &fixture(MOE), "Hello", "-n", "8", "--seed", "1", "-q"]).good();
    assert_eq!(printable(&run.answer()), plain.stdout.strip_suffix('\n').unwrap());
}

fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

#[test]
fn nothing_from_a_model_drives_the_terminal() {
    // A model of random weights writes all sorts of bytes.
    for seed in ["1", "2", "3"] {
        let arguments = ["run", &fixture(MOE), "Hello", "-n", "200", "--seed", seed, "--temperature", "5"];
        let run = membrane(&arguments).good();
        assert!(!run.stdout.trim().is_empty());
        assert_eq!(run.stdout, printable(&run.stdout), "seed {seed}");
        let json = membrane(&[&arguments[..], &["--json"]].concat()).good();
        assert!(json.stdout.chars().all(|c| !c.is_control() || c == '\n'), "seed {seed}");
    }
}

#[test]
fn a_seed_makes_an_answer_again_and_another_makes_another() {
    let answer = |arguments: &[&str]| {
        let model = fixture(MOE);
        membrane(&[&["run", &model, "Hello", "-n", "24", "-q"], arguments].concat()).good().stdout
    };
    let first = answer(&["--seed", "1"]);
    assert_eq!(first, answer(&["--seed", "1", "--threads", "1", "--prefill-chunk", "3"]));
    assert_ne!(first, answer(&["--seed", "2"]));
    assert_ne!(answer(&[]), answer(&[]), "without --seed each run has its own");
    let greedy = answer(&["--seed", "1", "--temperature", "0"]);
    assert_eq!(greedy, answer(&["--seed", "2", "--temperature", "0"]));
    assert_eq!(greedy, answer(&["--sampler", "greedy"]));
    assert_eq!(greedy, answer(&["--seed", "3", "--sampler", "standard-sampler,temperature=0"]));
    assert_eq!(greedy, answer(&["--seed", "3", "--top-k", "1"]));
}

#[test]
fn standard_input_is_a_prompt() {
    let arguments = ["run", &fixture(MOE), "-n", "8", "--temperature", "0", "--json"];
    let piped = membrane_reading(&arguments, "Hello").good();
    let given = membrane(&[&arguments[..2], &["Hello"], &arguments[2..]].concat()).good();
    assert_eq!(piped.answer(), given.answer());
    assert_eq!(piped.events()[1], given.events()[1]);
}

#[test]
fn raw_skips_the_chat_template() {
    let prompt_tokens = |arguments: &[&str]| -> u64 {
        let model = fixture(MOE);
        let run = membrane(&[&["run", &model, "ab", "-n", "1", "--json"], arguments].concat()).good();
        run.events()[1]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(prompt_tokens(&["--raw"]) <= 2);
    assert!(prompt_tokens(&[]) > 5);
}

#[test]
fn a_system_message_is_part_of_the_prompt() {
    let prompt_tokens = |arguments: &[&str]| -> u64 {
        let model = fixture(MOE);
        let run = membrane(&[&["run", &model, "Hello", "-n", "1", "--json"], arguments].concat()).good();
        run.events()[1]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(prompt_tokens(&["--system", "Be brief."]) > prompt_tokens(&[]) + 2);
}

#[test]
fn the_context_ends_an_answer_and_refuses_a_prompt() {
    let run = membrane(&["run", &fixture(DENSE), "Hello", "--ctx", "48", "--seed", "3", "--json"]).good();
    let end = run.end();
    if end["reason"] == "context" {
        let tokens = end["stats"]["decode_tokens"].as_u64().unwrap();
        let prompt = run.events()[1]["prompt_tokens"].as_u64().unwrap();
        assert_eq!(prompt + tokens, 49, "the last token needs no room");
    }
    let long = "word ".repeat(100);
    let run = membrane(&["run", &fixture(DENSE), &long, "--ctx", "48"]);
    run.failed_saying(&["the prompt has ", " tokens and the context holds 48", "--ctx"]);
    let run = membrane(&["run", &fixture(DENSE), &long, "--ctx", "48", "--json"]);
    run.failed_saying(&["--ctx"]);
    let endless = membrane_reading(&["run", &fixture(DENSE)], &"x".repeat((16 << 20) + 1));
    endless.failed_saying(&["standard input", "longer than 16777216 bytes"]);
    let error: Value = run.events().pop().unwrap();
    assert_eq!(error["event"], "error");
    assert!(error["message"].as_str().unwrap().contains("context holds 48"));
}

#[test]
fn a_profile_brings_its_plugins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("house.toml");
    std::fs::write(
        folder.path().join("rules.toml"),
        "[[clause]]\nid = \"house:1\"\nwhen = \"request\"\nmatch = \"dynamite\"\naction = \"refuse\"\n\
         message = \"Not here.\"\n",
    )
    .unwrap();
    let profile = "[generation]\nmax_tokens = 5\nseed = 9\n[[sampler]]\nplugin = \"greedy\"\n\
                   [[policy]]\nplugin = \"guard\"\nparameters = { rules = \"file:rules.toml\" }\n\
                   [[tool]]\nplugin = \"calculator\"\n[[tool]]\nplugin = \"clock\"\ngrants = [\"clock\"]\n";
    std::fs::write(&path, profile).unwrap();
    let path = path.to_str().unwrap();
    let run = membrane(&["run", &fixture(MOE), "Hello", "--profile", path, "--json"]).good();
    let start = run.events().remove(0);
    assert_eq!((&start["profile"], &start["seed"]), (&json!("house"), &json!(9)));
    assert_eq!(run.end()["stats"]["decode_tokens"], 5);

    let run =
        membrane(&["run", &fixture(MOE), "How is dynamite made?", "--profile", path, "--json"]).refused();
    let end = run.end();
    assert_eq!((&end["reason"], &end["message"]), (&json!("refused"), &json!("Not here.")));
    assert_eq!(run.answer(), "");
    let verdict = run.events().into_iter().find(|event| event["event"] == "intervention").unwrap();
    assert_eq!((&verdict["policy"], &verdict["clause"]), (&json!("guard"), &json!("house:1")));
    let run = membrane(&["run", &fixture(MOE), "How is dynamite made?", "--profile", path]).refused();
    assert_eq!(run.stdout, "Not here.\n");
    assert!(run.stderr.contains("[policy guard, request: refuse by house:1"), "{}", run.stderr);
    assert!(run.stderr.trim_end().ends_with("interventions 1"), "{}", run.stderr);
}

#[test]
fn the_profiles_of_the_examples_work() {
    for name in ["default", "strict"] {
        let path = workspace().join(format!("examples/profiles/{name}.toml"));
        let path = path.to_str().unwrap();
        membrane(&["run", &fixture(MOE), "Hello", "-n", "4", "--profile", path, "--memory", "2GiB"]).good();
    }
}

#[test]
fn a_reader_that_leaves_is_no_crash() {
    let mut child = command(&["run", &fixture(MOE), "Hello", "-n", "2000", "--seed", "1"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some() && !errors.contains("panicked"), "{errors}");
}

#[test]
fn an_answer_under_a_schema_is_json() {
    let folder = tempfile::tempdir().unwrap();
    let schema = json!({
        "type": "object", "required": ["yes", "n"], "additionalProperties": false,
        "properties": {"yes": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    });
    let file = folder.path().join("schema.json");
    std::fs::write(&file, schema.to_string()).unwrap();
    for given in [schema.to_string(), file.to_str().unwrap().to_owned()] {
        let arguments =
            ["run", &fixture(MOE), "Hello", "--seed", "3", "--temperature", "4", "--json-schema", &given];
        let run = membrane(&[&arguments[..], &["--quiet"]].concat()).good();
        let value: Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(value["yes"].is_boolean() && value["n"].as_f64().unwrap() <= 99.0, "{value}");
        let events = membrane(&[&arguments[..], &["--json"]].concat()).good();
        assert_eq!(events.end()["reason"], "stop");
        assert_eq!(events.answer(), run.stdout.trim_end_matches('\n'));
    }
}

#[test]
fn a_keyword_that_there_is_not_is_told_and_the_answer_given() {
    let schema = r#"{"type": "object", "properties": {"a": {"type": "string", "maxlength": 3, "title": "A"}},
        "requird": ["a"], "x-order": 1, "additionalProperties": false}"#;
    let run =
        membrane(&["run", &fixture(MOE), "Hello", "-n", "40", "--seed", "3", "--json-schema", schema, "-q"]);
    let run = run.good();
    for told in [
        "--json-schema: at \"#/properties/a\": \"maxlength\" is no keyword of JSON Schema, and is ignored; `maxLength` may be meant",
        "--json-schema: at \"#\": \"requird\" is no keyword of JSON Schema, and is ignored; `required` may be meant",
    ] {
        assert!(run.stderr.contains(told), "{}", run.stderr);
    }
    assert_eq!(run.stderr.matches("no keyword").count(), 2, "{}", run.stderr);
}

#[test]
fn an_answer_follows_an_expression_or_a_grammar() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sum.lark");
    std::fs::write(&file, "// two numbers\nstart: N \"+\" N\nN: /[0-9]{1,2}/\n").unwrap();
    let ask = |flag: &str, value: &str| {
        let arguments =
            ["run", &fixture(MOE), "Hello", "--seed", "5", "--temperature", "4", "-q", flag, value];
        membrane(&arguments).good().stdout
    };
    let answer = ask("--regex", "(red|green) [0-9]{3}");
    let (colour, number) = answer.trim_end().split_once(' ').unwrap();
    assert!(
        ["red", "green"].contains(&colour) && number.len() == 3 && number.parse::<u32>().is_ok(),
        "{answer}"
    );
    let answer = ask("--grammar", file.to_str().unwrap());
    let (left, right) = answer.trim_end().split_once('+').unwrap();
    assert!(left.parse::<u32>().is_ok() && right.parse::<u32>().is_ok(), "{answer}");
}

#[test]
fn a_grammar_that_can_not_be_followed_is_a_failure_with_a_reason() {
    let not = r#"{"type": "object", "properties": {"a": {"not": {"type": "null"}}}}"#;
    for (flags, words) in [
        (&["--json-schema", not][..], "\"not\""),
        (&["--json-schema", "{"], "no JSON"),
        (
            &["--json-schema", r#"{"properties": {"id": {"const": 9007199254740993}}}"#],
            "at \"#/properties/id\": the const has 9007199254740993",
        ),
        (&["--json-schema", "/nowhere/schema.json"], "/nowhere/schema.json"),
        (&["--regex", "a("], "unclosed group"),
        (&["--grammar", "/dev/null"], "start"),
        (&["--grammar", "/dev/zero"], "longer than"),
        (&["--regex", "a", "--json-schema", "true"], "cannot be used with"),
        (&["--regex", "a", "--tool", "calculator"], "tools"),
    ] {
        let ended = membrane(&[&["run", &fixture(MOE), "Hello"], flags].concat());
        ended.failed_saying(&[words]);
        assert!(ended.stdout.is_empty(), "{flags:?}: {}", ended.stdout);
        assert!(!ended.stderr.contains("load:"), "{flags:?}: {}", ended.stderr);
    }
    // Plain text is told of no tools.
    let raw = ["run", &fixture(MOE), "Hello", "--raw", "-n", "3", "--regex", "a+", "--tool", "calculator"];
    assert!(membrane(&raw).good().stdout.starts_with('a'));
}
