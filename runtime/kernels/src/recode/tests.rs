#[path = "gptq/tests.rs"]
mod gptq;

use super::*;
use crate::testing::Noise;

/// What a recoded matrix stands for, its columns in the order of the input.
fn recoded(recoding: &Recoding, parts: &[&[u8]]) -> Vec<f32> {
    let mut out = vec![0; recoding.bytes()];
    recoding.run(parts, &mut out).unwrap();
    let (rows, cols) = (recoding.rows, recoding.cols);
    let order = out.split_off(recoding.rows_bytes());
    assert_eq!(order.len(), if recoding.is_ordered() { 4 * cols } else { 0 });
    let mut floats = vec![0.0; rows * cols];
    for (bytes, floats) in out.chunks_exact(out.len() / rows).zip(floats.chunks_exact_mut(cols)) {
        dequantise_row(recoding.format, bytes, floats);
        let stored = floats.to_vec();
        for (place, x) in order.as_chunks().0.iter().zip(stored) {
            floats[u32::from_le_bytes(*place) as usize] = x;
        }
    }
    let by_elements = matches!(recoding.parts, Parts::Floats(_) | Parts::Fp8 { .. });
    if recoding.view.is_none() && !by_elements {
        taken_apart(recoding, parts, &floats);
    }
    floats
}

/// Takes the columns of the even rows for rows.
fn taken_apart(recoding: &Recoding, parts: &[&[u8]], whole: &[f32]) {
    let (rows, cols) = (recoding.rows, recoding.cols);
    let half = rows.div_ceil(2);
    let view = View {
        stored: [rows, cols],
        first: 0,
        group_rows: cols,
        group_step: 0,
        row_step: 1,
        col_step: 2 * cols,
    };
    let columns = Recoding::of_view(recoding.parts, view, cols, half).unwrap();
    let found = recoded(&columns, parts);
    for (index, x) in found.iter().enumerate() {
        let expected = whole[index % half * 2 * cols + index / half];
        assert!(
            *x == expected || x.is_nan() && expected.is_nan(),
            "{:?} {index}: {x}, not {expected}",
            columns.parts
        );
    }
    assert_eq!(columns.working_bytes(), recoding.bytes() + 4 * rows * cols);
}

fn bytes(noise: &mut Noise, count: usize) -> Vec<u8> {
    (0..count).map(|_| (noise.float(1.0) * 1e6) as i32 as u8).collect()
}

fn halves(noise: &mut Noise, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| half::f16::from_f32(noise.float(0.1)).to_le_bytes()).collect()
}

fn nibble(words: &[u8], index: usize, nibble: usize) -> i32 {
    let word = u32::from_le_bytes(words[4 * index..4 * index + 4].try_into().unwrap());
    (word >> (4 * nibble) & 15) as i32
}

fn half_at(scales: &[u8], index: usize) -> f32 {
    half::f16::from_le_bytes([scales[2 * index], scales[2 * index + 1]]).to_f32()
}

#[test]
fn floats_of_8_bits_get_the_scale_of_their_block() {
    for (rows, cols) in [(130, 160), (9, 40)] {
        float8_matrix(rows, cols);
    }
}

fn float8_matrix(rows: usize, cols: usize) {
    let mut noise = Noise::new(1);
    let elements: Vec<u8> = bytes(&mut noise, rows * cols).iter().map(|byte| byte & 0xF7).collect();
    for (block, stored) in
        [([128, 128], FloatFormat::BF16), ([1, cols], FloatFormat::F32), ([rows, cols], FloatFormat::F16)]
    {
        let counts = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        let scales: Vec<f32> = (0..counts[0] * counts[1]).map(|_| 0.5 + noise.float(0.25)).collect();
        let (kept, bytes): (Vec<f32>, Vec<Vec<u8>>) = scales
            .iter()
            .map(|scale| match stored {
                FloatFormat::F32 => (*scale, scale.to_le_bytes().to_vec()),
                FloatFormat::F16 => {
                    let half = half::f16::from_f32(*scale);
                    (half.to_f32(), half.to_le_bytes().to_vec())
                }
                FloatFormat::BF16 => {
                    let half = half::bf16::from_f32(*scale);
                    (half.to_f32(), half.to_le_bytes().to_vec())
                }
            })
            .unzip();
        let recoding =
            Recoding::new(Parts::Fp8 { scales: ScaleFormat::Float(stored), block }, rows, cols).unwrap();
        let found = recoded(&recoding, &[&elements, &bytes.concat()]);
        for (index, found) in found.iter().enumerate() {
            let (row, col) = (index / cols, index % cols);
            let scale = kept[row / block[0] * counts[1] + col / block[1]];
            assert_eq!(*found, scale * FLOAT8_VALUES[usize::from(elements[index])], "{row} {col}");
        }
    }
}

#[test]
fn scales_that_are_exponents_are_powers_of_two() {
    let (rows, cols) = (2, 128);
    let exponents = [0, 1, 120, 127, 130, 254, 255, 128];
    let parts = Parts::Fp8 { scales: ScaleFormat::Exponent, block: [1, 32] };
    let recoding = Recoding::new(parts, rows, cols).unwrap();
    assert_eq!(recoding.format(), Format::E4M3);
    // 0.5 and 1.5: nothing overflows.
    let elements: Vec<u8> = (0..rows * cols).map(|i| if i % 3 == 0 { 0x30 } else { 0x3C }).collect();
    for (index, found) in recoded(&recoding, &[&elements, &exponents]).iter().enumerate() {
        let element = if index % 3 == 0 { 0.5 } else { 1.5 };
        match exponents[index / 32] {
            255 => assert!(found.is_nan(), "{index}"),
            exponent => {
                let wanted = element * 2_f64.powi(i32::from(exponent) - 127);
                assert_eq!(f64::from(*found), wanted, "{index}");
            }
        }
    }
}

#[test]
fn floats_of_4_bits_keep_their_places() {
    for (rows, cols, group) in [(3, 128, 16), (5, 48, 16), (3, 128, 32), (5, 96, 32)] {
        float4_matrix(rows, cols, group);
    }
}

fn float4_matrix(rows: usize, cols: usize, group: usize) {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut noise = Noise::new(2);
    let nibbles = bytes(&mut noise, rows * cols / 2);
    let scales: Vec<u8> = bytes(&mut noise, rows * cols / group).iter().map(|byte| byte & 0x77).collect();
    let recoding = Recoding::new(Parts::Nvfp4 { group }, rows, cols).unwrap();
    for (index, found) in recoded(&recoding, &[&nibbles, &scales]).iter().enumerate() {
        let code = nibbles[index / 2] >> (index % 2 * 4) & 15;
        let value = MAGNITUDES[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 };
        assert_eq!(*found, value * FLOAT8_VALUES[usize::from(scales[index / group])], "{index}");
    }
    let wanted = recoded(&recoding, &[&nibbles, &scales]);
    // Every other row, from the second on.
    let second =
        View { stored: [rows, cols], first: cols, row_step: 2 * cols, ..View::whole(rows / 2, cols) };
    let every_other = Recoding::of_view(Parts::Nvfp4 { group }, second, rows / 2, cols).unwrap();
    assert_eq!((every_other.format(), every_other.working_bytes()), (recoding.format(), 0));
    for (index, found) in recoded(&every_other, &[&nibbles, &scales]).iter().enumerate() {
        assert_eq!(*found, wanted[second.place(index / cols, index % cols)], "{index}");
    }
    for bad in [0x7F, 0x80, 0xFF] {
        let scales = vec![bad; scales.len()];
        let refused = recoding.run(&[&nibbles, &scales], &mut vec![0; recoding.bytes()]);
        assert!(matches!(refused, Err(RecodeError::Content(_))), "{bad:x}");
    }
}

#[test]
fn a_float_that_is_no_number_makes_its_block_none() {
    let (rows, cols) = (2, 64);
    let mut elements = vec![0x38; rows * cols];
    elements[40] = 0xFF;
    let parts = Parts::Fp8 { scales: ScaleFormat::Float(FloatFormat::F32), block: [rows, cols] };
    let recoding = Recoding::new(parts, rows, cols).unwrap();
    let found = recoded(&recoding, &[&elements, &2f32.to_le_bytes()]);
    let expected = |(index, x): (usize, &f32)| if (32..64).contains(&index) { x.is_nan() } else { *x == 2.0 };
    assert!(found.iter().enumerate().all(expected), "{found:?}");
}

/// The group of each column as files have it.
fn group_indices(cols: usize, group: &dyn Fn(usize) -> usize) -> Vec<u8> {
    (0..cols).flat_map(|col| (group(col) as u32).to_le_bytes()).collect()
}

#[test]
fn packed_integers_are_their_formula() {
    let mut noise = Noise::new(12);
    for (rows, cols, groups) in [(16, 64, 2), (8, 128, 1), (24, 384, 3)] {
        let (nibbles, zeros) = (bytes(&mut noise, rows * cols / 2), bytes(&mut noise, groups * rows / 2));
        for scales in [FloatFormat::F16, FloatFormat::BF16] {
            let numbers = noise.floats(groups * rows, 0.1);
            let stored: Vec<u8> = match scales {
                FloatFormat::F16 => {
                    numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
                }
                _ => numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            };
            for (with_zeros, indices) in [(false, false), (true, false), (false, true), (true, true)] {
                let parts = Parts::PackQuantized { scales, groups, zeros: with_zeros, indices };
                let recoding = Recoding::new(parts, rows, cols).unwrap();
                assert_eq!(recoding.format(), if with_zeros { Format::Q5_0 } else { Format::Q4_0 });
                let group = |col: usize| if indices { col * 5 % groups } else { col * groups / cols };
                let order = group_indices(cols, &group);
                let mut parts: Vec<&[u8]> = vec![&nibbles, &stored];
                parts.extend(with_zeros.then_some(&zeros[..]));
                parts.extend(indices.then_some(&order[..]));
                for (index, found) in recoded(&recoding, &parts).iter().enumerate() {
                    let (row, col) = (index / cols, index % cols);
                    let group = group(col);
                    let q = nibble(&nibbles, (row * cols + col) / 8, col % 8);
                    let zero = if with_zeros { nibble(&zeros, row / 8 * groups + group, row % 8) } else { 8 };
                    let place = row * groups + group;
                    let scale = match scales {
                        FloatFormat::F16 => half_at(&stored, place),
                        _ => half::bf16::from_le_bytes([stored[2 * place], stored[2 * place + 1]]).to_f32(),
                    };
                    assert_eq!(*found, scale * (q - zero) as f32, "{row} {col}");
                }
            }
        }
    }
}

#[test]
fn integers_of_8_bits_are_their_formula() {
    let mut noise = Noise::new(13);
    for (rows, cols, groups) in [(16, 64, 2), (7, 128, 1), (3, 96, 3)] {
        let integers = bytes(&mut noise, rows * cols);
        let stored = halves(&mut noise, groups * rows);
        for (around_middle, indices) in [(false, false), (true, false), (false, true), (true, true)] {
            let parts = Parts::Int8 { scales: FloatFormat::F16, groups, around_middle, indices };
            let recoding = Recoding::new(parts, rows, cols).unwrap();
            assert_eq!(recoding.format(), Format::Q8_0);
            let group = |col: usize| if indices { col * 5 % groups } else { col * groups / cols };
            let order = group_indices(cols, &group);
            let mut parts: Vec<&[u8]> = vec![&integers, &stored];
            parts.extend(indices.then_some(&order[..]));
            for (index, found) in recoded(&recoding, &parts).iter().enumerate() {
                let (row, col) = (index / cols, index % cols);
                let q = match around_middle {
                    true => f32::from(integers[index]) - 128.0,
                    false => f32::from(integers[index] as i8),
                };
                assert_eq!(*found, half_at(&stored, row * groups + group(col)) * q, "{row} {col}");
            }
        }
    }
}

#[test]
fn scales_of_packed_integers_that_half_precision_lacks() {
    let parts = Parts::PackQuantized { scales: FloatFormat::BF16, groups: 1, zeros: false, indices: false };
    let recoding = Recoding::new(parts, 1, 32).unwrap();
    let nibbles = [0x99; 16];
    let run = |scale: f32| {
        let scale = half::bf16::from_f32(scale).to_le_bytes();
        let mut out = vec![0; recoding.bytes()];
        recoding.run(&[&nibbles, &scale], &mut out).map(|()| half_at(&out, 0))
    };
    let least = half::bf16::from_f32(1.0078125 * 2_f32.powi(-17)).to_f32();
    assert_eq!(run(least), Ok(least), "eight significant bits from 2^-17 on");
    assert_eq!(run(1.5 * 2_f32.powi(-24)), Ok(2_f32.powi(-23)), "less is rounded");
    assert!(run(1e5).unwrap_err().to_string().contains("65504"));
    for (parts, rows, cols) in [
        (Parts::PackQuantized { scales: FloatFormat::F32, groups: 1, zeros: false, indices: false }, 8, 64),
        (Parts::PackQuantized { scales: FloatFormat::BF16, groups: 4, zeros: false, indices: false }, 8, 64),
        (Parts::PackQuantized { scales: FloatFormat::BF16, groups: 0, zeros: false, indices: false }, 8, 64),
        (Parts::PackQuantized { scales: FloatFormat::BF16, groups: 1, zeros: true, indices: false }, 7, 64),
        (Parts::Int8 { scales: FloatFormat::F32, groups: 1, around_middle: true, indices: false }, 8, 64),
        (Parts::Int8 { scales: FloatFormat::BF16, groups: 4, around_middle: true, indices: false }, 8, 64),
        (Parts::Int8 { scales: FloatFormat::BF16, groups: 0, around_middle: true, indices: false }, 8, 64),
    ] {
        assert!(matches!(Recoding::new(parts, rows, cols), Err(RecodeError::Shape { .. })), "{parts:?}");
    }
}

#[test]
fn contradictions_are_refused() {
    let (rows, cols) = (8, 64);
    let parts = Parts::Gptq {
        scales: FloatFormat::F16,
        zero_offset: 1,
        symmetric: true,
        groups: 2,
        indices: true,
        any_order: false,
    };
    let recoding = Recoding::new(parts, rows, cols).unwrap();
    let (nibbles, scales) = (vec![0; rows * cols / 2], vec![0; 2 * rows * 2]);
    let run = |zero: u8, index: &dyn Fn(u32) -> u32| {
        let indices: Vec<u8> = (0..cols as u32).flat_map(|col| index(col).to_le_bytes()).collect();
        recoding.run(&[&nibbles, &vec![zero; rows], &scales, &indices], &mut vec![0; recoding.bytes()])
    };
    let right = |col: u32| col / 32;
    assert_eq!(run(0x77, &right), Ok(()));
    assert!(run(0x87, &right).is_err());
    assert!(run(0x77, &|col| col / 32 + 1).is_err());
    assert!(run(0x77, &|col| 1 - col / 32).is_err());
    assert!(run(0x77, &|_| u32::MAX).is_err());
    // With any order, too, each group has its share.
    let parts = Parts::Gptq {
        scales: FloatFormat::F16,
        zero_offset: 1,
        symmetric: true,
        groups: 2,
        indices: true,
        any_order: true,
    };
    let recoding = Recoding::new(parts, rows, cols).unwrap();
    let run = |index: &dyn Fn(u32) -> u32| {
        let indices: Vec<u8> = (0..cols as u32).flat_map(|col| index(col).to_le_bytes()).collect();
        recoding.run(&[&nibbles, &vec![0x77; rows], &scales, &indices], &mut vec![0; recoding.bytes()])
    };
    assert_eq!(run(&|col| (col + 1) % 2), Ok(()));
    let uneven: [&dyn Fn(u32) -> u32; 3] = [&|_| 0, &|col| u32::from(col > 32), &|_| 2];
    for uneven in uneven {
        assert!(run(uneven).is_err());
    }
    // So with packed integers, of which indices that nobody set say nothing.
    let packed = Parts::PackQuantized { scales: FloatFormat::F16, groups: 2, zeros: false, indices: true };
    let eight = Parts::Int8 { scales: FloatFormat::F16, groups: 2, around_middle: true, indices: true };
    for (parts, integers) in [(packed, &nibbles[..]), (eight, &vec![0; rows * cols])] {
        let recoding = Recoding::new(parts, rows, cols).unwrap();
        let run = |index: &dyn Fn(u32) -> u32| {
            let indices: Vec<u8> = (0..cols as u32).flat_map(|col| index(col).to_le_bytes()).collect();
            recoding.run(&[integers, &scales, &indices], &mut vec![0; recoding.bytes()])
        };
        assert_eq!(run(&|col| (col + 1) % 2), Ok(()));
        assert_eq!(run(&|_| u32::MAX), Ok(()));
        for uneven in uneven {
            assert!(run(uneven).is_err());
        }
        assert!(run(&|col| if col == 0 { u32::MAX } else { col % 2 }).is_err());
    }
    for (parts, rows, cols) in [
        (Parts::Nvfp4 { group: 16 }, 1, 72),
        (Parts::Nvfp4 { group: 32 }, 1, 80),
        (Parts::Nvfp4 { group: 0 }, 1, 64),
        (Parts::Nvfp4 { group: 24 }, 1, 96),
        (Parts::Awq { scales: FloatFormat::F16, groups: 0 }, 8, 64),
        (Parts::Awq { scales: FloatFormat::F16, groups: 1 }, 7, 64),
        (Parts::Fp8 { scales: ScaleFormat::Float(FloatFormat::F32), block: [0, 128] }, 8, 128),
        (Parts::Nvfp4 { group: 16 }, 0, 64),
        (Parts::Nvfp4 { group: 16 }, usize::MAX, 64),
    ] {
        assert!(matches!(Recoding::new(parts, rows, cols), Err(RecodeError::Shape { .. })), "{parts:?}");
    }
}

/// Numbers from 0 on in bfloat16, exact up to 256.
fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| half::bf16::from_f32(number as f32).to_le_bytes()).collect()
}

#[test]
fn views_take_the_elements_that_they_name() {
    // Two heads of 3 + 2 rows over 4 columns: the transposed first rows of each, and its last rows.
    let heads = View { stored: [10, 4], first: 0, group_rows: 4, group_step: 20, row_step: 1, col_step: 4 };
    let parts = Parts::Floats(FloatFormat::BF16);
    let found = recoded(&Recoding::of_view(parts, heads, 8, 3).unwrap(), &[&numbered(40)]);
    let of = |head: usize, row: usize, col: usize| (head * 20 + row * 4 + col) as f32;
    for (index, found) in found.into_iter().enumerate() {
        assert_eq!(found, of(index / 12, index % 3, index / 3 % 4), "{index}");
    }
    let values = View { first: 12, group_rows: 2, row_step: 4, col_step: 1, ..heads };
    let found = recoded(&Recoding::of_view(parts, values, 4, 4).unwrap(), &[&numbered(40)]);
    for (index, found) in found.into_iter().enumerate() {
        assert_eq!(found, of(index / 8, 3 + index / 4 % 2, index % 4), "{index}");
    }
    for format in [FloatFormat::F32, FloatFormat::F16, FloatFormat::BF16] {
        let recoding = Recoding::of_view(Parts::Floats(format), values, 4, 4).unwrap();
        assert_eq!(recoding.part_bytes(), [40 * format.bytes()]);
    }
    for (rows, cols, view) in [
        (4, 5, View { first: 13, ..values }),
        (4, 4, View { group_step: 25, ..values }),
        (3, 4, values),
        (4, 4, View { group_rows: 0, ..values }),
        (4, 4, View { row_step: usize::MAX, ..values }),
        (4, 4, View { stored: [usize::MAX, 4], ..values }),
    ] {
        let refused = Recoding::of_view(parts, view, rows, cols);
        assert!(matches!(refused, Err(RecodeError::Shape { .. })), "{view:?}");
    }
    // What has no rows of blocks is refused as the matrix would be.
    assert!(Recoding::of_view(Parts::Nvfp4 { group: 16 }, View::whole(4, 72), 4, 72).is_err());
}

#[test]
fn views_of_floats_of_8_bits_keep_their_scales() {
    // Two heads of 32 + 64 rows over 96 columns.
    let (heads, plain, value, rank) = (2, 32, 64, 96);
    let step = (plain + value) * rank;
    let stored = [heads * (plain + value), rank];
    let absorb = View { stored, first: 0, group_rows: rank, group_step: step, row_step: 1, col_step: rank };
    let values = View { first: plain * rank, group_rows: value, row_step: rank, col_step: 1, ..absorb };
    let mut noise = Noise::new(8);
    let elements: Vec<u8> = bytes(&mut noise, stored[0] * rank).iter().map(|byte| byte & 0xF7).collect();
    for (block, formats) in [
        ([32, 32], [Format::E4M3, Format::E4M3]),
        ([64, 96], [Format::E4M3, Format::E4M3]),
        ([16, 32], [Format::F32, Format::E4M3]),
        ([32, 40], [Format::E4M3, Format::F32]),
    ] {
        let counts = [stored[0].div_ceil(block[0]), rank.div_ceil(block[1])];
        let scales: Vec<f32> = (0..counts[0] * counts[1]).map(|_| 0.5 + noise.float(0.25)).collect();
        let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let parts = Parts::Fp8 { scales: ScaleFormat::Float(FloatFormat::F32), block };
        for (view, rows, cols, format) in
            [(absorb, heads * rank, plain, formats[0]), (values, heads * value, rank, formats[1])]
        {
            let recoding = Recoding::of_view(parts, view, rows, cols).unwrap();
            assert_eq!(recoding.format(), format, "{block:?}");
            for (index, found) in recoded(&recoding, &[&elements, &bytes]).iter().enumerate() {
                let place = view.place(index / cols, index % cols);
                let scale = scales[place / rank / block[0] * counts[1] + place % rank / block[1]];
                assert_eq!(*found, scale * FLOAT8_VALUES[usize::from(elements[place])], "{block:?} {index}");
            }
        }
    }
}

#[test]
fn powers_of_two_scale_floats_of_4_bits_wherever_their_rows_stand() {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (rows, cols) = (6, 96);
    let mut noise = Noise::new(9);
    let nibbles = bytes(&mut noise, rows * cols / 2);
    let scales: Vec<u8> = bytes(&mut noise, rows * cols / 32).iter().map(|byte| 112 + byte % 32).collect();
    let second =
        View { stored: [rows, cols], first: cols, row_step: 2 * cols, ..View::whole(rows / 2, cols) };
    for (view, rows) in [(View::whole(rows, cols), rows), (second, rows / 2)] {
        let recoding = Recoding::of_view(Parts::Mxfp4, view, rows, cols).unwrap();
        for (index, found) in recoded(&recoding, &[&nibbles, &scales]).iter().enumerate() {
            let place = view.place(index / cols, index % cols);
            let code = nibbles[place / 2] >> (place % 2 * 4) & 15;
            let value = MAGNITUDES[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 };
            assert_eq!(*found, value * 2f32.powi(i32::from(scales[place / 32]) - 127), "{index}");
        }
        let refused = recoding.run(&[&nibbles, &vec![0xFF; scales.len()]], &mut vec![0; recoding.bytes()]);
        assert!(matches!(refused, Err(RecodeError::Content(_))));
    }
    let transposed = View { row_step: 1, col_step: cols, ..View::whole(cols, rows) };
    let transposed = View { stored: [rows, cols], ..transposed };
    assert_eq!(Recoding::of_view(Parts::Mxfp4, transposed, cols, rows).unwrap().format(), Format::F32);
    let narrow = View { stored: [4, 48], ..View::whole(48, 4) };
    assert!(Recoding::of_view(Parts::Mxfp4, View { row_step: 1, col_step: 48, ..narrow }, 48, 4).is_err());
    assert!(Recoding::new(Parts::Mxfp4, 2, 48).is_err());
}

#[test]
fn rows_of_blocks_stay_what_they_are_and_are_floats_across() {
    let (rows, cols) = (6, 96);
    let mut noise = Noise::new(11);
    let floats: Vec<f32> = (0..rows * cols).map(|_| noise.float(1.0)).collect();
    let row_bytes = Format::Q8_0.row_bytes(cols).unwrap();
    let mut stored = Vec::new();
    for row in floats.chunks_exact(cols) {
        crate::quant::quantise_row(Format::Q8_0, row, &mut stored).unwrap();
    }
    let mut values = vec![0.0; rows * cols];
    for (bytes, row) in stored.chunks_exact(row_bytes).zip(values.chunks_exact_mut(cols)) {
        dequantise_row(Format::Q8_0, bytes, row);
    }
    let second =
        View { stored: [rows, cols], first: cols, row_step: 2 * cols, ..View::whole(rows / 2, cols) };
    let turned = View { stored: [rows, cols], row_step: 1, col_step: cols, ..View::whole(cols, rows) };
    for (view, rows, cols, format) in
        [(second, rows / 2, cols, Format::Q8_0), (turned, cols, rows, Format::F32)]
    {
        let recoding = Recoding::of_view(Parts::Blocks(Format::Q8_0), view, rows, cols).unwrap();
        assert_eq!((recoding.format(), recoding.part_bytes()), (format, vec![stored.len()]));
        for (index, found) in recoded(&recoding, &[&stored]).iter().enumerate() {
            assert_eq!(*found, values[view.place(index / cols, index % cols)], "{format:?} {index}");
        }
    }
    let odd = View { stored: [6, 90], ..turned };
    assert!(Recoding::of_view(Parts::Blocks(Format::Q8_0), odd, 90, 6).is_err());
}
