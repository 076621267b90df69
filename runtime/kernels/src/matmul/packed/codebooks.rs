//! The formats with codebooks: eight elements at once are the bytes of a number.

use super::buffered::Buffered;
use super::{Offset, Scales, Signed, Wide};
use crate::format::Format;
use crate::quant::{EVEN_SIGN_MASKS, IQ1, IQ1_UP, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, SIGN_MASKS};

/// See [`Format::IQ1S`].
pub(in crate::matmul) struct Iq1S;
/// See [`Format::IQ1M`].
pub(in crate::matmul) struct Iq1M;
/// See [`Format::IQ2XXS`].
pub(in crate::matmul) struct Iq2Xxs;
/// See [`Format::IQ2XS`].
pub(in crate::matmul) struct Iq2Xs;
/// See [`Format::IQ2S`].
pub(in crate::matmul) struct Iq2S;
/// See [`Format::IQ3XXS`].
pub(in crate::matmul) struct Iq3Xxs;
/// See [`Format::IQ3S`].
pub(in crate::matmul) struct Iq3S;

#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> usize {
    match block[at..] {
        [low, high, ..] => usize::from(u16::from_le_bytes([low, high])),
        _ => 0,
    }
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    match block[at..] {
        [a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

#[inline(always)]
fn two_of_four(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// A unit times the odd numbers `2 n + 1`; n is what `mask` leaves of `bits`, shifted to the right.
#[inline(always)]
fn odd<W: Wide>(w: W, unit: W::F, bits: W::V, shift: u32, mask: i32) -> W::F {
    let n = w.and(w.shr32(bits, shift), w.splat32(mask));
    w.mul(unit, w.floats(w.or(w.shl32(n, 1), w.splat32(1))))
}

/// The half at the beginning of the block, times `factor`.
///
/// # Safety
/// As for [`super::Packed::scales`].
#[inline(always)]
unsafe fn unit<W: Wide>(w: W, at: *const u8, stride: usize, factor: f32) -> W::F {
    // SAFETY: every block has 16 bytes.
    let head = unsafe { w.column(at, 0, stride) };
    w.mul(w.low_halves(w.dword::<0>(head)), w.splat(factor))
}

/// Scales of 4 bits, eight in a dword.
#[inline(always)]
fn nibble_scales<W: Wide>(w: W, unit: W::F, dword: W::V, to: &mut [W::F]) {
    for (i, scale) in to[..8].iter_mut().enumerate() {
        *scale = odd(w, unit, dword, 4 * i as u32, 15);
    }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq2Xxs {
    const FORMAT: Format = Format::IQ2XXS;
    type Weights = Signed<32, 63>;
    const CODEBOOK: bool = true;
    const EIGHTS: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let (sub, l) = (i / 4, i % 4);
        let signs = u32_at(block, 6 + 8 * sub);
        [IQ2_XXS[usize::from(block[2 + 8 * sub + l])], EVEN_SIGN_MASKS[(signs >> (7 * l) & 127) as usize]]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        unsafe {
            let unit = unit(w, at, stride, 0.125);
            for pair in 0..4 {
                let [_, first, _, second] = w.dwords(w.column(at, 2 + 16 * pair, stride));
                to.scale[2 * pair] = odd(w, unit, first, 28, 15);
                to.scale[2 * pair + 1] = odd(w, unit, second, 28, 15);
            }
        }
    }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq2Xs {
    const FORMAT: Format = Format::IQ2XS;
    type Weights = Signed<16, 63>;
    const CODEBOOK: bool = true;
    const EIGHTS: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let code = u16_at(block, 2 + 2 * i);
        [IQ2_XS[code & 511], EVEN_SIGN_MASKS[code >> 9]]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the scales are its last eight bytes.
        let (unit, [_, _, first, second]) =
            unsafe { (unit(w, at, stride, 0.125), w.dwords(w.column(at, 58, stride))) };
        nibble_scales(w, unit, first, &mut to.scale);
        nibble_scales(w, unit, second, &mut to.scale[8..]);
    }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq2S {
    const FORMAT: Format = Format::IQ2S;
    type Weights = Signed<16, 63>;
    const CODEBOOK: bool = true;
    const EIGHTS: bool = true;
    const BY_BUFFER: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let high = usize::from(block[66 + i / 4]) >> (2 * (i % 4)) & 3;
        [IQ2_S[usize::from(block[2 + i]) | high << 8], SIGN_MASKS[usize::from(block[34 + i])]]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the scales are its last eight bytes.
        let (unit, [_, _, first, second]) =
            unsafe { (unit(w, at, stride, 0.125), w.dwords(w.column(at, 66, stride))) };
        nibble_scales(w, unit, first, &mut to.scale);
        nibble_scales(w, unit, second, &mut to.scale[8..]);
    }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq3Xxs {
    const FORMAT: Format = Format::IQ3XXS;
    type Weights = Signed<32, 63>;
    const CODEBOOK: bool = true;
    const EIGHTS: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let pattern = |i: usize| IQ3_XXS[usize::from(block[2 + i])];
        let signs = u32_at(block, 66 + i / 4 * 4);
        [
            two_of_four(pattern(2 * i), pattern(2 * i + 1)),
            EVEN_SIGN_MASKS[(signs >> (7 * (i % 4)) & 127) as usize],
        ]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        unsafe {
            let unit = unit(w, at, stride, 0.25);
            for half in 0..2 {
                let signs = w.dwords(w.column(at, 66 + 16 * half, stride));
                for (scale, signs) in to.scale[4 * half..4 * half + 4].iter_mut().zip(signs) {
                    *scale = odd(w, unit, signs, 28, 15);
                }
            }
        }
    }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq3S {
    const FORMAT: Format = Format::IQ3S;
    type Weights = Signed<32, 15>;
    const CODEBOOK: bool = true;
    const EIGHTS: bool = true;
    const BY_BUFFER: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let high = usize::from(block[66 + i / 4]) >> (2 * (i % 4));
        let first = IQ3_S[usize::from(block[2 + 2 * i]) | (high & 1) << 8];
        let second = IQ3_S[usize::from(block[3 + 2 * i]) | (high >> 1 & 1) << 8];
        [two_of_four(first, second), SIGN_MASKS[usize::from(block[74 + i])]]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the scales are its last four bytes.
        let (unit, tail) = unsafe { (unit(w, at, stride, 1.0), w.column(at, 94, stride)) };
        nibble_scales(w, unit, w.dword::<3>(tail), &mut to.scale);
    }
}

/// Eight elements of IQ1, moved up unless `down`.
#[inline(always)]
fn moved(index: usize, down: bool) -> u64 {
    IQ1[index] + if down { 0 } else { IQ1_UP }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq1S {
    const FORMAT: Format = Format::IQ1S;
    type Weights = Offset<32, 31, 4>;
    const EIGHTS: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let bits = u16_at(block, 34 + i / 4 * 2);
        let index = usize::from(block[2 + i]) | (bits >> (3 * (i % 4)) & 7) << 8;
        [moved(index, bits & 0x8000 != 0), 0]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        let (unit, bits) = unsafe { (unit(w, at, stride, 0.125), w.dwords(w.column(at, 34, stride))) };
        for (pair, bits) in bits.into_iter().enumerate() {
            to.scale[2 * pair] = odd(w, unit, bits, 12, 7);
            to.scale[2 * pair + 1] = odd(w, unit, bits, 28, 7);
        }
    }
}

// SAFETY: `unpack` is the trait's own.
unsafe impl Buffered for Iq1M {
    const FORMAT: Format = Format::IQ1M;
    type Weights = Offset<16, 31, 4>;
    const EIGHTS: bool = true;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> [u64; 2] {
        let nibble = usize::from(block[32 + i / 2]) >> (4 * (i % 2));
        [moved(usize::from(block[i]) | (nibble & 7) << 8, nibble & 8 != 0), 0]
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the scales are its last eight bytes.
        let [_, _, first, second] = w.dwords(unsafe { w.column(at, 40, stride) });
        // A quarter of the half is on top of each 16 bits of scales.
        let quarter = |bits, shift: u32, to: u32| w.shl32(w.and(w.shr32(bits, shift), w.splat32(15)), to);
        let low = w.or(quarter(first, 12, 0), quarter(first, 28, 4));
        let high = w.or(quarter(second, 12, 8), quarter(second, 28, 12));
        let unit = w.mul(w.low_halves(w.or(low, high)), w.splat(0.125));
        for (sub, scale) in to.scale.iter_mut().enumerate() {
            let bits = if sub < 8 { first } else { second };
            *scale = odd(w, unit, bits, (sub / 4 % 2 * 16 + 3 * (sub % 4)) as u32, 7);
        }
    }
}
