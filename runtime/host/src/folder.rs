//! A folder that was granted, and the files in it.
//!
//! A path is walked name by name, each opened relative to the folder before it, and no symbolic link is followed. So
//! there is nothing to be swapped between a check and a use: whatever happens to the names meanwhile, what is opened lies in
//! the folder. Pipes and devices are never opened to be read: opening does not wait, and only a regular file is kept.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use membrane_profile::FolderGrant;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::limits::{MAX_ENTRIES, MAX_FILE_BYTES, MAX_FILE_PIECE_BYTES, MAX_PATH_BYTES, MAX_PATH_NAMES};

/// A file is opened without following a link, without waiting for the other end of a pipe, and without becoming the
/// terminal of this program.
const SAFELY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    name: String,
    handle: OwnedFd,
    writable: bool,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, a pipe, a socket or a device.
    Other,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    /// Bytes of a file, else 0.
    pub size: u64,
}

/// A path in a folder: the folder that its last name is in, and that name. None for the folder itself.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a str,
}

type Told<T> = Result<T, String>;

impl Folder {
    /// Opens a granted folder. A link in its own path is followed: it is the word of whoever wrote the profile. The error
    /// names it.
    pub fn open(grant: &FolderGrant) -> Told<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = fs::open(&grant.path, flags, Mode::empty());
        let handle = opened.map_err(|error| {
            let (name, path) = (&grant.name, grant.path.display());
            format!("the folder `{name}` ({path}) can't be opened: {}", words(error))
        })?;
        Ok(Self { name: grant.name.clone(), handle, writable: grant.write })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether files in it may be written, made and deleted.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// What is in a folder, sorted.
    pub fn entries(&self, path: &str) -> Told<Vec<Entry>> {
        let error = |errno| self.error(path, &words(errno));
        let folder = match self.place(path)? {
            Some(place) => fs::openat(&place.parent, place.name, OFlags::RDONLY | FOLDER, Mode::empty()),
            // Read anew: a handle has one position, which all calls would share.
            None => fs::openat(&self.handle, ".", OFlags::RDONLY | FOLDER, Mode::empty()),
        };
        let folder = folder.map_err(error)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(self.error(path, &format!("has more than {MAX_ENTRIES} entries")));
            }
            // One that has gone meanwhile is left out.
            if let Ok(stat) = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                entries.push(entry_of(name, &stat));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// What a path stands for.
    pub fn metadata(&self, path: &str) -> Told<Entry> {
        match self.place(path)? {
            Some(place) => Ok(entry_of(place.name, &self.stat(&place, path)?)),
            None => Ok(Entry { name: self.name.clone(), kind: Kind::Folder, size: 0 }),
        }
    }

    /// Bytes of a file.
    pub fn read(&self, path: &str, offset: u64, length: u32) -> Told<Vec<u8>> {
        let length = length as usize;
        if length > MAX_FILE_PIECE_BYTES {
            return Err(self.error(
                path,
                &format!("{length} bytes are more than the {MAX_FILE_PIECE_BYTES} of one read"),
            ));
        }
        let place = self.file_place(path)?;
        let file = self.regular(&place, path, OFlags::RDONLY)?;
        let size = file.metadata().map_err(|error| self.error(path, &error.to_string()))?.len();
        // Not more than there is, so that no memory is taken for what does not come.
        let mut bytes = vec![0; length.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(length))];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(path, &error.to_string())),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Puts a file in its place, whole or not at all: another one that has the bytes takes the name over. A hard link is
    /// broken by that, so that what it shares with another folder stays as it is. Gives whether there was none.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Told<bool> {
        self.may_write(path, bytes.len())?;
        let place = self.file_place(path)?;
        let before = self.existing(&place, path)?;
        let error = |error: io::Error| self.error(path, &error.to_string());
        let beside = temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | SAFELY;
        let owner = Mode::RUSR | Mode::WUSR;
        let others = Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        // Nobody may read meanwhile what they may not read of the file before.
        let mode = if before.is_some() { owner } else { owner | others };
        let opened = fs::openat(&place.parent, &beside, flags, mode);
        let mut file = File::from(opened.map_err(|errno| self.error(path, &words(errno)))?);
        let kept = before.as_ref().map_or(Ok(()), |before| {
            fs::fchmod(&file, Mode::from_raw_mode(before.st_mode) & Mode::from_raw_mode(0o777))
        });
        let written = kept.map_err(|errno| self.error(path, &words(errno)));
        let written = written.and_then(|()| file.write_all(bytes).map_err(error));
        let written = written.and_then(|()| {
            let moved = fs::renameat(&place.parent, &beside, &place.parent, place.name);
            moved.map_err(|errno| self.error(path, &words(errno)))
        });
        if written.is_err() {
            let _ = fs::unlinkat(&place.parent, &beside, AtFlags::empty());
        }
        written.map(|()| before.is_none())
    }

    /// Adds to the end of a file. Gives whether it was made.
    pub fn append(&self, path: &str, bytes: &[u8]) -> Told<bool> {
        self.may_write(path, bytes.len())?;
        let place = self.file_place(path)?;
        let Some(before) = self.existing(&place, path)? else { return self.write(path, bytes) };
        let file = self.regular(&place, path, OFlags::WRONLY | OFlags::APPEND)?;
        let size = file.metadata().map_err(|error| self.error(path, &error.to_string()))?.len();
        if size.saturating_add(bytes.len() as u64) > MAX_FILE_BYTES {
            return Err(self.error(path, &format!("would have more than {MAX_FILE_BYTES} bytes")));
        }
        if before.st_nlink > 1 {
            return Err(
                self.error(path, "has other names, by hard links, which may be outside of the folder")
            );
        }
        (&file).write_all(bytes).map_err(|error| self.error(path, &error.to_string()))?;
        Ok(false)
    }

    /// Makes a folder.
    pub fn make_folder(&self, path: &str) -> Told<()> {
        self.may_write(path, 0)?;
        let Some(place) = self.place(path)? else { return Err(self.error(path, "is there already")) };
        let made = fs::mkdirat(&place.parent, place.name, Mode::RWXU | Mode::RWXG | Mode::RWXO);
        made.map_err(|errno| self.error(path, &words(errno)))
    }

    /// Deletes a file.
    pub fn delete(&self, path: &str) -> Told<()> {
        self.may_write(path, 0)?;
        let place = self.file_place(path)?;
        if self.existing(&place, path)?.is_none() {
            return Err(self.error(path, &words(Errno::NOENT)));
        }
        let deleted = fs::unlinkat(&place.parent, place.name, AtFlags::empty());
        deleted.map_err(|errno| self.error(path, &words(errno)))
    }

    /// Walks to the folder that the last name of a path is in.
    fn place<'a>(&self, path: &'a str) -> Told<Option<Place<'a>>> {
        let Some(names) = names(path).map_err(|what| self.error(path, what))? else { return Ok(None) };
        let error = |errno| self.error(path, &words(errno));
        let mut parent =
            self.handle.as_fd().try_clone_to_owned().map_err(|e| self.error(path, &e.to_string()))?;
        let (name, folders) = names.split_last().unwrap_or((&"", &[]));
        for folder in folders {
            parent = fs::openat(&parent, *folder, OFlags::RDONLY | FOLDER, Mode::empty()).map_err(error)?;
        }
        Ok(Some(Place { parent, name }))
    }

    fn file_place<'a>(&self, path: &'a str) -> Told<Place<'a>> {
        self.place(path)?.ok_or_else(|| self.error(path, "is a folder, not a file"))
    }

    fn stat(&self, place: &Place<'_>, path: &str) -> Told<Stat> {
        fs::statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.error(path, &words(errno)))
    }

    /// The file at a place, if there is something. Errors: it is no regular file.
    fn existing(&self, place: &Place<'_>, path: &str) -> Told<Option<Stat>> {
        match fs::statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match special(&stat) {
                Some(what) => Err(self.error(path, what)),
                None => Ok(Some(stat)),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error(path, &words(errno))),
        }
    }

    /// Opens a regular file. Errors: it is something else, which is not opened where it can be helped: opening a device
    /// may do something.
    fn regular(&self, place: &Place<'_>, path: &str, flags: OFlags) -> Told<File> {
        let special_error = |what: &'static str| self.error(path, what);
        if let Some(what) = special(&self.stat(place, path)?) {
            return Err(special_error(what));
        }
        let opened = fs::openat(&place.parent, place.name, flags | SAFELY, Mode::empty());
        let opened = opened.map_err(|errno| self.error(path, &words(errno)))?;
        // It may have been another by then.
        let stat = fs::fstat(opened.as_fd()).map_err(|errno| self.error(path, &words(errno)))?;
        match special(&stat) {
            Some(what) => Err(special_error(what)),
            None => Ok(File::from(opened)),
        }
    }

    fn may_write(&self, path: &str, bytes: usize) -> Told<()> {
        if !self.writable {
            return Err(self.error(
                path,
                "may only be read: writing takes write = true in `folders` of the profile entry",
            ));
        }
        if bytes > MAX_FILE_PIECE_BYTES {
            return Err(self.error(
                path,
                &format!("{bytes} bytes are more than the {MAX_FILE_PIECE_BYTES} of one write"),
            ));
        }
        Ok(())
    }

    fn error(&self, path: &str, what: &str) -> String {
        format!("`{}` in the folder `{}`: {what}", crate::text::clean(path, MAX_PATH_BYTES), self.name)
    }
}

/// The names of a path; none for the empty path.
fn names(path: &str) -> Result<Option<Vec<&str>>, &'static str> {
    if path.is_empty() {
        return Ok(None);
    }
    if path.len() > MAX_PATH_BYTES || path.contains('\0') {
        return Err("a path has at most 1024 bytes, none of them 0");
    }
    if path.starts_with('/') {
        return Err("a path is relative to the folder: leave the `/` before it out");
    }
    let names: Vec<&str> = path.split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
        return Err("a path has no `.`, no `..` and no empty names in it");
    }
    if names.len() > MAX_PATH_NAMES {
        return Err("a path has at most 32 names");
    }
    Ok(Some(names))
}

fn entry_of(name: &str, stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        _ => Kind::Other,
    };
    let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    Entry { name: name.to_owned(), kind, size }
}

/// What it is if it is no regular file.
fn special(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("is a folder, not a file"),
        FileType::Symlink => Some("is a symbolic link, which is not followed"),
        FileType::Fifo => Some("is a pipe, not a file"),
        FileType::Socket => Some("is a socket, not a file"),
        _ => Some("is a device, not a file"),
    }
}

fn words(errno: Errno) -> String {
    match errno {
        Errno::LOOP => "goes through a symbolic link, which is not followed".to_owned(),
        Errno::NOTDIR => "goes through what is no folder, or through a symbolic link".to_owned(),
        Errno::NOENT => "is not there".to_owned(),
        Errno::EXIST => "is there already".to_owned(),
        Errno::NXIO => "is a pipe or a device, not a file".to_owned(),
        errno => io::Error::from(errno).to_string(),
    }
}

/// A name that nothing else has.
fn temporary_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!(".membrane-{}-{}.tmp", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}
