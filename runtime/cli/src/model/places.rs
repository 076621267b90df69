//! Where models lie: the folders of other programs, as each of them arranges it. Nothing there is changed.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use membrane_formats::gguf;
use serde::{Deserialize, Serialize};

/// Folders within each other that are looked into (a link to a folder above, which is not followed anyway).
const MAX_DEPTH: usize = 8;
/// Entries of one place (a folder that is a whole disk).
const MAX_ENTRIES: usize = 50_000;
/// Bytes of one of Ollama's manifests (a file of gigabytes by that name).
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The layer of an Ollama manifest that is the model.
const OLLAMA_MODEL: &str = "application/vnd.ollama.image.model";

/// Whose folder it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// The cache of Hugging Face's hub: `models--ORG--NAME/snapshots/REVISION`, links to blobs.
    HuggingFace,
    /// Ollama: manifests that name blobs.
    Ollama,
    /// LM Studio: `PUBLISHER/NAME/FILE`.
    LmStudio,
    /// The cache of llama.cpp.
    LlamaCpp,
    /// A folder that was named.
    Folder,
}

/// A folder to look in.
pub struct Place {
    pub keeper: Keeper,
    pub root: PathBuf,
}

/// A model that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub keeper: Keeper,
    /// As its keeper calls it.
    pub name: String,
    /// What a run takes.
    pub path: PathBuf,
}

/// The usual places, whether they are there or not.
pub fn usual() -> Vec<Place> {
    let home = env::home_dir().unwrap_or_default();
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
    let hub = set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|folder| folder.join("hub")))
        .unwrap_or_else(|| cache.join("huggingface/hub"));
    let ollama = match set("OLLAMA_MODELS") {
        Some(folder) => vec![folder],
        None => vec![home.join(".ollama/models"), PathBuf::from("/usr/share/ollama/.ollama/models")],
    };
    let llama = set("LLAMA_CACHE").unwrap_or_else(|| cache.join("llama.cpp"));
    let place = |keeper| move |root| Place { keeper, root };
    [hub]
        .into_iter()
        .map(place(Keeper::HuggingFace))
        .chain(ollama.into_iter().map(place(Keeper::Ollama)))
        .chain([home.join(".lmstudio/models"), cache.join("lm-studio/models")].map(place(Keeper::LmStudio)))
        .chain([llama].map(place(Keeper::LlamaCpp)))
        .collect()
}

impl Place {
    /// The models there, by name; none where there is no such folder.
    pub fn models(&self) -> Vec<Found> {
        let mut found = match self.keeper {
            Keeper::Ollama => ollama(&self.root),
            _ => files(&self.root).into_iter().map(|path| self.named(path)).collect(),
        };
        found.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.path.cmp(&b.path)));
        found
    }

    fn named(&self, path: PathBuf) -> Found {
        let below = path.strip_prefix(&self.root).unwrap_or(&path);
        let name = match self.keeper {
            Keeper::HuggingFace => hub_name(below),
            _ if below.as_os_str().is_empty() => path.to_string_lossy().into_owned(),
            _ => below.to_string_lossy().into_owned(),
        };
        Found { keeper: self.keeper, name, path }
    }
}

/// `ORG/NAME` and, where a file is the model, the file's name.
fn hub_name(below: &Path) -> String {
    let mut parts = below.iter().map(OsStr::to_string_lossy);
    let first = parts.next().unwrap_or_default();
    let repository = first.strip_prefix("models--").unwrap_or(&first).replace("--", "/");
    // `snapshots`, the revision, and what is in it.
    let file: Vec<_> = parts.skip(2).collect();
    if file.is_empty() { repository } else { format!("{repository} {}", file.join("/")) }
}

/// GGUF files, of split ones the first, and folders of safetensors.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root, &mut |folder, files| {
        let ends = |name: &OsStr, ending: &str| Path::new(name).extension() == Some(OsStr::new(ending));
        let gguf = files.iter().filter(|name| ends(name, "gguf") && !is_later_part(name));
        found.extend(gguf.map(|name| folder.join(name)));
        if files.iter().any(|name| name == "config.json")
            && files.iter().any(|name| ends(name, "safetensors"))
        {
            found.push(folder.to_owned());
        }
    });
    found
}

/// Calls `each` with every folder from `root` on and the names of the files in it.
fn walk(root: &Path, each: &mut dyn FnMut(&Path, &[OsString])) {
    let mut open = vec![(root.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = open.pop() {
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MAX_ENTRIES {
                return;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => open.push((entry.path(), depth + 1)),
                // Of a hub's snapshot each file is a link to a blob.
                Ok(kind) if !kind.is_dir() && entry.path().is_file() => names.push(entry.file_name()),
                _ => {}
            }
        }
        each(&folder, &names);
    }
}

/// Whether a file is a part of a split model, and not the first.
fn is_later_part(name: &OsStr) -> bool {
    gguf::part_of(name).is_some_and(|(number, _)| number > 1)
}

/// The part of a manifest that is read.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// `manifests/REGISTRY/NAMESPACE/NAME/TAG` names the blob.
fn ollama(root: &Path) -> Vec<Found> {
    let manifests = root.join("manifests");
    let mut found = Vec::new();
    walk(&manifests, &mut |folder, files| {
        for manifest in files.iter().map(|name| folder.join(name)) {
            let model = blob(root, &manifest).filter(|blob| blob.is_file());
            found.extend(model.map(|path| {
                let name = ollama_name(manifest.strip_prefix(&manifests).unwrap_or(&manifest));
                Found { keeper: Keeper::Ollama, name, path }
            }));
        }
    });
    found
}

/// `NAME:TAG`, with registry and namespace where they are not Ollama's own.
fn ollama_name(below: &Path) -> String {
    let parts: Option<Vec<&str>> = below.iter().map(OsStr::to_str).collect();
    match parts.as_deref().unwrap_or_default() {
        [registry, "library", name, tag] if registry.starts_with("registry.") => format!("{name}:{tag}"),
        [before @ .., name, tag] if !before.is_empty() => format!("{}/{name}:{tag}", before.join("/")),
        _ => below.to_string_lossy().into_owned(),
    }
}

/// The blob of a manifest's model.
fn blob(root: &Path, manifest: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    fs::File::open(manifest).ok()?.take(MAX_MANIFEST_BYTES).read_to_string(&mut text).ok()?;
    let manifest: Manifest = serde_json::from_str(&text).ok()?;
    let layer = manifest.layers.into_iter().find(|layer| layer.media_type == OLLAMA_MODEL)?;
    let hex = layer.digest.strip_prefix("sha256:")?;
    // Nothing but a digest becomes part of a path.
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| root.join("blobs").join(format!("sha256-{hex}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_keeper() {
        let hub = |path: &str| hub_name(Path::new(path));
        assert_eq!(hub("models--Qwen--Qwen3-30B-A3B/snapshots/abc"), "Qwen/Qwen3-30B-A3B");
        assert_eq!(hub("models--a--b/snapshots/abc/sub/x.gguf"), "a/b sub/x.gguf");
        assert_eq!(ollama_name(Path::new("registry.ollama.ai/library/qwen3/30b")), "qwen3:30b");
        assert_eq!(ollama_name(Path::new("hf.co/a/b/latest")), "hf.co/a/b:latest");
        assert_eq!(ollama_name(Path::new("x")), "x");
    }

    #[test]
    fn later_parts_are_no_models() {
        for (name, later) in [
            ("a-00002-of-00003.gguf", true),
            ("a-00001-of-00003.gguf", false),
            ("a-of-b.gguf", false),
            ("a-2-of-3.gguf", false),
            ("a-0000x-of-00003.gguf", false),
            ("a.gguf", false),
        ] {
            assert_eq!(is_later_part(OsStr::new(name)), later, "{name}");
        }
    }
}
