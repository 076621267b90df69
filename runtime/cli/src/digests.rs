//! SHA-256 of files.
//!
//! Reading a large file only for its digest takes minutes. So digests of whole files are remembered by place, size, inode and
//! times. Whoever verifies a file reads it; whoever names one may take what is remembered, and says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use membrane_formats::SourceFile;
use membrane_profile::{Digest, Digester};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::report::Progress;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// Bytes of the file of remembered digests, which anything of the user's may write.
const MAX_MEMORY_BYTES: u64 = 1 << 20;

/// The digest of a file as it is now. `progress` is told the bytes of each piece.
pub fn of_file(file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    of_bytes(file, None, progress)
}

/// The digest of the first bytes of a file. Error: it has fewer.
pub fn of_beginning(file: &File, bytes: u64) -> io::Result<Digest> {
    of_bytes(file, Some(bytes), &mut |_| {})
}

fn of_bytes(file: &File, most: Option<u64>, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    let mut digester = Digester::default();
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let wanted = most.map_or(PIECE as u64, |most| (most - offset).min(PIECE as u64)) as usize;
        match file.read_at(&mut piece[..wanted], offset) {
            Ok(0) if most.is_some_and(|most| offset < most) => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(0) => return Ok(digester.finish()),
            Ok(bytes) => {
                digester.update(&piece[..bytes]);
                offset += bytes as u64;
                progress(bytes as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The digest of a whole file if it is remembered and the file has not been touched since.
pub fn remembered(file: &SourceFile) -> Option<Digest> {
    let identity = Identity::of(file).ok()?;
    let known = Memory::read(&memory_path()?).0.remove(&key(file).ok()?)?;
    (known.identity == identity).then_some(known.digest)
}

/// The digest of a whole file, and whether it was remembered.
pub fn whole(file: &SourceFile, quiet: bool) -> Result<(Digest, bool)> {
    if let Some(digest) = remembered(file) {
        return Ok((digest, true));
    }
    let identity = Identity::of(file)?;
    let mut shown = Progress::new("digest", quiet);
    let mut done = 0;
    let digest = of_file(&file.file, &mut |bytes| {
        done += bytes;
        shown.bytes(done, file.bytes);
    })?;
    shown.done();
    // A file that was written to meanwhile has other times, and no digest worth remembering.
    if Identity::of(file)? == identity
        && let Some(place) = memory_path()
    {
        let mut memory = Memory::read(&place);
        memory.0.insert(key(file)?, Known { identity, digest });
        cache::write(&place, &memory);
    }
    Ok((digest, false))
}

fn key(file: &SourceFile) -> io::Result<String> {
    Ok(std::path::absolute(&file.path)?.to_string_lossy().into_owned())
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

/// Digests that were computed before, by path.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory(BTreeMap<String, Known>);

impl Memory {
    fn read(path: &Path) -> Self {
        cache::read(path, MAX_MEMORY_BYTES)
    }
}

/// The file of remembered digests; none where no folder is known.
fn memory_path() -> Option<PathBuf> {
    cache::path("model-digests.json")
}
