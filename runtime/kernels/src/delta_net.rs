//! The gated delta-net: linear attention whose memory is a matrix a head (Yang et al. 2024, as Qwen3-Next has it).
//!
//! A layer's step for one token, with S [key_dim, value_dim] the memory of a value head:
//!
//! ```text
//! q, k, v = silu(convolution over the last tokens)         depthwise, causal
//! q, k    = q / |q| / sqrt(key_dim), k / |k|               a key head, shared by value heads
//! S       = S * decay
//! S       = S + k (v - S^T k)^T * strength
//! out     = S^T q
//! ```
//!
//! Tokens follow one another strictly, also within a prompt, and each column of S is computed by itself: so chunks of any
//! length and any number of threads give the same bits. The work is cut along heads and columns.

mod convolution;
mod gates;
mod projection;
mod recurrence;
#[cfg(test)]
mod tests;

use crate::simd::LANES;
pub use convolution::{convolve, convolve_dilated};
pub use gates::{decays, l2_norm, strengths};
pub use projection::split_by_key_head;
pub use recurrence::{DeltaRule, delta_rule};

/// Vectors of columns that a task has at most: with 128 rows 32 kB of memory, which stays in the innermost cache for a whole
/// prompt, and as many independent sums as hide the latency of `fma`.
const TASK_VECTORS: usize = 4;

/// Which key head a value head uses, of V value heads and K key heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadOrder {
    /// Value head j uses key head j / (V / K).
    Grouped,
    /// Value head j uses key head j % K.
    Tiled,
}

/// The shape of a gated delta-net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, each with a memory; a multiple of `key_heads`.
    pub value_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Tokens that the convolution sees, the present one among them; at least 1.
    pub kernel: usize,
    /// Which key head a value head uses.
    pub order: HeadOrder,
}

impl DeltaShape {
    /// Width of queries, keys and values together, in this order: what is convolved.
    pub fn channels(&self) -> usize {
        2 * self.key_width() + self.value_width()
    }

    /// Width of all key heads together.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Width of all value heads together.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// The key head of a value head.
    fn key_head(&self, value_head: usize) -> usize {
        match self.order {
            HeadOrder::Grouped => value_head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => value_head % self.key_heads,
        }
    }

    /// Vectors that a row of a head's memory takes.
    fn vectors(&self) -> usize {
        self.value_dim.div_ceil(LANES)
    }

    /// Vectors of columns that make a task: as many as divide a row.
    fn task_vectors(&self) -> usize {
        let vectors = self.vectors();
        (1..=TASK_VECTORS)
            .rev()
            .find(|&task| task.is_power_of_two() && vectors.is_multiple_of(task))
            .unwrap_or(1)
    }

    fn memory_floats(&self) -> usize {
        self.value_heads * self.key_dim * self.vectors() * LANES
    }

    fn history_floats(&self) -> usize {
        (self.kernel - 1) * self.channels()
    }

    fn check(&self) {
        let Self { key_heads, value_heads, key_dim, value_dim, kernel, .. } = *self;
        assert!(key_heads > 0 && value_heads.is_multiple_of(key_heads), "delta-net: heads are not groups");
        assert!(value_heads > 0 && key_dim > 0 && value_dim > 0 && kernel > 0, "delta-net: an empty shape");
    }
}

/// What a delta-net layer remembers of the tokens so far.
#[derive(Clone, Debug)]
pub struct DeltaState {
    shape: DeltaShape,
    /// [value_heads, pieces of columns, key_dim, columns of a piece], padded to whole vectors: a task's part is contiguous.
    memory: Vec<f32>,
    history: Vec<f32>, // [kernel - 1, channels], the last inputs of the convolution, oldest first
}

impl DeltaState {
    /// The state before the first token: all zeros.
    ///
    /// # Panics
    /// If the shape has no heads, widths of 0, no kernel, or value heads that are no multiple of the key heads.
    pub fn new(shape: DeltaShape) -> Self {
        shape.check();
        Self { shape, memory: vec![0.0; shape.memory_floats()], history: vec![0.0; shape.history_floats()] }
    }

    /// Bytes of a state of this shape.
    pub fn bytes(shape: &DeltaShape) -> u64 {
        let floats = shape.memory_floats() as u64 + shape.history_floats() as u64;
        floats * size_of::<f32>() as u64
    }

    /// Takes over the contents of another state of the same shape.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(self.shape, other.shape, "delta-net: states of different shapes");
        self.memory.copy_from_slice(&other.memory);
        self.history.copy_from_slice(&other.history);
    }

    /// The matrices of all heads, [value_heads, key_dim, value_dim], for tests and tools.
    pub fn memory(&self) -> Vec<f32> {
        let DeltaShape { value_heads, key_dim, value_dim, .. } = self.shape;
        let piece = self.shape.task_vectors() * LANES;
        let mut plain = Vec::with_capacity(value_heads * key_dim * value_dim);
        for head in self.memory.chunks_exact(key_dim * self.shape.vectors() * LANES) {
            for row in 0..key_dim {
                let pieces = head.chunks_exact(key_dim * piece).map(|part| &part[row * piece..][..piece]);
                plain.extend(pieces.flatten().take(value_dim));
            }
        }
        plain
    }

    /// The last inputs of the convolution, oldest first: [kernel - 1, channels].
    pub fn history(&self) -> &[f32] {
        &self.history
    }
}
