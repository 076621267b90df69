//! What stands between the projections and the memory: lengths of queries and keys, decays, strengths.

use std::ops::Range;

use crate::parallel::Region;
use crate::simd::{LANES, Simd, dispatch, dot, exp};

/// Heads that are worth a task.
const TASK_HEADS: usize = 64;
/// Gates that are worth a task.
const TASK_GATES: usize = 1024;

/// Scales heads to the length `scale`: `x = x * (1 / sqrt(sum x^2 + 1e-6)) * scale` for the heads `heads` of each row of `x`
/// [n, width], of which head i is the columns from `i * dim` on.
///
/// Canonical: the sum of squares as a dot product of the head with itself (16 lanes with `fma`, then the tree).
///
/// # Panics
/// If `x` is not rows of `width` or a head is beyond a row.
pub fn l2_norm(
    region: &Region<'_>,
    x: &mut [f32],
    width: usize,
    heads: Range<usize>,
    dim: usize,
    scale: f32,
) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "l2_norm: {} elements are not rows of {width}",
        x.len()
    );
    assert!(heads.end * dim <= width, "l2_norm: {} heads of {dim} in rows of {width}", heads.end);
    let isa = region.isa();
    let rows_each = (TASK_HEADS / heads.len().max(1)).max(1);
    region.run_chunks(x, rows_each * width, |_, x| {
        for row in x.chunks_exact_mut(width) {
            l2_norm_heads(isa, &mut row[heads.start * dim..heads.end * dim], dim, scale);
        }
    });
}

dispatch! {
    fn l2_norm_heads(heads: &mut [f32], dim: usize, scale: f32) => l2_norm_kernel;
}

#[inline(always)]
fn l2_norm_kernel<S: Simd>(s: S, heads: &mut [f32], dim: usize, scale: f32) {
    const EPS: f32 = 1e-6;
    for head in heads.chunks_exact_mut(dim) {
        let inverse = 1.0 / (dot(s, head, head) + EPS).sqrt();
        for x in head {
            *x = *x * inverse * scale;
        }
    }
}

/// `x = e^(rate * softplus(x + bias))` for rows of the width of `rate` and `bias`: what a memory is multiplied by; `rate` is
/// not positive.
///
/// Canonical: softplus(y) = max(y, 0) + ln(1 + e^-|y|), the logarithm by the series in `log1p`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn decays(region: &Region<'_>, x: &mut [f32], bias: &[f32], rate: &[f32]) {
    let width = bias.len();
    assert_eq!(rate.len(), width, "decays: as many rates as biases are needed");
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "decays: {} elements are not rows of {width}",
        x.len()
    );
    let isa = region.isa();
    region.run_chunks(x, (TASK_GATES / width).max(1) * width, |_, x| {
        x.chunks_exact_mut(width).for_each(|row| decays_row(isa, row, bias, rate));
    });
}

dispatch! {
    fn decays_row(row: &mut [f32], bias: &[f32], rate: &[f32]) => decays_kernel;
}

#[inline(always)]
fn decays_kernel<S: Simd>(s: S, row: &mut [f32], bias: &[f32], rate: &[f32]) {
    for ((x, bias), rate) in row.chunks_mut(LANES).zip(bias.chunks(LANES)).zip(rate.chunks(LANES)) {
        let y = s.add(s.load_part(x, 0.0), s.load_part(bias, 0.0));
        let minus = s.sub(s.zero(), y);
        // The NaN of an operand must not be lost: it is the second one.
        let small = exp(s, s.min(minus, y));
        let softplus = s.add(s.max(s.zero(), y), log1p(s, small));
        s.store_part(exp(s, s.mul(s.load_part(rate, 0.0), softplus)), x);
    }
}

/// ln(1 + x) for x from 0 to 1, within 3 ulp: with t = x / (x + 2), twice the series t + t^3/3 + t^5/5 ... of the inverse
/// hyperbolic tangent, up to t^15.
#[inline(always)]
fn log1p<S: Simd>(s: S, x: S::V) -> S::V {
    const COEFFICIENTS: [f32; 7] = [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let t = s.div(x, s.add(x, s.splat(2.0)));
    let square = s.mul(t, t);
    let mut p = s.splat(1.0 / 15.0);
    for c in COEFFICIENTS {
        p = s.fma(p, square, s.splat(c));
    }
    s.mul(s.add(t, t), p)
}

/// `x = 1 / (1 + e^-x)`: how much of the difference a memory takes over.
pub fn strengths(region: &Region<'_>, x: &mut [f32]) {
    let isa = region.isa();
    region.run_chunks(x, TASK_GATES, |_, x| strengths_part(isa, x));
}

dispatch! {
    fn strengths_part(x: &mut [f32]) => strengths_kernel;
}

#[inline(always)]
fn strengths_kernel<S: Simd>(s: S, x: &mut [f32]) {
    for x in x.chunks_mut(LANES) {
        let e = exp(s, s.sub(s.zero(), s.load_part(x, 0.0)));
        s.store_part(s.div(s.splat(1.0), s.add(s.splat(1.0), e)), x);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    dispatch! {
        pub fn log1p_of(x: &[f32; LANES], out: &mut [f32; LANES]) => store_log1p;
    }

    #[inline(always)]
    fn store_log1p<S: Simd>(s: S, x: &[f32; LANES], out: &mut [f32; LANES]) {
        s.store(log1p(s, s.load(x)), out);
    }
}
