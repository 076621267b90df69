//! Eviction by how often experts were used of late.

use super::Eviction;
use crate::catalog::ExpertKey;
use crate::usage::GroupUsage;

/// For how many tokens the past counts: a use that is as many tokens old has a third of the weight of a new one. Routing follows
/// the text, so that much more remembers what no longer holds, and much less sees chance.
const WINDOW_TOKENS: u32 = 64;

/// For how many tokens what earlier runs saw counts, at most: another text may use other experts.
const EXPECTED_TOKENS: u32 = 16;

/// What is left of earlier observations of repeats after each turn of a layer.
const REPEATS_FADE: f64 = 0.9995;

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
/// Where tokens use again what the one before used, more often than frequencies alone would make them, the experts of the last
/// token are taken for as much likelier: how much is measured over all layers.
///
/// All frequencies of a layer fade alike, which never changes their order: each layer has a list in this order, and a victim costs
/// a look at its beginning and at the experts of the last token for each layer.
#[derive(Debug, Default)]
pub struct Frequency {
    layers: Vec<Layer>,
    /// The layer whose turn it is.
    current: usize,
    /// The expert in each slot.
    held: Vec<ExpertKey>,
    repeats: Repeats,
}

/// How often experts of the last token are used again, beyond what their frequencies say. Older observations fade.
#[derive(Debug, Default)]
struct Repeats {
    /// Experts that could have been used again.
    chances: f64,
    /// How many of them would have been by their frequencies.
    expected: f64,
    /// How many were.
    seen: f64,
}

impl Repeats {
    /// Probability that an expert of the last token is used again because it was used, 0 to 1.
    fn excess(&self) -> f64 {
        let unexplained = self.chances - self.expected + 1.0;
        ((self.seen - self.expected) / unexplained).clamp(0.0, 1.0)
    }

    fn turn(&mut self, expected: f64, chances: usize) {
        for total in [&mut self.chances, &mut self.expected, &mut self.seen] {
            *total *= REPEATS_FADE;
        }
        self.chances += chances as f64;
        self.expected += expected;
    }
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
    /// Tokens of the pass that the last turn was for.
    rows: u32,
    /// Experts of the last token; none if it was one of several in a pass.
    last: Vec<u32>,
    /// Those of the token before it.
    before: Vec<u32>,
    /// For each expert the slot that it has, if it has one.
    slots: Vec<Option<usize>>,
    /// These slots, the least frequent first; of those alike, the oldest first.
    order: Vec<usize>,
}

impl Layer {
    fn new(experts: usize) -> Self {
        Self { scaled: vec![0.0; experts], scale: 1.0, slots: vec![None; experts], ..Self::default() }
    }

    /// Lets frequencies fade for tokens that are yet to say what they use.
    fn turn(&mut self, rows: u32) {
        self.before = std::mem::take(&mut self.last);
        self.rows = rows;
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
        self.slots[expert as usize] = Some(slot);
    }

    fn remove(&mut self, slot: usize, expert: u32) {
        self.slots[expert as usize] = None;
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
        let Layer { scaled, scale, last, .. } = &self.layers[layer];
        let expert = self.held[slot].index;
        let frequency = (scaled[expert as usize] * scale).clamp(LEAST_FREQUENCY, 1.0);
        let again = if last.contains(&expert) { self.repeats.excess() } else { 0.0 };
        let frequency = frequency + (1.0 - frequency) * again;
        to_next_turn as f64 + layers as f64 * (1.0 / frequency - 1.0)
    }
}

impl Eviction for Frequency {
    fn prepare(&mut self, slots: usize, experts: &[usize]) {
        *self = Self {
            layers: experts.iter().map(|&experts| Layer::new(experts)).collect(),
            current: 0,
            held: vec![ExpertKey { group: 0, index: 0 }; slots],
            repeats: Repeats::default(),
        };
    }

    fn expect(&mut self, group: u32, usage: &GroupUsage) -> bool {
        let Some(layer) = self.layers.get_mut(group as usize) else { return false };
        layer.seen = usage.tokens.min(u64::from(EXPECTED_TOKENS)) as u32;
        for (index, scaled) in layer.scaled.iter_mut().enumerate() {
            *scaled = usage.share(index) / layer.scale;
        }
        true
    }

    fn turn(&mut self, group: u32, rows: u32) {
        self.current = group as usize;
        let layer = &mut self.layers[self.current];
        let frequency = |&expert: &u32| layer.scaled[expert as usize] * layer.scale;
        if rows == 1 {
            self.repeats.turn(layer.last.iter().map(frequency).sum(), layer.last.len());
        }
        layer.turn(rows);
    }

    fn asked(&mut self, key: ExpertKey, uses: u32) {
        let layer = &mut self.layers[key.group as usize];
        layer.scaled[key.index as usize] += layer.gain * f64::from(uses);
        if layer.rows == 1 {
            layer.last.push(key.index);
            self.repeats.seen += f64::from(u8::from(layer.before.contains(&key.index)));
        }
    }

    fn admitted(&mut self, slot: usize, key: ExpertKey) {
        self.held[slot] = key;
        self.layers[key.group as usize].insert(slot, key.index, &self.held);
    }

    fn touched(&mut self, slot: usize, key: ExpertKey) {
        let layer = &mut self.layers[key.group as usize];
        layer.remove(slot, key.index);
        layer.insert(slot, key.index, &self.held);
    }

    fn removed(&mut self, slot: usize) {
        let ExpertKey { group, index } = self.held[slot];
        self.layers[group as usize].remove(slot, index);
    }

    /// Compares, of each layer, the least frequent of what the last token used and of the others.
    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let mut farthest: Option<(f64, usize)> = None;
        for (at, layer) in self.layers.iter().enumerate() {
            let of_last = layer.last.iter().filter_map(|&expert| layer.slots[expert as usize]);
            let of_last = of_last.filter(|&slot| evictable(slot)).map(|slot| (self.wait(at, slot), slot));
            let of_others = |slot: &usize| !layer.last.contains(&self.held[*slot].index);
            let other = layer.order.iter().copied().filter(of_others).find(|&slot| evictable(slot));
            let other = other.map(|slot| (self.wait(at, slot), slot));
            farthest = of_last.chain(other).chain(farthest).max_by(|(a, _), (b, _)| a.total_cmp(b));
        }
        farthest.map(|(_, slot)| slot)
    }
}
