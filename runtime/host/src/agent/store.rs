//! The key-value store of an agent: a folder with a file for each key, or memory.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use membrane_profile::Digest;
use thiserror::Error;

use crate::limits::{MAX_STORE_BYTES, MAX_STORE_KEY_BYTES, MAX_STORE_KEYS, MAX_STORE_VALUE_BYTES};

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"mbstore1";

/// The file whose lock a run holds as long as it uses the folder.
const LOCK: &str = "store.lock";

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
    /// The folder is another run's at the moment.
    #[error(
        "{}: another run uses this store; wait until it ends, or give this one another folder (--store DIR)",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A key or a value that a store does not take.
    #[error("{0}")]
    Limit(String),
}

/// Values that outlive a run. Clones are the same store, and the last one gives its folder back.
#[derive(Debug, Clone)]
pub struct Store(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// None: in memory only.
    folder: Option<PathBuf>,
    _lock: Option<Lock>,
    values: BTreeMap<String, Vec<u8>>,
    /// Keys and values together.
    bytes: usize,
}

impl Open {
    /// Waits until the names in the folder are on the disk.
    fn sync(&self) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        sync_folder(folder).map_err(|source| StoreError::Io { path: folder.clone(), source })
    }
}

/// The lock of a folder.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|source| StoreError::Io { path, source })?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { folder: folder.to_owned() }),
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self(file)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a process that is being started still has a copy of the file.
        let _ = self.0.unlock();
    }
}

impl Store {
    /// An empty store that lasts as long as its clones.
    pub fn in_memory() -> Self {
        Self(Arc::default())
    }

    /// Opens the store in a folder, which is made if it is not there, and keeps other runs from it.
    ///
    /// # Errors
    /// The folder can't be made or read, holds a file that no store has written, or is in use.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: folder.to_owned(), source };
        make(folder).map_err(failed)?;
        let lock = Lock::take(folder)?;
        let real = folder.canonicalize().map_err(failed)?;
        let mut open = Open { folder: Some(real), _lock: Some(lock), ..Open::default() };
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.ends_with(LOCK) {
                continue;
            }
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

    /// Whether this is the store in a folder.
    pub fn is_in(&self, folder: &Path) -> bool {
        let own = self.lock().folder.clone();
        own.is_some() && folder.canonicalize().ok() == own
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.lock().values.get(key).cloned()
    }

    /// Sets a value. It is on disk when this returns.
    ///
    /// # Errors
    /// A limit of the contract, or the file can't be written; the value before stays. Where only the folder can't be brought
    /// to the disk the new value is there.
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
        open.sync()
    }

    /// Removes a key, if it is there. It is gone from the disk when this returns.
    ///
    /// # Errors
    /// The file can't be removed; the value stays. Where only the folder can't be brought to the disk it is gone.
    pub fn delete(&self, key: &str) -> Result<(), StoreError> {
        let mut open = self.lock();
        let Some(value) = open.values.get(key) else { return Ok(()) };
        let bytes = key.len() + value.len();
        if let Some(path) = open.folder.as_ref().map(|folder| folder.join(file_name(key))) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Io { path, source });
                }
                _ => {}
            }
        }
        open.values.remove(key);
        open.bytes -= bytes;
        open.sync()
    }

    /// Keys that begin with a text, in order of their bytes.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let open = self.lock();
        let from = open.values.range(prefix.to_owned()..);
        from.map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).cloned().collect()
    }
}

/// Makes a folder that is this user's alone, where it is not there.
fn make(folder: &Path) -> io::Result<()> {
    let folder = std::path::absolute(folder)?;
    let new: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    for parent in new.iter().filter_map(|path| path.parent()) {
        // A folder that can't be read, only written, can't be waited for.
        let _ = sync_folder(parent);
    }
    Ok(())
}

/// Waits until the names in a folder are on the disk, where the system has a way to say so.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
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
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(&(key.len() as u32).to_le_bytes())?;
        file.write_all(key.as_bytes())?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    written.map_err(|source| {
        let _ = fs::remove_file(&beside);
        StoreError::Io { path, source }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        drop(store);
        let again = Store::open(folder.path()).unwrap();
        assert_eq!(again.keys("a/"), ["a/../../b", "a/c"]);
        assert_eq!(again.get("a/c").as_deref(), Some(&b"2"[..]));
        assert_eq!(again.get("b"), None);
        // Two values and the lock.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn one_run_at_a_time_uses_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.set("a", b"1".to_vec()).unwrap();
        let unfinished = folder.path().join(file_name("b")).with_extension("new");
        fs::write(&unfinished, b"half").unwrap();
        let refused = Store::open(folder.path()).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { .. }));
        let told = refused.to_string();
        assert!(told.contains(&folder.path().display().to_string()) && told.contains("--store"), "{told}");
        assert!(unfinished.exists(), "the other run may be writing it");
        let clone = store.clone();
        drop(store);
        assert!(Store::open(folder.path()).is_err(), "a task still has it");
        clone.set("c", b"2".to_vec()).unwrap();
        drop(clone);
        let again = Store::open(folder.path()).unwrap();
        assert_eq!(again.keys(""), ["a", "c"]);
        assert!(!unfinished.exists());
    }

    #[test]
    fn a_store_knows_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        let store = Store::open(&folder).unwrap();
        assert!(store.is_in(&folder) && store.is_in(&root.path().join("a/../a/b")));
        assert!(!store.is_in(root.path()) && !store.is_in(&root.path().join("none")));
        assert!(!Store::in_memory().is_in(&folder));
    }

    #[test]
    fn what_it_makes_is_this_users_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        let store = Store::open(&folder).unwrap();
        store.set("k", b"secret".to_vec()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&root.path().join("a"))), (0o700, 0o700));
        assert_eq!((mode(&folder.join(file_name("k"))), mode(&folder.join(LOCK))), (0o600, 0o600));
    }

    #[test]
    fn a_value_whose_file_is_gone_can_be_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.set("k", b"v".to_vec()).unwrap();
        fs::remove_file(folder.path().join(file_name("k"))).unwrap();
        store.delete("k").unwrap();
        assert_eq!(store.get("k"), None);
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
