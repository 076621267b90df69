//! Weights of IQ2 and IQ3 out of registers, with VBMI and BITALG.
//!
//! An index of 8 bits and up to two more chooses a *code*: the levels of 8 elements in 2 bits each, or of 4 elements in 4 bits each.
//! Codes are looked up for 64 indices at once, by bytes, in tables that are 4 registers for each 256 entries; a shift by bytes puts the
//! levels of 16 elements of a row side by side, a table of 64 entries makes them magnitudes, and bits beside them become a mask of
//! what is negative.

use std::arch::x86_64::*;

use super::Avx512;
use crate::format::Format;
use crate::matmul::packed::{Packed, Sink};
use crate::matmul::wide::Wide;
use crate::quant::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

/// Of each of the four vectors of a column.
type Four = [__m512i; 4];

/// The codes of a codebook, their low and their high bytes.
#[repr(C, align(64))]
struct Codes<const N: usize> {
    bytes: [[u8; N]; 2],
    /// Magnitudes by level, over and over: levels have 2 or 4 bits, and what stands above them is of another element.
    magnitudes: [u8; 64],
}

static IQ2_XXS_CODES: Codes<256> = of_eight(&IQ2_XXS);
static IQ2_XS_CODES: Codes<512> = of_eight(&IQ2_XS);
static IQ2_S_CODES: Codes<1024> = of_eight(&IQ2_S);
static IQ3_XXS_CODES: Codes<256> = of_four(&IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3_S_CODES: Codes<512> = of_four(&IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);

const fn of_eight<const N: usize>(patterns: &[u64; N]) -> Codes<N> {
    let levels = [8, 25, 43];
    let mut codes = Codes { bytes: [[0; N]; 2], magnitudes: over_and_over(&levels, 4) };
    let mut index = 0;
    while index < N {
        [codes.bytes[0][index], codes.bytes[1][index]] = code(patterns[index], 8, &levels);
        index += 1;
    }
    codes
}

const fn of_four<const N: usize>(patterns: &[u32; N], levels: [u8; 8]) -> Codes<N> {
    let mut codes = Codes { bytes: [[0; N]; 2], magnitudes: over_and_over(&levels, 16) };
    let mut index = 0;
    while index < N {
        [codes.bytes[0][index], codes.bytes[1][index]] = code(patterns[index] as u64, 4, &levels);
        index += 1;
    }
    codes
}

/// The levels of so many magnitudes, which are the bytes of a number, in 16 bits.
const fn code(magnitudes: u64, elements: usize, levels: &[u8]) -> [u8; 2] {
    let (mut code, mut element) = (0, 0);
    while element < elements {
        let mut level = 0;
        while levels[level] != (magnitudes >> (8 * element)) as u8 {
            level += 1;
        }
        code |= (level as u16) << (16 / elements * element);
        element += 1;
    }
    code.to_le_bytes()
}

/// The magnitudes of the levels, each so many entries behind the last time.
const fn over_and_over(levels: &[u8], period: usize) -> [u8; 64] {
    let (mut all, mut i) = ([0; 64], 0);
    while i < 64 {
        if i % period < levels.len() {
            all[i] = levels[i % period];
        }
        i += 1;
    }
    all
}

/// For each byte of a lane the bit of its half from which on a shift takes 8.
const fn bits(first: u8, step: u8, second: u8) -> [u8; 16] {
    let mut bits = [0; 16];
    let mut i = 0;
    while i < 8 {
        bits[i] = first + step * i as u8;
        bits[i + 8] = second + step * i as u8;
        i += 1;
    }
    bits
}

/// The same 16 bytes in each lane.
#[inline(always)]
fn lanes(bytes: [u8; 16]) -> __m512i {
    // SAFETY: AVX-512, which whoever has a token has.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.as_ptr().cast())) }
}

impl<const N: usize> Codes<N> {
    /// The codes of 64 indices: of the first eight in each lane, and of the others. `high`: bits 8 and 9 of the indices.
    #[inline(always)]
    fn of(&self, index: __m512i, high: [__mmask64; 2]) -> [__m512i; 2] {
        let (low, up) = (byte(&self.bytes[0], index, high), byte(&self.bytes[1], index, high));
        // SAFETY: AVX-512.
        unsafe { [_mm512_unpacklo_epi8(low, up), _mm512_unpackhi_epi8(low, up)] }
    }

    #[inline(always)]
    fn magnitudes(&self, levels: __m512i) -> __m512i {
        // SAFETY: AVX-512 with VBMI; the table has 64 bytes.
        unsafe { _mm512_permutexvar_epi8(levels, _mm512_loadu_si512(self.magnitudes.as_ptr().cast())) }
    }

    /// Elements `16 c..16 c + 16` of 64 whose eight codes are in each lane.
    #[inline(always)]
    fn eights(&self, c: usize, codes: Four) -> Four {
        let shift = lanes(if c.is_multiple_of(2) { bits(0, 2, 16) } else { bits(32, 2, 48) });
        let mut weights = codes;
        for weights in &mut weights {
            *weights = self.magnitudes(shifted(half(*weights, c / 2), shift));
        }
        weights
    }

    /// Elements `16 c..16 c + 16` of 64 whose 16 codes are in each lane of two vectors.
    #[inline(always)]
    fn fours(&self, c: usize, codes: [Four; 2]) -> Four {
        let shift = lanes(bits(0, 4, 32));
        // The lower bits of two codes are in a half, and so are those of the two behind them.
        let mut weights = codes[c / 2];
        for weights in &mut weights {
            *weights = self.magnitudes(shifted(half(*weights, c % 2), shift));
        }
        weights
    }
}

/// What a table has for 64 indices.
#[inline(always)]
fn byte<const N: usize>(table: &[u8; N], index: __m512i, high: [__mmask64; 2]) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        match N {
            256 => quarter(table, 0, index),
            512 => _mm512_mask_blend_epi8(high[0], quarter(table, 0, index), quarter(table, 1, index)),
            _ => {
                let low = _mm512_mask_blend_epi8(high[0], quarter(table, 0, index), quarter(table, 1, index));
                let up = _mm512_mask_blend_epi8(high[0], quarter(table, 2, index), quarter(table, 3, index));
                _mm512_mask_blend_epi8(high[1], low, up)
            }
        }
    }
}

/// The same in 256 entries of it.
#[inline(always)]
fn quarter<const N: usize>(table: &[u8; N], number: usize, index: __m512i) -> __m512i {
    // SAFETY: AVX-512 with VBMI; the table has the bytes, as callers choose the number.
    unsafe {
        let at = table.as_ptr().add(256 * number);
        let [a, b] = [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())];
        let [c, d] = [_mm512_loadu_si512(at.add(128).cast()), _mm512_loadu_si512(at.add(192).cast())];
        let low = _mm512_permutex2var_epi8(a, index, b);
        let up = _mm512_permutex2var_epi8(c, index, d);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, up)
    }
}

#[inline(always)]
fn shifted(a: __m512i, bits: __m512i) -> __m512i {
    // SAFETY: AVX-512 with VBMI.
    unsafe { _mm512_multishift_epi64_epi8(bits, a) }
}

/// One half of each lane in both halves.
#[inline(always)]
fn half(a: __m512i, number: usize) -> __m512i {
    // SAFETY: AVX-512.
    unsafe { if number == 0 { _mm512_unpacklo_epi64(a, a) } else { _mm512_unpackhi_epi64(a, a) } }
}

/// The magnitudes of elements `16 c..16 c + 16` of 64, negated where these have a bit in both halves of a lane.
#[inline(always)]
fn signed(c: usize, magnitudes: Four, signs: Four) -> Four {
    let places = lanes(bits(16 * c as u8, 1, 16 * c as u8 + 8));
    let mut weights = magnitudes;
    for (weights, signs) in weights.iter_mut().zip(signs) {
        // SAFETY: AVX-512 with BITALG.
        *weights = unsafe {
            let negative = _mm512_bitshuffle_epi64_mask(signs, places);
            _mm512_mask_sub_epi8(*weights, negative, _mm512_setzero_si512(), *weights)
        };
    }
    weights
}

/// Bytes of 7 bits with an eighth that makes their number even.
#[inline(always)]
fn even(a: __m512i) -> __m512i {
    // SAFETY: AVX-512 with BITALG.
    unsafe {
        let odd = _mm512_and_si512(_mm512_popcnt_epi8(a), _mm512_set1_epi8(1));
        _mm512_or_si512(a, _mm512_slli_epi16::<7>(odd))
    }
}

/// The lower 28 bits of each dword as four bytes of 7, and [`even`].
#[inline(always)]
fn four_sevens(a: __m512i) -> __m512i {
    // SAFETY: AVX-512.
    unsafe {
        let first = _mm512_and_si512(a, _mm512_set1_epi32(0x7F));
        let second = _mm512_and_si512(_mm512_slli_epi32::<1>(a), _mm512_set1_epi32(0x7F00));
        let third = _mm512_and_si512(_mm512_slli_epi32::<2>(a), _mm512_set1_epi32(0x7F_0000));
        let fourth = _mm512_and_si512(_mm512_slli_epi32::<3>(a), _mm512_set1_epi32(0x7F00_0000));
        even(_mm512_or_si512(_mm512_or_si512(first, second), _mm512_or_si512(third, fourth)))
    }
}

/// The 8 bytes at `at` in both halves of each lane, of the rows that a vector of a column has.
///
/// # Safety
/// They must be readable in all rows.
#[inline(always)]
unsafe fn eight_bytes(at: *const u8, stride: usize) -> Four {
    // SAFETY: the caller's promise; AVX-512.
    unsafe {
        let mut vectors = [_mm512_setzero_si512(); 4];
        for (first, vector) in vectors.iter_mut().enumerate() {
            let v = _mm512_castsi128_si512(twice(at.add(first * stride)));
            let v = _mm512_inserti32x4::<1>(v, twice(at.add((first + 4) * stride)));
            let v = _mm512_inserti32x4::<2>(v, twice(at.add((first + 8) * stride)));
            *vector = _mm512_inserti32x4::<3>(v, twice(at.add((first + 12) * stride)));
        }
        vectors
    }
}

/// # Safety
/// 8 bytes must be readable.
#[inline(always)]
unsafe fn twice(at: *const u8) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_set1_epi64x(at.cast::<i64>().read_unaligned()) }
}

/// One half of each lane of all.
#[inline(always)]
fn halves(all: Four, number: usize) -> Four {
    [half(all[0], number), half(all[1], number), half(all[2], number), half(all[3], number)]
}

/// Gives 64 elements to `$to`, of which `$column` are 16: the `$group`-th of the block. No closure, since closures have not the features
/// of the function that they stand in.
macro_rules! put {
    ($P:ty, $to:ident, $w:ident, $group:expr, |$c:ident| $column:expr) => {
        if <$P>::SUB == 16 {
            for $c in 0..4 {
                $to.put::<$P, 1>($w, 4 * $group + $c, [$column]);
            }
        } else {
            for pair in 0..2 {
                let first = {
                    let $c = 2 * pair;
                    $column
                };
                let $c = 2 * pair + 1;
                $to.put::<$P, 2>($w, 2 * $group + pair, [first, $column]);
            }
        }
    };
}

const NONE: [__mmask64; 2] = [0; 2];

/// Gives all weights of a block to `to`, if `P` is one of these formats.
///
/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
pub(super) unsafe fn weights<P: Packed, const V: bool>(
    w: Avx512<V>,
    at: *const u8,
    stride: usize,
    to: &mut impl Sink<Avx512<V>>,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match P::FORMAT {
            Format::IQ2XXS => iq2_xxs::<P, V>(w, at, stride, to),
            Format::IQ2XS => iq2_xs::<P, V>(w, at, stride, to),
            Format::IQ2S => iq2_s::<P, V>(w, at, stride, to),
            Format::IQ3XXS => iq3_xxs::<P, V>(w, at, stride, to),
            Format::IQ3S => iq3_s::<P, V>(w, at, stride, to),
            _ => return false,
        }
    }
    true
}

/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
unsafe fn iq2_xxs<P: Packed, const V: bool>(
    w: Avx512<V>,
    at: *const u8,
    stride: usize,
    to: &mut impl Sink<Avx512<V>>,
) {
    let codes = &IQ2_XXS_CODES;
    for group in 0..4 {
        // SAFETY: within the block; AVX-512.
        let (found, signs) = unsafe {
            let [a, b, c, d] = w.column(at, 2 + 16 * group, stride);
            let ([first, second], ab) = iq2_xxs_pair(a, b);
            let ([third, fourth], cd) = iq2_xxs_pair(c, d);
            ([first, second, third, fourth], [half(ab, 0), half(ab, 1), half(cd, 0), half(cd, 1)])
        };
        put!(P, to, w, group, |c| signed(c, codes.eights(c, found), signs));
    }
}

/// Codes of two vectors, and the signs of both.
#[inline(always)]
fn iq2_xxs_pair(a: __m512i, b: __m512i) -> ([__m512i; 2], __m512i) {
    // SAFETY: AVX-512.
    unsafe {
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let indices = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(a, b));
        let signs = _mm512_castps_si512(_mm512_shuffle_ps::<0xDD>(a, b));
        (IQ2_XXS_CODES.of(indices, NONE), four_sevens(signs))
    }
}

/// The same of codes in 16 bits.
#[inline(always)]
fn iq2_xs_pair(a: __m512i, b: __m512i) -> ([__m512i; 2], __m512i) {
    // SAFETY: AVX-512.
    unsafe {
        let mask = _mm512_set1_epi16(0xFF);
        let low = _mm512_packus_epi16(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask));
        let up = _mm512_packus_epi16(_mm512_srli_epi16::<8>(a), _mm512_srli_epi16::<8>(b));
        let ninth = _mm512_test_epi8_mask(up, _mm512_set1_epi8(1));
        let signs = _mm512_and_si512(_mm512_srli_epi16::<1>(up), _mm512_set1_epi8(0x7F));
        (IQ2_XS_CODES.of(low, [ninth, 0]), even(signs))
    }
}

/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
unsafe fn iq2_xs<P: Packed, const V: bool>(
    w: Avx512<V>,
    at: *const u8,
    stride: usize,
    to: &mut impl Sink<Avx512<V>>,
) {
    let codes = &IQ2_XS_CODES;
    for group in 0..4 {
        // SAFETY: within the block; AVX-512.
        let (found, signs) = unsafe {
            let [a, b, c, d] = w.column(at, 2 + 16 * group, stride);
            let (([first, second], ab), ([third, fourth], cd)) = (iq2_xs_pair(a, b), iq2_xs_pair(c, d));
            ([first, second, third, fourth], [half(ab, 0), half(ab, 1), half(cd, 0), half(cd, 1)])
        };
        put!(P, to, w, group, |c| signed(c, codes.eights(c, found), signs));
    }
}

/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
unsafe fn iq2_s<P: Packed, const V: bool>(
    w: Avx512<V>,
    at: *const u8,
    stride: usize,
    to: &mut impl Sink<Avx512<V>>,
) {
    let codes = &IQ2_S_CODES;
    // SAFETY: within the block, as below.
    let high = unsafe { eight_bytes(at.add(66), stride) };
    for two in 0..2 {
        let shift = lanes(bits(32 * two as u8, 2, 32 * two as u8 + 16));
        // SAFETY: within the block; AVX-512.
        let (found, signs) = unsafe {
            let indices = w.column(at, 2 + 16 * two, stride);
            let mut found = [indices; 2];
            for (i, index) in indices.into_iter().enumerate() {
                let high = shifted(high[i], shift);
                let ninth = _mm512_test_epi8_mask(high, _mm512_set1_epi8(1));
                let tenth = _mm512_test_epi8_mask(high, _mm512_set1_epi8(2));
                [found[0][i], found[1][i]] = codes.of(index, [ninth, tenth]);
            }
            (found, w.column(at, 34 + 16 * two, stride))
        };
        for (number, found) in found.into_iter().enumerate() {
            let signs = halves(signs, number);
            put!(P, to, w, 2 * two + number, |c| signed(c, codes.eights(c, found), signs));
        }
    }
}

/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
unsafe fn iq3_xxs<P: Packed, const V: bool>(
    w: Avx512<V>,
    at: *const u8,
    stride: usize,
    to: &mut impl Sink<Avx512<V>>,
) {
    let codes = &IQ3_XXS_CODES;
    for group in 0..4 {
        // SAFETY: within the block.
        let (indices, signs) = unsafe {
            let [a, b, c, d] = w.column(at, 66 + 16 * (group / 2), stride);
            let signs = [four_sevens(a), four_sevens(b), four_sevens(c), four_sevens(d)];
            (w.column(at, 2 + 16 * group, stride), halves(signs, group % 2))
        };
        let mut found = [indices; 2];
        for (i, index) in indices.into_iter().enumerate() {
            [found[0][i], found[1][i]] = codes.of(index, NONE);
        }
        put!(P, to, w, group, |c| signed(c, codes.fours(c, found), signs));
    }
}

/// # Safety
/// As for [`Packed::weights`].
#[inline(always)]
unsafe fn iq3_s<P: Packed, const V: bool>(
    w: Avx512<V>,
    at: *const u8,
    stride: usize,
    to: &mut impl Sink<Avx512<V>>,
) {
    let codes = &IQ3_S_CODES;
    // SAFETY: within the block, as below.
    let high = unsafe { eight_bytes(at.add(66), stride) };
    for group in 0..4 {
        let places = lanes(bits(16 * group as u8, 1, 16 * group as u8 + 8));
        // SAFETY: within the block; AVX-512 with BITALG.
        let (found, signs) = unsafe {
            let indices = w.column(at, 2 + 16 * group, stride);
            let mut found = [indices; 2];
            for (i, index) in indices.into_iter().enumerate() {
                let ninth = _mm512_bitshuffle_epi64_mask(high[i], places);
                [found[0][i], found[1][i]] = codes.of(index, [ninth, 0]);
            }
            let signs = w.column(at, 74 + 16 * (group / 2), stride);
            (found, halves(signs, group % 2))
        };
        put!(P, to, w, group, |c| signed(c, codes.fours(c, found), signs));
    }
}
