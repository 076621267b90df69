//! Folders as models are published: `config.json`, a tokenizer, weights in safetensors files.
//!
//! A folder is opened as it stands, read-only: nothing is converted. Its `config.json` becomes the metadata that a GGUF file
//! of the model would have ([`config`]), and tensors are found by the names that they would have there ([`names`]), so that
//! whoever reads a checkpoint needs to know one set of names. What a converter would bake into the numbers stays as it is;
//! [`Values`](crate::Values) and a few keys of our own say so.

mod config;
mod files;
mod header;
mod heads;
mod index;
mod json;
mod meant;
mod names;
mod quantisation;
mod quark;
mod tokenizer;
mod writer;

use std::path::Path;

use crate::error::FormatError;
use crate::keys;
use crate::limits;
use crate::metadata::Metadata;
use crate::packed;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;

pub(crate) use config::published_key;
use files::Folder;
use header::{Budget, Header};
use index::Index;
pub(crate) use meant::meant;
pub use meant::{hub_revision, lies_beside_a_model};
pub(crate) use names::Names;
pub(crate) use quantisation::is_exponents;
pub use quantisation::{Quantised, Scheme};
pub use tokenizer::TokenizerDocuments;
pub use writer::SafetensorsWriter;

/// How the names of weight files end.
const EXTENSION: &str = ".safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
/// The one for conversations with tools, where it is another.
const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";
/// An older form of it, which processors of images and sounds have.
const OLD_TEMPLATE: &str = "chat_template.json";
const QUANT_CONFIG: &str = "hf_quant_config.json";
/// What a folder with changes of another model's weights has (PEFT). Libraries that find it load that other model.
const ADAPTER: &str = "adapter_config.json";
const TOKENIZER: &str = "tokenizer.json";
/// What a tokenizer is made of where it has no document of its own: tokens and merge rules.
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// What it may be made of, too: tokens and their ranks.
const RANKS: &str = "tiktoken.model";

/// What a folder says.
pub(crate) struct Parts {
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    /// The shards, then the documents.
    pub files: Vec<SourceFile>,
    pub names: Names,
}

/// Whether a path names a folder or a file of one.
pub(crate) fn is_one(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|extension| extension == &EXTENSION[1..])
}

/// Opens the folder at `path`, or the one that has the weight file at `path`.
pub(crate) fn open(path: &Path) -> Result<Parts, FormatError> {
    let folder = Folder::open(path)?;
    if folder.has(ADAPTER)? {
        return Err(folder.adapts(ADAPTER));
    }
    let config = folder.file(CONFIG)?.ok_or_else(|| folder.lacks(CONFIG))?;
    let object = json::object(&config)?;
    let mut documents = vec![config];
    let (mut tensors, mut files) = weights(&folder, &mut documents)?;
    let mut metadata = config::metadata(&documents[0], &object)?;
    let generation = optional(&folder, GENERATION_CONFIG, &mut documents)?;
    let tokenizer_config = optional(&folder, TOKENIZER_CONFIG, &mut documents)?;
    let place = documents.len();
    let quant_config = optional(&folder, QUANT_CONFIG, &mut documents)?;
    let template = folder.file(TEMPLATE)?;
    let text = template.as_ref().map(tokenizer::template).transpose()?;
    documents.extend(template);
    tokenizer::describe(&mut metadata, &object, generation.as_ref(), tokenizer_config.as_ref(), text);
    if let Some(template) = folder.file(TOOL_TEMPLATE)? {
        metadata.set(keys::TOOL_TEMPLATE, tokenizer::template(&template)?);
        documents.push(template);
    }
    match folder.file(TOKENIZER)? {
        Some(tokenizer) => documents.push(tokenizer),
        None if tokenizer_config.is_some() => {
            if let (Some(vocab), Some(merges)) = (folder.file(VOCAB)?, folder.file(MERGES)?) {
                documents.extend([vocab, merges]);
            } else {
                documents.extend(folder.file(RANKS)?);
            }
        }
        None => {}
    }
    if metadata.get(keys::CHAT_TEMPLATE).is_none()
        && let Some(old) = optional(&folder, OLD_TEMPLATE, &mut documents)?
    {
        tokenizer::describe_template(&mut metadata, &old);
    }
    let separate = quant_config.as_ref().map(|object| (&documents[place], object));
    quantisation::describe(&mut metadata, &documents[0], &object, separate)?;
    if let Some(keys) = optional(&folder, packed::DOCUMENT, &mut documents)? {
        let broken = |rule: String| json::broken(&documents[documents.len() - 1], &rule);
        packed::read(&mut metadata, &keys).map_err(broken)?;
    }
    let names = Names::new(&documents[0], &object, &metadata, &tensors)?;
    names.mark_values(&metadata, &mut tensors);
    if let Some(head) = names.draft_head() {
        head.describe(&mut metadata);
    }
    files.append(&mut documents);
    Ok(Parts { metadata, tensors, files, names })
}

/// A JSON document that a folder may have. It is kept among the `documents`.
fn optional(
    folder: &Folder,
    name: &str,
    documents: &mut Vec<SourceFile>,
) -> Result<Option<serde_json::Map<String, serde_json::Value>>, FormatError> {
    let Some(source) = folder.file(name)? else { return Ok(None) };
    let object = json::object(&source)?;
    documents.push(source);
    Ok(Some(object))
}

/// The tensors of all shards, and the shards.
fn weights(
    folder: &Folder,
    documents: &mut Vec<SourceFile>,
) -> Result<(Vec<TensorInfo>, Vec<SourceFile>), FormatError> {
    let mut budget =
        Budget { header_bytes: limits::PUBLISHED_HEADER_BYTES, tensors: limits::PUBLISHED_TENSORS };
    let mut indexed = folder.file(INDEX)?;
    let mut index = indexed.as_ref().map(Index::read).transpose()?;
    if let (Some(found), Some(preferred)) = (&index, folder.preferred())
        && !found.shards.iter().any(|shard| shard == preferred)
    {
        (indexed, index) = (None, None);
    }
    let shards = match &index {
        Some(index) => index.shards.clone(),
        None => folder.shards()?,
    };
    let (mut tensors, mut files) = (Vec::new(), Vec::with_capacity(shards.len()));
    for (number, name) in shards.iter().enumerate() {
        let shard = folder.file(name)?.ok_or_else(|| folder.lacks(name))?;
        let Header { tensors: mut found, empty } = header::read(&shard, number, &mut budget)?;
        if let (Some(index), Some(source)) = (&mut index, &indexed) {
            index.choose(source, number, &mut found, &empty)?;
        }
        // The first is taken as it is: most models of one file have all their tensors there.
        if tensors.is_empty() {
            tensors = found;
        } else {
            tensors.append(&mut found);
        }
        files.push(shard);
    }
    if let (Some(index), Some(source)) = (&index, &indexed) {
        index.check_all_found(source)?;
    }
    documents.extend(indexed);
    Ok((tensors, files))
}
