//! Integers of 2 and 3 bits as GPTQ packs them: a stream of bits, of which 32 integers fill whole words.

use half::f16;

use super::RecodeError;
use super::integers::{MIDDLE, put_block};
use super::words::{spread_bits, word};
use crate::format::Format;

/// Elements of a block with one scale.
const BLOCK: usize = 32;

/// Where the numbers of a matrix are: integers along the columns, in words of neighbouring rows side by side; zero points along the rows.
pub(super) struct Layout {
    pub rows: usize,
    /// Of an integer.
    pub bits: usize,
    /// What is added to a stored zero point.
    pub zero_offset: u8,
}

impl Layout {
    /// Integer number `index` of a stream whose words are `step` apart, from word `first` on.
    fn integer(&self, words: &[u8], first: usize, step: usize, index: usize) -> u8 {
        let (place, shift) = (index * self.bits / 32, index * self.bits % 32);
        let mut all = u64::from(word(words, first + place * step));
        if shift + self.bits > 32 {
            all |= u64::from(word(words, first + (place + 1) * step)) << 32;
        }
        (all >> shift) as u8 & ((1 << self.bits) - 1)
    }

    /// The zero point of a row in a group. Where 1 was taken away, that of 0 borrowed from the next in its word; of 3 bits, which share
    /// words unevenly, from none.
    fn zero(&self, zeros: &[u8], group: usize, row: usize) -> u8 {
        let first = group * self.rows * self.bits / 32;
        if self.bits == 2 {
            let word = word(zeros, first + row / 16).wrapping_add(u32::from(self.zero_offset) * 0x5555_5555);
            return (word >> (2 * (row % 16)) & 3) as u8;
        }
        (self.integer(zeros, first, 1, row) + self.zero_offset) & 7
    }

    /// Error: a zero point is not the middle.
    pub fn check_symmetric(&self, zeros: &[u8], groups: usize) -> Result<(), RecodeError> {
        let middle = 1 << (self.bits - 1);
        if (0..groups * self.rows).any(|i| self.zero(zeros, i / self.rows, i % self.rows) != middle) {
            return Err(RecodeError::Content(
                "a zero point is not the middle although the configuration says that they are symmetric",
            ));
        }
        Ok(())
    }

    /// Writes all rows, as Q2_0 if they are symmetric and of 2 bits, otherwise as Q4_0. Parts: integers, zero points, scales. `order`: the
    /// group of each column. `columns`: which stand side by side, if these are not those of the matrix; of Q4_0.
    pub fn recode(
        &self,
        format: Format,
        [integers, zeros, scales]: [&[u8]; 3],
        order: &[usize],
        columns: Option<&[u32]>,
        out: &mut [u8],
    ) {
        let row_bytes = out.len() / self.rows;
        let (elems, block_bytes) = (format.block_elems(), format.block_bytes());
        // By columns first: then the words of neighbouring rows are read one after the other.
        for first in (0..order.len()).step_by(elems) {
            let group = order[columns.map_or(first, |columns| columns[first] as usize)];
            for row in 0..self.rows {
                let at = row * row_bytes + first / elems * block_bytes;
                let out = &mut out[at..at + block_bytes];
                let place = 2 * (group * self.rows + row);
                let scale = f16::from_le_bytes([scales[place], scales[place + 1]]);
                let words = |i: usize| word(integers, (first * self.bits / 32 + i) * self.rows + row);
                if format == Format::Q2_0 {
                    // Codes stand for -1 to 2 where these integers less 2 are -2 to 1: 3 - q of the scale negated.
                    out[..2].copy_from_slice(&(-scale).to_le_bytes());
                    for (i, out) in out[2..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
                        *out = (!words(i)).to_le_bytes();
                    }
                    continue;
                }
                let moved = u64::from(MIDDLE - self.zero(zeros, group, row)) * 0x0101_0101_0101_0101;
                let eights: [u64; 4] = match columns {
                    None => {
                        let stream = (0..self.bits).fold(0, |all, i| all | u128::from(words(i)) << (32 * i));
                        std::array::from_fn(|i| {
                            let eight = (stream >> (8 * self.bits * i)) as u64 & ((1 << (8 * self.bits)) - 1);
                            spread_bits(self.bits as u32, eight)
                        })
                    }
                    Some(columns) => std::array::from_fn(|i| {
                        let own = &columns[first + 8 * i..first + 8 * i + 8];
                        let eight: [u8; 8] = std::array::from_fn(|place| {
                            self.integer(integers, row, self.rows, own[place] as usize)
                        });
                        u64::from_le_bytes(eight)
                    }),
                };
                put_block(format, scale, MIDDLE, eights.map(|eight| eight + moved), out);
            }
        }
    }

    /// The format of such a matrix, in groups of so many columns, that are multiples of 32, in their order or not.
    pub fn format(bits: usize, symmetric: bool, group: usize, in_order: bool) -> Format {
        const { assert!(Format::Q2_0.block_elems() == 2 * BLOCK) };
        let halves = bits == 2 && symmetric && in_order && group.is_multiple_of(2 * BLOCK);
        if halves { Format::Q2_0 } else { Format::Q4_0 }
    }
}
