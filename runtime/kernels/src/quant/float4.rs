//! The formats of 4-bit floats: one bit of sign, two of exponent and one of fraction, under a scale that is a
//! float of 8 bits itself.
//!
//! An element is one of 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with a sign. The integers of a block are twice that, and its
//! scales half of what the file says, so that both are exact.

use super::unpack::{SubBlocks, nibbles};

/// Twice what the 16 codes stand for.
pub(crate) const FLOAT4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of what a byte stands for that is an exponent alone (e8m0): 2 to the power of the byte less 128. Its NaN, 255,
/// is a power like the others, as in ggml.
const POWERS_OF_TWO: [f32; 256] = {
    let mut powers = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        // The two smallest are subnormal.
        let bits = if byte < 2 { 0x0020_0000 << byte } else { (byte as u32 - 1) << 23 };
        powers[byte] = f32::from_bits(bits);
        byte += 1;
    }
    powers
};

/// Half of what a byte stands for that is a float of 4 bits of exponent and 3 of fraction (e4m3). The bit of the sign
/// does not count, and the NaN 0x7F is 0, as in ggml.
const UNSIGNED_FLOAT8: [f32; 256] = {
    let mut floats = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, fraction) = (byte as u32 >> 3 & 15, byte as u32 & 7);
        let (significand, exponent) = if exponent == 0 { (fraction, 1) } else { (8 + fraction, exponent) };
        // Bias 7, 3 bits of fraction, and the half.
        floats[byte] = significand as f32 * f32::from_bits((exponent + 127 - 11) << 23);
        byte += 1;
    }
    floats[0x7F] = 0.0;
    floats
};

/// The byte of the largest scale; the next one is no number.
const LARGEST_SCALE: usize = 0x7E;
/// Elements of NVFP4 that share a scale.
const NVFP4_SUB: usize = 16;

/// A scale, then 16 bytes of nibbles.
pub(super) fn mxfp4(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = POWERS_OF_TWO[usize::from(block[0])];
    nibbles(&block[1..], &mut out.q);
    out.q[..32].iter_mut().for_each(|q| *q = FLOAT4_VALUES[*q as usize]);
}

/// 4 scales, then 8 bytes for each: elements 0..8 in their low, 8..16 in their high nibbles.
pub(super) fn nvfp4(block: &[u8], out: &mut SubBlocks) {
    for sub in 0..4 {
        out.scale[sub] = UNSIGNED_FLOAT8[usize::from(block[sub])];
        let q = &mut out.q[NVFP4_SUB * sub..][..NVFP4_SUB];
        for (j, byte) in block[4 + 8 * sub..][..8].iter().enumerate() {
            q[j] = FLOAT4_VALUES[usize::from(byte & 15)];
            q[j + 8] = FLOAT4_VALUES[usize::from(byte >> 4)];
        }
    }
}

/// The code next to `x`, which is an element over half of its scale.
fn nearest(x: f32) -> u8 {
    let above = |pair: &&[i8]| 2.0 * x.abs() > f32::from(pair[0]) + f32::from(pair[1]);
    let magnitude = FLOAT4_VALUES[..8].windows(2).filter(above).count() as u8;
    magnitude | u8::from(x < 0.0 && magnitude > 0) << 3
}

/// Of the scales with the numbers `candidates`, the one with which least of `x` is lost, and the codes then.
fn best<const N: usize>(
    x: &[f32],
    table: &[f32; 256],
    candidates: std::ops::RangeInclusive<u8>,
) -> (u8, [u8; N]) {
    let mut best = (*candidates.start(), [0; N]);
    let mut best_loss = f32::INFINITY;
    for byte in candidates {
        let scale = table[usize::from(byte)];
        let inverse = super::encode::inverse(scale);
        let (mut codes, mut loss) = ([0; N], 0.0);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = nearest(x * inverse);
            loss += (x - scale * f32::from(FLOAT4_VALUES[usize::from(*code)])).powi(2);
        }
        if loss < best_loss {
            (best, best_loss) = ((byte, codes), loss);
        }
    }
    best
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

pub(super) fn encode_mxfp4(x: &[f32], out: &mut Vec<u8>) {
    // The exponent of the largest element less the 2 of the largest code; the next one loses less where that cuts.
    let plain = (largest(x).to_bits() >> 23).saturating_sub(2).min(252) as u8;
    let (byte, codes) = best::<32>(x, &POWERS_OF_TWO, plain..=plain + 1);
    out.push(byte);
    super::encode::push_nibbles(&codes, out);
}

pub(super) fn encode_nvfp4(x: &[f32], out: &mut Vec<u8>) {
    let mut scales = [0; 4];
    let mut codes = [[0; NVFP4_SUB]; 4];
    for (sub, x) in x.chunks_exact(NVFP4_SUB).enumerate() {
        // From a little below the scale whose largest code is the largest element, to that for the code before.
        let wanted = largest(x) / 12.0;
        let fitting = UNSIGNED_FLOAT8[..LARGEST_SCALE].iter().filter(|scale| **scale < wanted).count();
        let last = (fitting + 5).min(LARGEST_SCALE) as u8;
        (scales[sub], codes[sub]) = best(x, &UNSIGNED_FLOAT8, (fitting as u8).saturating_sub(2)..=last);
    }
    out.extend(scales);
    for codes in codes {
        out.extend((0..8).map(|j| codes[j] | codes[j + 8] << 4));
    }
}
