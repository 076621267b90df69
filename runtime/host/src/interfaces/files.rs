//! The interface `files`, by grant.

use crate::bindings::tool::membrane::plugin::files as wit;
use crate::error::Cause;
use crate::folder::{Entry, Kind};
use crate::limits::{MAX_CREATED, MAX_WRITTEN_BYTES};
use crate::state::State;

/// Units for a call of the system, and for each entry of a folder.
const CALL_UNITS: usize = 10_000;
const ENTRY_UNITS: usize = 1_000;

type Outcome<T> = wasmtime::Result<Result<T, String>>;

impl wit::Host for State {
    fn folders(&mut self) -> wasmtime::Result<Vec<wit::Folder>> {
        self.charge(CALL_UNITS)?;
        let folders = self.authority.folders().iter();
        Ok(folders.map(|f| wit::Folder { name: f.name().to_owned(), writable: f.writable() }).collect())
    }

    fn entries(&mut self, folder: String, path: String) -> Outcome<Vec<wit::Entry>> {
        self.charge(CALL_UNITS)?;
        let entries = self.authority.folder(&folder).and_then(|folder| folder.entries(&path));
        if let Ok(entries) = &entries {
            self.charge(entries.len() * ENTRY_UNITS)?;
        }
        Ok(entries.map(|entries| entries.into_iter().map(entry).collect()))
    }

    fn metadata(&mut self, folder: String, path: String) -> Outcome<wit::Entry> {
        self.charge(CALL_UNITS)?;
        Ok(self.authority.folder(&folder).and_then(|folder| folder.metadata(&path)).map(entry))
    }

    fn read(&mut self, folder: String, path: String, offset: u64, length: u32) -> Outcome<Vec<u8>> {
        self.charge(CALL_UNITS)?;
        let bytes = self.authority.folder(&folder).and_then(|folder| folder.read(&path, offset, length));
        if let Ok(bytes) = &bytes {
            self.charge(bytes.len())?;
        }
        Ok(bytes)
    }

    fn write(&mut self, folder: String, path: String, bytes: Vec<u8>) -> Outcome<()> {
        self.change(bytes.len())?;
        let made = self.authority.folder(&folder).and_then(|folder| folder.write(&path, &bytes));
        Ok(made.map(|made| self.count_made(made)))
    }

    fn append(&mut self, folder: String, path: String, bytes: Vec<u8>) -> Outcome<()> {
        self.change(bytes.len())?;
        let made = self.authority.folder(&folder).and_then(|folder| folder.append(&path, &bytes));
        Ok(made.map(|made| self.count_made(made)))
    }

    fn make_folder(&mut self, folder: String, path: String) -> Outcome<()> {
        self.change(0)?;
        let made = self.authority.folder(&folder).and_then(|folder| folder.make_folder(&path));
        Ok(made.map(|()| self.count_made(true)))
    }

    fn delete(&mut self, folder: String, path: String) -> Outcome<()> {
        self.charge(CALL_UNITS)?;
        Ok(self.authority.folder(&folder).and_then(|folder| folder.delete(&path)))
    }
}

impl State {
    /// Charges for a change of so many bytes. The error ends the call: it has made too much.
    fn change(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.charge(CALL_UNITS + bytes)?;
        self.used.written_bytes += bytes;
        if self.used.written_bytes > MAX_WRITTEN_BYTES {
            let what = format!("it wrote more than the {MAX_WRITTEN_BYTES} bytes of one call");
            return Err(self.end(Cause::Broke(what)));
        }
        if self.used.created >= MAX_CREATED {
            let what = format!("it made more than the {MAX_CREATED} files and folders of one call");
            return Err(self.end(Cause::Broke(what)));
        }
        Ok(())
    }

    fn count_made(&mut self, made: bool) {
        self.used.created += u32::from(made);
    }
}

fn entry(entry: Entry) -> wit::Entry {
    let kind = match entry.kind {
        Kind::File => wit::Kind::File,
        Kind::Folder => wit::Kind::Folder,
        Kind::Other => wit::Kind::Other,
    };
    wit::Entry { name: entry.name, kind, size: entry.size }
}
