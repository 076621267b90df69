//! Rotary positions.

use crate::ops::{CHEAP_TASK, check_rows, rows_per_task};
use crate::parallel::Region;

/// Rotary positions of a layer (Su et al. 2021).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Dimensions of a head that are rotated; even.
    pub dims: usize,
    /// Base of the frequencies: pair i turns by `base^(-2 i / dims)` radians a position, but for the scaling.
    pub base: f32,
    /// How a context is extended beyond that of the training.
    pub scaling: RopeScaling,
    /// Pairs are (i, i + dims / 2) as in GPT-NeoX; otherwise neighbours, (2 i, 2 i + 1).
    pub neox: bool,
}

/// How rotary positions are stretched over a longer context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by it (Chen et al. 2023).
    Linear(f32),
    /// By the wavelength of a pair.
    Yarn(Yarn),
    /// By the wavelength of a pair, as Llama 3 does it.
    Llama3(Llama3),
}

/// How Llama 3 extends contexts (Grattafiori et al. 2024, and the configuration of its checkpoints): pairs that turn seldom
/// within the original context are slowed down by the whole factor, those that turn often not at all, those between by a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    /// How many times longer the context becomes.
    pub factor: f32,
    /// Turns within the original context up to which a pair is slowed down wholly.
    pub low_turns: f32,
    /// Turns from which on it stays as it is; more than `low_turns`.
    pub high_turns: f32,
    /// Positions of the original context.
    pub original_context: u32,
}

/// YaRN (Peng et al. 2023): pairs that turn often within the original context stay as they are, those that turn seldom are
/// slowed down by the factor, and those between are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer the context becomes.
    pub factor: f32,
    /// Positions of the original context.
    pub original_context: u32,
    /// Turns within the original context from which on a pair stays as it is.
    pub beta_fast: f32,
    /// Turns up to which a pair is slowed down wholly.
    pub beta_slow: f32,
    /// The two pairs where mixing begins and ends are rounded outwards to whole ones.
    pub whole_pairs: bool,
    /// Factor on the rotated queries and keys.
    pub magnitude: f32,
}

impl Rope {
    /// Radians a position of each pair, before any factors of the model: [dims / 2].
    fn frequencies(&self) -> Vec<f64> {
        let pairs = self.dims / 2;
        let plain = |i: usize| f64::from(self.base).powf(-2.0 * i as f64 / self.dims as f64);
        match &self.scaling {
            RopeScaling::None => (0..pairs).map(plain).collect(),
            RopeScaling::Linear(factor) => (0..pairs).map(|i| plain(i) / f64::from(*factor)).collect(),
            RopeScaling::Yarn(yarn) => {
                let (first, last) = yarn.mixed_pairs(self.dims, self.base);
                let mixed = |i: usize| {
                    let slowed = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                    plain(i) * ((1.0 - slowed) + slowed / f64::from(yarn.factor))
                };
                (0..pairs).map(mixed).collect()
            }
            RopeScaling::Llama3(llama) => (0..pairs).map(|i| plain(i) / llama.divisor(plain(i))).collect(),
        }
    }

    fn magnitude(&self) -> f64 {
        match &self.scaling {
            RopeScaling::None | RopeScaling::Linear(_) | RopeScaling::Llama3(_) => 1.0,
            RopeScaling::Yarn(yarn) => f64::from(yarn.magnitude),
        }
    }
}

impl Llama3 {
    /// What the frequency of a pair, in radians a position, is divided by; single precision, as GGUF files store it.
    fn divisor(&self, frequency: f64) -> f64 {
        let turns = f64::from(self.original_context) * frequency / std::f64::consts::TAU;
        let (low, high) = (f64::from(self.low_turns), f64::from(self.high_turns));
        let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        f64::from((1.0 / ((1.0 - share) / f64::from(self.factor) + share)) as f32)
    }
}

impl Yarn {
    /// The pair behind which pairs are slowed down, and the one from which on they are wholly.
    fn mixed_pairs(&self, dims: usize, base: f32) -> (f64, f64) {
        let pair = |turns: f32| {
            let wavelength = f64::from(self.original_context) / (f64::from(turns) * std::f64::consts::TAU);
            dims as f64 * wavelength.ln() / (2.0 * f64::from(base).ln())
        };
        let (mut first, mut last) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.whole_pairs {
            (first, last) = (first.floor(), last.ceil());
        }
        (first.max(0.0), last.min(dims as f64 - 1.0))
    }
}

/// Cosines and sines of the rotation of each position, made once and shared by all layers and instruction
/// sets.
pub struct RopeTable {
    frequencies: Vec<f64>, // [dims / 2], radians a position
    magnitude: f64,
    neox: bool,
    pub(super) rotations: Vec<f32>, // [positions, 2, dims / 2], cosines then sines
}

impl RopeTable {
    /// A table with no positions yet. The frequency of pair i is divided by `factors[i]`.
    ///
    /// # Panics
    /// If `dims` is odd or there are factors, but not `dims / 2`.
    pub fn new(rope: &Rope, factors: Option<&[f32]>) -> Self {
        let dims = rope.dims;
        assert!(dims.is_multiple_of(2), "rope: {dims} dimensions are not pairs");
        assert!(factors.is_none_or(|f| f.len() == dims / 2), "rope: a factor for each pair is needed");
        let mut frequencies = rope.frequencies();
        for (frequency, factor) in frequencies.iter_mut().zip(factors.unwrap_or_default()) {
            *frequency /= f64::from(*factor);
        }
        Self { frequencies, magnitude: rope.magnitude(), neox: rope.neox, rotations: Vec::new() }
    }

    /// Bytes of a table for `positions` positions.
    pub fn bytes(dims: usize, positions: usize) -> usize {
        dims * positions * size_of::<f32>()
    }

    /// Positions that the table has.
    pub fn positions(&self) -> usize {
        self.rotations.len().checked_div(self.dims()).unwrap_or(usize::MAX)
    }

    /// Makes room for `positions` positions without making them, so that [`RopeTable::extend`] does not
    /// allocate.
    pub fn reserve(&mut self, positions: usize) {
        let wanted = self.dims() * positions;
        self.rotations.reserve_exact(wanted.saturating_sub(self.rotations.len()));
    }

    /// Makes the rotations of the positions below `positions` that are missing.
    pub fn extend(&mut self, positions: usize) {
        for position in self.positions()..positions {
            let angles = self.frequencies.iter().map(|frequency| frequency * position as f64);
            self.rotations.extend(angles.clone().map(|angle| (angle.cos() * self.magnitude) as f32));
            self.rotations.extend(angles.map(|angle| (angle.sin() * self.magnitude) as f32));
        }
    }

    fn dims(&self) -> usize {
        2 * self.frequencies.len()
    }
}

/// Rotates `x` [n, heads, head_dim], whose rows are at the positions from `position` on; of each head the columns from
/// `column` on, as many as the table has dimensions.
///
/// Canonical: (a, b) becomes (a cos - b sin, a sin + b cos), each product and each sum rounded.
///
/// # Panics
/// If `x` is not whole rows, a head ends before the columns, or the table lacks a position.
pub fn rope(
    region: &Region<'_>,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    column: usize,
    position: usize,
    table: &RopeTable,
) {
    let width = check_rows("rope", x.len(), heads * head_dim);
    let n = x.len() / width;
    let dims = table.dims();
    assert!(column + dims <= head_dim, "rope: {dims} dimensions from {column} on in heads of {head_dim}");
    assert!(position + n <= table.positions(), "rope: the table ends before position {}", position + n);
    if dims == 0 {
        return;
    }
    let rotate = if table.neox { rotate_halves } else { rotate_neighbours };
    let rows_each = rows_per_task(CHEAP_TASK, width);
    region.run_chunks(x, rows_each * width, |task, x| {
        let rotations = table.rotations.chunks_exact(dims).skip(position + task * rows_each);
        for (row, rotation) in x.chunks_exact_mut(width).zip(rotations) {
            let (cos, sin) = rotation.split_at(dims / 2);
            for head in row.chunks_exact_mut(head_dim) {
                rotate(&mut head[column..column + dims], cos, sin);
            }
        }
    });
}

fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

fn rotate_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = head.as_chunks_mut::<2>();
    for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}
