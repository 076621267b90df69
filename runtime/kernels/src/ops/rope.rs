//! Rotary positions.

use crate::ops::{CHEAP_TASK, check_rows, rows_per_task};
use crate::parallel::Region;

/// Cosines and sines of the rotation of each position, made once and shared by all layers and instruction
/// sets.
pub struct RopeTable {
    frequencies: Vec<f64>, // [dims / 2], radians a position
    neox: bool,
    pub(super) rotations: Vec<f32>, // [positions, 2, dims / 2], cosines then sines
}

impl RopeTable {
    /// A table with no positions yet.
    ///
    /// - `dims`: dimensions of a head that are rotated, from the first; even.
    /// - Pair i turns by `base^(-2 i / dims) * scale / factors[i]` radians a position.
    /// - `neox`: the pairs are (i, i + dims / 2); otherwise neighbours, (2 i, 2 i + 1).
    ///
    /// # Panics
    /// If `dims` is odd or there are factors, but not `dims / 2`.
    pub fn new(dims: usize, base: f32, scale: f32, neox: bool, factors: Option<&[f32]>) -> Self {
        assert!(dims.is_multiple_of(2), "rope: {dims} dimensions are not pairs");
        assert!(factors.is_none_or(|f| f.len() == dims / 2), "rope: a factor for each pair is needed");
        let frequency = |i: usize| {
            let factor = factors.map_or(1.0, |factors| f64::from(factors[i]));
            f64::from(base).powf(-2.0 * i as f64 / dims as f64) * f64::from(scale) / factor
        };
        Self { frequencies: (0..dims / 2).map(frequency).collect(), neox, rotations: Vec::new() }
    }

    /// Bytes of a table for `positions` positions.
    pub fn bytes(dims: usize, positions: usize) -> usize {
        dims * positions * size_of::<f32>()
    }

    /// Positions that the table has.
    pub fn positions(&self) -> usize {
        self.rotations.len().checked_div(self.dims()).unwrap_or(usize::MAX)
    }

    /// Makes room for `positions` positions without making them, so that [`RopeTable::extend`] does not
    /// allocate.
    pub fn reserve(&mut self, positions: usize) {
        let wanted = self.dims() * positions;
        self.rotations.reserve_exact(wanted.saturating_sub(self.rotations.len()));
    }

    /// Makes the rotations of the positions below `positions` that are missing.
    pub fn extend(&mut self, positions: usize) {
        for position in self.positions()..positions {
            let angles = self.frequencies.iter().map(|frequency| frequency * position as f64);
            self.rotations.extend(angles.clone().map(|angle| angle.cos() as f32));
            self.rotations.extend(angles.map(|angle| angle.sin() as f32));
        }
    }

    fn dims(&self) -> usize {
        2 * self.frequencies.len()
    }
}

/// Rotates `x` [n, heads, head_dim], whose rows are at the positions from `first` on.
///
/// Canonical: (a, b) becomes (a cos - b sin, a sin + b cos), each product and each sum rounded.
///
/// # Panics
/// If `x` is not whole rows, the table has more dimensions than a head, or it lacks a position.
pub fn rope(
    region: &Region<'_>,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    first: usize,
    table: &RopeTable,
) {
    let width = check_rows("rope", x.len(), heads * head_dim);
    let n = x.len() / width;
    let dims = table.dims();
    assert!(dims <= head_dim, "rope: {dims} dimensions in heads of {head_dim}");
    assert!(first + n <= table.positions(), "rope: the table ends before position {}", first + n);
    if dims == 0 {
        return;
    }
    let rotate = if table.neox { rotate_halves } else { rotate_neighbours };
    let rows_each = rows_per_task(CHEAP_TASK, width);
    region.run_chunks(x, rows_each * width, |task, x| {
        let rotations = table.rotations.chunks_exact(dims).skip(first + task * rows_each);
        for (row, rotation) in x.chunks_exact_mut(width).zip(rotations) {
            let (cos, sin) = rotation.split_at(dims / 2);
            for head in row.chunks_exact_mut(head_dim) {
                rotate(&mut head[..dims], cos, sin);
            }
        }
    });
}

fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

fn rotate_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = head.as_chunks_mut::<2>();
    for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}
