//! Components by digest, for records of plugins that are not where they were.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use membrane_host::Component;
use membrane_profile::Digest;

/// Files in one folder that are looked at (a folder of everything that someone ever had).
const MAX_FILES: usize = 10_000;

/// Where components are, by digest.
#[derive(Default)]
pub struct Components(BTreeMap<Digest, PathBuf>);

impl Components {
    /// Looks at files, and at those of folders that are named `*.wasm`. Errors: one of `paths` can't be read; what is in a
    /// folder and is no component that the host would take is passed over.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for path in paths {
            if !path.is_dir() {
                found.insert(digest(path)?, path.clone());
                continue;
            }
            for file in files(path)? {
                if let Ok(digest) = digest(&file) {
                    found.insert(digest, file);
                }
            }
        }
        Ok(Self(found))
    }

    /// The file that had this digest when it was looked at.
    pub fn of(&self, digest: Digest) -> Option<&Path> {
        self.0.get(&digest).map(PathBuf::as_path)
    }
}

fn digest(path: &Path) -> Result<Digest> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Component::read(&name, path)?.digest)
}

/// The files of a folder that are named `*.wasm`.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let entries = fs::read_dir(folder).with_context(|| format!("reading the folder {shown}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading the folder {shown}"))?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            ensure!(
                files.len() < MAX_FILES,
                "{shown} has more than {MAX_FILES} components; name a smaller folder"
            );
            files.push(path);
        }
    }
    Ok(files)
}
