//! The KV cache: keys and values of a session in blocks that forks share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use membrane_kernels::{KvSlice, Precision};

use crate::error::{EngineError, Result};
use crate::hyper::Hyperparameters;
use crate::plan::Bytes;

/// Positions in a block.
pub(crate) const BLOCK: usize = 64;

/// Bytes that keys and values of one position take over all layers.
pub(crate) fn bytes_per_token(hyper: &Hyperparameters, precision: Precision) -> u64 {
    let element = if precision == Precision::Reference { 4 } else { 2 };
    (hyper.blocks * (hyper.key_width() + hyper.value_width()) * element) as u64
}

/// Counts the bytes of all blocks of all sessions of a model against a ceiling.
#[derive(Debug)]
pub(crate) struct KvPool {
    limit: u64,
    used: AtomicU64,
}

impl KvPool {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    fn take(&self, bytes: u64) -> Result<()> {
        let taken = self.used.try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (used + bytes <= self.limit).then_some(used + bytes)
        });
        taken.map(|_| ()).map_err(|_| EngineError::KvFull { limit: Bytes(self.limit) })
    }
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

    fn bytes(&self) -> u64 {
        match self {
            Self::F16(rows) => 2 * rows.len() as u64,
            Self::F32(rows) => 4 * rows.len() as u64,
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
    values: Rows, // [BLOCK, kv_heads * value_dim]
    pool: Arc<KvPool>,
}

impl Block {
    fn new(shape: &Shape, pool: &Arc<KvPool>) -> Result<Self> {
        let element = if shape.precision == Precision::Reference { 4 } else { 2 };
        pool.take((BLOCK * (shape.key_width + shape.value_width) * element) as u64)?;
        Ok(Self {
            keys: Rows::new(shape.key_width, shape.precision),
            values: Rows::new(shape.value_width, shape.precision),
            pool: pool.clone(),
        })
    }

    fn copy(&self) -> Result<Self> {
        self.pool.take(self.bytes())?;
        Ok(Self { keys: self.keys.clone(), values: self.values.clone(), pool: self.pool.clone() })
    }

    fn bytes(&self) -> u64 {
        self.keys.bytes() + self.values.bytes()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
struct Shape {
    key_width: usize,
    value_width: usize,
    precision: Precision,
}

/// Keys and values of one session. A clone shares all blocks; a block is copied when one of its sharers
/// writes to it.
#[derive(Debug, Clone)]
pub(crate) struct KvCache {
    layers: Vec<Vec<Arc<Block>>>,
    shape: Shape,
    pool: Arc<KvPool>,
}

impl KvCache {
    pub fn new(hyper: &Hyperparameters, precision: Precision, pool: &Arc<KvPool>) -> Self {
        let shape = Shape { key_width: hyper.key_width(), value_width: hyper.value_width(), precision };
        Self { layers: vec![Vec::new(); hyper.blocks], shape, pool: pool.clone() }
    }

    /// Makes room for positions up to `length`, those from `from` on writable.
    pub fn reserve(&mut self, from: usize, length: usize) -> Result<()> {
        for blocks in &mut self.layers {
            if let Some(shared) = blocks.get_mut(from / BLOCK)
                && Arc::get_mut(shared).is_none()
            {
                *shared = Arc::new(shared.copy()?);
            }
            while blocks.len() * BLOCK < length {
                blocks.push(Arc::new(Block::new(&self.shape, &self.pool)?));
            }
        }
        Ok(())
    }

    /// Stores keys [n, kv_heads * head_dim] and values [n, kv_heads * value_dim] of a layer from position
    /// `first` on; `reserve` has made room.
    pub fn store(&mut self, layer: usize, first: usize, keys: &[f32], values: &[f32]) {
        let rows = keys.chunks_exact(self.shape.key_width).zip(values.chunks_exact(self.shape.value_width));
        for (position, (key, value)) in (first..).zip(rows) {
            if let Some(block) = Arc::get_mut(&mut self.layers[layer][position / BLOCK]) {
                block.keys.store(position % BLOCK, key);
                block.values.store(position % BLOCK, value);
            }
        }
    }

    /// The blocks of a layer that hold the first `length` positions.
    pub fn slices(&self, layer: usize, length: usize) -> (Vec<KvSlice<'_>>, Vec<KvSlice<'_>>) {
        let blocks = &self.layers[layer][..length.div_ceil(BLOCK)];
        blocks.iter().map(|block| (block.keys.slice(), block.values.slice())).unzip()
    }

    /// Drops what is behind the first `length` positions.
    pub fn truncate(&mut self, length: usize) {
        for blocks in &mut self.layers {
            blocks.truncate(length.div_ceil(BLOCK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(limit: u64) -> KvCache {
        let shape = Shape { key_width: 4, value_width: 2, precision: Precision::Reference };
        KvCache { layers: vec![Vec::new(); 2], shape, pool: KvPool::new(limit) }
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
