//! The key-value store of an agent: a folder with a file for each key, or memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use membrane_profile::Digest;
use thiserror::Error;

use crate::limits::{MAX_STORE_BYTES, MAX_STORE_KEY_BYTES, MAX_STORE_KEYS, MAX_STORE_VALUE_BYTES};

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"mbstore1";

/// Why a store can't be used, or does not take a value.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder or a file in it.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A file that no store has written.
    #[error("{}: is not a value of a store; move it away", path.display())]
    Stranger {
        /// The file.
        path: PathBuf,
    },
    /// A key or a value that a store does not take.
    #[error("{0}")]
    Limit(String),
}

/// Values that outlive a run. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// None: in memory only.
    folder: Option<PathBuf>,
    values: BTreeMap<String, Vec<u8>>,
    /// Keys and values together.
    bytes: usize,
}

impl Store {
    /// An empty store that lasts as long as its clones.
    pub fn in_memory() -> Self {
        Self(Arc::default())
    }

    /// Opens the store in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder can't be made or read, or holds a file that no store has written.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut open = Open { folder: Some(folder.to_owned()), ..Open::default() };
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // A writer that was killed leaves its unfinished file behind.
            if is_unfinished(&path) {
                unfinished.push(path);
                continue;
            }
            let (key, value) = read(&path)?;
            open.bytes += key.len() + value.len();
            open.values.insert(key, value);
        }
        for path in unfinished {
            let _ = fs::remove_file(path);
        }
        Ok(Self(Arc::new(Mutex::new(open))))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.lock().values.get(key).cloned()
    }

    /// Sets a value. It is on disk when this returns.
    ///
    /// # Errors
    /// A limit of the contract, or the file can't be written; the value before stays.
    pub fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let limit = |what: String| Err(StoreError::Limit(what));
        if !(1..=MAX_STORE_KEY_BYTES).contains(&key.len()) {
            return limit(format!("a key has 1 to {MAX_STORE_KEY_BYTES} bytes, and this one {}", key.len()));
        }
        if value.len() > MAX_STORE_VALUE_BYTES {
            return limit(format!(
                "a value has at most {MAX_STORE_VALUE_BYTES} bytes, and this one {}",
                value.len()
            ));
        }
        let mut open = self.lock();
        let before = open.values.get(key).map_or(0, |value| key.len() + value.len());
        let bytes = open.bytes - before + key.len() + value.len();
        if bytes > MAX_STORE_BYTES || (before == 0 && open.values.len() == MAX_STORE_KEYS) {
            return limit(format!(
                "the store is full: at most {MAX_STORE_KEYS} keys and {MAX_STORE_BYTES} bytes"
            ));
        }
        if let Some(folder) = &open.folder {
            write(folder, key, &value)?;
        }
        open.bytes = bytes;
        open.values.insert(key.to_owned(), value);
        Ok(())
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// The file can't be removed; the value stays.
    pub fn delete(&self, key: &str) -> Result<(), StoreError> {
        let mut open = self.lock();
        let Some(value) = open.values.get(key) else { return Ok(()) };
        let bytes = key.len() + value.len();
        if let Some(path) = open.folder.as_ref().map(|folder| folder.join(file_name(key))) {
            fs::remove_file(&path).map_err(|source| StoreError::Io { path, source })?;
        }
        open.values.remove(key);
        open.bytes -= bytes;
        Ok(())
    }

    /// Keys that begin with a text, in order of their bytes.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let open = self.lock();
        let from = open.values.range(prefix.to_owned()..);
        from.map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).cloned().collect()
    }
}

/// Keys are the guest's: a file's name is only ever a digest.
fn file_name(key: &str) -> String {
    Digest::of(key.as_bytes()).hex()
}

/// Whether a file is one that `write` makes before it renames it.
fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".new"));
    name.is_some_and(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn read(path: &Path) -> Result<(String, Vec<u8>), StoreError> {
    let stranger = || StoreError::Stranger { path: path.to_owned() };
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    let info = fs::symlink_metadata(path).map_err(failed)?;
    let most = MAGIC.len() + 4 + MAX_STORE_KEY_BYTES + MAX_STORE_VALUE_BYTES;
    if !info.is_file() || info.len() > most as u64 {
        return Err(stranger());
    }
    let bytes = fs::read(path).map_err(failed)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(stranger)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(stranger)?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(stranger)?;
    let key = str::from_utf8(key).map_err(|_| stranger())?;
    if path.file_name() != Some(file_name(key).as_ref()) {
        return Err(stranger());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Writes beside and renames, so that a value is either the old or the new one.
fn write(folder: &Path, key: &str, value: &[u8]) -> Result<(), StoreError> {
    let path = folder.join(file_name(key));
    let beside = path.with_extension("new");
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(&(key.len() as u32).to_le_bytes())?;
        file.write_all(key.as_bytes())?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    written.map_err(|source| StoreError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outlive_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.set("a/../../b", b"1".to_vec()).unwrap();
        store.set("a/c", vec![0; MAX_STORE_VALUE_BYTES]).unwrap();
        store.set("a/c", b"2".to_vec()).unwrap();
        store.set("b", b"3".to_vec()).unwrap();
        store.delete("b").unwrap();
        store.delete("never").unwrap();
        fs::write(folder.path().join(file_name("half")).with_extension("new"), b"torn").unwrap();
        let again = Store::open(folder.path()).unwrap();
        assert_eq!(again.keys("a/"), ["a/../../b", "a/c"]);
        assert_eq!(again.get("a/c").as_deref(), Some(&b"2"[..]));
        assert_eq!(again.get("b"), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn limits_hold_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(store.set("", Vec::new()).is_err());
        assert!(store.set(&"k".repeat(MAX_STORE_KEY_BYTES + 1), Vec::new()).is_err());
        assert!(store.set("k", vec![0; MAX_STORE_VALUE_BYTES + 1]).is_err());
        let whole = MAX_STORE_BYTES / MAX_STORE_VALUE_BYTES;
        let taken = (0..whole).filter(|i| store.set(&i.to_string(), vec![0; MAX_STORE_VALUE_BYTES]).is_ok());
        assert_eq!(taken.count(), whole - 1);
        assert!(store.set("0", b"small".to_vec()).is_ok());
        assert_eq!(store.get("1").map(|value| value.len()), Some(MAX_STORE_VALUE_BYTES));
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["notes.txt", "notes.new"] {
            let path = folder.path().join(name);
            fs::write(&path, b"mine").unwrap();
            assert!(matches!(Store::open(folder.path()), Err(StoreError::Stranger { .. })));
            assert_eq!(fs::read(&path).unwrap(), b"mine");
            fs::remove_file(&path).unwrap();
        }
    }
}
