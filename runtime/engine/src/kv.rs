//! The KV cache: keys and values of a session in blocks that forks share.

use std::sync::Arc;

use membrane_kernels::{KvSlice, Precision};

use crate::error::Result;
use crate::hyper::{CacheWidths, Hyperparameters};
use crate::pool::{Charge, Pool};

/// Positions in a block.
pub(crate) const BLOCK: usize = 64;

/// Bytes that keys and values of one position take over all layers.
pub(crate) fn bytes_per_token(hyper: &Hyperparameters, precision: Precision) -> u64 {
    hyper.caches().map(|widths| Shape::new(widths, precision).bytes_per_token()).sum()
}

#[derive(Debug, Clone)]
enum Rows {
    F16(Box<[u16]>),
    F32(Box<[f32]>),
}

impl Rows {
    fn new(width: usize, precision: Precision) -> Self {
        match precision {
            Precision::Fast => Self::F16(vec![0; BLOCK * width].into()),
            Precision::Reference => Self::F32(vec![0.0; BLOCK * width].into()),
        }
    }

    fn slice(&self) -> KvSlice<'_> {
        match self {
            Self::F16(rows) => KvSlice::F16(rows),
            Self::F32(rows) => KvSlice::F32(rows),
        }
    }

    fn store(&mut self, row: usize, x: &[f32]) {
        match self {
            Self::F16(rows) => membrane_kernels::store_f16(x, &mut rows[row * x.len()..(row + 1) * x.len()]),
            Self::F32(rows) => rows[row * x.len()..(row + 1) * x.len()].copy_from_slice(x),
        }
    }
}

/// Keys and values of `BLOCK` positions of one layer.
#[derive(Debug)]
struct Block {
    keys: Rows,   // [BLOCK, kv_heads * head_dim]
    values: Rows, // [BLOCK, kv_heads * value_dim], or nothing where the key holds the values
    _charge: Charge,
}

impl Block {
    fn new(shape: Shape, pool: &Pool) -> Result<Self> {
        let charge = pool.take(BLOCK as u64 * shape.bytes_per_token())?;
        let (keys, values) =
            (Rows::new(shape.key_width, shape.precision), Rows::new(shape.value_width, shape.precision));
        Ok(Self { keys, values, _charge: charge })
    }

    fn copy(&self, shape: Shape, pool: &Pool) -> Result<Self> {
        let charge = pool.take(BLOCK as u64 * shape.bytes_per_token())?;
        Ok(Self { keys: self.keys.clone(), values: self.values.clone(), _charge: charge })
    }
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    key_width: usize,
    value_width: usize,
    precision: Precision,
}

impl Shape {
    fn new(widths: CacheWidths, precision: Precision) -> Self {
        Self { key_width: widths.key, value_width: widths.value, precision }
    }

    fn bytes_per_token(self) -> u64 {
        let element = if self.precision == Precision::Reference { 4 } else { 2 };
        (self.key_width + self.value_width) as u64 * element
    }
}

#[derive(Debug, Clone)]
struct Layer {
    blocks: Vec<Arc<Block>>,
    shape: Shape,
}

/// Keys and values of one session, of each layer with attention. A clone shares all blocks; a block is copied when one of
/// its sharers writes to it.
#[derive(Debug, Clone)]
pub(crate) struct KvCache {
    layers: Vec<Layer>,
    pool: Arc<Pool>,
}

impl KvCache {
    pub fn new(hyper: &Hyperparameters, precision: Precision, pool: &Arc<Pool>) -> Self {
        let layer = |widths| Layer { blocks: Vec::new(), shape: Shape::new(widths, precision) };
        Self { layers: hyper.caches().map(layer).collect(), pool: pool.clone() }
    }

    /// Makes room for positions up to `length`, those from `from` on writable.
    pub fn reserve(&mut self, from: usize, length: usize) -> Result<()> {
        for Layer { blocks, shape } in &mut self.layers {
            if let Some(shared) = blocks.get_mut(from / BLOCK)
                && Arc::get_mut(shared).is_none()
            {
                *shared = Arc::new(shared.copy(*shape, &self.pool)?);
            }
            while blocks.len() * BLOCK < length {
                blocks.push(Arc::new(Block::new(*shape, &self.pool)?));
            }
        }
        Ok(())
    }

    /// Stores keys [n, kv_heads * head_dim] and values [n, kv_heads * value_dim] of a layer from position
    /// `first` on; `reserve` has made room. Where the key holds the values there are none.
    pub fn store(&mut self, layer: usize, first: usize, keys: &[f32], values: &[f32]) {
        let Layer { blocks, shape } = &mut self.layers[layer];
        let Shape { key_width, value_width, .. } = *shape;
        for (row, key) in keys.chunks_exact(key_width).enumerate() {
            let (position, value) = (first + row, &values[row * value_width..(row + 1) * value_width]);
            if let Some(block) = Arc::get_mut(&mut blocks[position / BLOCK]) {
                block.keys.store(position % BLOCK, key);
                block.values.store(position % BLOCK, value);
            }
        }
    }

    /// The blocks of a layer that hold the first `length` positions.
    pub fn slices(&self, layer: usize, length: usize) -> (Vec<KvSlice<'_>>, Vec<KvSlice<'_>>) {
        let blocks = &self.layers[layer].blocks[..length.div_ceil(BLOCK)];
        blocks.iter().map(|block| (block.keys.slice(), block.values.slice())).unzip()
    }

    /// Drops what is behind the first `length` positions.
    pub fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            layer.blocks.truncate(length.div_ceil(BLOCK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::EngineError;

    fn cache(limit: u64) -> KvCache {
        let shape = Shape { key_width: 4, value_width: 2, precision: Precision::Reference };
        KvCache { layers: vec![Layer { blocks: Vec::new(), shape }; 2], pool: Pool::new(limit, 0) }
    }

    fn first_key(cache: &KvCache, layer: usize) -> f32 {
        match cache.slices(layer, 1).0[0] {
            KvSlice::F32(rows) => rows[0],
            KvSlice::F16(_) => f32::NAN,
        }
    }

    #[test]
    fn a_fork_keeps_its_rows_when_the_other_side_writes() {
        let mut a = cache(1 << 20);
        a.reserve(0, 1).unwrap();
        a.store(1, 0, &[1.0; 4], &[1.0; 2]);
        let b = a.clone();
        a.truncate(0);
        a.reserve(0, 1).unwrap();
        a.store(1, 0, &[2.0; 4], &[2.0; 2]);
        assert_eq!((first_key(&a, 1), first_key(&b, 1)), (2.0, 1.0));
        let mut c = b.clone();
        c.reserve(0, 2).unwrap();
        c.store(1, 0, &[3.0; 4], &[3.0; 2]);
        assert_eq!((first_key(&c, 1), first_key(&b, 1)), (3.0, 1.0));
    }

    #[test]
    fn the_pool_bounds_all_sharers_and_gets_blocks_back() {
        let block = (BLOCK * 6 * 4) as u64;
        let mut a = cache(2 * block);
        a.reserve(0, BLOCK).unwrap();
        assert!(matches!(a.reserve(0, BLOCK + 1), Err(EngineError::KvFull { .. })));
        a.truncate(0);
        a.reserve(0, BLOCK).unwrap();
    }
}
