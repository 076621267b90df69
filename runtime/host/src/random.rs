//! The recorded random source of an answer: ChaCha8 from the seed.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// The random source of one answer. The same seed gives the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The source of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// A number in [0, 1) with the upper 53 of 64 bits.
pub fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_is_at_least_zero_and_below_one() {
        assert_eq!(uniform(0), 0.0);
        assert!(uniform(u64::MAX) < 1.0);
        assert_eq!(uniform(1 << 63), 0.5);
    }

    #[test]
    fn the_source_is_the_seeds() {
        let numbers = |seed| {
            (0..4)
                .map({
                    let mut r = Random::new(seed);
                    move |_| r.bits()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        let first = numbers(7);
        assert!(first.iter().all(|n| first.iter().filter(|m| *m == n).count() == 1));
    }
}
