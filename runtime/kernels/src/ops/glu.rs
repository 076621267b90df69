//! Gated linear units (Shazeer 2020): what joins the two halves of a feed-forward.

use super::COSTLY_TASK;
use crate::parallel::Region;
use crate::simd::{LANES, Simd, dispatch, exp};

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

/// One of the functions over vectors.
trait Function {
    fn of<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V;
}

#[inline(always)]
fn each<S: Simd, F: Function>(s: S, gate: &mut [f32], up: &[f32]) {
    let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks::<LANES>());
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = F::of(s, s.load(gate), s.load(up));
        s.store(x, gate);
    }
    if !gate_tail.is_empty() {
        let x = F::of(s, s.load_part(gate_tail, 0.0), s.load_part(up_tail, 0.0));
        s.store_part(x, gate_tail);
    }
}

struct SwiGlu;
struct GeGlu;
struct ClampedSwiGlu;

impl Function for SwiGlu {
    #[inline(always)]
    fn of<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(swish(s, gate, gate), up)
    }
}

impl Function for GeGlu {
    #[inline(always)]
    fn of<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
        // (1 + tanh y) / 2 is the sigmoid of 2 y, here y = sqrt(2 / pi) * (x + 0.044715 x^3).
        const LINEAR: f32 = 1.595_769_1;
        const CUBIC: f32 = 0.071_354_82;
        let square = s.mul(gate, gate);
        let slope = s.fma(s.splat(CUBIC), square, s.splat(LINEAR));
        s.mul(swish(s, gate, s.mul(gate, slope)), up)
    }
}

impl Function for ClampedSwiGlu {
    #[inline(always)]
    fn of<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
        const SLOPE: f32 = 1.702;
        const LIMIT: f32 = 7.0;
        let limit = s.splat(LIMIT);
        // A NaN passes: it is the second operand.
        let gate = s.min(limit, gate);
        let up = s.max(s.splat(-LIMIT), s.min(limit, up));
        s.mul(swish(s, gate, s.mul(s.splat(SLOPE), gate)), s.add(up, s.splat(1.0)))
    }
}

/// `x / (1 + e^-y)`.
#[inline(always)]
fn swish<S: Simd>(s: S, x: S::V, y: S::V) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), y))))
}
