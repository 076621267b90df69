//! Asking for rows of weights while others are multiplied.

use super::super::Job;
use super::super::wide::Wide;
use crate::simd::LINE;

/// What the rows of weights are made of that come next, asked for in the order in which it lies in memory: a block of each of many rows,
/// which is how they are unpacked, is no order that a processor would foresee.
#[derive(Clone, Copy)]
pub(super) struct NextRows {
    next: *const u8,
    end: *const u8,
    /// Lines at a time.
    lines: usize,
}

impl NextRows {
    /// So many rows from `first` on, asked for in so many turns.
    pub fn of(job: &Job<'_>, first: usize, rows: usize, turns: usize) -> Self {
        let (bytes, row) = (job.weights.bytes, job.weights.row_bytes);
        let begin = (first * row).min(bytes.len());
        let bytes = &bytes[begin..(begin + rows * row).min(bytes.len())];
        let range = bytes.as_ptr_range();
        let lines = bytes.len().div_ceil(LINE).div_ceil(turns.max(1));
        Self { next: range.start, end: range.end, lines }
    }

    /// Asks for the lines of a turn.
    #[inline(always)]
    pub fn ask<W: Wide>(&mut self, w: W) {
        for _ in 0..self.lines {
            if self.next < self.end {
                w.prefetch_far(self.next);
                self.next = self.next.wrapping_add(LINE);
            }
        }
    }
}
