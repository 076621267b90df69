//! Sixteen weight rows at once, with the product instruction of VNNI.

mod codebooks;

use std::arch::x86_64::*;

use super::interleaved::OfGroups;
use super::{Column, Shared, Wide};
use crate::matmul::packed::{Packed, Sink, Weights};
use crate::simd::Avx512;

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
        fn $name(self, a: __m512i, bits: u32) -> __m512i {
            // SAFETY: the token says that the CPU has the instruction.
            unsafe { $intrinsic(a, _mm_cvtsi32_si128(bits as i32)) }
        }
    )*};
}

impl<const VBMI: bool> Wide for Avx512<VBMI> {
    type V = __m512i;
    type F = __m512;
    type Plain = Avx512<false>;
    const ROWS: usize = 16;
    const TILE: usize = 6;
    const BYTE_PARTS: bool = false;
    const SIGNED_OFFSET_BITS: u32 = 7;

    one! {
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512;
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512;
        add32(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32;
        sub32(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32;
        mul32(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32;
        low_quads(a: __m512i, b: __m512i) -> __m512i = _mm512_unpacklo_epi64;
        high_quads(a: __m512i, b: __m512i) -> __m512i = _mm512_unpackhi_epi64;
        pick(a: __m512i, index: __m512i) -> __m512i = _mm512_shuffle_epi8;
        floats(a: __m512i) -> __m512 = _mm512_cvtepi32_ps;
        bits_as_floats(a: __m512i) -> __m512 = _mm512_castsi512_ps;
        splat(x: f32) -> __m512 = _mm512_set1_ps;
        splat32(x: i32) -> __m512i = _mm512_set1_epi32;
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps;
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
    }

    shift! {
        shr16 = _mm512_srl_epi16;
        sar16 = _mm512_sra_epi16;
        shl16 = _mm512_sll_epi16;
        shr32 = _mm512_srl_epi32;
        sar32 = _mm512_sra_epi32;
        shl32 = _mm512_sll_epi32;
    }

    #[inline(always)]
    unsafe fn column(self, at: *const u8, offset: usize, stride: usize) -> Column<Self> {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe {
            let at = at.add(offset);
            [
                four_rows(at, 4 * stride),
                four_rows(at.add(stride), 4 * stride),
                four_rows(at.add(2 * stride), 4 * stride),
                four_rows(at.add(3 * stride), 4 * stride),
            ]
        }
    }

    #[inline(always)]
    unsafe fn repeat_bytes(self, at: *const u8) -> __m512i {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn repeat_dword(self, at: *const u8) -> __m512i {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m512i {
        // SAFETY: the caller's promise; the instruction by the token.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, v: __m512i, at: *mut u8) {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe { _mm512_storeu_si512(at.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_floats(self, at: *const f32) -> __m512 {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store_floats(self, v: __m512, at: *mut f32) {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe { _mm512_storeu_ps(at, v) }
    }

    #[inline(always)]
    fn splat8(self, x: u8) -> __m512i {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_set1_epi8(x as i8) }
    }

    #[inline(always)]
    fn sixteen_where(self, a: __m512i, bit: __m512i) -> __m512i {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(a, bit), _mm512_set1_epi8(16)) }
    }

    #[inline(always)]
    fn dword<const I: usize>(self, column: Column<Self>) -> __m512i {
        self.dwords(column)[I]
    }

    #[inline(always)]
    fn dwords(self, column: Column<Self>) -> [__m512i; 4] {
        // SAFETY: AVX-512 by the token.
        unsafe {
            let a = _mm512_unpacklo_epi32(column[0], column[1]);
            let b = _mm512_unpacklo_epi32(column[2], column[3]);
            let c = _mm512_unpackhi_epi32(column[0], column[1]);
            let d = _mm512_unpackhi_epi32(column[2], column[3]);
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        }
    }

    #[inline(always)]
    fn low_halves(self, a: __m512i) -> __m512 {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    }

    #[inline(always)]
    fn high_halves(self, a: __m512i) -> __m512 {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(a))) }
    }

    #[inline(always)]
    fn negate(self, a: __m512) -> __m512 {
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
    }

    #[inline(always)]
    fn add_products(self, a: __m512i, b: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: AVX-512 with VNNI by the token.
        unsafe { _mm512_dpwssd_epi32(sums, a, b) }
    }

    #[inline(always)]
    fn byte_weights<K: Weights>(self, weights: __m512i) -> __m512i {
        if !K::SIGNED {
            return weights;
        }
        // SAFETY: AVX-512 by the token.
        unsafe { _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN)) }
    }

    #[inline(always)]
    fn add_byte_products<K: Weights>(self, weights: __m512i, b: __m512i, part: __m512i) -> __m512i {
        // SAFETY: AVX-512 with VNNI by the token.
        unsafe { _mm512_dpbusd_epi32(part, weights, b) }
    }

    #[inline(always)]
    fn add_part(self, part: __m512i, sums: __m512i) -> __m512i {
        self.add32(part, sums)
    }

    #[inline(always)]
    fn byte_steps<K: Weights>() -> usize {
        K::SUB / 4
    }

    #[inline(always)]
    fn row_sums(self, [a, b, c, d]: Column<Self>) -> __m512i {
        // SAFETY: AVX-512 by the token.
        unsafe {
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
            let (ab, cd) = (_mm512_castsi512_ps(ab), _mm512_castsi512_ps(cd));
            let even = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(ab, cd));
            let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0xDD>(ab, cd));
            _mm512_add_epi32(even, odd)
        }
    }

    #[inline(always)]
    unsafe fn codebook_weights<P: Packed>(
        self,
        at: *const u8,
        stride: usize,
        to: &mut impl Sink<Self>,
    ) -> bool {
        // SAFETY: the caller's promise.
        VBMI && unsafe { codebooks::weights::<P, VBMI>(self, at, stride, to) }
    }

    #[inline(always)]
    fn run_shared(self, task: impl Shared<Self::Plain>) {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn avx512(task: impl Shared<Avx512<false>>) {
            // SAFETY: this function's own features.
            task.run(unsafe { Avx512::assume() });
        }
        // SAFETY: the token says that the CPU has the instructions.
        unsafe { avx512(task) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    /// Into the second cache.
    #[inline(always)]
    fn prefetch_far(self, at: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_to_write(self, at: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
    }
}

impl<const VBMI: bool> OfGroups for Avx512<VBMI> {
    #[inline(always)]
    unsafe fn load_dwords(self, at: *const u8, group: usize) -> __m512i {
        // SAFETY: the caller's promise; AVX-512 by the token.
        unsafe {
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(at.cast()));
            _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(at.add(group).cast()))
        }
    }

    #[inline(always)]
    unsafe fn load_halves(self, at: *const u8, group: usize) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let first = _mm256_castsi128_si256(_mm_loadu_si128(at.cast()));
            _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(first, _mm_loadu_si128(at.add(group).cast())))
        }
    }
}

/// The 16 bytes at `at` and those 1, 2 and 3 times `stride` behind, in this order.
///
/// # Safety
/// These bytes must be readable; AVX-512.
#[inline(always)]
unsafe fn four_rows(at: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let row = |i: usize| _mm_loadu_si128(at.add(i * stride).cast());
        let v = _mm512_castsi128_si512(row(0));
        let v = _mm512_inserti32x4::<1>(v, row(1));
        let v = _mm512_inserti32x4::<2>(v, row(2));
        _mm512_inserti32x4::<3>(v, row(3))
    }
}
