//! Reads resident weights into their memory, several pieces at a time: a disk that gets one read after the other gives a fraction of
//! what it can.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use membrane_formats::Checkpoint;

use super::stored::Stored;
use crate::error::Result;

/// Reads at a time.
const READERS: usize = 4;
/// Bytes of one of them.
const PIECE: usize = 4 << 20;

/// Bytes of a file, and where they go.
struct Piece<'a> {
    file: usize,
    offset: u64,
    into: &'a mut [u8],
}

/// Reads all matrices, each with its offset in `memory`, in ascending order of these. `progress` is told the bytes read so far.
pub(super) fn read(
    matrices: &[(Stored, u64)],
    checkpoint: &Checkpoint,
    memory: &mut [u8],
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (mut pieces, mut recoded) = (Vec::new(), Vec::new());
    let (mut rest, mut at) = (memory, 0);
    for (stored, offset) in matrices {
        let (into, behind) =
            std::mem::take(&mut rest)[(offset - at) as usize..].split_at_mut(stored.bytes as usize);
        (rest, at) = (behind, offset + stored.bytes);
        match stored.plain() {
            Some((file, offset)) => cut(file, offset, into, &mut pieces),
            None => recoded.push((stored, into)),
        }
    }
    let mut done = 0;
    let mut told = |bytes: u64| {
        done += bytes;
        progress(done);
    };
    read_pieces(pieces, checkpoint, &mut told)?;
    // One after the other: each takes memory beside its own for a while, of which the plan has that of the largest.
    let mut parts = Vec::new();
    for (stored, into) in recoded {
        stored.load(checkpoint, &mut parts, into)?;
        told(stored.bytes);
    }
    Ok(())
}

fn cut<'a>(file: usize, offset: u64, into: &'a mut [u8], pieces: &mut Vec<Piece<'a>>) {
    let parts = into.chunks_mut(PIECE).enumerate();
    pieces.extend(parts.map(|(part, into)| Piece { file, offset: offset + (part * PIECE) as u64, into }));
}

/// Reads the pieces in any order. Error: the first that a reader met; the others stop then.
fn read_pieces(pieces: Vec<Piece<'_>>, checkpoint: &Checkpoint, told: &mut dyn FnMut(u64)) -> Result<()> {
    let readers = READERS.min(pieces.len());
    let (queue, failed) = (Mutex::new(pieces.into_iter()), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let work = |sender: mpsc::Sender<Result<u64>>| {
        while !failed.load(Ordering::Relaxed) {
            let Some(piece) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
            let read = checkpoint.read_range(piece.file, piece.offset, piece.into);
            failed.fetch_or(read.is_err(), Ordering::Relaxed);
            let bytes = piece.into.len() as u64;
            if sender.send(read.map(|()| bytes).map_err(Into::into)).is_err() {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        let start = |_: &usize| {
            let (sender, work) = (sender.clone(), &work);
            std::thread::Builder::new().spawn_scoped(scope, move || work(sender)).is_ok()
        };
        match (0..readers).take_while(start).count() {
            // No thread is to be had: what is read here waits in the channel until all is.
            0 => work(sender),
            _ => drop(sender),
        }
        receiver.iter().try_for_each(|read| read.map(&mut *told))
    })
}
