//! Eight weight rows at once.

use std::arch::x86_64::*;

use super::{Column, Wide};
use crate::matmul::packed::Packed;
use crate::simd::Avx2;

/// Methods that are one intrinsic.
macro_rules! one {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            // SAFETY: the token says that the CPU has the instruction.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}

/// Methods that shift by a count, which becomes an immediate where it is known.
macro_rules! shift {
    ($($name:ident = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, a: __m256i, bits: u32) -> __m256i {
            // SAFETY: the token says that the CPU has the instruction.
            unsafe { $intrinsic(a, _mm_cvtsi32_si128(bits as i32)) }
        }
    )*};
}

impl Wide for Avx2 {
    type V = __m256i;
    type F = __m256;
    const ROWS: usize = 8;
    const BIASED: bool = false;

    one! {
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256;
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256;
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256;
        sub32(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32;
        pick(a: __m256i, index: __m256i) -> __m256i = _mm256_shuffle_epi8;
        floats(a: __m256i) -> __m256 = _mm256_cvtepi32_ps;
        splat(x: f32) -> __m256 = _mm256_set1_ps;
        splat32(x: i32) -> __m256i = _mm256_set1_epi32;
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
    }

    shift! {
        shr16 = _mm256_srl_epi16;
        shl16 = _mm256_sll_epi16;
        shr32 = _mm256_srl_epi32;
        sar32 = _mm256_sra_epi32;
        shl32 = _mm256_sll_epi32;
    }

    #[inline(always)]
    unsafe fn column(self, at: *const u8, stride: usize) -> Column<Self> {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe {
            let row = |i: usize| _mm_loadu_si128(at.add(i * stride).cast());
            [
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(0)), row(4)),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(1)), row(5)),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(2)), row(6)),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(3)), row(7)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn repeat_bytes(self, at: *const u8) -> __m256i {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn repeat_dword(self, at: *const u8) -> __m256i {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn store(self, v: __m256i, at: *mut u8) {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe { _mm256_storeu_si256(at.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_floats(self, at: *const f32) -> __m256 {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store_floats(self, v: __m256, at: *mut f32) {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe { _mm256_storeu_ps(at, v) }
    }

    #[inline(always)]
    fn splat8(self, x: u8) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_set1_epi8(x as i8) }
    }

    #[inline(always)]
    fn sixteen_where(self, a: __m256i, bit: __m256i) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe {
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(a, bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(16))
        }
    }

    #[inline(always)]
    fn dword<const I: usize>(self, column: Column<Self>) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe {
            if I < 2 {
                let a = _mm256_unpacklo_epi32(column[0], column[1]);
                let b = _mm256_unpacklo_epi32(column[2], column[3]);
                if I == 0 { _mm256_unpacklo_epi64(a, b) } else { _mm256_unpackhi_epi64(a, b) }
            } else {
                let a = _mm256_unpackhi_epi32(column[0], column[1]);
                let b = _mm256_unpackhi_epi32(column[2], column[3]);
                if I == 2 { _mm256_unpacklo_epi64(a, b) } else { _mm256_unpackhi_epi64(a, b) }
            }
        }
    }

    #[inline(always)]
    fn dwords(self, column: Column<Self>) -> [__m256i; 4] {
        // SAFETY: AVX2 by the token.
        unsafe {
            let a = _mm256_unpacklo_epi32(column[0], column[1]);
            let b = _mm256_unpacklo_epi32(column[2], column[3]);
            let c = _mm256_unpackhi_epi32(column[0], column[1]);
            let d = _mm256_unpackhi_epi32(column[2], column[3]);
            [
                _mm256_unpacklo_epi64(a, b),
                _mm256_unpackhi_epi64(a, b),
                _mm256_unpacklo_epi64(c, d),
                _mm256_unpackhi_epi64(c, d),
            ]
        }
    }

    #[inline(always)]
    fn low_halves(self, a: __m256i) -> __m256 {
        // SAFETY: AVX2 and F16C by the token.
        unsafe { halves(_mm256_and_si256(a, _mm256_set1_epi32(0xFFFF))) }
    }

    #[inline(always)]
    fn high_halves(self, a: __m256i) -> __m256 {
        // SAFETY: AVX2 and F16C by the token.
        unsafe { halves(_mm256_srli_epi32::<16>(a)) }
    }

    #[inline(always)]
    fn negate(self, a: __m256) -> __m256 {
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
    }

    #[inline(always)]
    fn column_sums<P: Packed, const C: usize>(
        self,
        weights: [Column<Self>; C],
        activations: [__m256i; C],
    ) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut p = [_mm256_setzero_si256(); 4];
            for (weights, a) in weights.iter().zip(activations) {
                for (p, w) in p.iter_mut().zip(weights) {
                    *p = if P::SIGNED {
                        _mm256_add_epi32(*p, _mm256_madd_epi16(signed_products(*w, a), ones))
                    } else {
                        _mm256_add_epi16(*p, _mm256_maddubs_epi16(*w, a))
                    };
                }
            }
            if P::SIGNED {
                let (a, b) = (quads32(p[0], p[1]), quads32(p[2], p[3]));
                let (even, odd) = pairs(a, b);
                return _mm256_add_epi32(even, odd);
            }
            // Words are added as long as the width of the weights lets them not overflow.
            let (a, b) = (quads16(p[0], p[1]), quads16(p[2], p[3]));
            if P::BITS <= 4 {
                let (even, odd) = pairs(a, b);
                _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones)
            } else {
                let (even, odd) = pairs(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
                _mm256_add_epi32(even, odd)
            }
        }
    }

    #[inline(always)]
    unsafe fn panel_sums<P: Packed, const T: usize>(
        self,
        weights: *const u8,
        activations: [*const i8; T],
    ) -> [__m256i; T] {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); T];
            // Pairs of products that a word can hold.
            let run = if P::SIGNED { 1 } else { (32767 / (254 * ((1 << P::BITS) - 1))).min(P::SUB / 4) };
            for first in (0..P::SUB / 4).step_by(run) {
                let mut words = [_mm256_setzero_si256(); T];
                for k in first..first + run {
                    let w = _mm256_loadu_si256(weights.add(k * 32).cast());
                    for (words, a) in words.iter_mut().zip(activations) {
                        let a = self.repeat_dword(a.add(4 * k).cast());
                        let products =
                            if P::SIGNED { signed_products(w, a) } else { _mm256_maddubs_epi16(w, a) };
                        *words = _mm256_add_epi16(*words, products);
                    }
                }
                for (sum, words) in sums.iter_mut().zip(words) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(words, ones));
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

/// Sums of pairs of products of signed weights (of any value) and activations (above -128).
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn signed_products(w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: registers only.
    unsafe { _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)) }
}

/// The halves that dwords below 2^16 hold.
///
/// # Safety
/// AVX2 and F16C.
#[inline(always)]
unsafe fn halves(a: __m256i) -> __m256 {
    // SAFETY: registers only.
    unsafe {
        let words = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(a, a));
        _mm256_cvtph_ps(_mm256_castsi256_si128(words))
    }
}

/// Within each lane, the sums of words i and i + 4: four of `a`, then four of `b`.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn quads16(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: registers only.
    unsafe { _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)) }
}

/// Within each lane, the sums of dwords i and i + 2: two of `a`, then two of `b`.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn quads32(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: registers only.
    unsafe { _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)) }
}

/// Within each lane, the even dwords of `a`, then of `b`; and the odd ones.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn pairs(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    // SAFETY: registers only.
    unsafe {
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        (
            _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(a, b)),
            _mm256_castps_si256(_mm256_shuffle_ps::<0xDD>(a, b)),
        )
    }
}
