//! Routers from clusters of real hidden states, so that routing follows the text.
//!
//! Tokens are clustered by direction (spherical k-means); an expert's row of the router is its cluster's
//! centre. What all centres share is taken out, since it adds the same to every logit, and the rest is scaled
//! to a chosen spread.

use crate::noise::{Noise, Stream};
use std::ops::Range;

/// Rounds of k-means; the assignment hardly moves after these.
const ROUNDS: usize = 12;

/// A layer's router, and how it routes the tokens that it was made from.
pub struct Router {
    /// [experts, width].
    pub weights: Vec<f32>,
    /// How it routes.
    pub routing: Routing,
}

/// How a router treats a text.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// Load of the busiest expert, as a multiple of an even share.
    pub busiest: f64,
    /// Fraction of the experts that were chosen at all.
    pub used: f64,
    /// Fraction of a token's experts that the next token chose too.
    pub kept: f64,
}

/// Rows of equal width.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, index: usize) -> &'a [f32] {
        &self.values[self.range(index)]
    }

    fn range(&self, index: usize) -> Range<usize> {
        index * self.width..(index + 1) * self.width
    }

    fn len(&self) -> usize {
        self.values.len() / self.width
    }
}

/// Makes a layer's router from `states` [tokens, width], one row for each of at least `experts` tokens.
pub fn make(
    states: &[f32],
    width: usize,
    experts: usize,
    top_k: usize,
    deviation: f32,
    noise: (u64, usize),
) -> Router {
    let (seed, layer) = noise;
    let states = Rows { values: states, width };
    let mut directions = states.values.to_vec();
    directions.chunks_exact_mut(width).for_each(normalise);
    let directions = Rows { values: &directions, width };
    let mut noise = Noise::new(seed, Stream::Router { layer });
    let mut weights = clusters(directions, experts, &mut noise);
    centre(&mut weights, width);
    let logits = logits(states, &weights);
    let scale = deviation / mean_deviation(&logits, experts);
    weights.iter_mut().for_each(|weight| *weight *= scale);
    Router { routing: routing(&logits, experts, top_k), weights }
}

/// Spherical k-means: centres [experts, width] of length 1.
fn clusters(directions: Rows<'_>, experts: usize, noise: &mut Noise) -> Vec<f32> {
    let width = directions.width;
    let mut centres = Vec::with_capacity(experts * width);
    for index in choose(directions.len(), experts, noise) {
        centres.extend_from_slice(directions.row(index));
    }
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0_f32; experts * width];
        let mut members = vec![0_usize; experts];
        let rows = Rows { values: &centres, width };
        for token in 0..directions.len() {
            let direction = directions.row(token);
            let similar = |expert: usize| dot(direction, rows.row(expert));
            let nearest = best((0..experts).map(similar));
            members[nearest] += 1;
            for (sum, value) in sums[rows.range(nearest)].iter_mut().zip(direction) {
                *sum += value;
            }
        }
        for (sum, count) in sums.chunks_exact_mut(width).zip(&members) {
            if *count == 0 {
                sum.copy_from_slice(directions.row(noise.below(directions.len())));
            }
            normalise(sum);
        }
        centres = sums;
    }
    centres
}

/// `count` different numbers below `limit`.
fn choose(limit: usize, count: usize, noise: &mut Noise) -> Vec<usize> {
    let mut all: Vec<usize> = (0..limit).collect();
    for at in 0..count {
        let other = at + noise.below(limit - at);
        all.swap(at, other);
    }
    all.truncate(count);
    all
}

/// Takes the mean row from every row.
fn centre(rows: &mut [f32], width: usize) {
    let count = (rows.len() / width) as f32;
    let mut mean = vec![0.0_f32; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / count);
    }
    for row in rows.chunks_exact_mut(width) {
        row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
    }
}

/// [tokens, experts].
fn logits(states: Rows<'_>, weights: &[f32]) -> Vec<f32> {
    let width = states.width;
    let of_token = |token| weights.chunks_exact(width).map(move |row| dot(states.row(token), row));
    (0..states.len()).flat_map(of_token).collect()
}

/// Mean over tokens of the standard deviation over experts.
fn mean_deviation(logits: &[f32], experts: usize) -> f32 {
    let deviation = |row: &[f32]| {
        let mean = row.iter().sum::<f32>() / experts as f32;
        let squares: f32 = row.iter().map(|logit| (logit - mean).powi(2)).sum();
        (squares / (experts - 1) as f32).sqrt()
    };
    let tokens = logits.chunks_exact(experts);
    let count = tokens.len() as f32;
    // Tokens that are all alike have no spread to scale; any positive number leaves such logits at zero.
    (tokens.map(deviation).sum::<f32>() / count).max(f32::MIN_POSITIVE)
}

fn routing(logits: &[f32], experts: usize, top_k: usize) -> Routing {
    let mut load = vec![0_usize; experts];
    let mut before: Vec<usize> = Vec::new();
    let mut kept = 0;
    let tokens = logits.chunks_exact(experts);
    let count = tokens.len();
    for row in tokens {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order.truncate(top_k);
        order.iter().for_each(|expert| load[*expert] += 1);
        kept += order.iter().filter(|expert| before.contains(expert)).count();
        before = order;
    }
    let chosen = (count * top_k) as f64;
    let busiest = load.iter().max().map_or(0.0, |most| *most as f64 * experts as f64 / chosen);
    let used = load.iter().filter(|load| **load > 0).count() as f64 / experts as f64;
    Routing { busiest, used, kept: kept as f64 / ((count.max(2) - 1) * top_k) as f64 }
}

fn normalise(row: &mut [f32]) {
    let length = dot(row, row).sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|value| *value /= length);
    }
}

/// The first of the largest.
fn best(values: impl Iterator<Item = f32>) -> usize {
    let mut found = (0, f32::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > found.1 {
            found = (index, value);
        }
    }
    found.0
}

/// In eight lanes and a fixed order, so that the compiler can use vectors and the result is the same
/// everywhere.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let ((left_chunks, left_tail), (right_chunks, right_tail)) =
        (left.as_chunks::<8>(), right.as_chunks::<8>());
    let tail: f32 = left_tail.iter().zip(right_tail).map(|(l, r)| l * r).sum();
    for (l, r) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..8 {
            lanes[lane] += l[lane] * r[lane];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens around three directions in runs of ten, with a common offset.
    fn three_groups() -> Vec<f32> {
        let mut noise = Noise::new(9, Stream::Text);
        let mut states = Vec::new();
        for token in 0..300 {
            let mut row = vec![0.5_f32; 12];
            row[token / 10 % 3] += 4.0;
            row.iter_mut().for_each(|value| *value += noise.unit() as f32 * 0.2);
            states.extend(row);
        }
        states
    }

    #[test]
    fn finds_the_groups_and_the_spread() {
        let states = three_groups();
        let router = make(&states, 12, 3, 1, 1.5, (1, 0));
        let logits = logits(Rows { values: &states, width: 12 }, &router.weights);
        assert!((mean_deviation(&logits, 3) - 1.5).abs() < 1e-3);
        assert!((router.routing.used - 1.0).abs() < 1e-9 && router.routing.busiest < 1.01);
        // Runs of ten: nine of ten tokens keep their expert.
        assert!((router.routing.kept - 0.9).abs() < 0.02, "{}", router.routing.kept);
    }

    #[test]
    fn the_same_seed_gives_the_same_router() {
        let states = three_groups();
        let weights = |seed| make(&states, 12, 5, 2, 1.0, (seed, 3)).weights;
        assert_eq!(weights(4), weights(4));
        assert_ne!(weights(4), weights(5));
    }

    #[test]
    fn equal_tokens_give_a_router_of_zeros_and_no_nan() {
        let router = make(&[1.0_f32; 12 * 20], 12, 4, 2, 1.0, (1, 0));
        assert!(router.weights.iter().all(|weight| weight.is_finite()));
    }
}
