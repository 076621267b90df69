//! From scores to a choice: softmax, the best k, the best.

use crate::isa::Isa;
use crate::parallel::Region;
use crate::simd::{LANES, Simd, dispatch, exp, exps};

/// `row = e^(row - max) / sum of the same`, over one row.
///
/// Canonical: the maximum; e^(x - max) of each; their sum in 16 lanes (lane l takes the elements i with i %
/// 16 = l in order), then the tree; each divided by the sum.
pub fn softmax(region: &Region<'_>, row: &mut [f32]) {
    if !row.is_empty() {
        softmax_row(region.isa(), row);
    }
}

dispatch! {
    fn softmax_row(row: &mut [f32]) => softmax_kernel;
}

#[inline(always)]
fn softmax_kernel<S: Simd>(s: S, row: &mut [f32]) {
    let sum = exponentials(s, row, f32::NEG_INFINITY);
    for x in row {
        *x /= sum;
    }
}

/// Replaces each x of a row by e^(x - max) and returns their sum, in the canonical order of [`softmax`]. `beside` is one more
/// element, added to the sum at the end; negative infinity is none.
#[inline(always)]
pub(crate) fn exponentials<S: Simd>(s: S, row: &mut [f32], beside: f32) -> f32 {
    let max = maximum(s, row);
    let max = s.splat(if beside > max { beside } else { max });
    let (whole, tail) = row.as_chunks_mut::<LANES>();
    let mut sum = s.zero();
    let (together, whole) = whole.as_chunks_mut::<4>();
    for x in together {
        let mut e = [max; 4];
        for (e, x) in e.iter_mut().zip(&*x) {
            *e = s.sub(s.load(x), max);
        }
        e = exps(s, e);
        for (e, x) in e.into_iter().zip(x) {
            s.store(e, x);
            sum = s.add(sum, e);
        }
    }
    for x in whole {
        let e = exp(s, s.sub(s.load(x), max));
        s.store(e, x);
        sum = s.add(sum, e);
    }
    if !tail.is_empty() {
        // e^-infinity is 0: the padding adds nothing.
        let e = exp(s, s.sub(s.load_part(tail, f32::NEG_INFINITY), max));
        s.store_part(e, tail);
        sum = s.add(sum, e);
    }
    let sum = s.sum(sum);
    if beside == f32::NEG_INFINITY {
        return sum;
    }
    let mut lanes = [0.0; LANES];
    s.store(exp(s, s.sub(s.splat(beside), max)), &mut lanes);
    sum + lanes[0]
}

/// `x = 1 / (1 + e^-x)` for each element.
pub fn sigmoids(region: &Region<'_>, row: &mut [f32]) {
    sigmoid_row(region.isa(), row);
}

dispatch! {
    fn sigmoid_row(row: &mut [f32]) => sigmoid_kernel;
}

#[inline(always)]
fn sigmoid_kernel<S: Simd>(s: S, row: &mut [f32]) {
    for x in row.chunks_mut(LANES) {
        let e = exp(s, s.sub(s.zero(), s.load_part(x, 0.0)));
        s.store_part(s.div(s.splat(1.0), s.add(s.splat(1.0), e)), x);
    }
}

/// The greatest element that is not NaN; negative infinity if there is none.
#[inline(always)]
fn maximum<S: Simd>(s: S, row: &[f32]) -> f32 {
    let (whole, tail) = row.as_chunks::<LANES>();
    let mut all = [s.splat(f32::NEG_INFINITY); 4];
    let (together, whole) = whole.as_chunks::<4>();
    for x in together {
        for (max, x) in all.iter_mut().zip(x) {
            *max = s.max(s.load(x), *max);
        }
    }
    let [a, b, c, d] = all;
    let mut max = s.max(s.max(a, b), s.max(c, d));
    for x in whole {
        max = s.max(s.load(x), max);
    }
    if !tail.is_empty() {
        max = s.max(s.load_part(tail, f32::NEG_INFINITY), max);
    }
    let mut lanes = [0.0; LANES];
    s.store(max, &mut lanes);
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            if lanes[lane + half] > lanes[lane] {
                lanes[lane] = lanes[lane + half];
            }
        }
    }
    lanes[0]
}

dispatch! {
    fn maximum_of(row: &[f32]) -> f32 => maximum;
}

/// The index of the greatest element, the lowest among equals; `None` if all are NaN or there is none.
pub fn argmax(row: &[f32]) -> Option<usize> {
    let max = maximum_of(Isa::detect(), row);
    row.iter().position(|&x| x == max)
}

/// Appends the indices of the `k` greatest elements of `row` (all if there are fewer), best first; among
/// equals the lower index is better, and NaN is worse than any number.
pub fn top_k(row: &[f32], k: usize, out: &mut Vec<u32>) {
    let begin = out.len();
    let better = |a: u32, b: u32| {
        let (a, b) = (row[a as usize], row[b as usize]);
        a > b || b.is_nan() && !a.is_nan()
    };
    for candidate in 0..row.len() as u32 {
        if out.len() - begin == k {
            match out.last() {
                Some(&worst) if k > 0 && better(candidate, worst) => out.truncate(begin + k - 1),
                _ => continue,
            }
        }
        let place = out[begin..].iter().position(|&chosen| better(candidate, chosen));
        out.insert(place.map_or(out.len(), |place| begin + place), candidate);
    }
}
