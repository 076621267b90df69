//! Matrices quantised as folders have them: their parts, and the floats that they stand for.

use half::{bf16, f16};
use safetensors::Dtype;

use super::Scheme;
use crate::published::{Tensor, fp8, nearest_float8};

/// Elements of an integer group.
pub const GROUP: usize = 32;

type Parts = Vec<(&'static str, Tensor)>;

/// The parts of a matrix, and the floats that they stand for.
pub fn quantise(scheme: Scheme, x: &[f32], rows: usize, cols: usize) -> (Parts, Vec<f32>) {
    match scheme {
        Scheme::Fp8Blocks => fp8(x, rows, cols, [16, 32]),
        Scheme::Fp8Tensor => fp8(x, rows, cols, [rows, cols]),
        Scheme::Fp8Modelopt { by_rows } => {
            let (mut parts, meaning) = fp8(x, rows, cols, if by_rows { [1, cols] } else { [16, 32] });
            let (name, scales) = parts.last_mut().unwrap();
            let shape = if by_rows { vec![rows] } else { vec![rows.div_ceil(16), 1, cols / 32, 1] };
            *name = "weight_scale";
            *scales = Tensor::f32(&shape, &scales.floats());
            (parts, meaning)
        }
        Scheme::Gptq { v2, symmetric, act_order } => {
            let order = |column: usize| if act_order { column * 5 % (cols / GROUP) } else { column / GROUP };
            let integers = Integers::new(x, [rows, cols], symmetric, &order);
            (integers.gptq(if v2 { 0 } else { 1 }, &order), integers.meaning(&order))
        }
        Scheme::GptqFewBits { bits, symmetric } => gptq_few_bits(x, [rows, cols], bits, symmetric),
        Scheme::Gptq8 { act_order } => {
            let order = |column: usize| if act_order { column * 5 % (cols / GROUP) } else { column / GROUP };
            gptq8(x, [rows, cols], &order)
        }
        Scheme::Awq => {
            let order = |column: usize| column / GROUP;
            let integers = Integers::new(x, [rows, cols], false, &order);
            (integers.awq(), integers.meaning(&order))
        }
        Scheme::PackQuantized { zeros, act_order } => {
            let order = |column: usize| if act_order { column * 5 % (cols / GROUP) } else { column / GROUP };
            let rounded = |scale: f32| f16::from_f32(bf16::from_f32(scale).to_f32());
            let integers = if zeros {
                Integers::new(x, [rows, cols], false, &order)
            } else {
                Integers::with_scales(x, [rows, cols], true, &order, &rounded)
            };
            let mut parts = integers.packed(zeros);
            parts.extend(act_order.then(|| ("weight_g_idx", indices(cols, &order))));
            (parts, integers.meaning(&order))
        }
        Scheme::Int8 { packed, act_order } => {
            let groups = if packed || act_order { cols / GROUP } else { 1 };
            let order = |column: usize| if act_order { column * 3 % groups } else { column * groups / cols };
            let (mut parts, meaning) = int8(x, [rows, cols], packed, groups, &order);
            parts.extend(act_order.then(|| ("weight_g_idx", indices(cols, &order))));
            (parts, meaning)
        }
        Scheme::Nvfp4 { compressed } => nvfp4(x, [rows, cols], 16, compressed),
        Scheme::Nvfp4Of32 => nvfp4(x, [rows, cols], 32, false),
        Scheme::Mx { bits, compressed } => microscaled(x, [rows, cols], bits, compressed),
    }
}

/// The group of each column.
fn indices(cols: usize, order: &dyn Fn(usize) -> usize) -> Tensor {
    let bytes = (0..cols).flat_map(|col| (order(col) as i32).to_le_bytes()).collect();
    Tensor { dtype: Dtype::I32, shape: vec![cols], bytes }
}

/// A matrix of 4-bit integers.
struct Integers {
    rows: usize,
    cols: usize,
    groups: usize,
    q: Vec<u8>,      // [rows, cols]
    zero: Vec<u8>,   // [groups, rows], 1 to 15
    scale: Vec<f16>, // [groups, rows]
}

impl Integers {
    fn new(x: &[f32], shape: [usize; 2], symmetric: bool, order: &dyn Fn(usize) -> usize) -> Self {
        Self::with_scales(x, shape, symmetric, order, &f16::from_f32)
    }

    fn with_scales(
        x: &[f32],
        [rows, cols]: [usize; 2],
        symmetric: bool,
        order: &dyn Fn(usize) -> usize,
        rounded: &dyn Fn(f32) -> f16,
    ) -> Self {
        let groups = cols / GROUP;
        let mut all = Self {
            rows,
            cols,
            groups,
            q: vec![0; rows * cols],
            zero: vec![8; groups * rows],
            scale: vec![f16::ZERO; groups * rows],
        };
        for row in 0..rows {
            for group in 0..groups {
                let own = || (0..cols).filter(|&col| order(col) == group).map(|col| x[row * cols + col]);
                let (low, high) = own().fold((0f32, 0f32), |(low, high), x| (low.min(x), high.max(x)));
                let place = group * rows + row;
                let range = if symmetric { 2.0 * low.abs().max(high) } else { high - low };
                all.scale[place] = rounded(range.max(1e-4) / 15.0);
                if !symmetric {
                    all.zero[place] = (-low / all.scale[place].to_f32()).round().clamp(1.0, 15.0) as u8;
                }
            }
            for col in 0..cols {
                let place = order(col) * rows + row;
                let steps = x[row * cols + col] / all.scale[place].to_f32() + f32::from(all.zero[place]);
                all.q[row * cols + col] = steps.round().clamp(0.0, 15.0) as u8;
            }
        }
        all
    }

    fn meaning(&self, order: &dyn Fn(usize) -> usize) -> Vec<f32> {
        let value = |(index, q): (usize, &u8)| {
            let place = order(index % self.cols) * self.rows + index / self.cols;
            self.scale[place].to_f32() * (f32::from(*q) - f32::from(self.zero[place]))
        };
        self.q.iter().enumerate().map(value).collect()
    }

    /// Words [outer, inner / 8] or, with `columns`, [inner / 8, outer], of eight nibbles each.
    fn words(count: usize, word: impl Fn(usize) -> u32) -> Vec<u8> {
        (0..count).flat_map(|index| word(index).to_le_bytes()).collect()
    }

    fn scales(&self) -> Tensor {
        let bytes = self.scale.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        Tensor { dtype: Dtype::F16, shape: vec![self.groups, self.rows], bytes }
    }

    fn gptq(&self, offset: u8, order: &dyn Fn(usize) -> usize) -> Parts {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let pack = |of: &dyn Fn(usize) -> u8| (0..8).fold(0, |all, i| all | u32::from(of(i)) << (4 * i));
        let q = Self::words(cols / 8 * rows, |index| {
            let (eight, row) = (index / rows, index % rows);
            pack(&|i| self.q[row * cols + 8 * eight + i])
        });
        let zeros = Self::words(groups * rows / 8, |index| pack(&|i| self.zero[8 * index + i] - offset));
        vec![
            ("qweight", Tensor { dtype: Dtype::I32, shape: vec![cols / 8, rows], bytes: q }),
            ("qzeros", Tensor { dtype: Dtype::I32, shape: vec![groups, rows / 8], bytes: zeros }),
            ("scales", self.scales()),
            ("g_idx", indices(cols, order)),
        ]
    }

    fn packed(&self, zeros: bool) -> Parts {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let pack = |of: &dyn Fn(usize) -> u8| (0..8).fold(0, |all, i| all | u32::from(of(i)) << (4 * i));
        let q = Self::words(rows * cols / 8, |index| pack(&|i| self.q[8 * index + i]));
        let scale = |index: usize| self.scale[index % groups * rows + index / groups];
        let bytes = |index: usize| match zeros {
            true => scale(index).to_le_bytes(),
            false => bf16::from_f32(scale(index).to_f32()).to_le_bytes(),
        };
        let dtype = if zeros { Dtype::F16 } else { Dtype::BF16 };
        let scales = (0..rows * groups).flat_map(bytes).collect();
        let shape = [rows as i64, cols as i64].iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let mut parts = vec![
            ("weight_packed", Tensor { dtype: Dtype::I32, shape: vec![rows, cols / 8], bytes: q }),
            ("weight_scale", Tensor { dtype, shape: vec![rows, groups], bytes: scales }),
            ("weight_shape", Tensor { dtype: Dtype::I64, shape: vec![2], bytes: shape }),
        ];
        if zeros {
            let words = Self::words(rows / 8 * groups, |index| {
                let (eight, group) = (index / groups, index % groups);
                pack(&|i| self.zero[group * rows + 8 * eight + i])
            });
            let tensor = Tensor { dtype: Dtype::I32, shape: vec![rows / 8, groups], bytes: words };
            parts.push(("weight_zero_point", tensor));
        }
        parts
    }

    fn awq(&self) -> Parts {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let pack =
            |of: &dyn Fn(usize) -> u8| (0..8).fold(0, |all, i| all | u32::from(of(ORDER[i])) << (4 * i));
        let q = Self::words(cols * rows / 8, |index| {
            let (col, eight) = (index / (rows / 8), index % (rows / 8));
            pack(&|i| self.q[(8 * eight + i) * cols + col])
        });
        let zeros = Self::words(groups * rows / 8, |index| pack(&|i| self.zero[8 * index + i]));
        vec![
            ("qweight", Tensor { dtype: Dtype::I32, shape: vec![cols, rows / 8], bytes: q }),
            ("qzeros", Tensor { dtype: Dtype::I32, shape: vec![groups, rows / 8], bytes: zeros }),
            ("scales", self.scales()),
        ]
    }
}

/// Streams of integers and of zero points less 1, and scales; and what they stand for.
fn gptq_few_bits(x: &[f32], [rows, cols]: [usize; 2], bits: u32, symmetric: bool) -> (Parts, Vec<f32>) {
    // Of 2 bits 64 columns are a block, where a matrix has them.
    let group = if cols % 64 == 0 { 64 } else { GROUP };
    let (groups, most) = (cols / group, (1 << bits) - 1);
    let (mut scales, mut zeros) = (vec![f16::ZERO; groups * rows], vec![1 << (bits - 1); groups * rows]);
    for (i, run) in x.chunks(group).enumerate() {
        let place = i % groups * rows + i / groups;
        let (low, high) = run.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        let range = if symmetric { 2.0 * high.max(-low) } else { high - low };
        scales[place] = f16::from_f32(range.max(1e-4) / most as f32);
        if !symmetric {
            zeros[place] = (-low / scales[place].to_f32()).round().clamp(1.0, most as f32) as u32;
        }
    }
    let place = |row: usize, col: usize| col / group * rows + row;
    let q = |row: usize, col: usize| {
        let steps = x[row * cols + col] / scales[place(row, col)].to_f32() + zeros[place(row, col)] as f32;
        steps.round().clamp(0.0, most as f32) as u32
    };
    let meaning = (0..rows * cols).map(|i| {
        let place = place(i / cols, i % cols);
        scales[place].to_f32() * (q(i / cols, i % cols) as f32 - zeros[place] as f32)
    });
    // Word `number` of a stream.
    let word = |number: usize, of: &dyn Fn(usize) -> u32| {
        let bit = |place: usize| of(place / bits as usize) >> (place % bits as usize) & 1;
        (0..32).fold(0, |all, i| all | bit(32 * number + i) << i).to_le_bytes()
    };
    let words = |rows: usize| rows * bits as usize / 32;
    let integers = (0..words(cols) * rows).flat_map(|i| word(i / rows, &|col| q(i % rows, col))).collect();
    let packed_zeros = (0..groups * words(rows))
        .flat_map(|i| word(i % words(rows), &|row| zeros[i / words(rows) * rows + row] - 1))
        .collect();
    let halves = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let parts = vec![
        ("qweight", Tensor { dtype: Dtype::I32, shape: vec![words(cols), rows], bytes: integers }),
        ("qzeros", Tensor { dtype: Dtype::I32, shape: vec![groups, words(rows)], bytes: packed_zeros }),
        ("scales", Tensor { dtype: Dtype::F16, shape: vec![groups, rows], bytes: halves }),
    ];
    (parts, meaning.collect())
}

/// Bytes, zero points less 1, scales and groups; and what they stand for.
fn gptq8(x: &[f32], [rows, cols]: [usize; 2], order: &dyn Fn(usize) -> usize) -> (Parts, Vec<f32>) {
    let groups = cols / GROUP;
    let scale = |row: usize, group: usize| {
        let own = (0..cols).filter(|&col| order(col) == group).map(|col| x[row * cols + col].abs());
        f16::from_f32(own.fold(1e-4, f32::max) / 127.0)
    };
    let scales: Vec<f16> = (0..groups * rows).map(|place| scale(place % rows, place / rows)).collect();
    let of = |row: usize, col: usize| scales[order(col) * rows + row].to_f32();
    let steps = |row: usize, col: usize| (x[row * cols + col] / of(row, col)).round().clamp(-128.0, 127.0);
    let meaning = (0..rows * cols).map(|i| steps(i / cols, i % cols) * of(i / cols, i % cols)).collect();
    let words = (0..rows * cols).map(|byte| {
        let (word, place) = (byte / 4, byte % 4);
        (steps(word % rows, word / rows * 4 + place) + 128.0) as u8
    });
    let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let parts = vec![
        ("qweight", Tensor { dtype: Dtype::I32, shape: vec![cols / 4, rows], bytes: words.collect() }),
        (
            "qzeros",
            Tensor { dtype: Dtype::I32, shape: vec![groups, rows / 4], bytes: vec![127; groups * rows] },
        ),
        ("scales", Tensor { dtype: Dtype::F16, shape: vec![groups, rows], bytes }),
        ("g_idx", indices(cols, order)),
    ];
    (parts, meaning)
}

fn int8(
    x: &[f32],
    [rows, cols]: [usize; 2],
    packed: bool,
    groups: usize,
    order: &dyn Fn(usize) -> usize,
) -> (Parts, Vec<f32>) {
    let place = |i: usize| i / cols * groups + order(i % cols);
    let mut largest = vec![1e-4_f32; rows * groups];
    for (i, x) in x.iter().enumerate() {
        largest[place(i)] = largest[place(i)].max(x.abs());
    }
    let scales: Vec<bf16> = largest.iter().map(|largest| bf16::from_f32(largest / 127.0)).collect();
    let scale = |i: usize| scales[place(i)].to_f32();
    let steps: Vec<f32> =
        x.iter().enumerate().map(|(i, x)| (x / scale(i)).round().clamp(-128.0, 127.0)).collect();
    let meaning = steps.iter().enumerate().map(|(i, step)| step * scale(i)).collect();
    let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let scales = Tensor { dtype: Dtype::BF16, shape: vec![rows, groups], bytes };
    let weights = if packed {
        let bytes = steps.iter().map(|step| (step + 128.0) as u8).collect();
        ("weight_packed", Tensor { dtype: Dtype::I32, shape: vec![rows, cols / 4], bytes })
    } else {
        let bytes = steps.iter().map(|&step| step as i8 as u8).collect();
        ("weight", Tensor { dtype: Dtype::I8, shape: vec![rows, cols], bytes })
    };
    (vec![weights, ("weight_scale", scales)], meaning)
}

/// The float of 4 bits that a code stands for.
fn float4(code: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    MAGNITUDES[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 }
}

/// The nearest float of 4 bits.
fn nearest_float4(x: f32) -> u8 {
    let near = |&a: &u8, &b: &u8| (float4(a) - x).abs().total_cmp(&(float4(b) - x).abs());
    if x.is_finite() { (0..16).min_by(near).unwrap() } else { 0 }
}

fn packed_float4(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|two| two[0] | two[1] << 4).collect()
}

/// Blocks of 32 with a power of two as their scale.
fn microscaled(x: &[f32], [rows, cols]: [usize; 2], bits: u32, compressed: bool) -> (Parts, Vec<f32>) {
    let (mut exponents, mut codes, mut meaning) = (Vec::new(), Vec::new(), Vec::new());
    for block in x.chunks(32) {
        let largest = block.iter().fold(1e-6f32, |largest, x| largest.max(x.abs()));
        let exponent = (largest / if bits == 4 { 6.0 } else { 448.0 }).log2().ceil();
        let scale = exponent.exp2();
        exponents.push((exponent + 127.0) as u8);
        for x in block {
            let (float, code) = match bits {
                4 => (float4(nearest_float4(x / scale)), nearest_float4(x / scale)),
                _ => nearest_float8(x / scale),
            };
            codes.push(code);
            meaning.push(float * scale);
        }
    }
    let weight = match bits {
        4 => Tensor::u8(&[rows, cols / 2], packed_float4(&codes)),
        _ => Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols], bytes: codes },
    };
    let name = if bits == 4 && compressed { "weight_packed" } else { "weight" };
    let dtype = if compressed { Dtype::U8 } else { Dtype::F8_E8M0 };
    let scales = Tensor { dtype, shape: vec![rows, cols / 32], bytes: exponents };
    (vec![(name, weight), ("weight_scale", scales)], meaning)
}

fn nvfp4(x: &[f32], [rows, cols]: [usize; 2], group: usize, compressed: bool) -> (Parts, Vec<f32>) {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    // A power of two, so that one over it is exact.
    let factor = 2f32.powi((largest / 6.0 / 448.0).log2().ceil() as i32);
    let (mut scales, mut meant) = (Vec::new(), Vec::new());
    let mut codes = Vec::new();
    for run in x.chunks(group) {
        let largest = run.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let (scale, code) = nearest_float8(largest / 6.0 / factor);
        scales.push(code);
        meant.push(scale);
        codes.extend(run.iter().map(|x| nearest_float4(x / (scale * factor))));
    }
    let meaning =
        codes.iter().enumerate().map(|(i, code)| float4(*code) * meant[i / group] * factor).collect();
    let names = match compressed {
        true => ["weight_packed", "weight_scale", "weight_global_scale"],
        false => ["weight", "weight_scale", "weight_scale_2"],
    };
    let factor = if compressed { 1.0 / factor } else { factor };
    let parts = vec![
        (names[0], Tensor { dtype: Dtype::U8, shape: vec![rows, cols / 2], bytes: packed_float4(&codes) }),
        (names[1], Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols / group], bytes: scales }),
        (names[2], Tensor { dtype: Dtype::F32, shape: vec![1], bytes: factor.to_le_bytes().to_vec() }),
    ];
    (parts, meaning)
}
