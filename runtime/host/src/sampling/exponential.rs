//! The exponential function in single precision, the same on every machine and fast over slices.
//!
//! The one of the platform's C library differs from version to version, and a replay must not. What goes over a
//! whole vocabulary is compiled for AVX2 too and chosen at run time; products and sums are not fused, so that the
//! result is the same.

use pulp::Arch;

/// Values in one step of a sum; the compiler makes vector instructions of the fixed width.
const LANES: usize = 8;

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
    let x = if x > LEAST { x } else { LEAST };
    let x = if x < MOST { x } else { MOST };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let series = 1.0 / 720.0;
    let series = series * rest + COEFFICIENT_5;
    let series = series * rest + 1.0 / 24.0;
    let series = series * rest + COEFFICIENT_3;
    let series = series * rest + 0.5;
    let series = series * rest + 1.0;
    let series = series * rest + 1.0;
    series * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// Sum of e^(x - `origin`) over all chunks of `size` values whose peak is above minus infinity. A chunk has at most
/// some hundreds of values; none is above `origin`.
pub fn sum_exps(values: &[f32], size: usize, peaks: &[f32], origin: f32) -> f64 {
    Arch::new().dispatch(|| {
        let mut sum = 0.0;
        for (chunk, &peak) in values.chunks(size).zip(peaks) {
            if peak > f32::NEG_INFINITY {
                sum += sum_exp(chunk, origin);
            }
        }
        sum
    })
}

/// The peak of each chunk of `size` values, behind those that `to` has.
pub fn peaks(values: &[f32], size: usize, to: &mut Vec<f32>) {
    to.reserve(values.len().div_ceil(size));
    Arch::new().dispatch(|| {
        for chunk in values.chunks(size) {
            to.push(peak(chunk));
        }
    });
}

/// Makes (x - `origin`) * `factor` of each value.
pub fn scale(values: &mut [f32], origin: f32, factor: f32) {
    Arch::new().dispatch(|| {
        for value in values {
            *value = (*value - origin) * factor;
        }
    });
}

/// Makes minus infinity of NaN and of values below `least`.
pub fn keep_from(values: &mut [f32], least: f64) {
    // The smallest number in single precision that is not below.
    let nearest = least as f32;
    let least = if f64::from(nearest) < least { nearest.next_up() } else { nearest };
    Arch::new().dispatch(|| {
        for value in values {
            *value = if *value >= least { *value } else { f32::NEG_INFINITY };
        }
    });
}

/// Sum of e^(x - `origin`) over one chunk.
#[inline(always)]
fn sum_exp(chunk: &[f32], origin: f32) -> f64 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = chunk.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += exp(x - origin);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += exp(x - origin);
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
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
        keep_from(&mut values, third);
        assert_eq!(values, expected);
        assert_eq!(expected[0], f32::NEG_INFINITY);
    }

    #[test]
    fn whole_vocabularies_are_their_chunks() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 10.0 - 10.0).collect();
        let mut all = Vec::new();
        peaks(&values, 128, &mut all);
        let expected: Vec<f32> = values.chunks(128).map(peak).collect();
        assert_eq!(all, expected);
        let expected: f64 = values.chunks(128).map(|chunk| sum_exp(chunk, 1.0)).sum();
        assert_eq!(sum_exps(&values, 128, &all, 1.0).to_bits(), expected.to_bits());
    }

    #[test]
    fn peak_and_sum_take_every_length() {
        for length in 0..40 {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
            let expected = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(peak(&values), expected);
            let sum: f64 = values.iter().map(|&x| (f64::from(x) - 6.0).exp()).sum();
            assert!((sum_exp(&values, 6.0) - sum).abs() <= 1e-6 * sum);
        }
        assert_eq!(peak(&[f32::NAN, 1.0, f32::NAN]), 1.0);
    }
}
