//! The delta-net against its formulas in f64, against the oracle on every instruction set and team, and against itself when
//! the same tokens come in other portions.

use super::gates::testing::log1p_of;
use super::*;
use crate::isa::Isa;
use crate::parallel::{Region, Team};
use crate::testing::{Noise, same_bits};

/// Heads and widths of published models, and such as no vector fits.
const SHAPES: [DeltaShape; 6] = [
    shape(2, 4, 32, 32, 4, HeadOrder::Tiled),
    shape(2, 6, 128, 128, 4, HeadOrder::Grouped),
    shape(3, 3, 8, 80, 2, HeadOrder::Tiled),
    shape(1, 5, 7, 3, 1, HeadOrder::Grouped),
    shape(4, 8, 16, 24, 9, HeadOrder::Grouped),
    shape(2, 2, 33, 96, 3, HeadOrder::Tiled),
];

const fn shape(
    key_heads: usize,
    value_heads: usize,
    key_dim: usize,
    value_dim: usize,
    kernel: usize,
    order: HeadOrder,
) -> DeltaShape {
    DeltaShape { key_heads, value_heads, key_dim, value_dim, kernel, order }
}

/// The raw inputs of a layer for `n` tokens.
struct Case {
    shape: DeltaShape,
    n: usize,
    x: Vec<f32>,       // [n, channels]
    weights: Vec<f32>, // [kernel, channels]
    alpha: Vec<f32>,   // [n, value_heads]
    beta: Vec<f32>,    // [n, value_heads]
    bias: Vec<f32>,    // [value_heads]
    rate: Vec<f32>,    // [value_heads]
}

impl Case {
    fn new(shape: DeltaShape, n: usize, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let heads = shape.value_heads;
        Self {
            shape,
            n,
            x: noise.floats(n * shape.channels(), 2.0),
            weights: noise.floats(shape.kernel * shape.channels(), 1.0),
            alpha: noise.floats(n * heads, 4.0),
            beta: noise.floats(n * heads, 4.0),
            bias: noise.floats(heads, 1.0),
            rate: noise.floats(heads, 0.5).iter().map(|x| -x.abs() - 0.01).collect(),
        }
    }

    /// The tokens `from..to` through all steps.
    fn step(&self, region: &Region<'_>, from: usize, to: usize, state: &mut DeltaState) -> Vec<f32> {
        let DeltaShape { key_heads, value_heads, key_dim, .. } = self.shape;
        let channels = self.shape.channels();
        let mut qkv = vec![f32::NAN; (to - from) * channels];
        convolve(region, &self.x[from * channels..to * channels], &self.weights, state, &mut qkv);
        l2_norm(region, &mut qkv, channels, 0..key_heads, key_dim, 1.0 / (key_dim as f32).sqrt());
        l2_norm(region, &mut qkv, channels, key_heads..2 * key_heads, key_dim, 1.0);
        let mut decay = self.alpha[from * value_heads..to * value_heads].to_vec();
        decays(region, &mut decay, &self.bias, &self.rate);
        let mut strength = self.beta[from * value_heads..to * value_heads].to_vec();
        strengths(region, &mut strength);
        let mut out = vec![f32::NAN; (to - from) * self.shape.value_width()];
        let call = DeltaRule { qkv: &qkv, decay: &decay, strength: &strength, out: &mut out };
        delta_rule(region, call, state);
        out
    }

    /// All tokens in pieces: the outputs, then the memory, then the history.
    fn run(&self, region: &Region<'_>, piece: usize) -> Vec<f32> {
        let mut state = DeltaState::new(self.shape);
        let mut all = Vec::new();
        for from in (0..self.n).step_by(piece) {
            all.extend(self.step(region, from, (from + piece).min(self.n), &mut state));
        }
        all.extend(state.memory());
        all.extend(state.history());
        all
    }
}

/// The layer by its formulas, in f64: outputs, memory, history.
fn formula(case: &Case) -> Vec<f64> {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim, kernel, order } = case.shape;
    let channels = case.shape.channels();
    let at = |t: isize, c: usize| if t < 0 { 0.0 } else { f64::from(case.x[t as usize * channels + c]) };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let convolved = |t: usize, c: usize| {
        let tap = |j: usize| {
            f64::from(case.weights[j * channels + c]) * at(t as isize + j as isize + 1 - kernel as isize, c)
        };
        let sum: f64 = (0..kernel).map(tap).sum();
        sum * sigmoid(sum)
    };
    let unit = |x: Vec<f64>| {
        let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
        x.iter().map(|x| x / length).collect::<Vec<f64>>()
    };
    let mut memory = vec![0.0; value_heads * key_dim * value_dim];
    let mut all = Vec::new();
    for t in 0..case.n {
        for head in 0..value_heads {
            let key_head = match order {
                HeadOrder::Grouped => head * key_heads / value_heads,
                HeadOrder::Tiled => head % key_heads,
            };
            let columns = |begin: usize, len: usize| {
                (begin..begin + len).map(|c| convolved(t, c)).collect::<Vec<f64>>()
            };
            let q = unit(columns(key_head * key_dim, key_dim));
            let k = unit(columns((key_heads + key_head) * key_dim, key_dim));
            let v = columns(2 * key_heads * key_dim + head * value_dim, value_dim);
            let gate = |x: &[f32]| f64::from(x[t * value_heads + head]);
            let softplus = (gate(&case.alpha) + f64::from(case.bias[head])).exp().ln_1p();
            let (decay, strength) =
                ((f64::from(case.rate[head]) * softplus).exp(), sigmoid(gate(&case.beta)));
            let s = &mut memory[head * key_dim * value_dim..][..key_dim * value_dim];
            s.iter_mut().for_each(|x| *x *= decay);
            for (c, v) in v.iter().enumerate() {
                let found: f64 = (0..key_dim).map(|i| s[i * value_dim + c] * k[i]).sum();
                let change = (v - found) * strength;
                (0..key_dim).for_each(|i| s[i * value_dim + c] += k[i] * change);
                let out: f64 = (0..key_dim).map(|i| s[i * value_dim + c] * q[i]).sum();
                all.push(out / (key_dim as f64).sqrt());
            }
        }
    }
    all.extend(memory);
    let last = case.n as isize - (kernel as isize - 1);
    all.extend(
        (last..case.n as isize).flat_map(|t| (0..channels).map(move |c| (t, c))).map(|(t, c)| at(t, c)),
    );
    all
}

#[test]
fn it_is_the_formula() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        for n in [1, 2, 20] {
            let case = Case::new(shape, n, index as u64 + 1);
            let got = Team::new(2, Isa::detect()).region(|region| case.run(region, n));
            let expected = formula(&case);
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let error = (f64::from(*got) - expected).abs();
                assert!(
                    error < 2e-6 * expected.abs().max(1.0),
                    "{shape:?} {n}: element {i} is {got}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn instruction_sets_threads_and_portions_give_the_same_bits() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 23, index as u64 + 11);
        let oracle = Team::new(1, Isa::Scalar).region(|region| case.run(region, 1));
        let (outputs, _) = oracle.split_at(23 * shape.value_width());
        assert!(outputs.iter().all(|x| x.is_finite()));
        for isa in Isa::available() {
            for (threads, piece) in [(1, 1), (2, 23), (3, 5), (2, 2)] {
                let got = Team::new(threads, isa).region(|region| case.run(region, piece));
                same_bits(&got, &oracle, &format!("{shape:?} {isa} x{threads} by {piece}"));
            }
        }
    }
}

#[test]
fn a_copied_state_goes_on_like_the_original() {
    let case = Case::new(SHAPES[0], 12, 5);
    Team::new(1, Isa::detect()).region(|region| {
        let mut state = DeltaState::new(case.shape);
        case.step(region, 0, 7, &mut state);
        let mut copy = DeltaState::new(case.shape);
        copy.copy_from(&state);
        let wanted = case.step(region, 7, 12, &mut state);
        same_bits(&case.step(region, 7, 12, &mut copy), &wanted, "copy");
        assert_eq!(DeltaState::bytes(&case.shape), 4 * (4 * 32 * 32 + 3 * 256));
    });
}

#[test]
fn rows_by_key_head_are_taken_apart() {
    // Two key heads of width 1 with two value heads of width 1 each.
    let shape = shape(2, 4, 1, 1, 4, HeadOrder::Grouped);
    let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let (mut qkv, mut z) = (vec![0.0; 16], vec![0.0; 8]);
    Team::new(2, Isa::detect()).region(|region| split_by_key_head(region, &x, &shape, &mut qkv, &mut z));
    assert_eq!(qkv, [0., 6., 1., 7., 2., 3., 8., 9., 12., 18., 13., 19., 14., 15., 20., 21.]);
    assert_eq!(z, [4., 5., 10., 11., 16., 17., 22., 23.]);
}

#[test]
fn the_logarithm_is_within_three_ulp() {
    let mut worst = 0.0_f64;
    for i in 0..=100_000 {
        let x = i as f32 / 100_000.0;
        let mut out = [0.0; LANES];
        log1p_of(Isa::detect(), &[x; LANES], &mut out);
        let exact = f64::from(x).ln_1p();
        let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
        worst = worst.max((f64::from(out[3]) - exact).abs() / ulp);
    }
    assert!(worst <= 3.0, "{worst} ulp");
}

#[test]
fn extreme_gates_keep_their_meaning() {
    Team::new(1, Isa::detect()).region(|region| {
        let mut decay = vec![-200.0, 200.0, 0.0, f32::NAN, 1e30];
        decays(region, &mut decay, &[0.0; 5], &[-1.0; 5]);
        assert_eq!(decay[..2], [1.0, 0.0]);
        assert!((decay[2] - 0.5).abs() < 1e-7 && decay[3].is_nan() && decay[4] == 0.0, "{decay:?}");
        let mut strength = vec![-200.0, 200.0, 0.0, f32::NAN];
        strengths(region, &mut strength);
        assert_eq!(strength[..3], [0.0, 1.0, 0.5]);
        assert!(strength[3].is_nan());
    });
}
