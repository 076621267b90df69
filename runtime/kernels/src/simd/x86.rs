//! Sixteen lanes in two AVX2 registers or one AVX-512 register.

mod rounding;
mod sums;

use std::arch::x86_64::*;

use self::sums::{dots2x8, dots8, dots8_halves, fold, sum8, transposing_sum16};
use super::{LANES, Lanes, Simd, Stored};

/// AVX2, FMA and F16C are there; with `VNNI` AVX-VNNI, too.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// What [`Avx2`] stands for without AVX-VNNI, and AVX-512 F, BW, VL, DQ and VNNI; with `VBMI` also VBMI and BITALG.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VBMI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// # Safety
    /// The CPU must have AVX2, FMA and F16C, and AVX-VNNI if the token says so.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

impl<const VBMI: bool> Avx512<VBMI> {
    /// # Safety
    /// The CPU must have AVX2, FMA, F16C and AVX-512 F, BW, VL, DQ and VNNI, and VBMI and BITALG if the token says so.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Implements a method by one intrinsic on both registers of AVX2.
macro_rules! both {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            // SAFETY: the token says that the CPU has the instruction.
            unsafe { [$intrinsic($($arg[0]),*), $intrinsic($($arg[1]),*)] }
        }
    )*};
}

/// Implements a method by one AVX-512 intrinsic.
macro_rules! one {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            // SAFETY: the token says that the CPU has the instruction.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}

impl Simd for Avx2<false> {
    type V = [__m256; 2];
    const FOUR_ROWS: usize = 1;
    const HALVES_AT_ONCE: bool = true;

    both! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        fnma(a, b, c) = _mm256_fnmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2; both halves are in the array.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; LANES]) {
        // SAFETY: as in `load`.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has F16C; both halves are in the array.
        unsafe { [eight_f16(x.as_ptr()), eight_f16(x.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2; both halves are in the array.
        unsafe { [eight_bf16(x.as_ptr()), eight_bf16(x.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn load_e4m3(self, x: &[u8; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2 and F16C.
        unsafe {
            let halves = halves_of_e4m3(x);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
            ]
        }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::V, to: &mut [u16; LANES]) {
        // SAFETY: the token says that the CPU has F16C; both halves are in the array.
        unsafe {
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(
                to.as_mut_ptr().add(8).cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]),
            );
        }
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2.
        unsafe { [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])] }
    }

    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        }
    }

    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        // SAFETY: the token says that the CPU has AVX2.
        unsafe { sum8(_mm256_add_ps(x[0], x[1])) }
    }

    #[inline(always)]
    fn largest_of_pairs(self, x: &[[f32; LANES]; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX2.
        unsafe { rounding::avx2_largest_of_pairs(x) }
    }

    #[inline(always)]
    fn round_to_bytes(
        self,
        x: &[[f32; LANES]; LANES],
        factors: &[f32; LANES],
        to: &mut [[i8; LANES]; LANES],
    ) -> [i32; LANES] {
        // SAFETY: the token says that the CPU has AVX2.
        unsafe { rounding::avx2_round_to_bytes(x, factors, to) }
    }

    /// Into the second cache, as weights are. On Zen 4 a cache of keys and values in memory is then read in
    /// three quarters of the time.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }

    /// Eight columns after the other, so that registers suffice for the sums of two rows and three.
    #[inline(always)]
    unsafe fn add_products<W: Stored, const R: usize, const N: usize>(
        self,
        weights: [&[u8]; R],
        x: [&[f32]; N],
        k: usize,
        acc: &mut [[Self::V; R]; N],
    ) {
        for half in 0..2 {
            let first = k + 8 * half;
            let mut w = [self.zero()[0]; R];
            for (w, weights) in w.iter_mut().zip(weights) {
                // SAFETY: the caller's promise; AVX2 and F16C by the token.
                *w = unsafe { W::load_eight(weights.as_ptr().add(first * W::BYTES)) };
            }
            for (acc, x) in acc.iter_mut().zip(x) {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(first)) };
                for (acc, w) in acc.iter_mut().zip(w) {
                    // SAFETY: FMA by the token.
                    acc[half] = unsafe { _mm256_fmadd_ps(w, x, acc[half]) };
                }
            }
        }
    }

    #[inline(always)]
    fn dots(self, a: &[Lanes], b: &[Lanes]) -> Self::V {
        assert!(b.len() >= LANES * a.len());
        // SAFETY: the token says that the CPU has AVX2 and FMA; `b` has 16 rows of the length of `a`.
        unsafe { [dots8(a, b.as_ptr()), dots8(a, b.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn dots_halves<const N: usize>(self, a: [&[Lanes]; N], b: &[u16], stride: usize) -> [Self::V; N] {
        let vectors = a[0].len();
        assert!(a.iter().all(|a| a.len() == vectors));
        assert!(b.len() >= (LANES - 1) * stride + vectors * LANES);
        let mut dots = [self.zero(); N];
        // SAFETY: the token says that the CPU has AVX2, FMA and F16C; `b` has 16 rows of the length of those of `a`.
        unsafe {
            let low = dots8_halves(a, b.as_ptr(), stride);
            let high = dots8_halves(a, b.as_ptr().add(8 * stride), stride);
            for (i, dots) in dots.iter_mut().enumerate() {
                *dots = [low[i], high[i]];
            }
        }
        dots
    }
}

/// Eight floats in single precision.
///
/// # Safety
/// AVX; they must be readable.
#[inline(always)]
pub(super) unsafe fn eight_f32(at: *const f32) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_ps(at) }
}

/// Eight floats in IEEE half precision.
///
/// # Safety
/// AVX and F16C; they must be readable.
#[inline(always)]
pub(super) unsafe fn eight_f16(at: *const u16) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Eight floats in bfloat16.
///
/// # Safety
/// AVX2; they must be readable.
#[inline(always)]
pub(super) unsafe fn eight_bf16(at: *const u16) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
    }
}

/// The halves that floats of 8 bits (e4m3) are but for the bias of the exponent: the sign and the seven bits below it, moved by seven.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn halves_of_e4m3(x: &[u8; LANES]) -> __m256i {
    // SAFETY: the array has 16 bytes.
    unsafe {
        let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
        _mm256_and_si256(_mm256_slli_epi16::<7>(words), _mm256_set1_epi16(0xBF80_u16 as i16))
    }
}

impl Simd for Avx512<false> {
    type V = __m512;
    const FOUR_ROWS: usize = 4;
    const TWO_TIMES_SIX: bool = true;

    one! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        fma(a, b, c) = _mm512_fmadd_ps;
        fnma(a, b, c) = _mm512_fnmadd_ps;
        max(a, b) = _mm512_max_ps;
        min(a, b) = _mm512_min_ps;
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token says that the CPU has AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX-512; the array is one register.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; LANES]) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: as in `load`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_e4m3(self, x: &[u8; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX-512 and AVX2.
        unsafe { _mm512_cvtph_ps(halves_of_e4m3(x)) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: as in `load`.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::V, to: &mut [u16; LANES]) {
        // SAFETY: as in `load`.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
        }
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // SAFETY: the token says that the CPU has AVX-512.
        unsafe { _mm512_roundscale_ps::<NEAREST>(a) }
    }

    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY: the token says that the CPU has AVX-512.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        // SAFETY: the token says that the CPU has AVX-512.
        unsafe { sum8(fold(x)) }
    }

    #[inline(always)]
    fn largest_of_pairs(self, x: &[[f32; LANES]; LANES]) -> Self::V {
        // SAFETY: the token says that the CPU has AVX-512.
        unsafe { rounding::avx512_largest_of_pairs(x) }
    }

    #[inline(always)]
    fn round_to_bytes(
        self,
        x: &[[f32; LANES]; LANES],
        factors: &[f32; LANES],
        to: &mut [[i8; LANES]; LANES],
    ) -> [i32; LANES] {
        // SAFETY: the token says that the CPU has AVX-512.
        unsafe { rounding::avx512_round_to_bytes(x, factors, to) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    fn dots(self, a: &[Lanes], b: &[Lanes]) -> Self::V {
        assert!(b.len() >= LANES * a.len());
        // SAFETY: the token says that the CPU has AVX-512; `b` has 16 rows of the length of `a`.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); LANES];
            for (k, x) in a.iter().enumerate() {
                let x = _mm512_loadu_ps(x.0.as_ptr());
                for (row, acc) in acc.iter_mut().enumerate() {
                    let y = (*b.as_ptr().add(LANES * k + row)).0.as_ptr();
                    *acc = _mm512_fmadd_ps(x, _mm512_loadu_ps(y), *acc);
                }
            }
            transposing_sum16(acc)
        }
    }

    #[inline(always)]
    fn dots_of_two(self, a: [&[Lanes]; 2], b: &[Lanes]) -> [Self::V; 2] {
        let [first, second] = a;
        assert!(first.len() == second.len() && b.len() >= LANES * first.len());
        // SAFETY: the token says that the CPU has AVX-512; `b` has 16 rows of the length of those of `a`.
        unsafe {
            let half = |begin: usize| dots2x8(first, second, b.as_ptr().add(begin));
            let (low, high) = (half(0), half(LANES / 2));
            [
                _mm512_shuffle_f32x4::<0b01_00_01_00>(low, high),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(low, high),
            ]
        }
    }
}
