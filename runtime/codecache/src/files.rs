//! Files that are this user's alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::entry::ENDING;
use crate::{CacheError, Result};

/// Bits of a mode that give something to the group or to others.
const OTHERS: u32 = 0o077;

/// Ending of files that are being written.
const UNFINISHED: &str = ".tmp";

/// Age of such a file after which whoever wrote it is taken for dead.
const ABANDONED: Duration = Duration::from_secs(600);

/// A folder with mode 0700 that belongs to this user.
#[derive(Debug)]
pub struct Folder(PathBuf);

/// A file of the cache.
pub struct Listed {
    pub name: String,
    pub bytes: u64,
    used: SystemTime,
}

impl Folder {
    /// Makes the folder where it is not there, and closes it to others.
    pub fn open(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(CacheError::io(path))?;
        // Not through a link: what it points to could be changed.
        let metadata = fs::symlink_metadata(path).map_err(CacheError::io(path))?;
        let not_private = |what| CacheError::NotPrivate { path: path.to_owned(), what };
        if !metadata.is_dir() {
            return Err(not_private("is no folder, or a link to one"));
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(not_private("belongs to another user"));
        }
        if metadata.mode() & OTHERS != 0 {
            let closed = fs::Permissions::from_mode(0o700);
            fs::set_permissions(path, closed).map_err(CacheError::io(path))?;
        }
        Ok(Self(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The bytes of a file; none if there is no such file. One that is larger than `most`, or no regular file, is
    /// read as no bytes.
    pub fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        let mut options = OpenOptions::new();
        // A link is not followed, and opening a pipe does not wait for whoever writes to it.
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::io(&path)(error)),
        };
        let metadata = file.metadata().map_err(CacheError::io(&path))?;
        if !metadata.is_file() || metadata.len() > most {
            return Ok(Some(Vec::new()));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
        file.take(most).read_to_end(&mut bytes).map_err(CacheError::io(&path))?;
        Ok(Some(bytes))
    }

    /// Writes a file under a name that no one reads; gives its path.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.0.join(format!(".{name}.{}.{count}{UNFINISHED}", std::process::id()));
        // Of an earlier process with the same number.
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let write = |mut file: File| file.write_all(bytes);
        if let Err(error) = options.open(&path).and_then(write) {
            let _ = fs::remove_file(&path);
            return Err(CacheError::io(&path)(error));
        }
        Ok(path)
    }

    /// Writes a file at once: a reader sees all of it or what was there before.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let fresh = self.write_new(name, bytes)?;
        let path = self.0.join(name);
        fs::rename(&fresh, &path).map_err(|error| {
            let _ = fs::remove_file(&fresh);
            CacheError::io(&path)(error)
        })
    }

    /// Deletes a file. Where that fails the file is found wrong again.
    pub fn remove(&self, name: &str) {
        let path = self.0.join(name);
        if fs::remove_file(&path).is_err() {
            let _ = fs::remove_dir(&path);
        }
    }

    /// Notes that a file was used. Where that fails it is evicted sooner.
    pub fn touch(&self, name: &str) {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(self.0.join(name));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// The entries, in no order.
    pub fn entries(&self) -> Result<Vec<Listed>> {
        let files = self.list()?;
        Ok(files.into_iter().filter(|file| file.name.ends_with(ENDING)).collect())
    }

    /// Deletes the entries used longest ago until all have at most `capacity` bytes, and what was never finished.
    /// `keep` stays.
    pub fn evict(&self, capacity: u64, keep: &str) -> Result<()> {
        let mut files = self.list()?;
        files.sort_by_key(|file| file.used);
        let abandoned = SystemTime::now() - ABANDONED;
        let mut total: u64 = files.iter().map(|file| file.bytes).sum();
        for file in files.iter().filter(|file| file.name != keep) {
            let entry = file.name.ends_with(ENDING);
            let dead = file.name.ends_with(UNFINISHED) && file.used < abandoned;
            if dead || (entry && total > capacity) {
                self.remove(&file.name);
                total -= file.bytes;
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(CacheError::io(&self.0))? {
            let entry = entry.map_err(CacheError::io(&self.0))?;
            // Another process may have deleted it meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            let (Ok(name), Ok(used)) = (entry.file_name().into_string(), metadata.modified()) else {
                continue;
            };
            files.push(Listed { name, bytes: metadata.len(), used });
        }
        Ok(files)
    }
}

/// Whether a file belongs to this user and is open to no one else. True if there is none.
pub fn is_private(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => {
            let own = metadata.uid() == nix::unistd::geteuid().as_raw();
            Ok(metadata.is_file() && own && metadata.mode() & OTHERS == 0)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(CacheError::io(path)(error)),
    }
}
