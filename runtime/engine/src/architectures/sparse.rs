//! What chooses the positions of sparse attention.

use crate::error::Result;
use crate::hyper::{Indexer, Layer, Mixer};
use crate::keys::{Keys, MAX_COUNT, MAX_WIDTH};

const RATIOS: &str = "attention.compress_ratios";
const BUDGET: &str = "attention.indexer.top_k";
/// Most positions in a block of an index; published models have 4.
const MAX_RATIO: u32 = 1 << 16;
/// Positions in a block where a file has the tensors of an indexer and a ratio of 0: converters wrote that for configurations
/// whose layers go by another name, and all models of this kind were trained with 4.
const USUAL_RATIO: usize = 4;

/// The indexer of each layer of attention.
pub(super) fn indexers(keys: &Keys<'_>, layers: &[Layer]) -> Result<Vec<Option<Indexer>>> {
    let heads = keys.count("attention.indexer.head_count", MAX_COUNT)?;
    let dim = keys.count("attention.indexer.key_length", MAX_WIDTH)?;
    let budget = keys.count(BUDGET, u32::MAX)?;
    let ratios = ratios(keys, layers.len())?;
    let of_layer = |(index, layer): (usize, &Layer)| {
        let Mixer::Attention(attention) = &layer.mixer else { return Ok(None) };
        let ratio = match ratios[index] {
            0 if keys.checkpoint.holds(&format!("blk.{index}.indexer.k_proj.weight")) => USUAL_RATIO,
            0 => return Ok(None),
            ratio => ratio,
        };
        keys.rule(BUDGET, budget, budget.is_multiple_of(ratio), || {
            format!("it must be a multiple of the {ratio} positions of a block, as {RATIOS} has them")
        })?;
        keys.rule("attention.indexer.key_length", dim, attention.rope.dims <= dim, || {
            format!("the {} rotated dimensions must fit in it", attention.rope.dims)
        })?;
        Ok(Some(Indexer { heads, dim, ratio, blocks: budget / ratio }))
    };
    layers.iter().enumerate().map(of_layer).collect()
}

/// Positions in a block for each layer: one number for all, or a list, with or without blocks for multi-token prediction.
fn ratios(keys: &Keys<'_>, layers: usize) -> Result<Vec<usize>> {
    if !keys.is_array(RATIOS) {
        return Ok(vec![keys.optional_count(RATIOS, MAX_RATIO)?.unwrap_or(0); layers]);
    }
    let listed = keys.numbers(RATIOS)?.unwrap_or_default();
    keys.rule(RATIOS, format!("{} values", listed.len()), listed.len() >= layers, || {
        format!("there are {layers} layers")
    })?;
    if let Some(ratio) = listed.iter().find(|&&ratio| ratio > MAX_RATIO) {
        return Err(keys.broken(RATIOS, ratio, format!("a block has at most {MAX_RATIO} positions")));
    }
    Ok(listed[..layers].iter().map(|&ratio| ratio as usize).collect())
}
