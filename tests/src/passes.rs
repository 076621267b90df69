//! What a pass through a model shows, and how it compares with a golden file.

use std::collections::BTreeMap;

use membrane_engine::{DeltaState, Model, Observer};

use crate::golden::{Distance, Golden, distance};

/// Router choices count where the last chosen expert is ahead of the first rejected one by more than this.
const ROUTER_MARGIN: f32 = 1e-3;

/// What a pass shows.
#[derive(Default)]
pub struct Record {
    /// Of all positions, [positions, vocabulary].
    pub logits: Vec<f32>,
    /// The experts of each position, ascending, by layer.
    pub router: BTreeMap<usize, Vec<Vec<u32>>>,
    /// The states of delta-nets behind the last token, by layer.
    pub states: BTreeMap<usize, DeltaState>,
}

impl Record {
    /// That of a new session's first pass. Panics if that fails: a test can't go on without it.
    pub fn of(model: &Model, tokens: &[u32]) -> Self {
        let mut record = Self::default();
        model.session().append_observed(tokens, &mut record).expect("the prompt is computed");
        record
    }

    /// How far the logits are from a prompt's golden ones, of all positions or of the last.
    pub fn distance(&self, golden: &Golden, prompt: &str, vocabulary: usize) -> Distance {
        let whole = golden.f32(&format!("{prompt}.logits"));
        let wanted = whole.or_else(|| golden.f32(&format!("{prompt}.logits_last16"))).expect("golden logits");
        distance(&self.logits[self.logits.len() - wanted.len()..], &wanted, vocabulary)
    }

    /// Compares the choices of routers that are not too close with a prompt's golden ones, if there are any: how many there were,
    /// and which are others.
    pub fn choices(&self, golden: &Golden, prompt: &str) -> (usize, Vec<String>) {
        let (mut compared, mut others) = (0, Vec::new());
        for (layer, found) in &self.router {
            let Some(wanted) = golden.ids(&format!("{prompt}.router.{layer}.ids")) else { continue };
            let margins = golden.f32(&format!("{prompt}.router.{layer}.margin")).expect("golden margins");
            let wanted = wanted.chunks(wanted.len() / margins.len());
            for (row, ((found, wanted), margin)) in found.iter().zip(wanted).zip(margins).enumerate() {
                if margin > ROUTER_MARGIN {
                    compared += 1;
                    if found != wanted {
                        others.push(format!("{prompt} layer {layer} row {row}: {found:?}, not {wanted:?}"));
                    }
                }
            }
        }
        (compared, others)
    }
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

/// The largest difference of two elements; NaN if one is.
pub fn largest_difference(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let differences = found.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}
