//! The depthwise causal convolution, with SiLU behind it.

use super::DeltaState;
use crate::parallel::{DisjointSlice, Region};
use crate::simd::{LANES, Simd, dispatch, exp};

/// Channels of a token that are worth a task; a multiple of [`LANES`].
const TASK_CHANNELS: usize = 1024;

/// `out = silu(sum over taps of weights[tap] * x[t - (kernel - 1) + tap])` for each channel and token t; what lies before
/// the first of the tokens comes from the state, which then remembers the last ones. `x` and `out` [n, channels], `weights`
/// [kernel, channels], the tap of the oldest token first.
///
/// Canonical, for an element: the taps from the oldest to the newest, one `fma` each from 0; then x / (1 + e^-x).
///
/// # Panics
/// If a length does not fit.
pub fn convolve(region: &Region<'_>, x: &[f32], weights: &[f32], state: &mut DeltaState, out: &mut [f32]) {
    assert_eq!(weights.len(), state.shape.kernel * state.shape.channels(), "convolve: weights");
    convolve_dilated(region, x, weights, state.shape.channels(), 1, &mut state.history, out);
}

/// [`convolve`] with taps that are `dilation` tokens apart: `weights[tap] * x[t - (kernel - 1 - tap) * dilation]`. `history`
/// [(kernel - 1) * dilation, channels] has the last inputs, oldest first, and is moved on.
///
/// # Panics
/// If a length does not fit.
pub fn convolve_dilated(
    region: &Region<'_>,
    x: &[f32],
    weights: &[f32],
    channels: usize,
    dilation: usize,
    history: &mut [f32],
    out: &mut [f32],
) {
    assert_eq!(x.len(), out.len(), "convolve: input and output differ in length");
    assert!(x.len().is_multiple_of(channels), "convolve: the input is not rows of {channels}");
    assert!(!weights.is_empty() && weights.len().is_multiple_of(channels), "convolve: weights");
    let kernel = weights.len() / channels;
    assert_eq!(history.len(), (kernel - 1) * dilation * channels, "convolve: history");
    let n = x.len() / channels;
    let pieces = channels.div_ceil(TASK_CHANNELS);
    let taps = Taps { x, weights, history, channels, dilation };
    let (isa, all) = (region.isa(), DisjointSlice::new(out));
    region.run(n * pieces, |task| {
        let (row, begin) = (task / pieces, task % pieces * TASK_CHANNELS);
        let end = (begin + TASK_CHANNELS).min(channels);
        // SAFETY: each task has a row and channels of its own.
        let out = unsafe { all.range(row * channels + begin..row * channels + end) };
        convolve_part(isa, &taps, row, begin, out);
    });
    remember(history, x);
}

/// Moves the inputs on: the last rows of history and `x` together become the history.
fn remember(history: &mut [f32], x: &[f32]) {
    match x.len().checked_sub(history.len()) {
        Some(begin) => history.copy_from_slice(&x[begin..]),
        None => {
            history.copy_within(x.len().., 0);
            let kept = history.len() - x.len();
            history[kept..].copy_from_slice(x);
        }
    }
}

/// Inputs and weights of all tokens.
struct Taps<'a> {
    x: &'a [f32],       // [n, channels]
    weights: &'a [f32], // [kernel, channels]
    history: &'a [f32], // [(kernel - 1) * dilation, channels]
    channels: usize,
    /// Tokens from a tap to the next.
    dilation: usize,
}

impl Taps<'_> {
    /// Some channels of the input that a tap of a row sees, and of its weights.
    #[inline(always)]
    fn tap(&self, row: usize, tap: usize, begin: usize, len: usize) -> (&[f32], &[f32]) {
        let input = (row + tap * self.dilation) * self.channels + begin;
        let x = match input.checked_sub(self.history.len()) {
            Some(input) => &self.x[input..input + len],
            None => &self.history[input..input + len],
        };
        (x, &self.weights[tap * self.channels + begin..][..len])
    }

    #[inline(always)]
    fn kernel(&self) -> usize {
        self.weights.len() / self.channels
    }
}

dispatch! {
    fn convolve_part(taps: &Taps<'_>, row: usize, begin: usize, out: &mut [f32]) => convolve_kernel;
}

#[inline(always)]
fn convolve_kernel<S: Simd>(s: S, taps: &Taps<'_>, row: usize, begin: usize, out: &mut [f32]) {
    let (whole, tail) = out.as_chunks_mut::<LANES>();
    let behind = begin + whole.len() * LANES;
    for (index, out) in whole.iter_mut().enumerate() {
        let mut acc = s.zero();
        for tap in 0..taps.kernel() {
            let (x, weights) = taps.tap(row, tap, begin + index * LANES, LANES);
            acc = s.fma(s.load_part(weights, 0.0), s.load_part(x, 0.0), acc);
        }
        s.store(silu(s, acc), out);
    }
    if !tail.is_empty() {
        let mut acc = s.zero();
        for tap in 0..taps.kernel() {
            let (x, weights) = taps.tap(row, tap, behind, tail.len());
            acc = s.fma(s.load_part(weights, 0.0), s.load_part(x, 0.0), acc);
        }
        s.store_part(silu(s, acc), tail);
    }
}

#[inline(always)]
fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}
