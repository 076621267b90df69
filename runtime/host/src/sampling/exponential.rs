//! The exponential function in single precision, the same on every machine and fast over slices.
//!
//! The one of the platform's C library differs from version to version, and a replay must not. What goes over a
//! whole vocabulary is compiled for AVX2 and AVX-512 too and chosen at run time; products and sums are not fused, so
//! that the result is the same.

use pulp::{Arch, Simd, WithSimd};

/// Values in one step of a sum, the same number on every machine. Several vectors of them keep the CPU busy while
/// each goes through the polynomial.
const LANES: usize = 16;

/// Chunks that are summed in single precision before their sum joins the others in double.
const GROUP: usize = 16;

/// Below it the result would be subnormal; `exp` gives its value for all that is less.
const LEAST: f32 = -87.0;
/// Above it the result would overflow.
const MOST: f32 = 88.0;

/// Adding it rounds a number of at most 22 bits to a whole one, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts; the product of the first, which has 9 bits, and a whole number of 7 is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// The Taylor series up to the sixth power, with the seventh economised into the odd ones below it (by the
/// Chebyshev polynomial of degree 7 between -ln 2 / 2 and ln 2 / 2), which leaves an error of 2e-9 there.
const REST_SQUARED: f32 = 0.120_113_25;
const COEFFICIENT_5: f32 = 1.0 / 120.0 + 1.75 / 5040.0 * REST_SQUARED;
const COEFFICIENT_3: f32 = 1.0 / 6.0 - 0.875 / 5040.0 * REST_SQUARED * REST_SQUARED;

/// e to the power of `x`, within 2 units in the last place. At least e^-87, also for minus infinity and NaN;
/// the caller leaves those out.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_below_overflow(if x > MOST { MOST } else { x })
}

/// [`exp`] for `x` of at most [`MOST`].
#[inline(always)]
fn exp_below_overflow(x: f32) -> f32 {
    let x = if x > LEAST { x } else { LEAST };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    // In Estrin's order, which is shorter from end to end than Horner's.
    let square = rest * rest;
    let low = (0.5 + COEFFICIENT_3 * rest) * square + (1.0 + rest);
    let high = (1.0 / 24.0 + COEFFICIENT_5 * rest) + 1.0 / 720.0 * square;
    let series = low + high * (square * square);
    // Times 2^whole: what is left of `shifted` when its own exponent is shifted out goes to that of the series.
    f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Sum of e^(x - `origin`) over all chunks of `size` values whose peak is above minus infinity. A chunk has at most
/// some hundreds of values; none is above `origin`. The order of the sum is that of the code on every machine.
pub fn sum_exps(values: &[f32], size: usize, peaks: &[f32], origin: f32) -> f64 {
    Arch::new().dispatch(SumExps { values, size, peaks, origin })
}

/// The peak of each chunk of `size` values, behind those that `to` has.
pub fn peaks(values: &[f32], size: usize, to: &mut Vec<f32>) {
    to.reserve(values.len().div_ceil(size));
    Arch::new().dispatch(Peaks { values, size, to });
}

/// Makes (x - `origin`) * `factor` of each value.
pub fn scale(values: &mut [f32], origin: f32, factor: f32) {
    Arch::new().dispatch(Scale { values, origin, factor });
}

/// Makes minus infinity of values below `least`; NaN becomes it or stays NaN. Gives whether a number became one.
pub fn keep_from(values: &mut [f32], least: f64) -> bool {
    // The smallest number in single precision that is not below.
    let nearest = least as f32;
    let least = if f64::from(nearest) < least { nearest.next_up() } else { nearest };
    Arch::new().dispatch(KeepFrom { values, least })
}

// Each pass is a type: what a closure does is not always inlined where the instructions are turned on.

struct SumExps<'v> {
    values: &'v [f32],
    size: usize,
    peaks: &'v [f32],
    origin: f32,
}

impl WithSimd for SumExps<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let groups = self.values.chunks(GROUP * self.size).zip(self.peaks.chunks(GROUP));
        groups.map(|(values, peaks)| sum_group(values, self.size, peaks, self.origin)).sum()
    }
}

struct Peaks<'v> {
    values: &'v [f32],
    size: usize,
    to: &'v mut Vec<f32>,
}

impl WithSimd for Peaks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for chunk in self.values.chunks(self.size) {
            self.to.push(peak(chunk));
        }
    }
}

struct Scale<'v> {
    values: &'v mut [f32],
    origin: f32,
    factor: f32,
}

impl WithSimd for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for value in self.values {
            *value = (*value - self.origin) * self.factor;
        }
    }
}

struct KeepFrom<'v> {
    values: &'v mut [f32],
    least: f32,
}

impl WithSimd for KeepFrom<'_> {
    type Output = bool;

    /// The minimum with plus or minus infinity, since the compiler makes a masked store of what only selects, and that
    /// is six times as slow on some CPUs.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let (all, none) = (simd.splat_f32s(f32::INFINITY), simd.splat_f32s(f32::NEG_INFINITY));
        let least = simd.splat_f32s(self.least);
        let (vectors, rest) = S::as_mut_simd_f32s(self.values);
        let mut dropped = simd.less_than_f32s(none, none);
        for vector in vectors {
            let below = simd.less_than_f32s(*vector, least);
            dropped = simd.or_m32s(dropped, simd.and_m32s(below, simd.greater_than_f32s(*vector, none)));
            let kept = simd.greater_than_or_equal_f32s(*vector, least);
            *vector = simd.min_f32s(*vector, simd.select_f32s(kept, all, none));
        }
        let mut any = simd.first_true_m32s(dropped) < S::F32_LANES;
        for value in rest {
            any |= *value < self.least && *value > f32::NEG_INFINITY;
            *value = if *value >= self.least { *value } else { f32::NEG_INFINITY };
        }
        any
    }
}

/// The sum over a group of chunks.
#[inline(always)]
fn sum_group(values: &[f32], size: usize, peaks: &[f32], origin: f32) -> f64 {
    let mut lanes = [0f32; LANES];
    for (chunk, &peak) in values.chunks(size).zip(peaks) {
        if peak > f32::NEG_INFINITY {
            add_exps(&mut lanes, chunk, origin);
        }
    }
    let mut width = LANES;
    while width > 4 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[..width].iter().map(|&lane| f64::from(lane)).sum()
}

#[inline(always)]
fn add_exps(lanes: &mut [f32; LANES], chunk: &[f32], origin: f32) {
    let (blocks, rest) = chunk.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += exp_below_overflow(x - origin);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += exp_below_overflow(x - origin);
    }
}

/// The largest value; minus infinity if there is none. NaN does not count.
#[inline(always)]
pub fn peak(chunk: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = chunk.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |peak, &x| if x > peak { x } else { peak })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units() {
        let mut worst = 0f64;
        for step in 0..400_000 {
            let x = -86.9 + step as f32 * (174.0 / 400_000.0);
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.4e-7, "{worst:e}");
    }

    #[test]
    fn exp_of_zero_is_one_and_of_nothing_is_next_to_nothing() {
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN) < 1e-37);
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn a_cut_is_where_it_is_in_double_precision() {
        let third = 1.0 / 3.0_f64;
        let nearest = third as f32;
        let mut values = [nearest.next_down(), nearest, nearest.next_up(), f32::NAN, f32::NEG_INFINITY, 7.0];
        let expected = values.map(|x| if f64::from(x) >= third { x } else { f32::NEG_INFINITY });
        assert!(keep_from(&mut values, third));
        values[3] = f32::NEG_INFINITY;
        assert_eq!(values, expected);
        assert_eq!(expected[0], f32::NEG_INFINITY);
        assert!(!keep_from(&mut values, third));
    }

    #[test]
    fn whole_vocabularies_are_their_chunks() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 10.0 - 10.0).collect();
        let mut all = Vec::new();
        peaks(&values, 128, &mut all);
        let expected: Vec<f32> = values.chunks(128).map(peak).collect();
        assert_eq!(all, expected);
        let expected: f64 = values.iter().map(|&x| (f64::from(x) - 1.0).exp()).sum();
        assert!((sum_exps(&values, 128, &all, 1.0) - expected).abs() <= 1e-6 * expected);
    }

    #[test]
    fn peak_and_sum_take_every_length() {
        for length in 0..40 {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
            let expected = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(peak(&values), expected);
            let sum: f64 = values.iter().map(|&x| (f64::from(x) - 6.0).exp()).sum();
            assert!((sum_exps(&values, 128, &[expected], 6.0) - sum).abs() <= 1e-6 * sum);
        }
        assert_eq!(peak(&[f32::NAN, 1.0, f32::NAN]), 1.0);
    }
}
