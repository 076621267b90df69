//! Sixteen float lanes, whatever the instruction set: what the float kernels are written in.
//!
//! A kernel is one generic function over [`Simd`], marked `#[inline(always)]`, and [`dispatch!`] makes of it
//! a function that takes the instruction set at run time. A value of a type that implements [`Simd`] is a
//! token: it exists only where the CPU has the instructions, so that its methods are safe.
//!
//! One lane operation has one meaning in all implementations: the IEEE result, with a fused `fma`, and `max`
//! and `min` as x86 has them. NaNs stay NaNs; their payload is nobody's promise.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, from_halves, prefetch_line};
pub(crate) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

// Weights are read as they lie in the file, which is little-endian.
const _: () = assert!(cfg!(target_endian = "little"));

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Sixteen floats on a cache line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub [f32; LANES]);

impl Lanes {
    pub const ZERO: Self = Self([0.0; LANES]);

    /// The floats of whole vectors.
    pub fn flat(lanes: &[Self]) -> &[f32] {
        // SAFETY: `Lanes` is 16 floats without padding (its size is its alignment).
        unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
    }

    /// The bytes of whole vectors.
    pub fn bytes(lanes: &[Self]) -> &[u8] {
        // SAFETY: as above; any floats are bytes.
        unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), size_of_val(lanes)) }
    }

    /// The floats of whole vectors.
    pub fn flat_mut(lanes: &mut [Self]) -> &mut [f32] {
        // SAFETY: `Lanes` is 16 floats without padding (its size is its alignment).
        unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * LANES) }
    }
}

/// An instruction set as a token, with its operations on vectors of 16 floats.
pub(crate) trait Simd: Copy {
    /// Sixteen floats.
    type V: Copy;
    /// Sums of four rows that registers hold at once, in vectors of each row.
    const FOUR_ROWS: usize;
    /// Whether halves are widened beside multiplications as fast as floats are loaded.
    const HALVES_AT_ONCE: bool = false;
    /// Registers hold the sums of two rows of weights with six of floats, not just with three, in products with floats: 6 vectors of sums
    /// would wait for each other, 12 don't (counted from latencies of AVX-512, not measured).
    const TWO_TIMES_SIX: bool = false;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, x: Self::V, to: &mut [f32; LANES]);
    /// From IEEE half precision, exact.
    fn load_f16(self, x: &[u16; LANES]) -> Self::V;
    /// From bfloat16, exact.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V;
    /// From 4 bits of exponent and 3 of fraction (e4m3), a 256th of each, exact. What the format calls no number stands for 480.
    #[inline(always)]
    fn load_e4m3(self, x: &[u8; LANES]) -> Self::V {
        // Moved by a bit they are halves, denormals too, but for the bias of the exponent.
        let mut halves = [0; LANES];
        for (half, byte) in halves.iter_mut().zip(x) {
            *half = u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7F) << 7;
        }
        self.load_f16(&halves)
    }
    /// To IEEE half precision, to nearest, ties to even.
    fn store_f16(self, x: Self::V, to: &mut [u16; LANES]);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, rounded once.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: `b` if one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: `b` if one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2 to the power of integers in -126..=127, and 0 for -127.
    fn pow2(self, n: Self::V) -> Self::V;

    /// The canonical sum of the lanes: lane i += lane i + 8, then + 4, + 2, + 1.
    fn sum(self, x: Self::V) -> f32;

    /// Sixteen dot products of `a` with the rows of `b` [a.len(), 16], of which each vector of all rows comes before the next; each
    /// in the canonical order of [`dot`].
    ///
    /// # Panics
    /// If `b` is shorter.
    fn dots(self, a: &[Lanes], b: &[Lanes]) -> Self::V;

    /// The same for two rows of equal length.
    #[inline(always)]
    fn dots_of_two(self, a: [&[Lanes]; 2], b: &[Lanes]) -> [Self::V; 2] {
        [self.dots(a[0], b), self.dots(a[1], b)]
    }

    /// Sixteen dot products of each row of `a` with rows of halves, each of which begins `stride` behind the one before; each in the
    /// canonical order of [`dot`].
    ///
    /// # Panics
    /// If rows of `a` differ in length or `b` is too short.
    #[inline(always)]
    fn dots_halves<const N: usize>(self, a: [&[Lanes]; N], b: &[u16], stride: usize) -> [Self::V; N] {
        let mut dots = [self.zero(); N];
        for (a, dots) in a.iter().zip(&mut dots) {
            let mut sums = [0.0; LANES];
            for (row, sum) in sums.iter_mut().enumerate() {
                let halves = &b[row * stride..][..a.len() * LANES];
                let mut acc = self.zero();
                for (a, halves) in a.iter().zip(halves.as_chunks().0) {
                    acc = self.fma(self.load(&a.0), self.load_f16(halves), acc);
                }
                *sum = self.sum(acc);
            }
            *dots = self.load(&sums);
        }
        dots
    }

    /// Adds the products of 16 columns from `k` on, of `R` rows of stored weights and `N` rows of floats.
    ///
    /// # Safety
    /// All rows must have these columns.
    #[inline(always)]
    unsafe fn add_products<W: Stored, const R: usize, const N: usize>(
        self,
        weights: [&[u8]; R],
        x: [&[f32]; N],
        k: usize,
        acc: &mut [[Self::V; R]; N],
    ) {
        let mut w = [self.zero(); R];
        for (w, weights) in w.iter_mut().zip(weights) {
            // SAFETY: the caller's promise.
            *w = W::load(self, unsafe { weights.get_unchecked(k * W::BYTES..(k + LANES) * W::BYTES) });
        }
        for (acc, x) in acc.iter_mut().zip(x) {
            // SAFETY: the caller's promise.
            let x = self.load(unsafe { &*x.as_ptr().add(k).cast() });
            for (acc, w) in acc.iter_mut().zip(w) {
                *acc = self.fma(w, x, *acc);
            }
        }
    }

    /// Lanes 2 i and 2 i + 1 are the largest magnitude of `x[2 i]` and `x[2 i + 1]`; infinities and NaNs are above all.
    #[inline(always)]
    fn largest_of_pairs(self, x: &[[f32; LANES]; LANES]) -> Self::V {
        let mut largest = [[0.0; 2]; LANES / 2];
        for (largest, x) in largest.iter_mut().zip(x.as_chunks::<2>().0) {
            *largest = [largest_magnitude(x.as_flattened()); 2];
        }
        self.load_part(largest.as_flattened(), 0.0)
    }

    /// `to[i] = x[i] * factors[i]` to the nearest integers, ties to even; what it gives are the sums of each `to[i]`. The products must
    /// be from -127 to 127, within what their rounding adds.
    #[inline(always)]
    fn round_to_bytes(
        self,
        x: &[[f32; LANES]; LANES],
        factors: &[f32; LANES],
        to: &mut [[i8; LANES]; LANES],
    ) -> [i32; LANES] {
        let mut sums = [0; LANES];
        for (((x, factor), to), sum) in x.iter().zip(factors).zip(to).zip(&mut sums) {
            for (x, to) in x.iter().zip(to) {
                let rounded = nearest(x * factor);
                *to = rounded as i8;
                *sum += rounded;
            }
        }
        sums
    }

    /// Asks for the cache line at `at`, which may be any address; plain code asks for nothing.
    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Up to 16 floats; the lanes left over are `padding`.
    #[inline(always)]
    fn load_part(self, x: &[f32], padding: f32) -> Self::V {
        if let Some(x) = x.first_chunk() {
            return self.load(x);
        }
        let mut lanes = [padding; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// As many lanes as `to` has room for, up to 16.
    #[inline(always)]
    fn store_part(self, x: Self::V, to: &mut [f32]) {
        if let Some(to) = to.first_chunk_mut() {
            return self.store(x, to);
        }
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }
}

/// The largest magnitude, or a NaN or an infinity if there is one.
#[inline(always)]
pub(crate) fn largest_magnitude(x: &[f32]) -> f32 {
    // Magnitudes order like their bits, infinities and NaNs above all.
    let bits = x.iter().fold(0, |largest, x| largest.max((x.to_bits() & 0x7FFF_FFFF) as i32));
    f32::from_bits(bits as u32)
}

/// The nearest integer of a small number, ties to even.
#[inline(always)]
pub(crate) fn nearest(x: f32) -> i32 {
    /// Added to a small number it leaves its nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}

/// How a float is stored in a file.
pub(crate) trait Stored {
    /// Bytes of one float.
    const BYTES: usize;

    /// Sixteen floats from exactly `16 * BYTES` bytes at any address, or fewer from fewer bytes with zeros
    /// behind.
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::V;

    /// Eight floats.
    ///
    /// # Safety
    /// AVX2 and F16C; eight floats must be readable at `at`.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_eight(at: *const u8) -> std::arch::x86_64::__m256;
}

/// IEEE single precision.
pub(crate) struct StoredF32;
/// IEEE half precision.
pub(crate) struct StoredF16;
/// bfloat16.
pub(crate) struct StoredBf16;

/// The first bytes of a `T`, zeros behind; `T` must be an array of plain numbers.
macro_rules! padded {
    ($bytes:expr, $array:ty) => {{
        let bytes: &[u8] = $bytes;
        let mut array: $array = [Default::default(); LANES];
        assert!(bytes.len() <= size_of::<$array>());
        // SAFETY: the length fits by the assertion, and any bytes are numbers.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), array.as_mut_ptr().cast(), bytes.len()) };
        array
    }};
}

impl Stored for StoredF32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::V {
        s.load(&padded!(bytes, [f32; LANES]))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_eight(at: *const u8) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller's promise.
        unsafe { x86::eight_f32(at.cast()) }
    }
}

impl Stored for StoredF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::V {
        s.load_f16(&padded!(bytes, [u16; LANES]))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_eight(at: *const u8) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller's promise.
        unsafe { x86::eight_f16(at.cast()) }
    }
}

impl Stored for StoredBf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::V {
        s.load_bf16(&padded!(bytes, [u16; LANES]))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_eight(at: *const u8) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller's promise.
        unsafe { x86::eight_bf16(at.cast()) }
    }
}

/// The canonical dot product: lane l takes the elements k with k % 16 = l in order, each with one `fma` onto
/// an accumulator that starts at 0; a last vector that is not full is padded by zeros; then [`Simd::sum`].
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut acc = s.zero();
    for (a, b) in a.iter().zip(b) {
        acc = s.fma(s.load(a), s.load(b), acc);
    }
    if !a_tail.is_empty() {
        acc = s.fma(s.load_part(a_tail, 0.0), s.load_part(b_tail, 0.0), acc);
    }
    s.sum(acc)
}

/// The canonical dot products of [`dot`] between `R` rows of stored weights and `N` rows of floats, [n][r]; `ahead` as in [`add_stored`].
///
/// # Panics
/// If rows differ in length.
#[inline(always)]
pub(crate) fn dots_stored<W: Stored, S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: [&[u8]; R],
    x: [&[f32]; N],
    ahead: Option<usize>,
) -> [[f32; R]; N] {
    let mut acc = [[s.zero(); R]; N];
    add_stored::<W, S, R, N>(s, weights, x, ahead, &mut acc);
    sums(s, acc)
}

/// The sums of the lanes of each.
#[inline(always)]
pub(crate) fn sums<S: Simd, const R: usize, const N: usize>(s: S, acc: [[S::V; R]; N]) -> [[f32; R]; N] {
    // No `map`: a closure would not inherit the instruction set.
    let mut sums = [[0.0; R]; N];
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum = s.sum(acc);
        }
    }
    sums
}

/// Adds the products of `R` rows of stored weights and `N` rows of floats, lane by lane, to what `acc` has of those with the columns before
/// them, a multiple of 16: the steps of [`dot`]. With `ahead`, asks for the bytes so far behind those that are multiplied.
///
/// What is loaded is used for all rows of the other side, and the independent sums hide the latency of `fma`.
///
/// # Panics
/// If rows differ in length.
#[inline(always)]
pub(crate) fn add_stored<W: Stored, S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: [&[u8]; R],
    x: [&[f32]; N],
    ahead: Option<usize>,
    acc: &mut [[S::V; R]; N],
) {
    let cols = x[0].len();
    for x in x {
        assert_eq!(x.len(), cols);
    }
    for weights in weights {
        assert_eq!(weights.len(), cols * W::BYTES);
    }
    let mut k = 0;
    if let Some(ahead) = ahead {
        let cols_a_line = const { LINE / W::BYTES };
        while k + cols_a_line <= cols {
            for weights in weights {
                s.prefetch(weights.as_ptr().wrapping_add(k * W::BYTES + ahead));
            }
            for step in (0..cols_a_line).step_by(LANES) {
                // SAFETY: the columns are within the rows, whose lengths were compared.
                unsafe { s.add_products::<W, R, N>(weights, x, k + step, acc) };
            }
            k += cols_a_line;
        }
    }
    while k + LANES <= cols {
        // SAFETY: as above.
        unsafe { s.add_products::<W, R, N>(weights, x, k, acc) };
        k += LANES;
    }
    if k < cols {
        for (acc, x) in acc.iter_mut().zip(x) {
            let x = s.load_part(&x[k..], 0.0);
            for (acc, weights) in acc.iter_mut().zip(weights) {
                *acc = s.fma(W::load(s, &weights[k * W::BYTES..]), x, *acc);
            }
        }
    }
}

/// `e^x`, within 1 ulp; 0 below about -86.99, where it is at most 1.5 times the least normal number; infinity above about 88.7.
///
/// n = round(x / ln 2), r = x - n ln 2 in two steps (ln 2 split so that the first product is exact), the
/// Taylor polynomial of degree 7 by Horner's rule, then times 2 and times 2^(n - 1), which is a float for the greatest n and 0 for the
/// least. Processors take a hundred times as long for a product that is not a normal number.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let [y] = exps(s, [x]);
    y
}

/// [`exp`] of each. The steps of one wait for each other, and a processor looks too little ahead to do those of the next meanwhile.
#[inline(always)]
pub(crate) fn exps<S: Simd, const N: usize>(s: S, mut x: [S::V; N]) -> [S::V; N] {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let mut n = x;
    for (x, n) in x.iter_mut().zip(&mut n) {
        // A NaN passes: it is the second operand.
        *x = s.min(s.splat(89.0), s.max(s.splat(-87.5), *x));
        *n = s.round(s.mul(*x, s.splat(std::f32::consts::LOG2_E)));
    }
    let mut r = x;
    for (r, n) in r.iter_mut().zip(n) {
        *r = s.fnma(n, s.splat(LN2_HIGH), *r);
        *r = s.fnma(n, s.splat(LN2_LOW), *r);
    }
    let mut p = [s.splat(1.0 / 5040.0); N];
    for c in COEFFICIENTS {
        for (p, r) in p.iter_mut().zip(r) {
            *p = s.fma(*p, r, s.splat(c));
        }
    }
    for (p, n) in p.iter_mut().zip(n) {
        *p = s.mul(s.mul(*p, s.splat(2.0)), s.pow2(s.sub(n, s.splat(1.0))));
    }
    p
}

/// Makes of a generic kernel `kernel<S: Simd>(token: S, arguments)` a function that takes an [`Isa`] first.
///
/// The instruction set must be one that the CPU has, as all those of [`Team`]s and regions are.
///
/// [`Isa`]: crate::Isa
/// [`Team`]: crate::Team
macro_rules! dispatch {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? => $kernel:expr;
    ) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's own features.
                let token = unsafe { $crate::simd::Avx2::<false>::assume() };
                $kernel(token, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's own features.
                let token = unsafe { $crate::simd::Avx512::<false>::assume() };
                $kernel(token, $($arg),*)
            }
            debug_assert!(isa.is_available());
            match isa {
                // SAFETY: the CPU has the instruction set: `isa` comes from a team, which takes no other.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 | $crate::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Avx512Vbmi | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::Isa::Neon | $crate::Isa::Dotprod => $kernel($crate::simd::Neon::new(), $($arg),*),
                _ => $kernel($crate::simd::Scalar, $($arg),*),
            }
        }
    };
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests;
