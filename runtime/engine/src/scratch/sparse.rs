//! What the choice of positions of sparse attention works in.

use membrane_kernels::{ChoiceScratch, KvSlice};

use crate::hyper::Hyperparameters;
use crate::kv::BLOCK;

/// Most queries whose positions are chosen at a time.
const CHOICE_ROWS: usize = 64;

/// How large the buffers must be; all 0 where no attention is sparse.
#[derive(Debug, Clone, Copy)]
pub(super) struct SparseShape {
    rows: usize,
    /// Fewest positions in a block of an index.
    ratio: usize,
    /// Most parts of the cache that a query's positions lie in.
    parts: usize,
}

impl SparseShape {
    pub fn new(hyper: &Hyperparameters, chunk: usize) -> Self {
        let ratio = hyper.indexers().map(|indexer| indexer.ratio).min();
        let rows = if ratio.is_some() { chunk.min(CHOICE_ROWS) } else { 0 };
        let parts = hyper.indexers().map(|indexer| {
            indexer.blocks.saturating_add(1).saturating_mul(indexer.ratio / part_positions(indexer.ratio))
        });
        Self { rows, ratio: ratio.unwrap_or(1), parts: parts.max().unwrap_or(0) }
    }

    /// Blocks of an index in a context of so many positions.
    fn blocks(&self, context: usize) -> usize {
        context / self.ratio
    }

    /// Bytes of the buffers, with the lists of parts of the cache that are made for each query.
    pub fn bytes(&self, context: usize) -> usize {
        let parts = if self.rows > 0 { 2 * self.parts.min(context) * size_of::<KvSlice<'_>>() } else { 0 };
        ChoiceScratch::bytes(self.rows, self.blocks(context)) + parts
    }
}

/// Positions of one of the parts into which the chosen positions are cut: a block of an index, or what divides it and a block of
/// the cache, so that a part lies in one of these.
pub(crate) fn part_positions(ratio: usize) -> usize {
    let (mut a, mut b) = (ratio, BLOCK);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The buffers.
pub(crate) struct SparseScratch {
    /// Queries whose positions are chosen at a time.
    pub rows: usize,
    pub choice: ChoiceScratch,
}

impl SparseScratch {
    pub(super) fn new(shape: &SparseShape, context: usize) -> Self {
        Self { rows: shape.rows, choice: ChoiceScratch::new(shape.rows, shape.blocks(context)) }
    }
}
