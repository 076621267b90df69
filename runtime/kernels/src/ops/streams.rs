//! Hyper-connections: several residual streams a token, of which a block reads a mean and to which it adds what it gives.
//!
//! `x` [rows, streams, width]: the streams of a token lie behind one another.

use super::{CHEAP_TASK, COSTLY_TASK, check_rows, normalise, rows_per_task, sigmoid_one};
use crate::parallel::Region;
use crate::simd::{LANES, Simd, dispatch, dot, exp};

/// Least magnitude under the root in [`gate_streams`].
const LEAST_SCORE: f32 = 1e-6;

/// [`rms_norm`](super::rms_norm) of each stream by itself; `weight` [streams, width].
///
/// # Panics
/// If `x` and `out` differ in length or the parts are not whole.
pub fn rms_norm_streams(
    region: &Region<'_>,
    x: &[f32],
    weight: &[f32],
    streams: usize,
    eps: f32,
    out: &mut [f32],
) {
    assert_eq!(x.len(), out.len(), "rms_norm_streams: input and output differ in length");
    let row = check_rows("rms_norm_streams", x.len(), weight.len());
    let width = row / check_rows("rms_norm_streams", row, streams);
    let (isa, task) = (region.isa(), rows_per_task(CHEAP_TASK, row) * row);
    region.run_chunks(out, task, |index, out| {
        let x = x[index * task..].chunks_exact(width);
        let weights = weight.chunks_exact(width).cycle();
        for ((out, x), weight) in out.chunks_exact_mut(width).zip(x).zip(weights) {
            normalise(isa, x, weight, eps, out);
        }
    });
}

/// `x = silu(x / divisor)`, with silu(x) = x / (1 + e^-x).
pub fn silu(region: &Region<'_>, x: &mut [f32], divisor: f32) {
    let isa = region.isa();
    region.run_chunks(x, COSTLY_TASK, |_, x| silu_part(isa, x, divisor));
}

dispatch! {
    fn silu_part(x: &mut [f32], divisor: f32) => silu_kernel;
}

#[inline(always)]
fn silu_kernel<S: Simd>(s: S, x: &mut [f32], divisor: f32) {
    for x in x.chunks_mut(LANES) {
        let y = s.div(s.load_part(x, 0.0), s.splat(divisor));
        s.store_part(s.div(y, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), y)))), x);
    }
}

/// `out[r, j] = mean over the streams s of sigmoid(gate[r, s, j]) * x[r, s, j]`; `out` [rows, width].
///
/// Canonical: the products are added in the order of the streams, each product and each sum rounded, and the sum is
/// divided by their number.
///
/// # Panics
/// If the lengths do not fit.
pub fn mix_streams(
    region: &Region<'_>,
    x: &[f32],
    gate: &[f32],
    streams: usize,
    out: &mut [f32],
    width: usize,
) {
    check_rows("mix_streams", out.len(), width);
    assert_eq!((x.len(), gate.len()), (out.len() * streams, out.len() * streams), "mix_streams: streams");
    let (isa, rows) = (region.isa(), rows_per_task(COSTLY_TASK, width * streams));
    region.run_chunks(out, rows * width, |index, out| {
        let begin = index * rows * width * streams;
        let row = width * streams;
        for (number, out) in out.chunks_exact_mut(width).enumerate() {
            let row = begin + number * row..begin + (number + 1) * row;
            mix_row(isa, &x[row.clone()], &gate[row], out);
        }
    });
}

dispatch! {
    fn mix_row(x: &[f32], gate: &[f32], out: &mut [f32]) => mix_kernel;
}

#[inline(always)]
fn mix_kernel<S: Simd>(s: S, x: &[f32], gate: &[f32], out: &mut [f32]) {
    let width = out.len();
    let streams = s.splat((x.len() / width) as f32);
    for (number, out) in out.chunks_mut(LANES).enumerate() {
        let (first, len) = (number * LANES, out.len());
        let mut sum = s.zero();
        for (x, gate) in x.chunks_exact(width).zip(gate.chunks_exact(width)) {
            let gate = s.load_part(&gate[first..first + len], 0.0);
            let share = s.div(s.splat(1.0), s.add(s.splat(1.0), exp(s, s.sub(s.zero(), gate))));
            sum = s.add(sum, s.mul(share, s.load_part(&x[first..first + len], 0.0)));
        }
        s.store_part(s.div(sum, streams), out);
    }
}

/// `x[r, s, j] += 2 sigmoid(shares[r, s] / streams) * branch[r, j]`; `branch` [rows, width], `shares` [rows, streams]. Each
/// product and each sum is rounded.
///
/// # Panics
/// If the lengths do not fit.
pub fn add_to_streams(region: &Region<'_>, branch: &[f32], shares: &[f32], streams: usize, x: &mut [f32]) {
    if x.is_empty() && shares.is_empty() {
        return;
    }
    let rows = shares.len() / check_rows("add_to_streams", shares.len(), streams);
    assert_eq!(x.len(), branch.len() * streams, "add_to_streams: streams");
    let width = branch.len() / check_rows("add_to_streams", branch.len(), rows);
    let (isa, each) = (region.isa(), rows_per_task(CHEAP_TASK, width * streams) * streams);
    region.run_chunks(x, each * width, |index, x| {
        for (stream, x) in (index * each..).zip(x.chunks_exact_mut(width)) {
            let factor = 2.0 * sigmoid_one(isa, shares[stream] / streams as f32);
            let branch = &branch[stream / streams * width..][..width];
            x.iter_mut().zip(branch).for_each(|(x, y)| *x += factor * y);
        }
    });
}

/// `out[r, s, j] = sigmoid(root(key[r, s] . query[r, s] / sqrt(width))) * value[r, j]`, where root(x) is the square root of the
/// magnitude of x, at least 1e-6, with the sign of x, and 0 at 0. `key`, `query` and `out` [rows, streams, width], `value`
/// [rows, width].
///
/// Canonical: the dot product in 16 lanes and the tree; everything else rounded once.
///
/// # Panics
/// If the lengths do not fit.
pub fn gate_streams(
    region: &Region<'_>,
    key: &[f32],
    query: &[f32],
    value: &[f32],
    streams: usize,
    out: &mut [f32],
    width: usize,
) {
    check_rows("gate_streams", value.len(), width);
    let len = value.len() * streams;
    assert_eq!((key.len(), query.len(), out.len()), (len, len, len), "gate_streams: streams");
    let (isa, each) = (region.isa(), rows_per_task(CHEAP_TASK, width));
    region.run_chunks(out, each * width, |index, out| {
        for (stream, out) in (index * each..).zip(out.chunks_exact_mut(width)) {
            let place = stream * width..(stream + 1) * width;
            let score = dot_one(isa, &key[place.clone()], &query[place]) / (width as f32).sqrt();
            let root = if score == 0.0 { 0.0 } else { score.abs().max(LEAST_SCORE).sqrt().copysign(score) };
            let gate = sigmoid_one(isa, if score.is_nan() { score } else { root });
            let value = &value[stream / streams * width..][..width];
            out.iter_mut().zip(value).for_each(|(out, value)| *out = gate * value);
        }
    });
}

dispatch! {
    fn dot_one(x: &[f32], y: &[f32]) -> f32 => dot;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::parallel::Team;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mix = |i: u32| (i ^ seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B) >> 8;
        (0..count as u32).map(|i| mix(i) as f32 / (1 << 22) as f32 - 2.0).collect()
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn near(found: &[f32], wanted: impl Iterator<Item = f64>) {
        let mut count = 0;
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((f64::from(*found) - wanted).abs() < 1e-5, "{count}: {found} for {wanted}");
            count += 1;
        }
        assert_eq!(count, found.len());
    }

    const ROWS: usize = 5;
    const STREAMS: usize = 3;

    /// Runs it with every instruction set and several threads; all must give the same bits.
    fn everywhere(f: impl Fn(&Region<'_>) -> Vec<f32>) -> Vec<f32> {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let scalar = Team::new(1, Isa::Scalar).region(&f);
        for isa in Isa::available() {
            for threads in [1, 3] {
                let found = Team::new(threads, isa).region(&f);
                assert!(bits(&found) == bits(&scalar), "{isa:?} {threads}");
            }
        }
        scalar
    }

    #[test]
    fn each_stream_is_normed_by_itself() {
        for width in [1, 16, 37, 4000] {
            let (x, weight) = (numbers(ROWS * STREAMS * width, 1), numbers(STREAMS * width, 2));
            let found = everywhere(|region| {
                let mut out = vec![0.0; x.len()];
                rms_norm_streams(region, &x, &weight, STREAMS, 1e-6, &mut out);
                out
            });
            let wanted = x.chunks(width).zip(weight.chunks(width).cycle()).flat_map(|(x, weight)| {
                let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                let scale = 1.0 / (square / width as f64 + 1e-6).sqrt();
                x.iter()
                    .zip(weight)
                    .map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
                    .collect::<Vec<_>>()
            });
            near(&found, wanted);
        }
    }

    #[test]
    fn blocks_read_a_gated_mean_and_add_shares() {
        for width in [1, 17, 64, 1500] {
            let (x, gate) = (numbers(ROWS * STREAMS * width, 3), numbers(ROWS * STREAMS * width, 4));
            let at = |row: usize, stream: usize, j: usize| (row * STREAMS + stream) * width + j;
            let mixed = everywhere(|region| {
                let mut out = vec![0.0; ROWS * width];
                mix_streams(region, &x, &gate, STREAMS, &mut out, width);
                out
            });
            let share = |at: usize| sigmoid(f64::from(gate[at])) * f64::from(x[at]);
            let mean = |i: usize| (0..STREAMS).map(|s| share(at(i / width, s, i % width))).sum::<f64>() / 3.0;
            near(&mixed, (0..ROWS * width).map(mean));

            let (branch, shares) = (numbers(ROWS * width, 5), numbers(ROWS * STREAMS, 6));
            let added = everywhere(|region| {
                let mut x = x.clone();
                add_to_streams(region, &branch, &shares, STREAMS, &mut x);
                x
            });
            let wanted = (0..x.len()).map(|i| {
                let stream = i / width;
                let branch = f64::from(branch[stream / STREAMS * width + i % width]);
                f64::from(x[i]) + 2.0 * sigmoid(f64::from(shares[stream]) / 3.0) * branch
            });
            near(&added, wanted);
        }
    }

    #[test]
    fn values_are_gated_by_the_root_of_a_score() {
        for width in [1, 33, 256] {
            let (mut key, query) = (numbers(ROWS * STREAMS * width, 7), numbers(ROWS * STREAMS * width, 8));
            // A score of 0 is a gate of one half.
            key[..width].fill(0.0);
            let value = numbers(ROWS * width, 9);
            let found = everywhere(|region| {
                let mut out = vec![f32::NAN; key.len()];
                gate_streams(region, &key, &query, &value, STREAMS, &mut out, width);
                out
            });
            let wanted = (0..key.len()).map(|i| {
                let stream = i / width;
                let pairs = key.chunks(width).zip(query.chunks(width)).nth(stream).unwrap();
                let score: f64 =
                    pairs.0.iter().zip(pairs.1).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                let score = score / (width as f64).sqrt();
                let root = if score == 0.0 { 0.0 } else { score.abs().max(1e-6).sqrt() * score.signum() };
                sigmoid(root) * f64::from(value[stream / STREAMS * width + i % width])
            });
            near(&found, wanted);
        }
    }

    #[test]
    fn silu_divides_first() {
        let x = numbers(3000, 10);
        let found = everywhere(|region| {
            let mut x = x.clone();
            silu(region, &mut x, 4.0);
            x
        });
        near(&found, x.iter().map(|x| f64::from(*x) / 4.0 * sigmoid(f64::from(*x) / 4.0)));
    }
}
