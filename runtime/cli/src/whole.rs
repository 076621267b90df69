//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Most files of runs that were killed, or go on, that are passed over for a free name.
const MOST_PASSED_OVER: u32 = 100;

/// Puts a text into a file, in the place of what is there. What is no regular file, such as a pipe, is written to.
pub fn put(path: &Path, text: &str) -> Result<()> {
    let special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    let written = if special { fs::write(path, text) } else { replace(path, text) };
    written.with_context(|| format!("{}: can't be written", path.display()))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (beside, mut file) = create_beside(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// A new file beside another one.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let first = std::process::id();
    let mut number = first;
    loop {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{number}.tmp"));
        match File::create_new(&beside) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && number - first < MOST_PASSED_OVER =>
            {
                number += 1;
            }
            file => return Ok((PathBuf::from(beside), file?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_left_of_a_killed_run_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let number = std::process::id();
        fs::write(file("other"), "other").unwrap();
        fs::write(file(&format!("lock.{number}.tmp")), "hal").unwrap();
        symlink(file("other"), file(&format!("lock.{}.tmp", number + 1))).unwrap();
        put(&file("lock"), "whole").unwrap();
        let read = |name: &str| fs::read_to_string(file(name)).unwrap();
        assert_eq!((read("lock").as_str(), read("other").as_str()), ("whole", "other"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
