//! Where models lie: the folders of other programs, as each of them arranges it. Nothing there is changed.

use std::collections::{HashSet, VecDeque};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use membrane_formats::{gguf, hub_revision};
use serde::{Deserialize, Serialize};

/// Folders within each other that are looked into.
const MAX_DEPTH: usize = 8;
/// Entries of one place (a folder that is a whole disk).
const MAX_ENTRIES: usize = 50_000;
/// Bytes of one of Ollama's manifests (a file of gigabytes by that name).
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The layer of an Ollama manifest that is the model.
const OLLAMA_MODEL: &str = "application/vnd.ollama.image.model";
/// The layer that changes the model's weights.
const OLLAMA_ADAPTER: &str = "application/vnd.ollama.image.adapter";
/// Characters of a revision that are shown.
const SHORT_REVISION: usize = 8;

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
    /// In what a run of it would not be what its keeper runs by that name.
    pub note: Option<&'static str>,
}

/// The usual places, whether they are there or not.
pub fn usual() -> Vec<Place> {
    let home = env::home_dir().unwrap_or_default();
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
    let hub = set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| set("HF_HOME").map(|folder| folder.join("hub")))
        .unwrap_or_else(|| cache.join("huggingface/hub"));
    let ollama = match set("OLLAMA_MODELS") {
        Some(folder) => vec![folder],
        None => {
            let services = ["/usr/share/ollama/.ollama/models", "/var/lib/ollama/models", "/var/lib/ollama"];
            [home.join(".ollama/models")].into_iter().chain(services.map(PathBuf::from)).collect()
        }
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
    /// The models there, by name; none where there is no such folder. Folders that the search came to before are left out.
    pub fn models(&self, search: &mut Search) -> Vec<Found> {
        let mut found = match self.keeper {
            Keeper::Ollama => ollama(&self.root, search),
            Keeper::HuggingFace => {
                // Beside models there are data sets, and beside a model's revisions the blobs that they link to.
                let is_of_a_model = |depth, name: &OsStr| match depth {
                    0 => name.as_encoded_bytes().starts_with(b"models--"),
                    1 => name == "snapshots",
                    _ => true,
                };
                files(&self.root, is_of_a_model, search).into_iter().map(|path| self.named(path)).collect()
            }
            _ => files(&self.root, |_, _| true, search).into_iter().map(|path| self.named(path)).collect(),
        };
        found.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.path.cmp(&b.path)));
        found
    }

    fn named(&self, path: PathBuf) -> Found {
        let below = path.strip_prefix(&self.root).unwrap_or(&path);
        let name = match self.keeper {
            Keeper::HuggingFace => {
                let repository = self.root.join(below.iter().next().unwrap_or_default());
                let main = hub_revision(&repository).ok().flatten();
                hub_name(below, main.as_deref().and_then(Path::file_name).and_then(OsStr::to_str))
            }
            _ if below.as_os_str().is_empty() => path.to_string_lossy().into_owned(),
            _ => below.to_string_lossy().into_owned(),
        };
        Found { keeper: self.keeper, name, path, note: None }
    }
}

/// `ORG/NAME`, with the revision where it is not `main`, and where a file is the model, the file's name.
fn hub_name(below: &Path, main: Option<&str>) -> String {
    let mut parts = below.iter().map(OsStr::to_string_lossy);
    let first = parts.next().unwrap_or_default();
    let repository = first.strip_prefix("models--").unwrap_or(&first).replace("--", "/");
    // `snapshots`, the revision, and what is in it.
    let revision = parts.nth(1).unwrap_or_default();
    let revision = match main == Some(&*revision) {
        true => String::new(),
        false => format!("@{}", revision.chars().take(SHORT_REVISION).collect::<String>()),
    };
    let file: Vec<_> = parts.collect();
    let file = if file.is_empty() { String::new() } else { format!(" {}", file.join("/")) };
    format!("{repository}{revision}{file}")
}

/// GGUF files, of split ones the first, and folders of safetensors.
fn files(root: &Path, enters: impl Fn(usize, &OsStr) -> bool, search: &mut Search) -> Vec<PathBuf> {
    let mut found = Vec::new();
    search.walk(root, enters, &mut |folder, files| {
        let ends = |name: &OsStr, ending: &str| Path::new(name).extension() == Some(OsStr::new(ending));
        let gguf = files.iter().filter(|name| ends(name, "gguf") && !gguf::is_later_part(name));
        found.extend(gguf.map(|name| folder.join(name)));
        if files.iter().any(|name| name == "config.json")
            && files.iter().any(|name| ends(name, "safetensors"))
        {
            found.push(folder.to_owned());
        }
    });
    found
}

/// A walk through folders.
pub struct Search {
    /// What could not be looked at, and why.
    pub missed: Vec<String>,
    /// Folders by their device and number: links may lead to one from several places.
    known: HashSet<(u64, u64)>,
    /// Entries of a place that are looked at.
    most: usize,
}

impl Search {
    pub fn new() -> Self {
        Self { missed: Vec::new(), known: HashSet::new(), most: MAX_ENTRIES }
    }

    /// Calls `each` with every folder from `root` on that is new, and the names of the files in it; what links lead to comes last.
    /// `enters`: whether a folder is looked into, of how many that it is within, and its name.
    fn walk(
        &mut self,
        root: &Path,
        enters: impl Fn(usize, &OsStr) -> bool,
        each: &mut dyn FnMut(&Path, &[OsString]),
    ) {
        let mut open = VecDeque::from([(root.to_owned(), 0)]);
        let mut seen = 0;
        while let Some((folder, depth)) = open.pop_back() {
            let Some(entries) = self.enter(&folder) else { continue };
            let mut names = Vec::new();
            for entry in entries.flatten() {
                seen += 1;
                if seen > self.most {
                    break;
                }
                let (path, name) = (entry.path(), entry.file_name());
                // Of a hub's snapshot each file is a link to a blob.
                let Ok(found) = fs::metadata(&path) else { continue };
                if found.is_file() {
                    names.push(name);
                } else if found.is_dir() && enters(depth, &name) {
                    match entry.file_type() {
                        _ if depth == MAX_DEPTH => {
                            self.missed.push(format!("{}: is too deep", path.display()))
                        }
                        Ok(kind) if kind.is_symlink() => open.push_front((path, depth + 1)),
                        _ => open.push_back((path, depth + 1)),
                    }
                }
            }
            each(&folder, &names);
            if seen > self.most {
                let (root, most) = (root.display(), self.most);
                self.missed.push(format!("{root}: has more than {most} entries; name a folder within it"));
                return;
            }
        }
    }

    /// What is in a folder, if it is new and can be read.
    fn enter(&mut self, folder: &Path) -> Option<fs::ReadDir> {
        let found = fs::metadata(folder).and_then(|found| Ok((found, fs::read_dir(folder)?)));
        match found {
            Ok((found, entries)) => self.known.insert((found.dev(), found.ino())).then_some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.missed.push(format!("{}: {error}", folder.display()));
                None
            }
        }
    }
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
fn ollama(root: &Path, search: &mut Search) -> Vec<Found> {
    let manifests = root.join("manifests");
    let mut found = Vec::new();
    search.walk(&manifests, |_, _| true, &mut |folder, files| {
        for manifest in files.iter().map(|name| folder.join(name)) {
            let model = model_of(root, &manifest).filter(|(blob, _)| blob.is_file());
            found.extend(model.map(|(path, note)| {
                let name = ollama_name(manifest.strip_prefix(&manifests).unwrap_or(&manifest));
                Found { keeper: Keeper::Ollama, name, path, note }
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

/// The blob of a manifest's model, and what it is without.
fn model_of(root: &Path, manifest: &Path) -> Option<(PathBuf, Option<&'static str>)> {
    let mut text = String::new();
    fs::File::open(manifest).ok()?.take(MAX_MANIFEST_BYTES).read_to_string(&mut text).ok()?;
    let Manifest { layers } = serde_json::from_str(&text).ok()?;
    let has_adapter = layers.iter().any(|layer| layer.media_type == OLLAMA_ADAPTER);
    let layer = layers.into_iter().find(|layer| layer.media_type == OLLAMA_MODEL)?;
    let hex = layer.digest.strip_prefix("sha256:")?;
    // Nothing but a digest becomes part of a path.
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let note = has_adapter.then_some("without its adapter (LoRA), which is not read");
    is_digest.then(|| (root.join("blobs").join(format!("sha256-{hex}")), note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_keeper() {
        let hub = |path: &str, main| hub_name(Path::new(path), main);
        assert_eq!(hub("models--Qwen--Qwen3-30B-A3B/snapshots/abc", Some("abc")), "Qwen/Qwen3-30B-A3B");
        assert_eq!(hub("models--a--b/snapshots/abc", None), "a/b@abc");
        assert_eq!(hub("models--a--b/snapshots/abc/sub/x.gguf", Some("abc")), "a/b sub/x.gguf");
        assert_eq!(hub("models--a--b/snapshots/0123456789/x.gguf", Some("abc")), "a/b@01234567 x.gguf");
        assert_eq!(ollama_name(Path::new("registry.ollama.ai/library/qwen3/30b")), "qwen3:30b");
        assert_eq!(ollama_name(Path::new("hf.co/a/b/latest")), "hf.co/a/b:latest");
        assert_eq!(ollama_name(Path::new("x")), "x");
    }

    #[test]
    fn what_is_not_looked_at_is_told() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a", "b", "c"] {
            fs::create_dir(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("m.gguf"), "").unwrap();
        }
        let place = Place { keeper: Keeper::Folder, root: root.path().to_owned() };
        let mut search = Search::new();
        assert_eq!((place.models(&mut search).len(), search.missed.len()), (3, 0));
        assert_eq!(place.models(&mut search), [], "they are known");
        let mut search = Search { most: 5, ..Search::new() };
        assert_eq!(place.models(&mut search).len(), 2);
        assert!(search.missed[0].contains("more than 5 entries"), "{:?}", search.missed);
        let mut deep = root.path().to_owned();
        (0..=MAX_DEPTH).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        let mut search = Search::new();
        assert_eq!(place.models(&mut search).len(), 3);
        assert!(search.missed[0].contains("too deep"), "{:?}", search.missed);
        let mut search = Search::new();
        let file = Place { keeper: Keeper::Folder, root: root.path().join("a/m.gguf") };
        assert_eq!((file.models(&mut search).len(), search.missed.len()), (0, 1));
    }
}
