//! The router of a mixture: which experts a token goes to, and with what weights.

use membrane_kernels::{Activations, Product, Region, matmul, ops};

use crate::error::Result;
use crate::finite::{self, is_finite};
use crate::hyper::{ExpertGroups, Moe, Scores};
use crate::model::Core;
use crate::moe::Routing;
use crate::scratch::Scratch;
use crate::weights::MoeBlock;

/// Chooses the experts of each row of `s.input`: their ids and weights into `routing`, best first. `index`: of the layer. Errors:
/// scores that are no numbers.
pub(crate) fn route(
    core: &Core,
    region: &Region<'_>,
    index: usize,
    block: &MoeBlock,
    rows: usize,
    s: &mut Scratch,
    routing: &mut Routing,
) -> Result<()> {
    let moe = &block.shape;
    let scores = &mut s.router[..rows * moe.experts];
    score(core, region, block, &s.input, scores)?;
    // Sigmoids and choices would hide it: such an expert is never chosen.
    if !is_finite(scores) {
        return Err(finite::in_layer(core, index));
    }
    routing.ids.clear();
    routing.weights.clear();
    for row in scores.chunks_exact_mut(moe.experts) {
        let first = routing.ids.len();
        rank(region, row, block, &mut routing.ids);
        let chosen = &routing.ids[first..];
        routing.weights.extend(chosen.iter().map(|&id| row[id as usize]));
        weigh(moe, &mut routing.weights[first..]);
    }
    Ok(())
}

/// Guesses which experts a later layer will ask for: those that its router chooses for the residual stream as it is before this
/// layer's feed-forward: [rows, top_k], the likeliest of each row first; none where scores are no numbers.
///
/// Eliseev and Mazur, "Fast Inference of Mixture-of-Experts Language Models with Offloading", 2023.
pub(crate) fn foresee(
    core: &Core,
    region: &Region<'_>,
    norm: &[f32],
    block: &MoeBlock,
    rows: usize,
    s: &mut Scratch,
) -> Result<Vec<u32>> {
    let hidden = core.hyper.hidden;
    let guess = &mut s.foresight;
    let normed = &mut guess.normed[..rows * hidden];
    ops::rms_norm(region, &s.hidden[..rows * hidden], norm, core.hyper.norm_eps, normed);
    guess.input.set(region, rows, hidden, normed, core.precision);
    let scores = &mut guess.scores[..rows * block.shape.experts];
    score(core, region, block, &guess.input, scores)?;
    let mut ids = Vec::new();
    if is_finite(scores) {
        scores.chunks_exact_mut(block.shape.experts).for_each(|row| rank(region, row, block, &mut ids));
    }
    Ok(ids)
}

/// The router's scores of all rows of an input: [rows, experts].
fn score(
    core: &Core,
    region: &Region<'_>,
    block: &MoeBlock,
    input: &Activations,
    scores: &mut [f32],
) -> Result<()> {
    let weights = core.resident.matrix(&block.router)?;
    let output = &mut *scores;
    matmul(region, core.precision, &mut [Product { weights, input, input_rows: None, output }]);
    if let Some(bias) = &block.router_bias {
        ops::add_bias(region, scores, bias);
    }
    Ok(())
}

/// Makes probabilities, or what the router has in their place, of a row of scores, and appends the chosen experts, best first.
fn rank(region: &Region<'_>, row: &mut [f32], block: &MoeBlock, ids: &mut Vec<u32>) {
    match block.shape.router.scores {
        Scores::Softmax => ops::softmax(region, row),
        Scores::Sigmoid => ops::sigmoids(region, row),
    }
    choose(row, &block.shape, block.choice_bias.as_deref(), ids);
}

/// The best k experts of a row, from the best groups where there are any.
fn choose(scores: &[f32], moe: &Moe, bias: Option<&[f32]>, ids: &mut Vec<u32>) {
    if bias.is_none() && moe.router.groups.is_none() {
        return ops::top_k(scores, moe.top_k, ids);
    }
    let mut scores = scores.to_vec();
    for (score, bias) in scores.iter_mut().zip(bias.unwrap_or_default()) {
        *score += bias;
    }
    if let Some(groups) = moe.router.groups {
        keep_best_groups(&mut scores, groups);
    }
    ops::top_k(&scores, moe.top_k, ids);
}

/// Leaves to experts outside the best groups no score at all.
fn keep_best_groups(scores: &mut [f32], groups: ExpertGroups) {
    let size = scores.len() / groups.count;
    let mut best = Vec::with_capacity(groups.best);
    let mut sum = |group: &[f32]| -> f32 {
        best.clear();
        ops::top_k(group, groups.best, &mut best);
        best.iter().map(|&expert| group[expert as usize]).sum()
    };
    let sums: Vec<f32> = scores.chunks_exact(size).map(&mut sum).collect();
    let mut used = Vec::with_capacity(groups.used);
    ops::top_k(&sums, groups.used, &mut used);
    for (group, scores) in scores.chunks_exact_mut(size).enumerate() {
        if !used.contains(&(group as u32)) {
            scores.fill(f32::NEG_INFINITY);
        }
    }
}

fn weigh(moe: &Moe, weights: &mut [f32]) {
    if moe.router.normalise {
        // Sigmoids can all be 0.
        let sum = weights.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    if moe.router.scale != 1.0 {
        weights.iter_mut().for_each(|weight| *weight *= moe.router.scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyper::{Glu, Router};

    fn moe(experts: usize, top_k: usize, groups: Option<ExpertGroups>) -> Moe {
        let router =
            Router { scores: Scores::Sigmoid, choice_bias: true, groups, normalise: true, scale: 2.5 };
        Moe { experts, top_k, inner: 32, shared: None, router, biased: false, glu: Glu::SwiGlu }
    }

    fn chosen(scores: &[f32], moe: &Moe, bias: Option<&[f32]>) -> Vec<u32> {
        let mut ids = Vec::new();
        choose(scores, moe, bias, &mut ids);
        ids
    }

    #[test]
    fn experts_come_from_the_groups_whose_best_are_best() {
        // Sums of the best two: 1.0, 1.3, 0.3, 1.2. The best expert of all is in a group that is left out.
        let scores = [0.99, 0.01, 0.0, 0.7, 0.6, 0.0, 0.1, 0.2, 0.0, 0.6, 0.6, 0.5];
        let groups = |best| Some(ExpertGroups { count: 4, used: 2, best });
        assert_eq!(chosen(&scores, &moe(12, 4, groups(2)), None), [3, 4, 9, 10]);
        assert_eq!(chosen(&scores, &moe(12, 4, groups(1)), None), [0, 3, 4, 1]);
        assert_eq!(chosen(&scores, &moe(12, 2, None), None), [0, 3]);
        let one = ExpertGroups { count: 12, used: 3, best: 2 };
        assert_eq!(chosen(&scores, &moe(12, 3, Some(one)), None), [0, 3, 4]);
    }

    #[test]
    fn a_bias_is_for_choosing_only() {
        let scores = [0.5, 0.4, 0.3, 0.2];
        let bias = [0.0, 0.0, 0.0, 1.0];
        let moe = moe(4, 2, None);
        let ids = chosen(&scores, &moe, Some(&bias));
        assert_eq!(ids, [3, 0]);
        let mut weights: Vec<f32> = ids.iter().map(|&id| scores[id as usize]).collect();
        weigh(&moe, &mut weights);
        assert!((weights[0] - 2.5 * 0.2 / 0.7).abs() < 1e-6 && (weights[1] - 2.5 * 0.5 / 0.7).abs() < 1e-6);
        let mut none = [0.0, 0.0];
        weigh(&moe, &mut none);
        assert_eq!(none, [0.0, 0.0]);
    }
}
