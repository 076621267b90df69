//! Folders as models are published, against the reference outputs of their checkpoints: logits, routers, greedy continuations,
//! recurrent states. Where the reference is not there, folders made of the fixtures are compared with what they were made of.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use membrane_engine::{Architecture, DeltaState, LoadOptions, Model, Observer, Precision, Prepared};
use membrane_formats::Checkpoint;
use membrane_tests::golden::{Golden, distance};
use membrane_tests::references;

/// Largest difference of logits.
const LOGITS_MAX_ABS: f32 = 2e-3;
/// Largest difference of an element of a recurrent state.
const STATE_MAX_ABS: f32 = 1e-3;
/// Router choices count where the last chosen expert is ahead of the first rejected one by more than this.
const ROUTER_MARGIN: f32 = 1e-3;

/// A folder with its golden outputs.
struct Case {
    name: String,
    folder: PathBuf,
    golden: Golden,
}

/// Every reference folder of an architecture that the engine runs.
fn cases() -> Vec<Case> {
    let roots = references().into_iter().filter(|root| root.join("models").is_dir());
    let folders = roots.flat_map(|root| {
        let entries = std::fs::read_dir(root.join("models")).unwrap();
        entries.map(move |entry| (root.clone(), entry.unwrap().path())).collect::<Vec<_>>()
    });
    let mut found: Vec<Case> = folders
        .filter(|(_, folder)| {
            folder.to_str().unwrap().contains("tiny-")
                && Checkpoint::open(folder).is_ok_and(|checkpoint| Architecture::of(&checkpoint).is_ok())
        })
        .map(|(root, folder)| {
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let golden = Golden::read(&root.join(format!("golden/{name}.safetensors")));
            Case { name, folder, golden }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        println!("the reference checkpoints are not on this machine: nothing was compared");
    }
    found
}

fn load(folder: &Path, precision: Precision) -> Model {
    let options = LoadOptions { precision, context: Some(512), threads: Some(2), ..LoadOptions::default() };
    Prepared::open(folder, &options).unwrap().load(&mut |_, _| {}).unwrap()
}

/// What a pass shows.
#[derive(Default)]
struct Record {
    logits: Vec<f32>,
    router: BTreeMap<usize, Vec<Vec<u32>>>,
    states: BTreeMap<usize, DeltaState>,
}

impl Observer for Record {
    fn router(&mut self, layer: usize, rows: usize, ids: &[u32], _weights: &[f32]) {
        let sorted = ids.chunks(ids.len() / rows).map(|row| {
            let mut row = row.to_vec();
            row.sort_unstable();
            row
        });
        self.router.entry(layer).or_default().extend(sorted);
    }

    fn delta_state(&mut self, layer: usize, state: &DeltaState) {
        self.states.insert(layer, state.clone());
    }

    fn logits(&mut self, _position: usize, logits: &[f32]) {
        self.logits.extend_from_slice(logits);
    }

    fn wants_logits(&self) -> bool {
        true
    }
}

fn record(model: &Model, tokens: &[u32]) -> Record {
    let mut record = Record::default();
    model.session().append_observed(tokens, &mut record).unwrap();
    record
}

fn largest_difference(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let differences = found.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[test]
fn logits_and_routers_are_the_references() {
    let mut failures = Vec::new();
    for Case { name, folder, golden } in cases() {
        let model = load(&folder, Precision::Reference);
        let mut compared = 0;
        for prompt in ["p1", "p7", "p64", "p300"] {
            let tokens = golden.ids(&format!("{prompt}.input_ids")).unwrap();
            let record = record(&model, &tokens);
            let whole = golden.f32(&format!("{prompt}.logits"));
            let wanted = whole.or_else(|| golden.f32(&format!("{prompt}.logits_last16"))).unwrap();
            let vocabulary = model.hyperparameters().vocabulary;
            let found = distance(&record.logits[record.logits.len() - wanted.len()..], &wanted, vocabulary);
            println!("{name} {prompt}: {found:?}");
            if found.max_abs.is_nan() || found.max_abs > LOGITS_MAX_ABS {
                failures.push(format!("{name} {prompt}: {found:?}"));
            }
            for (layer, found) in record.router {
                let wanted = golden.ids(&format!("{prompt}.router.{layer}.ids")).unwrap();
                let margins = golden.f32(&format!("{prompt}.router.{layer}.margin")).unwrap();
                let wanted = wanted.chunks(wanted.len() / margins.len());
                for (row, ((found, wanted), margin)) in found.iter().zip(wanted).zip(margins).enumerate() {
                    if margin > ROUTER_MARGIN {
                        compared += 1;
                        if found != wanted {
                            failures.push(format!("{name} {prompt} layer {layer} row {row}"));
                        }
                    }
                }
            }
        }
        println!("{name}: {compared} choices of routers compared");
        assert_eq!(compared > 0, model.hyperparameters().moes().next().is_some(), "{name}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn greedy_continuations_are_the_references() {
    for Case { name, folder, golden } in cases() {
        let model = load(&folder, Precision::Reference);
        for prompt in ["p7", "p64"] {
            let compared = golden.assert_greedy(&mut model.session(), prompt, &name);
            assert!(compared > 0, "{name} {prompt}: nothing was compared");
        }
    }
}

#[test]
fn recurrent_states_are_the_references() {
    for Case { name, folder, golden } in cases() {
        let model = load(&folder, Precision::Reference);
        let record = record(&model, &golden.ids("p64.input_ids").unwrap());
        assert_eq!(record.states.len(), model.hyperparameters().delta_nets().count());
        for (layer, state) in record.states {
            let wanted = golden.f32(&format!("p64.state.{layer}.recurrent")).unwrap();
            let memory = largest_difference(&state.memory(), &wanted);
            // All inputs that the convolution sees, the newest last; the state has no need of the oldest.
            let wanted = golden.f32(&format!("p64.state.{layer}.conv")).unwrap();
            let shape = model.hyperparameters().delta_nets().next().unwrap().shape;
            let kernel = wanted.len() / shape.channels();
            let tap = |tap: usize| wanted.iter().skip(tap).step_by(kernel).copied();
            let history = largest_difference(state.history(), &(1..kernel).flat_map(tap).collect::<Vec<_>>());
            println!("{name} layer {layer}: memory {memory:e}, history {history:e}");
            assert!(memory < STATE_MAX_ABS && history < STATE_MAX_ABS, "{name} layer {layer}");
        }
    }
}

#[test]
fn the_fast_path_is_near() {
    for Case { name, folder, golden } in cases() {
        let model = load(&folder, Precision::Fast);
        for prompt in ["p7", "p64"] {
            let logits = record(&model, &golden.ids(&format!("{prompt}.input_ids")).unwrap()).logits;
            let wanted = golden.f32(&format!("{prompt}.logits")).unwrap();
            let found = distance(&logits, &wanted, model.hyperparameters().vocabulary);
            println!("{name} {prompt}: {found:?}");
            assert!(found.nmse < 1e-2, "{name} {prompt}: {found:?}");
        }
    }
}
