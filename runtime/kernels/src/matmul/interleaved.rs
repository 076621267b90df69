//! Rows of blocks that lie side by side: eight rows a group, of which dword k of each stands before dword k + 1 of any.
//!
//! ```text
//! block b of a group     dword 0 of rows 0..8, dword 1 of rows 0..8, ...
//!                        what a block has beyond whole dwords (a half), of rows 0..8
//! the next block         likewise
//! rows beyond the last   as they were, one after the other
//! group
//! ```
//!
//! A group takes as many bytes as its rows. A vector of 32 bytes then holds a dword of each row, and no sum has to be taken
//! across the dwords of a row. With AVX2 that spares a third of the operations that rows as they lie in
//! files take. AVX-512 and AMX take two groups at once. What they read lies in one or two runs then, and not in 16.

#[cfg(target_arch = "x86_64")]
use super::wide::Wide;
use crate::format::Format;
use crate::isa::Isa;
use crate::parallel::{DisjointSlice, Region};
#[cfg(target_arch = "x86_64")]
use crate::simd::Avx2;

/// Rows of a group.
pub const ROWS: usize = 8;

/// Bytes of rows that are worth a task.
const TASK_BYTES: usize = 256 << 10;

/// Whether rows of a format may be interleaved: formats of 256 elements that kernels read by whole dwords, but for a half at the end.
pub const fn is_possible(format: Format) -> bool {
    matches!(format, Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K | Format::IQ4XS)
}

/// Whether an instruction set has a use for interleaved rows.
pub const fn is_used(isa: Isa) -> bool {
    matches!(isa, Isa::Avx2 | Isa::Avx512 | Isa::Avx512Vbmi | Isa::Amx)
}

/// Whether an instruction set multiplies a matrix of so many rows faster when these are interleaved.
pub const fn is_faster(isa: Isa, format: Format, rows: usize) -> bool {
    is_used(isa) && is_possible(format) && rows >= ROWS
}

/// How many of the rows of a matrix are in whole groups.
pub(super) const fn whole_rows(rows: usize) -> usize {
    rows / ROWS * ROWS
}

/// Writes rows, `row_bytes` each, in the order in which [`Matrix::interleaved`](super::Matrix::interleaved) takes them.
///
/// # Panics
/// If rows are not whole blocks of a format that can be interleaved, or the lengths differ or are not whole rows.
pub fn interleave(format: Format, row_bytes: usize, from: &[u8], to: &mut [u8]) {
    check(format, row_bytes, from.len());
    assert!(from.len() == to.len(), "interleave: lengths");
    let group = ROWS * row_bytes;
    let whole = from.len() / group * group;
    for (from, to) in from[..whole].chunks_exact(group).zip(to.chunks_exact_mut(group)) {
        interleave_group(format, from, to);
    }
    to[whole..].copy_from_slice(&from[whole..]);
}

/// The same where the rows lie. Each task takes the memory of a group for it.
///
/// # Panics
/// As for [`interleave`].
pub fn interleave_in_place(region: &Region<'_>, format: Format, row_bytes: usize, rows: &mut [u8]) {
    check(format, row_bytes, rows.len());
    let group = ROWS * row_bytes;
    let task = (TASK_BYTES / group).max(1) * group;
    let (tasks, bytes) = (rows.len().div_ceil(task), rows.len());
    let rows = DisjointSlice::new(rows);
    region.run(tasks, |number| {
        let begin = number * task;
        // SAFETY: no other task has these rows.
        let rows = unsafe { rows.range(begin..(begin + task).min(bytes)) };
        let mut before = vec![0; group];
        for rows in rows.chunks_exact_mut(group) {
            before.copy_from_slice(rows);
            interleave_group(format, &before, rows);
        }
    });
}

fn check(format: Format, row_bytes: usize, bytes: usize) {
    assert!(is_possible(format) && row_bytes.is_multiple_of(format.block_bytes()), "interleave: {format}");
    assert!(bytes.is_multiple_of(row_bytes), "interleave: {bytes} bytes are not rows of {row_bytes}");
}

fn interleave_group(format: Format, from: &[u8], to: &mut [u8]) {
    assert!(from.len() == to.len(), "interleave: lengths");
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx2.is_available() {
        // SAFETY: the CPU has the instruction set.
        return unsafe { interleave_group_avx2(format, from, to) };
    }
    interleave_group_by_dwords(format, from, to);
}

/// Four dwords of all rows at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn interleave_group_avx2(format: Format, from: &[u8], to: &mut [u8]) {
    // SAFETY: this function's own features.
    let w = unsafe { Avx2::<false>::assume() };
    let row_bytes = from.len() / ROWS;
    let (block, tail) = (format.block_bytes(), format.block_bytes() % 4);
    let last = block / 4 - 4;
    for (b, to) in to.chunks_exact_mut(ROWS * block).enumerate() {
        let (dwords, halves) = to.split_at_mut(ROWS * (block - tail));
        // Where they are no multiple of four, the last ones begin before those that are left.
        for first in (0..last).step_by(4).chain([last]) {
            let place = &mut dwords[4 * ROWS * first..][..16 * ROWS];
            // SAFETY: 16 bytes of each row, all within its block; the place has 32 bytes for each dword.
            unsafe {
                let column = w.column(from[b * block..].as_ptr(), 4 * first, row_bytes);
                for (dword, v) in w.dwords(column).into_iter().enumerate() {
                    w.store(v, place[4 * ROWS * dword..].as_mut_ptr());
                }
            }
        }
        for (to, from) in halves.chunks_exact_mut(tail.max(1)).zip(from.chunks_exact(row_bytes)) {
            to.copy_from_slice(&from[(b + 1) * block - tail..][..tail]);
        }
    }
}

fn interleave_group_by_dwords(format: Format, from: &[u8], to: &mut [u8]) {
    let row_bytes = from.len() / ROWS;
    let (block, tail) = (format.block_bytes(), format.block_bytes() % 4);
    for (b, to) in to.chunks_exact_mut(ROWS * block).enumerate() {
        let (dwords, halves) = to.split_at_mut(ROWS * (block - tail));
        for (row, from) in from.chunks_exact(row_bytes).enumerate() {
            let (from_dwords, from_tail) = from[b * block..][..block].split_at(block - tail);
            let places = dwords.as_chunks_mut::<4>().0.iter_mut().skip(row).step_by(ROWS);
            places.zip(from_dwords.as_chunks::<4>().0).for_each(|(to, from)| *to = *from);
            halves[row * tail..][..tail].copy_from_slice(from_tail);
        }
    }
}

/// The blocks of a row that is in a whole group, one after the other.
pub(super) fn gather(format: Format, rows: &[u8], row: usize, to: &mut [u8]) {
    let (block, tail) = (format.block_bytes(), format.block_bytes() % 4);
    let group = &rows[row / ROWS * ROWS * to.len()..][..ROWS * to.len()];
    for (from, to) in group.chunks_exact(ROWS * block).zip(to.chunks_exact_mut(block)) {
        let (dwords, halves) = from.split_at(ROWS * (block - tail));
        let (to_dwords, to_tail) = to.split_at_mut(block - tail);
        let places = dwords.as_chunks::<4>().0.iter().skip(row % ROWS).step_by(ROWS);
        to_dwords.as_chunks_mut::<4>().0.iter_mut().zip(places).for_each(|(to, from)| *to = *from);
        to_tail.copy_from_slice(&halves[row % ROWS * tail..][..tail]);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_interleaves_alike() {
        if !Isa::Avx2.is_available() {
            return;
        }
        for format in Format::ALL.into_iter().filter(|&format| is_possible(format)) {
            let bytes = ROWS * 3 * format.block_bytes();
            let rows: Vec<u8> =
                (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
            let [mut by_dwords, mut by_vectors] = [vec![0; bytes], vec![0; bytes]];
            interleave_group_by_dwords(format, &rows, &mut by_dwords);
            // SAFETY: the CPU has the instruction set.
            unsafe { interleave_group_avx2(format, &rows, &mut by_vectors) };
            assert!(by_dwords == by_vectors, "{format}");
        }
    }
}
