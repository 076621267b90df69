//! The tokenizer of a GGUF file: its metadata, put into the form that the text crate takes.
//!
//! Keys as the GGUF specification names them, `tokenizer.ggml.*`.

use membrane_formats::{Checkpoint, Metadata};
use membrane_text::{Tokenizer, VocabularySpec};

use crate::error::Result;

/// Builds the tokenizer of a checkpoint.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    Ok(Tokenizer::new(spec(checkpoint.metadata())?)?)
}

/// The source of the checkpoint's chat template (Jinja), if it has one.
pub fn chat_template(checkpoint: &Checkpoint) -> Result<Option<String>> {
    Ok(checkpoint.metadata().str("tokenizer.chat_template")?.map(str::to_owned))
}

fn spec(metadata: &Metadata) -> Result<VocabularySpec> {
    let strings = |key: &str| -> Result<Vec<String>> {
        let array = metadata.str_array(key)?;
        Ok(array.map(|a| a.iter().map(|s| s.to_string()).collect()).unwrap_or_default())
    };
    let special = |name: &str| metadata.u32(&format!("tokenizer.ggml.{name}_token_id"));
    Ok(VocabularySpec {
        model: metadata.str("tokenizer.ggml.model")?.unwrap_or("").to_owned(),
        pre: metadata.str("tokenizer.ggml.pre")?.unwrap_or("default").to_owned(),
        tokens: strings("tokenizer.ggml.tokens")?,
        token_types: metadata.i32_array("tokenizer.ggml.token_type")?.map(|t| t.to_vec()).unwrap_or_default(),
        merges: strings("tokenizer.ggml.merges")?,
        bos: special("bos")?,
        eos: special("eos")?,
        eot: special("eot")?,
        unk: special("unknown")?,
        pad: special("padding")?,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
    })
}
