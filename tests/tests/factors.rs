//! A tensor `x.scale` beside `x.weight` multiplies it, a vector over the experts each expert: a model whose weights are
//! divided by powers of two, and which has these as factors, has the logits of the model itself to the bit.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::Path;

use membrane_engine::{LoadOptions, Precision, Prepared};
use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, DType, FormatError, TensorInfo};
use membrane_kernels::Format;
use membrane_kernels::quant::{dequantise_row, quantise_row};
use membrane_tests::workspace;

/// Divides the factors of NVFP4, another power of two.
const SMALL: f32 = 1024.0;

/// The factors of a matrix: one, or one for each expert; none for vectors.
fn factors(tensor: &TensorInfo) -> Vec<f32> {
    let name = tensor.name.bytes().map(usize::from).sum::<usize>();
    let count = match tensor.shape.dims() {
        [_, _, experts] => *experts as usize,
        [_, _] => 1,
        _ => 0,
    };
    (0..count).map(|expert| [8.0, 0.25, 2.0, 0.5, 4.0][(name + expert) % 5]).collect()
}

/// Divides what is stored as BF16 or F32.
fn divide(dtype: DType, bytes: &mut [u8], factor: f32) {
    match dtype {
        DType::F32 => {
            for x in bytes.as_chunks_mut::<4>().0 {
                *x = (f32::from_le_bytes(*x) / factor).to_le_bytes();
            }
        }
        DType::BF16 => {
            for x in bytes.as_chunks_mut::<2>().0 {
                let [low, high] = *x;
                let divided = (f32::from_le_bytes([0, 0, low, high]) / factor).to_le_bytes();
                assert_eq!(divided[..2], [0, 0], "a power of two changes the exponent alone");
                *x = [divided[2], divided[3]];
            }
        }
        other => panic!("a fixture with {other}"),
    }
}

fn write_divided(source: &Checkpoint, path: &Path, with_factors: bool) {
    let mut writer = GgufWriter::new(path, source.metadata().clone());
    let mut tensors = Vec::new();
    for tensor in source.tensors() {
        let factors = factors(tensor);
        writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
        tensors.push((tensor, factors.clone(), false));
        if with_factors && !factors.is_empty() {
            let name = tensor.name.replace(".weight", ".scale");
            writer.declare(&name, DType::F32, &[factors.len() as u64]).unwrap();
            tensors.push((tensor, factors, true));
        }
    }
    let mut tensors = tensors.into_iter();
    let written = writer.write::<FormatError>(|info, sink| {
        let (tensor, factors, is_factor) = tensors.next().unwrap();
        if is_factor {
            return sink.put(&factors.iter().flat_map(|factor| factor.to_le_bytes()).collect::<Vec<_>>());
        }
        let mut bytes = vec![0; info.bytes as usize];
        source.read(tensor, 0, &mut bytes)?;
        let part = bytes.len() / factors.len().max(1);
        for (bytes, factor) in bytes.chunks_exact_mut(part).zip(&factors) {
            divide(tensor.dtype, bytes, *factor);
        }
        sink.put(&bytes)
    });
    written.unwrap();
}

/// Writes all matrices whose rows are whole blocks in NVFP4 with factors beside them, or as the floats that these blocks and
/// factors stand for.
fn write_nvfp4(source: &Checkpoint, path: &Path, as_floats: bool) {
    let mut writer = GgufWriter::new(path, source.metadata().clone());
    let mut contents = Vec::new();
    for tensor in source.tensors() {
        let mut bytes = vec![0; tensor.bytes as usize];
        source.read(tensor, 0, &mut bytes).unwrap();
        let factors = factors(tensor);
        if factors.is_empty() || !tensor.shape.columns().is_multiple_of(64) {
            writer.declare(&tensor.name, tensor.dtype, tensor.shape.dims()).unwrap();
            contents.push(bytes);
            continue;
        }
        let mut floats = vec![0.0; tensor.shape.elements() as usize];
        dequantise_row(Format::from_name(tensor.dtype.name()).unwrap(), &bytes, &mut floats);
        let part = floats.len() / factors.len();
        let mut blocks = Vec::new();
        for (floats, factor) in floats.chunks_exact_mut(part).zip(&factors) {
            // Larger than the weights, so that the scales of the blocks are not the smallest that there are.
            floats.iter_mut().for_each(|x| *x *= SMALL / factor);
            let first = blocks.len();
            quantise_row(Format::NVFP4, floats, &mut blocks).unwrap();
            dequantise_row(Format::NVFP4, &blocks[first..], floats);
            floats.iter_mut().for_each(|x| *x *= factor / SMALL);
        }
        let dtype = if as_floats { DType::F32 } else { DType::NVFP4 };
        writer.declare(&tensor.name, dtype, tensor.shape.dims()).unwrap();
        if as_floats {
            contents.push(floats.iter().flat_map(|x| x.to_le_bytes()).collect());
            continue;
        }
        contents.push(blocks);
        let name = tensor.name.replace(".weight", ".scale");
        writer.declare(&name, DType::F32, &[factors.len() as u64]).unwrap();
        contents.push(factors.iter().flat_map(|factor| (factor / SMALL).to_le_bytes()).collect());
    }
    let mut contents = contents.into_iter();
    writer.write::<FormatError>(|_, sink| sink.put(&contents.next().unwrap())).unwrap();
}

fn logits(path: &Path) -> Vec<u32> {
    logits_with(path, Precision::Fast)
}

fn logits_with(path: &Path, precision: Precision) -> Vec<u32> {
    let options = LoadOptions { context: Some(128), threads: Some(2), precision, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(path).unwrap().into();
    let model = Prepared::without_text(checkpoint, &options).unwrap().load(&mut |_, _| {}).unwrap();
    let mut session = model.session();
    session.append(&[5, 17, 900, 3, 3, 512, 77]).unwrap();
    session.append(&[12]).unwrap();
    session.logits().iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn factors_beside_the_weights_make_up_for_their_division() {
    let path = workspace().join("tests/fixtures/gguf/tiny-qwen3moe-BF16.gguf");
    let source = Checkpoint::open(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [with, without] = ["with.gguf", "without.gguf"].map(|name| folder.path().join(name));
    write_divided(&source, &with, true);
    write_divided(&source, &without, false);
    let expected = logits(&path);
    assert!(logits(&with) == expected);
    assert!(logits(&without) != expected, "factors that make no difference test nothing");
}

#[test]
fn nvfp4_with_factors_is_what_it_stands_for() {
    let source = Checkpoint::open(&workspace().join("tests/fixtures/gguf/tiny-qwen3moe-BF16.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [blocks, floats] = ["blocks.gguf", "floats.gguf"].map(|name| folder.path().join(name));
    write_nvfp4(&source, &blocks, false);
    write_nvfp4(&source, &floats, true);
    assert!(logits_with(&blocks, Precision::Reference) == logits_with(&floats, Precision::Reference));
}
