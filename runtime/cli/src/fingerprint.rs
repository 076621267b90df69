//! What names a model in the audit log: digests of its files, tokenizer and chat template. A record says whether the digest of a
//! file was computed or remembered.

use anyhow::{Context, Result};
use clap::ValueEnum;
use membrane_audit::{Digest, Model as Recorded, ModelFile};
use membrane_engine::Model;
use membrane_formats::{Array, Checkpoint, Metadata, SourceFile, Value};
use membrane_profile::Digester;

use crate::digests;

/// Keys of the metadata that a tokenizer is made of.
const TOKENIZER: &str = "tokenizer.";
/// One of them that it is not made of.
const TEMPLATE: &str = "tokenizer.chat_template";

/// How much of a model's files is digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// The whole files; once, then remembered by place, size, inode and times.
    Whole,
    /// What stands before the weights: proves the tokenizer, shapes and types, and nothing of the weights.
    Header,
}

/// The record of a model.
pub fn model(model: &Model, weights: Weights, quiet: bool) -> Result<Recorded> {
    let checkpoint = model.checkpoint();
    let path = std::path::absolute(checkpoint.path()).unwrap_or_else(|_| checkpoint.path().to_owned());
    let files = checkpoint.files().iter().enumerate();
    let files = files.map(|(index, file)| {
        model_file(checkpoint, index, file, weights, quiet)
            .with_context(|| format!("computing the digest of {}", file.path.display()))
    });
    Ok(Recorded {
        path: path.to_string_lossy().into_owned(),
        architecture: model.architecture().to_owned(),
        files: files.collect::<Result<_>>()?,
        tokenizer: match checkpoint.tokenizer_documents()? {
            Some(documents) => Digest::of(&documents.joined()),
            None => tokenizer(checkpoint.metadata()),
        },
        template: model.chat_templates().map(|templates| Digest::of(templates.joined().as_bytes())),
    })
}

fn model_file(
    checkpoint: &Checkpoint,
    index: usize,
    file: &SourceFile,
    weights: Weights,
    quiet: bool,
) -> Result<ModelFile> {
    let header = recorded(header(checkpoint, index)?);
    let (whole, remembered) = match weights {
        Weights::Header => (None, false),
        Weights::Whole => {
            let (digest, remembered) = digests::whole(file, quiet)?;
            (Some(recorded(digest)), remembered)
        }
    };
    let path = file.path.to_string_lossy().into_owned();
    Ok(ModelFile { path, bytes: file.bytes, header, whole, remembered })
}

/// The digest of what stands before the weights in a file of the model.
pub fn header(checkpoint: &Checkpoint, index: usize) -> std::io::Result<membrane_profile::Digest> {
    let file = &checkpoint.files()[index];
    let tensors = checkpoint.tensors().iter().filter(|tensor| tensor.file == index);
    let bytes = tensors.map(|tensor| tensor.offset).min().unwrap_or(file.bytes);
    digests::of_beginning(&file.file, bytes)
}

/// The digest of the metadata that a tokenizer is made of: each key with type and value, in the order of the keys.
fn tokenizer(metadata: &Metadata) -> Digest {
    let mut entries: Vec<(&str, &Value)> =
        metadata.iter().filter(|(key, _)| key.starts_with(TOKENIZER) && *key != TEMPLATE).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut hash = Digester::default();
    let text = |hash: &mut Digester, text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    for (key, value) in entries {
        text(&mut hash, key);
        text(&mut hash, value.type_name());
        match value {
            Value::Str(value) => text(&mut hash, value),
            Value::Array(array) => {
                text(&mut hash, array.type_name());
                hash.update(&(array.len() as u64).to_le_bytes());
                match array {
                    Array::Str(texts) => texts.iter().for_each(|element| text(&mut hash, element)),
                    numbers => {
                        numbers.first(numbers.len()).iter().for_each(|v| text(&mut hash, &v.to_string()));
                    }
                }
            }
            number => text(&mut hash, &number.to_string()),
        }
    }
    recorded(hash.finish())
}

/// A digest as records have it.
fn recorded(digest: membrane_profile::Digest) -> Digest {
    Digest::from_bytes(*digest.as_bytes())
}
