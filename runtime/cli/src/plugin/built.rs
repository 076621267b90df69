//! What a component was built of, kept beside it: it is built again where that is not what is in the folder.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use membrane_profile::{Digest, Profile};
use serde::{Deserialize, Serialize};

use super::package::{Package, read_component};
use crate::digests;

/// Folders that tools install into, or keep what is theirs in; nothing is built of them.
const NO_SOURCES: [&str; 5] = ["target", "node_modules", ".venv", "__pycache__", ".git"];
/// The same in the plugin's own folder: what is built, and what it must do.
const NO_SOURCES_ON_TOP: [&str; 2] = ["build", "golden"];
/// What keys, signatures, locks and descriptions end with. A component is built of those that were there before.
const COMES_LATER: [&str; 6] = ["key", "pub", "pem", "sig", "lock", "md"];
/// What builds write beside the sources.
const WRITTEN: [&str; 2] = ["Cargo.lock", "package-lock.json"];
/// Files that are larger count as changed by size and time: weights may lie there.
const MOST_READ_BYTES: u64 = 32 << 20;

/// Digests of the files of a folder, by their paths in it.
type Digests = BTreeMap<String, Digest>;

/// The sources of a plugin as they are at a time.
#[derive(Default)]
pub struct Sources {
    digests: Digests,
    /// When the last of them was changed.
    changed: Option<SystemTime>,
}

/// What is kept of a build, as JSON.
#[derive(Serialize, Deserialize)]
struct Built {
    component: Digest,
    sources: Digests,
}

/// The sources of a plugin as they are now.
pub fn sources(package: &Package) -> Sources {
    let mut found = Sources::default();
    found.add(&package.folder, "");
    found
}

/// Keeps what the component was built of: the sources as they were when the build began, so that what was changed meanwhile counts as
/// changed.
///
/// # Errors
/// It can't be written.
pub fn keep(package: &Package, component: &[u8], before: Sources) -> Result<()> {
    let mut kept = before.digests;
    let written = sources(package).digests.into_iter().filter(|(name, _)| WRITTEN.contains(&name.as_str()));
    kept.extend(written);
    let path = path(package);
    let text = serde_json::to_string_pretty(&Built { component: Digest::of(component), sources: kept })?;
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
}

/// The component, if it is what the sources give. One of which nothing was kept is, if it is younger than they are, or there are none.
pub fn up_to_date(package: &Package) -> Option<Vec<u8>> {
    let component = read_component(&package.component()).ok()?;
    let now = sources(package);
    let kept = fs::read(path(package)).ok().and_then(|text| serde_json::from_slice::<Built>(&text).ok());
    let Some(built) = kept else {
        let time = fs::metadata(package.component()).and_then(|metadata| metadata.modified()).ok();
        return (package.language().is_err() || now.changed <= time).then_some(component);
    };
    let now = now.digests;
    let same = built.sources.iter().all(|(name, digest)| now.get(name) == Some(digest));
    let more = now.keys().any(|name| !built.sources.contains_key(name) && !comes_later(package, name));
    (same && !more && Digest::of(&component) == built.component).then_some(component)
}

fn path(package: &Package) -> PathBuf {
    package.component().with_extension("sources.json")
}

impl Sources {
    /// Adds the files of a folder; those that links lead to, too, but not folders behind links, which may lead back. Hidden files are
    /// editors'.
    fn add(&mut self, folder: &Path, below: &str) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && name != ".cargo";
            let on_top = below.is_empty() && NO_SOURCES_ON_TOP.contains(&name.as_str());
            if !hidden && !on_top && !name.ends_with('~') {
                self.add_entry(&entry, name, below);
            }
        }
    }

    fn add_entry(&mut self, entry: &DirEntry, name: String, below: &str) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !NO_SOURCES.contains(&name.as_str()) {
                self.add(&entry.path(), &format!("{below}{name}/"));
            }
            return;
        }
        let path = entry.path();
        let Some(metadata) = fs::metadata(&path).ok().filter(Metadata::is_file) else { return };
        self.changed = self.changed.max(metadata.modified().ok());
        // One that can't be read, such as another's key, is the same as long as that is so.
        let digest = digest(&path, &metadata).unwrap_or(Digest::of(b"unread"));
        self.digests.insert(format!("{below}{name}"), digest);
    }
}

fn digest(path: &Path, metadata: &Metadata) -> io::Result<Digest> {
    if metadata.len() > MOST_READ_BYTES {
        return Ok(Digest::of(format!("{} {:?}", metadata.len(), metadata.modified()).as_bytes()));
    }
    digests::of_file(&File::open(path)?, &mut |_| ())
}

/// Whether a new file is nothing that a component is built of: what people put beside it once it is built.
fn comes_later(package: &Package, name: &str) -> bool {
    let path = package.folder.join(name);
    let extension = path.extension().unwrap_or_default();
    COMES_LATER.iter().any(|later| extension == *later) || extension == "toml" && Profile::read(&path).is_ok()
}
