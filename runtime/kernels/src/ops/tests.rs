//! Every operation against plain formulas in f64, and every instruction set and team against the oracle.

use super::*;
use crate::parallel::Team;
use crate::testing::{Noise, same_bits};

/// Teams of each instruction set with 1, 2 and 3 threads; the first is the oracle.
fn teams() -> Vec<Team> {
    Isa::available().into_iter().flat_map(|isa| [1, 2, 3].map(|threads| Team::new(threads, isa))).collect()
}

/// Runs an operation on every team, compares the bits and returns the oracle's result.
fn everywhere(operation: impl Fn(&Region<'_>) -> Vec<f32>) -> Vec<f32> {
    let teams = teams();
    let oracle = teams[0].region(&operation);
    for team in &teams {
        same_bits(&team.region(&operation), &oracle, &format!("{} x{}", team.isa(), team.threads()));
    }
    oracle
}

fn near(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "element {i}: {got}, not {expected}");
    }
}

fn silu(x: f32) -> f64 {
    f64::from(x) / (1.0 + (-f64::from(x)).exp())
}

#[test]
fn rms_norm_is_the_formula() {
    let mut noise = Noise::new(4);
    for (rows, width) in [(1, 576), (1, 20_000), (33, 576), (300, 64), (5, 7), (0, 3)] {
        let (x, weight) = (noise.floats(rows * width, 4.0), noise.floats(width, 2.0));
        let got = everywhere(|region| {
            let mut out = vec![0.0; x.len()];
            rms_norm(region, &x, &weight, 1e-5, &mut out);
            let mut in_place = x.clone();
            rms_norm_in_place(region, &mut in_place, &weight, 1e-5);
            same_bits(&in_place, &out, "in place");
            out
        });
        let expected: Vec<f64> = x
            .chunks_exact(width)
            .flat_map(|x| {
                let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / width as f64;
                let scale = 1.0 / (square + 1e-5).sqrt();
                x.iter().zip(&weight).map(move |(&x, &w)| f64::from(x) * scale * f64::from(w))
            })
            .collect();
        near(&got, &expected, 1e-6);
    }
}

#[test]
fn a_row_has_the_same_norm_alone_and_in_a_batch() {
    let mut noise = Noise::new(5);
    let (x, weight) = (noise.floats(40 * 576, 4.0), noise.floats(576, 2.0));
    Team::new(2, Isa::detect()).region(|region| {
        let mut batch = vec![0.0; x.len()];
        rms_norm(region, &x, &weight, 1e-6, &mut batch);
        for (x, batch) in x.chunks_exact(576).zip(batch.chunks_exact(576)) {
            let mut alone = vec![0.0; 576];
            rms_norm(region, x, &weight, 1e-6, &mut alone);
            same_bits(&alone, batch, "row");
        }
    });
}

#[test]
fn gated_units_and_sigmoid_are_the_formulas() {
    let gelu =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    let clamped = |g: f64, u: f64| {
        let g = g.min(7.0);
        g / (1.0 + (-1.702 * g).exp()) * (u.clamp(-7.0, 7.0) + 1.0)
    };

    let mut noise = Noise::new(6);
    for len in [1, 15, 16, 1536, 10_007] {
        let (mut gate, up) = (noise.floats(len, 20.0), noise.floats(len, 3.0));
        gate[0] = -1000.0;
        let got = everywhere(|region| {
            let mut out = vec![0.0; len];
            glu(region.isa(), Glu::SwiGlu, &gate, &up, &mut out);
            out
        });
        let expected: Vec<f64> = gate.iter().zip(&up).map(|(&g, &u)| silu(g) * f64::from(u)).collect();
        near(&got, &expected, 1e-6);
        for (function, formula) in
            [(Glu::GeGlu, &(|g, u| gelu(g) * u) as &dyn Fn(f64, f64) -> f64), (Glu::ClampedSwiGlu, &clamped)]
        {
            let up: Vec<f32> = up.iter().map(|up| up * 4.0).collect();
            let got = everywhere(|region| {
                let mut out = vec![0.0; len];
                glu(region.isa(), function, &gate, &up, &mut out);
                out
            });
            let pairs = gate.iter().zip(&up).map(|(&g, &u)| formula(f64::from(g), f64::from(u)));
            near(&got, &pairs.collect::<Vec<f64>>(), 2e-6);
            let mut nan = [0.0; 2];
            glu(Isa::Scalar, function, &[f32::NAN, 1.0], &[1.0, f32::NAN], &mut nan);
            assert!(nan.iter().all(|x| x.is_nan()), "{function:?} hides a NaN");
        }
    }
    for x in [-200.0, -90.0, -5.0, -0.0, 0.3, 7.0, 200.0] {
        near(&[sigmoid(x)], &[1.0 / (1.0 + (-f64::from(x)).exp())], 1e-7);
        assert_eq!(sigmoid(x).to_bits(), sigmoid_one(Isa::Scalar, x).to_bits());
        let row = everywhere(|region| {
            let mut row = vec![x; 21];
            sigmoids(region, &mut row);
            row
        });
        same_bits(&row, &[sigmoid(x); 21], "sigmoids");
    }
    assert!(sigmoid(f32::NAN).is_nan());
}

#[test]
fn gates_are_the_formulas() {
    let mut noise = Noise::new(14);
    for len in [1, 15, 16, 4096, 10_007] {
        let (x, mut gates) = (noise.floats(len, 3.0), noise.floats(len, 20.0));
        gates[0] = -1000.0;
        let sigmoid = |g: f32| 1.0 / (1.0 + (-f64::from(g)).exp());
        for (function, formula) in [(Gate::Sigmoid, &sigmoid as &dyn Fn(f32) -> f64), (Gate::Silu, &silu)] {
            let got = everywhere(|region| {
                let mut x = x.clone();
                gate(region, function, &mut x, &gates);
                x
            });
            let expected: Vec<f64> = x.iter().zip(&gates).map(|(&x, &g)| f64::from(x) * formula(g)).collect();
            near(&got, &expected, 1e-6);
        }
    }
}

#[test]
fn columns_move() {
    let x: Vec<f32> = (0..700 * 6).map(|i| i as f32).collect();
    let got = everywhere(|region| {
        let mut out = vec![-1.0; 700 * 5];
        copy_columns(region, &x, 6, 2..5, &mut out, 5, 1);
        out
    });
    for (out, x) in got.chunks(5).zip(x.chunks(6)) {
        assert_eq!(out, [-1.0, x[2], x[3], x[4], -1.0]);
    }
    // 3 heads, 700 rows, 2 columns.
    let got = everywhere(|region| {
        let mut out = vec![-1.0; 700 * 3 * 4];
        merge_heads(region, &x, 3, 2, &mut out, 4);
        out
    });
    for (row, out) in got.chunks(12).enumerate() {
        for (head, out) in out.chunks(4).enumerate() {
            let first = ((head * 700 + row) * 2) as f32;
            assert_eq!(out, [first, first + 1.0, -1.0, -1.0]);
        }
    }
}

#[test]
fn pairs_are_taken_apart() {
    let mut noise = Noise::new(15);
    for (groups, part) in [(1, 1), (3, 5), (700, 64)] {
        let x = noise.floats(2 * groups * part, 1.0);
        let got = everywhere(|region| {
            let (mut first, mut second) = (vec![0.0; groups * part], vec![0.0; groups * part]);
            split_pairs(region, &x, part, &mut first, &mut second);
            first.extend(second);
            first
        });
        let half = |half: usize| x.chunks(part).skip(half).step_by(2).flatten().copied();
        same_bits(&got, &half(0).chain(half(1)).collect::<Vec<f32>>(), "halves");
    }
}

#[test]
fn softmax_is_the_formula_and_sums_to_one() {
    let mut noise = Noise::new(7);
    for len in [1, 3, 16, 60, 128, 1003] {
        let row = noise.floats(len, 12.0);
        let got = everywhere(|region| {
            let mut row = row.clone();
            softmax(region, &mut row);
            row
        });
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let e: Vec<f64> = row.iter().map(|&x| f64::from(x - max).exp()).collect();
        let sum: f64 = e.iter().sum();
        near(&got, &e.iter().map(|e| e / sum).collect::<Vec<_>>(), 1e-6);
    }
    let masked = everywhere(|region| {
        let mut row = vec![f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY];
        softmax(region, &mut row);
        row
    });
    assert_eq!(masked, [0.0, 1.0, 0.0]);
    let broken = everywhere(|region| {
        let mut row = vec![1.0, f32::NAN, 2.0];
        softmax(region, &mut row);
        row
    });
    assert!(broken.iter().all(|x| x.is_nan()), "a NaN must not be hidden");
}

#[test]
fn top_k_prefers_the_lower_index_and_numbers_over_nan() {
    let best = |row: &[f32], k| {
        let mut out = vec![77];
        top_k(row, k, &mut out);
        out.split_off(1)
    };
    assert_eq!(best(&[1.0, 3.0, 3.0, 2.0, 3.0], 4), [1, 2, 4, 3]);
    assert_eq!(best(&[f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY], 3), [1, 3, 0]);
    assert_eq!(best(&[0.0, -0.0, 0.0], 2), [0, 1]);
    assert_eq!(best(&[2.0, 1.0], 5), [0, 1]);
    assert_eq!(best(&[2.0, 1.0], 0), []);
    assert_eq!(best(&[], 2), []);
    let mut noise = Noise::new(8);
    for _ in 0..200 {
        let row: Vec<f32> = (0..64).map(|_| (noise.bits() % 10) as f32).collect();
        let mut sorted: Vec<u32> = (0..64).collect();
        sorted.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        assert_eq!(best(&row, 8), sorted[..8]);
    }
}

#[test]
fn argmax_is_the_first_of_the_greatest() {
    assert_eq!(argmax(&[]), None);
    assert_eq!(argmax(&[f32::NAN]), None);
    assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
    assert_eq!(argmax(&[f32::NAN, -2.0, f32::NAN]), Some(1));
    let mut row = Noise::new(9).floats(151_936, 1.0);
    row[77_777] = 5.0;
    row[151_930] = 5.0;
    assert_eq!(argmax(&row), Some(77_777));
}

/// The rotation of a part of one head by the formula.
fn rotated(head: &[f32], column: usize, position: usize, dims: usize, neox: bool, factor: f64) -> Vec<f64> {
    let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    for i in 0..dims / 2 {
        let (a, b) = if neox { (i, i + dims / 2) } else { (2 * i, 2 * i + 1) };
        let (a, b) = (column + a, column + b);
        let angle = position as f64 * 0.5 * 1e6_f64.powf(-2.0 * i as f64 / dims as f64) / factor;
        out[a] = f64::from(head[a]) * angle.cos() - f64::from(head[b]) * angle.sin();
        out[b] = f64::from(head[a]) * angle.sin() + f64::from(head[b]) * angle.cos();
    }
    out
}

#[test]
fn rope_is_the_formula() {
    let mut noise = Noise::new(10);
    for (n, heads, head_dim, dims) in
        [(1, 3, 64, 64), (70, 9, 64, 64), (5, 2, 80, 32), (3, 1, 6, 2), (2, 2, 4, 0)]
    {
        for neox in [false, true] {
            let x = noise.floats(n * heads * head_dim, 3.0);
            let factors = vec![4.0; dims / 2];
            let rope_of = Rope { dims, base: 1e6, scaling: RopeScaling::Linear(2.0), neox };
            let mut table = RopeTable::new(&rope_of, Some(&factors));
            table.extend(1000);
            table.extend(n + 990);
            let column = head_dim - dims;
            let got = everywhere(|region| {
                let mut x = x.clone();
                rope(region, &mut x, heads, head_dim, column, 990, &table);
                x
            });
            let expected: Vec<f64> = x
                .chunks_exact(head_dim)
                .enumerate()
                .flat_map(|(i, head)| rotated(head, column, 990 + i / heads, dims, neox, 4.0))
                .collect();
            near(&got, &expected, 1e-6);
        }
    }
}

/// The angles of YaRN as its paper has them, from wavelengths: a pair that turns more than `fast` times within the original
/// context keeps its frequency, one that turns less than `slow` times is slowed by the factor. Between them the paper mixes by
/// the number of turns and all implementations by the number of the pair; so does this.
fn yarn_frequency(i: usize, dims: usize, base: f64, yarn: &Yarn) -> f64 {
    let frequency = base.powf(-2.0 * i as f64 / dims as f64);
    let pair_that_turns = |turns: f64| {
        // turns = context / wavelength = context * base^(-2 i / dims) / (2 pi), solved for i.
        (f64::from(yarn.original_context) / (turns * 2.0 * std::f64::consts::PI)).ln() / base.ln()
            * dims as f64
            / 2.0
    };
    let (low, high) =
        (pair_that_turns(f64::from(yarn.beta_fast)), pair_that_turns(f64::from(yarn.beta_slow)));
    let (low, high) = if yarn.whole_pairs { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
    let slowed = match i as f64 {
        i if i <= low => 0.0,
        i if i >= high => 1.0,
        i => (i - low) / (high - low),
    };
    frequency / f64::from(yarn.factor) * slowed + frequency * (1.0 - slowed)
}

#[test]
fn yarn_and_linear_scaling_are_the_formulas_far_out() {
    // Qwen3, gpt-oss, DeepSeek-V3, and a context so short that every pair is slowed.
    let cases = [
        (128, 1e6, 4.0_f32, 32_768, true),
        (64, 150_000.0, 32.0, 4096, false),
        (64, 10_000.0, 40.0, 4096, true),
        (16, 10_000.0, 40.0, 4, true),
    ];
    for (dims, base, factor, original_context, whole_pairs) in cases {
        let magnitude = 0.1 * factor.ln() + 1.0;
        let yarn = Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0, whole_pairs, magnitude };
        let stretched = Rope { dims, base, scaling: RopeScaling::Yarn(yarn), neox: true };
        let linear = Rope { scaling: RopeScaling::Linear(factor), ..stretched };
        let (mut stretched, mut linear) = (RopeTable::new(&stretched, None), RopeTable::new(&linear, None));
        // The trigonometry of all positions takes a while.
        let far = if dims == 64 { 131_072 } else { 32_769 };
        stretched.extend(far);
        linear.extend(far);
        for position in [0, 1, 7, 4095, 4096, 32_768, 131_071].into_iter().filter(|&position| position < far)
        {
            let near = |table: &RopeTable, i: usize, angle: f64, magnitude: f64| {
                let row = &table.rotations[position * dims..][..dims];
                let (cos, sin) = (f64::from(row[i]), f64::from(row[dims / 2 + i]));
                let error = (cos - angle.cos() * magnitude).abs().max((sin - angle.sin() * magnitude).abs());
                assert!(error < 3e-7, "pair {i} of {dims} at {position}: off by {error}");
            };
            for i in 0..dims / 2 {
                let base = f64::from(base);
                let angle = position as f64 * yarn_frequency(i, dims, base, &yarn);
                near(&stretched, i, angle, f64::from(magnitude));
                let angle = position as f64 / f64::from(factor) * base.powf(-2.0 * i as f64 / dims as f64);
                near(&linear, i, angle, 1.0);
            }
        }
    }
}

#[test]
fn a_rope_table_that_grows_is_the_table_made_at_once() {
    let rope = Rope { dims: 64, base: 1e4, scaling: RopeScaling::None, neox: true };
    let (mut grown, mut at_once) = (RopeTable::new(&rope, None), RopeTable::new(&rope, None));
    at_once.reserve(100);
    at_once.extend(100);
    for positions in [0, 1, 7, 7, 3, 64, 100] {
        grown.extend(positions);
    }
    assert_eq!((grown.positions(), at_once.positions()), (100, 100));
    same_bits(&grown.rotations, &at_once.rotations, "table");
    assert_eq!(size_of_val(&grown.rotations[..]), RopeTable::bytes(64, 100));
}

#[test]
fn weighted_rows_are_added_in_the_order_of_the_choice() {
    let mut noise = Noise::new(11);
    for (n, k, width) in [(1, 8, 100), (70, 4, 576), (3, 1, 5)] {
        let rows = noise.floats(n * k * width, 2.0);
        let index: Vec<u32> = (0..n * k).map(|i| ((i * 7 + 3) % (n * k)) as u32).collect();
        let (weights, base) = (noise.floats(n * k, 1.0), noise.floats(n * width, 1.0));
        let got = everywhere(|region| {
            let mut out = base.clone();
            add_weighted_rows(region, &rows, &index, &weights, k, &mut out);
            out
        });
        let mut expected = base.clone();
        for (entry, (&row, weight)) in index.iter().zip(&weights).enumerate() {
            for d in 0..width {
                expected[entry / k * width + d] += weight * rows[row as usize * width + d];
            }
        }
        same_bits(&got, &expected, "sum");
    }
}

#[test]
fn sums_and_scales_reach_every_element() {
    let mut noise = Noise::new(12);
    for (rows, width) in [(1, 1), (3, 17), (64, 1024)] {
        let (x, y) = (noise.floats(rows * width, 2.0), noise.floats(rows * width, 2.0));
        let factors = noise.floats(rows, 2.0);
        let got = everywhere(|region| {
            let mut out = x.clone();
            add(region, &mut out, &y);
            add_bias(region, &mut out, &y[..width]);
            scale(region, &mut out, 3.0);
            scale_rows(region, &mut out, &factors);
            out
        });
        let expected: Vec<f32> =
            (0..rows * width).map(|i| (x[i] + y[i] + y[i % width]) * 3.0 * factors[i / width]).collect();
        same_bits(&got, &expected, "element");
    }
}

#[test]
fn halves_round_to_nearest_even() {
    let x: Vec<f32> = [1.0, 1.000_488_3, 1.001_464_8, 65_504.0, 65_520.0, -1e-8, 6e-8, f32::NEG_INFINITY]
        .into_iter()
        .chain(Noise::new(13).floats(41, 1e3))
        .collect();
    for isa in Isa::available() {
        let mut out = vec![0; x.len()];
        store_f16_row(isa, &x, &mut out);
        let expected: Vec<u16> = x.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
        assert_eq!(out, expected, "{isa}");
        assert_eq!(out[1..5], [0x3C00, 0x3C02, 0x7BFF, 0x7C00]);
    }
}
