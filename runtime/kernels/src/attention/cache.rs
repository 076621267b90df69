//! The cache as attention goes through it: position after position, with what comes later on its way.

use std::ops::Range;

use super::KvSlice;
use crate::simd::{LANES, LINE, Simd};

/// Positions between the one that is widened and the one that is fetched into the cache: the rows of one head
/// lie too far apart for the hardware to see that they follow each other.
const AHEAD: usize = 16;

/// Keys or values of all positions.
#[derive(Clone, Copy)]
pub(super) struct Cache<'a> {
    slices: &'a [KvSlice<'a>],
    block_len: usize,
    /// Elements of a position, all heads.
    pub width: usize,
    /// All are halves.
    halves: bool,
}

/// Consecutive positions of a block, and what is fetched meanwhile.
pub(super) struct Run<'a> {
    pub slice: KvSlice<'a>,
    /// Which positions of the block.
    pub within: Range<usize>,
    /// Where some columns of the position [`AHEAD`] behind the first one are, if anywhere.
    ahead: Option<*const u8>,
    /// Bytes of these columns.
    bytes: usize,
    /// Bytes from one position to the next.
    stride: usize,
}

impl<'a> Cache<'a> {
    /// Blocks of `block_len` positions of `width` elements.
    pub fn new(slices: &'a [KvSlice<'a>], block_len: usize, width: usize) -> Self {
        let halves = slices.iter().all(|slice| matches!(slice, KvSlice::F16(_)));
        Self { slices, block_len, width, halves }
    }

    /// Whether it is all halves, in whole vectors where heads have so many columns, and 16 positions from a multiple of 16 on
    /// are in one block.
    pub fn are_halves(&self, columns: usize) -> bool {
        self.halves && self.block_len.is_multiple_of(LANES) && columns.is_multiple_of(LANES)
    }

    /// The positions from the first of `positions` on that are in one block, and so are those [`AHEAD`] of them.
    #[inline(always)]
    pub fn run(&self, positions: Range<usize>, columns: &Range<usize>) -> Run<'a> {
        let place = |position: usize| (position / self.block_len, position % self.block_len);
        let ((block, begin), (later, first)) = (place(positions.start), place(positions.start + AHEAD));
        let len = positions.len().min(self.block_len - begin.max(first));
        let slice = self.slices[block];
        let (stride, bytes) = (slice.bytes(self.width), slice.bytes(columns.len()));
        let place = first * stride + slice.bytes(columns.start);
        let ahead = self.slices.get(later).map(|slice| slice.start().wrapping_add(place));
        Run { slice, within: begin..begin + len, ahead, bytes, stride }
    }
}

impl Run<'_> {
    /// Asks for what is needed [`AHEAD`] positions behind all of them.
    #[inline(always)]
    pub fn prefetch_all<S: Simd>(&self, s: S) {
        for within in self.within.clone() {
            self.prefetch(s, within);
        }
    }

    /// Asks for what is needed [`AHEAD`] positions behind one of the block.
    #[inline(always)]
    pub fn prefetch<S: Simd>(&self, s: S, within: usize) {
        let Some(ahead) = self.ahead else { return };
        let at = ahead.wrapping_add((within - self.within.start) * self.stride);
        let before = at.addr() % LINE;
        for line in 0..(before + self.bytes).div_ceil(LINE) {
            s.prefetch(at.wrapping_sub(before).wrapping_add(line * LINE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_through_all_positions_and_look_ahead() {
        const WIDTH: usize = 8;
        for block_len in [1, 4, 5, 15, 16, 17, 20, 31, 64] {
            let blocks = vec![vec![0_u16; block_len * WIDTH]; 70_usize.div_ceil(block_len)];
            let slices: Vec<_> = blocks.iter().map(|block| KvSlice::F16(block)).collect();
            let cache = Cache::new(&slices, block_len, WIDTH);
            let at = |position: usize| {
                let block = blocks.get(position / block_len)?;
                Some(block[position % block_len * WIDTH + 3..].as_ptr().cast::<u8>())
            };
            let mut next = 2;
            while next < 70 {
                let run = cache.run(next..70, &(3..5));
                assert!(!run.within.is_empty(), "{block_len}, {next}");
                for (i, within) in run.within.clone().enumerate() {
                    assert_eq!((next + i) % block_len, within, "{block_len}");
                    let ahead = run.ahead.map(|ahead| ahead.wrapping_add(i * run.stride));
                    assert_eq!(ahead, at(next + i + AHEAD), "{block_len}, {}", next + i);
                }
                assert!(std::ptr::eq(run.slice.start(), slices[next / block_len].start()));
                next += run.within.len();
            }
            assert_eq!(next, 70);
        }
    }
}
