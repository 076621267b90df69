//! The search for a scale, or a scale and a minimum, that lose least of a sub-block.
//!
//! Candidates near the plain choice (the largest element on the last level) give integers; with the integers
//! fixed the best scale and minimum follow from weighted least squares. Elements weigh by their size plus the
//! root mean square of the sub-block: large ones matter more to a product, small ones are not given up.

use super::unpack::IQ4_VALUES;
use crate::simd::{LANES, Simd, dispatch};

/// Largest element of a sub-block that counts as zeros.
const TINY: f32 = 1e-30;
/// Most elements of a sub-block.
const MAX_ELEMS: usize = 32;

/// The values that an integer of the block may have.
pub(super) trait Levels: Copy {
    /// The lowest and the highest.
    fn ends(self) -> [f32; 2];
    /// The level next to each element.
    fn nearest<S: Simd>(self, s: S, x: S::V) -> S::V;
}

/// All integers between two.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub low: f32,
    pub high: f32,
}

impl Linear {
    /// The level next to `x`.
    pub fn nearest_one(self, x: f32) -> f32 {
        x.max(self.low).min(self.high).round_ties_even()
    }
}

impl Levels for Linear {
    #[inline(always)]
    fn ends(self) -> [f32; 2] {
        [self.low, self.high]
    }

    #[inline(always)]
    fn nearest<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.round(s.min(s.max(x, s.splat(self.low)), s.splat(self.high)))
    }
}

/// The table of the IQ4 formats.
#[derive(Clone, Copy)]
pub(super) struct Iq4;

impl Iq4 {
    /// The index of the level next to `x`.
    pub fn index(self, x: f32) -> u8 {
        IQ4_VALUES.windows(2).filter(|pair| 2.0 * x > f32::from(pair[0]) + f32::from(pair[1])).count() as u8
    }
}

impl Levels for Iq4 {
    #[inline(always)]
    fn ends(self) -> [f32; 2] {
        [f32::from(IQ4_VALUES[0]), f32::from(IQ4_VALUES[15])]
    }

    /// Up from the lowest level by each step whose middle is below: sums of small integers, which are exact.
    #[inline(always)]
    fn nearest<S: Simd>(self, s: S, x: S::V) -> S::V {
        let mut level = s.splat(f32::from(IQ4_VALUES[0]));
        for pair in IQ4_VALUES.windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            let above = s.mul(s.sub(x, s.splat(0.5 * (low + high))), s.splat(1e30));
            let taken = s.min(s.max(above, s.splat(0.0)), s.splat(1.0));
            level = s.fma(taken, s.splat(high - low), level);
        }
        level
    }
}

/// A sub-block: vectors of its elements x and of their weights w.
#[derive(Clone, Copy)]
struct Weighed<S: Simd> {
    x: [S::V; MAX_ELEMS / LANES],
    w: [S::V; MAX_ELEMS / LANES],
    vectors: usize,
}

/// Weighted sums over a sub-block; q is the level of an element.
struct Sums {
    w: f64,
    wx: f64,
    wq: f64,
    wqq: f64,
    wxq: f64,
}

impl<S: Simd> Weighed<S> {
    /// # Panics
    /// If `x` is not 16 or 32 elements.
    #[inline(always)]
    fn new(s: S, x: &[f32]) -> Self {
        let (chunks, rest) = x.as_chunks::<LANES>();
        assert!(rest.is_empty() && !chunks.is_empty() && x.len() <= MAX_ELEMS, "fit: {} elements", x.len());
        let mut weighed = Self {
            x: [s.zero(); MAX_ELEMS / LANES],
            w: [s.zero(); MAX_ELEMS / LANES],
            vectors: chunks.len(),
        };
        let mut squares = s.zero();
        for (v, chunk) in weighed.x.iter_mut().zip(chunks) {
            *v = s.load(chunk);
            squares = s.fma(*v, *v, squares);
        }
        let root_mean_square = s.splat((s.sum(squares) / x.len() as f32).sqrt());
        for (w, x) in weighed.w.iter_mut().zip(weighed.x) {
            *w = s.add(root_mean_square, s.max(x, s.sub(s.zero(), x)));
        }
        weighed
    }

    /// The sums for the levels next to `(x - offset) * inverse`.
    #[inline(always)]
    fn sums(&self, s: S, offset: f32, inverse: f32, levels: impl Levels) -> Sums {
        let (offset, inverse) = (s.splat(offset), s.splat(inverse));
        let mut sums = [s.zero(); 5];
        for i in 0..self.vectors {
            let (x, w) = (self.x[i], self.w[i]);
            let q = levels.nearest(s, s.mul(s.sub(x, offset), inverse));
            let wq = s.mul(w, q);
            sums[0] = s.add(sums[0], w);
            sums[1] = s.fma(w, x, sums[1]);
            sums[2] = s.add(sums[2], wq);
            sums[3] = s.fma(wq, q, sums[3]);
            sums[4] = s.fma(wq, x, sums[4]);
        }
        let [w, wx, wq, wqq, wxq] = sums;
        Sums {
            w: f64::from(s.sum(w)),
            wx: f64::from(s.sum(wx)),
            wq: f64::from(s.sum(wq)),
            wqq: f64::from(s.sum(wqq)),
            wxq: f64::from(s.sum(wxq)),
        }
    }
}

impl Sums {
    /// The scale and offset (not positive) that fit the levels best, and what is lost then, up to a constant.
    #[inline(always)]
    fn least_squares(&self) -> (f64, f64, f64) {
        let determinant = self.w * self.wqq - self.wq * self.wq;
        let mut scale = (self.w * self.wxq - self.wx * self.wq) / determinant;
        let mut offset = (self.wqq * self.wx - self.wq * self.wxq) / determinant;
        if offset > 0.0 {
            (scale, offset) = (self.wxq / self.wqq, 0.0);
        }
        let squares = scale * scale * self.wqq + offset * offset * self.w;
        let products = scale * offset * self.wq - scale * self.wxq - offset * self.wx;
        (scale, offset, squares + 2.0 * products)
    }
}

dispatch! {
    /// See [`search_scale`].
    pub(super) fn scale(x: &[f32], levels: Linear) -> f32 => search_scale;
}

dispatch! {
    /// See [`search_scale`].
    pub(super) fn scale_iq4(x: &[f32], levels: Iq4) -> f32 => search_scale;
}

dispatch! {
    /// See [`search_scale_and_minimum`].
    pub(super) fn scale_and_minimum(x: &[f32], high: f32) -> (f32, f32) => search_scale_and_minimum;
}

/// The scale, of either sign, with which `x` is best written as scale * level; 0 if all of `x` is.
#[inline(always)]
fn search_scale<S: Simd>(s: S, x: &[f32], levels: impl Levels) -> f32 {
    let mut largest = 0.0_f32;
    for x in x {
        largest = if x.abs() > largest.abs() { *x } else { largest };
    }
    if largest.abs() < TINY {
        return 0.0;
    }
    let weighed = Weighed::new(s, x);
    let (mut best, mut best_gain) = (0.0, 0.0);
    for end in levels.ends() {
        for step in -7..=7 {
            let inverse = end * (1.0 + 0.02 * step as f32) / largest;
            let sums = weighed.sums(s, 0.0, inverse, levels);
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
#[inline(always)]
fn search_scale_and_minimum<S: Simd>(s: S, x: &[f32], high: f32) -> (f32, f32) {
    let (mut low_x, mut high_x) = (0.0_f32, f32::MIN);
    for x in x {
        low_x = low_x.min(*x);
        high_x = high_x.max(*x);
    }
    let range = high_x - low_x;
    if range < TINY {
        return (0.0, -low_x);
    }
    let weighed = Weighed::new(s, x);
    let levels = Linear { low: 0.0, high };
    let (mut best, mut best_loss) = ((range / high, -low_x), f64::INFINITY);
    for step in -6..=9 {
        let inverse = (high + 0.1 * step as f32) / range;
        let (scale, offset, loss) = weighed.sums(s, low_x, inverse, levels).least_squares();
        // A NaN of a degenerate system is not below anything.
        if scale > 0.0 && loss < best_loss {
            (best, best_loss) = ((scale as f32, -offset as f32), loss);
        }
    }
    best
}
