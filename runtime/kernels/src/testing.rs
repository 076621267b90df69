//! What the tests of the kernels share.

/// A small deterministic source of numbers (xorshift), so that a failure can be repeated.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform within `-limit..limit`.
    pub fn float(&mut self, limit: f32) -> f32 {
        ((self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0) * limit
    }

    pub fn floats(&mut self, count: usize, limit: f32) -> Vec<f32> {
        (0..count).map(|_| self.float(limit)).collect()
    }
}

/// Fails if a bit differs; NaNs are all alike.
pub fn same_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
        assert!(same, "{what}: element {i} is {got:e}, not {expected:e}");
    }
}
