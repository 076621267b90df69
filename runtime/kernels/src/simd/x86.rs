//! Sixteen lanes in two AVX2 registers or one AVX-512 register.

use std::arch::x86_64::*;

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

/// Eight canonical dot products of each row of `a`, as in [`dots8`]; as many rows of halves at a time as give eight sums.
///
/// # Safety
/// AVX2, FMA and F16C; rows of `a` must be of one length, and `b` must have 8 rows of it, `stride` apart.
#[inline(always)]
unsafe fn dots8_halves<const N: usize>(a: [&[Lanes]; N], b: *const u16, stride: usize) -> [__m256; N] {
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
unsafe fn dots8(a: &[Lanes], b: *const Lanes) -> __m256 {
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
unsafe fn sum8(x: __m256) -> f32 {
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

/// Eight dot products of each of two rows with eight of the 16 rows of `b`; those of the first row come first.
///
/// # Safety
/// AVX-512 F; the rows are of one length, and `b` has as many vectors of 16 rows, less those before its first.
#[inline(always)]
unsafe fn dots2x8(first: &[Lanes], second: &[Lanes], b: *const Lanes) -> __m512 {
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
unsafe fn transposing_sum16(v: [__m512; LANES]) -> __m512 {
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
unsafe fn fold(x: __m512) -> __m256 {
    // SAFETY: registers only.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) }
}
