//! Eight weight rows at once, with the product instruction of AVX-VNNI where there is one.

use std::arch::asm;
use std::arch::x86_64::*;

use super::interleaved::OfGroups;
use super::{Column, Shared, Wide};
use crate::matmul::activations::Integer;
use crate::matmul::packed::Weights;
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

impl<const VNNI: bool> Wide for Avx2<VNNI> {
    type V = __m256i;
    type F = __m256;
    type Plain = Self;
    const ROWS: usize = 8;
    // Weights from memory are 1.4 times as fast without panels of 16 rows, whose parts lie too far apart to be fetched ahead.
    const PANEL_MIN_N: usize = 6;
    // One row of Q2_K is 1.25 times as fast, one of Q3_K and Q6_K 1.07 times.
    const HALVES_OVERLAP: bool = !VNNI;
    // Without VNNI tokens' products are 1.1 (IQ1_M) to 1.34 times (IQ2_XS) as fast; with it nobody has measured.
    const TWO_LANES: bool = true;
    const TILE: usize = 4;
    const BYTE_PARTS: bool = !VNNI;
    const SIGNED_OFFSET_BITS: u32 = if VNNI { 7 } else { 0 };

    one! {
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256;
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256;
        add32(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32;
        sub32(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32;
        mul32(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32;
        low_quads(a: __m256i, b: __m256i) -> __m256i = _mm256_unpacklo_epi64;
        high_quads(a: __m256i, b: __m256i) -> __m256i = _mm256_unpackhi_epi64;
        pick(a: __m256i, index: __m256i) -> __m256i = _mm256_shuffle_epi8;
        floats(a: __m256i) -> __m256 = _mm256_cvtepi32_ps;
        bits_as_floats(a: __m256i) -> __m256 = _mm256_castsi256_ps;
        splat(x: f32) -> __m256 = _mm256_set1_ps;
        splat32(x: i32) -> __m256i = _mm256_set1_epi32;
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
    }

    shift! {
        shr16 = _mm256_srl_epi16;
        sar16 = _mm256_sra_epi16;
        shl16 = _mm256_sll_epi16;
        shr32 = _mm256_srl_epi32;
        sar32 = _mm256_sra_epi32;
        shl32 = _mm256_sll_epi32;
    }

    #[inline(always)]
    unsafe fn column(self, at: *const u8, offset: usize, stride: usize) -> Column<Self> {
        // SAFETY: the caller's promise; AVX2 by the token.
        unsafe {
            let row = |i: usize| _mm_loadu_si128(at.add(offset + i * stride).cast());
            [
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(0)), row(4)),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(1)), row(5)),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(2)), row(6)),
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(3)), row(7)),
            ]
        }
    }

    #[inline(always)]
    fn two_lanes(self, [[a, b], [c, d]]: [[u64; 2]; 2]) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_set_epi64x(d as i64, c as i64, b as i64, a as i64) }
    }

    #[inline(always)]
    fn negate_where(self, magnitudes: __m256i, mask: __m256i) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_sub_epi8(_mm256_xor_si256(magnitudes, mask), mask) }
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
    unsafe fn load(self, at: *const u8) -> __m256i {
        // SAFETY: the caller's promise; the instruction by the token.
        unsafe { _mm256_loadu_si256(at.cast()) }
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
    fn byte_of_dwords(self, a: __m256i, byte: usize) -> __m256i {
        let byte = byte as i32;
        // SAFETY: AVX2 by the token.
        unsafe { bytes_of_dwords(a, 0x8080_8000_u32 as i32 | byte, 4) }
    }

    #[inline(always)]
    fn high_byte_of_dwords(self, a: __m256i, byte: usize) -> __m256i {
        let byte = byte as i32;
        // SAFETY: AVX2 by the token.
        unsafe { bytes_of_dwords(a, 0x0080_8080 | byte << 24, 4 << 24) }
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
    fn add_products(self, a: __m256i, b: __m256i, sums: __m256i) -> __m256i {
        // SAFETY: AVX2 by the token, AVX-VNNI if it says so.
        unsafe {
            if VNNI {
                _mm256_dpwssd_avx_epi32(sums, a, b)
            } else {
                _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
            }
        }
    }

    #[inline(always)]
    fn byte_weights<K: Weights>(self, weights: __m256i) -> __m256i {
        if !(VNNI && K::SIGNED) {
            return weights;
        }
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN)) }
    }

    #[inline(always)]
    fn add_byte_products<K: Weights>(self, weights: __m256i, b: __m256i, part: __m256i) -> __m256i {
        // SAFETY: AVX2 by the token, AVX-VNNI if it says so.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(part, weights, b);
            }
            let pairs = if K::SIGNED {
                _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(b, weights))
            } else {
                _mm256_maddubs_epi16(weights, b)
            };
            _mm256_add_epi16(part, pairs)
        }
    }

    #[inline(always)]
    fn add_part(self, part: __m256i, sums: __m256i) -> __m256i {
        if VNNI {
            return self.add32(part, sums);
        }
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(part, _mm256_set1_epi16(1))) }
    }

    /// As many sums of two products as words hold, if these are the parts.
    #[inline(always)]
    fn byte_steps<K: Weights>() -> usize {
        if VNNI {
            return K::SUB / 4;
        }
        let pair = 2 * K::LARGEST as usize * <i8 as Integer>::LIMIT as usize;
        let most = (i16::MAX as usize / pair).min(K::SUB / 4);
        1 << most.ilog2()
    }

    #[inline(always)]
    fn row_sums(self, [a, b, c, d]: Column<Self>) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe {
            let ab = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            let cd = _mm256_add_epi32(_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
            let (ab, cd) = (_mm256_castsi256_ps(ab), _mm256_castsi256_ps(cd));
            let even = _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(ab, cd));
            let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0xDD>(ab, cd));
            _mm256_add_epi32(even, odd)
        }
    }

    /// Words of parts are added up within 16 bits as long as they have room, which spares widening them.
    #[inline(always)]
    fn part_sums<K: Weights, const C: usize>(self, mut parts: Column<Self>) -> __m256i {
        let zero = self.splat32(0);
        let room = Self::byte_steps::<K>() / C;
        if VNNI || room < 2 {
            for part in &mut parts {
                *part = self.add_part(*part, zero);
            }
            return self.row_sums(parts);
        }
        let [a, b, c, d] = parts;
        // SAFETY: AVX2 by the token.
        unsafe {
            let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            if room < 4 {
                let (ab, cd) = (self.add_part(ab, zero), self.add_part(cd, zero));
                return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            }
            let sums = _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            self.add_part(sums, zero)
        }
    }

    /// Products and additions are separate instructions, which can be taken in any order; the compiler's keeps the activations of a whole
    /// sub-block on the stack and is 0.85 times as fast (Q4_K).
    #[inline(always)]
    fn in_order(self, sums: __m256i) -> __m256i {
        // SAFETY: AVX2 by the token.
        if VNNI { sums } else { unsafe { opaque(sums) } }
    }

    #[inline(always)]
    fn run_shared(self, task: impl Shared<Self>) {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<W: Wide>(w: W, task: impl Shared<W>) {
            task.run(w);
        }
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn avxvnni<W: Wide>(w: W, task: impl Shared<W>) {
            task.run(w);
        }
        // SAFETY: the token says that the CPU has the instructions.
        unsafe { if VNNI { avxvnni(self, task) } else { avx2(self, task) } }
    }

    /// Into the second cache: the first has too few lines under way at a time for the memory's latency. On Zen 4 weights from memory are
    /// then 1.15 times as fast.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_to_write(self, at: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
    }
}

impl<const VNNI: bool> OfGroups for Avx2<VNNI> {
    #[inline(always)]
    unsafe fn load_dwords(self, at: *const u8, _group: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { self.load(at) }
    }

    #[inline(always)]
    unsafe fn load_halves(self, at: *const u8, _group: usize) -> __m256 {
        // SAFETY: the caller's promise; F16C by the token.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

/// The same vector, which the compiler takes for another, made here. It keeps the order of such assembly with side effects, which is said
/// to have them by not being `pure`.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut v: __m256i) -> __m256i {
    // SAFETY: a comment is no instruction: it touches neither memory, stack nor flags.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// Bytes of the first dword that `index` counts, or zeros where it has its upper bit set, and of the others with indices larger by
/// `step`.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn bytes_of_dwords(a: __m256i, index: i32, step: i32) -> __m256i {
    // SAFETY: registers only.
    unsafe {
        let lane = _mm_setr_epi32(index, index + step, index + 2 * step, index + 3 * step);
        _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(lane))
    }
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
