//! Products of weights and activations: every format and instruction set against the scalar code, and that against sums in f64.
//!
//! They are a program of their own, so that the kernels, of which they need all, are compiled once.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[path = "../../src/testing.rs"]
mod testing;

use std::ops::Range;

use half::f16;
use membrane_kernels::interleaved::{self, interleave, interleave_in_place};
use membrane_kernels::quant::{dequantise_row, quantise_row};
use membrane_kernels::{
    Activations, Format, Isa, Matrix, Precision, Product, ShapeError, Team, fastest_isa, matmul,
};
use testing::{Noise, same_bits};

/// The instruction sets that can be tested here, slowest first: those of the CPU, and AMX where it can be emulated.
fn testable() -> Vec<Isa> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    amx::emulate();
    Isa::available()
}

/// Those that round activations.
const INTEGERS: [Precision; 3] = [Precision::Int8, Precision::Int8Groups, Precision::Int16];

/// Byte offsets of the half-precision numbers of a block.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::BF16 | Format::MXFP4 | Format::NVFP4 | Format::E4M3 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4NL | Format::IQ4XS | Format::F16 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        Format::IQ1S | Format::IQ2XXS | Format::IQ2XS | Format::IQ2S => &[0],
        Format::IQ3XXS | Format::IQ3S | Format::Q1_0 | Format::Q2_0 => &[0],
        Format::TQ1_0 => &[52],
        Format::TQ2_0 => &[64],
        // In quarters: see `put_halves`.
        Format::IQ1M => &[],
    }
}

/// Sets the half-precision numbers of a block.
fn put_halves(format: Format, block: &mut [u8], mut next: impl FnMut() -> f16) {
    for &offset in halves(format) {
        block[offset..offset + 2].copy_from_slice(&next().to_le_bytes());
    }
    if format == Format::IQ1M {
        let bits = next().to_bits();
        for quarter in 0..4 {
            let byte = &mut block[49 + 2 * quarter];
            *byte = *byte & 15 | ((bits >> (4 * quarter)) as u8) << 4;
        }
    }
}

/// The bytes of a block that are floats by themselves.
fn byte_scales(format: Format) -> Range<usize> {
    match format {
        Format::MXFP4 => 0..1,
        Format::NVFP4 => 0..4,
        _ => 0..0,
    }
}

/// Weights of random bytes, with scales that are finite and of either sign.
fn random_bytes(format: Format, elems: usize, noise: &mut Noise) -> Vec<u8> {
    let len = format.row_bytes(elems).unwrap();
    let mut bytes: Vec<u8> = (0..len).map(|_| (noise.bits() >> 32) as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        put_halves(format, block, || f16::from_f32(noise.float(0.5)));
        if matches!(format, Format::F32 | Format::BF16) {
            let x = noise.float(1.0).to_le_bytes();
            block.copy_from_slice(&x[4 - format.block_bytes()..]);
        }
        if format == Format::E4M3 {
            block[..4].copy_from_slice(&noise.float(0.01).to_le_bytes());
            // No NaN: 0x7F and 0xFF.
            block[4..].iter_mut().for_each(|element| *element &= 0xFE);
        }
        for scale in &mut block[byte_scales(format)] {
            // Neither the largest powers of two, whose sums are infinite, nor the smallest.
            *scale = *scale % 64 + 64;
        }
    }
    bytes
}

/// A product with everything that it needs.
struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    weights: Vec<u8>,
    /// [n, cols]
    x: Vec<f32>,
}

impl Case {
    fn new(format: Format, rows: usize, cols: usize, n: usize, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let weights = (0..rows).flat_map(|_| random_bytes(format, cols, &mut noise)).collect();
        Self { format, rows, cols, weights, x: noise.floats(n * cols, 3.0) }
    }

    /// The product; where rows can be interleaved, with such rows too, which must give the same bits.
    fn product(&self, isa: Isa, threads: usize, precision: Precision, rows: Option<&[u32]>) -> Vec<f32> {
        let matrix = Matrix::new(self.format, self.rows, self.cols, &self.weights).unwrap();
        let output = self.product_with(matrix, isa, threads, precision, rows);
        if interleaved::is_possible(self.format) {
            let mut weights = vec![0; self.weights.len()];
            interleave(self.format, self.weights.len() / self.rows, &self.weights, &mut weights);
            let matrix = Matrix::interleaved(self.format, self.rows, self.cols, &weights).unwrap();
            let other = self.product_with(matrix, isa, threads, precision, rows);
            same_bits(&other, &output, &format!("{} {isa} {precision:?} interleaved", self.format));
        }
        output
    }

    fn product_with(
        &self,
        matrix: Matrix<'_>,
        isa: Isa,
        threads: usize,
        precision: Precision,
        rows: Option<&[u32]>,
    ) -> Vec<f32> {
        let all = self.x.len() / self.cols;
        let n = rows.map_or(all, <[u32]>::len);
        let mut output = vec![f32::NAN; n * self.rows];
        let mut input = Activations::new(all, self.cols);
        Team::new(threads, isa).region(|region| {
            input.set(region, all, self.cols, &self.x, precision);
            let product = Product { weights: matrix, input: &input, input_rows: rows, output: &mut output };
            matmul(region, precision, &mut [product]);
        });
        output
    }

    /// The product in f64 with weights as floats.
    fn exact(&self) -> Vec<f64> {
        let mut weights = vec![0.0; self.rows * self.cols];
        dequantise_row(self.format, &self.weights, &mut weights);
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let mut exact = Vec::new();
        for x in self.x.chunks_exact(self.cols) {
            exact.extend(weights.chunks_exact(self.cols).map(|w| -> f64 { dot(x, w) }));
        }
        exact
    }
}

/// Root mean square of the difference over that of what is expected.
fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(expected).map(|(got, x)| (f64::from(*got) - x).powi(2)).sum();
    let power: f64 = expected.iter().map(|x| x.powi(2)).sum();
    (error / power).sqrt()
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_scalar_one() {
    for (seed, format) in Format::ALL.into_iter().enumerate() {
        for (rows, cols) in [(1, 256), (7, 512), (8, 256), (9, 768), (16, 256), (31, 512), (33, 6400)] {
            for n in [1, 2, 3, 4, 5, 6, 7, 8, 17, 64] {
                if rows * cols * n > 1 << 20 {
                    continue;
                }
                let case = Case::new(format, rows, cols, n, seed as u64);
                for precision in INTEGERS {
                    let expected = case.product(Isa::Scalar, 1, precision, None);
                    for isa in testable() {
                        let got = case.product(isa, 2, precision, None);
                        let name = format!("{format} {isa} {precision:?} [{rows}, {cols}] {n} rows");
                        same_bits(&got, &expected, &name);
                    }
                }
            }
        }
    }
}

#[test]
fn narrow_rows_of_32_blocks_and_odd_floats_agree_too() {
    for format in Format::ALL {
        for cols in [32, 96, 352, 1, 15, 17, 100] {
            if format.row_bytes(cols).is_none() {
                continue;
            }
            for n in [1, 6, 9, 17] {
                let case = Case::new(format, 19, cols, n, 11);
                for precision in INTEGERS {
                    let expected = case.product(Isa::Scalar, 1, precision, None);
                    for isa in testable() {
                        let got = case.product(isa, 1, precision, None);
                        let name = format!("{format} {isa} {precision:?} {cols} columns, {n} rows");
                        same_bits(&got, &expected, &name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    for format in Format::ALL {
        for precision in INTEGERS.into_iter().chain([Precision::Reference]) {
            let case = Case::new(format, 41, 768, 21, 5);
            let all = case.product(Isa::detect(), 3, precision, None);
            let many: Vec<u32> = (0..35).map(|i| i * 8 % 21).collect();
            for rows in [&[20][..], &[3, 3], &[0, 7, 20], &[9, 8, 7, 6, 5, 20, 0, 1], &many] {
                let expected: Vec<_> =
                    rows.iter().flat_map(|row| &all[*row as usize * 41..][..41]).copied().collect();
                for isa in testable() {
                    let got = case.product(isa, 2, precision, Some(rows));
                    same_bits(&got, &expected, &format!("{format} {isa} {precision:?} rows {rows:?}"));
                }
            }
        }
    }
}

/// Many rows of input meet floats of 32 and 8 bits in blocks of rows and columns, few don't; and all are the products of the same floats.
#[test]
fn floats_in_blocks_give_the_bits_of_each_row_alone() {
    for format in [Format::F32, Format::F16, Format::BF16, Format::E4M3] {
        for (rows, cols, n) in [(35, 288, 80), (16, 512, 72), (17, 301, 7), (1, 544, 6), (3, 31, 145)] {
            if format.row_bytes(cols).is_none() {
                continue;
            }
            let case = Case::new(format, rows, cols, n, 21);
            let alone: Vec<f32> = (0..n as u32)
                .flat_map(|row| case.product(Isa::Scalar, 1, Precision::Int8, Some(&[row])))
                .collect();
            let mut floats = vec![0.0; rows * cols];
            for (row, floats) in case.weights.chunks(case.weights.len() / rows).zip(floats.chunks_mut(cols)) {
                dequantise_row(format, row, floats);
            }
            let weights = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
            let widened = Case { format: Format::F32, rows, cols, weights, x: case.x.clone() };
            for isa in testable() {
                let together = case.product(isa, 2, Precision::Int8, None);
                same_bits(&together, &alone, &format!("{format} {isa} [{rows}, {cols}] {n} rows"));
                let widened = widened.product(isa, 2, Precision::Int8, None);
                same_bits(&together, &widened, &format!("{format} {isa} [{rows}, {cols}] {n} rows as F32"));
            }
        }
    }
}

#[test]
fn interleaved_rows_are_the_same_rows() {
    for format in Format::ALL.into_iter().filter(|&format| interleaved::is_possible(format)) {
        for (rows, cols) in [(1, 256), (8, 256), (19, 768), (5003, 512)] {
            let case = Case::new(format, rows, cols, 1, 14);
            let row_bytes = case.weights.len() / rows;
            let mut bytes = vec![0; case.weights.len()];
            interleave(format, row_bytes, &case.weights, &mut bytes);
            assert_eq!(bytes == case.weights, rows < 8, "{format}");
            let mut in_place = case.weights.clone();
            Team::new(2, Isa::detect())
                .region(|region| interleave_in_place(region, format, row_bytes, &mut in_place));
            assert!(in_place == bytes, "{format} [{rows}, {cols}]");
            let matrix = Matrix::interleaved(format, rows, cols, &bytes).unwrap().times(3.0);
            let mut row = vec![0.0; cols];
            let mut expected = vec![0.0; cols];
            for (number, blocks) in case.weights.chunks(row_bytes).enumerate() {
                matrix.dequantise_row(number, &mut row);
                dequantise_row(format, blocks, &mut expected);
                expected.iter_mut().for_each(|x| *x *= 3.0);
                same_bits(&row, &expected, &format!("{format} row {number} of {rows}"));
            }
        }
    }
}

/// Several panels of columns, and several parts of the input.
#[test]
fn wide_rows_and_long_inputs_agree_too() {
    for format in [Format::Q4K, Format::Q6K, Format::Q8_0, Format::Q4_1] {
        for (rows, cols, n) in [(17, 1280, 17), (16, 4096, 16), (16, 6400, 65)] {
            let case = Case::new(format, rows, cols, n, 13);
            for precision in INTEGERS {
                let expected = case.product(Isa::Scalar, 1, precision, None);
                for isa in testable() {
                    let got = case.product(isa, 2, precision, None);
                    same_bits(
                        &got,
                        &expected,
                        &format!("{format} {isa} {precision:?} [{rows}, {cols}] {n} rows"),
                    );
                }
            }
        }
    }
}

/// A matrix of 4-bit blocks whose columns stand in another order, and behind the rows that order.
fn shuffled(rows: usize, cols: usize, noise: &mut Noise) -> (Vec<u8>, Vec<usize>) {
    let mut order: Vec<usize> = (0..cols).collect();
    for column in (1..cols).rev() {
        order.swap(column, (noise.bits() >> 33) as usize % (column + 1));
    }
    let mut bytes: Vec<u8> = (0..rows).flat_map(|_| random_bytes(Format::Q4_0, cols, noise)).collect();
    bytes.extend(order.iter().flat_map(|&place| (place as u32).to_le_bytes()));
    (bytes, order)
}

#[test]
fn columns_in_another_order_meet_their_elements() {
    let (rows, cols, n) = (37, 320, 17);
    let mut noise = Noise::new(21);
    let (bytes, order) = shuffled(rows, cols, &mut noise);
    let x = noise.floats(n * cols, 3.0);
    let moved: Vec<f32> = x.chunks(cols).flat_map(|x| order.iter().map(|&place| x[place])).collect();
    let mut stored = Case { format: Format::Q4_0, rows, cols, weights: bytes.clone(), x: moved };
    stored.weights.truncate(bytes.len() - 4 * cols);
    // The same numbers in order, as floats.
    let mut floats = vec![0.0; rows * cols];
    for (row, floats) in stored.weights.chunks(stored.weights.len() / rows).zip(floats.chunks_mut(cols)) {
        let mut as_stored = vec![0.0; cols];
        dequantise_row(Format::Q4_0, row, &mut as_stored);
        order.iter().zip(as_stored).for_each(|(&place, weight)| floats[place] = weight);
    }
    let weights = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
    let in_order = Case { format: Format::F32, rows, cols, weights, x: x.clone() };
    let stored = &stored;
    let cases = [(Precision::Int8, stored), (Precision::Int16, stored), (Precision::Reference, &in_order)];
    for (precision, case) in cases {
        let expected = case.product(Isa::detect(), 1, precision, None);
        // Room for none, for some and for all of the rows of two products.
        let rooms = [(0, 1), (n * cols, 2), (2 * n * cols, 3)];
        for (isa, (room, threads)) in testable().into_iter().flat_map(|isa| rooms.map(|room| (isa, room))) {
            let mut input = Activations::new(n, cols).with_room(room);
            let some = [4u32, 0, 8];
            let (mut all, mut few, mut other) =
                (vec![0.0; n * rows], vec![0.0; 3 * rows], vec![0.0; n * rows]);
            Team::new(threads, isa).region(|region| {
                input.set(region, n, cols, &x, precision);
                let ordered = Matrix::ordered(Format::Q4_0, rows, cols, &bytes).unwrap();
                let plain = Matrix::new(Format::F32, rows, cols, &in_order.weights).unwrap();
                let input = &input;
                let product = |weights, input_rows, output| Product { weights, input, input_rows, output };
                let mut products = [
                    product(ordered, None, &mut all),
                    product(plain, None, &mut other),
                    product(ordered, Some(&some[..]), &mut few),
                ];
                matmul(region, precision, &mut products);
            });
            let name = format!("{isa} {precision:?}, room {room}");
            same_bits(&all, &expected, &name);
            let rows_of = |row: &u32| expected[*row as usize * rows..][..rows].to_vec();
            same_bits(&few, &some.iter().flat_map(rows_of).collect::<Vec<_>>(), &name);
            same_bits(&other, &in_order.product(Isa::detect(), 1, precision, None), &name);
        }
    }
    assert!(Matrix::ordered(Format::F32, 1, 32, &[0; 256]).is_err());
    assert!(Matrix::ordered(Format::Q4_0, 1, 32, &[0; 18]).is_err());
}

/// Products with inputs of their own, of which each is several tasks, that a thread has one after the other, and again.
#[test]
fn products_together_are_products_alone() {
    let kinds =
        [(Format::Q4K, 600), (Format::Q6K, 130), (Format::F32, 3), (Format::Q8_0, 600), (Format::Q4K, 600)];
    let n = 33;
    let rows: Vec<u32> = (0..n as u32).rev().collect();
    let chosen = |number: usize| (number == 4).then_some(&rows[..]);
    let cases: Vec<_> =
        (0..).zip(kinds).map(|(seed, (format, rows))| Case::new(format, rows, 512, n, seed)).collect();
    for (precision, isa) in
        INTEGERS.into_iter().flat_map(|precision| testable().into_iter().map(move |isa| (precision, isa)))
    {
        let alone: Vec<_> =
            cases.iter().enumerate().map(|(i, case)| case.product(isa, 1, precision, chosen(i))).collect();
        for threads in [1, 2] {
            let mut outputs: Vec<_> = cases.iter().map(|case| vec![0.0; case.rows * n]).collect();
            Team::new(threads, isa).region(|region| {
                let mut inputs: Vec<_> = cases.iter().map(|_| Activations::new(n, 512)).collect();
                for (input, case) in inputs.iter_mut().zip(&cases) {
                    input.set(region, n, 512, &case.x, precision);
                }
                let mut products = Vec::new();
                for (i, (case, output)) in cases.iter().zip(&mut outputs).enumerate() {
                    let weights = Matrix::new(case.format, case.rows, 512, &case.weights).unwrap();
                    products.push(Product { weights, input: &inputs[i], input_rows: chosen(i), output });
                }
                matmul(region, precision, &mut products);
            });
            for ((case, output), alone) in cases.iter().zip(&outputs).zip(&alone) {
                same_bits(output, alone, &format!("{} {isa} {precision:?} {threads} threads", case.format));
            }
        }
    }
}

#[test]
fn what_the_integers_lose_is_what_their_bits_lose() {
    for format in Format::ALL {
        let mut case = Case::new(format, 64, 1024, 8, 3);
        // Weights around zero, as models have: the error of the activations does not cancel with the minimum.
        if format.is_written() {
            let values = Noise::new(4).floats(64 * 1024, 0.1);
            case.weights.clear();
            quantise_row(format, &values, &mut case.weights).unwrap();
        }
        let exact = case.exact();
        let reference = relative_error(&case.product(Isa::detect(), 2, Precision::Reference, None), &exact);
        assert!(reference < 1e-6, "{format} reference {reference:e}");
        let rounded = [
            (Precision::Int8, 2e-3..8e-3),
            (Precision::Int8Groups, 2e-3..9e-3),
            (Precision::Int16, 1e-6..3e-5),
        ];
        for (precision, bounds) in rounded {
            let bounds = if format.is_float() { 0.0..1e-6 } else { bounds };
            let error = relative_error(&case.product(Isa::detect(), 2, precision, None), &exact);
            assert!(bounds.contains(&error), "{format} {precision:?} {error:e}");
        }
    }
}

#[test]
fn hostile_scales_make_nans_of_their_own_rows_only() {
    for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
        for bits in [0x7C00_u16, 0xFC00, 0x7E00, 0x7BFF, 0x0001, 0x8001, 0x03FF] {
            let mut case = Case::new(format, 24, 512, 17, 2);
            let row = case.weights.len() / 24;
            put_halves(format, &mut case.weights[5 * row..], || f16::from_bits(bits));
            for precision in INTEGERS {
                let expected = case.product(Isa::Scalar, 1, precision, None);
                for isa in testable() {
                    let got = case.product(isa, 2, precision, None);
                    same_bits(&got, &expected, &format!("{format} {isa} {precision:?} scale {bits:x}"));
                    let others = got.iter().enumerate().filter(|(i, _)| i % 24 != 5);
                    assert!(others.into_iter().all(|(_, x)| x.is_finite()), "{format} {isa}");
                }
            }
        }
    }
}

#[test]
fn every_byte_of_scale_gives_the_same_everywhere() {
    for format in [Format::MXFP4, Format::NVFP4] {
        // One block a row, so that none hides the products of another.
        let mut case = Case::new(format, 256, format.block_elems(), 2, 6);
        for (i, block) in case.weights.chunks_exact_mut(format.block_bytes()).enumerate() {
            let i = i as u8;
            let scales = [i, 0x7F, i ^ 0x80, 0xFF];
            let count = byte_scales(format).len();
            block[..count].copy_from_slice(&scales[..count]);
            block[..count].rotate_left(usize::from(i) % count);
        }
        for precision in INTEGERS {
            let expected = case.product(Isa::Scalar, 1, precision, None);
            for isa in testable() {
                let got = case.product(isa, 2, precision, None);
                same_bits(&got, &expected, &format!("{format} {isa} {precision:?}"));
            }
        }
    }
}

#[test]
fn a_factor_multiplies_what_comes_out() {
    let mut rng = Noise::new(12);
    for format in [Format::NVFP4, Format::F32, Format::Q4K] {
        for precision in INTEGERS.into_iter().chain([Precision::Reference]) {
            let case = Case::new(format, 37, 512, 6, 7);
            let plain = case.product(Isa::detect(), 2, precision, None);
            let factor = rng.float(3.0);
            let matrix = Matrix::new(format, 37, 512, &case.weights).unwrap().times(factor);
            let mut output = vec![f32::NAN; plain.len()];
            let mut input = Activations::new(6, 512);
            Team::new(2, Isa::detect()).region(|region| {
                input.set(region, 6, 512, &case.x, precision);
                let product =
                    Product { weights: matrix, input: &input, input_rows: None, output: &mut output };
                matmul(region, precision, &mut [product]);
            });
            let expected: Vec<_> = plain.iter().map(|x| x * factor).collect();
            same_bits(&output, &expected, &format!("{format} {precision:?}"));
        }
    }
}

#[test]
fn strange_activations_give_the_same_everywhere() {
    for format in [Format::Q4_1, Format::Q8_0, Format::Q4K, Format::Q6K, Format::F16] {
        let mut case = Case::new(format, 16, 512, 17, 8);
        case.x[3] = f32::NAN;
        case.x[512 + 40] = f32::INFINITY;
        case.x[1024..1536].fill(-1e-35);
        case.x[1536..1568].fill(f32::MAX);
        for precision in INTEGERS {
            let expected = case.product(Isa::Scalar, 1, precision, None);
            assert!(expected[..32].iter().all(|x| !x.is_finite()));
            for isa in testable() {
                let got = case.product(isa, 1, precision, None);
                same_bits(&got, &expected, &format!("{format} {isa} {precision:?}"));
            }
        }
    }
}

#[test]
fn empty_products_and_wrong_shapes() {
    let team = Team::new(2, Isa::detect());
    let input = Activations::new(2, 64);
    assert!(Activations::bytes(2, 64) >= 2 * 64 * 5);
    let weights = Matrix::new(Format::F32, 0, 0, &[]).unwrap();
    let product = Product { weights, input: &input, input_rows: Some(&[]), output: &mut [] };
    team.region(|region| matmul(region, Precision::Int16, &mut [product]));
    let short = Matrix::new(Format::Q4K, 2, 256, &[0; 287]).err();
    assert!(matches!(short, Some(ShapeError::WrongLength { expected: 288, actual: 287, .. })));
    let odd = Matrix::new(Format::Q4_0, 1, 33, &[0; 18]).err();
    assert_eq!(odd, Some(ShapeError::NotWholeBlocks { format: Format::Q4_0, cols: 33 }));
    let order = |last: u32| {
        let places = (0..31).chain([last]).flat_map(u32::to_le_bytes);
        let bytes: Vec<u8> = [0; 18].into_iter().chain(places).collect();
        Matrix::ordered(Format::Q4_0, 1, 32, &bytes).err()
    };
    assert_eq!((order(31), order(32)), (None, Some(ShapeError::Order { cols: 32 })));
    let huge = Matrix::new(Format::F32, usize::MAX, 2, &[]).err();
    assert!(matches!(huge, Some(ShapeError::TooLarge { .. })));
}

/// Sums of bytes stay within what holds them: equal bytes, among them the largest weights where these are no entries of a table, and
/// every activation at its limit, of either sign.
#[test]
fn bytes_at_their_limits_overflow_nothing() {
    for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
        for fill in [0x00, 0x77, 0x7F, 0x80, 0x88, 0xF0, 0xFF] {
            for n in [3, 5, 9, 16] {
                let mut case = Case::new(format, 16, 512, n, 4);
                case.weights.fill(fill);
                for block in case.weights.chunks_exact_mut(format.block_bytes()) {
                    put_halves(format, block, || f16::from_f32(0.25));
                    block[byte_scales(format)].fill(100);
                }
                let sign = |i: usize| if (i / 512).is_multiple_of(2) { 3.0 } else { -3.0 };
                case.x.iter_mut().enumerate().for_each(|(i, x)| *x = sign(i));
                case.x[1024..1536].iter_mut().step_by(2).for_each(|x| *x = -*x);
                for precision in INTEGERS {
                    let expected = case.product(Isa::Scalar, 1, precision, None);
                    for isa in testable() {
                        let got = case.product(isa, 1, precision, None);
                        same_bits(&got, &expected, &format!("{format} {isa} {precision:?} of {fill:x}"));
                    }
                }
            }
        }
    }
}

#[test]
fn the_fastest_is_amx_or_the_widest_vectors() {
    assert!(testable().contains(&fastest_isa()));
    assert!(fastest_isa() == Isa::detect() || fastest_isa() == Isa::Amx);
}

#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_is_tested_wherever_avx512_is() {
    assert_eq!(testable().contains(&Isa::Amx), testable().contains(&Isa::Avx512));
}
