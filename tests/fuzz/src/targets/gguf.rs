//! GGUF files, header and data.

use membrane_formats::gguf::GgufWriter;
use membrane_formats::{Checkpoint, Container, DType, FormatError, Metadata, StrArray};

use super::plain;
use crate::scratch;

/// Keys that the reader knows.
pub const WORDS: &[&str] = &[
    "general.alignment",
    "split.count",
    "split.no",
    "general.architecture",
    "GGUF",
    "packed.experts.1",
    "packed.version",
    "Q4_K 1 256",
    " ordered",
];

/// Opens the bytes as a file.
pub fn target(data: &[u8]) {
    let path = scratch::file("model.gguf", data);
    match Checkpoint::open(&path) {
        Ok(checkpoint) => sound(&checkpoint, data.len() as u64),
        Err(error) => plain(&error),
    }
}

/// Tensors lie in the file one behind the other and can be read, and every entry can be asked for as any type.
pub(super) fn sound(checkpoint: &Checkpoint, file_bytes: u64) {
    let mut tensors: Vec<_> = checkpoint.tensors().iter().collect();
    tensors.sort_by_key(|tensor| (tensor.file, tensor.offset, tensor.bytes));
    let mut end = (0, 0);
    for tensor in tensors {
        assert!((tensor.file, tensor.offset) >= end, "{} overlaps another tensor", tensor.name);
        end = (tensor.file, tensor.offset + tensor.bytes);
        assert!(end.1 <= file_bytes, "{} ends at {} of {file_bytes}", tensor.name, end.1);
        let mut bytes = vec![0; tensor.bytes.min(64) as usize];
        checkpoint.read(tensor, tensor.bytes - bytes.len() as u64, &mut bytes).expect("a tensor of the file");
        let _ = checkpoint.published_name(&tensor.name);
        let in_gguf = checkpoint.container() != Container::Folder;
        assert!(!in_gguf || checkpoint.tensor(&tensor.name) == Some(tensor), "{} is not found", tensor.name);
    }
    let _ = checkpoint.forms();
    for layer in 0..3 {
        match checkpoint.packed(layer) {
            Ok(None) => {}
            Ok(Some(packed)) => {
                let ends = packed.places.iter().map(|place| place.end);
                assert!(ends.is_sorted() && packed.places[2].end <= packed.experts.shape.columns());
            }
            Err(error) => plain(&error),
        }
    }
    let metadata = checkpoint.metadata();
    for (key, value) in metadata.iter() {
        assert_eq!(metadata.get(key).map(ToString::to_string), Some(value.to_string()));
        // Each fits or is an error.
        let _ =
            (metadata.u32(key), metadata.u64(key), metadata.f32(key), metadata.bool(key), metadata.str(key));
        let _ = (metadata.i32_array(key), metadata.str_array(key), checkpoint.shown_key(key));
    }
}

/// Metadata of every kind of value.
pub(super) fn metadata(architecture: &str) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", architecture);
    metadata.set(&format!("{architecture}.block_count"), 2_u32);
    metadata.set("rope", 10_000_f32);
    metadata.set("flag", true);
    metadata.set("wide", u64::MAX);
    metadata.set("byte", -3_i8);
    metadata.set("tokenizer.ggml.tokens", ["a", "", "déjà"].into_iter().collect::<StrArray>());
    metadata.set("tokenizer.ggml.token_type", vec![1_i32, 3, 6]);
    metadata.set("tokenizer.ggml.scores", vec![0.5_f32, -1.0, f32::NAN]);
    metadata
}

/// A file of these tensors, filled with a pattern.
pub(super) fn written(metadata: Metadata, tensors: &[(&str, DType, &[u64])]) -> Result<Vec<u8>, FormatError> {
    let mut writer = GgufWriter::new("seed.gguf".as_ref(), metadata);
    for (name, dtype, dims) in tensors {
        writer.declare(name, *dtype, dims)?;
    }
    writer.write_to(Vec::new(), |tensor, sink| sink.put(&vec![7; tensor.bytes as usize]))
}

/// Files as the writer makes them, one in an older version, one with another alignment, and headers alone.
pub fn seeds() -> Vec<Vec<u8>> {
    let tensors: [(&str, DType, &[u64]); 3] = [
        ("token_embd.weight", DType::F32, &[8, 2]),
        ("output.weight", DType::Q8_0, &[32, 2]),
        ("blk.0.attn_norm.weight", DType::F32, &[8]),
    ];
    let mut aligned = metadata("qwen3moe");
    aligned.set("general.alignment", 64_u32);
    let mut packed = metadata("qwen3moe");
    let forms = ["Q8_0 2 32", "F8_E4M3 2 32", "Q4_0 32 64 ordered"];
    packed.set("packed.version", 1_u32);
    packed.set("packed.experts.0", forms.into_iter().collect::<StrArray>());
    let made = [
        written(metadata("llama"), &tensors),
        written(aligned, &[("w", DType::Q6_K, &[256]), ("x", DType::BF16, &[2, 2, 2])]),
        written(
            packed,
            &[("packed.experts.0", DType::I8, &[4096, 2]), ("packed.factors.0", DType::F32, &[3, 2])],
        ),
        written(Metadata::default(), &[]),
        written(metadata("llama"), &[]),
    ];
    let mut seeds: Vec<Vec<u8>> = made.into_iter().map(|made| made.expect("a valid file")).collect();
    let mut older = seeds[0].clone();
    older[4] = 2;
    seeds.push(older);
    seeds
}
