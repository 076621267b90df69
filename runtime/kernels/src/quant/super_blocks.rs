//! From floats to super-blocks of 256, whose sub-blocks' scales are small integers themselves.

use super::encode::{inverse, push_half, push_nibbles};
use super::fit::{self, Iq4, Linear};
use crate::isa::Isa;

/// Integers of a super-block, and the integer scales and minimums of its sub-blocks.
struct Parts<const SUBS: usize> {
    q: [u8; 256],
    scale: [i8; SUBS],
    minimum: [u8; SUBS],
    /// What the integer scales and minimums are multiplied by.
    unit: f32,
    minimum_unit: f32,
}

/// Scale and minimum for each of `SUBS` sub-blocks; both up to `high_scale` in their units, q up to `high`.
fn affine<const SUBS: usize>(x: &[f32], high: f32, high_scale: f32) -> Parts<SUBS> {
    let isa = Isa::detect();
    let mut fits = [(0.0_f32, 0.0_f32); SUBS];
    for (fit, x) in fits.iter_mut().zip(x.chunks_exact(256 / SUBS)) {
        *fit = fit::scale_and_minimum(isa, x, high);
    }
    let largest = fits.iter().fold((0.0_f32, 0.0_f32), |l, fit| (l.0.max(fit.0), l.1.max(fit.1)));
    let unit = half_of(largest.0 / high_scale);
    let minimum_unit = half_of(largest.1 / high_scale);
    let mut parts = Parts { q: [0; 256], scale: [0; SUBS], minimum: [0; SUBS], unit, minimum_unit };
    let (levels, scales) = (Linear { low: 0.0, high }, Linear { low: 0.0, high: high_scale });
    for (sub, x) in x.chunks_exact(256 / SUBS).enumerate() {
        let scale = scales.nearest_one(fits[sub].0 * inverse(unit));
        let minimum = scales.nearest_one(fits[sub].1 * inverse(minimum_unit));
        (parts.scale[sub], parts.minimum[sub]) = (scale as i8, minimum as u8);
        let inverse = inverse(scale * unit);
        for (q, x) in parts.q[sub * (256 / SUBS)..].iter_mut().zip(x) {
            *q = levels.nearest_one((x + minimum * minimum_unit) * inverse) as u8;
        }
    }
    parts
}

/// A signed scale for each of `SUBS` sub-blocks, down to `low_scale` in its unit. `q` is what `index` makes
/// of an element divided by its scale.
fn symmetric<const SUBS: usize>(
    x: &[f32],
    fit: impl Fn(&[f32]) -> f32,
    low_scale: f32,
    index: impl Fn(f32) -> u8,
) -> Parts<SUBS> {
    let mut fits = [0.0_f32; SUBS];
    for (to, x) in fits.iter_mut().zip(x.chunks_exact(256 / SUBS)) {
        *to = fit(x);
    }
    let largest = fits.iter().fold(0.0_f32, |l, fit| if fit.abs() > l.abs() { *fit } else { l });
    let unit = half_of(largest / low_scale);
    let mut parts = Parts { q: [0; 256], scale: [0; SUBS], minimum: [0; SUBS], unit, minimum_unit: 0.0 };
    let scales = Linear { low: low_scale, high: -1.0 - low_scale };
    for (sub, x) in x.chunks_exact(256 / SUBS).enumerate() {
        let scale = scales.nearest_one(fits[sub] * inverse(unit));
        parts.scale[sub] = scale as i8;
        let inverse = inverse(scale * unit);
        for (q, x) in parts.q[sub * (256 / SUBS)..].iter_mut().zip(x) {
            *q = index(x * inverse);
        }
    }
    parts
}

/// The number as half precision keeps it.
fn half_of(x: f32) -> f32 {
    push_half(x, &mut Vec::new())
}

/// Appends the 2 low bits of 256 integers: a quarter of the bits of 32 bytes is 32 elements in a row.
fn push_two_bits(q: &[u8; 256], shift: u32, out: &mut Vec<u8>) {
    for half in q.as_chunks::<128>().0 {
        out.extend(
            (0..32).map(|l| (0..4).fold(0, |byte, j| byte | ((half[32 * j + l] >> shift) & 3) << (2 * j))),
        );
    }
}

/// Appends one bit of 256 integers: bit b of byte l is element 32 b + l.
fn push_bits(q: &[u8; 256], shift: u32, out: &mut Vec<u8>) {
    out.extend((0..32).map(|l| (0..8).fold(0, |byte, b| byte | ((q[32 * b + l] >> shift) & 1) << b)));
}

/// Appends the 4 low bits of the integers of each `2 * width`: the first half in the low nibbles of `width`
/// bytes.
fn push_wide_nibbles(q: &[u8; 256], width: usize, out: &mut Vec<u8>) {
    for q in q.chunks_exact(2 * width) {
        out.extend((0..width).map(|l| (q[l] & 15) | (q[l + width] & 15) << 4));
    }
}

/// Appends 8 scales and minimums of 6 bits in 12 bytes.
fn push_six_bit_pairs(parts: &Parts<8>, out: &mut Vec<u8>) {
    let scale = parts.scale.map(|scale| scale as u8);
    let minimum = parts.minimum;
    out.extend((0..4).map(|j| scale[j] | (scale[j + 4] >> 4) << 6));
    out.extend((0..4).map(|j| minimum[j] | (minimum[j + 4] >> 4) << 6));
    out.extend((4..8).map(|j| (scale[j] & 15) | (minimum[j] & 15) << 4));
}

pub(super) fn q2_k(x: &[f32], out: &mut Vec<u8>) {
    let parts = affine::<16>(x, 3.0, 15.0);
    out.extend(parts.scale.iter().zip(parts.minimum).map(|(scale, minimum)| *scale as u8 | minimum << 4));
    push_two_bits(&parts.q, 0, out);
    push_half(parts.unit, out);
    push_half(parts.minimum_unit, out);
}

pub(super) fn q3_k(x: &[f32], out: &mut Vec<u8>) {
    let (isa, levels) = (Isa::detect(), Linear { low: -4.0, high: 3.0 });
    let parts =
        symmetric::<16>(x, |x| fit::scale(isa, x, levels), -32.0, |x| (levels.nearest_one(x) + 4.0) as u8);
    push_bits(&parts.q, 2, out);
    push_two_bits(&parts.q, 0, out);
    let scale = parts.scale.map(|scale| (scale + 32) as u8);
    out.extend((0..8).map(|j| (scale[j] & 15) | (scale[j + 8] & 15) << 4));
    out.extend((0..4).map(|j| (0..4).fold(0, |byte, k| byte | (scale[j + 4 * k] >> 4) << (2 * k))));
    push_half(parts.unit, out);
}

pub(super) fn q4_k(x: &[f32], out: &mut Vec<u8>) {
    let parts = affine::<8>(x, 15.0, 63.0);
    push_half(parts.unit, out);
    push_half(parts.minimum_unit, out);
    push_six_bit_pairs(&parts, out);
    push_wide_nibbles(&parts.q, 32, out);
}

pub(super) fn q5_k(x: &[f32], out: &mut Vec<u8>) {
    let parts = affine::<8>(x, 31.0, 63.0);
    push_half(parts.unit, out);
    push_half(parts.minimum_unit, out);
    push_six_bit_pairs(&parts, out);
    push_bits(&parts.q, 4, out);
    push_wide_nibbles(&parts.q, 32, out);
}

pub(super) fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let (isa, levels) = (Isa::detect(), Linear { low: -32.0, high: 31.0 });
    let parts =
        symmetric::<16>(x, |x| fit::scale(isa, x, levels), -128.0, |x| (levels.nearest_one(x) + 32.0) as u8);
    push_wide_nibbles(&parts.q, 64, out);
    push_two_bits(&parts.q, 4, out);
    out.extend(parts.scale.map(|scale| scale as u8));
    push_half(parts.unit, out);
}

pub(super) fn iq4_xs(x: &[f32], out: &mut Vec<u8>) {
    let isa = Isa::detect();
    let parts = symmetric::<8>(x, |x| fit::scale_iq4(isa, x, Iq4), -32.0, |x| Iq4.index(x));
    push_half(parts.unit, out);
    let scale = parts.scale.map(|scale| (scale + 32) as u8);
    let high = scale.iter().rev().fold(0_u16, |bits, scale| bits << 2 | u16::from(scale >> 4));
    out.extend(high.to_le_bytes());
    out.extend(scale.as_chunks::<2>().0.iter().map(|pair| (pair[0] & 15) | (pair[1] & 15) << 4));
    parts.q.as_chunks::<32>().0.iter().for_each(|q| push_nibbles(q, out));
}
