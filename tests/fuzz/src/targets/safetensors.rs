//! A safetensors file in a folder whose configuration is fine.

use std::fs;

use membrane_formats::Checkpoint;

use super::{gguf, plain};
use crate::scratch;

/// What headers are made of.
pub const WORDS: &[&str] = &[
    "\"dtype\"",
    "\"shape\"",
    "\"data_offsets\"",
    "\"__metadata__\"",
    "BF16",
    "F8_E4M3",
    "I32",
    "model.embed_tokens.weight",
];

const CONFIG: &str =
    r#"{"model_type":"qwen3","num_hidden_layers":1,"hidden_size":8,"tie_word_embeddings":true}"#;
const EMBEDDING: &str = r#""model.embed_tokens.weight":{"dtype":"BF16","shape":[2,8],"data_offsets":[0,32]}"#;

/// Opens a folder with the bytes as its weights.
pub fn target(data: &[u8]) {
    let folder = scratch::folder().join("safetensors");
    fs::create_dir_all(&folder).expect("a folder");
    scratch::file_or_none(&folder.join("config.json"), Some(CONFIG.as_bytes()));
    scratch::file_or_none(&folder.join("model.safetensors"), Some(data));
    match Checkpoint::open(&folder) {
        Ok(checkpoint) => gguf::sound(&checkpoint, (data.len().max(CONFIG.len())) as u64),
        Err(error) => plain(&error),
    }
}

/// A file of this header and so many bytes.
pub(super) fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

/// Headers with a little of everything.
pub fn seeds() -> Vec<Vec<u8>> {
    let more = [
        r#""__metadata__":{"format":"pt"}"#,
        r#""scalar":{"dtype":"F32","shape":[],"data_offsets":[32,36]}"#,
        r#""wide":{"dtype":"U8","shape":[2,1,2,1,2],"data_offsets":[36,44]}"#,
        r#""empty":{"dtype":"F16","shape":[0,7],"data_offsets":[44,44]}"#,
    ];
    let scaled = r#""model.layers.0.self_attn.q_proj.weight":{"dtype":"F8_E4M3","shape":[4,8],"data_offsets":[32,64]},
        "model.layers.0.self_attn.q_proj.weight_scale_inv":{"dtype":"F32","shape":[1,1],"data_offsets":[64,68]}"#;
    vec![
        file(&format!("{{{EMBEDDING}}}   "), 32),
        file(&format!("{{{EMBEDDING},{}}}", more.join(",")), 44),
        file(&format!("{{{EMBEDDING},{scaled}}}"), 68),
    ]
}
