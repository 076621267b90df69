//! What configurations say that a model is computed with, or refused for.

use membrane_formats::{Checkpoint, FormatError};
use serde_json::{Value, json};

use crate::published::{Tensor, write_weights};

/// A folder with this configuration and an embedding, opened.
fn opened(config: &Value) -> Result<Checkpoint, FormatError> {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("config.json"), config.to_string()).unwrap();
    let embedding = [("model.embed_tokens.weight".to_owned(), Tensor::f32(&[2, 8], &[1.0; 16]))];
    write_weights(&root.path().join("model.safetensors"), &embedding.into(), |_| true);
    Checkpoint::open(root.path())
}

#[test]
fn what_is_not_known_of_yarn_is_refused() {
    for (more, named) in [
        (json!({"attn_facter": 0.9}), "attn_facter"),
        (json!({"llama_4_scaling_beta": 0.1}), "llama_4_scaling_beta"),
        (json!({"attn_factor": "x"}), "attn_factor"),
        (json!({"attn_factor": 0.9, "attention_factor": 1.2}), "attn_factor"),
    ] {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = opened(&json!({"model_type": "qwen3", "rope_scaling": scaling})).unwrap_err().to_string();
        assert!(error.contains(named), "{more}: {error}");
    }
}
