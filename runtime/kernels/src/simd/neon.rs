//! Sixteen lanes in four NEON registers. The intrinsics are those of Arm's C Language Extensions.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{LANES, Lanes, Simd};

/// NEON, which every CPU of this architecture has; with `DOTPROD` also FEAT_DotProd, products of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOTPROD: bool>(());

impl Neon<false> {
    #[inline(always)]
    pub fn new() -> Self {
        Self(())
    }
}

impl Neon<true> {
    /// # Safety
    /// The CPU must have FEAT_DotProd.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

/// Asks for the cache line at `at`, which may be any address.
#[inline(always)]
pub(crate) fn prefetch_line(at: *const u8) {
    // SAFETY: a prefetch has no effect but on speed.
    unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// Registers of a vector.
const REGISTERS: usize = 4;
/// Floats of a register.
const WIDTH: usize = LANES / REGISTERS;

/// Implements a method by what it does to a register.
macro_rules! each {
    ($($name:ident($($arg:ident),*) = $register:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            let of = |i: usize| {
                $(let $arg = $arg[i];)*
                // SAFETY: every CPU has NEON.
                unsafe { $register }
            };
            [of(0), of(1), of(2), of(3)]
        }
    )*};
}

impl Simd for Neon<false> {
    type V = [float32x4_t; REGISTERS];
    const FOUR_ROWS: usize = 1;

    each! {
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        fma(a, b, c) = vfmaq_f32(c, a, b);
        fnma(a, b, c) = vfmsq_f32(c, a, b);
        max(a, b) = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a, b) = vbslq_f32(vcltq_f32(a, b), a, b);
        round(a) = vrndnq_f32(a);
        pow2(n) = {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: every CPU has NEON.
        unsafe { [vdupq_n_f32(x); REGISTERS] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        // SAFETY: the registers are the array.
        let of = |i: usize| unsafe { vld1q_f32(x.as_ptr().add(WIDTH * i)) };
        [of(0), of(1), of(2), of(3)]
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; LANES]) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: as in `load`.
            unsafe { vst1q_f32(to.as_mut_ptr().add(WIDTH * i), x) };
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: the registers are the array.
        let of = |i: usize| unsafe { from_halves(vld1_u16(x.as_ptr().add(WIDTH * i))) };
        [of(0), of(1), of(2), of(3)]
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        // SAFETY: the registers are the array.
        let of = |i: usize| unsafe {
            let bits = vld1_u16(x.as_ptr().add(WIDTH * i));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
        };
        [of(0), of(1), of(2), of(3)]
    }

    #[inline(always)]
    fn load_e4m3(self, x: &[u8; LANES]) -> Self::V {
        // SAFETY: a register is the array; every CPU has NEON.
        unsafe {
            let bytes = vld1q_s8(x.as_ptr().cast());
            let halves =
                |words| vandq_u16(vshlq_n_u16::<7>(vreinterpretq_u16_s16(words)), vdupq_n_u16(0xBF80));
            let (low, high) = (halves(vmovl_s8(vget_low_s8(bytes))), halves(vmovl_high_s8(bytes)));
            [
                from_halves(vget_low_u16(low)),
                from_halves(vget_high_u16(low)),
                from_halves(vget_low_u16(high)),
                from_halves(vget_high_u16(high)),
            ]
        }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::V, to: &mut [u16; LANES]) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: as in `load_f16`.
            unsafe { vst1_u16(to.as_mut_ptr().add(WIDTH * i), vreinterpret_u16_f16(vcvt_f16_f32(x))) };
        }
    }

    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        // SAFETY: every CPU has NEON.
        unsafe {
            let x = fold(x);
            let x = vadd_f32(vget_low_f32(x), vget_high_f32(x));
            vget_lane_f32::<0>(x) + vget_lane_f32::<1>(x)
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch_line(at);
    }

    #[inline(always)]
    fn dots(self, a: &[Lanes], b: &[Lanes]) -> Self::V {
        assert!(b.len() >= LANES * a.len());
        // SAFETY: `b` has 16 rows of the length of `a`.
        let of = |i: usize| unsafe { four_dots(a, b.as_ptr().add(WIDTH * i)) };
        [of(0), of(1), of(2), of(3)]
    }
}

/// From IEEE half precision.
///
/// # Safety
/// NEON.
#[inline(always)]
pub(crate) unsafe fn from_halves(bits: uint16x4_t) -> float32x4_t {
    // SAFETY: registers only.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(bits)) }
}

/// The first two steps of the canonical tree: lane i + lane i + 8, then + 4.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn fold(x: [float32x4_t; REGISTERS]) -> float32x4_t {
    // SAFETY: registers only.
    unsafe { vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3])) }
}

/// Four canonical dot products.
///
/// # Safety
/// NEON; `b` must have 4 vectors, 16 apart, for each one of `a`.
#[inline(always)]
unsafe fn four_dots(a: &[Lanes], b: *const Lanes) -> float32x4_t {
    const ROWS: usize = 4;
    // SAFETY: what is read is within `a` and `b` by the caller's promise.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); REGISTERS]; ROWS];
        for (k, x) in a.iter().enumerate() {
            for i in 0..REGISTERS {
                let x = vld1q_f32(x.0.as_ptr().add(WIDTH * i));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let y = (*b.add(LANES * k + row)).0.as_ptr().add(WIDTH * i);
                    acc[i] = vfmaq_f32(acc[i], x, vld1q_f32(y));
                }
            }
        }
        let [a, b, c, d] = acc;
        let (ab, cd) = (twos(fold(a), fold(b)), twos(fold(c), fold(d)));
        vaddq_f32(vuzp1q_f32(ab, cd), vuzp2q_f32(ab, cd))
    }
}

/// The step of width 2 for two vectors: two lanes of `a`, then two of `b`.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn twos(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: registers only.
    unsafe {
        let low = vcombine_f32(vget_low_f32(a), vget_low_f32(b));
        let high = vcombine_f32(vget_high_f32(a), vget_high_f32(b));
        vaddq_f32(low, high)
    }
}
