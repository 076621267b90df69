//! What is read once, when a model is loaded: ranges of its files, into memory of the caller's.
//!
//! Several pieces are read at a time, since a disk that gets one read after the other gives a fraction of what it can. Direct reads
//! need memory that begins at a block, so that they go through buffers of this module's own and are copied; through the page cache
//! a copy is made as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use crate::arena::{Arena, HUGE_PAGE_BYTES};
use crate::catalog::BLOCK_BYTES;
use crate::error::PagerError;
use crate::files::{Files, Job, PagedFile};
use crate::pager::IoMode;
use crate::probe::{LEAST_READ_ONCE, Rate, direct_is_better};

/// Reads at a time.
const READERS: usize = 4;
/// Bytes of the buffer that a read goes through.
const BUFFER_BYTES: usize = HUGE_PAGE_BYTES;
/// Bytes of a read; beside them its buffer holds the rest of their first and last block.
const PIECE_BYTES: usize = BUFFER_BYTES - 2 * BLOCK_BYTES as usize;
/// Bytes that are read in each way before one is chosen.
const TRIAL_BYTES: usize = 16 << 20;

/// Bytes of a file, and where they go.
pub struct FileRange<'a> {
    /// Number of the file.
    pub file: usize,
    /// Where they begin in it.
    pub offset: u64,
    /// As many as there are here.
    pub into: &'a mut [u8],
}

/// Reads all ranges, in any order; `progress` is told how many bytes more have been read. [`IoMode::Auto`] takes what is in the page
/// cache from there, reads 16 MiB of the rest through the page cache, as many directly, and all others in the better way: directly,
/// unless the other is half as fast again; or, if they are likely to be read `again` and the page cache to keep them, only if that is
/// half as fast again. Buffers for direct reads take 8 MiB meanwhile, and only if there are more than 128 MiB to read or
/// [`IoMode::Direct`] is asked for.
///
/// # Errors
/// [`PagerError::Read`], [`PagerError::Truncated`], [`PagerError::Reserve`]; the first that a reader met.
pub fn read_ranges(
    files: &[PagedFile],
    ranges: Vec<FileRange<'_>>,
    io: IoMode,
    again: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PagerError> {
    let files = Files::whole(files, io);
    let mut pieces: Vec<FileRange<'_>> = ranges.into_iter().flat_map(cut).collect();
    if io == IoMode::Auto {
        let cached = |piece: &FileRange<'_>| files.cached(piece.file, piece.offset, piece.into.len());
        let (cached, others) = pieces.into_iter().partition(cached);
        read_pieces(&files, cached, None, progress)?;
        pieces = others;
    }
    let bytes: u64 = pieces.iter().map(|piece| piece.into.len() as u64).sum();
    if !files.any_direct() || io != IoMode::Direct && bytes < LEAST_READ_ONCE {
        return read_pieces(&files, pieces, None, progress);
    }
    let buffers = buffers()?;
    if io == IoMode::Auto {
        let mut trial = |buffers| {
            let trial = first(&mut pieces);
            let bytes = trial.iter().map(|piece| piece.into.len() as u64).sum();
            let begin = Instant::now();
            read_pieces(&files, trial, buffers, progress)?;
            Ok(Rate { bytes, ns: begin.elapsed().as_nanos() as u64 })
        };
        let buffered = trial(None)?;
        if !direct_is_better(trial(Some(&buffers))?, buffered, again) {
            return read_pieces(&files, pieces, None, progress);
        }
    }
    read_pieces(&files, pieces, Some(&buffers), progress)
}

/// A buffer for each reader, touched, since page faults are not the disk's.
fn buffers() -> Result<Arc<Arena>, PagerError> {
    let buffers = Arena::buffers(READERS, BUFFER_BYTES)?;
    for reader in 0..READERS {
        if let Some(mut buffer) = buffers.write(reader).and_then(|mut buffer| buffer.piece(0..BUFFER_BYTES)) {
            buffer.bytes_mut().fill(1);
        }
    }
    Ok(buffers)
}

/// Takes the pieces of a trial off.
fn first<'a>(pieces: &mut Vec<FileRange<'a>>) -> Vec<FileRange<'a>> {
    let mut bytes = 0;
    let enough = pieces.iter().position(|piece| {
        bytes += piece.into.len();
        bytes >= TRIAL_BYTES
    });
    pieces.drain(..enough.map_or(pieces.len(), |last| last + 1)).collect()
}

fn cut(range: FileRange<'_>) -> impl Iterator<Item = FileRange<'_>> {
    let FileRange { file, offset, into } = range;
    let parts = into.chunks_mut(PIECE_BYTES).enumerate();
    parts.map(move |(part, into)| FileRange { file, offset: offset + (part * PIECE_BYTES) as u64, into })
}

/// Reads the pieces in any order, directly where there are buffers. After an error the other readers stop.
fn read_pieces(
    files: &Files,
    pieces: Vec<FileRange<'_>>,
    buffers: Option<&Arc<Arena>>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PagerError> {
    let readers = READERS.min(pieces.len());
    let (queue, failed) = (Mutex::new(pieces.into_iter()), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let work = |reader: usize, sender: mpsc::Sender<Result<u64, PagerError>>| {
        while !failed.load(Ordering::Relaxed) {
            let Some(mut piece) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
            let bytes = piece.into.len() as u64;
            let directly =
                buffers.is_some_and(|buffers| read_direct(files, buffers, reader, &mut piece).is_ok());
            // The page cache is tried before a read has failed, and says why if it has.
            let read =
                if directly { Ok(()) } else { files.read_buffered(piece.file, piece.offset, piece.into) };
            failed.fetch_or(read.is_err(), Ordering::Relaxed);
            if sender.send(read.map(|()| bytes)).is_err() {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        let start = |reader: &usize| {
            let (reader, sender, work) = (*reader, sender.clone(), &work);
            std::thread::Builder::new().spawn_scoped(scope, move || work(reader, sender)).is_ok()
        };
        match (0..readers).take_while(start).count() {
            // No thread is to be had: what is read here waits in the channel until all is.
            0 => work(0, sender),
            _ => drop(sender),
        }
        receiver.iter().try_for_each(|read| read.map(&mut *progress))
    })
}

/// Reads the blocks that hold a piece into a reader's buffer, and copies it from there.
fn read_direct(
    files: &Files,
    buffers: &Arc<Arena>,
    reader: usize,
    piece: &mut FileRange<'_>,
) -> Result<(), PagerError> {
    let lead = (piece.offset % BLOCK_BYTES) as usize;
    let data = lead..lead + piece.into.len();
    let blocks = data.end.next_multiple_of(BLOCK_BYTES as usize);
    let buffer = buffers.write(reader).and_then(|mut buffer| buffer.piece(0..blocks));
    let into = buffer.ok_or(PagerError::SlotBusy { slot: reader })?;
    let mut job = Job { file: piece.file, offset: piece.offset - lead as u64, data: data.clone(), into };
    files.read(&mut job).1?;
    piece.into.copy_from_slice(&job.into.bytes_mut()[data]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    /// More than a trial takes, and a tail that is no whole block.
    const LENGTH: usize = LEAST_READ_ONCE as usize + 70_001 + 4097;

    fn byte(at: usize) -> u8 {
        (at / 7 % 251) as u8
    }

    #[test]
    fn every_way_of_reading_gives_the_bytes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..LENGTH).map(byte).collect();
        File::create(&path).unwrap().write_all(&content).unwrap();
        let files = [PagedFile::open(&path).unwrap()];
        if !Files::whole(&files, IoMode::Direct).any_direct() {
            println!("direct reads skipped: this file system has none");
        }
        // Ranges at odd places, one of them empty; a hole is left between them.
        let cuts = [(3, 5000), (5003, 0), (70_001, LENGTH - 70_001 - 9), (LENGTH - 9, 9)];
        for io in [IoMode::Auto, IoMode::Direct, IoMode::Buffered] {
            let mut memory: Vec<Vec<u8>> = cuts.iter().map(|&(_, length)| vec![0xAA; length]).collect();
            let ranges = cuts.iter().zip(&mut memory);
            let ranges = ranges
                .map(|(&(offset, _), into)| FileRange { file: 0, offset: offset as u64, into })
                .collect();
            let mut told = 0;
            read_ranges(&files, ranges, io, io == IoMode::Auto, &mut |bytes| told += bytes).unwrap();
            for (&(offset, length), memory) in cuts.iter().zip(&memory) {
                assert!(memory == &content[offset..offset + length], "{io:?} {offset}");
            }
            assert_eq!(told, cuts.iter().map(|&(_, length)| length as u64).sum::<u64>());
        }
    }

    #[test]
    fn a_file_that_ends_too_soon_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        File::create(&path).unwrap().write_all(&[1; 9000]).unwrap();
        let files = [PagedFile::open(&path).unwrap()];
        for io in [IoMode::Auto, IoMode::Direct, IoMode::Buffered] {
            let mut memory = vec![0; 8000];
            let ranges = vec![FileRange { file: 0, offset: 1001, into: &mut memory }];
            let error = read_ranges(&files, ranges, io, false, &mut |_| ()).unwrap_err();
            assert!(matches!(error, PagerError::Truncated { end: 9000, wanted: 9001, .. }), "{io:?} {error}");
        }
    }
}
