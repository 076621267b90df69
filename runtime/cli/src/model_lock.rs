//! What a lock file pins of a model: its files, its tokenizer, its chat template.

use anyhow::{Context, Result};
use membrane_formats::{Array, Checkpoint, Value};
use membrane_profile::{Digest, Digester, LockedFile, LockedModel};

use crate::digests;
use crate::report::Progress;

/// Metadata that a tokenizer is made from.
const TOKENIZER: &str = "tokenizer.ggml.";

/// The digests of a model. Reads all of its files.
pub fn of(checkpoint: &Checkpoint, quiet: bool) -> Result<LockedModel> {
    let total = checkpoint.files().iter().map(|file| file.bytes).sum();
    let mut progress = Progress::new("verify", quiet);
    let mut done = 0;
    let mut files = Vec::new();
    for file in checkpoint.files() {
        // Through the handle that the engine reads it through.
        let digest = digests::of_file(&file.file, &mut |bytes| {
            done += bytes;
            progress.bytes(done, total);
        });
        let name = checkpoint.name_of(file).to_string_lossy().into_owned();
        let digest = digest.with_context(|| format!("{}: can't be read", file.path.display()))?;
        files.push(LockedFile { name, bytes: file.bytes, digest });
    }
    progress.done();
    let chat_templates = membrane_engine::chat_templates(checkpoint)?;
    Ok(LockedModel {
        tokenizer: tokenizer(checkpoint)?,
        chat_template: chat_templates.map(|templates| Digest::of(templates.joined().as_bytes())),
        files,
    })
}

/// The digest of what the tokenizer is made from: of a folder its documents, of a GGUF file keys and values in the order
/// of the keys.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Digest>> {
    if let Some(documents) = checkpoint.tokenizer_documents()? {
        return Ok(Some(Digest::of(&documents.joined())));
    }
    let mut entries: Vec<(&str, &Value)> =
        checkpoint.metadata().iter().filter(|(key, _)| key.starts_with(TOKENIZER)).collect();
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut digester = Digester::default();
    for (key, value) in entries {
        text(&mut digester, key);
        text(&mut digester, value.type_name());
        add(&mut digester, value);
    }
    Ok(Some(digester.finish()))
}

/// Adds a text behind its length, so that no two lists of texts are the same bytes.
fn text(digester: &mut Digester, text: &str) {
    digester.update(&(text.len() as u64).to_le_bytes());
    digester.update(text.as_bytes());
}

fn add(digester: &mut Digester, value: &Value) {
    macro_rules! numbers {
        ($array:expr) => {{
            digester.update(&($array.len() as u64).to_le_bytes());
            $array.iter().for_each(|number| digester.update(&number.to_le_bytes()));
        }};
    }
    match value {
        Value::U8(number) => digester.update(&number.to_le_bytes()),
        Value::I8(number) => digester.update(&number.to_le_bytes()),
        Value::U16(number) => digester.update(&number.to_le_bytes()),
        Value::I16(number) => digester.update(&number.to_le_bytes()),
        Value::U32(number) => digester.update(&number.to_le_bytes()),
        Value::I32(number) => digester.update(&number.to_le_bytes()),
        Value::U64(number) => digester.update(&number.to_le_bytes()),
        Value::I64(number) => digester.update(&number.to_le_bytes()),
        Value::F32(number) => digester.update(&number.to_le_bytes()),
        Value::F64(number) => digester.update(&number.to_le_bytes()),
        Value::Bool(flag) => digester.update(&[u8::from(*flag)]),
        Value::Str(string) => text(digester, string),
        Value::Array(array) => {
            text(digester, array.type_name());
            match array {
                Array::U8(array) => numbers!(array),
                Array::I8(array) => numbers!(array),
                Array::U16(array) => numbers!(array),
                Array::I16(array) => numbers!(array),
                Array::U32(array) => numbers!(array),
                Array::I32(array) => numbers!(array),
                Array::U64(array) => numbers!(array),
                Array::I64(array) => numbers!(array),
                Array::F32(array) => numbers!(array),
                Array::F64(array) => numbers!(array),
                Array::Bool(array) => {
                    digester.update(&(array.len() as u64).to_le_bytes());
                    array.iter().for_each(|flag| digester.update(&[u8::from(*flag)]));
                }
                Array::Str(array) => {
                    digester.update(&(array.len() as u64).to_le_bytes());
                    array.iter().for_each(|string| text(digester, string));
                }
            }
        }
    }
}
