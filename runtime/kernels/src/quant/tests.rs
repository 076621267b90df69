use super::fit::{self, Iq4, Linear};
use super::{dequantise_row, quantise_row};
use crate::format::{Format, ShapeError};
use crate::isa::Isa;
use crate::testing::Noise;

/// Numbers with a bell-shaped distribution of standard deviation about 0.02, as weights have.
fn bell(count: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise::new(seed);
    (0..count).map(|_| (0..6).map(|_| noise.float(0.02)).sum::<f32>() * 0.7).collect()
}

fn round_trip(format: Format, x: &[f32]) -> Vec<f32> {
    let mut bytes = Vec::new();
    quantise_row(format, x, &mut bytes).unwrap();
    assert_eq!(Some(bytes.len()), format.row_bytes(x.len()), "{format}");
    let mut back = vec![0.0; x.len()];
    dequantise_row(format, &bytes, &mut back);
    back
}

/// Root mean square of the error over that of the values.
fn relative_error(x: &[f32], back: &[f32]) -> f64 {
    let error: f64 = x.iter().zip(back).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    let power: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    (error / power).sqrt()
}

#[test]
fn what_is_lost_is_within_the_bits_of_the_format() {
    // Upper bounds a few per cent above what the reference quantisers lose on such numbers.
    let bounds = [
        (Format::F32, 0.0),
        (Format::F16, 3e-4),
        (Format::BF16, 2.2e-3),
        (Format::E4M3, 0.03),
        (Format::Q8_0, 6e-3),
        (Format::Q6K, 0.018),
        (Format::Q5K, 0.036),
        (Format::Q5_1, 0.038),
        (Format::Q5_0, 0.045),
        (Format::IQ4XS, 0.077),
        (Format::IQ4NL, 0.077),
        (Format::Q4K, 0.073),
        (Format::Q4_1, 0.078),
        (Format::Q4_0, 0.090),
        (Format::MXFP4, 0.13),
        (Format::NVFP4, 0.13),
        (Format::Q3K, 0.17),
        (Format::Q2K, 0.33),
    ];
    let x = bell(64 * 256, 1);
    for (format, bound) in bounds {
        let error = relative_error(&x, &round_trip(format, &x));
        println!("{format}: {error:.5}");
        assert!(error <= bound, "{format} loses {error:.4}");
        assert!(format.is_float() || error > bound / 2.0, "{format}: {error} is too good to be true");
    }
}

#[test]
fn fits_do_not_depend_on_the_instruction_set() {
    let x = bell(256, 4);
    for x in x.chunks_exact(32) {
        for isa in Isa::available() {
            let levels = Linear { low: -8.0, high: 7.0 };
            assert_eq!(fit::scale(isa, x, levels), fit::scale(Isa::Scalar, x, levels), "{isa}");
            assert_eq!(fit::scale_iq4(isa, x, Iq4), fit::scale_iq4(Isa::Scalar, x, Iq4), "{isa}");
            let affine = fit::scale_and_minimum(isa, x, 15.0);
            assert_eq!(affine, fit::scale_and_minimum(Isa::Scalar, x, 15.0), "{isa}");
        }
    }
}

#[test]
fn zeros_constants_and_one_sided_blocks_survive() {
    let mut noise = Noise::new(2);
    for format in Format::ALL.into_iter().filter(|format| format.is_written()) {
        assert_eq!(round_trip(format, &[0.0; 256]), [0.0; 256], "{format}");
        for level in [-3.0_f32, 0.5] {
            let constant = [level; 256];
            let error = relative_error(&constant, &round_trip(format, &constant));
            assert!(error < 0.02, "{format}: {level} {error}");
        }
        let positive: Vec<_> = (0..256).map(|_| 1.0 + noise.float(0.1)).collect();
        let error = relative_error(&positive, &round_trip(format, &positive));
        assert!(error < 0.12, "{format} {error}");
    }
}

#[test]
fn extreme_numbers_make_blocks_and_no_panic() {
    for format in Format::ALL.into_iter().filter(|format| format.is_written()) {
        for x in [f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN, -1e-40] {
            let mut row = vec![0.25; 256];
            row[7] = x;
            let _ = round_trip(format, &row);
        }
    }
}

#[test]
fn formats_that_are_only_read_are_refused() {
    for format in Format::ALL {
        let refused = quantise_row(format, &[0.0; 256], &mut Vec::new());
        let expected = if format.is_written() { Ok(()) } else { Err(ShapeError::NotWritten { format }) };
        assert_eq!(refused, expected, "{format}");
    }
}

#[test]
fn a_row_that_is_not_whole_blocks_is_refused() {
    let refused = quantise_row(Format::Q4K, &[0.0; 64], &mut Vec::new());
    assert_eq!(refused, Err(ShapeError::NotWholeBlocks { format: Format::Q4K, cols: 64 }));
    assert!(refused.unwrap_err().to_string().contains("256"));
}
