//! The small operations between the products: norms, activations, rotations, sums of rows, choices.
//!
//! Rows are contiguous, shapes are `[rows, width]`. Each function states its canonical order; where it states
//! none, each element is computed by itself with plain IEEE operations.

mod choose;
mod columns;
mod glu;
mod rope;
mod streams;

pub(crate) use choose::exponentials;
pub use choose::{argmax, sigmoids, softmax, top_k};
pub use columns::{copy_columns, merge_heads};
pub use glu::Glu;
pub(crate) use glu::glu;
pub use rope::{Llama3, Rope, RopeScaling, RopeTable, Yarn, rope};
pub use streams::{add_to_streams, gate_streams, mix_streams, rms_norm_streams, silu};

use crate::isa::Isa;
use crate::parallel::Region;
use crate::simd::{LANES, Simd, dispatch, dot, exp};

/// Elements of a cheap operation that are worth a task of their own: some microseconds.
const CHEAP_TASK: usize = 16 * 1024;
/// Elements of an operation with an exponential in it that are worth a task.
const COSTLY_TASK: usize = 2 * 1024;

/// Rows of `width` that make a task of about `elements`.
fn rows_per_task(elements: usize, width: usize) -> usize {
    (elements / width.max(1)).max(1)
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for rows of the width of `weight`; `x` and `out` [rows, width].
///
/// Canonical: the sum of squares as a dot product of the row with itself (16 lanes with `fma`, then the
/// tree), divided by the width, plus `eps`, square root, reciprocal; each element times that, then times its
/// weight.
///
/// # Panics
/// If `x` and `out` differ in length or are not whole rows.
pub fn rms_norm(region: &Region<'_>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "rms_norm: input and output differ in length");
    let (isa, width) = (region.isa(), check_rows("rms_norm", x.len(), weight.len()));
    let task = rows_per_task(CHEAP_TASK, width) * width;
    region.run_chunks(out, task, |index, out| {
        normalise(isa, &x[index * task..][..out.len()], weight, eps, out);
    });
}

/// [`rms_norm`] with the output in the place of the input.
///
/// # Panics
/// If `x` is not whole rows.
pub fn rms_norm_in_place(region: &Region<'_>, x: &mut [f32], weight: &[f32], eps: f32) {
    let (isa, width) = (region.isa(), check_rows("rms_norm", x.len(), weight.len()));
    let task = rows_per_task(CHEAP_TASK, width) * width;
    region.run_chunks(x, task, |_, x| normalise_in_place(isa, x, weight, eps));
}

/// The width, after a look whether the length is a multiple of it.
fn check_rows(what: &str, len: usize, width: usize) -> usize {
    assert!(width > 0 && len.is_multiple_of(width), "{what}: {len} elements are not rows of {width}");
    width
}

dispatch! {
    fn normalise(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) => normalise_rows;
}

dispatch! {
    fn normalise_in_place(x: &mut [f32], weight: &[f32], eps: f32) => normalise_rows_in_place;
}

#[inline(always)]
fn normalise_rows<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let scale = inverse_rms(s, x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

#[inline(always)]
fn normalise_rows_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = inverse_rms(s, x, eps);
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(s, x, x) / x.len() as f32 + eps).sqrt()
}

/// What [`gate`] multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x / (1 + e^-x).
    Silu,
}

/// `x *= function(gate)`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn gate(region: &Region<'_>, function: Gate, x: &mut [f32], gate: &[f32]) {
    assert_eq!(x.len(), gate.len(), "gate: the sides differ in length");
    let isa = region.isa();
    region.run_chunks(x, COSTLY_TASK, |index, x| {
        gate_part(isa, function, x, &gate[index * COSTLY_TASK..][..x.len()]);
    });
}

dispatch! {
    fn gate_part(function: Gate, x: &mut [f32], gate: &[f32]) => gate_kernel;
}

#[inline(always)]
fn gate_kernel<S: Simd>(s: S, function: Gate, x: &mut [f32], gate: &[f32]) {
    let ((x, x_tail), (gate, gate_tail)) = (x.as_chunks_mut::<LANES>(), gate.as_chunks::<LANES>());
    for (x, gate) in x.iter_mut().zip(gate) {
        s.store(s.mul(s.load(x), factor(s, function, s.load(gate))), x);
    }
    if !x_tail.is_empty() {
        let factor = factor(s, function, s.load_part(gate_tail, 0.0));
        s.store_part(s.mul(s.load_part(x_tail, 0.0), factor), x_tail);
    }
}

#[inline(always)]
fn factor<S: Simd>(s: S, function: Gate, gate: S::V) -> S::V {
    let above = match function {
        Gate::Sigmoid => s.splat(1.0),
        Gate::Silu => gate,
    };
    s.div(above, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), gate))))
}

/// Takes groups of two parts of `part` elements each apart: `x` [groups, 2, part], `first` and `second` [groups, part].
///
/// # Panics
/// If the lengths do not fit.
pub fn split_pairs(region: &Region<'_>, x: &[f32], part: usize, first: &mut [f32], second: &mut [f32]) {
    assert_eq!(
        (first.len(), second.len()),
        (x.len() / 2, x.len() / 2),
        "split_pairs: the halves of the input"
    );
    check_rows("split_pairs", x.len(), 2 * part);
    let task = rows_per_task(CHEAP_TASK, part) * part;
    for (half, out) in [first, second].into_iter().enumerate() {
        region.run_chunks(out, task, |index, out| {
            let pairs = x[2 * index * task..].chunks_exact(2 * part);
            for (out, pair) in out.chunks_exact_mut(part).zip(pairs) {
                out.copy_from_slice(&pair[half * part..][..part]);
            }
        });
    }
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    sigmoid_one(Isa::detect(), x)
}

dispatch! {
    fn sigmoid_one(x: f32) -> f32 => sigmoid_kernel;
}

#[inline(always)]
fn sigmoid_kernel<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store(exp(s, s.splat(-x)), &mut lanes);
    1.0 / (1.0 + lanes[0])
}

/// `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add(region: &Region<'_>, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: the sides differ in length");
    region.run_chunks(x, CHEAP_TASK, |index, x| {
        for (x, y) in x.iter_mut().zip(&y[index * CHEAP_TASK..]) {
            *x += y;
        }
    });
}

/// `x += bias` for rows of the width of `bias`; `x` [rows, width].
///
/// # Panics
/// If `x` is not whole rows.
pub fn add_bias(region: &Region<'_>, x: &mut [f32], bias: &[f32]) {
    let width = check_rows("add_bias", x.len(), bias.len());
    region.run_chunks(x, rows_per_task(CHEAP_TASK, width) * width, |_, x| {
        for x in x.chunks_exact_mut(width) {
            for (x, bias) in x.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    });
}

/// `x *= factor`.
pub fn scale(region: &Region<'_>, x: &mut [f32], factor: f32) {
    region.run_chunks(x, CHEAP_TASK, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

/// `x[r] *= factors[r]` for each row r; `x` [factors.len(), width].
///
/// # Panics
/// If `x` is not `factors.len()` rows.
pub fn scale_rows(region: &Region<'_>, x: &mut [f32], factors: &[f32]) {
    if factors.is_empty() && x.is_empty() {
        return;
    }
    let rows = check_rows("scale_rows", x.len(), factors.len());
    let width = x.len() / rows;
    let rows_each = rows_per_task(CHEAP_TASK, width);
    region.run_chunks(x, rows_each * width, |index, x| {
        for (x, factor) in x.chunks_exact_mut(width.max(1)).zip(&factors[index * rows_each..]) {
            x.iter_mut().for_each(|x| *x *= factor);
        }
    });
}

/// The end of a mixture: `out[r] += sum over j of weights[r, j] * rows[index[r, j]]`; `index` and `weights`
/// [n, k], `out` [n, width], `rows` [any number, width].
///
/// Canonical: the terms of an element are added in the order of j, each product and each sum rounded.
///
/// # Panics
/// If the lengths do not fit or an index is beyond `rows`.
pub fn add_weighted_rows(
    region: &Region<'_>,
    rows: &[f32],
    index: &[u32],
    weights: &[f32],
    k: usize,
    out: &mut [f32],
) {
    assert_eq!(index.len(), weights.len(), "add_weighted_rows: as many weights as indices are needed");
    if out.is_empty() || k == 0 {
        return;
    }
    let n = index.len() / check_rows("add_weighted_rows", index.len(), k);
    let width = out.len() / check_rows("add_weighted_rows", out.len(), n);
    let rows_each = rows_per_task(CHEAP_TASK, k * width);
    region.run_chunks(out, rows_each * width, |task, out| {
        let entries = index.chunks_exact(k).zip(weights.chunks_exact(k)).skip(task * rows_each);
        for (out, (index, weights)) in out.chunks_exact_mut(width).zip(entries) {
            for (&row, &weight) in index.iter().zip(weights) {
                let row = &rows[row as usize * width..][..width];
                for (out, x) in out.iter_mut().zip(row) {
                    *out += weight * x;
                }
            }
        }
    });
}

/// `out = x` in IEEE half precision, to nearest, ties to even; beyond 65504 infinity.
///
/// # Panics
/// If the lengths differ.
pub fn store_f16(x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len(), "store_f16: input and output differ in length");
    store_f16_row(Isa::detect(), x, out);
}

dispatch! {
    fn store_f16_row(x: &[f32], out: &mut [u16]) => store_f16_kernel;
}

#[inline(always)]
fn store_f16_kernel<S: Simd>(s: S, x: &[f32], out: &mut [u16]) {
    let ((x, x_tail), (out, out_tail)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (x, out) in x.iter().zip(out) {
        s.store_f16(s.load(x), out);
    }
    if !x_tail.is_empty() {
        let mut lanes = [0; LANES];
        s.store_f16(s.load_part(x_tail, 0.0), &mut lanes);
        out_tail.copy_from_slice(&lanes[..x_tail.len()]);
    }
}

#[cfg(test)]
mod tests;
