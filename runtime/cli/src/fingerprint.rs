//! What names a model in the audit log: digests of its files, tokenizer and chat template.
//!
//! Reading a large file only for its digest takes minutes. So digests of whole files are remembered by place, size,
//! inode and times, and a record says whether its digest was computed or remembered.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use membrane_audit::{Digest, Model as Recorded, ModelFile};
use membrane_engine::Model;
use membrane_formats::{Array, Checkpoint, Metadata, SourceFile, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::report::Progress;

/// Keys of the metadata that a tokenizer is made of.
const TOKENIZER: &str = "tokenizer.";
/// One of them that it is not made of.
const TEMPLATE: &str = "tokenizer.chat_template";
/// Bytes of a file that are read at a time.
const PIECE: usize = 1 << 20;
/// Bytes of the file of remembered digests, which anything of the user's may write.
const MAX_MEMORY_BYTES: u64 = 1 << 20;

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
        tokenizer: match checkpoint.tokenizer_json()? {
            Some(json) => Digest::of(&json),
            None => tokenizer(checkpoint.metadata()),
        },
        template: model.chat_template().map(|template| Digest::of(template.as_bytes())),
    })
}

fn model_file(
    checkpoint: &Checkpoint,
    index: usize,
    file: &SourceFile,
    weights: Weights,
    quiet: bool,
) -> Result<ModelFile> {
    let tensors = checkpoint.tensors().iter().filter(|tensor| tensor.file == index);
    let header_bytes = tensors.map(|tensor| tensor.offset).min().unwrap_or(file.bytes);
    let header = digest(file, header_bytes, &mut |_| {})?;
    let (whole, remembered) = match weights {
        Weights::Header => (None, false),
        Weights::Whole => {
            let (digest, remembered) = whole(file, quiet)?;
            (Some(digest), remembered)
        }
    };
    let path = file.path.to_string_lossy().into_owned();
    Ok(ModelFile { path, bytes: file.bytes, header, whole, remembered })
}

/// The digest of the first bytes of a file.
fn digest(file: &SourceFile, bytes: u64, progress: &mut dyn FnMut(u64)) -> Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(PIECE as u64) as usize;
        file.file.read_exact_at(&mut piece[..length], done)?;
        hash.update(&piece[..length]);
        done += length as u64;
        progress(done);
    }
    Ok(Digest::from_bytes(hash.finalize().into()))
}

/// The digest of a whole file, and whether it was remembered.
fn whole(file: &SourceFile, quiet: bool) -> Result<(Digest, bool)> {
    let identity = Identity::of(file)?;
    let key = std::path::absolute(&file.path)?.to_string_lossy().into_owned();
    let place = memory_path();
    let mut memory = place.as_deref().map(Memory::read).unwrap_or_default();
    if let Some(known) = memory.0.get(&key)
        && known.identity == identity
    {
        return Ok((known.digest, true));
    }
    let mut shown = Progress::new("digest", quiet);
    let digest = digest(file, file.bytes, &mut |done| shown.bytes(done, file.bytes))?;
    shown.done();
    // A file that was written to meanwhile has other times, and no digest worth remembering.
    if Identity::of(file)? == identity
        && let Some(place) = place
    {
        memory.0.insert(key, Known { identity, digest });
        memory.write(&place);
    }
    Ok((digest, false))
}

/// What a file is known by without reading it. The change time can't be set by those who may only write the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Identity {
    fn of(file: &SourceFile) -> std::io::Result<Self> {
        let metadata = file.file.metadata()?;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    identity: Identity,
    digest: Digest,
}

/// Digests that were computed before, by path. Losing it costs time and nothing else.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory(BTreeMap<String, Known>);

impl Memory {
    fn read(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= MAX_MEMORY_BYTES);
        let text = if small { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn write(&self, path: &Path) {
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let written = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            fs::write(&new, serde_json::to_vec(self)?)?;
            fs::rename(&new, path)
        };
        if written().is_err() {
            fs::remove_file(&new).unwrap_or_default();
        }
    }
}

/// The file of remembered digests; none where no folder is known.
fn memory_path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("membrane/model-digests.json"))
}

/// The digest of the metadata that a tokenizer is made of: each key with type and value, in the order of the keys.
fn tokenizer(metadata: &Metadata) -> Digest {
    let mut entries: Vec<(&str, &Value)> =
        metadata.iter().filter(|(key, _)| key.starts_with(TOKENIZER) && *key != TEMPLATE).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut hash = Sha256::new();
    let text = |hash: &mut Sha256, text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for (key, value) in entries {
        text(&mut hash, key);
        text(&mut hash, value.type_name());
        match value {
            Value::Str(value) => text(&mut hash, value),
            Value::Array(array) => {
                text(&mut hash, array.type_name());
                hash.update((array.len() as u64).to_le_bytes());
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
    Digest::from_bytes(hash.finalize().into())
}
