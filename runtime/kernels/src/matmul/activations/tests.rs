//! The rounding of every instruction set against its definition, block by block.

use super::*;
use crate::parallel::Team;
use crate::testing::{Noise, same_bits};

/// What [`Activations`] says of elements that share a scale: their integers, and the scale.
fn rounded(x: &[f32], limit: f32) -> (Vec<i32>, f32) {
    if x.iter().any(|x| !x.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if largest < 1e-30 {
        return (vec![0; x.len()], 0.0);
    }
    let factor = limit / largest;
    (x.iter().map(|x| (x * factor).round_ties_even() as i32).collect(), largest / limit)
}

fn check<Q: Integer>(input: &Activations, x: &[f32], shared: usize, what: &str) {
    let (q, info) = (input.integers::<Q>(0..input.rows), &input.info[..x.len() / BLOCK]);
    let blocks = q.as_chunks::<BLOCK>().0.iter().zip(info);
    for (x, blocks) in x.chunks(shared).zip(blocks.collect::<Vec<_>>().chunks(shared / BLOCK)) {
        let (expected, scale) = rounded(x, Q::LIMIT as f32);
        for ((q, info), expected) in blocks.iter().zip(expected.as_chunks::<BLOCK>().0) {
            let halves = expected.as_chunks::<LANES>().0;
            for (q, half) in q.as_chunks::<LANES>().0.iter().zip(halves) {
                let got = Q::PLACES.map(|place| -> i32 { q[place].into() });
                assert_eq!(got, *half, "{what}");
            }
            let half_sums = [halves[0].iter().sum(), halves[1].iter().sum::<i32>()];
            let sum = half_sums[0] + half_sums[1];
            assert_eq!((info.sum, info.half_sums), (sum, half_sums), "{what}");
            assert_eq!(info.half_sum_words, half_sums.map(|sum| sum as i16), "{what}");
            let [low, high] = half_sums.map(|sum| scale * sum as f32);
            let got = [info.scale, info.scaled_sum, info.scaled_half_sums[0], info.scaled_half_sums[1]];
            same_bits(&got, &[scale, scale * sum as f32, low, high], what);
        }
    }
}

#[test]
fn integers_are_the_nearest_of_every_block_whatever_is_in_it() {
    // More than what is rounded together, and blocks that are left over.
    const ROWS: usize = 3;
    let mut noise = Noise::new(31);
    for cols in [32, 256, 288, 640, 1152] {
        let mut x = noise.floats(ROWS * cols, 3.0);
        for (i, odd) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, 1e-31].into_iter().enumerate() {
            // One in each of some places, and none in others.
            let at = (i * 331 + 17) % x.len();
            if i % 2 == cols / 32 % 2 {
                x[at] = odd;
            }
        }
        x[..32].fill(-0.0);
        x[cols..][..32].fill(1e-31);
        x[2 * cols] = -7.5;
        x[2 * cols + 1] = 7.5;
        for isa in Isa::available() {
            for threads in [1, 2] {
                Team::new(threads, isa).region(|region| {
                    let mut input = Activations::new(ROWS, cols);
                    let what = |precision| format!("{isa} x{threads}, {precision:?}, {cols} columns");
                    for precision in [Precision::Int8, Precision::Int8Groups, Precision::Int16] {
                        input.set(region, ROWS, cols, &x, precision);
                        let groups = precision == Precision::Int8Groups && cols.is_multiple_of(GROUP);
                        let shared = if groups { GROUP } else { BLOCK };
                        match precision {
                            Precision::Int16 => check::<i16>(&input, &x, shared, &what(precision)),
                            _ => check::<i8>(&input, &x, shared, &what(precision)),
                        }
                        same_bits(&input.elems()[..x.len()], &x, "floats");
                    }
                });
            }
        }
    }
}

#[test]
fn gated_rows_are_rounded_like_any() {
    let mut noise = Noise::new(32);
    for (rows, cols) in [(1, 96), (5, 1536), (3, 20)] {
        let (gate, up) = (noise.floats(rows * cols, 9.0), noise.floats(rows * cols, 2.0));
        Team::new(2, Isa::detect()).region(|region| {
            for precision in [Precision::Int8, Precision::Int16, Precision::Reference] {
                let [mut gated, mut set] = [0; 2].map(|_| Activations::new(rows, cols));
                gated.set_gated(region, rows, cols, Glu::SwiGlu, &gate, &up, precision);
                let mut out = vec![0.0; rows * cols];
                glu(Isa::Scalar, Glu::SwiGlu, &gate, &up, &mut out);
                set.set(region, rows, cols, &out, precision);
                same_bits(gated.elems(), set.elems(), "floats");
                assert_eq!(gated.q, set.q, "{precision:?}");
                assert_eq!(gated.precision, set.precision);
            }
        });
    }
}
