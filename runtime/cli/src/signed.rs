//! What a signature states: who made it, and files that are compared with it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use membrane_profile::Digest;
use membrane_profile::signature::{Bundle, Fingerprint, PublicKey, Statement};

use crate::digests;

/// Files of a folder (a folder without end), and folders within each other.
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 32;

/// Whose key it is that must have signed.
#[derive(clap::Args)]
pub struct Signer {
    /// The publisher's public key, PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The fingerprint of the publisher's key, for signatures that bring the key along
    #[arg(long, value_name = "SHA256", conflicts_with = "key")]
    fingerprint: Option<Fingerprint>,
}

impl Signer {
    /// Whether a key is named.
    pub fn is_known(&self) -> bool {
        self.key.is_some() || self.fingerprint.is_some()
    }

    /// The public key, if a file of it is named. Errors: it can't be read.
    pub fn key(&self) -> Result<Option<PublicKey>> {
        let read =
            |path: &PathBuf| PublicKey::read(path).with_context(|| format!("--key {}", path.display()));
        self.key.as_ref().map(read).transpose()
    }

    /// The key that signed, and what it signed. `key`: that of [`Signer::key`].
    ///
    /// # Errors
    /// What is wrong with the signature, or it is somebody else's.
    pub fn statement(&self, signature: &Path, key: Option<&PublicKey>) -> Result<(Fingerprint, Statement)> {
        let named = || format!("the signature {}", signature.display());
        let bundle = Bundle::read(signature).with_context(named)?;
        let bundle = bundle.with_context(|| format!("{} is not there", named()))?;
        let verified = bundle.verify(key).with_context(named)?;
        let signer = verified.signer.fingerprint();
        if let Some(wanted) = self.fingerprint {
            ensure!(signer == wanted, "{} was made with the key {signer}, not {wanted}", named());
        }
        Ok((signer, verified.statement))
    }
}

/// Compares the files of a folder, but for what is below the ignored paths, with the statement. Gives their number.
///
/// # Errors
/// A file that is not in the statement, is missing or was changed; a symbolic link or anything else that is no file.
pub fn compare(folder: &Path, signature: &Path, statement: &Statement, ignored: &[PathBuf]) -> Result<usize> {
    let signature = signature.canonicalize().unwrap_or_else(|_| signature.to_owned());
    let mut files = BTreeMap::new();
    list(folder, Path::new(""), &|path| left_out(path, folder, &signature, ignored), &mut files)?;
    let stated: BTreeMap<&str, Digest> =
        statement.resources.iter().map(|file| (file.name.as_str(), file.digest)).collect();
    ensure!(stated.len() == statement.resources.len(), "names a file twice");
    for (name, path) in &files {
        let Some(wanted) = stated.get(name.as_str()) else {
            bail!("does not name `{name}`, which is in the folder");
        };
        let opened = File::open(path).and_then(|file| digests::of_file(&file, &mut |_| {}));
        let found = opened.with_context(|| format!("{}: can't be read", path.display()))?;
        ensure!(found == *wanted, "is of other bytes: `{name}` has the digest {found}, {wanted} was signed");
    }
    match stated.keys().find(|name| !files.contains_key(**name)) {
        Some(missing) => bail!("names `{missing}`, which is not in the folder"),
        None => Ok(files.len()),
    }
}

/// Whether a path below the folder is not compared.
fn left_out(path: &Path, folder: &Path, signature: &Path, ignored: &[PathBuf]) -> bool {
    let is_signature = || folder.join(path).canonicalize().is_ok_and(|path| path == signature);
    ignored.iter().any(|ignored| path.starts_with(ignored)) || is_signature()
}

fn list(
    folder: &Path,
    below: &Path,
    left_out: &dyn Fn(&Path) -> bool,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<()> {
    ensure!(below.components().count() <= MAX_DEPTH, "the folder is more than {MAX_DEPTH} deep");
    let here = folder.join(below);
    let entries = fs::read_dir(&here).with_context(|| format!("{}: can't be read", here.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("{}: can't be read", here.display()))?;
        let path = below.join(entry.file_name());
        if left_out(&path) {
            continue;
        }
        let kind = entry.file_type().with_context(|| format!("{}: can't be read", entry.path().display()))?;
        if kind.is_dir() {
            list(folder, &path, left_out, files)?;
            continue;
        }
        ensure!(kind.is_file(), "`{}` is no regular file", path.display());
        ensure!(files.len() < MAX_FILES, "the folder has more than {MAX_FILES} files");
        let name = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?.to_owned();
        files.insert(name, entry.path());
    }
    Ok(())
}
