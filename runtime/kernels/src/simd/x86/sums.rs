//! Dot products and sums in the canonical order.

use std::arch::x86_64::*;

use super::eight_f16;
use crate::simd::{LANES, Lanes};

/// Eight canonical dot products of each row of `a`, as in [`dots8`]; as many rows of halves at a time as give eight sums.
///
/// # Safety
/// AVX2, FMA and F16C; rows of `a` must be of one length, and `b` must have 8 rows of it, `stride` apart.
#[inline(always)]
pub(super) unsafe fn dots8_halves<const N: usize>(
    a: [&[Lanes]; N],
    b: *const u16,
    stride: usize,
) -> [__m256; N] {
    let together = const {
        assert!(N == 1 || N == 2, "eight sums");
        8 / N
    };
    // SAFETY: what is read is within `a` and `b` by the caller's promise.
    unsafe {
        let zero = _mm256_setzero_ps();
        let mut sums = [[zero; 8]; N];
        for first in (0..8).step_by(together) {
            for (half, lanes) in [(0, 0), (1, 8)] {
                let mut acc = [[zero; 8]; N];
                for k in 0..a[0].len() {
                    let mut rows = [zero; 8];
                    for (row, y) in rows[..together].iter_mut().enumerate() {
                        *y = eight_f16(b.add((first + row) * stride + LANES * k + lanes));
                    }
                    for (a, acc) in a.iter().zip(&mut acc) {
                        let x = _mm256_loadu_ps(a.get_unchecked(k).0.as_ptr().add(lanes));
                        for (acc, y) in acc[..together].iter_mut().zip(rows) {
                            *acc = _mm256_fmadd_ps(x, y, *acc);
                        }
                    }
                }
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    for (sum, acc) in sums[first..first + together].iter_mut().zip(acc) {
                        *sum = if half == 0 { acc } else { _mm256_add_ps(*sum, acc) };
                    }
                }
            }
        }
        let mut dots = [zero; N];
        for (dots, sums) in dots.iter_mut().zip(sums) {
            *dots = transposing_sum8(sums);
        }
        dots
    }
}

/// Eight canonical dot products. The low and the high eight lanes are summed one after the other, so that the
/// eight sums stay in registers.
///
/// # Safety
/// AVX2 and FMA; `b` must have 8 vectors, 16 apart, for each one of `a`.
#[inline(always)]
pub(super) unsafe fn dots8(a: &[Lanes], b: *const Lanes) -> __m256 {
    // SAFETY: rows and halves are within `a` and `b` by the caller's promise.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); 8];
        for (half, lanes) in [(0, 0), (1, 8)] {
            let mut acc = [_mm256_setzero_ps(); 8];
            for (k, x) in a.iter().enumerate() {
                let x = _mm256_loadu_ps(x.0.as_ptr().add(lanes));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let y = (*b.add(LANES * k + row)).0.as_ptr().add(lanes);
                    *acc = _mm256_fmadd_ps(x, _mm256_loadu_ps(y), *acc);
                }
            }
            for (sum, acc) in sums.iter_mut().zip(acc) {
                *sum = if half == 0 { acc } else { _mm256_add_ps(*sum, acc) };
            }
        }
        transposing_sum8(sums)
    }
}

/// The canonical tree from width 4 on, of one vector.
///
/// # Safety
/// AVX.
#[inline(always)]
pub(super) unsafe fn sum8(x: __m256) -> f32 {
    // SAFETY: registers only.
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

/// The canonical tree from width 4 on, of eight vectors at once: lane i is the sum of `v[i]`.
///
/// # Safety
/// AVX.
#[inline(always)]
unsafe fn transposing_sum8(v: [__m256; 8]) -> __m256 {
    // SAFETY: registers only.
    unsafe {
        let low = twos(fours(v[0], v[4]), fours(v[1], v[5]));
        let high = twos(fours(v[2], v[6]), fours(v[3], v[7]));
        _mm256_add_ps(_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xDD>(low, high))
    }
}

/// The step of width 4 for two vectors: four lanes of `a`, then four of `b`.
///
/// # Safety
/// AVX.
#[inline(always)]
unsafe fn fours(a: __m256, b: __m256) -> __m256 {
    // SAFETY: registers only.
    unsafe { _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)) }
}

/// The step of width 2 for two vectors, within each half: two lanes of `a`, then two of `b`.
///
/// # Safety
/// AVX.
#[inline(always)]
unsafe fn twos(a: __m256, b: __m256) -> __m256 {
    // SAFETY: registers only.
    unsafe { _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xEE>(a, b)) }
}

/// Eight dot products of each of two rows with eight of the 16 rows of `b`; those of the first row come first.
///
/// # Safety
/// AVX-512 F; the rows are of one length, and `b` has as many vectors of 16 rows, less those before its first.
#[inline(always)]
pub(super) unsafe fn dots2x8(first: &[Lanes], second: &[Lanes], b: *const Lanes) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); LANES];
        for k in 0..first.len() {
            let x = _mm512_load_ps(first.as_ptr().add(k).cast());
            let y = _mm512_load_ps(second.as_ptr().add(k).cast());
            for row in 0..LANES / 2 {
                let b = _mm512_load_ps(b.add(LANES * k + row).cast());
                acc[row] = _mm512_fmadd_ps(x, b, acc[row]);
                acc[LANES / 2 + row] = _mm512_fmadd_ps(y, b, acc[LANES / 2 + row]);
            }
        }
        transposing_sum16(acc)
    }
}

/// The canonical tree, of sixteen vectors at once: lane i is the sum of `v[i]`. Of two vectors each step leaves one, whose lanes are half
/// of the first and half of the second; one operand of its addition takes a port of shuffles, the other any port.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
pub(super) unsafe fn transposing_sum16(v: [__m512; LANES]) -> __m512 {
    // SAFETY: registers only.
    unsafe {
        let [mut by_8, mut by_4, mut by_2] =
            [[_mm512_setzero_ps(); 8], [_mm512_setzero_ps(); 8], [_mm512_setzero_ps(); 8]];
        for i in 0..8 {
            // [a.low, b.high] + [a.high, b.low]
            let swapped = _mm512_alignr_epi32::<8>(_mm512_castps_si512(v[i + 8]), _mm512_castps_si512(v[i]));
            by_8[i] =
                _mm512_add_ps(_mm512_mask_blend_ps(0xFF00, v[i], v[i + 8]), _mm512_castsi512_ps(swapped));
        }
        let others = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
        for i in 0..4 {
            let (a, b) = (by_8[i], by_8[i + 4]);
            by_4[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xF0F0, a, b), _mm512_permutex2var_ps(a, others, b));
        }
        for i in 0..2 {
            let (a, b) = (by_4[2 * i], by_4[2 * i + 1]);
            let swapped = _mm512_shuffle_pd::<0b0101_0101>(_mm512_castps_pd(a), _mm512_castps_pd(b));
            by_2[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xCCCC, a, b), _mm512_castpd_ps(swapped));
        }
        let [a, b, ..] = by_2;
        _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b))
    }
}

/// The first step of the canonical tree: lane i + lane i + 8.
///
/// # Safety
/// AVX-512 F and DQ.
#[inline(always)]
pub(super) unsafe fn fold(x: __m512) -> __m256 {
    // SAFETY: registers only.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) }
}
