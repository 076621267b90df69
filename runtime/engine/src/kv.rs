//! The KV cache: keys and values of a session in blocks that forks share.

use std::sync::Arc;

use membrane_kernels::quant::store_row;
use membrane_kernels::{Format, IndexKeys, KvSlice, Region};

use crate::error::{EngineError, Result};
use crate::hyper::{CacheWidths, Hyperparameters, Indexer};
use crate::pool::{Charge, Pool};
use crate::precision::Precision;

/// Positions in a block.
pub(crate) const BLOCK: usize = 64;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// IEEE half precision; with [`Precision::Reference`] single precision.
    #[default]
    F16,
    /// Blocks of 32 x 8 bits and a scale: about half of that. Changes what is computed.
    Q8_0,
    /// Blocks of 32 x 4 bits and a scale: about 28 % of that. Changes what is computed, and noticeably.
    Q4_0,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8_0, Self::Q4_0];

    /// The name in flags and records: `q8_0`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What rows of a cache are then.
    pub(crate) fn stored(self, precision: Precision) -> Format {
        match (self, precision) {
            (Self::F16, Precision::Reference) => Format::F32,
            (Self::F16, _) => Format::F16,
            (Self::Q8_0, _) => Format::Q8_0,
            (Self::Q4_0, _) => Format::Q4_0,
        }
    }
}

/// Bytes that keys and values of [`BLOCK`] positions take over all layers.
///
/// # Errors
/// The heads are not whole blocks of the format.
pub(crate) fn bytes_per_block(hyper: &Hyperparameters, stored: Format) -> Result<u64> {
    let block = stored.block_elems();
    let whole = |width: usize| {
        let odd = || {
            EngineError::Option(format!(
                "--kv-cache: {stored} keeps {block} numbers in a block, and heads of {width} are no whole blocks: take f16"
            ))
        };
        if width.is_multiple_of(block) { Ok(()) } else { Err(odd()) }
    };
    for attention in hyper.attentions() {
        whole(attention.head_dim)?;
        whole(attention.value_dim)?;
    }
    for latent in hyper.latents() {
        whole(latent.key_width())?;
        whole(latent.kv_rank)?;
    }
    Ok(hyper.caches().map(|widths| Shape::new(widths, stored).bytes_per_block()).sum())
}

#[derive(Debug, Clone)]
enum Rows {
    F16(Box<[u16]>),
    F32(Box<[f32]>),
    Blocks(Format, Box<[u8]>),
}

impl Rows {
    fn new(width: usize, stored: Format) -> Self {
        match stored {
            Format::F16 => Self::F16(vec![0; BLOCK * width].into()),
            Format::F32 => Self::F32(vec![0.0; BLOCK * width].into()),
            blocks => Self::Blocks(blocks, vec![0; BLOCK * row_bytes(blocks, width)].into()),
        }
    }

    fn slice(&self) -> KvSlice<'_> {
        match self {
            Self::F16(rows) => KvSlice::F16(rows),
            Self::F32(rows) => KvSlice::F32(rows),
            Self::Blocks(Format::Q8_0, rows) => KvSlice::Q8_0(rows),
            Self::Blocks(_, rows) => KvSlice::Q4_0(rows),
        }
    }

    fn store(&mut self, row: usize, x: &[f32]) {
        match self {
            Self::F16(rows) => membrane_kernels::store_f16(x, &mut rows[row * x.len()..(row + 1) * x.len()]),
            Self::F32(rows) => rows[row * x.len()..(row + 1) * x.len()].copy_from_slice(x),
            Self::Blocks(format, rows) => {
                let bytes = row_bytes(*format, x.len());
                store_row(*format, x, &mut rows[row * bytes..(row + 1) * bytes]);
            }
        }
    }
}

/// Keys and values of `BLOCK` positions of one layer.
#[derive(Debug)]
struct Block {
    keys: Rows,   // [BLOCK, kv_heads * head_dim]
    values: Rows, // [BLOCK, kv_heads * value_dim], or nothing where the key holds the values
    index: Index,
    _charge: Charge,
}

/// What an indexer keeps of the positions of a block; nothing where there is none. Its numbers are never rounded: they decide
/// which positions count.
#[derive(Debug, Clone, Default)]
struct Index {
    /// Of each position, not yet normed.
    keys: Box<[f32]>, // [BLOCK, dim]
    /// Of the indexer's blocks that end here.
    blocks: Box<[f32]>, // [most that can, dim]
}

impl Index {
    fn new(indexer: Option<Indexer>) -> Self {
        let floats = |rows: usize| vec![0.0; rows * indexer.map_or(0, |indexer| indexer.dim)].into();
        Self { keys: floats(BLOCK), blocks: floats(indexer.map_or(0, most_ends)) }
    }
}

/// Most of an indexer's blocks that end in one block of the cache.
fn most_ends(indexer: Indexer) -> usize {
    BLOCK.div_ceil(indexer.ratio)
}

/// The first of the indexer's blocks that end in a block of the cache or behind it.
fn first_end(indexer: Indexer, block: usize) -> usize {
    block * BLOCK / indexer.ratio
}

impl Block {
    fn new(shape: Shape, pool: &Pool) -> Result<Self> {
        let charge = pool.take(shape.bytes_per_block())?;
        let (keys, values) =
            (Rows::new(shape.key_width, shape.stored), Rows::new(shape.value_width, shape.stored));
        Ok(Self { keys, values, index: Index::new(shape.indexer), _charge: charge })
    }

    fn copy(&self, shape: Shape, pool: &Pool) -> Result<Self> {
        let charge = pool.take(shape.bytes_per_block())?;
        let (keys, values, index) = (self.keys.clone(), self.values.clone(), self.index.clone());
        Ok(Self { keys, values, index, _charge: charge })
    }
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    key_width: usize,
    value_width: usize,
    stored: Format,
    indexer: Option<Indexer>,
}

/// Bytes of a row; that it is whole blocks was checked when the model was opened.
fn row_bytes(stored: Format, width: usize) -> usize {
    stored.row_bytes(width).unwrap_or_default()
}

impl Shape {
    fn new(widths: CacheWidths, stored: Format) -> Self {
        Self { key_width: widths.key, value_width: widths.value, stored, indexer: widths.indexer }
    }

    fn bytes_per_block(self) -> u64 {
        let row = row_bytes(self.stored, self.key_width) + row_bytes(self.stored, self.value_width);
        let index = |indexer: Indexer| (BLOCK + most_ends(indexer)) * indexer.dim * size_of::<f32>();
        (BLOCK * row + self.indexer.map_or(0, index)) as u64
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
    pub fn new(hyper: &Hyperparameters, stored: Format, pool: &Arc<Pool>) -> Self {
        let layer = |widths| Layer { blocks: Vec::new(), shape: Shape::new(widths, stored) };
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
    /// `first` on, several blocks at a time; `reserve` has made room. Where the key holds the values there are none.
    pub fn store(&mut self, region: &Region<'_>, layer: usize, first: usize, keys: &[f32], values: &[f32]) {
        let Layer { blocks, shape } = &mut self.layers[layer];
        let Shape { key_width, value_width, .. } = *shape;
        let end = first + keys.len() / key_width;
        let touched = blocks[..end.div_ceil(BLOCK)].iter_mut().enumerate().skip(first / BLOCK);
        let mut parts: Vec<_> =
            touched.filter_map(|(index, block)| Some((index * BLOCK, Arc::get_mut(block)?))).collect();
        region.run_chunks(&mut parts, 1, |_, parts| {
            for (begin, block) in parts {
                for position in first.max(*begin)..end.min(*begin + BLOCK) {
                    let row = position - first;
                    block.keys.store(position - *begin, &keys[row * key_width..(row + 1) * key_width]);
                    block
                        .values
                        .store(position - *begin, &values[row * value_width..(row + 1) * value_width]);
                }
            }
        });
    }

    /// The blocks of a layer that hold the first `length` positions.
    pub fn slices(&self, layer: usize, length: usize) -> (Vec<KvSlice<'_>>, Vec<KvSlice<'_>>) {
        let blocks = &self.layers[layer].blocks[..length.div_ceil(BLOCK)];
        blocks.iter().map(|block| (block.keys.slice(), block.values.slice())).unzip()
    }

    /// Stores an indexer's keys [n, dim] of a layer from position `first` on; `reserve` has made room.
    pub fn store_index(&mut self, layer: usize, first: usize, keys: &[f32]) {
        let Layer { blocks, shape: Shape { indexer: Some(indexer), .. } } = &mut self.layers[layer] else {
            return;
        };
        for (position, key) in (first..).zip(keys.chunks_exact(indexer.dim)) {
            if let Some(block) = Arc::get_mut(&mut blocks[position / BLOCK]) {
                block.index.keys[position % BLOCK * indexer.dim..][..indexer.dim].copy_from_slice(key);
            }
        }
    }

    /// The mean of an indexer's keys over the positions of one of its blocks, [dim].
    ///
    /// Canonical: the sum in the order of the positions, divided by their number.
    pub fn index_mean(&self, layer: usize, number: usize, out: &mut [f32]) {
        let Layer { blocks, shape: Shape { indexer: Some(indexer), .. } } = &self.layers[layer] else {
            return;
        };
        out.fill(0.0);
        for position in number * indexer.ratio..(number + 1) * indexer.ratio {
            let keys = &blocks[position / BLOCK].index.keys;
            let key = &keys[position % BLOCK * indexer.dim..][..indexer.dim];
            out.iter_mut().zip(key).for_each(|(out, key)| *out += key);
        }
        out.iter_mut().for_each(|out| *out /= indexer.ratio as f32);
    }

    /// Stores the key [dim] of one of an indexer's blocks, whose last position `reserve` has made room for.
    pub fn store_index_block(&mut self, layer: usize, number: usize, key: &[f32]) {
        let Layer { blocks, shape: Shape { indexer: Some(indexer), .. } } = &mut self.layers[layer] else {
            return;
        };
        let place = ((number + 1) * indexer.ratio - 1) / BLOCK;
        let row = number - first_end(*indexer, place);
        if let Some(block) = Arc::get_mut(&mut blocks[place]) {
            block.index.blocks[row * indexer.dim..][..indexer.dim].copy_from_slice(key);
        }
    }

    /// The keys of the first `count` of an indexer's blocks.
    pub fn index_keys(&self, layer: usize, count: usize) -> Vec<IndexKeys<'_>> {
        let Layer { blocks, shape: Shape { indexer: Some(indexer), .. } } = &self.layers[layer] else {
            return Vec::new();
        };
        let ends = |(place, block)| {
            let block: &Arc<Block> = block;
            let (first, end) = (first_end(*indexer, place), first_end(*indexer, place + 1).min(count));
            let keys = &block.index.blocks[..end.checked_sub(first)? * indexer.dim];
            (first < end).then_some(IndexKeys { first, keys })
        };
        blocks.iter().enumerate().filter_map(ends).collect()
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
    use membrane_kernels::{Isa, Team};

    use super::*;
    use crate::error::EngineError;

    fn cache(limit: u64) -> KvCache {
        let shape = Shape { key_width: 4, value_width: 2, stored: Format::F32, indexer: None };
        KvCache { layers: vec![Layer { blocks: Vec::new(), shape }; 2], pool: Pool::new(limit, 0) }
    }

    /// A row of a cache's second layer, its first position.
    fn store(cache: &mut KvCache, keys: &[f32], values: &[f32]) {
        Team::new(1, Isa::detect()).region(|region| cache.store(region, 1, 0, keys, values));
    }

    fn first_key(cache: &KvCache, layer: usize) -> f32 {
        match cache.slices(layer, 1).0[0] {
            KvSlice::F32(rows) => rows[0],
            _ => f32::NAN,
        }
    }

    #[test]
    fn a_fork_keeps_its_rows_when_the_other_side_writes() {
        let mut a = cache(1 << 20);
        a.reserve(0, 1).unwrap();
        store(&mut a, &[1.0; 4], &[1.0; 2]);
        let b = a.clone();
        a.truncate(0);
        a.reserve(0, 1).unwrap();
        store(&mut a, &[2.0; 4], &[2.0; 2]);
        assert_eq!((first_key(&a, 1), first_key(&b, 1)), (2.0, 1.0));
        let mut c = b.clone();
        c.reserve(0, 2).unwrap();
        store(&mut c, &[3.0; 4], &[3.0; 2]);
        assert_eq!((first_key(&c, 1), first_key(&b, 1)), (3.0, 1.0));
    }

    #[test]
    fn rows_stored_at_once_are_those_stored_one_by_one() {
        const ROWS: usize = 3 * BLOCK;
        let keys: Vec<f32> = (0..4 * ROWS).map(|i| i as f32).collect();
        let values: Vec<f32> = (0..2 * ROWS).map(|i| -(i as f32)).collect();
        for (first, threads) in [(0, 1), (0, 3), (1, 3), (BLOCK - 1, 2), (BLOCK, 2)] {
            let [mut one, mut all] = [cache(1 << 20), cache(1 << 20)];
            let count = ROWS - first - 5;
            Team::new(threads, Isa::detect()).region(|region| {
                for cache in [&mut one, &mut all] {
                    cache.reserve(0, first + count).unwrap();
                }
                for row in 0..count {
                    one.store(
                        region,
                        1,
                        first + row,
                        &keys[4 * row..4 * (row + 1)],
                        &values[2 * row..2 * (row + 1)],
                    );
                }
                all.store(region, 1, first, &keys[..4 * count], &values[..2 * count]);
            });
            let rows = |cache: &KvCache| format!("{:?}", cache.slices(1, first + count));
            assert_eq!(rows(&one), rows(&all), "{first}, {threads}");
            let KvSlice::F32(stored) = all.slices(1, first + count).0[first / BLOCK] else {
                panic!("floats")
            };
            assert_eq!(stored[first % BLOCK * 4..][..4], keys[..4]);
        }
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

    #[test]
    fn keys_of_an_indexers_blocks_stand_where_the_blocks_end() {
        for ratio in [1, 2, 3, 4, 48, 64, 100, 200] {
            let indexer = Indexer { heads: 1, dim: 2, ratio, blocks: 1 };
            let shape = Shape { key_width: 4, value_width: 2, stored: Format::F32, indexer: Some(indexer) };
            let layers = vec![Layer { blocks: Vec::new(), shape }];
            let length = 5 * BLOCK + 7;
            let mut cache = KvCache { layers, pool: Pool::new(6 * shape.bytes_per_block(), 0) };
            cache.reserve(0, length).unwrap();
            let keys: Vec<f32> = (0..length).flat_map(|i| [i as f32, 1.0]).collect();
            cache.store_index(0, 0, &keys);
            let mut mean = [0.0; 2];
            for number in 0..length / ratio {
                cache.index_mean(0, number, &mut mean);
                assert_eq!(mean, [(number * ratio) as f32 + (ratio - 1) as f32 / 2.0, 1.0], "{ratio}");
                cache.store_index_block(0, number, &[number as f32, -1.0]);
            }
            for count in [0, 1, length / ratio / 2, length / ratio] {
                let found = cache.index_keys(0, count);
                let firsts: Vec<usize> =
                    found.iter().flat_map(|keys| (keys.first..).take(keys.keys.len() / 2)).collect();
                assert_eq!(firsts, (0..count.min(length / ratio)).collect::<Vec<_>>(), "{ratio}");
                let numbers: Vec<f32> = found.iter().flat_map(|keys| keys.keys).copied().step_by(2).collect();
                assert_eq!(numbers, firsts.iter().map(|&first| first as f32).collect::<Vec<_>>(), "{ratio}");
            }
        }
    }
}
