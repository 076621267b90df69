//! The model of a quantised folder as a GGUF file, quantised in another way.

use std::path::Path;

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, DType, FormatError, Scheme, TensorInfo};
use membrane_kernels::quant::{dequantise_row, quantise_row};
use membrane_kernels::recode::{FloatFormat, Parts, ScaleFormat};
use membrane_kernels::{Format, Recoding};

/// A matrix that the twin has in its own format, or another tensor.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    dtype: DType,
    bytes: Vec<u8>,
}

/// Writes a folder of Qwen3-MoE as a GGUF file: what is quantised there is in `format` here, the rest in single precision.
pub fn write(folder: &Path, format: Format, out: &Path) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let number = |key: &str| checkpoint.metadata().require_u32(&format!("qwen3moe.{key}")).unwrap();
    let mut names: Vec<String> =
        ["token_embd", "output_norm", "output"].map(|name| format!("{name}.weight")).to_vec();
    for block in 0..number("block_count") {
        let parts = [
            "attn_norm",
            "ffn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "attn_q_norm",
            "attn_k_norm",
            "ffn_gate_inp",
        ];
        names.extend(parts.map(|part| format!("blk.{block}.{part}.weight")));
        for expert in 0..number("expert_count") {
            names
                .extend(["gate", "up", "down"].map(|part| format!("blk.{block}.ffn_{part}.{expert}.weight")));
        }
    }
    let tensors: Vec<Tensor> = names.iter().map(|name| tensor(&checkpoint, name, format)).collect();
    let mut writer = GgufWriter::new(out, checkpoint.metadata().clone());
    for tensor in &tensors {
        writer.declare(&tensor.name, tensor.dtype, &tensor.dims).unwrap();
    }
    let mut tensors = tensors.iter();
    writer.write(|_, sink| -> Result<(), FormatError> { sink.put(&tensors.next().unwrap().bytes) }).unwrap();
}

fn tensor(checkpoint: &Checkpoint, name: &str, format: Format) -> Tensor {
    let read = |info: &TensorInfo| {
        let mut bytes = vec![0; info.bytes as usize];
        checkpoint.read(info, 0, &mut bytes).unwrap();
        bytes
    };
    let Some(found) = checkpoint.quantised(name).unwrap() else {
        let info = checkpoint.require(name).unwrap();
        let mut floats = vec![0.0; info.shape.elements() as usize];
        dequantise_row(Format::from_name(info.dtype.name()).unwrap(), &read(info), &mut floats);
        let bytes = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        return Tensor { name: name.into(), dims: info.shape.dims().to_vec(), dtype: DType::F32, bytes };
    };
    let [stored, rows] = found.parts[0].shape.dims() else { panic!("{name} is no matrix") };
    let (parts, cols) = match found.scheme {
        Scheme::Fp8 => {
            (Parts::Fp8 { scales: ScaleFormat::Float(FloatFormat::BF16), block: [128, 128] }, *stored)
        }
        Scheme::Nvfp4 { .. } => (Parts::Nvfp4 { group: 16 }, 2 * stored),
        other => panic!("{name} is in {other:?}"),
    };
    let (rows, cols) = (*rows as usize, cols as usize);
    let recoding = Recoding::new(parts, rows, cols).unwrap();
    let bytes: Vec<Vec<u8>> = found.parts.iter().map(|part| read(part)).collect();
    let mut blocks = vec![0; recoding.bytes()];
    recoding.run(&[&bytes[0][..], &bytes[1]], &mut blocks).unwrap();
    let factor = match found.scheme {
        Scheme::Nvfp4 { divides: false } => f32::from_le_bytes(bytes[2][..].try_into().unwrap()),
        _ => 1.0,
    };
    let mut made = Vec::new();
    for row in blocks.chunks(blocks.len() / rows) {
        let mut floats = vec![0.0; cols];
        dequantise_row(recoding.format(), row, &mut floats);
        floats.iter_mut().for_each(|float| *float *= factor);
        quantise_row(format, &floats, &mut made).unwrap();
    }
    let dtype = DType::from_name(format.name()).unwrap();
    Tensor { name: name.into(), dims: vec![cols as u64, rows as u64], dtype, bytes: made }
}
