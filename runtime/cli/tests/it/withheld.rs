//! What a policy withholds is in nothing that the program prints, however the text was cut into tokens.

use std::fs;

use serde_json::Value;

use crate::program::{Ended, MOE, fixture, membrane};

const RUN: [&str; 6] = ["Tell me.", "-n", "48", "--seed", "3", "--temperature=1"];

/// All texts of a value, one behind the other.
fn texts(value: &Value, found: &mut String) {
    match value {
        Value::String(text) => found.push_str(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Takes parameters out, which name what is forbidden.
fn forget_parameters(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(forget_parameters),
        Value::Object(fields) => {
            fields.remove("parameters");
            fields.values_mut().for_each(forget_parameters);
        }
        _ => {}
    }
}

/// Everything that was printed, and where it is JSON what its texts are together.
fn printed(ended: &Ended) -> String {
    let mut all = ended.stderr.clone() + "\n";
    for line in ended.stdout.lines() {
        match serde_json::from_str(line) {
            Ok(mut value) => {
                forget_parameters(&mut value);
                all.push_str(&value.to_string());
                texts(&value, &mut all);
            }
            Err(_) => all.push_str(line),
        }
        all.push('\n');
    }
    all.to_lowercase()
}

#[test]
fn what_is_withheld_is_printed_nowhere() {
    let model = fixture(MOE);
    let run = |more: &[&str]| membrane(&[&["run", &model], &RUN[..], &["--threads", "1"], more].concat());
    let said: Vec<char> = run(&["--json"]).good().answer().chars().collect();
    assert!(said.len() > 60, "{said:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut seen_free = 0;
    // Texts from all over the answer: each begins and ends elsewhere in a token.
    for at in (0..said.len() - 8).step_by(said.len() / 6) {
        let forbidden: String = said[at..at + 6].iter().collect();
        // Blanks stand in every output.
        if forbidden.trim().len() < 3 {
            continue;
        }
        let lower = forbidden.to_lowercase();
        for action in ["redact", "stop", "refuse"] {
            let message = if action == "refuse" { "message = \"No.\"\n" } else { "" };
            let rules = format!(
                "[[clause]]\nid = \"c\"\nwhen = \"output\"\nmatch = {}\naction = \"{action}\"\n{message}",
                serde_json::to_string(&forbidden).unwrap()
            );
            fs::write(path("rules.toml"), rules).unwrap();
            let guard = format!("guard,rules=file:{}", path("rules.toml"));
            let mut all = Vec::new();
            for (number, keep) in ["digests", "tokens", "text"].into_iter().enumerate() {
                let log = path(&format!("{at}-{action}-{number}.jsonl"));
                let show: &[&str] = [&["--json"][..], &[], &["-q"]][number];
                let audit = ["--audit", &log, "--audit-keep", keep, "--audit-weights", "header"];
                all.push(("run", run(&[&["--policy", &guard], &audit[..], show].concat())));
                for json in [&["--json"][..], &[]] {
                    let verb = |arguments: &[&str]| membrane(&[arguments, json].concat());
                    all.push(("show", verb(&["audit", "show", &log])));
                    all.push(("export", verb(&["audit", "export", &log])));
                    all.push(("replay", verb(&["replay", &log])));
                    all.push(("another sampler", verb(&["replay", &log, "--sampler", "mirostat"])));
                    all.push(("decisions", verb(&["replay", &log, "--decisions"])));
                    let profile = path("free.toml");
                    fs::write(&profile, "").unwrap();
                    all.push(("other policies", verb(&["replay", &log, "--profile", &profile])));
                    let other = path("other.toml");
                    fs::write(&other, "[[policy]]\nplugin = \"limits\"\n").unwrap();
                    all.push(("diff", verb(&["profile", "diff", &profile, &other, "--transcripts", &log])));
                }
            }
            for (name, ended) in &all {
                assert!(
                    !printed(ended).contains(&lower),
                    "{name}, {action}, {forbidden:?}: {}",
                    printed(ended)
                );
            }
            // Whoever asks for it gets it.
            let log = path(&format!("{at}-{action}-2.jsonl"));
            let whole = membrane(&["audit", "export", &log, "--json", "--withheld"]).good();
            let outputs = &whole.events()[0]["events"];
            let mut found = String::new();
            for event in outputs.as_array().unwrap() {
                for output in event["content"]["tokens"]["outputs"].as_array().into_iter().flatten() {
                    found.push_str(output["text"].as_str().unwrap());
                }
            }
            seen_free += usize::from(found.to_lowercase().contains(&lower));
        }
    }
    assert!(seen_free >= 15, "{seen_free}");
}

/// The context of an agent's generation may hold what the model wrote and policies withheld.
#[test]
fn an_export_has_no_context_of_an_agent_that_policies_judge() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rules = "[[clause]]\nid = \"c\"\nwhen = \"output\"\nmatch = \"xyzzy\"\naction = \"redact\"\n";
    fs::write(path("rules.toml"), rules).unwrap();
    let guard = format!("guard,rules=file:{}", path("rules.toml"));
    let model = fixture(MOE);
    let rounds = |policies: &[&str], more: &[&str]| {
        let log = path(&format!("{}-{}.jsonl", policies.len(), more.len()));
        let run = ["agent", "best-of-n,n=2", "Say it.", "--model", &model, "-n", "4", "-q", "--threads", "1"];
        let recording = ["--audit", &log, "--audit-keep", "text", "--audit-weights", "header"];
        membrane(&[&run[..], policies, &recording].concat()).good();
        let answers = membrane(&[&["audit", "export", &log, "--json"], more].concat()).good().events();
        let events = answers.iter().flat_map(|answer| answer["events"].as_array().unwrap().clone());
        let rounds: Vec<Value> = events.filter(|event| !event["round"].is_null()).collect();
        assert!(rounds.len() >= 2, "{answers:?}");
        rounds
    };
    let shown = |round: &Value| !round["content"].is_null();
    assert!(rounds(&[], &[]).iter().all(shown));
    assert!(rounds(&["--policy", &guard], &["--withheld"]).iter().all(shown));
    for round in rounds(&["--policy", &guard], &[]) {
        assert!(!shown(&round) && round["round"]["ids"].is_null(), "{round}");
        assert!(round["round"]["tokens"].as_u64().unwrap() > 0);
    }
}
