//! Lists of digests, as `sha256sum` writes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use membrane_profile::Digest;

/// Names of lists beside a model.
const NAMES: [&str; 3] = ["SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt"];
/// Bytes of a list (a file of gigabytes by that name).
const MAX_BYTES: u64 = 4 << 20;

/// Digests by the paths that a list names.
pub struct Sums {
    /// Where the list is.
    folder: PathBuf,
    digests: BTreeMap<PathBuf, Digest>,
}

/// The list in this folder, if there is one.
pub fn beside(folder: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

impl Sums {
    /// Reads a list.
    ///
    /// # Errors
    /// It can't be read, a line is none of a list, or a path has two digests.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::metadata(path)?.len();
        ensure!(bytes <= MAX_BYTES, "has {bytes} bytes; a list of digests has at most {MAX_BYTES}");
        let mut digests = BTreeMap::new();
        for (number, line) in fs::read_to_string(path)?.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (hex, name) = line
                .split_once([' ', '\t'])
                .with_context(|| format!("line {}: is no digest and a name behind it", number + 1))?;
            let digest: Digest = hex.parse().with_context(|| format!("line {}", number + 1))?;
            let name = Path::new(name.trim_start().trim_start_matches('*'));
            let name: PathBuf = name.components().filter(|part| *part != Component::CurDir).collect();
            if let Some(before) = digests.insert(name.clone(), digest)
                && before != digest
            {
                bail!("line {}: names `{}` a second time, with another digest", number + 1, name.display());
            }
        }
        Ok(Self { folder: folder_of(path), digests })
    }

    /// What the digest of a file should be, if the list names it: by its place, from the list's folder or from the file's own, or else
    /// by its name alone (a list that was made elsewhere).
    ///
    /// # Errors
    /// Only its name is there, several times with different digests.
    pub fn of(&self, file: &Path) -> Result<Option<Digest>> {
        let Some(name) = file.file_name() else { return Ok(None) };
        let folder = folder_of(file);
        let place = folder.canonicalize().with_context(|| format!("{}: can't be read", folder.display()))?;
        let named = || self.digests.iter().filter(|(path, _)| path.file_name() == Some(name));
        let is_here =
            |path: &Path| folder_of(&self.folder.join(path)).canonicalize().is_ok_and(|at| at == place);
        let by_place = named().find(|(path, _)| is_here(path));
        if let Some((_, digest)) = by_place.or_else(|| named().find(|(path, _)| path.as_os_str() == name)) {
            return Ok(Some(*digest));
        }
        // What is there is another file of the same name (`original/config.json`).
        let is_there = |path: &Path| self.folder.join(path).exists() || folder.join(path).exists();
        let mut elsewhere = named().filter(|(path, _)| !is_there(path));
        let Some((first, digest)) = elsewhere.next() else { return Ok(None) };
        if let Some((other, _)) = elsewhere.find(|(_, other)| *other != digest) {
            let [first, other] = [first, other].map(|path| path.display());
            bail!("does not say which is `{}`: `{first}` or `{other}`", name.display());
        }
        Ok(Some(*digest))
    }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
