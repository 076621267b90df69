//! Files for parsers that open them.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    /// One folder a thread, for as long as it runs: to make one for each input would take longer than all else.
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Where this thread's files lie.
///
/// # Panics
/// When the system gives no temporary folder; there is nothing to fuzz with then.
pub fn folder() -> PathBuf {
    FOLDER.with(|folder| {
        let made = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
        made.path().to_owned()
    })
}

/// Writes a file of the folder.
///
/// # Panics
/// When it can't be written.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("a file in the temporary folder");
    path
}

/// Makes a file be there with these bytes, or not be there.
///
/// # Panics
/// When it can't be written or removed.
pub fn file_or_none(path: &Path, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => fs::write(path, bytes).expect("a file in the temporary folder"),
        None if path.exists() => fs::remove_file(path).expect("a file that can be removed"),
        None => {}
    }
}
