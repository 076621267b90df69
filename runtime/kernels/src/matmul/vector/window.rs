//! The rows of weights that a kernel computes together, and where their output goes.

use std::ops::Range;

use super::super::Job;
use super::super::interleaved;
use super::super::wide::Wide;
use super::MAX_ROWS;

/// `W::ROWS` weight rows that are computed together. The last of a matrix may begin before rows that are
/// wanted.
pub(super) struct Window {
    /// First row that is computed.
    first: usize,
    /// Of the rows computed, which are wanted.
    wanted: Range<usize>,
}

impl Window {
    /// The window that computes rows from `begin` on; none from `end` on is wanted.
    #[inline(always)]
    pub fn new<W: Wide>(job: &Job<'_>, begin: usize, end: usize) -> Self {
        let rows = job.weights.rows;
        let rows = if W::INTERLEAVED { interleaved::whole_rows(rows) } else { rows };
        let first = begin.min(rows - W::ROWS);
        let skip = begin - first;
        Self { first, wanted: skip..(end - first).min(W::ROWS) }
    }

    /// Its first block.
    #[inline(always)]
    pub fn blocks(&self, job: &Job<'_>) -> *const u8 {
        job.weights.bytes[self.first * job.weights.row_bytes..].as_ptr()
    }

    /// Whether all rows are wanted.
    #[inline(always)]
    pub fn is_whole<W: Wide>(&self) -> bool {
        self.wanted.len() == W::ROWS
    }

    /// Asks for where [`Window::store`] writes.
    #[inline(always)]
    pub fn prefetch<W: Wide>(&self, w: W, job: &Job<'_>, i: usize) {
        // SAFETY: the task's; nothing is read or written.
        let at = unsafe { job.outputs(i, self.first + self.wanted.start, self.wanted.len()) };
        w.prefetch_to_write(at.as_ptr().cast());
    }

    /// Writes what is wanted of `acc` as the output for row i of the input.
    #[inline(always)]
    pub fn store<W: Wide>(&self, w: W, job: &Job<'_>, i: usize, acc: W::F) {
        if self.is_whole::<W>() {
            // SAFETY: `W::ROWS` floats, which are the task's.
            return unsafe { w.store_floats(acc, job.outputs(i, self.first, W::ROWS).as_mut_ptr()) };
        }
        let mut lanes = [0.0; MAX_ROWS];
        // SAFETY: there is room for the rows of any instruction set; the wanted rows are the task's.
        unsafe {
            w.store_floats(acc, lanes.as_mut_ptr());
            let outputs = job.outputs(i, self.first + self.wanted.start, self.wanted.len());
            outputs.copy_from_slice(&lanes[self.wanted.clone()]);
        }
    }

    /// Reads back what [`Window::store`] wrote; the other lanes are 0.
    #[inline(always)]
    pub fn load<W: Wide>(&self, w: W, job: &Job<'_>, i: usize) -> W::F {
        if self.is_whole::<W>() {
            // SAFETY: as in `store`.
            return unsafe { w.load_floats(job.outputs(i, self.first, W::ROWS).as_ptr()) };
        }
        let mut lanes = [0.0; MAX_ROWS];
        // SAFETY: as in `store`.
        unsafe {
            let outputs = job.outputs(i, self.first + self.wanted.start, self.wanted.len());
            lanes[self.wanted.clone()].copy_from_slice(outputs);
            w.load_floats(lanes.as_ptr())
        }
    }
}
