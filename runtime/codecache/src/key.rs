//! The secret under which entries are authenticated.

use std::fs::{self, File};
use std::path::Path;

use crate::files::{self, Folder};
use crate::{CacheError, Result};

const KEY_BYTES: usize = 32;

/// 256 random bits, known to this user's processes.
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// Reads the key, or makes one. Of several processes that make one at a time, one wins and all use its key.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = Folder::open(folder)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("key");
        if let Some(key) = Self::read(&folder, name)? {
            return Ok(key);
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| CacheError::Random(error.to_string()))?;
        let fresh = folder.write_new(name, &bytes)?;
        // After a loss of power a file that was not on the disk yet may hold zeros, which anybody knows.
        File::open(&fresh).and_then(|file| file.sync_all()).map_err(CacheError::io(&fresh))?;
        // A link, other than a rename, fails where another process was first.
        let linked = fs::hard_link(&fresh, path);
        let _ = fs::remove_file(&fresh);
        match linked {
            Ok(()) => Ok(Self(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let what = "is no key of 32 bytes; delete it";
                Self::read(&folder, name)?.ok_or(CacheError::NotPrivate { path: path.to_owned(), what })
            }
            Err(error) => Err(CacheError::io(path)(error)),
        }
    }

    /// None if there is no file. A file of another length is deleted: what was cut short while it was written is no
    /// secret, and entries of a lost key are only compiled again.
    fn read(folder: &Folder, name: &str) -> Result<Option<Self>> {
        let path = folder.path().join(name);
        if !files::is_private(&path)? {
            let what = "is a key that others can read or write; delete it and what it may have signed";
            return Err(CacheError::NotPrivate { path, what });
        }
        let Some(bytes) = folder.read(name, KEY_BYTES as u64)? else { return Ok(None) };
        match bytes.try_into() {
            Ok(bytes) => Ok(Some(Self(bytes))),
            Err(_) => {
                folder.remove(name);
                Ok(None)
            }
        }
    }

    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}
