//! The oracle: sixteen lanes in plain Rust.

use half::{bf16, f16};

use super::{LANES, Lanes, Simd};

/// Plain Rust; every CPU has it.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; LANES];

#[inline(always)]
fn map(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = V;
    const FOUR_ROWS: usize = 1;

    fn splat(self, x: f32) -> V {
        [x; LANES]
    }

    fn load(self, x: &V) -> V {
        *x
    }

    fn store(self, x: V, to: &mut V) {
        *to = x;
    }

    fn load_f16(self, x: &[u16; LANES]) -> V {
        x.map(|bits| f16::from_bits(bits).to_f32())
    }

    fn load_bf16(self, x: &[u16; LANES]) -> V {
        x.map(|bits| bf16::from_bits(bits).to_f32())
    }

    fn store_f16(self, x: V, to: &mut [u16; LANES]) {
        *to = x.map(|x| f16::from_f32(x).to_bits());
    }

    fn add(self, a: V, b: V) -> V {
        map(a, b, |a, b| a + b)
    }

    fn sub(self, a: V, b: V) -> V {
        map(a, b, |a, b| a - b)
    }

    fn mul(self, a: V, b: V) -> V {
        map(a, b, |a, b| a * b)
    }

    fn div(self, a: V, b: V) -> V {
        map(a, b, |a, b| a / b)
    }

    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    fn fnma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    fn max(self, a: V, b: V) -> V {
        map(a, b, |a, b| if a > b { a } else { b })
    }

    fn min(self, a: V, b: V) -> V {
        map(a, b, |a, b| if a < b { a } else { b })
    }

    fn round(self, a: V) -> V {
        a.map(f32::round_ties_even)
    }

    fn pow2(self, n: V) -> V {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32))
    }

    fn sum(self, mut x: V) -> f32 {
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                x[i] += x[i + width];
            }
        }
        x[0]
    }

    fn dots(self, a: &[Lanes], b: &[Lanes]) -> V {
        assert!(b.len() >= LANES * a.len());
        std::array::from_fn(|row| {
            let mut acc = self.zero();
            for (a, b) in a.iter().zip(b[row..].iter().step_by(LANES)) {
                acc = self.fma(a.0, b.0, acc);
            }
            self.sum(acc)
        })
    }
}
