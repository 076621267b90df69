//! Largest magnitudes and rounding to bytes: what quantises the input of products.

use std::arch::x86_64::*;

use super::eight_f32;
use crate::simd::LANES;

/// [`super::Simd::largest_of_pairs`].
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn avx2_largest_of_pairs(x: &[[f32; LANES]; LANES]) -> [__m256; 2] {
    // SAFETY: what is read is within `x`.
    unsafe {
        let sign = _mm256_set1_ps(-0.0);
        let mut pairs = [_mm256_setzero_si256(); 8];
        for (pair, x) in pairs.iter_mut().zip(x.as_chunks::<2>().0) {
            for x in x.as_flattened().as_chunks::<8>().0 {
                let magnitudes = _mm256_andnot_ps(sign, eight_f32(x.as_ptr()));
                *pair = _mm256_max_epi32(*pair, _mm256_castps_si256(magnitudes));
            }
        }
        let mut by_4 = [_mm256_setzero_si256(); 4];
        for (i, by_4) in by_4.iter_mut().enumerate() {
            let (a, b) = (pairs[i], pairs[i + 4]);
            let low = _mm256_permute2x128_si256::<0x20>(a, b);
            *by_4 = _mm256_max_epi32(low, _mm256_permute2x128_si256::<0x31>(a, b));
        }
        let of_two = |a, b| _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (low, high) = (of_two(by_4[0], by_4[1]), of_two(by_4[2], by_4[3]));
        let largest = _mm256_max_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
        let twice = |lanes| _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(largest, lanes));
        [twice(_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)), twice(_mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))]
    }
}

/// [`super::Simd::round_to_bytes`].
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn avx2_round_to_bytes(
    x: &[[f32; LANES]; LANES],
    factors: &[f32; LANES],
    to: &mut [[i8; LANES]; LANES],
) -> [i32; LANES] {
    let mut sums = [0; LANES];
    // SAFETY: what is read and written is within the arrays.
    unsafe {
        // Packing works on halves of registers, and so do sums of neighbours.
        let in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let mut fours = [_mm256_setzero_si256(); 8];
        for (pair, fours) in fours.iter_mut().enumerate() {
            let mut words = [_mm256_setzero_si256(); 2];
            for (i, words) in words.iter_mut().enumerate() {
                let (x, factor) = (&x[2 * pair + i], _mm256_set1_ps(factors[2 * pair + i]));
                let low = _mm256_cvtps_epi32(_mm256_mul_ps(eight_f32(x.as_ptr()), factor));
                let high = _mm256_cvtps_epi32(_mm256_mul_ps(eight_f32(x.as_ptr().add(8)), factor));
                *words = _mm256_packs_epi32(low, high);
            }
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words[0], words[1]), in_order);
            _mm256_storeu_si256(to.as_mut_ptr().add(2 * pair).cast(), bytes);
            let twos = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
            *fours = _mm256_madd_epi16(twos, _mm256_set1_epi16(1));
        }
        for (fours, sums) in fours.as_chunks::<4>().0.iter().zip(sums.as_chunks_mut::<8>().0) {
            let [a, b, c, d] = *fours;
            let of_vectors = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let of_vectors = _mm256_permutevar8x32_epi32(of_vectors, in_order);
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), of_vectors);
        }
    }
    sums
}

/// [`super::Simd::largest_of_pairs`].
///
/// # Safety
/// AVX-512 F and DQ.
#[inline(always)]
pub(super) unsafe fn avx512_largest_of_pairs(x: &[[f32; LANES]; LANES]) -> __m512 {
    // SAFETY: what is read is within `x`.
    unsafe {
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (pair, x) in pairs.iter_mut().zip(x.as_chunks::<2>().0) {
            let [a, b] = x.each_ref().map(|x| _mm512_abs_ps(_mm512_loadu_ps(x.as_ptr())));
            *pair = _mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b));
        }
        // Each step leaves one vector of two: lanes of the first and lanes of the second.
        let mut by_8 = [_mm512_setzero_si512(); 4];
        for (i, by_8) in by_8.iter_mut().enumerate() {
            let (a, b) = (pairs[i], pairs[i + 4]);
            let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
            *by_8 = _mm512_max_epi32(low, _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b));
        }
        let mut by_4 = [_mm512_setzero_si512(); 2];
        for (i, by_4) in by_4.iter_mut().enumerate() {
            let (a, b) = (by_8[i], by_8[i + 2]);
            let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            *by_4 = _mm512_max_epi32(low, _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
        }
        let [a, b] = by_4;
        let by_2 = _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let largest = _mm512_max_epi32(by_2, _mm512_shuffle_epi32::<0b10_11_00_01>(by_2));
        // Of pairs 0 and 1, 4 and 5, 2 and 3, 6 and 7.
        let in_order = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
        _mm512_castsi512_ps(_mm512_permutexvar_epi32(in_order, largest))
    }
}

/// [`super::Simd::round_to_bytes`].
///
/// # Safety
/// AVX-512 F, BW and VNNI.
#[inline(always)]
pub(super) unsafe fn avx512_round_to_bytes(
    x: &[[f32; LANES]; LANES],
    factors: &[f32; LANES],
    to: &mut [[i8; LANES]; LANES],
) -> [i32; LANES] {
    let mut sums = [0; LANES];
    // SAFETY: what is read and written is within the arrays.
    unsafe {
        // Packing works on quarters of registers, and so do sums of neighbours.
        let in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let mut fours = [_mm512_setzero_si512(); 4];
        for (i, fours) in fours.iter_mut().enumerate() {
            let rounded = |i: usize| {
                let product = _mm512_mul_ps(_mm512_loadu_ps(x[i].as_ptr()), _mm512_set1_ps(factors[i]));
                _mm512_cvtps_epi32(product)
            };
            let low = _mm512_packs_epi32(rounded(4 * i), rounded(4 * i + 1));
            let high = _mm512_packs_epi32(rounded(4 * i + 2), rounded(4 * i + 3));
            let bytes = _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(low, high));
            _mm512_storeu_si512(to.as_mut_ptr().add(4 * i).cast(), bytes);
            *fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
        }
        let twos = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let [a, b, c, d] = fours;
        let (low, high) = (twos(a, b), twos(c, d));
        let of_vectors = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
        _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_permutexvar_epi32(in_order, of_vectors));
    }
    sums
}
