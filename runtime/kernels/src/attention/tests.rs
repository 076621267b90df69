//! Attention against the formula in f64, against the oracle on every instruction set and team, and against
//! itself when the same queries come in other portions or the cache has other blocks.

use super::*;
use crate::isa::Isa;
use crate::parallel::Team;
use crate::testing::{Noise, same_bits};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
    half: bool,
    window: Option<usize>,
    sinks: bool,
    /// The values are the first columns of the keys.
    shared: bool,
}

/// Random queries, keys and values for `total` positions.
struct Case {
    shape: Shape,
    total: usize,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    sinks: Vec<f32>,
}

impl Case {
    fn new(shape: Shape, total: usize, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let mut sinks = Noise::new(seed + 1000);
        // Representable in half precision, so that both kinds of cache hold the same numbers.
        let mut rounded = |count, limit| -> Vec<f32> {
            noise.floats(count, limit).iter().map(|&x| half::f16::from_f32(x).to_f32()).collect()
        };
        let Shape { heads, kv_heads, head_dim, value_dim, .. } = shape;
        Self {
            shape,
            total,
            q: rounded(total * heads * head_dim, 2.0),
            keys: rounded(total * kv_heads * head_dim, 2.0),
            values: rounded(total * kv_heads * value_dim, 1.0),
            sinks: sinks.floats(heads, 3.0),
        }
    }

    /// Runs the queries from `first` on, `n` of them, with a cache in blocks; what follows the last query in
    /// the cache is NaN, which must not be seen.
    fn run(&self, region: &Region<'_>, block_len: usize, first: usize, n: usize) -> Vec<f32> {
        let Shape { heads, kv_heads, head_dim, value_dim, half, window, sinks, shared } = self.shape;
        let blocks = |x: &[f32], width: usize| -> Vec<Vec<f32>> {
            let seen = &x[..(first + n) * width];
            let block = |part: &[f32]| {
                let mut block = part.to_vec();
                block.resize(block_len * width, f32::NAN);
                block
            };
            seen.chunks(block_len * width).map(block).collect()
        };
        let (keys, values) =
            (blocks(&self.keys, kv_heads * head_dim), blocks(&self.values, kv_heads * value_dim));
        let narrow = |blocks: &[Vec<f32>]| -> Vec<Vec<u16>> {
            let bits = |&x: &f32| half::f16::from_f32(x).to_bits();
            blocks.iter().map(|block| block.iter().map(bits).collect()).collect()
        };
        let (half_keys, half_values) = (narrow(&keys), narrow(&values));
        let mut out = vec![f32::NAN; n * heads * value_dim];
        let args = AttentionArgs {
            q: &self.q[first * heads * head_dim..(first + n) * heads * head_dim],
            keys: &slices(half, &keys, &half_keys),
            values: &if shared {
                slices(half, &keys, &half_keys)
            } else {
                slices(half, &values, &half_values)
            },
            value_stride: if shared { head_dim } else { kv_heads * value_dim },
            block_len,
            first_position: first,
            n,
            heads,
            kv_heads,
            head_dim,
            value_dim,
            scale: 0.125,
            window,
            sinks: sinks.then_some(&self.sinks),
            out: &mut out,
        };
        attention(region, args, &mut AttentionScratch::new(heads, 256, self.total, region.threads()));
        out
    }

    /// The formula, for all queries.
    fn formula(&self) -> Vec<f64> {
        let Shape { heads, kv_heads, head_dim, value_dim, window, sinks, shared, .. } = self.shape;
        let mut out = Vec::new();
        for row in 0..self.total * heads {
            let (query, kv_head) = (row / heads, row % heads / (heads / kv_heads));
            let q = &self.q[row * head_dim..(row + 1) * head_dim];
            let first = (query + 1).saturating_sub(window.unwrap_or(usize::MAX));
            let e: Vec<f64> = (first..=query)
                .map(|p| {
                    let k = &self.keys[(p * kv_heads + kv_head) * head_dim..][..head_dim];
                    (0.125 * q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>()).exp()
                })
                .collect();
            let sink = if sinks { f64::from(self.sinks[row % heads]).exp() } else { 0.0 };
            let sum = e.iter().sum::<f64>() + sink;
            for d in 0..value_dim {
                let value = |p: usize| match shared {
                    true => f64::from(self.keys[p * head_dim + d]),
                    false => f64::from(self.values[(p * kv_heads + kv_head) * value_dim + d]),
                };
                out.push(e.iter().zip(first..).map(|(e, p)| e * value(p)).sum::<f64>() / sum);
            }
        }
        out
    }
}

fn slices<'a>(half: bool, wide: &'a [Vec<f32>], narrow: &'a [Vec<u16>]) -> Vec<KvSlice<'a>> {
    if half {
        narrow.iter().map(|x| KvSlice::F16(x)).collect()
    } else {
        wide.iter().map(|x| KvSlice::F32(x)).collect()
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, value_dim: usize, half: bool) -> Shape {
    Shape { heads, kv_heads, head_dim, value_dim, half, window: None, sinks: false, shared: false }
}

/// Windows around the sizes of vectors, panels and blocks, with and without sinks, and values within keys.
fn others() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = [1, 5, 16, 17, 32, 40, 64, 200]
        .into_iter()
        .map(|window| Shape {
            window: Some(window),
            sinks: window % 2 == 0,
            ..shape(8, 2, 32, 32, window > 16)
        })
        .collect();
    shapes.push(Shape { sinks: true, ..shape(9, 3, 64, 64, true) });
    shapes.push(Shape { shared: true, ..shape(20, 1, 80, 64, true) });
    shapes.push(Shape { shared: true, window: Some(33), ..shape(3, 1, 24, 17, false) });
    shapes
}

#[test]
fn attention_is_the_formula_on_every_instruction_set_and_team() {
    let shapes = [
        shape(9, 3, 64, 64, true),
        shape(4, 4, 80, 80, true),
        shape(8, 1, 128, 128, false),
        shape(16, 2, 256, 128, true),
        shape(40, 2, 20, 7, true),
        shape(1, 1, 1, 1, false),
        shape(3, 1, 272, 300, true),
    ];
    for (seed, shape) in (20..).zip(shapes.into_iter().chain(others())) {
        let case = Case::new(shape, 83, seed);
        let oracle = Team::new(1, Isa::Scalar).region(|region| case.run(region, 16, 0, 83));
        for (i, (got, expected)) in oracle.iter().zip(case.formula()).enumerate() {
            assert!((f64::from(*got) - expected).abs() < 2e-5, "{shape:?} {i}: {got}, not {expected}");
        }
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let got = Team::new(threads, isa).region(|region| case.run(region, 16, 0, 83));
                same_bits(&got, &oracle, &format!("{shape:?} {isa} x{threads}"));
            }
        }
    }
}

#[test]
fn portions_and_blocks_do_not_matter() {
    let shapes = [shape(9, 3, 64, 64, true), shape(8, 8, 32, 32, false), shape(6, 1, 48, 16, true)];
    for shape in shapes.into_iter().chain(others()) {
        let case = Case::new(shape, 150, 30);
        let row = shape.heads * shape.value_dim;
        Team::new(2, Isa::detect()).region(|region| {
            let at_once = case.run(region, 64, 0, 150);
            for (portion, block_len) in [(1, 64), (7, 64), (64, 16), (150, 150), (33, 5)] {
                for first in (0..150).step_by(portion) {
                    let n = portion.min(150 - first);
                    let got = case.run(region, block_len, first, n);
                    let what = format!("{shape:?}, {portion} from {first}, blocks of {block_len}");
                    same_bits(&got, &at_once[first * row..(first + n) * row], &what);
                }
            }
        });
    }
}

#[test]
fn a_long_context_that_is_cut_gives_the_bits_of_one_thread() {
    let shapes = [shape(9, 3, 64, 64, true), shape(8, 1, 64, 80, true), shape(40, 1, 16, 100, false)];
    let windowed =
        [512, 700].map(|window| Shape { window: Some(window), sinks: true, ..shape(9, 3, 64, 64, true) });
    for shape in shapes.into_iter().chain(windowed) {
        let case = Case::new(shape, 1001, 31);
        let oracle = Team::new(1, Isa::Scalar).region(|region| case.run(region, 64, 1000, 1));
        for isa in Isa::available() {
            for threads in [1, 2, 4] {
                let got = Team::new(threads, isa).region(|region| case.run(region, 64, 1000, 1));
                same_bits(&got, &oracle, &format!("{shape:?} {isa} x{threads}"));
            }
        }
    }
}

#[test]
fn great_scores_do_not_overflow() {
    let mut case = Case::new(shape(2, 1, 64, 64, false), 20, 32);
    case.q.iter_mut().for_each(|q| *q *= 1e4);
    let out = Team::new(1, Isa::detect()).region(|region| case.run(region, 16, 0, 20));
    assert!(out.iter().all(|x| x.abs() <= 1.0));
}

#[test]
fn scratch_is_as_large_as_it_says() {
    let scratch = AttentionScratch::new(9, 80, 1000, 2);
    let workers: usize = scratch
        .workers
        .iter()
        .map(|w| size_of_val(&w.queries[..]) + size_of_val(&w.panel[..]) + size_of_val(&w.mixed[..]))
        .sum();
    let all = size_of_val(&scratch.scores[..]) + size_of_val(&scratch.sums[..]) + workers;
    assert_eq!(all, AttentionScratch::bytes(9, 80, 1000, 2));
}
