//! Files that are watched for changes.
//!
//! Editors and compilers write a file in several steps, or put another in its place. So it is the folder of a file that
//! is watched, and a change is told when nothing more has happened for a moment. A folder that goes is looked for until
//! it is there again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;

/// So long nothing must have happened to the files before a change is told.
const QUIET: Duration = Duration::from_millis(20);
/// A file that changes all the time is told after this.
const AT_MOST: Duration = Duration::from_millis(500);
/// So often a folder that is missing is looked for.
const AGAIN: Duration = Duration::from_millis(250);

/// Folders inside a watched folder that are not: what is built, and what version control keeps.
const IGNORED: [&str; 4] = ["target", "build", "node_modules", "__pycache__"];
/// Folders of one watched folder, below which nothing is watched (a whole disk by mistake).
const MAX_FOLDERS: usize = 4096;

/// Files can't be watched.
#[derive(Debug, Error)]
#[error("{}: can't be watched: {cause}", path.display())]
pub struct WatchError {
    /// The file or folder.
    path: PathBuf,
    /// What the system said.
    cause: notify::Error,
}

/// Watches files and folders.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    events: Receiver<notify::Result<Event>>,
    /// Folders that the system watches for us.
    folders: BTreeSet<PathBuf>,
    /// Folders that it should watch and does not: they are not there, or it can't.
    missing: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    trees: BTreeSet<PathBuf>,
}

impl FileWatch {
    /// Watches nothing yet. Errors: the system has no way to.
    pub fn new() -> Result<Self, WatchError> {
        let (sender, events) = channel();
        // Whoever does not wait any more has no need of it.
        let told = move |event| drop(sender.send(event));
        let watcher = notify::recommended_watcher(told);
        let watcher = watcher.map_err(|cause| WatchError { path: PathBuf::from("."), cause })?;
        let (folders, missing, files, trees) = Default::default();
        Ok(Self { watcher, events, folders, missing, files, trees })
    }

    /// Watches these files, which need not be there, and all that lies in these folders, and nothing else any more.
    ///
    /// # Errors
    /// The folder of a file is not there or can't be watched; it is looked for, and the others are watched.
    pub fn set(&mut self, files: &[PathBuf], trees: &[PathBuf]) -> Result<(), WatchError> {
        self.files = files.iter().map(|file| real(file)).collect();
        self.trees = trees.iter().map(|tree| real(tree)).collect();
        let mut folders: BTreeSet<PathBuf> =
            self.files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        for tree in &self.trees {
            add_folders(tree, &mut folders);
        }
        for gone in self.folders.difference(&folders) {
            let _ = self.watcher.unwatch(gone);
        }
        let mut watched: BTreeSet<PathBuf> = self.folders.intersection(&folders).cloned().collect();
        let mut first = None;
        for folder in folders.difference(&self.folders) {
            match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(folder.clone())),
                Err(cause) => drop(first.get_or_insert(WatchError { path: folder.clone(), cause })),
            }
        }
        self.folders = watched;
        self.missing = folders.difference(&self.folders).cloned().collect();
        first.map_or(Ok(()), Err)
    }

    /// Watches one more file, which need not be there, until the next `set`. Where its folder is not there it is looked for.
    pub fn add(&mut self, file: &Path) {
        let file = real(file);
        let Some(folder) = file.parent() else { return };
        if !self.folders.contains(folder) {
            if self.watcher.watch(folder, RecursiveMode::NonRecursive).is_ok() {
                self.missing.remove(folder);
                self.folders.insert(folder.to_owned());
            } else {
                self.missing.insert(folder.to_owned());
            }
        }
        self.files.insert(file);
    }

    /// Waits for a change. False if none came within `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let mut look = Instant::now();
        let end = look + timeout;
        loop {
            let until = if self.missing.is_empty() { end } else { end.min(look) };
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) if self.take(&event) => break,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(end.saturating_duration_since(Instant::now()));
                    return false;
                }
            }
            let now = Instant::now();
            if now >= look {
                if self.watch_missing() {
                    break;
                }
                look = now + AGAIN;
            }
            if now >= end {
                return false;
            }
        }
        let begun = Instant::now();
        let mut last = begun;
        while last.elapsed() < QUIET && begun.elapsed() < AT_MOST {
            match self.events.recv_timeout(QUIET.saturating_sub(last.elapsed())) {
                Ok(event) if self.take(&event) => last = Instant::now(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        true
    }

    /// Whether an event concerns what is watched. Folders that it took away are watched anew, or looked for.
    fn take(&mut self, event: &notify::Result<Event>) -> bool {
        let lost = self.lost(event);
        for folder in &lost {
            // What was moved away would be told under the name that it had.
            let _ = self.watcher.unwatch(folder);
            self.folders.remove(folder);
            self.missing.insert(folder.clone());
        }
        if lost.is_empty() {
            return self.concerns(event);
        }
        self.watch_missing();
        true
    }

    /// Watched folders that are gone, or may be another by now.
    fn lost(&self, event: &notify::Result<Event>) -> Vec<PathBuf> {
        let Ok(event) = event else { return Vec::new() };
        let gone = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        if !gone && !event.need_rescan() {
            return Vec::new();
        }
        let within = |folder: &PathBuf| event.paths.iter().any(|path| folder.starts_with(path));
        let lost = self.folders.iter().filter(|&folder| event.need_rescan() || within(folder));
        lost.cloned().collect()
    }

    /// Watches missing folders that are there. Whether there are any.
    fn watch_missing(&mut self) -> bool {
        let mut found = false;
        for folder in std::mem::take(&mut self.missing) {
            if folder.is_dir() && self.watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
                self.folders.insert(folder);
                found = true;
            } else {
                self.missing.insert(folder);
            }
        }
        found
    }

    fn concerns(&self, event: &notify::Result<Event>) -> bool {
        // After an error events may be missing: looking once more is harmless.
        let Ok(event) = event else { return true };
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        let ours = |path: &PathBuf| {
            let in_tree = |tree: &PathBuf| path.strip_prefix(tree).is_ok_and(|below| !is_ignored(below));
            self.files.contains(path) || self.trees.iter().any(in_tree)
        };
        event.need_rescan() || event.paths.iter().any(ours)
    }
}

/// The path as events have it: absolute, links of its folder resolved.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

fn is_ignored(below: &Path) -> bool {
    below
        .iter()
        .any(|part| part.to_str().is_some_and(|part| part.starts_with('.') || IGNORED.contains(&part)))
}

/// A folder and those in it, links not followed.
fn add_folders(tree: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut open = vec![tree.to_owned()];
    while let Some(folder) = open.pop() {
        if folders.len() == MAX_FOLDERS {
            return;
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let inner = inner.filter(|entry| !is_ignored(Path::new(&entry.file_name())));
        open.extend(inner.map(|entry| entry.path()));
        folders.insert(folder);
    }
}
