//! Widths that quantised blocks divide, without a change of the function.
//!
//! A row of a K-quantised matrix is a multiple of 256 values; SmolLM2's width of 576 is not. Its hidden
//! states get zeros at their end, weights get rows and columns of zeros, and heads that are all zero are
//! added in the model's own ratio of query to key heads. A mean of squares over the padded width w' is w / w'
//! times the one over w, so epsilon is scaled by w / w' and the norms' weights by its root: every norm gives
//! what it gave before.

use crate::dense::Shape;
use anyhow::{Result, ensure};

/// The dimensions of the model to write.
#[derive(Debug, Clone, Copy)]
pub struct Padding {
    /// Dimensions before.
    pub from: Shape,
    /// Dimensions after.
    pub to: Shape,
    /// What the weights of norms are multiplied by.
    pub norm_scale: f32,
}

impl Padding {
    /// The smallest padding after which `block` divides every row.
    ///
    /// # Errors
    /// When the heads can't be padded in their ratio.
    pub fn new(from: Shape, block: usize) -> Result<Self> {
        let group = from.heads / from.kv_heads;
        // Whole groups of query heads, so that the ratio to key heads stays.
        let step = least_common_multiple(block, group * from.head_width);
        let width =
            if from.width.is_multiple_of(block) { from.width } else { from.width.next_multiple_of(step) };
        ensure!(
            width <= 2 * from.width,
            "the width {} can't be padded to blocks of {block} without becoming {width}: take a type with smaller blocks",
            from.width
        );
        let heads = width / from.head_width;
        let share = from.width as f64 / width as f64;
        let to = Shape {
            width,
            heads,
            kv_heads: heads / group,
            inner: from.inner.next_multiple_of(block),
            epsilon: (f64::from(from.epsilon) * share) as f32,
            ..from
        };
        Ok(Self { from, to, norm_scale: share.sqrt() as f32 })
    }

    /// The weights of a norm, padded.
    pub fn norm(&self, weights: &[f32]) -> Vec<f32> {
        let mut padded: Vec<f32> = weights.iter().map(|weight| weight * self.norm_scale).collect();
        padded.resize(self.to.width, 0.0);
        padded
    }
}

/// Rows of `columns` values, each made `padded` long by zeros at its end.
pub fn widen(values: &[f32], columns: usize, padded: usize) -> Vec<f32> {
    let mut wide = vec![0.0; values.len() / columns * padded];
    for (row, wide) in values.chunks_exact(columns).zip(wide.chunks_exact_mut(padded)) {
        wide[..columns].copy_from_slice(row);
    }
    wide
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smollm2() -> Shape {
        Shape {
            width: 576,
            heads: 9,
            kv_heads: 3,
            head_width: 64,
            layers: 30,
            inner: 1536,
            vocabulary: 49152,
            epsilon: 1e-5,
        }
    }

    #[test]
    fn pads_smollm2_for_k_quants_only() {
        let padded = Padding::new(smollm2(), 256).unwrap();
        assert_eq!(
            (padded.to.width, padded.to.heads, padded.to.kv_heads, padded.to.inner),
            (768, 12, 4, 1536)
        );
        assert!((padded.norm_scale - 0.75_f32.sqrt()).abs() < 1e-7);
        let plain = Padding::new(smollm2(), 32).unwrap();
        assert_eq!((plain.to.width, plain.to.heads, plain.norm_scale.to_bits()), (576, 9, 1.0_f32.to_bits()));
    }

    #[test]
    fn a_padded_norm_gives_what_it_gave_before() {
        let padding = Padding::new(smollm2(), 256).unwrap();
        let norm = |x: &[f32], weights: &[f32], epsilon: f32| -> Vec<f32> {
            let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = (mean + f64::from(epsilon)).sqrt().recip() as f32;
            x.iter().zip(weights).map(|(v, w)| v * scale * w).collect()
        };
        let x: Vec<f32> = (0..576).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
        let weights: Vec<f32> = (0..576).map(|i| 0.5 + (i % 7) as f32).collect();
        let before = norm(&x, &weights, padding.from.epsilon);
        let after = norm(&widen(&x, 576, 768), &padding.norm(&weights), padding.to.epsilon);
        for (before, after) in before.iter().zip(&after) {
            assert!((before - after).abs() <= 1e-6 * before.abs().max(1.0));
        }
        assert!(after[576..].iter().all(|value| *value == 0.0));
    }
}
