//! Reads resident weights into their memory.

use membrane_formats::Checkpoint;
use membrane_pager::{FileRange, IoMode, PagedFile, read_ranges};

use super::stored::Stored;
use crate::error::Result;

/// Reads all matrices, each with its offset in `memory`, in ascending order of these. `progress` is told the bytes read so far.
pub(super) fn read(
    matrices: &[(Stored, u64)],
    checkpoint: &Checkpoint,
    io: IoMode,
    memory: &mut [u8],
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (mut ranges, mut recoded) = (Vec::new(), Vec::new());
    let (mut rest, mut at) = (memory, 0);
    for (stored, offset) in matrices {
        let (into, behind) =
            std::mem::take(&mut rest)[(offset - at) as usize..].split_at_mut(stored.bytes as usize);
        (rest, at) = (behind, offset + stored.bytes);
        match stored.plain() {
            Some((file, offset)) => ranges.push(FileRange { file, offset, into }),
            None => recoded.push((stored, into)),
        }
    }
    let mut done = 0;
    let mut told = |bytes: u64| {
        done += bytes;
        progress(done);
    };
    read_ranges(&paged_files(checkpoint), ranges, io, &mut told)?;
    // One after the other: each takes memory beside its own for a while, of which the plan has that of the largest.
    let mut parts = Vec::new();
    for (stored, into) in recoded {
        stored.load(checkpoint, &mut parts, into)?;
        told(stored.bytes);
    }
    Ok(())
}

/// The files of a model as the pager takes them.
pub(crate) fn paged_files(checkpoint: &Checkpoint) -> Vec<PagedFile> {
    let files = checkpoint.files().iter();
    files.map(|file| PagedFile { path: file.path.clone(), file: file.file.clone() }).collect()
}
