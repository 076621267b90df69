//! Attention against the formula in f64, against the oracle on every instruction set and team, and against
//! itself when the same queries come in other portions or the cache has other blocks.

use super::*;
use crate::isa::Isa;
use crate::parallel::Team;
use crate::quant;
use crate::testing::{Noise, same_bits};

/// How the cache holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    F32,
    F16,
    Blocks(Format),
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
    stored: Stored,
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
    keys: Numbers,
    values: Numbers,
    sinks: Vec<f32>,
}

/// Rows of numbers as the cache has them.
struct Numbers {
    x: Vec<f32>,
    /// The same as blocks, where the cache has blocks.
    blocks: Vec<u8>,
    width: usize,
    stored: Stored,
}

impl Numbers {
    /// Numbers that every kind of cache but blocks holds as they are.
    fn new(noise: &mut Noise, rows: usize, width: usize, limit: f32, stored: Stored) -> Self {
        let mut x = rounded(noise, rows * width, limit);
        let mut blocks = Vec::new();
        if let Stored::Blocks(format) = stored {
            for row in x.chunks_exact_mut(width) {
                let begin = blocks.len();
                quant::quantise_row(format, row, &mut blocks).unwrap();
                quant::dequantise_row(format, &blocks[begin..], row);
            }
        }
        Self { x, blocks, width, stored }
    }

    /// The first rows in blocks of positions; what follows them is NaN, which must not be seen.
    fn cache(&self, rows: usize, block_len: usize) -> Cached {
        fn cut<T: Copy>(x: &[T], each: usize, fill: T) -> Vec<Vec<T>> {
            let block = |part: &[T]| {
                let mut block = part.to_vec();
                block.resize(each, fill);
                block
            };
            x.chunks(each).map(block).collect()
        }
        let (seen, each) = (&self.x[..rows * self.width], block_len * self.width);
        match self.stored {
            Stored::F32 => Cached::F32(cut(seen, each, f32::NAN)),
            Stored::F16 => {
                let bits: Vec<u16> = seen.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
                Cached::F16(cut(&bits, each, half::f16::NAN.to_bits()))
            }
            Stored::Blocks(format) => {
                let row = format.row_bytes(self.width).unwrap();
                Cached::Blocks(format, cut(&self.blocks[..rows * row], block_len * row, 0xff))
            }
        }
    }
}

/// Halves, so that caches of both widths hold the same numbers.
fn rounded(noise: &mut Noise, count: usize, limit: f32) -> Vec<f32> {
    noise.floats(count, limit).iter().map(|&x| half::f16::from_f32(x).to_f32()).collect()
}

/// A cache in blocks of positions.
enum Cached {
    F32(Vec<Vec<f32>>),
    F16(Vec<Vec<u16>>),
    Blocks(Format, Vec<Vec<u8>>),
}

impl Cached {
    fn slices(&self) -> Vec<KvSlice<'_>> {
        match self {
            Self::F32(blocks) => blocks.iter().map(|x| KvSlice::F32(x)).collect(),
            Self::F16(blocks) => blocks.iter().map(|x| KvSlice::F16(x)).collect(),
            Self::Blocks(Format::Q8_0, blocks) => blocks.iter().map(|x| KvSlice::Q8_0(x)).collect(),
            Self::Blocks(_, blocks) => blocks.iter().map(|x| KvSlice::Q4_0(x)).collect(),
        }
    }
}

impl Case {
    fn new(shape: Shape, total: usize, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let mut sinks = Noise::new(seed + 1000);
        let Shape { heads, kv_heads, head_dim, value_dim, stored, .. } = shape;
        Self {
            shape,
            total,
            q: rounded(&mut noise, total * heads * head_dim, 2.0),
            keys: Numbers::new(&mut noise, total, kv_heads * head_dim, 2.0, stored),
            values: Numbers::new(&mut noise, total, kv_heads * value_dim, 1.0, stored),
            sinks: sinks.floats(heads, 3.0),
        }
    }

    /// Runs the queries from `first` on, `n` of them, with a cache in blocks.
    fn run(&self, region: &Region<'_>, block_len: usize, first: usize, n: usize) -> Vec<f32> {
        let Shape { heads, kv_heads, head_dim, value_dim, window, sinks, shared, .. } = self.shape;
        let (keys, values) = (self.keys.cache(first + n, block_len), self.values.cache(first + n, block_len));
        let mut out = vec![f32::NAN; n * heads * value_dim];
        let args = AttentionArgs {
            q: &self.q[first * heads * head_dim..(first + n) * heads * head_dim],
            keys: &keys.slices(),
            values: &if shared { keys.slices() } else { values.slices() },
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
                    let k = &self.keys.x[(p * kv_heads + kv_head) * head_dim..][..head_dim];
                    (0.125 * q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>()).exp()
                })
                .collect();
            let sink = if sinks { f64::from(self.sinks[row % heads]).exp() } else { 0.0 };
            let sum = e.iter().sum::<f64>() + sink;
            for d in 0..value_dim {
                let value = |p: usize| match shared {
                    true => f64::from(self.keys.x[p * head_dim + d]),
                    false => f64::from(self.values.x[(p * kv_heads + kv_head) * value_dim + d]),
                };
                out.push(e.iter().zip(first..).map(|(e, p)| e * value(p)).sum::<f64>() / sum);
            }
        }
        out
    }
}

#[test]
fn tiles_keep_heads_together_and_all_threads_busy() {
    let tiles = |n: usize, context: usize, [heads, kv_heads]: [usize; 2], threads: usize| {
        let (q, mut out) = (vec![0.0; n * heads], vec![0.0; n * heads]);
        let args = AttentionArgs {
            q: &q,
            keys: &[],
            values: &[],
            value_stride: kv_heads,
            block_len: 1,
            first_position: context - n,
            n,
            heads,
            kv_heads,
            head_dim: 1,
            value_dim: 1,
            scale: 1.0,
            window: None,
            sinks: None,
            out: &mut out,
        };
        let call = Call::new(args, threads);
        [call.tiles, call.tile_queries * call.tile_heads]
    };
    assert_eq!(
        tiles(1, 4096, [32, 4], 16),
        [4, 8],
        "the heads of a single query that share a key stay together"
    );
    assert_eq!(tiles(1, 4096, [128, 1], 4), [8, 16]);
    assert_eq!(tiles(2, 4096, [4, 1], 2), [2, 4], "few queries are shared among threads");
    assert_eq!(tiles(512, 512, [32, 4], 2), [256, 64]);
    assert_eq!(tiles(512, 8192, [32, 4], 2), [512, 32], "long scores leave room for fewer rows");
    assert_eq!(tiles(512, 1 << 20, [32, 4], 2), [1024, 16]);
    assert_eq!(tiles(64, 512, [100, 1], 2), [128, 64], "a group of more heads than a tile");
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, value_dim: usize, half: bool) -> Shape {
    let stored = if half { Stored::F16 } else { Stored::F32 };
    Shape { heads, kv_heads, head_dim, value_dim, stored, window: None, sinks: false, shared: false }
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
    for format in [Format::Q8_0, Format::Q4_0] {
        let stored = Stored::Blocks(format);
        shapes.push(Shape { stored, ..shape(8, 2, 96, 64, true) });
        shapes.push(Shape { stored, shared: true, window: Some(40), ..shape(20, 1, 96, 64, true) });
        shapes.push(Shape { stored, sinks: true, ..shape(6, 6, 128, 288, true) });
    }
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
        shape(100, 1, 16, 20, true),
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
            for (portion, block_len) in [(1, 64), (1, 16), (1, 20), (7, 64), (64, 16), (150, 150), (33, 5)] {
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
