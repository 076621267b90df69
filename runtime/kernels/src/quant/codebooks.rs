//! The formats whose elements come in patterns of a codebook: IQ1, IQ2 and IQ3.
//!
//! An index chooses the magnitudes of 8 or of 4 elements at once, and bits beside it their signs. The levels of IQ1
//! are -1, 0 and 1, all moved by an eighth up or down: its integers are eight times that.

use half::f16;

use super::patterns;
use super::unpack::{SubBlocks, half_at};

/// Magnitudes of 8 elements in the bytes of a number, the first in the lowest.
pub(crate) static IQ2_XXS: [u64; 256] = of_eight(&patterns::IQ2_XXS, [8, 25, 43]);
/// As [`IQ2_XXS`].
pub(crate) static IQ2_XS: [u64; 512] = of_eight(&patterns::IQ2_XS, [8, 25, 43]);
/// As [`IQ2_XXS`].
pub(crate) static IQ2_S: [u64; 1024] = of_eight(&patterns::IQ2_S, [8, 25, 43]);
/// Magnitudes of 4 elements in the bytes of a number, the first in the lowest.
pub(crate) static IQ3_XXS: [u32; 256] = of_four(&patterns::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
/// As [`IQ3_XXS`].
pub(crate) static IQ3_S: [u32; 512] = of_four(&patterns::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// 8 elements of IQ1 that are moved down, plus 16, in the bytes of a number.
pub(crate) static IQ1: [u64; 2048] = of_eight(&patterns::IQ1, [7, 15, 23]);
/// What makes elements of [`IQ1`] that are moved down such that are moved up.
pub(crate) const IQ1_UP: u64 = 0x0202_0202_0202_0202;
/// What the elements of [`IQ1`] have too much.
pub(crate) const IQ1_OFFSET: i8 = 16;

/// For each byte the number whose bytes are all ones where it has a bit.
pub(crate) static SIGN_MASKS: [u64; 256] = {
    let mut masks = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            masks[byte] |= (byte as u64 >> bit & 1) * 0xFF << (8 * bit);
            bit += 1;
        }
        byte += 1;
    }
    masks
};

/// The same for 7 bits and an eighth that makes their number even.
pub(crate) static EVEN_SIGN_MASKS: [u64; 128] = {
    let mut masks = [0; 128];
    let mut bits = 0;
    while bits < 128 {
        masks[bits] = SIGN_MASKS[even(bits as u8) as usize];
        bits += 1;
    }
    masks
};

/// 7 bits, and an eighth that makes their number even.
const fn even(bits: u8) -> u8 {
    bits | (bits.count_ones() as u8 & 1) << 7
}

/// The patterns of a set as bytes; `levels` are what the digits stand for.
const fn of_eight<const N: usize>(set: &[u64], levels: [u8; 3]) -> [u64; N] {
    let mut patterns = [0; N];
    let (mut index, mut number) = (0, 0);
    while index < N {
        if set[number / 64] >> (number % 64) & 1 == 1 {
            let (mut digits, mut element) = (number, 0);
            while element < 8 {
                patterns[index] |= (levels[digits % 3] as u64) << (8 * element);
                digits /= 3;
                element += 1;
            }
            index += 1;
        }
        number += 1;
    }
    patterns
}

/// As [`of_eight`], of 4 digits of 8 levels.
const fn of_four<const N: usize>(set: &[u64], levels: [u8; 8]) -> [u32; N] {
    let mut patterns = [0; N];
    let (mut index, mut number) = (0, 0);
    while index < N {
        if set[number / 64] >> (number % 64) & 1 == 1 {
            let mut element = 0;
            while element < 4 {
                patterns[index] |= (levels[number >> (3 * element) & 7] as u32) << (8 * element);
                element += 1;
            }
            index += 1;
        }
        number += 1;
    }
    patterns
}

fn u16_at(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

fn u32_at(block: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(block, offset)) | u32::from(u16_at(block, offset + 2)) << 16
}

/// Eight elements: magnitudes, and a bit for each that is negative.
fn put_eight(q: &mut [i8], magnitudes: [u8; 8], signs: u8) {
    for (j, (q, magnitude)) in q.iter_mut().zip(magnitudes).enumerate() {
        *q = if signs >> j & 1 == 1 { -(magnitude as i8) } else { magnitude as i8 };
    }
}

fn two_of_four(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}

/// A unit times the odd number `2 n + 1`.
fn odd(unit: f32, n: impl Into<f32>) -> f32 {
    unit * (2.0 * n.into() + 1.0)
}

/// d, then for each 32 elements 4 bytes of index and 32 bits: 4 times 7 signs, and the scale on top.
pub(super) fn iq2_xxs(block: &[u8], out: &mut SubBlocks) {
    let unit = half_at(block, 0) * 0.125;
    for sub in 0..8 {
        let at = 2 + 8 * sub;
        let signs = u32_at(block, at + 4);
        out.scale[sub] = odd(unit, (signs >> 28) as u8);
        for l in 0..4 {
            let pattern = IQ2_XXS[usize::from(block[at + l])];
            let signs = even((signs >> (7 * l) & 127) as u8);
            put_eight(&mut out.q[32 * sub + 8 * l..], pattern.to_le_bytes(), signs);
        }
    }
}

/// d, 32 times 9 bits of index and 7 signs, 16 scales of 4 bits.
pub(super) fn iq2_xs(block: &[u8], out: &mut SubBlocks) {
    nibble_scales(half_at(block, 0) * 0.125, &block[66..], out);
    for (i, q) in out.q.chunks_exact_mut(8).enumerate() {
        let code = u16_at(block, 2 + 2 * i);
        put_eight(q, IQ2_XS[usize::from(code & 511)].to_le_bytes(), even((code >> 9) as u8));
    }
}

/// d, 32 bytes of index, 32 of signs, 8 with the upper 2 bits of each index, 16 scales of 4 bits.
pub(super) fn iq2_s(block: &[u8], out: &mut SubBlocks) {
    nibble_scales(half_at(block, 0) * 0.125, &block[74..], out);
    for (i, q) in out.q.chunks_exact_mut(8).enumerate() {
        let high = block[66 + i / 4] >> (2 * (i % 4)) & 3;
        let index = usize::from(block[2 + i]) | usize::from(high) << 8;
        put_eight(q, IQ2_S[index].to_le_bytes(), block[34 + i]);
    }
}

/// 16 scales, two in a byte.
fn nibble_scales(unit: f32, packed: &[u8], out: &mut SubBlocks) {
    for (sub, scale) in out.scale.iter_mut().enumerate() {
        *scale = odd(unit, packed[sub / 2] >> (4 * (sub % 2)) & 15);
    }
}

/// d, 64 bytes of index, then for each 32 elements 32 bits as in IQ2_XXS.
pub(super) fn iq3_xxs(block: &[u8], out: &mut SubBlocks) {
    let unit = half_at(block, 0) * 0.25;
    for sub in 0..8 {
        let signs = u32_at(block, 66 + 4 * sub);
        out.scale[sub] = odd(unit, (signs >> 28) as u8);
        for l in 0..4 {
            let index = &block[2 + 8 * sub + 2 * l..];
            let pattern = two_of_four(IQ3_XXS[usize::from(index[0])], IQ3_XXS[usize::from(index[1])]);
            put_eight(&mut out.q[32 * sub + 8 * l..], pattern, even((signs >> (7 * l) & 127) as u8));
        }
    }
}

/// d, 64 bytes of index, 8 with the upper bit of each, 32 of signs, 8 scales of 4 bits.
pub(super) fn iq3_s(block: &[u8], out: &mut SubBlocks) {
    let unit = half_at(block, 0);
    for (sub, scale) in out.scale[..8].iter_mut().enumerate() {
        *scale = odd(unit, block[106 + sub / 2] >> (4 * (sub % 2)) & 15);
    }
    let pattern = |i: usize| {
        let high = block[66 + i / 8] >> (i % 8) & 1;
        IQ3_S[usize::from(block[2 + i]) | usize::from(high) << 8]
    };
    for (i, q) in out.q.chunks_exact_mut(8).enumerate() {
        put_eight(q, two_of_four(pattern(2 * i), pattern(2 * i + 1)), block[74 + i]);
    }
}

/// Eight elements of IQ1, with the bits of their index, moved down or up.
fn put_iq1(q: &mut [i8], index: usize, down: bool) {
    let pattern = IQ1[index] + if down { 0 } else { IQ1_UP };
    for (q, byte) in q.iter_mut().zip(pattern.to_le_bytes()) {
        *q = byte as i8 - IQ1_OFFSET;
    }
}

/// d, 32 bytes of index, then for each 32 elements 16 bits: 4 times the upper 3 of an index, the scale, and whether the
/// elements are moved down.
pub(super) fn iq1_s(block: &[u8], out: &mut SubBlocks) {
    let unit = half_at(block, 0) * 0.125;
    for sub in 0..8 {
        let bits = u16_at(block, 34 + 2 * sub);
        out.scale[sub] = odd(unit, (bits >> 12 & 7) as u8);
        for l in 0..4 {
            let index = usize::from(block[2 + 4 * sub + l]) | usize::from(bits >> (3 * l) & 7) << 8;
            put_iq1(&mut out.q[32 * sub + 8 * l..], index, bits & 0x8000 != 0);
        }
    }
}

/// 32 bytes of index, 32 nibbles with the upper 3 bits of each and whether it is moved down, 4 times 16 bits: 4 scales of
/// 3 bits, and a quarter of d.
pub(super) fn iq1_m(block: &[u8], out: &mut SubBlocks) {
    let scales: [u16; 4] = std::array::from_fn(|i| u16_at(block, 48 + 2 * i));
    let d = scales.iter().rev().fold(0, |d, scales| d << 4 | scales >> 12);
    let unit = f16::from_bits(d).to_f32() * 0.125;
    for (sub, scale) in out.scale.iter_mut().enumerate() {
        *scale = odd(unit, (scales[sub / 4] >> (3 * (sub % 4)) & 7) as u8);
    }
    for (i, q) in out.q.chunks_exact_mut(8).enumerate() {
        let nibble = block[32 + i / 2] >> (4 * (i % 2)) & 15;
        put_iq1(q, usize::from(block[i]) | usize::from(nibble & 7) << 8, nibble & 8 != 0);
    }
}
