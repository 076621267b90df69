//! Reads resident weights into their memory.

use membrane_formats::Checkpoint;
use membrane_kernels::{Team, interleaved};
use membrane_pager::{FileRange, IoMode, PagedFile, read_ranges};

use super::stored::Stored;
use super::{RowLayout, Weight};
use crate::error::Result;

/// Reads all matrices, in ascending order of their places in `memory`; `again` as in [`read_ranges`]. `progress` is told the bytes read
/// so far.
pub(super) fn read(
    matrices: &[(Stored, Weight)],
    checkpoint: &Checkpoint,
    io: IoMode,
    again: bool,
    memory: &mut [u8],
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (mut ranges, mut recoded) = (Vec::new(), Vec::new());
    let (mut rest, mut at) = (memory, 0);
    for (stored, Weight { offset, .. }) in matrices {
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
    read_ranges(&paged_files(checkpoint), ranges, io, again, &mut told)?;
    // One after the other: each takes memory beside its own for a while, of which the plan has that of the largest.
    let mut parts = Vec::new();
    for (stored, into) in recoded {
        stored.load(checkpoint, &mut parts, into)?;
        told(stored.bytes);
    }
    Ok(())
}

/// Interleaves the rows of those matrices in `memory` that are to be so.
pub(super) fn interleave(matrices: &[(Stored, Weight)], team: &Team, memory: &mut [u8]) {
    team.region(|region| {
        for (_, weight) in matrices.iter().filter(|(_, weight)| weight.row_layout == RowLayout::Interleaved) {
            let (begin, bytes) = (weight.offset as usize, weight.bytes as usize);
            let rows = &mut memory[begin..begin + bytes];
            interleaved::interleave_in_place(region, weight.format, bytes / weight.rows, rows);
        }
    });
}

/// The files of a model as the pager takes them.
pub(crate) fn paged_files(checkpoint: &Checkpoint) -> Vec<PagedFile> {
    let files = checkpoint.files().iter();
    files.map(|file| PagedFile { path: file.path.clone(), file: file.file.clone() }).collect()
}
