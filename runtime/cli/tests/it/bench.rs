//! `membrane bench`: figures, rows, peers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::program::{Ended, MOE, fixture, membrane};

const TASK: [&str; 6] = ["--prompt", "16", "--decode", "4", "--ctx", "512"];

fn bench(arguments: &[&str]) -> Ended {
    let model = fixture(MOE);
    membrane(&[&["bench", &model][..], &TASK, arguments].concat())
}

fn json(ended: Ended) -> Value {
    serde_json::from_str(&ended.good().stdout).unwrap()
}

#[test]
fn stages_make_up_the_time_of_a_token() {
    let all = json(bench(&["--repeat", "1", "--json"]));
    let run = &all["runs"][0];
    for (stages, speed) in [("prefill_stages", "prefill"), ("decode_stages", "decode")] {
        let rows = run[stages].as_array().unwrap();
        let sum: f64 = rows.iter().map(|row| row["ms_per_token"].as_f64().unwrap()).sum();
        let token = 1000.0 / run["speed"][speed].as_f64().unwrap();
        assert!((sum / token - 1.0).abs() < 0.01, "{stages}: {sum} of {token} ms");
        let bytes = |name: &str| {
            let row = rows.iter().find(|row| row["stage"] == name).unwrap_or_else(|| panic!("no {name}"));
            row["weight_bytes_per_token"].as_f64().unwrap()
        };
        assert!(bytes("experts gate and up") > bytes("experts down") && bytes("experts down") > 0.0);
        assert!(bytes("attention projections") > 0.0 && bytes("output head") > 0.0 && bytes("norms") == 0.0);
    }
    // Each token reads all resident weights once and its experts.
    let rows = run["decode_stages"].as_array().unwrap();
    let read: f64 = rows.iter().map(|row| row["weight_bytes_per_token"].as_f64().unwrap()).sum();
    let planned = run["bytes_per_token"].as_f64().unwrap();
    assert!(read > 0.5 * planned && read < 1.05 * planned, "{read} of {planned}");
    assert!(all["setting"]["machine"]["processor"].as_str().is_some_and(|name| !name.is_empty()));
    assert_eq!(all["setting"]["model"]["digest_of"], "file");
}

#[test]
fn each_budget_start_and_context_is_measured() {
    let flags = [
        "--memory",
        "none,1GiB",
        "--start",
        "cold,recalled,warm",
        "--context",
        "0,32",
        "--repeat",
        "1",
        "--json",
    ];
    let all = json(bench(&flags));
    let cases: Vec<String> = all["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| format!("{} {} {}", run["memory"], run["start"], run["context_tokens"]).replace('"', ""))
        .collect();
    assert_eq!(cases.len(), 12);
    for (case, wanted) in cases.iter().zip([
        "none cold 0",
        "none cold 32",
        "none recalled 0",
        "none recalled 32",
        "none warm 0",
        "none warm 32",
    ]) {
        assert_eq!(case, wanted);
    }
    assert!(
        cases[6..].iter().all(|case| case.starts_with("1GiB ") || case.starts_with("1024MiB ")),
        "{cases:?}"
    );
    bench(&["--context", "9999"]).failed_saying(&["--context 9999", "trained for 4096"]);
}

#[test]
fn rows_are_appended_under_one_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let csv = path.to_str().unwrap();
    bench(&["--repeat", "2", "--csv", csv, "--kv-cache", "q8_0"]).good();
    bench(&["--repeat", "1", "--csv", csv]).good();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let columns: Vec<&str> = lines[0].split(',').collect();
    let cell = |line: usize, column: &str| {
        let cells: Vec<&str> = lines[line].split(',').collect();
        assert_eq!(cells.len(), columns.len(), "{}", lines[line]);
        cells[columns.iter().position(|name| *name == column).unwrap()].to_owned()
    };
    for line in 1..4 {
        assert_eq!(cell(line, "engine"), "membrane");
        assert!(cell(line, "decode_tok_s").parse::<f64>().unwrap() > 0.0);
        assert!(cell(line, "model_digest").starts_with("sha256:"));
        assert!(cell(line, "date_utc").ends_with('Z') && !cell(line, "commit").is_empty());
    }
    assert!(cell(1, "flags").contains("--kv-cache q8_0") && !cell(3, "flags").contains("q8_0"));
    assert_eq!((cell(1, "run"), cell(2, "run"), cell(3, "run")), ("1".into(), "2".into(), "1".into()));
    fs::write(&path, "some,other\n").unwrap();
    bench(&["--repeat", "1", "--csv", csv]).failed_saying(&["rows.csv", "give another file"]);
}

/// A program that answers as a llama-bench does, and notes what it was asked for.
fn llama_bench(folder: &Path, help: &str, answer: &str) -> String {
    let path = folder.join("llama-bench");
    let log = folder.join("asked");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --help ]; then echo '{help}'; exit 0; fi\necho \"$@\" >> {}\n{answer}\n",
        log.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("llama-bench={}", path.display())
}

const ANSWER: &str = "echo 'warm-up [1]'; echo '['; echo '{\"n_prompt\": 16, \"avg_ts\": 2.0}'; echo ']'";

#[test]
fn a_llama_bench_is_measured_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rows.csv");
    let peer = llama_bench(folder.path(), "  -d, --n-depth <n>", ANSWER);
    let flags =
        ["--repeat", "2", "--context", "32", "--against", &peer, "--peer-args", "-fa 1", "--threads", "1"];
    let all = json(bench(&[&flags[..], &["--json", "--csv", csv.to_str().unwrap()]].concat()));
    let of_peer = &all["peers"][0];
    assert_eq!(of_peer["runs"].as_array().unwrap().len(), 2);
    let own = |speed: &str| -> Vec<f64> {
        all["runs"].as_array().unwrap().iter().map(|run| run["speed"][speed].as_f64().unwrap()).collect()
    };
    for speed in ["prefill", "decode"] {
        let own = own(speed);
        let wanted = (own[0] + own[1]) / 2.0 / 2.0;
        let ratio = of_peer[format!("{speed}_ratio")].as_f64().unwrap();
        assert!((ratio / wanted - 1.0).abs() < 1e-6, "{ratio} for {wanted}");
    }
    let model = fixture(MOE);
    let asked = fs::read_to_string(folder.path().join("asked")).unwrap();
    let common = format!("-m {model} -t 1 -r 1 -o json");
    let pair = format!("{common} -p 16 -n 0 -d 32 -fa 1\n{common} -p 0 -n 4 -d 48 -fa 1\n");
    assert_eq!(asked, pair.repeat(2));
    let rows = fs::read_to_string(&csv).unwrap();
    assert_eq!(rows.lines().filter(|row| row.contains(&peer)).count(), 2, "{rows}");
}

#[test]
fn a_llama_bench_that_can_only_generate_behind_a_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let peer = llama_bench(folder.path(), "  -gp <pp,tg>   (default: )", ANSWER);
    let flags = ["--repeat", "1", "--context", "32", "--against", &peer, "--threads", "1"];
    let all = json(bench(&[&flags[..], &["--json"]].concat()));
    assert!(all["peers"][0]["prefill_ratio"].is_null());
    assert!(all["peers"][0]["decode_ratio"].as_f64().unwrap() > 0.0);
    let asked = fs::read_to_string(folder.path().join("asked")).unwrap();
    assert!(asked.ends_with("-p 0 -n 0 -gp 48,4\n") && asked.lines().count() == 1, "{asked}");
    let told = bench(&flags).good();
    assert!(told.stdout.contains("median of 1 pairs: decode"), "{}", told.stdout);
}

/// The first run of this engine and of the first pair are kept when a later process fails.
#[test]
fn what_was_measured_before_a_failure_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rows.csv");
    let once = format!("[ $(wc -l < {}/asked) -gt 2 ] && exit 3; {ANSWER}", folder.path().display());
    let peer = llama_bench(folder.path(), "  -d, --n-depth <n>", &once);
    let flags = ["--repeat", "3", "--against", &peer, "--json", "--csv", csv.to_str().unwrap()];
    let ended = bench(&flags);
    ended.failed_saying(&["llama-bench", "exit status: 3"]);
    let all: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(all["runs"].as_array().unwrap().len(), 2);
    assert_eq!(all["peers"][0]["runs"].as_array().unwrap().len(), 1);
    let rows = fs::read_to_string(&csv).unwrap();
    assert_eq!(rows.lines().count(), 1 + 2 + 1, "{rows}");
}

/// A budget that can't hold the model is refused before anything takes time.
#[test]
fn cases_are_planned_before_any_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rows.csv");
    let ended = bench(&["--memory", "none,1MiB", "--repeat", "1", "--csv", csv.to_str().unwrap()]);
    ended.failed_saying(&["--memory 1MiB", "can't hold this model"]);
    assert_eq!((ended.stdout.as_str(), fs::read_to_string(&csv).unwrap()), ("", String::new()));
}

#[test]
fn peers_that_start_cold_do_not_warm_up() {
    let folder = tempfile::tempdir().unwrap();
    let asked = |help: &str, start: &str| {
        let _ = fs::remove_file(folder.path().join("asked"));
        let peer = llama_bench(folder.path(), help, ANSWER);
        bench(&["--repeat", "1", "--against", &peer, "--start", start]).good();
        fs::read_to_string(folder.path().join("asked")).unwrap().matches("--no-warmup").count()
    };
    assert_eq!(asked("--n-depth --no-warmup", "cold"), 2);
    assert_eq!(asked("--n-depth --no-warmup", "fresh"), 0);
    assert_eq!(asked("--n-depth", "cold"), 0);
    let peer = llama_bench(folder.path(), "--n-depth", ANSWER);
    bench(&["--against", &peer, "--start", "cold,warm"]).failed_saying(&["--start warm", "--against"]);
    bench(&["--against", &peer, "--sessions", "2"]).failed_saying(&["--sessions 2", "--against"]);
}

/// The verb measures in processes of its own, whose flags must not come behind `--`.
#[test]
fn a_model_behind_two_hyphens() {
    let model = fixture(MOE);
    let json = json(membrane(&[&["bench"][..], &TASK, &["--repeat", "2", "--json", "--", &model]].concat()));
    assert_eq!(json["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn peers_that_fail_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let with = |help: &str, answer: &str| {
        let peer = llama_bench(folder.path(), help, answer);
        bench(&["--repeat", "1", "--against", &peer])
    };
    with("--n-depth", "echo out of memory >&2; exit 3").failed_saying(&["llama-bench", "out of memory"]);
    with("--n-depth", "echo nothing").failed_saying(&["llama-bench", "no JSON array"]);
    with("--n-depth", "echo '[{\"avg_ts\": 0}]'").failed_saying(&["llama-bench", "0 tokens a second"]);
    let two = "echo '[{\"avg_ts\": 1}, {\"avg_ts\": 1}]'";
    with("--n-depth", two).failed_saying(&["made 2 measurements", "--peer-args"]);
    with("nothing of use", ANSWER).failed_saying(&["neither -d nor -gp"]);
    bench(&["--against", "llama-bench=/nowhere"]).failed_saying(&["/nowhere", "no such program"]);
    bench(&["--against", "vllm"]).failed_saying(&["--against", "llama-bench=PATH"]);
    bench(&["--peer-args", "-fa 1"]).failed_saying(&["--against"]);
    bench(&["--against", "llama.cpp", "--peer-args", "-fa 1"])
        .failed_saying(&["--peer-args", "more of them"]);
}
