//! Integers as GPTQ and AWQ have them.

use super::*;

/// Compares a recoded GPTQ matrix with its formula.
fn check_gptq(parts: Parts, rows: usize, cols: usize, seed: u64, order: Option<Vec<u32>>) {
    let Parts::Gptq { zero_offset, symmetric, groups, .. } = parts else { panic!("not GPTQ") };
    let mut noise = Noise::new(seed);
    let (nibbles, scales) = (bytes(&mut noise, rows * cols / 2), halves(&mut noise, groups * rows));
    let stored = 8 - zero_offset;
    let zeros = match symmetric {
        true => vec![stored | stored << 4; groups * rows / 2],
        false => bytes(&mut noise, groups * rows / 2),
    };
    let indices: Vec<u8> = order.iter().flatten().flat_map(|group| group.to_le_bytes()).collect();
    let mut given: Vec<&[u8]> = vec![&nibbles, &zeros, &scales];
    given.extend(order.as_ref().map(|_| &indices[..]));
    let recoding = Recoding::new(parts, rows, cols).unwrap();
    for (index, found) in recoded(&recoding, &given).iter().enumerate() {
        let (row, col) = (index / cols, index % cols);
        let group = order.as_ref().map_or(col * groups / cols, |order| order[col] as usize);
        let q = nibble(&nibbles, col / 8 * rows + row, col % 8);
        // One less than 0 borrows from the next.
        let word = group * rows / 8 + row / 8;
        let all = u32::from_le_bytes(zeros[4 * word..4 * word + 4].try_into().unwrap());
        let all = all.wrapping_add(0x1111_1111 * u32::from(zero_offset));
        let zero = (all >> (4 * (row % 8)) & 15) as i32;
        assert_eq!(*found, half_at(&scales, group * rows + row) * (q - zero) as f32, "{parts:?} {row} {col}");
    }
}

#[test]
fn gptq_is_its_formula() {
    for zero_offset in [0, 1] {
        for symmetric in [true, false] {
            for (groups, indices) in [(1, false), (4, true)] {
                let parts = Parts::Gptq {
                    scales: FloatFormat::F16,
                    zero_offset,
                    symmetric,
                    groups,
                    indices,
                    any_order: false,
                };
                let order = (0..128).map(|col| col * groups as u32 / 128).collect();
                check_gptq(parts, 24, 128, 3, indices.then_some(order));
            }
            let parts = Parts::Gptq {
                scales: FloatFormat::F16,
                zero_offset,
                symmetric,
                groups: 4,
                indices: true,
                any_order: true,
            };
            check_gptq(parts, 16, 72, 4, Some((0..72).map(|col| col * 7 % 4).collect()));
            let recoding = |cols| Recoding::new(parts, 16, cols).unwrap();
            assert_eq!((recoding(72).format(), recoding(72).is_ordered()), (Format::F32, false));
            check_gptq(parts, 16, 256, 7, Some((0..256).map(|col| col * 7 % 4).collect()));
            let bits = if symmetric { Format::Q4_0 } else { Format::Q5_0 };
            assert_eq!((recoding(256).format(), recoding(256).is_ordered()), (bits, true));
        }
    }
    let small = Parts::Gptq {
        scales: FloatFormat::F16,
        zero_offset: 1,
        symmetric: true,
        groups: 8,
        indices: false,
        any_order: false,
    };
    check_gptq(small, 8, 128, 5, None);
}

/// Integer number `index` of a stream of bits.
fn of_stream(bits: usize, words: impl Fn(usize) -> u32, index: usize) -> i32 {
    let bit = |place: usize| words(place / 32) >> (place % 32) & 1;
    (0..bits).map(|i| (bit(index * bits + i) << i) as i32).sum()
}

#[test]
fn gptq_of_2_and_3_bits_is_its_formula() {
    let (rows, cols) = (64, 256);
    let mut noise = Noise::new(20);
    let word_at =
        |bytes: &[u8], index: usize| u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap());
    for (bits, symmetric, groups, any_order, zero_offset, format) in [
        (2, true, 4, false, 1, Format::Q2_0),
        (2, true, 1, false, 0, Format::Q2_0),
        (2, true, 8, false, 1, Format::Q4_0),
        (2, true, 4, true, 1, Format::Q4_0),
        (2, false, 4, false, 1, Format::Q4_0),
        (2, false, 4, true, 0, Format::Q4_0),
        (3, true, 2, false, 1, Format::Q4_0),
        (3, false, 4, false, 1, Format::Q4_0),
        (3, false, 4, true, 0, Format::Q4_0),
    ] {
        let (integers, scales) =
            (bytes(&mut noise, rows * cols * bits / 8), halves(&mut noise, groups * rows));
        let middle = 1 << (bits - 1);
        let zeros = match symmetric {
            true => {
                let code = (middle - i32::from(zero_offset)) as u32;
                let bit = |place: usize| code >> (place % bits) & 1;
                let byte = |i: usize| (0..8).map(|k| (bit(8 * i + k) << k) as u8).sum();
                (0..groups * rows * bits / 8).map(|i| byte(i % (rows * bits / 8))).collect()
            }
            false => bytes(&mut noise, groups * rows * bits / 8),
        };
        let group = |col: usize| if any_order { col * 5 % groups } else { col * groups / cols };
        let order = group_indices(cols, &group);
        let parts = Parts::GptqFewBits {
            scales: FloatFormat::F16,
            bits,
            zero_offset,
            symmetric,
            groups,
            indices: any_order,
            any_order,
        };
        let recoding = Recoding::new(parts, rows, cols).unwrap();
        assert_eq!((recoding.format(), recoding.is_ordered()), (format, any_order), "{parts:?}");
        let mut given: Vec<&[u8]> = vec![&integers, &zeros, &scales];
        given.extend(any_order.then_some(&order[..]));
        for (index, found) in recoded(&recoding, &given).iter().enumerate() {
            let (row, col) = (index / cols, index % cols);
            let q = of_stream(bits, |word| word_at(&integers, word * rows + row), col);
            let words = rows * bits / 32;
            let borrowed = if bits == 2 { 0x5555_5555 * u32::from(zero_offset) } else { 0 };
            let zero_word = |word: usize| word_at(&zeros, group(col) * words + word).wrapping_add(borrowed);
            let zero = match bits {
                2 => of_stream(2, zero_word, row),
                _ => (of_stream(3, zero_word, row) + i32::from(zero_offset)) & 7,
            };
            let wanted = half_at(&scales, group(col) * rows + row) * (q - zero) as f32;
            assert_eq!(*found, wanted, "{parts:?} {row} {col}");
        }
        if symmetric {
            let mut others = zeros.clone();
            others[5] ^= 8;
            given[1] = &others;
            assert!(recoding.run(&given, &mut vec![0; recoding.bytes()]).is_err(), "{parts:?}");
        }
    }
    let of = |bits, groups| Parts::GptqFewBits {
        scales: FloatFormat::F16,
        bits,
        zero_offset: 1,
        symmetric: true,
        groups,
        indices: false,
        any_order: false,
    };
    for (parts, rows, cols) in
        [(of(5, 1), 32, 64), (of(2, 1), 16, 64), (of(3, 4), 32, 64), (of(3, 0), 32, 64)]
    {
        assert!(matches!(Recoding::new(parts, rows, cols), Err(RecodeError::Shape { .. })), "{parts:?}");
    }
}

#[test]
fn a_zero_point_of_0_borrowed_from_the_next() {
    let (rows, cols, points) = (32, 32, [3, 0, 0, 5, 2, 0, 7, 1]);
    let point = |row: usize| points[row % 8] & if row < 16 { 7 } else { 3 };
    let scales = half::f16::ONE.to_le_bytes().repeat(rows);
    for bits in [4, 2] {
        let point = |row: usize| point(row) % (1 << bits);
        let less_one = |word: usize| -> u32 {
            let fields = 32 / bits;
            let less = |i: usize| (point(word * fields + i) as u32).wrapping_sub(1) << (bits * i);
            (0..fields).fold(0, |all: u32, i| all.wrapping_add(less(i)))
        };
        let zeros: Vec<u8> = (0..rows * bits / 32).flat_map(|word| less_one(word).to_le_bytes()).collect();
        let (zero_offset, groups) = (1, 1);
        let (symmetric, indices, any_order) = (false, false, false);
        let parts = match bits {
            4 => Parts::Gptq { scales: FloatFormat::F16, zero_offset, symmetric, groups, indices, any_order },
            _ => Parts::GptqFewBits {
                scales: FloatFormat::F16,
                bits,
                zero_offset,
                symmetric,
                groups,
                indices,
                any_order,
            },
        };
        let recoding = Recoding::new(parts, rows, cols).unwrap();
        let integers = vec![0; rows * cols * bits / 8];
        for (index, found) in recoded(&recoding, &[&integers, &zeros, &scales]).iter().enumerate() {
            assert_eq!(*found, -(point(index / cols) as f32), "{bits} bits, row {}", index / cols);
        }
    }
}

#[test]
fn gptq_of_8_bits_is_its_formula() {
    let (rows, cols, groups) = (12, 128, 4);
    let mut noise = Noise::new(10);
    let (integers, scales) = (bytes(&mut noise, rows * cols), halves(&mut noise, groups * rows));
    let run = |col: u32| col * groups as u32 / cols as u32;
    let any = |col: u32| col * 3 % groups as u32;
    for (zero_offset, indices, any_order) in [(0, false, false), (1, true, false), (1, true, true)] {
        let group = |col: u32| if any_order { any(col) } else { run(col) };
        let order: Vec<u8> = (0..cols as u32).flat_map(|col| group(col).to_le_bytes()).collect();
        let zeros = vec![128 - zero_offset; groups * rows];
        let mut parts: Vec<&[u8]> = vec![&integers, &zeros, &scales];
        parts.extend(indices.then_some(&order[..]));
        let recoding = Recoding::new(
            Parts::Gptq8 { scales: FloatFormat::F16, zero_offset, groups, indices, any_order },
            rows,
            cols,
        )
        .unwrap();
        assert_eq!((recoding.format(), recoding.is_ordered()), (Format::Q8_0, any_order));
        for (index, found) in recoded(&recoding, &parts).iter().enumerate() {
            let (row, col) = (index / cols, index % cols);
            let q = f32::from(integers[4 * (col / 4 * rows + row) + col % 4]) - 128.0;
            assert_eq!(*found, half_at(&scales, group(col as u32) as usize * rows + row) * q, "{row} {col}");
        }
        let mut others = zeros.clone();
        others[7] ^= 1;
        let mut wrong = parts.clone();
        wrong[1] = &others;
        assert!(recoding.run(&wrong, &mut vec![0; recoding.bytes()]).is_err());
    }
    let parts = Parts::Gptq8 {
        scales: FloatFormat::F16,
        zero_offset: 1,
        groups: 8,
        indices: false,
        any_order: false,
    };
    assert!(Recoding::new(parts, rows, cols).unwrap_err().to_string().contains("32 columns"));
}

#[test]
fn awq_is_its_formula() {
    let (rows, cols, groups) = (16, 64, 2);
    let mut noise = Noise::new(6);
    let (nibbles, zeros) = (bytes(&mut noise, rows * cols / 2), bytes(&mut noise, groups * rows / 2));
    let scales = halves(&mut noise, groups * rows);
    let recoding = Recoding::new(Parts::Awq { scales: FloatFormat::F16, groups }, rows, cols).unwrap();
    for (index, found) in recoded(&recoding, &[&nibbles, &zeros, &scales]).iter().enumerate() {
        let (row, col) = (index / cols, index % cols);
        let place = [0, 4, 1, 5, 2, 6, 3, 7][row % 8];
        let group = col * groups / cols;
        let q = nibble(&nibbles, (col * rows + row) / 8, place);
        let zero = nibble(&zeros, (group * rows + row) / 8, place);
        assert_eq!(*found, half_at(&scales, group * rows + row) * (q - zero) as f32, "{row} {col}");
    }
}

#[test]
fn bfloat16_scales_of_gptq_and_awq_are_the_same_numbers_in_half_precision() {
    let (rows, cols, groups) = (32, 128, 4);
    let mut noise = Noise::new(21);
    let (zero_offset, indices, any_order) = (1, false, false);
    let kinds = |scales| {
        let mut kinds = vec![
            (4, Parts::Awq { scales, groups }),
            // Groups that are not whole blocks.
            (4, Parts::Awq { scales, groups: 8 }),
            (8, Parts::Gptq8 { scales, zero_offset, groups, indices, any_order }),
        ];
        for (bits, symmetric) in [(2, false), (3, false), (2, true)] {
            let parts =
                Parts::GptqFewBits { bits, scales, zero_offset, symmetric, groups, indices, any_order };
            kinds.push((bits, parts));
        }
        for groups in [4, 8] {
            let parts = Parts::Gptq { scales, zero_offset, symmetric: false, groups, indices, any_order };
            kinds.push((4, parts));
        }
        kinds
    };
    for ((bits, half), (_, bfloat)) in kinds(FloatFormat::F16).into_iter().zip(kinds(FloatFormat::BF16)) {
        let recodings = [half, bfloat].map(|parts| Recoding::new(parts, rows, cols).unwrap());
        let count = recodings[0].part_bytes()[2] / 2;
        assert_eq!(recodings[0].part_bytes(), recodings[1].part_bytes());
        let numbers: Vec<half::bf16> =
            noise.floats(count, 0.1).into_iter().map(half::bf16::from_f32).collect();
        let scales = [
            numbers.iter().flat_map(|x| half::f16::from_f32(x.to_f32()).to_le_bytes()).collect::<Vec<u8>>(),
            numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ];
        let integers = bytes(&mut noise, rows * cols * bits / 8);
        let zeros = match (bits, half) {
            (8, _) => vec![127; recodings[0].part_bytes()[1]],
            (_, Parts::GptqFewBits { symmetric: true, .. }) => vec![0x55; recodings[0].part_bytes()[1]],
            _ => bytes(&mut noise, recodings[0].part_bytes()[1]),
        };
        let [wanted, found] = [0, 1].map(|i| recoded(&recodings[i], &[&integers, &zeros, &scales[i]]));
        assert_eq!(wanted, found, "{bfloat:?}");
        assert!(wanted.iter().any(|&x| x != 0.0));
        let large = half::bf16::from_f32(1e5).to_le_bytes().repeat(count);
        let refused = recodings[1].run(&[&integers, &zeros, &large], &mut vec![0; recodings[1].bytes()]);
        assert!(refused.unwrap_err().to_string().contains("65504"), "{bfloat:?}");
    }
    for (_, parts) in kinds(FloatFormat::F32) {
        assert!(Recoding::new(parts, rows, cols).unwrap_err().to_string().contains("16 bits"), "{parts:?}");
    }
}
