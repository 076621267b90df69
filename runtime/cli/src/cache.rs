//! Small files in the user's cache folder, for nobody else to read. Losing one costs time and nothing else, so that no trouble with
//! them is an error.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code;

/// The place of a file; none where no folder is known.
pub fn path(name: &str) -> Option<PathBuf> {
    Some(code::base("XDG_CACHE_HOME", ".cache").ok()?.join("membrane").join(name))
}

/// What a file says, or the default if there is none of at most so many bytes that can be read.
pub fn read<T: Default + DeserializeOwned>(path: &Path, most_bytes: u64) -> T {
    let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= most_bytes);
    let text = if small { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    serde_json::from_str(&text).unwrap_or_default()
}

/// Replaces a file as a whole.
pub fn write(path: &Path, value: &impl Serialize) {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = || -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        fs::rename(&new, path)
    };
    if written().is_err() {
        fs::remove_file(&new).unwrap_or_default();
    }
}
