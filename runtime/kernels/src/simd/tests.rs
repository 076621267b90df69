//! Every instruction set that this CPU has against the oracle, bit for bit.

use super::*;
use crate::Isa;
use crate::testing::{Noise, same_bits};

/// What each operation makes of `a`, `b` and `c`, in one row.
#[inline(always)]
fn operations<S: Simd>(s: S, a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]) -> Vec<f32> {
    let (a, b, c) = (s.load(a), s.load(b), s.load(c));
    let mut halves = [0; LANES];
    s.store_f16(a, &mut halves);
    let mut bytes = [0; LANES];
    for (byte, half) in bytes.iter_mut().zip(halves) {
        *byte = half as u8;
    }
    let results = [
        s.add(a, b),
        s.sub(a, b),
        s.mul(a, b),
        s.div(a, b),
        s.fma(a, b, c),
        s.fnma(a, b, c),
        s.max(a, b),
        s.min(a, b),
        s.round(a),
        s.load_f16(&halves),
        s.load_bf16(&halves),
        s.load_e4m3(&bytes),
        exp(s, a),
        s.load_part(&[1.0, 2.0], 3.0),
    ];
    let mut out = vec![s.sum(a), s.sum(b)];
    for x in results {
        let mut lanes = [0.0; LANES];
        s.store(x, &mut lanes);
        out.extend(lanes);
    }
    out
}

dispatch! {
    fn run_operations(a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]) -> Vec<f32> => operations;
}

#[inline(always)]
fn products<S: Simd>(s: S, cols: usize, a: &[f32], b: &[f32], bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![dot(s, a, b)];
    out.extend(dots_stored::<StoredF32, S, 1, 3>(s, [&bytes[..4 * cols]], [a, b, a], None).as_flattened());
    let (low, high) = (&bytes[..2 * cols], &bytes[2 * cols..4 * cols]);
    out.extend(dots_stored::<StoredF16, S, 2, 1>(s, [low, high], [b], Some(LINE)).as_flattened());
    out.extend(dots_stored::<StoredBf16, S, 2, 2>(s, [low, high], [a, b], Some(4 * cols)).as_flattened());
    out
}

dispatch! {
    fn run_products(cols: usize, a: &[f32], b: &[f32], bytes: &[u8]) -> Vec<f32> => products;
}

#[inline(always)]
fn sixteen<S: Simd>(s: S, a: [&[Lanes]; 2], b: &[Lanes]) -> Vec<f32> {
    let [first, second] = s.dots_of_two(a, b);
    let mut lanes = [[0.0; LANES]; 3];
    for (x, lanes) in [s.dots(a[0], b), first, second].into_iter().zip(&mut lanes) {
        s.store(x, lanes);
    }
    lanes.as_flattened().to_vec()
}

dispatch! {
    fn run_dots(a: [&[Lanes]; 2], b: &[Lanes]) -> Vec<f32> => sixteen;
}

#[inline(always)]
fn sixteen_of_halves<S: Simd>(s: S, a: [&[Lanes]; 2], b: &[u16], stride: usize) -> Vec<f32> {
    let [x, y] = s.dots_halves(a, b, stride);
    let [z] = s.dots_halves([a[1]], b, stride);
    let mut lanes = [[0.0; LANES]; 3];
    s.store(x, &mut lanes[0]);
    s.store(y, &mut lanes[1]);
    s.store(z, &mut lanes[2]);
    lanes.as_flattened().to_vec()
}

dispatch! {
    fn run_dots_halves(a: [&[Lanes]; 2], b: &[u16], stride: usize) -> Vec<f32> => sixteen_of_halves;
}

#[test]
fn operations_are_the_oracles() {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        1e-42,
        f32::MAX,
        65_519.9,
        65_520.0,
        5.9e-8,
        88.9,
        -103.9,
    ];
    let mut noise = Noise::new(1);
    for round in 0..500 {
        let mut arrays: [[f32; LANES]; 3] =
            std::array::from_fn(|_| std::array::from_fn(|_| noise.float(30.0)));
        if round < 16 {
            arrays[0] = special;
            arrays[1] = std::array::from_fn(|i| special[(i + round) % LANES]);
        }
        let [a, b, c] = arrays;
        let oracle = run_operations(Isa::Scalar, &a, &b, &c);
        for isa in Isa::available() {
            same_bits(&run_operations(isa, &a, &b, &c), &oracle, &format!("{isa} {a:?} {b:?} {c:?}"));
        }
    }
}

#[test]
fn products_are_the_oracles_and_near_the_true_value() {
    let mut noise = Noise::new(2);
    for cols in [1, 5, 15, 16, 17, 31, 32, 100, 576] {
        let (a, b) = (noise.floats(cols, 1.0), noise.floats(cols, 1.0));
        let stored = noise.floats(cols, 1.0);
        // Not aligned, as in a file.
        let bytes: Vec<u8> = std::iter::once(0).chain(stored.iter().flat_map(|x| x.to_le_bytes())).collect();
        let oracle = run_products(Isa::Scalar, cols, &a, &b, &bytes[1..]);
        for isa in Isa::available() {
            same_bits(&run_products(isa, cols, &a, &b, &bytes[1..]), &oracle, &format!("{isa} {cols}"));
        }
        let exact = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>() as f32;
        assert!((oracle[0] - exact(&a, &b)).abs() < 1e-4);
        assert!((oracle[1] - exact(&stored, &a)).abs() < 1e-4);
        assert!((oracle[2] - exact(&stored, &b)).abs() < 1e-4);
    }
}

#[test]
fn stored_halves_are_read_as_numbers() {
    let x: Vec<f32> = (0..20).map(|i| i as f32 - 7.5).collect();
    let f16: Vec<u8> = x.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let bf16: Vec<u8> = x.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let expected = dot(Scalar, &x, &x);
    assert_eq!(dots_stored::<StoredF16, _, 1, 1>(Scalar, [&f16], [&x], None), [[expected]]);
    assert_eq!(dots_stored::<StoredBf16, _, 1, 1>(Scalar, [&bf16], [&x], None), [[expected]]);
}

#[inline(always)]
fn floats_of_e4m3<S: Simd>(s: S, bytes: &[u8; LANES]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    s.store(s.load_e4m3(bytes), &mut lanes);
    lanes
}

dispatch! {
    fn run_floats_of_e4m3(bytes: &[u8; LANES]) -> [f32; LANES] => floats_of_e4m3;
}

#[test]
fn floats_of_8_bits_are_read_as_numbers() {
    let groups = (0..=u8::MAX).step_by(LANES);
    for (isa, first) in
        Isa::available().into_iter().flat_map(|isa| groups.clone().map(move |first| (isa, first)))
    {
        let bytes = std::array::from_fn(|i| first + i as u8);
        for (byte, float) in bytes.into_iter().zip(run_floats_of_e4m3(isa, &bytes)) {
            let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
            let magnitude = if exponent == 0 {
                fraction * 2.0_f32.powi(-6)
            } else {
                (1.0 + fraction) * 2.0_f32.powi(exponent - 7)
            };
            let expected = if byte > 0x7F { -magnitude } else { magnitude };
            assert_eq!((256.0 * float).to_bits(), expected.to_bits(), "{isa} {byte:#x}");
        }
    }
}

#[test]
fn sixteen_dots_are_sixteen_times_one() {
    let mut noise = Noise::new(3);
    for len in [1, 2, 4, 5, 16] {
        let mut lanes = |n: usize| -> Vec<Lanes> {
            (0..n).map(|_| Lanes(std::array::from_fn(|_| noise.float(1.0)))).collect()
        };
        let (a, b) = ([lanes(len), lanes(len)], lanes(16 * len));
        let rows = || Lanes::flat(&b).chunks_exact(16 * len);
        let oracle: Vec<f32> = [&a[0], &a[0], &a[1]]
            .iter()
            .flat_map(|a| rows().map(|row| dot(Scalar, Lanes::flat(a), row)))
            .collect();
        let by_vectors: Vec<Lanes> = (0..16 * len).map(|at| b[at % 16 * len + at / 16]).collect();
        for isa in Isa::available() {
            same_bits(&run_dots(isa, [&a[0], &a[1]], &by_vectors), &oracle, &format!("{isa} {len}"));
        }
    }
}

#[test]
fn sixteen_dots_with_halves_are_sixteen_times_one() {
    let mut noise = Noise::new(4);
    for len in [1, 2, 4, 5, 16] {
        let mut row =
            || -> Vec<Lanes> { (0..len).map(|_| Lanes(std::array::from_fn(|_| noise.float(1.0)))).collect() };
        let a = [row(), row()];
        for stride in [16 * len, 16 * len + 3, 16 * len + 64] {
            let b: Vec<half::f16> =
                (0..15 * stride + 16 * len).map(|_| half::f16::from_f32(noise.float(1.0))).collect();
            let bits: Vec<u16> = b.iter().map(|x| x.to_bits()).collect();
            let oracle: Vec<f32> = [&a[0], &a[1], &a[1]]
                .iter()
                .flat_map(|a| b.chunks(stride).map(move |row| (a, &row[..16 * len])))
                .map(|(a, row)| {
                    let row: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
                    dot(Scalar, Lanes::flat(a), &row)
                })
                .collect();
            for isa in Isa::available() {
                let got = run_dots_halves(isa, [&a[0], &a[1]], &bits, stride);
                same_bits(&got, &oracle, &format!("{isa} {len} {stride}"));
            }
        }
    }
}

#[test]
fn exp_is_within_one_ulp() {
    let mut worst = 0.0_f64;
    for i in -869_000..887_000 {
        let x = i as f32 * 1e-4;
        let got = f64::from(exp(Scalar, [x; LANES])[0]);
        let exact = f64::from(x).exp();
        let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
        worst = worst.max((got - exact).abs() / ulp);
    }
    assert!(worst <= 1.0, "{worst} ulp");
    for (x, y) in
        [(0.0, 1.0), (f32::NEG_INFINITY, 0.0), (f32::INFINITY, f32::INFINITY), (-87.4, 0.0), (-200.0, 0.0)]
    {
        assert_eq!(exp(Scalar, [x; LANES])[3].to_bits(), y.to_bits(), "{x}");
    }
    assert!(exp(Scalar, [f32::NAN; LANES])[0].is_nan());
}

#[test]
fn exp_is_a_normal_number_or_none_with_every_instruction_set() {
    let mut seen = [false; 2];
    for i in 0..1_000 {
        let x = [-86.0 - i as f32 * 2e-3; LANES];
        let oracle = exp(Scalar, x);
        seen[usize::from(oracle[0] == 0.0)] = true;
        assert!(oracle[0] == 0.0 || oracle[0].is_normal(), "{}: {}", x[0], oracle[0]);
        for isa in Isa::available() {
            same_bits(&run_exps(isa, [x, x]), &[oracle, oracle].concat(), &format!("{isa} {}", x[0]));
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[inline(always)]
fn exps_of<S: Simd>(s: S, x: [[f32; LANES]; 2]) -> Vec<f32> {
    let mut lanes = [[0.0; LANES]; 2];
    for (e, lanes) in exps(s, [s.load(&x[0]), s.load(&x[1])]).into_iter().zip(&mut lanes) {
        s.store(e, lanes);
    }
    lanes.as_flattened().to_vec()
}

dispatch! {
    fn run_exps(x: [[f32; LANES]; 2]) -> Vec<f32> => exps_of;
}
