//! The search for a scale, or a scale and a minimum, that lose least of a sub-block.
//!
//! Candidates near the plain choice (the largest element on the last level) give integers; with the integers
//! fixed the best scale and minimum follow from weighted least squares. Elements weigh by their size plus the
//! root mean square of the sub-block: large ones matter more to a product, small ones are not given up.

use super::unpack::IQ4_VALUES;

/// Parallel sums, so that the loops over a sub-block vectorise.
const LANES: usize = 8;
/// Least share of a sub-block's norm that a candidate must keep to be looked at; only rejects what is
/// degenerate.
const TINY: f32 = 1e-30;

/// The values that an integer of the block may have.
pub(super) trait Levels: Copy {
    /// The lowest and the highest.
    fn ends(self) -> [f32; 2];
    /// The level next to `x`.
    fn nearest(self, x: f32) -> f32;
}

/// All integers between two.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub low: f32,
    pub high: f32,
}

impl Levels for Linear {
    #[inline(always)]
    fn ends(self) -> [f32; 2] {
        [self.low, self.high]
    }

    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        /// Added to and taken from a small number it leaves it rounded, ties to even.
        const ROUND: f32 = 12_582_912.0;
        (x.max(self.low).min(self.high) + ROUND) - ROUND
    }
}

/// The table of the IQ4 formats.
#[derive(Clone, Copy)]
pub(super) struct Iq4;

impl Iq4 {
    /// The index of the level next to `x`.
    #[inline(always)]
    pub fn index(self, x: f32) -> u8 {
        IQ4_VALUES.windows(2).map(|pair| u8::from(2.0 * x > f32::from(pair[0]) + f32::from(pair[1]))).sum()
    }
}

impl Levels for Iq4 {
    #[inline(always)]
    fn ends(self) -> [f32; 2] {
        [f32::from(IQ4_VALUES[0]), f32::from(IQ4_VALUES[15])]
    }

    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        f32::from(IQ4_VALUES[usize::from(self.index(x))])
    }
}

/// Weighted sums over a sub-block, w the weight, x the element, q the level.
#[derive(Clone, Copy, Default)]
struct Sums {
    w: f64,
    wx: f64,
    wq: f64,
    wqq: f64,
    wxq: f64,
}

/// The sums for the levels next to `(x - offset) * inverse`. The length of `x` is a multiple of [`LANES`].
#[inline(always)]
fn sums(x: &[f32], base_weight: f32, offset: f32, inverse: f32, levels: impl Levels) -> Sums {
    let mut lanes = [[0.0_f32; LANES]; 5];
    for x in x.as_chunks::<LANES>().0 {
        for (lane, x) in x.iter().enumerate() {
            let w = base_weight + x.abs();
            let q = levels.nearest((x - offset) * inverse);
            lanes[0][lane] += w;
            lanes[1][lane] += w * x;
            lanes[2][lane] += w * q;
            lanes[3][lane] += w * q * q;
            lanes[4][lane] += w * x * q;
        }
    }
    let [w, wx, wq, wqq, wxq] = lanes.map(|lanes| lanes.iter().map(|x| f64::from(*x)).sum());
    Sums { w, wx, wq, wqq, wxq }
}

fn root_mean_square(x: &[f32]) -> f32 {
    (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
}

/// The scale, of either sign, with which `x` is best written as scale * level; 0 if all of `x` is.
pub(super) fn scale(x: &[f32], levels: impl Levels) -> f32 {
    let largest = x.iter().fold(0.0_f32, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
    if largest.abs() < TINY {
        return 0.0;
    }
    let base_weight = root_mean_square(x);
    let (mut best, mut best_gain) = (0.0, 0.0);
    for end in levels.ends() {
        for step in -7..=7 {
            let inverse = end * (1.0 + 0.02 * step as f32) / largest;
            let sums = sums(x, base_weight, 0.0, inverse, levels);
            let gain = sums.wxq * sums.wxq / sums.wqq;
            if gain > best_gain {
                (best, best_gain) = ((sums.wxq / sums.wqq) as f32, gain);
            }
        }
    }
    best
}

/// The scale and the minimum, neither negative, with which `x` is best written as scale * q - minimum, q an
/// integer of `0..=high`.
pub(super) fn scale_and_minimum(x: &[f32], high: f32) -> (f32, f32) {
    let (low_x, high_x) = x.iter().fold((0.0_f32, f32::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    let range = high_x - low_x;
    if range < TINY {
        return (0.0, -low_x);
    }
    let base_weight = root_mean_square(x);
    let levels = Linear { low: 0.0, high };
    let (mut best, mut best_loss) = ((range / high, -low_x), f64::INFINITY);
    for step in -6..=9 {
        let inverse = (high + 0.1 * step as f32) / range;
        let sums = sums(x, base_weight, low_x, inverse, levels);
        let Some((scale, offset)) = least_squares(&sums) else { continue };
        let loss = scale * scale * sums.wqq
            + offset * offset * sums.w
            + 2.0 * (scale * offset * sums.wq - scale * sums.wxq - offset * sums.wx);
        if loss < best_loss {
            (best, best_loss) = ((scale as f32, -offset as f32), loss);
        }
    }
    best
}

/// The scale and offset (not positive) that fit fixed integers best.
fn least_squares(sums: &Sums) -> Option<(f64, f64)> {
    let determinant = sums.w * sums.wqq - sums.wq * sums.wq;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (sums.w * sums.wxq - sums.wx * sums.wq) / determinant;
    let offset = (sums.wqq * sums.wx - sums.wq * sums.wxq) / determinant;
    let (scale, offset) = if offset > 0.0 { (sums.wxq / sums.wqq, 0.0) } else { (scale, offset) };
    (scale > 0.0).then_some((scale, offset))
}
