//! What folders as models are published are made of: tensors of safetensors files, and matrices in floats of 8 bits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};

/// A tensor as a safetensors file has it.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its type.
    pub dtype: Dtype,
    /// Dimensions, the contiguous one last.
    pub shape: Vec<usize>,
    /// Its elements.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Floats in single precision.
    pub fn f32(shape: &[usize], floats: &[f32]) -> Self {
        let bytes = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// Floats rounded to bfloat16.
    pub fn bf16(shape: &[usize], floats: &[f32]) -> Self {
        let bytes = floats.iter().flat_map(|float| bf16::from_f32(*float).to_le_bytes()).collect();
        Self { dtype: Dtype::BF16, shape: shape.to_vec(), bytes }
    }

    /// Bytes that are elements.
    pub fn u8(shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { dtype: Dtype::U8, shape: shape.to_vec(), bytes }
    }

    /// The elements of a tensor in F32 or BF16.
    pub fn floats(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => {
                self.bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            _ => self.bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        }
    }
}

/// Writes the chosen tensors as a safetensors file.
///
/// # Panics
/// If a shape does not go with its bytes, or the file can't be written.
pub fn write_weights(path: &Path, tensors: &BTreeMap<String, Tensor>, chosen: impl Fn(&str) -> bool) {
    let chosen = tensors.iter().filter(|(name, _)| chosen(name));
    let views = chosen.map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name.clone(), view.unwrap_or_else(|error| panic!("{name}: {error}")))
    });
    serialize_to_file(views.collect::<Vec<_>>(), None, path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn float8(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-9),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// A float of 8 bits, and the byte that is nearest to a number.
pub fn nearest_float8(x: f32) -> (f32, u8) {
    static FLOATS: LazyLock<Vec<(f32, u8)>> = LazyLock::new(|| {
        (0..=255u8).filter(|code| code & 0x7F != 0x7F).map(|code| (float8(code), code)).collect()
    });
    let near = |(a, _): &&(f32, u8), (b, _): &&(f32, u8)| (a - x).abs().total_cmp(&(b - x).abs());
    FLOATS.iter().min_by(near).copied().unwrap_or_default()
}

/// The parts of a matrix [rows, cols] in floats of 8 bits with a scale for each block, by the endings of their names, and what
/// they stand for.
pub fn fp8(
    x: &[f32],
    rows: usize,
    cols: usize,
    block: [usize; 2],
) -> (Vec<(&'static str, Tensor)>, Vec<f32>) {
    let counts = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    let of = |index: usize| index / cols / block[0] * counts[1] + index % cols / block[1];
    let mut largest = vec![0.0f32; counts[0] * counts[1]];
    for (index, x) in x.iter().enumerate() {
        largest[of(index)] = largest[of(index)].max(x.abs());
    }
    let whole = counts == [1, 1];
    let scales: Vec<f32> =
        largest.iter().map(|x| if whole { x / 448.0 } else { bf16::from_f32(x / 448.0).to_f32() }).collect();
    let (floats, codes): (Vec<f32>, Vec<u8>) =
        x.iter().enumerate().map(|(i, x)| nearest_float8(x / scales[of(i)])).unzip();
    let meaning = floats.iter().enumerate().map(|(i, float)| scales[of(i)] * float).collect();
    let scale = match whole {
        true => ("weight_scale", Tensor::f32(&[], &scales)),
        false => ("weight_scale_inv", Tensor::bf16(&counts, &scales)),
    };
    let weight = Tensor { dtype: Dtype::F8_E4M3, shape: vec![rows, cols], bytes: codes };
    (vec![("weight", weight), scale], meaning)
}
