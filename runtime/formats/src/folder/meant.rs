//! Which model a folder stands for that has no weights itself, as caches and programs arrange theirs.

use std::path::{Path, PathBuf};

use super::files::Folder;
use super::{ADAPTER, CONFIG, EXTENSION, INDEX};
use crate::error::{FormatError, quoted};
use crate::gguf;

/// Where a cache of Hugging Face's hub has the revisions of a repository.
const SNAPSHOTS: &str = "snapshots";
/// What else such a repository has.
const REPOSITORY: [&str; 2] = ["blobs", "refs"];
/// The revision that is asked for where none is named.
const MAIN: &str = "refs/main";
/// Bytes of a revision's name (a file of gigabytes by that name).
const MAX_REVISION_BYTES: u64 = 256;
/// Names that an error tells.
const SHOWN: usize = 8;

/// The model that is meant by a folder: of a repository in a cache of Hugging Face's hub the revision `main`, or the only one there is; of
/// a folder with one GGUF file, split or not, and no other weights that file, which may be in a folder within it; else the folder itself.
///
/// # Errors
/// [`FormatError::Folder`]: there are several, which are named, or none where there should be some; [`FormatError::Open`].
pub(crate) fn meant(path: &Path) -> Result<PathBuf, FormatError> {
    // What can't be listed may be opened all the same.
    let Ok(names) = Folder::open(path)?.names(is_weights) else { return Ok(path.to_owned()) };
    if !names.is_empty() || path.join(CONFIG).exists() {
        return among(path, &names);
    }
    match hub_revision(path)? {
        Some(snapshot) => among(&snapshot, &Folder::open(&snapshot)?.names(is_weights)?),
        None => among(path, &names),
    }
}

/// Whether a name is that of weights, or of what makes a folder of safetensors a model.
fn is_weights(name: &str) -> bool {
    is_whole(name) || is_gguf(name)
}

fn is_whole(name: &str) -> bool {
    name.ends_with(EXTENSION) || name == INDEX || name == ADAPTER
}

fn is_gguf(name: &str) -> bool {
    let is_other = name.starts_with('.') || lies_beside_a_model(name);
    name.ends_with(".gguf") && !is_other && !gguf::is_later_part(name.as_ref())
}

/// Whether a GGUF file of this name lies beside the model that it belongs to: what sees or hears, and what quantisation was
/// calibrated with.
pub fn lies_beside_a_model(name: &str) -> bool {
    name.contains("mmproj") || name.contains("imatrix")
}

/// The folder, or the one GGUF file in it or in a folder within it. `names`: of the weights in it.
fn among(folder: &Path, names: &[String]) -> Result<PathBuf, FormatError> {
    let mut models: Vec<String> = names.iter().filter(|name| is_gguf(name)).cloned().collect();
    // Without a configuration a safetensors file beside a model may be anything.
    let is_model = names.iter().any(|name| name == ADAPTER) || folder.join(CONFIG).exists();
    if names.len() > models.len() && (is_model || models.is_empty()) {
        return Ok(folder.to_owned());
    }
    if models.is_empty() {
        for within in
            Folder::open(folder)?.names(|name| !name.starts_with('.') && folder.join(name).is_dir())?
        {
            let found = Folder::open(&folder.join(&within))?.names(is_gguf).unwrap_or_default();
            models.extend(found.iter().map(|name| format!("{within}/{name}")));
        }
    }
    match &models[..] {
        [] => Ok(folder.to_owned()),
        [only] => Ok(folder.join(only)),
        _ => Err(several(folder, "GGUF files", &models)),
    }
}

/// The folder of the revision `main`, or of the only one, if this is a repository of a cache of Hugging Face's hub
/// (`models--OWNER--NAME`).
///
/// # Errors
/// [`FormatError::Folder`]: `refs/main` names none that is there, or there are none or several without it; [`FormatError::Open`].
pub fn hub_revision(path: &Path) -> Result<Option<PathBuf>, FormatError> {
    let snapshots = path.join(SNAPSHOTS);
    if !snapshots.is_dir() || !REPOSITORY.iter().any(|name| path.join(name).is_dir()) {
        return Ok(None);
    }
    if let Some(name) = main(path)? {
        let snapshot = snapshots.join(&name);
        let missing = || {
            broken(
                path,
                format!("has {MAIN} at the revision {}, which is not there: fetch it again", quoted(&name)),
            )
        };
        return if snapshot.is_dir() { Ok(Some(snapshot)) } else { Err(missing()) };
    }
    let names = Folder::open(&snapshots)?.names(|name| snapshots.join(name).is_dir())?;
    match &names[..] {
        [] => Err(broken(path, format!("has no revision of a model in {SNAPSHOTS}: fetch it again"))),
        [only] => Ok(Some(snapshots.join(only))),
        _ => Err(several(&snapshots, "revisions", &names)),
    }
}

/// The revision that `refs/main` names, if it is there.
fn main(path: &Path) -> Result<Option<String>, FormatError> {
    let Some(source) = Folder::open(path)?.file(MAIN)? else { return Ok(None) };
    let mut name = vec![0; source.bytes.min(MAX_REVISION_BYTES) as usize];
    source.read(0, &mut name, || "a revision".to_owned())?;
    let name = String::from_utf8_lossy(&name).trim().to_owned();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // Nothing but a name becomes part of a path.
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_name) {
        return Err(broken(
            path,
            format!("has {MAIN} with {}, which names no revision: fetch it again", quoted(&name)),
        ));
    }
    Ok(Some(name))
}

fn several(path: &Path, what: &str, names: &[String]) -> FormatError {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quoted(name)).collect();
    let more = if names.len() > SHOWN { ", and others" } else { "" };
    broken(
        path,
        format!("has {} {what}, of which one is to be named: {}{more}", names.len(), shown.join(", ")),
    )
}

fn broken(path: &Path, rule: String) -> FormatError {
    FormatError::Folder { path: path.to_owned(), rule }
}
