//! `membrane model inspect` and `membrane doctor`.

use serde_json::Value;

use crate::program::{MOE, fixture, membrane};

#[test]
fn a_model_is_described() {
    let run = membrane(&["model", "inspect", &fixture(MOE)]).good();
    for part in [
        "GGUF version 3",
        "architecture: qwen3moe",
        "24 experts",
        "Q8_0",
        "memory plan:",
        "tokenizer.ggml.model",
    ] {
        assert!(run.stdout.contains(part), "`{part}` is not in:\n{}", run.stdout);
    }
}

#[test]
fn a_model_is_described_in_json() {
    let run = membrane(&["model", "inspect", &fixture(MOE), "--json", "--memory", "1GiB"]).good();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["architecture"], "qwen3moe");
    assert_eq!(report["problem"], Value::Null);
    assert_eq!(report["plan"]["budget"], 1 << 30);
    assert_eq!(report["plan"]["experts"], 4 * 24);
    let of_types: u64 =
        report["tensors"].as_object().unwrap().values().map(|t| t["parameters"].as_u64().unwrap()).sum();
    assert_eq!(report["parameters"].as_u64().unwrap(), of_types);
    assert_eq!(report["metadata"]["general.architecture"], "qwen3moe");
}

#[test]
fn a_budget_that_is_too_small_is_a_finding() {
    let run = membrane(&["model", "inspect", &fixture(MOE), "--memory", "8MiB"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("this build can't run it: --memory 8MiB"), "{}", run.stdout);
}

#[test]
fn the_doctor_reports() {
    let run = membrane(&["doctor", "--json", "--disk", &fixture(MOE)]);
    assert!(run.code == Some(0) || run.code == Some(1), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(report["processors"].as_u64().unwrap() > 0);
    assert!(report["memory_read_gb_s"].as_f64().unwrap() > 0.1);
    let plugins = report["first_party_plugins"].as_array().unwrap();
    let names: Vec<&str> = plugins.iter().map(|plugin| plugin["name"].as_str().unwrap()).collect();
    for name in ["standard-sampler", "greedy", "mirostat", "system-prompt", "guard", "calculator", "clock"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(report["plugin_contract"], "membrane:plugin@0.1.0");
}
