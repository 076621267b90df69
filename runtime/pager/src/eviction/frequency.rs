//! Eviction by how often experts were used of late.

use super::Eviction;
use crate::catalog::ExpertKey;

/// For how many tokens the past counts: a use that is as many tokens old has a third of the weight of a new one. Routing follows
/// the text, so that much more remembers what no longer holds, and much less sees chance.
const WINDOW_TOKENS: u32 = 64;

/// Below it a layer's frequencies are scaled anew, so that they stay far from the smallest numbers.
const LEAST_SCALE: f64 = 1e-100;

/// Least frequency that an expert is taken to have, so that its wait is a number.
const LEAST_FREQUENCY: f64 = 1e-9;

/// Evicts what is expected to be needed last, from how often each expert was used of late and from the order in which a model asks:
/// layer after layer, round after round.
///
/// The frequency of an expert is the share of tokens that used it, older ones counting less; it is kept while the expert is not
/// in memory, and the tokens of a prompt count like those of an answer. An expert of frequency f is expected to be passed
/// over 1/f - 1 times after its layer's next turn. So what a prompt brought in for few of its tokens goes first, an expert
/// that was read for once doesn't displace those that are used often, and among experts alike those of the layer that was just
/// computed go before the others.
///
/// All frequencies of a layer fade alike, which never changes their order: each layer has a list in this order, and a victim costs
/// one comparison for each layer.
#[derive(Debug, Default)]
pub struct Frequency {
    layers: Vec<Layer>,
    /// The layer whose turn it is.
    current: usize,
    /// The expert in each slot.
    held: Vec<ExpertKey>,
}

#[derive(Debug, Default)]
struct Layer {
    /// For each expert its frequency, 0 to 1, divided by `scale`.
    scaled: Vec<f64>,
    scale: f64,
    /// What one use adds to `scaled` in this turn.
    gain: f64,
    /// Tokens seen, at most [`WINDOW_TOKENS`].
    seen: u32,
    /// Its slots, the least frequent first; of those alike, the oldest first.
    order: Vec<usize>,
}

impl Layer {
    fn new(experts: usize) -> Self {
        Self { scaled: vec![0.0; experts], scale: 1.0, ..Self::default() }
    }

    /// Lets frequencies fade for tokens that are yet to say what they use.
    fn turn(&mut self, rows: u32) {
        let rows = f64::from(rows.max(1));
        // One token more than were seen: the first ones tell little.
        let past = f64::from(self.seen) + 1.0;
        self.seen = (self.seen as f64 + rows).min(f64::from(WINDOW_TOKENS)) as u32;
        self.scale *= past / (past + rows);
        if self.scale < LEAST_SCALE {
            let scale = std::mem::replace(&mut self.scale, 1.0);
            self.scaled.iter_mut().for_each(|scaled| *scaled *= scale);
        }
        self.gain = 1.0 / (past + rows) / self.scale;
    }

    /// Puts a slot, which is not in the list, to its place.
    fn insert(&mut self, slot: usize, expert: u32, held: &[ExpertKey]) {
        let scaled = self.scaled[expert as usize];
        let at = self.order.partition_point(|&other| self.scaled[held[other].index as usize] <= scaled);
        self.order.insert(at, slot);
    }

    fn remove(&mut self, slot: usize) {
        if let Some(at) = self.order.iter().position(|&other| other == slot) {
            self.order.remove(at);
        }
    }
}

impl Frequency {
    /// The pager tells it the number of slots and experts.
    pub fn new() -> Self {
        Self::default()
    }

    /// In how many layers' time a slot's expert is expected to be needed.
    fn wait(&self, layer: usize, slot: usize) -> f64 {
        let layers = self.layers.len();
        let to_next_turn = (layer + layers - self.current - 1) % layers + 1;
        let Layer { scaled, scale, .. } = &self.layers[layer];
        let frequency = (scaled[self.held[slot].index as usize] * scale).max(LEAST_FREQUENCY);
        to_next_turn as f64 + layers as f64 * (1.0 / frequency - 1.0)
    }
}

impl Eviction for Frequency {
    fn prepare(&mut self, slots: usize, experts: &[usize]) {
        *self = Self {
            layers: experts.iter().map(|&experts| Layer::new(experts)).collect(),
            current: 0,
            held: vec![ExpertKey { group: 0, index: 0 }; slots],
        };
    }

    fn turn(&mut self, group: u32, rows: u32) {
        self.current = group as usize;
        self.layers[self.current].turn(rows);
    }

    fn asked(&mut self, key: ExpertKey, uses: u32) {
        let layer = &mut self.layers[key.group as usize];
        layer.scaled[key.index as usize] += layer.gain * f64::from(uses);
    }

    fn admitted(&mut self, slot: usize, key: ExpertKey) {
        self.held[slot] = key;
        self.layers[key.group as usize].insert(slot, key.index, &self.held);
    }

    fn touched(&mut self, slot: usize, key: ExpertKey) {
        let layer = &mut self.layers[key.group as usize];
        layer.remove(slot);
        layer.insert(slot, key.index, &self.held);
    }

    fn removed(&mut self, slot: usize) {
        self.layers[self.held[slot].group as usize].remove(slot);
    }

    /// Compares the first slots of all layers.
    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let first = |layer: &Layer| layer.order.iter().copied().find(|&slot| evictable(slot));
        let candidates = self.layers.iter().enumerate();
        let waits = candidates.filter_map(|(at, layer)| first(layer).map(|slot| (self.wait(at, slot), slot)));
        waits.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, slot)| slot)
    }
}
