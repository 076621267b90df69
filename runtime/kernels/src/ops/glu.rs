//! Gated linear units (Shazeer 2020): what joins the two halves of a feed-forward.

use super::COSTLY_TASK;
use crate::parallel::Region;
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

/// `gate = function(gate, up)`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn glu(region: &Region<'_>, function: Glu, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "glu: gate and up differ in length");
    let isa = region.isa();
    region.run_chunks(gate, COSTLY_TASK, |index, gate| {
        glu_part(isa, function, gate, &up[index * COSTLY_TASK..][..gate.len()]);
    });
}

dispatch! {
    fn glu_part(function: Glu, gate: &mut [f32], up: &[f32]) => glu_kernel;
}

#[inline(always)]
fn glu_kernel<S: Simd>(s: S, function: Glu, gate: &mut [f32], up: &[f32]) {
    match function {
        Glu::SwiGlu => each::<S, SwiGlu>(s, gate, up),
        Glu::GeGlu => each::<S, GeGlu>(s, gate, up),
        Glu::ClampedSwiGlu => each::<S, ClampedSwiGlu>(s, gate, up),
    }
}

/// Vectors whose functions are computed together.
const TOGETHER: usize = 4;

/// One of the functions over vectors.
trait Function {
    fn of<S: Simd, const N: usize>(s: S, gate: [S::V; N], up: [S::V; N]) -> [S::V; N];
}

#[inline(always)]
fn each<S: Simd, F: Function>(s: S, gate: &mut [f32], up: &[f32]) {
    let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks::<LANES>());
    let ((gate, gate_rest), (up, up_rest)) = (gate.as_chunks_mut::<TOGETHER>(), up.as_chunks::<TOGETHER>());
    for (gate, up) in gate.iter_mut().zip(up) {
        vectors::<S, F, TOGETHER>(s, gate, up);
    }
    for (gate, up) in gate_rest.iter_mut().zip(up_rest) {
        vectors::<S, F, 1>(s, std::array::from_mut(gate), std::array::from_ref(up));
    }
    if !gate_tail.is_empty() {
        let [x] = F::of(s, [s.load_part(gate_tail, 0.0)], [s.load_part(up_tail, 0.0)]);
        s.store_part(x, gate_tail);
    }
}

/// Whole vectors.
#[inline(always)]
fn vectors<S: Simd, F: Function, const N: usize>(s: S, gate: &mut [[f32; LANES]; N], up: &[[f32; LANES]; N]) {
    let (mut x, mut y) = ([s.zero(); N], [s.zero(); N]);
    for i in 0..N {
        x[i] = s.load(&gate[i]);
        y[i] = s.load(&up[i]);
    }
    let x = F::of(s, x, y);
    for (x, gate) in x.into_iter().zip(gate) {
        s.store(x, gate);
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
