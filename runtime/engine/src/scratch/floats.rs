//! Buffers of floats that begin where a cache line does.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Floats, the first of them at the beginning of a cache line: kernels write lines, and would write two halves of two otherwise.
pub(crate) struct Floats {
    values: Vec<f32>,
    first: usize,
    len: usize,
}

impl Floats {
    /// So many zeros.
    pub fn zeros(len: usize) -> Self {
        let beside = if len > 0 { LINE / size_of::<f32>() - 1 } else { 0 };
        let values = vec![0.0; len + beside];
        let first = values.as_ptr().align_offset(LINE).min(beside);
        Self { values, first, len }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.first..][..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.first..][..self.len]
    }
}
