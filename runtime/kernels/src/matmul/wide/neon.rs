//! Eight weight rows at once, in pairs of NEON's registers. The intrinsics are those of Arm's C Language Extensions.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Column, Shared, Wide};
use crate::matmul::activations::Integer;
use crate::matmul::packed::Weights;
use crate::simd::{Neon, from_halves, prefetch_line};

type V = [uint8x16_t; 2];
type F = [float32x4_t; 2];

/// Methods by what they do to registers of so many arguments.
macro_rules! pairs {
    ($($name:ident($($arg:ident),*): $ty:ty = $register:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ty {
            let of = |i: usize| {
                $(let $arg = $arg[i];)*
                // SAFETY: every CPU has NEON.
                unsafe { $register }
            };
            [of(0), of(1)]
        }
    )*};
}

/// Methods that shift lanes by a count: to the left, or to the right where it is negative.
macro_rules! shifts {
    ($($name:ident($bits:ident) = $shift:ident($counts:expr), $from:ident, $to:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, a: V, $bits: u32) -> V {
            // SAFETY: every CPU has NEON.
            let of = |i: usize| unsafe { $to($shift($from(a[i]), $counts)) };
            [of(0), of(1)]
        }
    )*};
}

impl<const DOTPROD: bool> Wide for Neon<DOTPROD> {
    type V = V;
    type F = F;
    type Plain = Self;
    const ROWS: usize = 8;
    const TILE: usize = 4;
    const BYTE_PARTS: bool = false;
    const SIGNED_OFFSET_BITS: u32 = 0;

    pairs! {
        and(a, b): V = vandq_u8(a, b);
        or(a, b): V = vorrq_u8(a, b);
        add32(a, b): V = from_u32(vaddq_u32(to_u32(a), to_u32(b)));
        sub32(a, b): V = from_u32(vsubq_u32(to_u32(a), to_u32(b)));
        mul32(a, b): V = from_u32(vmulq_u32(to_u32(a), to_u32(b)));
        low_quads(a, b): V = from_u64(vzip1q_u64(to_u64(a), to_u64(b)));
        high_quads(a, b): V = from_u64(vzip2q_u64(to_u64(a), to_u64(b)));
        pick(a, index): V = vqtbl1q_u8(a, index);
        sixteen_where(a, bit): V = vandq_u8(vtstq_u8(a, bit), vdupq_n_u8(16));
        mul(a, b): F = vmulq_f32(a, b);
        fma(a, b, c): F = vfmaq_f32(c, a, b);
        negate(a): F = vnegq_f32(a);
    }

    shifts! {
        shr16(bits) = vshlq_u16(vdupq_n_s16(-(bits as i16))), vreinterpretq_u16_u8, vreinterpretq_u8_u16;
        shl16(bits) = vshlq_u16(vdupq_n_s16(bits as i16)), vreinterpretq_u16_u8, vreinterpretq_u8_u16;
        sar16(bits) = vshlq_s16(vdupq_n_s16(-(bits as i16))), vreinterpretq_s16_u8, vreinterpretq_u8_s16;
        shr32(bits) = vshlq_u32(vdupq_n_s32(-(bits as i32))), vreinterpretq_u32_u8, vreinterpretq_u8_u32;
        sar32(bits) = vshlq_s32(vdupq_n_s32(-(bits as i32))), vreinterpretq_s32_u8, vreinterpretq_u8_s32;
        shl32(bits) = vshlq_u32(vdupq_n_s32(bits as i32)), vreinterpretq_u32_u8, vreinterpretq_u8_u32;
    }

    #[inline(always)]
    unsafe fn column(self, at: *const u8, offset: usize, stride: usize) -> Column<Self> {
        // SAFETY: the caller's promise.
        let row = |i: usize| unsafe { vld1q_u8(at.add(offset + i * stride)) };
        [[row(0), row(4)], [row(1), row(5)], [row(2), row(6)], [row(3), row(7)]]
    }

    #[inline(always)]
    unsafe fn repeat_bytes(self, at: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_u8(at); 2] }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_u8(at), vld1q_u8(at.add(16))] }
    }

    #[inline(always)]
    unsafe fn repeat_dword(self, at: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { [from_u32(vdupq_n_u32(at.cast::<u32>().read_unaligned())); 2] }
    }

    #[inline(always)]
    unsafe fn store(self, v: V, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            vst1q_u8(at, v[0]);
            vst1q_u8(at.add(16), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_floats(self, at: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4))] }
    }

    #[inline(always)]
    unsafe fn store_floats(self, v: F, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            vst1q_f32(at, v[0]);
            vst1q_f32(at.add(4), v[1]);
        }
    }

    #[inline(always)]
    fn splat8(self, x: u8) -> V {
        // SAFETY: every CPU has NEON.
        unsafe { [vdupq_n_u8(x); 2] }
    }

    #[inline(always)]
    fn splat32(self, x: i32) -> V {
        // SAFETY: every CPU has NEON.
        unsafe { [from_s32(vdupq_n_s32(x)); 2] }
    }

    #[inline(always)]
    fn dword<const I: usize>(self, column: Column<Self>) -> V {
        self.dwords(column)[I]
    }

    #[inline(always)]
    fn dwords(self, [a, b, c, d]: Column<Self>) -> [V; 4] {
        // SAFETY: every CPU has NEON.
        let of = |i: usize| unsafe {
            let (a, b, c, d) = (to_u32(a[i]), to_u32(b[i]), to_u32(c[i]), to_u32(d[i]));
            let (even_ab, odd_ab) = (quads(vtrn1q_u32(a, b)), quads(vtrn2q_u32(a, b)));
            let (even_cd, odd_cd) = (quads(vtrn1q_u32(c, d)), quads(vtrn2q_u32(c, d)));
            [
                from_u64(vzip1q_u64(even_ab, even_cd)),
                from_u64(vzip1q_u64(odd_ab, odd_cd)),
                from_u64(vzip2q_u64(even_ab, even_cd)),
                from_u64(vzip2q_u64(odd_ab, odd_cd)),
            ]
        };
        let (low, high) = (of(0), of(1));
        [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
    }

    #[inline(always)]
    fn low_halves(self, a: V) -> F {
        // SAFETY: every CPU has NEON.
        unsafe { [from_halves(vmovn_u32(to_u32(a[0]))), from_halves(vmovn_u32(to_u32(a[1])))] }
    }

    #[inline(always)]
    fn high_halves(self, a: V) -> F {
        // SAFETY: every CPU has NEON.
        unsafe {
            [from_halves(vshrn_n_u32::<16>(to_u32(a[0]))), from_halves(vshrn_n_u32::<16>(to_u32(a[1])))]
        }
    }

    #[inline(always)]
    fn bits_as_floats(self, a: V) -> F {
        // SAFETY: every CPU has NEON.
        unsafe { [vreinterpretq_f32_u8(a[0]), vreinterpretq_f32_u8(a[1])] }
    }

    #[inline(always)]
    fn floats(self, a: V) -> F {
        // SAFETY: every CPU has NEON.
        unsafe { [vcvtq_f32_s32(to_s32(a[0])), vcvtq_f32_s32(to_s32(a[1]))] }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: every CPU has NEON.
        unsafe { [vdupq_n_f32(x); 2] }
    }

    #[inline(always)]
    fn add_products(self, a: V, b: V, sums: V) -> V {
        // SAFETY: every CPU has NEON.
        let of = |i: usize| unsafe {
            let (a, b) = (vreinterpretq_s16_u8(a[i]), vreinterpretq_s16_u8(b[i]));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            let pairs = vpaddq_s32(low, vmull_high_s16(a, b));
            from_s32(vaddq_s32(to_s32(sums[i]), pairs))
        };
        [of(0), of(1)]
    }

    #[inline(always)]
    fn byte_weights<K: Weights>(self, weights: V) -> V {
        const { assert!(K::SIGNED || K::LARGEST <= i8::MAX as u8, "unsigned weights are signed bytes too") };
        weights
    }

    #[inline(always)]
    fn add_byte_products<K: Weights>(self, weights: V, b: V, part: V) -> V {
        const {
            let pair = 2 * K::LARGEST as i32 * <i8 as Integer>::LIMIT;
            assert!(pair <= i16::MAX as i32, "words hold the sum of two products");
        }
        let mut sums = part;
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: every CPU has NEON; FEAT_DotProd by the token.
            unsafe {
                let (weights, b, part) = (to_s8(weights[i]), to_s8(b[i]), to_s32(part[i]));
                *sum = from_s32(if DOTPROD {
                    sdot(part, weights, b)
                } else {
                    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(b));
                    vpadalq_s16(part, vpaddq_s16(low, vmull_high_s8(weights, b)))
                });
            }
        }
        sums
    }

    #[inline(always)]
    fn add_part(self, part: V, sums: V) -> V {
        self.add32(part, sums)
    }

    #[inline(always)]
    fn byte_steps<K: Weights>() -> usize {
        K::SUB / 4
    }

    #[inline(always)]
    fn row_sums(self, [a, b, c, d]: Column<Self>) -> V {
        // SAFETY: every CPU has NEON.
        let of = |i: usize| unsafe {
            let ab = vpaddq_s32(to_s32(a[i]), to_s32(b[i]));
            from_s32(vpaddq_s32(ab, vpaddq_s32(to_s32(c[i]), to_s32(d[i]))))
        };
        [of(0), of(1)]
    }

    #[inline(always)]
    fn run_shared(self, task: impl Shared<Self>) {
        #[inline(never)]
        fn neon<W: Wide>(w: W, task: impl Shared<W>) {
            task.run(w);
        }
        #[inline(never)]
        #[target_feature(enable = "dotprod")]
        fn dotprod<W: Wide>(w: W, task: impl Shared<W>) {
            task.run(w);
        }
        if DOTPROD {
            // SAFETY: the token says that the CPU has the instructions.
            return unsafe { dotprod(self, task) };
        }
        neon(self, task);
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch_line(at);
    }
}

/// SDOT, which the standard library has since Rust 1.98: to each dword of `sums` the four products of signed bytes.
///
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "sdot {:v}.4s, {:v}.16b, {:v}.16b", inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Conversions that do nothing: what the lanes of a register are.
macro_rules! lanes {
    ($($name:ident($from:ty) -> $to:ty = $reinterpret:ident;)*) => {$(
        #[inline(always)]
        fn $name(a: $from) -> $to {
            // SAFETY: every CPU has NEON.
            unsafe { $reinterpret(a) }
        }
    )*};
}

lanes! {
    to_s8(uint8x16_t) -> int8x16_t = vreinterpretq_s8_u8;
    to_s32(uint8x16_t) -> int32x4_t = vreinterpretq_s32_u8;
    to_u32(uint8x16_t) -> uint32x4_t = vreinterpretq_u32_u8;
    to_u64(uint8x16_t) -> uint64x2_t = vreinterpretq_u64_u8;
    from_s32(int32x4_t) -> uint8x16_t = vreinterpretq_u8_s32;
    from_u32(uint32x4_t) -> uint8x16_t = vreinterpretq_u8_u32;
    from_u64(uint64x2_t) -> uint8x16_t = vreinterpretq_u8_u64;
    quads(uint32x4_t) -> uint64x2_t = vreinterpretq_u64_u32;
}
