//! Everything random: streams of ChaCha8, one for each use, so that no result depends on the order of the
//! work.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What a stream is for. With its arguments it numbers the stream, so the order of the variants is part of
/// the recipe.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// Sampling of the text that the model writes.
    Text,
    /// First centres of a layer's clusters.
    Router {
        /// The layer.
        layer: usize,
    },
    /// One expert's deviation from the dense weights.
    Expert {
        /// The layer.
        layer: usize,
        /// The matrix: 0 gate, 1 up, 2 down.
        matrix: usize,
        /// The expert.
        expert: usize,
    },
}

/// A source of random numbers.
pub struct Noise(ChaCha8Rng);

impl Noise {
    /// The stream of a seed.
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(match stream {
            Stream::Text => 0,
            Stream::Router { layer } => 1 + 4 * ((layer as u64) << 32),
            Stream::Expert { layer, matrix, expert } => {
                2 + 4 * (((layer as u64) << 32) + ((expert as u64) << 2) + matrix as u64)
            }
        });
        Self(generator)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // The high half of a wide product: its bias is far below what any use here could show.
        ((u128::from(self.0.next_u64()) * limit as u128) >> 64) as usize
    }

    /// Uniform from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Adds noise of this standard deviation to every value that is not zero (zeros are padding and stay).
    ///
    /// The noise is a sum of four uniform numbers: near enough to normal, and exact integer arithmetic up to
    /// the last step, so that it is the same on every machine.
    pub fn disturb(&mut self, values: &mut [f32], deviation: f32) {
        // Four 16-bit numbers have a sum of mean 2 * 65535 and variance 4 * (65536^2 - 1) / 12.
        const SUM_DEVIATION: f32 = 37_837.23;
        let scale = deviation / SUM_DEVIATION;
        for value in values {
            let random = self.0.next_u64();
            let sum = (random & 0xffff) + (random >> 16 & 0xffff) + (random >> 32 & 0xffff) + (random >> 48);
            if *value != 0.0 {
                *value += (sum as f32 - 131_070.0) * scale;
            }
        }
    }

    /// Flips in each byte the bits of `mask` with a probability of 2 to the minus `halvings` each.
    pub fn flip(&mut self, bytes: &mut [u8], mask: u8, halvings: u32) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = (0..halvings).fold(u64::MAX, |kept, _| kept & self.0.next_u64());
            for (byte, flips) in chunk.iter_mut().zip(drawn.to_le_bytes()) {
                *byte ^= flips & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_deviation_and_spares_zeros() {
        let mut values = vec![1.0_f32; 100_000];
        values[7] = 0.0;
        Noise::new(1, Stream::Expert { layer: 0, matrix: 0, expert: 0 }).disturb(&mut values, 0.25);
        assert_eq!(values[7].to_bits(), 0);
        let deviations: Vec<f64> =
            values.iter().filter(|v| **v != 0.0).map(|v| f64::from(*v) - 1.0).collect();
        let mean = deviations.iter().sum::<f64>() / deviations.len() as f64;
        let variance = deviations.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / deviations.len() as f64;
        assert!(mean.abs() < 0.003, "{mean}");
        assert!((variance.sqrt() - 0.25).abs() < 0.003, "{}", variance.sqrt());
    }

    #[test]
    fn flips_come_at_their_rate_and_under_the_mask() {
        let mut bytes = vec![0_u8; 80_001];
        Noise::new(1, Stream::Text).flip(&mut bytes, 0x11, 3);
        let flipped: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
        assert!(bytes.iter().all(|byte| byte & !0x11 == 0));
        let rate = f64::from(flipped) / (2.0 * bytes.len() as f64);
        assert!((rate - 0.125).abs() < 0.005, "{rate}");
    }

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |seed, stream| Noise::new(seed, stream).unit();
        let expert = |layer, matrix, expert| draw(1, Stream::Expert { layer, matrix, expert });
        let mut all =
            vec![draw(1, Stream::Text), draw(2, Stream::Text), draw(1, Stream::Router { layer: 0 })];
        all.extend([draw(1, Stream::Router { layer: 1 }), expert(0, 0, 1), expert(0, 1, 0), expert(1, 0, 0)]);
        for (index, one) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| one != other), "{index}");
        }
        assert!(Noise::new(1, Stream::Text).below(10) < 10);
        assert_eq!(expert(0, 0, 1), expert(0, 0, 1));
    }
}
