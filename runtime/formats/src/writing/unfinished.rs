//! Where a large model is made until it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::with_ending;
use crate::error::FormatError;

/// The first line of a log: a folder without it is somebody else's.
const MARK: &str = "membrane, unfinished model, 1\n";
/// The name of the log in its folder.
const LOG: &str = "log";
const FOREIGN: &str = "is there, and is no unfinished model; take it away, or name another path";
/// Bytes of the longest log that is read: a line has about 90, and stands for [`super::resumable`]'s pieces of many megabytes.
const LOG_BYTES: u64 = 1 << 20;

/// A folder beside a path, in which what is to be there is made: the model, and a log of the pieces of it that are on the disk. It
/// stays when the process ends before, and the next call for the same model goes on with it.
#[derive(Debug)]
pub struct Unfinished {
    folder: PathBuf,
    /// Where the model is to be.
    out: PathBuf,
    /// Locked: one process at a time has the folder.
    log: File,
    pieces: Vec<Piece>,
}

/// A run of bytes behind the one before, that is on the disk.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// Where it ends in the file.
    pub end: u64,
    pub digest: blake3::Hash,
}

impl Unfinished {
    /// The folder in which what is to be at `out` is made; none if `out` has no name.
    pub fn folder(out: &Path) -> Option<PathBuf> {
        out.file_name()?;
        // A slash behind a name is not part of it.
        Some(with_ending(&out.components().collect::<PathBuf>(), ".unfinished"))
    }

    /// Begins a model at `out`, or takes up what was begun. `of` says what is made and of what: something begun of anything else is
    /// refused.
    ///
    /// Errors: there is something at `out`; the folder is not of this crate's making, or another process has it.
    pub fn begin(out: &Path, of: &[u8]) -> Result<Self, FormatError> {
        let out: PathBuf = out.components().collect();
        let unwritable = |path: &Path, rule| FormatError::Unwritable { path: path.to_owned(), rule };
        let folder = Self::folder(&out).ok_or_else(|| unwritable(&out, "is no name for a model"))?;
        if out.symlink_metadata().is_ok() {
            return Err(FormatError::Exists { path: out });
        }
        let failed = |source| FormatError::Open { path: folder.clone(), source };
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        if !folder.symlink_metadata().map_err(failed)?.is_dir() {
            return Err(unwritable(&folder, FOREIGN));
        }
        let mut log = open_log(&folder)?;
        // Whoever had it may have finished, and taken it away, before it was locked.
        if !is_still_there(&log, &folder.join(LOG)).map_err(failed)? || out.symlink_metadata().is_ok() {
            return Err(FormatError::Exists { path: out });
        }
        let title = format!("{MARK}{}\n", blake3::hash(of).to_hex());
        let mut text = Vec::new();
        Read::by_ref(&mut log).take(LOG_BYTES).read_to_end(&mut text).map_err(failed)?;
        // Ours, of which not even the title came to the disk: nothing else did.
        if text.len() < title.len() && title.as_bytes().starts_with(&text) {
            if !holds_only(&folder, Some(LOG)).map_err(failed)? {
                return Err(unwritable(&folder, FOREIGN));
            }
            begin_log(&mut log, &title).and_then(|()| sync_folder(&folder)).map_err(failed)?;
            text = title.clone().into_bytes();
        }
        if !text.starts_with(MARK.as_bytes()) {
            return Err(unwritable(&folder, FOREIGN));
        }
        let Some(lines) = text.strip_prefix(title.as_bytes()) else {
            return Err(unwritable(
                &folder,
                "is of another model, of files that were changed, or of another version; take it away to begin anew",
            ));
        };
        let lines = String::from_utf8_lossy(lines);
        let pieces = lines.split_inclusive('\n').map_while(Piece::read).collect();
        let mut begun = Self { folder, out, log, pieces };
        let kind = begun.model().symlink_metadata().map(|model| model.file_type());
        if kind.is_ok_and(|kind| !(kind.is_file() || kind.is_dir())) {
            let rule = "has a model that is no file or folder of its own; take it away to begin anew";
            return Err(unwritable(&begun.folder, rule));
        }
        begun.keep(begun.pieces.len())?;
        Ok(begun)
    }

    /// Where the model is made: a file or a folder.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// Gives the model its place. Error: there is something by now; the model stays where it is.
    pub fn publish(self) -> Result<(), FormatError> {
        let failed = |source| FormatError::Write { path: self.out.clone(), source };
        let model = self.model();
        if model.is_dir() {
            sync_folder(&model).map_err(failed)?;
        }
        match rename(&model, &self.out) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(FormatError::Occupied { path: self.out, model });
            }
            Err(source) => return Err(failed(source)),
        }
        // The model has its place; whether a crash could still undo that is not worth an error.
        if let Some(parent) = self.out.parent() {
            let _ = sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        }
        // It is of no more use, and harms nobody.
        let _ = fs::remove_file(self.folder.join(LOG)).and_then(|()| fs::remove_dir(&self.folder));
        Ok(())
    }

    /// The pieces that were written, of which nobody knows yet whether they are still there.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Forgets all pieces but the first `count`.
    pub(super) fn keep(&mut self, count: usize) -> Result<(), FormatError> {
        self.pieces.truncate(count);
        let pieces: usize = self.pieces.iter().map(|piece| piece.line().len()).sum();
        let end = (MARK.len() + blake3::Hash::from([0; 32]).to_hex().len() + 1 + pieces) as u64;
        let cut = self.log.set_len(end).and_then(|()| self.log.seek(SeekFrom::Start(end)));
        cut.map(drop).map_err(|source| FormatError::Write { path: self.folder.join(LOG), source })
    }

    /// Adds a piece that is on the disk.
    pub(super) fn add(&mut self, piece: Piece) -> io::Result<()> {
        self.log.write_all(piece.line().as_bytes())?;
        self.log.sync_data()?;
        self.pieces.push(piece);
        Ok(())
    }
}

impl Piece {
    fn line(&self) -> String {
        format!("{} {}\n", self.end, self.digest.to_hex())
    }

    /// A line, if it is whole and as it was written.
    fn read(line: &str) -> Option<Self> {
        let (end, digest) = line.strip_suffix('\n')?.split_once(' ')?;
        let piece = Self { end: end.parse().ok()?, digest: blake3::Hash::from_hex(digest).ok()? };
        (piece.line() == line).then_some(piece)
    }
}

/// Opens and locks the log of a folder, which may be empty yet. Errors: the folder is somebody else's, or another process has it.
fn open_log(folder: &Path) -> Result<File, FormatError> {
    let unwritable = |rule| FormatError::Unwritable { path: folder.to_owned(), rule };
    let failed = |source| FormatError::Open { path: folder.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let log = match options.open(folder.join(LOG)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !holds_only(folder, None).map_err(failed)? {
                return Err(unwritable(FOREIGN));
            }
            options.create_new(true).open(folder.join(LOG))
        }
        opened => opened,
    };
    let log = log.map_err(failed)?;
    match log.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            Err(unwritable("is being written by another process; wait for its end"))
        }
        // Not every file system has locks.
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(log),
    }
}

/// Writes the title of a log that has none.
fn begin_log(log: &mut File, title: &str) -> io::Result<()> {
    log.set_len(0)?;
    log.seek(SeekFrom::Start(0))?;
    log.write_all(title.as_bytes())?;
    log.sync_all()
}

/// Whether there is nothing in a folder but this.
fn holds_only(folder: &Path, own: Option<&str>) -> io::Result<bool> {
    for entry in folder.read_dir()? {
        let name = entry?.file_name();
        if own.is_none_or(|own| name != own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an open file is what its path leads to.
fn is_still_there(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    Ok(path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

/// Waits until the names in a folder are on the disk, where the system has a way to say so.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Moves a file or folder to where nothing is.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can hold on to that.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn out(room: &tempfile::TempDir) -> PathBuf {
        room.path().join("out")
    }

    fn error(out: &Path, of: &[u8]) -> String {
        Unfinished::begin(out, of).unwrap_err().to_string()
    }

    fn piece(end: u64) -> Piece {
        Piece { end, digest: blake3::hash(&end.to_le_bytes()) }
    }

    #[test]
    fn pieces_are_there_again_as_far_as_their_lines_are_whole() {
        let room = tempfile::tempdir().unwrap();
        let mut begun = Unfinished::begin(&out(&room), b"a").unwrap();
        for end in [10, 20, 30] {
            begun.add(piece(end)).unwrap();
        }
        drop(begun);
        let log = room.path().join("out.unfinished/log");
        let whole = fs::read(&log).unwrap();
        for (cut, kept) in [(0, 3), (1, 2), (70, 1), (whole.len() - MARK.len() - 65, 0)] {
            fs::write(&log, &whole[..whole.len() - cut]).unwrap();
            let mut begun = Unfinished::begin(&out(&room), b"a").unwrap();
            assert_eq!(begun.pieces(), &[piece(10), piece(20), piece(30)][..kept], "{cut}");
            begun.add(piece(99)).unwrap();
            drop(begun);
            let begun = Unfinished::begin(&out(&room), b"a").unwrap();
            assert_eq!(begun.pieces().len(), kept + 1);
        }
        let mut begun = Unfinished::begin(&out(&room), b"a").unwrap();
        begun.keep(0).unwrap();
        drop(begun);
        assert!(Unfinished::begin(&out(&room), b"a").unwrap().pieces().is_empty());
    }

    #[test]
    fn what_was_begun_of_something_else_stays() {
        let room = tempfile::tempdir().unwrap();
        Unfinished::begin(&out(&room), b"a").unwrap().add(piece(10)).unwrap();
        assert!(error(&out(&room), b"b").contains("out.unfinished: is of another model"));
        assert_eq!(Unfinished::begin(&out(&room), b"a").unwrap().pieces(), [piece(10)]);
    }

    #[test]
    fn folders_of_other_people_stay_as_they_are() {
        let room = tempfile::tempdir().unwrap();
        let (folder, victim) = (room.path().join("out.unfinished"), room.path().join("victim"));
        fs::create_dir(&folder).unwrap();
        for name in ["log", "model"] {
            fs::write(folder.join(name), "mine").unwrap();
            assert!(error(&out(&room), b"a").contains("is no unfinished model"), "{name}");
            assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), "mine");
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, folder.join("log")).unwrap();
        error(&out(&room), b"a");
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(room.path().join("empty")).unwrap();
        symlink(room.path().join("empty"), &folder).unwrap();
        assert!(error(&out(&room), b"a").contains("is no unfinished model"));
        fs::remove_file(&folder).unwrap();
        fs::write(&folder, "mine").unwrap();
        assert!(error(&out(&room), b"a").contains("is no unfinished model"));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert!(error(Path::new("/"), b"a").contains("no name"));
    }

    #[test]
    fn a_title_that_is_not_whole_is_written_again_where_nothing_else_is() {
        let room = tempfile::tempdir().unwrap();
        let folder = room.path().join("out.unfinished");
        fs::create_dir(&folder).unwrap();
        for title in [&b""[..], &MARK.as_bytes()[..9], MARK.as_bytes()] {
            fs::write(folder.join("log"), title).unwrap();
            fs::write(folder.join("model"), "mine").unwrap();
            assert!(error(&out(&room), b"a").contains("is no unfinished model"));
            assert_eq!(fs::read_to_string(folder.join("model")).unwrap(), "mine");
            fs::remove_file(folder.join("model")).unwrap();
            assert!(Unfinished::begin(&out(&room), b"a").unwrap().pieces().is_empty());
            assert_eq!(fs::read_to_string(folder.join("log")).unwrap().lines().count(), 2);
        }
        // Not UTF-8, and a model that is a link.
        fs::write(folder.join("log"), b"\xff\xfe").unwrap();
        assert!(error(&out(&room), b"a").contains("is no unfinished model"));
        fs::remove_dir_all(&folder).unwrap();
        drop(Unfinished::begin(&out(&room), b"a").unwrap());
        fs::create_dir(room.path().join("elsewhere")).unwrap();
        symlink(room.path().join("elsewhere"), folder.join("model")).unwrap();
        assert!(error(&out(&room), b"a").contains("no file or folder of its own"));
    }

    #[test]
    fn one_process_at_a_time_makes_a_model() {
        let room = tempfile::tempdir().unwrap();
        let begun = Unfinished::begin(&out(&room), b"a").unwrap();
        assert!(error(&out(&room), b"a").contains("by another process"));
        drop(begun);
        Unfinished::begin(&out(&room), b"a").unwrap();
    }

    #[test]
    fn what_came_to_be_there_stays() {
        let room = tempfile::tempdir().unwrap();
        for kind in ["file", "folder"] {
            // A slash behind the name is not part of it.
            let mut begun = Unfinished::begin(&out(&room).join(""), b"a").unwrap();
            begun.add(piece(1)).unwrap();
            fs::write(begun.model(), "model").unwrap();
            match kind {
                "file" => fs::write(out(&room), "mine").unwrap(),
                _ => fs::create_dir(out(&room)).unwrap(),
            }
            let occupied = begun.publish().unwrap_err().to_string();
            assert!(
                occupied.contains("move it") && occupied.contains("out.unfinished/model"),
                "{kind}: {occupied}"
            );
            assert!(error(&out(&room), b"a").contains("exists already"));
            match kind {
                "file" => fs::remove_file(out(&room)).unwrap(),
                _ => fs::remove_dir(out(&room)).unwrap(),
            }
            let begun = Unfinished::begin(&out(&room), b"a").unwrap();
            assert_eq!(begun.pieces(), [piece(1)]);
            begun.publish().unwrap();
            assert_eq!(fs::read_to_string(out(&room)).unwrap(), "model");
            assert!(!room.path().join("out.unfinished").exists());
            fs::remove_file(out(&room)).unwrap();
        }
    }
}
