//! Gated linear units (Shazeer 2020): what joins the two halves of a feed-forward.

use crate::simd::{LANES, Simd, dispatch, exps};

/// The function of a gate and what is gated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glu {
    /// `silu(gate) * up`; silu(x) = x / (1 + e^-x).
    SwiGlu,
    /// `gelu(gate) * up`, gelu by its approximation with tanh.
    GeGlu,
    /// `g / (1 + e^(-1.702 g)) * (u + 1)`, where g is the gate, at most 7, and u what is gated, from -7 to 7 (gpt-oss).
    ClampedSwiGlu,
}

dispatch! {
    /// `out = function(gate, up)`, element by element, of rows of equal length.
    pub(crate) fn glu(function: Glu, gate: &[f32], up: &[f32], out: &mut [f32]) => glu_kernel;
}

#[inline(always)]
fn glu_kernel<S: Simd>(s: S, function: Glu, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match function {
        Glu::SwiGlu => each::<S, SwiGlu>(s, gate, up, out),
        Glu::GeGlu => each::<S, GeGlu>(s, gate, up, out),
        Glu::ClampedSwiGlu => each::<S, ClampedSwiGlu>(s, gate, up, out),
    }
}

/// Vectors whose functions are computed together.
const TOGETHER: usize = 4;

/// One of the functions over vectors.
trait Function {
    fn of<S: Simd, const N: usize>(s: S, gate: [S::V; N], up: [S::V; N]) -> [S::V; N];
}

#[inline(always)]
fn each<S: Simd, F: Function>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    let ((gate, gate_rest), (up, up_rest)) = (gate.as_chunks::<TOGETHER>(), up.as_chunks::<TOGETHER>());
    let (out, out_rest) = out.as_chunks_mut::<TOGETHER>();
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        vectors::<S, F, TOGETHER>(s, gate, up, out);
    }
    for ((gate, up), out) in gate_rest.iter().zip(up_rest).zip(out_rest) {
        let [x] = F::of(s, [s.load(gate)], [s.load(up)]);
        s.store(x, out);
    }
    if !gate_tail.is_empty() {
        let [x] = F::of(s, [s.load_part(gate_tail, 0.0)], [s.load_part(up_tail, 0.0)]);
        s.store_part(x, out_tail);
    }
}

/// Whole vectors.
#[inline(always)]
fn vectors<S: Simd, F: Function, const N: usize>(
    s: S,
    gate: &[[f32; LANES]; N],
    up: &[[f32; LANES]; N],
    out: &mut [[f32; LANES]; N],
) {
    let (mut x, mut y) = ([s.zero(); N], [s.zero(); N]);
    for i in 0..N {
        x[i] = s.load(&gate[i]);
        y[i] = s.load(&up[i]);
    }
    for (x, out) in F::of(s, x, y).into_iter().zip(out) {
        s.store(x, out);
    }
}

struct SwiGlu;
struct GeGlu;
struct ClampedSwiGlu;

impl Function for SwiGlu {
    #[inline(always)]
    fn of<S: Simd, const N: usize>(s: S, gate: [S::V; N], up: [S::V; N]) -> [S::V; N] {
        let mut x = swish(s, gate, gate);
        for (x, up) in x.iter_mut().zip(up) {
            *x = s.mul(*x, up);
        }
        x
    }
}

impl Function for GeGlu {
    #[inline(always)]
    fn of<S: Simd, const N: usize>(s: S, gate: [S::V; N], up: [S::V; N]) -> [S::V; N] {
        // (1 + tanh y) / 2 is the sigmoid of 2 y, here y = sqrt(2 / pi) * (x + 0.044715 x^3).
        const LINEAR: f32 = 1.595_769;
        const CUBIC: f32 = 0.071_354_82;
        let mut y = gate;
        for y in &mut y {
            let square = s.mul(*y, *y);
            *y = s.mul(*y, s.fma(s.splat(CUBIC), square, s.splat(LINEAR)));
        }
        let mut x = swish(s, gate, y);
        for (x, up) in x.iter_mut().zip(up) {
            *x = s.mul(*x, up);
        }
        x
    }
}

impl Function for ClampedSwiGlu {
    #[inline(always)]
    fn of<S: Simd, const N: usize>(s: S, mut gate: [S::V; N], up: [S::V; N]) -> [S::V; N] {
        const SLOPE: f32 = 1.702;
        const LIMIT: f32 = 7.0;
        let limit = s.splat(LIMIT);
        let mut y = gate;
        for (gate, y) in gate.iter_mut().zip(&mut y) {
            // A NaN passes: it is the second operand.
            *gate = s.min(limit, *gate);
            *y = s.mul(s.splat(SLOPE), *gate);
        }
        let mut x = swish(s, gate, y);
        for (x, up) in x.iter_mut().zip(up) {
            let up = s.max(s.splat(-LIMIT), s.min(limit, up));
            *x = s.mul(*x, s.add(up, s.splat(1.0)));
        }
        x
    }
}

/// `x / (1 + e^-y)`.
#[inline(always)]
fn swish<S: Simd, const N: usize>(s: S, x: [S::V; N], mut y: [S::V; N]) -> [S::V; N] {
    for y in &mut y {
        *y = s.sub(s.zero(), *y);
    }
    y = exps(s, y);
    for (y, x) in y.iter_mut().zip(x) {
        *y = s.div(x, s.add(s.splat(1.0), *y));
    }
    y
}
