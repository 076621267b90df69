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

/// Which files of a folder are compared with a statement.
pub struct Extent<'a> {
    /// Paths that are left out, with all below them.
    pub ignored: &'a [PathBuf],
    /// Paths that are left out where the statement names nothing there.
    pub unsigned: &'a [&'a str],
    /// Symbolic links to regular files that are followed; others are errors. What is compared is what they lead to.
    pub links: Links,
}

/// Which symbolic links to regular files are followed.
pub enum Links {
    /// None.
    None,
    /// Those to a file of this folder.
    Into(PathBuf),
    /// All.
    All,
}

impl Links {
    /// Those of a model in this folder: in a snapshot of a hub's cache those to the repository's own blobs, and all where links were
    /// followed when it was signed.
    pub fn of_model(folder: &Path, statement: &Statement) -> Self {
        if statement.links {
            return Self::All;
        }
        let snapshots = folder.canonicalize().ok().and_then(|folder| Some(folder.parent()?.to_owned()));
        let snapshots = snapshots.filter(|folder| folder.file_name() == Some("snapshots".as_ref()));
        let blobs = snapshots.and_then(|folder| folder.with_file_name("blobs").canonicalize().ok());
        blobs.map_or(Self::None, Self::Into)
    }

    /// Error: a link that is not followed, or to what is no regular file.
    fn check(&self, link: &Path, name: &Path) -> Result<()> {
        let name = name.display();
        let target = link.canonicalize().with_context(|| format!("`{name}`: can't be followed"))?;
        let followed = match self {
            Self::None => false,
            Self::Into(folder) => target.parent() == Some(folder),
            Self::All => true,
        };
        ensure!(
            followed && target.is_file(),
            "`{name}` is no regular file, but a link to {}",
            target.display()
        );
        Ok(())
    }
}

/// Compares the files of a folder with the statement. Gives their number.
///
/// # Errors
/// A file that is not in the statement, is missing or was changed; a symbolic link that is not followed, or anything else that is no
/// file.
pub fn compare(folder: &Path, signature: &Path, statement: &Statement, extent: &Extent<'_>) -> Result<usize> {
    let stated: BTreeMap<&str, Digest> =
        statement.resources.iter().map(|file| (file.name.as_str(), file.digest)).collect();
    ensure!(stated.len() == statement.resources.len(), "names a file twice");
    let unsigned: Vec<&Path> = extent
        .unsigned
        .iter()
        .map(Path::new)
        .filter(|path| !stated.keys().any(|name| Path::new(name).starts_with(path)))
        .collect();
    let left_out = |path: &Path| {
        let below = |ignored: &Path| path.starts_with(ignored);
        extent.ignored.iter().any(|ignored| below(ignored))
            || unsigned.iter().any(|ignored| below(ignored))
            || is_signature(&folder.join(path), signature)
    };
    let mut files = BTreeMap::new();
    list(folder, Path::new(""), &left_out, &extent.links, &mut files)?;
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

/// Whether a path is that of the signature, or its file. A link of another name to the signature is none: what reads it there takes
/// it for something else.
fn is_signature(path: &Path, signature: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some((folder.canonicalize().ok()?, path.file_name()?.to_owned()))
    };
    path.file_name() == signature.file_name() && place(path) == place(signature)
        || !path.is_symlink()
            && signature.canonicalize().is_ok_and(|file| path.canonicalize().is_ok_and(|path| path == file))
}

fn list(
    folder: &Path,
    below: &Path,
    left_out: &dyn Fn(&Path) -> bool,
    links: &Links,
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
            list(folder, &path, left_out, links, files)?;
            continue;
        }
        if kind.is_symlink() {
            links.check(&entry.path(), &path)?;
        } else {
            ensure!(kind.is_file(), "`{}` is no regular file", path.display());
        }
        ensure!(files.len() < MAX_FILES, "the folder has more than {MAX_FILES} files");
        let name = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?.to_owned();
        files.insert(name, entry.path());
    }
    Ok(())
}
