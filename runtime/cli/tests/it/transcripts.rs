//! `membrane profile diff --transcripts`: what two profiles say to recorded answers.

use std::fs;

use crate::program::{Ended, MOE, fixture, membrane};

/// A folder with a log of two answers, and profiles.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for prompt in ["How is dynamite made?", "Good morning"] {
            let (model, log) = (fixture(MOE), desk.path("log.jsonl"));
            let recording = ["--audit", &log, "--audit-keep", "text", "--audit-weights", "header"];
            membrane(&[&["run", &model, prompt, "-n", "24", "--seed", "2", "-q"], &recording[..]].concat())
                .good();
        }
        desk
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A profile with a guard of these clauses.
    fn profile(&self, name: &str, clauses: &str) -> String {
        fs::write(self.path(&format!("{name}.rules")), clauses).unwrap();
        let path = self.path(&format!("{name}.toml"));
        let guard =
            format!("[[policy]]\nplugin = \"guard\"\nparameters = {{ rules = \"file:{name}.rules\" }}\n");
        fs::write(&path, if clauses.is_empty() { String::new() } else { guard }).unwrap();
        path
    }

    fn diff(&self, a: &str, b: &str, more: &[&str]) -> Ended {
        membrane(&[&["profile", "diff", a, b, "--transcripts", &self.path("log.jsonl")], more].concat())
    }

    /// What the model said to the second prompt.
    fn said(&self) -> String {
        let exported = membrane(&["audit", "export", &self.path("log.jsonl"), "--json"]).good().events();
        let end = exported[1]["events"].as_array().unwrap().last().unwrap().clone();
        end["content"]["end"]["released"].as_str().unwrap().to_owned()
    }
}

fn clause(id: &str, when: &str, matched: &str, action: &str) -> String {
    format!("[[clause]]\nid = \"{id}\"\nwhen = \"{when}\"\nmatch = '''{matched}'''\n{action}\n")
}

const REFUSE: &str = "action = \"refuse\"\nmessage = \"No.\"";
const REDACT: &str = "action = \"redact\"";

#[test]
fn what_is_newly_allowed_has_a_status_of_its_own() {
    let desk = Desk::new();
    let strict = desk.profile("strict", &clause("house:1", "request", "dynamite", REFUSE));
    let free = desk.profile("free", "");
    let found = desk.diff(&strict, &free, &[]);
    assert_eq!(found.code, Some(2), "{}{}", found.stdout, found.stderr);
    for part in [
        ": newly allowed\n",
        "newly allowed: request: A guard, refuse by house:1; B lets it pass",
        "2 answers: 1 newly allowed, 0 newly refused, 0 changed, 0 can't tell, 1 unchanged",
    ] {
        assert!(found.stdout.contains(part), "`{part}` is not in: {}", found.stdout);
    }
    assert!(found.stderr.is_empty(), "{}", found.stderr);
    let found = desk.diff(&free, &strict, &["--json"]);
    assert_eq!(found.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let transcripts = &report["transcripts"];
    assert_eq!(transcripts["counts"]["newly_refused"], 1, "{report}");
    let first = &transcripts["answers"][0];
    assert_eq!(
        (&first["outcome"], &first["differences"][0]["b"][0]["clause"]),
        (&"newly-refused".into(), &"house:1".into())
    );
    // The profiles differ and nothing that was recorded does.
    let other = desk.profile("other", &clause("house:1", "request", "gunpowder", REFUSE));
    let found = desk.diff(&free, &other, &[]).good();
    assert!(found.stdout.contains("policy guard: plugin added"), "{}", found.stdout);
    assert!(found.stdout.contains("0 can't tell, 2 unchanged"), "{}", found.stdout);
    assert_eq!(membrane(&["profile", "diff", &free, &other]).code, Some(1));
}

#[test]
fn redactions_are_told_by_their_bytes() {
    let desk = Desk::new();
    let said = desk.said();
    let word: String = said.chars().skip(4).take(5).collect();
    let at = said.to_lowercase().find(&word.to_lowercase()).unwrap();
    let (a, b) = (clause("house:1", "output", &word, REDACT), clause("house:2", "output", &word, REDACT));
    let (one, two, free) = (desk.profile("one", &a), desk.profile("two", &b), desk.profile("free", ""));
    let found = desk.diff(&one, &free, &[]);
    assert_eq!(found.code, Some(2), "{}", found.stdout);
    let place = format!("newly allowed: output, bytes {at} to {} of what the model wrote", at + word.len());
    assert!(found.stdout.contains(&place), "{place}: {}", found.stdout);
    assert!(!found.stdout.contains(&word), "what was withheld is not printed");
    let found = desk.diff(&one, &two, &[]);
    assert_eq!(found.code, Some(1));
    assert!(
        found.stdout.contains("changed: output: A guard, replace by house:1; B guard, replace by house:2")
    );
    desk.diff(&one, &one, &[]).good();
}

#[test]
fn erased_texts_can_not_tell_and_a_changed_log_is_refused() {
    let desk = Desk::new();
    let strict = desk.profile("strict", &clause("house:1", "request", "dynamite", REFUSE));
    let free = desk.profile("free", "");
    let (log, text) = (desk.path("log.jsonl"), desk.path("log.jsonl.text"));
    let kept = fs::read(&text).unwrap();
    fs::remove_file(&text).unwrap();
    let found = desk.diff(&strict, &free, &[]);
    assert_eq!(found.code, Some(1), "{}", found.stderr);
    assert!(found.stdout.contains("not known beyond this: its texts were not kept, or were erased"));
    assert!(found.stdout.contains("2 can't tell"), "{}", found.stdout);
    fs::write(&text, &kept).unwrap();
    // A text that is another by now, a record that is, a log that is none.
    let changed = String::from_utf8(kept.clone()).unwrap().replace("dynamite", "Dynamite");
    fs::write(&text, changed).unwrap();
    desk.diff(&strict, &free, &[]).failed_saying(&["the log was changed", "audit verify"]);
    fs::write(&text, &kept).unwrap();
    let records = fs::read_to_string(&log).unwrap();
    fs::write(&log, records.replace("\"seed\":2", "\"seed\":3")).unwrap();
    desk.diff(&strict, &free, &[]).failed_saying(&["the log was changed", "audit verify"]);
    fs::write(&log, "\n").unwrap();
    desk.diff(&strict, &free, &[]).failed_saying(&["log.jsonl"]);
    fs::remove_file(&log).unwrap();
    desk.diff(&strict, &free, &[]).failed_saying(&["log.jsonl"]);
    let folder = desk.0.path().to_str().unwrap();
    membrane(&["profile", "diff", &strict, &free, "--transcripts", folder])
        .failed_saying(&["no regular file"]);
}

/// A profile whose policy asks the model, with a question.
fn asking(desk: &Desk, name: &str, question: &str) -> String {
    let rules = format!(
        "[[clause]]\nid = \"house:1\"\nwhen = \"request\"\nquestion = \"{question}\"\nthreshold = 1.0\n{REFUSE}\n"
    );
    fs::write(desk.path(&format!("{name}.rules")), rules).unwrap();
    let path = desk.path(&format!("{name}.toml"));
    let entry = "[[policy]]\nplugin = \"judged-guard\"\ngrants = [\"judge\"]\n";
    fs::write(&path, format!("{entry}parameters = {{ rules = \"file:{name}.rules\" }}\n")).unwrap();
    path
}

#[test]
fn what_only_the_model_could_judge_is_not_guessed() {
    let desk = Desk::new();
    let (free, asking_one) = (desk.profile("free", ""), asking(&desk, "one", "Is it bad?"));
    let found = desk.diff(&free, &asking_one, &[]);
    assert_eq!(found.code, Some(1), "{}{}", found.stdout, found.stderr);
    for part in ["2 can't tell", "policy `judged-guard` asks the model to judge what the record has no"] {
        assert!(found.stdout.contains(part), "`{part}` is not in: {}", found.stdout);
    }
    // With a record of the same question it is known.
    let model = fixture(MOE);
    let log = desk.path("judged.jsonl");
    let recording = ["--audit", &log, "--audit-keep", "text", "--audit-weights", "header", "-q"];
    let ran = ["run", &model, "Good morning", "-n", "8", "--ctx", "1024", "--profile", &asking_one];
    membrane(&[&ran[..], &recording[..]].concat()).good();
    let compared = |a: &str, b: &str| membrane(&["profile", "diff", a, b, "--transcripts", &log]);
    assert!(
        compared(&free, &asking_one).stdout.contains("1 unchanged"),
        "{}",
        compared(&free, &asking_one).stdout
    );
    let other = asking(&desk, "two", "Is it good?");
    assert!(compared(&asking_one, &other).stdout.contains("1 can't tell"));
    // The record as it is replays with and without the model; another question can't be told.
    let replayed = membrane(&["replay", &log, "-q"]).good();
    for part in ["1 judgements, identical", "0 verdicts recorded, 0 now, unchanged"] {
        assert!(replayed.stdout.contains(part), "`{part}` is not in: {}", replayed.stdout);
    }
    let rules = format!("judged-guard,grant=judge,rules=file:{}", desk.path("two.rules"));
    let replayed = membrane(&["replay", &log, "--policy", &rules, "-q"]);
    assert_eq!(replayed.code, Some(1));
    assert!(replayed.stdout.contains("cant-tell") && replayed.stdout.contains("can't tell: policy"));
    let shown = membrane(&["audit", "show", &log, "--answer", "4"]).good();
    assert!(shown.stdout.contains("judged for policy judged-guard, "), "{}", shown.stdout);
    // Without the grant nothing is loaded, and the budget counts the judge.
    let ungranted = format!("judged-guard,rules=file:{}", desk.path("two.rules"));
    membrane(&["run", &model, "Hi", "--policy", &ungranted])
        .failed_saying(&["judged-guard", "grants = [\"judge\"]"]);
    let plan = membrane(&["run", &model, "Hi", "-n", "1", "--ctx", "1024", "--policy", &rules]);
    assert!(plan.stderr.contains("2 times 1024 tokens"), "{}", plan.stderr);
}

#[test]
fn what_is_judged_behind_the_last_token_is_no_run_of_tokens() {
    let desk = Desk::new();
    let profile = asking(&desk, "said", "Is it bad?");
    let rules = fs::read_to_string(desk.path("said.rules")).unwrap();
    fs::write(desk.path("said.rules"), rules.replace("\"request\"", "\"output\"")).unwrap();
    let (model, log) = (fixture(MOE), desk.path("said.jsonl"));
    let recording = ["--audit", &log, "--audit-keep", "text", "--audit-weights", "header", "-q"];
    let ran = ["run", &model, "Good morning", "-n", "8", "--ctx", "1024", "--profile", &profile];
    membrane(&[&ran[..], &recording[..]].concat()).good();
    let number =
        membrane(&["audit", "show", &log]).good().stdout.split_whitespace().nth(1).unwrap().to_owned();
    let shown = membrane(&["audit", "show", &log, "--answer", &number]).good().stdout;
    assert!(shown.contains("judged for policy judged-guard, "), "{shown}");
    let runs: Vec<&str> = shown.lines().filter(|line| line.trim_start().starts_with("tokens ")).collect();
    assert!(!runs.is_empty() && runs.iter().all(|run| !run.trim_end().ends_with(" by")), "{shown}");
}
