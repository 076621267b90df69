//! What sparse attention goes over: for each query the blocks of positions whose keys of an index score best.
//!
//! Canonical, for one query and block: the sum over the index's heads, in order, of the positive part of dot(query, key) (16
//! lanes and the tree), divided by the square root of the heads' width. The best blocks are chosen; among equals those that come
//! first, and NaN is worse than any number. A query's choice depends on nothing but itself and the keys.

use crate::parallel::{DisjointSlice, Region};
use crate::simd::{Simd, dispatch, dot};

/// Slices of keys whose scores are one task.
const TASK_SLICES: usize = 16;

/// Keys of consecutive blocks.
#[derive(Clone, Copy, Debug)]
pub struct IndexKeys<'a> {
    /// The block that the first of them belongs to.
    pub first: usize,
    /// [any number, dim].
    pub keys: &'a [f32],
}

/// One call of [`choose_blocks`].
#[derive(Clone, Copy, Debug)]
pub struct ChoiceArgs<'a> {
    /// Queries of the index: `[n, heads, dim]`.
    pub queries: &'a [f32],
    /// Heads of a query.
    pub heads: usize,
    /// Width of a head and of a key.
    pub dim: usize,
    /// Keys of all blocks from the first on, in order.
    pub keys: &'a [IndexKeys<'a>],
    /// Positions in a block. A query sees the blocks that end at its own position at the latest.
    pub ratio: usize,
    /// Position of the first query; the others follow it.
    pub first_position: usize,
    /// Blocks that are chosen for each query; fewer than it sees.
    pub chosen: usize,
}

/// Memory that [`choose_blocks`] works in, made once.
pub struct ChoiceScratch {
    blocks: usize,
    scores: Vec<f32>, // [rows, blocks]
    order: Vec<u32>,  // [rows, blocks], of which the first are those chosen
    chosen: usize,
}

impl ChoiceScratch {
    /// For up to `rows` queries that see up to `blocks` blocks.
    pub fn new(rows: usize, blocks: usize) -> Self {
        Self { blocks, scores: vec![0.0; rows * blocks], order: vec![0; rows * blocks], chosen: 0 }
    }

    /// Bytes of such scratch.
    pub fn bytes(rows: usize, blocks: usize) -> usize {
        rows.saturating_mul(blocks).saturating_mul(size_of::<f32>() + size_of::<u32>())
    }

    /// The blocks that the last call chose for a query, ascending.
    pub fn chosen(&self, query: usize) -> &[u32] {
        &self.order[query * self.blocks..][..self.chosen]
    }
}

/// Chooses for each query the blocks that it attends to; [`ChoiceScratch::chosen`] has them then.
///
/// # Panics
/// If a length does not fit, a query sees no more blocks than are chosen, or there are more than the scratch was made for.
pub fn choose_blocks(region: &Region<'_>, args: &ChoiceArgs<'_>, scratch: &mut ChoiceScratch) {
    let ChoiceArgs { queries, heads, dim, keys, ratio, first_position, chosen } = *args;
    let width = heads * dim;
    assert!(width > 0 && queries.len().is_multiple_of(width) && ratio > 0, "choose_blocks: queries");
    let n = queries.len() / width;
    let sees = |query: usize| (first_position + query + 1) / ratio;
    assert!(chosen > 0 && chosen < sees(0), "choose_blocks: {chosen} of {} blocks", sees(0));
    let most = sees(n.max(1) - 1);
    let there = keys.last().map_or(0, |last| last.first + last.keys.len() / dim);
    assert!(most <= there && most <= scratch.blocks, "choose_blocks: {most} blocks");
    assert!(n * scratch.blocks <= scratch.scores.len(), "choose_blocks: {n} queries");
    let (isa, stride) = (region.isa(), scratch.blocks);
    let pieces = keys.len().div_ceil(TASK_SLICES);
    let all = DisjointSlice::new(&mut scratch.scores);
    region.run(n * pieces, |task| {
        let (query, piece) = (task / pieces, task % pieces);
        for slice in keys.iter().skip(piece * TASK_SLICES).take(TASK_SLICES) {
            let end = (slice.first + slice.keys.len() / dim).min(sees(query));
            if slice.first < end {
                // SAFETY: each task has blocks of a query of its own.
                let out = unsafe { all.range(query * stride + slice.first..query * stride + end) };
                score(isa, &queries[query * width..(query + 1) * width], dim, slice.keys, out);
            }
        }
    });
    let scores = &scratch.scores[..];
    region.run_chunks(&mut scratch.order[..n * stride], stride, |query, order| {
        let seen = sees(query);
        choose(&scores[query * stride..][..seen], chosen, &mut order[..seen]);
    });
    scratch.chosen = chosen;
}

dispatch! {
    fn score(query: &[f32], dim: usize, keys: &[f32], out: &mut [f32]) => score_keys;
}

#[inline(always)]
fn score_keys<S: Simd>(s: S, query: &[f32], dim: usize, keys: &[f32], out: &mut [f32]) {
    let root = (dim as f32).sqrt();
    for (key, out) in keys.chunks_exact(dim).zip(out) {
        let mut sum = 0.0;
        for head in query.chunks_exact(dim) {
            let product = dot(s, head, key);
            // A NaN stays one.
            sum += if product < 0.0 { 0.0 } else { product };
        }
        *out = sum / root;
    }
}

/// Puts the indices of the best scores to the front of `order`, ascending.
fn choose(scores: &[f32], chosen: usize, order: &mut [u32]) {
    for (index, place) in order.iter_mut().enumerate() {
        *place = index as u32;
    }
    let score = |index: u32| {
        let score = scores[index as usize];
        if score.is_nan() { f32::NEG_INFINITY } else { score }
    };
    order.select_nth_unstable_by(chosen - 1, |&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    order[..chosen].sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::parallel::Team;

    const DIM: usize = 20;
    const HEADS: usize = 3;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mix = |i: u32| (i ^ seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B) >> 8;
        (0..count as u32).map(|i| mix(i) as f32 / (1 << 22) as f32 - 2.0).collect()
    }

    /// The choice by a full sort of sums in f64.
    fn wanted(query: &[f32], keys: &[f32], seen: usize, chosen: usize) -> Vec<u32> {
        let product =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let score = |key: &[f32]| query.chunks(DIM).map(|head| product(head, key).max(0.0)).sum::<f64>();
        let scores: Vec<f64> = keys.chunks(DIM).take(seen).map(score).collect();
        let mut order: Vec<u32> = (0..seen as u32).collect();
        order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
        order.truncate(chosen);
        order.sort_unstable();
        order
    }

    #[test]
    fn the_best_blocks_are_chosen_however_the_keys_are_cut() {
        let (blocks, n, first_position) = (300, 5, 500);
        let (keys, queries) = (numbers(blocks * DIM, 1), numbers(n * HEADS * DIM, 2));
        for ratio in [2, 3] {
            for (cut, chosen) in [(300, 1), (16, 40), (7, 100), (1, 166)] {
                let slices: Vec<_> = keys.chunks(cut * DIM).enumerate().collect();
                let slices: Vec<_> =
                    slices.into_iter().map(|(i, keys)| IndexKeys { first: i * cut, keys }).collect();
                for isa in Isa::available() {
                    let args = ChoiceArgs {
                        queries: &queries,
                        heads: HEADS,
                        dim: DIM,
                        keys: &slices,
                        ratio,
                        first_position,
                        chosen,
                    };
                    let mut scratch = ChoiceScratch::new(n, blocks);
                    Team::new(3, isa).region(|region| choose_blocks(region, &args, &mut scratch));
                    for query in 0..n {
                        let seen = (first_position + query + 1) / ratio;
                        let own = &queries[query * HEADS * DIM..(query + 1) * HEADS * DIM];
                        assert_eq!(scratch.chosen(query), wanted(own, &keys, seen, chosen), "{ratio} {cut}");
                    }
                }
            }
        }
    }

    #[test]
    fn among_equals_the_first_and_before_nothing_that_is_no_number() {
        let mut order = [0; 6];
        choose(&[0.0, 2.0, f32::NAN, 2.0, 2.0, 0.0], 2, &mut order);
        assert_eq!(order[..2], [1, 3]);
        choose(&[0.0, 2.0, f32::NAN, 2.0, 2.0, 0.0], 5, &mut order);
        assert_eq!(order[..5], [0, 1, 3, 4, 5]);
    }
}
