//! The files of a catalog and the reads from them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::arena::Piece;
use crate::catalog::{BLOCK_BYTES, Catalog};
use crate::error::PagerError;
use crate::os::{self, Hint, PageCache};
use crate::pager::IoMode;

/// A file that holds experts. The pager reads the open file, whatever happens to the path, which is for
/// messages.
#[derive(Debug, Clone)]
pub struct PagedFile {
    /// Where the file was opened.
    pub path: PathBuf,
    /// The file, open for reading.
    pub file: Arc<File>,
}

impl PagedFile {
    /// Opens a file. Error: [`PagerError::Open`].
    pub fn open(path: &Path) -> Result<Self, PagerError> {
        let file = File::open(path)
            .map_err(|source| PagerError::Open { path: path.to_owned(), source: Arc::new(source) })?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file) })
    }
}

/// Asks the system to take a file out of its page cache, for measurements of a cold start. Pages that are still to be written or
/// that somebody has mapped stay.
pub fn drop_from_page_cache(file: &File) {
    // No length means to the end of the file.
    os::hint(file, Hint::Drop { offset: 0, bytes: 0 });
}

/// One read: a piece of an expert from a file into the arena.
pub(crate) struct Job {
    /// Number of the file.
    pub file: usize,
    /// Byte of the file that belongs at the start of `into`; a multiple of the block.
    pub offset: u64,
    /// The bytes of `into` that must be read; the rest is slack that a direct read fills too.
    pub data: Range<usize>,
    /// Whole blocks of a slot.
    pub into: Piece,
}

impl ReadCost {
    /// Adds that of another read.
    pub fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.bytes += other.bytes;
        self.fallbacks += other.fallbacks;
    }
}

/// What a read took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadCost {
    /// Read calls.
    pub calls: u64,
    /// Bytes that they returned.
    pub bytes: u64,
    /// Files that refused direct reads just now.
    pub fallbacks: u64,
}

/// All files of a pager, each open once for buffered and, where it works, once for direct reads.
pub(crate) struct Files {
    files: Vec<Source>,
    /// Whether buffered reads drop what they leave in the page cache.
    drop_cache: bool,
}

struct Source {
    path: PathBuf,
    buffered: Arc<File>,
    direct: Option<File>,
    /// What is in the page cache is read from there, although other reads are direct; known where the file is read once and is likely
    /// to be read again.
    cache: Option<PageCache>,
    /// Set when a direct read was refused although the open was not.
    direct_refused: AtomicBool,
}

impl Files {
    /// Opens descriptors of the pager's own and checks that every record lies in its file.
    pub fn open(
        given: &[PagedFile],
        catalog: &Catalog,
        io: IoMode,
        drop_cache: bool,
    ) -> Result<Self, PagerError> {
        let mut lengths = Vec::with_capacity(given.len());
        for PagedFile { path, file } in given {
            let open_error = |source| PagerError::Open { path: path.clone(), source: Arc::new(source) };
            lengths.push(file.metadata().map_err(open_error)?.len());
        }
        for (key, record) in catalog.iter() {
            let (group, index) = (key.group as usize, key.index as usize);
            for part in &record.parts {
                let file = part.file;
                let Some(&file_bytes) = lengths.get(file) else {
                    return Err(PagerError::UnknownFile { group, index, file, files: given.len() });
                };
                let end = part.offset + part.bytes;
                if end > file_bytes {
                    let path = given[file].path.clone();
                    return Err(PagerError::PastEnd { path, group, index, end, file_bytes });
                }
            }
        }
        let files = given.iter().map(|given| Source::open(given, io, drop_cache)).collect();
        Ok(Self { files, drop_cache })
    }

    /// Opens descriptors for what is read once, in order; whether it lies in the files shows when it is read.
    pub fn whole(given: &[PagedFile], io: IoMode) -> Self {
        let files = given.iter().map(|given| Source::open(given, io, false)).collect();
        Self { files, drop_cache: false }
    }

    /// Whether all of a range lies in the page cache; `false` where it isn't known.
    pub fn cached(&self, file: usize, offset: u64, bytes: usize) -> bool {
        self.files[file].cached(offset, bytes)
    }

    /// Whether it is known of each file what of it lies in the page cache.
    pub fn knows_cache(&self) -> bool {
        self.files.iter().all(|source| source.cache.is_some())
    }

    /// How many of the files have no descriptor for direct reads.
    pub fn without_direct(&self) -> usize {
        self.files.iter().filter(|source| source.direct.is_none()).count()
    }

    /// Whether any of the files can be read past the page cache.
    pub fn any_direct(&self) -> bool {
        self.without_direct() < self.files.len()
    }

    /// From now on all reads go through the page cache.
    pub fn close_direct(&mut self) {
        self.files.iter_mut().for_each(|source| source.direct = None);
    }

    /// The descriptors of a file: for buffered and for direct reads.
    pub fn descriptors(&self, file: usize) -> (&File, Option<&File>) {
        (&self.files[file].buffered, self.files[file].direct.as_ref())
    }

    /// Reads through the page cache, from any byte of a file. Errors: those of [`Files::read`].
    pub fn read_buffered(&self, file: usize, offset: u64, into: &mut [u8]) -> Result<(), PagerError> {
        let source = &self.files[file];
        let (bytes, cost) = (into.len(), &mut ReadCost::default());
        let end = read_exact(&source.buffered, into, offset, cost).map_err(|error| {
            let (path, bytes, source) = (source.path.clone(), bytes as u64, Arc::new(error));
            PagerError::Read { path, offset, bytes, source }
        })?;
        source.check_end(offset, end, bytes)
    }

    /// Carries out a read. Errors: [`PagerError::Truncated`], [`PagerError::Read`].
    pub fn read(&self, job: &mut Job) -> (ReadCost, Result<(), PagerError>) {
        let mut cost = ReadCost::default();
        let result = self.files[job.file].read(job, self.drop_cache, &mut cost);
        (cost, result)
    }
}

impl Source {
    fn open(given: &PagedFile, io: IoMode, paged: bool) -> Self {
        let buffered = match os::reopen_buffered(&given.file) {
            Some(own) => {
                // Read-ahead is for the one pass that fills an arena for all; paged reads come in no order.
                if paged {
                    os::hint(&own, Hint::Random);
                }
                Arc::new(own)
            }
            None => Arc::clone(&given.file),
        };
        let cache = if io == IoMode::Auto && !paged { PageCache::of(&buffered) } else { None };
        let direct = if io == IoMode::Buffered { None } else { os::reopen_direct(&given.file) };
        Self { path: given.path.clone(), buffered, direct, cache, direct_refused: AtomicBool::new(false) }
    }

    fn cached(&self, offset: u64, bytes: usize) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.holds(offset, bytes))
    }

    /// The descriptor for a direct read of a range, where it is to be one.
    fn bypass(&self, offset: u64, bytes: usize) -> Option<&File> {
        let direct = self.direct.as_ref().filter(|_| !self.direct_refused.load(Ordering::Relaxed))?;
        if self.cached(offset, bytes) { None } else { Some(direct) }
    }

    fn read(&self, job: &mut Job, drop_cache: bool, cost: &mut ReadCost) -> Result<(), PagerError> {
        let (offset, data) = (job.offset, job.data.clone());
        let failed =
            |source| PagerError::Read { path: self.path.clone(), offset, bytes: data.end as u64, source };
        let into = job.into.bytes_mut();
        if let Some(direct) = self.bypass(offset + data.start as u64, data.len()) {
            match read_blocks(direct, into, offset, data.end, cost) {
                Ok(end) => return self.check_end(offset, end, data.end),
                // The file system or the device wants another alignment, or has no direct reads after all.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    let first = !self.direct_refused.swap(true, Ordering::Relaxed);
                    cost.fallbacks += u64::from(first);
                }
                Err(error) => return Err(failed(Arc::new(error))),
            }
        }
        let start = offset + data.start as u64;
        let read = read_exact(&self.buffered, &mut into[data.clone()], start, cost);
        if drop_cache {
            // Only whole pages are dropped, so the range is widened to the pages that hold its ends.
            let bytes = (data.end as u64).next_multiple_of(BLOCK_BYTES);
            os::hint(&self.buffered, Hint::Drop { offset, bytes });
        }
        let end = data.start + read.map_err(|error| failed(Arc::new(error)))?;
        self.check_end(offset, end, data.end)
    }

    /// Fails if only `end` bytes from `offset` are there where `wanted` are needed.
    fn check_end(&self, offset: u64, end: usize, wanted: usize) -> Result<(), PagerError> {
        if end >= wanted {
            return Ok(());
        }
        let (read_to, wanted) = (offset + end as u64, offset + wanted as u64);
        // A read that began after the end tells nothing about where that is.
        let length = self.buffered.metadata().map_or(read_to, |metadata| metadata.len());
        Err(PagerError::Truncated { path: self.path.clone(), end: read_to.min(length), wanted })
    }
}

/// Direct reads from `offset` until `wanted` bytes of `into` are filled; returns how many are, which is fewer
/// only where the file ends. `into` and `offset` are aligned. The last block of a file may be a partial one:
/// the read then returns less than was asked for, which is enough if the data end there.
fn read_blocks(
    file: &File,
    into: &mut [u8],
    offset: u64,
    wanted: usize,
    cost: &mut ReadCost,
) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        // After a short read the next one must begin at a block again.
        let from = filled - filled % BLOCK_BYTES as usize;
        let end = from + read_once(file, &mut into[from..], offset + from as u64, cost)?;
        if end >= wanted || end <= filled {
            return Ok(end.max(filled));
        }
        filled = end;
    }
}

/// Buffered reads until `into` is full or the file ends; returns the number of bytes read.
fn read_exact(file: &File, into: &mut [u8], offset: u64, cost: &mut ReadCost) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match read_once(file, &mut into[filled..], offset + filled as u64, cost)? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    Ok(filled)
}

fn read_once(file: &File, into: &mut [u8], offset: u64, cost: &mut ReadCost) -> io::Result<usize> {
    loop {
        cost.calls += 1;
        match file.read_at(into, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(bytes) => {
                cost.bytes += bytes as u64;
                return Ok(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::arena::Arena;
    use crate::catalog::{ByteRange, Record};

    const LENGTH: usize = 3 * 4096 + 1000;

    fn source(io: IoMode) -> (tempfile::TempDir, PagedFile, Files) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("experts");
        let content: Vec<u8> = (0..LENGTH).map(|at| (at / 7) as u8).collect();
        File::create(&path).unwrap().write_all(&content).unwrap();
        let part = ByteRange { file: 0, offset: 0, bytes: LENGTH as u64 };
        let catalog = Catalog::new(vec![vec![Record { parts: vec![part] }]]).unwrap();
        let given = PagedFile::open(&path).unwrap();
        let files = Files::open(std::slice::from_ref(&given), &catalog, io, true).unwrap();
        (folder, given, files)
    }

    fn job(offset: u64, data: Range<usize>) -> Job {
        let into = Arena::reserve(1, 16384).unwrap().write(0).unwrap().piece(0..16384).unwrap();
        Job { file: 0, offset, data, into }
    }

    #[test]
    fn the_tail_of_a_file_that_ends_within_a_block_is_read() {
        for io in [IoMode::Buffered, IoMode::Direct] {
            let (_folder, _given, files) = source(io);
            let mut job = job(8192, 100..LENGTH - 8192);
            let (cost, result) = files.read(&mut job);
            result.unwrap();
            let data = job.data.clone();
            let right = |(at, &byte): (usize, &u8)| byte == ((at + 8292) / 7) as u8;
            assert!(job.into.bytes_mut()[data].iter().enumerate().all(right));
            assert_eq!((cost.calls, cost.fallbacks), (1, 0));
        }
    }

    #[test]
    fn a_missing_tail_names_the_end_of_the_file() {
        for io in [IoMode::Buffered, IoMode::Direct] {
            let (_folder, _given, files) = source(io);
            let (_, result) = files.read(&mut job(8192, 0..8192));
            let error = result.unwrap_err();
            let PagerError::Truncated { end, wanted, .. } = error else { panic!("{error}") };
            assert_eq!((end, wanted), (LENGTH as u64, 16384));
            let (_, result) = files.read(&mut job(1 << 20, 0..10));
            assert!(matches!(result, Err(PagerError::Truncated { .. })));
        }
    }

    #[test]
    fn a_refused_direct_read_falls_back_once() {
        let (_folder, _given, files) = source(IoMode::Direct);
        if files.without_direct() > 0 {
            println!("skipped: this file system has no direct reads");
            return;
        }
        // An offset that is no multiple of a block is what a device with larger blocks would object to.
        let mut first = job(1, 0..5000);
        let (cost, result) = files.read(&mut first);
        result.unwrap();
        assert_eq!((cost.fallbacks, first.into.bytes_mut()[4999]), (1, (5000 / 7) as u8));
        let (cost, result) = files.read(&mut job(0, 0..10));
        result.unwrap();
        assert_eq!(cost, ReadCost { calls: 1, bytes: 10, fallbacks: 0 });
    }
}
