//! Hidden states and logits that are no numbers, and which tensor they come from.
//!
//! A weight or a scale that is not finite makes each later state so, and nothing else in a pass notices. So what a layer gives is
//! looked at once, which costs next to nothing, and only where it is not finite the weights of that layer are.

use std::sync::atomic::{AtomicBool, Ordering};

use membrane_kernels::Region;
use membrane_pager::Pager;

use crate::error::{EngineError, Result};
use crate::model::{Compute, Core};
use crate::weights::{Block, ExpertMatrix, FeedForward};

/// Elements that are worth a task.
const TASK_ELEMS: usize = 1 << 15;

/// Error: what a layer gave is not finite. Names the tensor of the layer that is not, of experts those that the pass used.
pub(crate) fn layer(
    core: &Core,
    region: &Region<'_>,
    index: usize,
    block: &Block,
    rows: usize,
    compute: &mut Compute,
) -> Result<()> {
    if all(region, &compute.scratch.hidden[..rows * core.hyper.stream_width()]) {
        return Ok(());
    }
    if let Some(error) = resident(core, index) {
        return Err(error);
    }
    if let (FeedForward::Moe(moe), Some(pager)) = (&block.ffn, &compute.pager)
        && let Some(error) = expert(core, index, moe.matrices(), pager, compute.routing.wanted())?
    {
        return Err(error);
    }
    Err(overflow(core, index))
}

/// The error of numbers in a layer that are not finite, where only its resident weights have gone into them.
pub(crate) fn in_layer(core: &Core, index: usize) -> EngineError {
    resident(core, index).unwrap_or_else(|| overflow(core, index))
}

fn resident(core: &Core, index: usize) -> Option<EngineError> {
    core.layout.not_finite(&core.checkpoint, &core.resident, Some(index))
}

fn overflow(core: &Core, index: usize) -> EngineError {
    EngineError::Overflow { path: core.checkpoint.path().to_owned(), at: format!("layer {index}") }
}

/// Error: embeddings or logits, `what` for messages, are not finite.
pub(crate) fn outside_layers(core: &Core, region: &Region<'_>, what: &str, x: &[f32]) -> Result<()> {
    if all(region, x) {
        return Ok(());
    }
    let overflow = || EngineError::Overflow { path: core.checkpoint.path().to_owned(), at: what.to_owned() };
    Err(core.layout.not_finite(&core.checkpoint, &core.resident, None).unwrap_or_else(overflow))
}

/// The error of the first of these experts that has a number which is not finite.
fn expert(
    core: &Core,
    layer: usize,
    matrices: [&ExpertMatrix; 3],
    pager: &Pager,
    experts: &[u32],
) -> Result<Option<EngineError>> {
    let mut request = pager.request(layer as u32, experts);
    while let Some(ready) = request.next_ready()? {
        for lease in &ready.leases {
            let parts = matrices.iter().enumerate();
            let broken = parts.filter(|(part, matrix)| !matrix.is_finite(lease, *part)).map(|(_, m)| m);
            if let Some(matrix) = broken.min_by_key(|matrix| matrix.name()) {
                let tensor = matrix.name().of(lease.index());
                let place = core.layout.expert_file(layer, lease.index());
                return Ok(Some(EngineError::not_finite(&core.checkpoint, place, tensor)));
            }
        }
    }
    Ok(None)
}

/// Whether all are finite.
fn all(region: &Region<'_>, x: &[f32]) -> bool {
    let broken = AtomicBool::new(false);
    region.run(x.len().div_ceil(TASK_ELEMS), |task| {
        let x = &x[task * TASK_ELEMS..x.len().min((task + 1) * TASK_ELEMS)];
        if !is_finite(x) {
            broken.store(true, Ordering::Relaxed);
        }
    });
    !broken.into_inner()
}

/// Whether all are finite; without a branch for each, so that it is done in vectors.
pub(crate) fn is_finite(x: &[f32]) -> bool {
    // Magnitudes order like their bits, infinities and NaNs above all.
    let largest = x.iter().fold(0i32, |largest, x| largest.max((x.to_bits() & 0x7FFF_FFFF) as i32));
    largest < f32::INFINITY.to_bits() as i32
}

#[cfg(test)]
mod tests {
    use super::is_finite;

    #[test]
    fn what_is_no_number_is_found_wherever_it_stands() {
        let mut x = vec![f32::MAX; 37];
        x[3] = f32::MIN;
        assert!(is_finite(&x) && is_finite(&[]) && is_finite(&[-0.0]));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 17, 36] {
                let mut x = x.clone();
                x[place] = bad;
                assert!(!is_finite(&x), "{bad} {place}");
            }
        }
    }
}
