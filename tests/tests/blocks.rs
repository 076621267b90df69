//! Every quantised type against the floats that ggml makes of the same blocks. `tests/peer/blocks.py` writes the file.

#![cfg(test)]
#![forbid(unsafe_code)]

use std::path::PathBuf;

use membrane_formats::DType;
use membrane_kernels::Format;
use membrane_kernels::quant::dequantise_row;
use membrane_tests::golden::Golden;
use membrane_tests::workspace;

/// Types of activations, and those without blocks that are no weights.
const NO_WEIGHTS: [DType; 7] =
    [DType::Q8_1, DType::Q8_K, DType::I8, DType::I16, DType::I32, DType::I64, DType::F64];

/// The fixture, or a larger file of the same kind.
fn blocks() -> Golden {
    let named = std::env::var_os("MEMBRANE_BLOCKS").map(PathBuf::from);
    Golden::read(&named.unwrap_or_else(|| workspace().join("tests/fixtures/blocks.safetensors")))
}

#[test]
fn floats_are_those_of_ggml() {
    let blocks = blocks();
    for format in Format::ALL.into_iter().filter(|format| !format.is_float()) {
        let bytes = blocks.bytes(&format!("{format}.bytes")).expect("every format is in the file");
        let theirs = blocks.f32(&format!("{format}.floats")).unwrap();
        assert!(theirs.len() >= 512, "{format}");
        let mut ours = vec![0.0; theirs.len()];
        dequantise_row(format, &bytes, &mut ours);
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            // Zeros of either sign are equal, and NaNs of any payload.
            let same = ours == theirs || ours.is_nan() && theirs.is_nan();
            assert!(same, "{format} element {i}: {ours:e}, ggml has {theirs:e}");
        }
        println!("{format}: {} floats are ggml's", ours.len());
    }
}

#[test]
fn every_type_of_weights_in_files_is_one_of_the_kernels() {
    for dtype in DType::ALL.iter().filter(|dtype| DType::from_ggml_id(dtype.id()) == Some(**dtype)) {
        let format = Format::from_name(dtype.name());
        assert_eq!(format.is_none(), NO_WEIGHTS.contains(dtype), "{dtype}");
        if let Some(format) = format {
            let sizes = (format.block_elems() as u64, format.block_bytes() as u64);
            assert_eq!(sizes, (dtype.block_elems(), dtype.block_bytes()), "{dtype}");
        }
    }
}
