//! 4-bit integers with zero points and scales by groups of columns.

use half::f16;

use super::RecodeError;
use super::words::{spread, word};
use crate::format::Format;

/// Which nibble of a word belongs to each of the eight rows that share it, by AWQ.
const AWQ_NIBBLES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
const IN_ORDER: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// The zero point of symmetric groups.
pub(super) const MIDDLE: u8 = 8;
/// Elements of a block with one scale.
const BLOCK: usize = 32;

/// The format that represents such a matrix exactly.
pub(super) fn format(one_by_one: bool, symmetric: bool) -> Format {
    match (one_by_one, symmetric) {
        (true, _) => Format::F32,
        (false, true) => Format::Q4_0,
        (false, false) => Format::Q5_0,
    }
}

/// Writes the block of 32 integers, each in a byte of its own: Q4_0, whose zero point is [`MIDDLE`], or Q5_0.
pub(super) fn put_block(format: Format, scale: f16, zero: u8, words: [u64; 4], out: &mut [u8]) {
    out[..2].copy_from_slice(&scale.to_le_bytes());
    if format == Format::Q4_0 {
        out[2..10].copy_from_slice(&(words[0] | words[2] << 4).to_le_bytes());
        out[10..18].copy_from_slice(&(words[1] | words[3] << 4).to_le_bytes());
        return;
    }
    // q - zero + 16 in five bits, of which the fifth stand apart.
    let zero = u64::from(16 - zero) * 0x0101_0101_0101_0101;
    let moved = words.map(|eight| eight + zero);
    let fifth = moved.map(|eight| {
        let bits = eight >> 4 & 0x0101_0101_0101_0101;
        (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    });
    out[2..6].copy_from_slice(&fifth);
    let low = moved.map(|eight| eight & 0x0F0F_0F0F_0F0F_0F0F);
    out[6..14].copy_from_slice(&(low[0] | low[2] << 4).to_le_bytes());
    out[14..22].copy_from_slice(&(low[1] | low[3] << 4).to_le_bytes());
}

/// Groups of equally many columns that share scales.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub cols: usize,
    /// How many.
    pub count: usize,
}

impl Groups {
    /// The group of each column. Errors: an index names no group, or another than its place says where that counts.
    pub fn order(&self, indices: Option<&[u8]>, any: bool) -> Result<Vec<usize>, RecodeError> {
        let run = |column: usize| column * self.count / self.cols;
        let Some(indices) = indices else { return Ok((0..self.cols).map(run).collect()) };
        let indices = indices.as_chunks::<4>().0.iter().map(|index| u32::from_le_bytes(*index) as usize);
        let order: Vec<usize> = indices.collect();
        if order.iter().any(|&group| group >= self.count) {
            return Err(RecodeError::Content("g_idx names a group that has no scales"));
        }
        if !any && order.iter().enumerate().any(|(column, &group)| group != run(column)) {
            return Err(RecodeError::Content(
                "g_idx is not in the order of the columns although the configuration says no desc_act",
            ));
        }
        Ok(order)
    }

    /// The columns of each group side by side, in their order within it. Error: a group has other than its share of columns.
    pub fn side_by_side(&self, order: &[usize]) -> Result<Vec<u32>, RecodeError> {
        let share = self.cols / self.count;
        let mut next: Vec<usize> = (0..self.count).map(|group| group * share).collect();
        let mut columns = vec![0; self.cols];
        for (column, &group) in order.iter().enumerate() {
            if next[group] == (group + 1) * share {
                return Err(RecodeError::Content("g_idx gives a group more columns than a group has"));
            }
            columns[next[group]] = column as u32;
            next[group] += 1;
        }
        Ok(columns)
    }
}

/// Where the numbers of a matrix are.
pub(super) struct Layout {
    rows: usize,
    cols: usize,
    /// Nibbles of the matrix follow one another along the columns of a row; otherwise along the rows.
    along_columns: bool,
    nibbles: [usize; 8],
    zero_offset: u8,
}

impl Layout {
    pub fn gptq(rows: usize, cols: usize, zero_offset: u8) -> Self {
        Self { rows, cols, along_columns: true, nibbles: IN_ORDER, zero_offset }
    }

    pub fn awq(rows: usize, cols: usize) -> Self {
        Self { rows, cols, along_columns: false, nibbles: AWQ_NIBBLES, zero_offset: 0 }
    }

    /// Error: a zero point is not the middle.
    pub fn check_symmetric(&self, zeros: &[u8]) -> Result<(), RecodeError> {
        let stored = MIDDLE - self.zero_offset;
        if zeros.iter().any(|&two| two != stored | stored << 4) {
            return Err(RecodeError::Content(
                "a zero point is not 8 although the configuration says that they are symmetric",
            ));
        }
        Ok(())
    }

    /// The zero point of a row in a group. Where 1 was taken away, that of 0 borrowed from the next in its word.
    fn zero(&self, zeros: &[u8], group: usize, row: usize) -> u8 {
        let word = word(zeros, group * self.rows / 8 + row / 8);
        let word = word.wrapping_add(u32::from(self.zero_offset) * 0x1111_1111);
        (word >> (4 * self.nibbles[row % 8]) & 15) as u8
    }

    /// The words that hold the integers of 32 columns from `first` on of a row, eight in a word.
    fn integers(&self, nibbles: &[u8], first: usize, row: usize) -> [u32; 4] {
        if self.along_columns {
            return std::array::from_fn(|i| word(nibbles, (first / 8 + i) * self.rows + row));
        }
        let shift = 4 * self.nibbles[row % 8];
        std::array::from_fn(|i| {
            (0..8).fold(0, |all, column| {
                let word = word(nibbles, (first + 8 * i + column) * (self.rows / 8) + row / 8);
                all | (word >> shift & 15) << (4 * column)
            })
        })
    }

    /// The words that hold the integers of these 32 columns of a row.
    fn gathered(&self, nibbles: &[u8], columns: &[u32], row: usize) -> [u32; 4] {
        std::array::from_fn(|i| {
            columns[8 * i..8 * i + 8].iter().enumerate().fold(0, |all, (place, &column)| {
                let column = column as usize;
                let word = word(nibbles, column / 8 * self.rows + row);
                all | (word >> (4 * (column % 8)) & 15) << (4 * place)
            })
        })
    }

    /// Writes all rows. Parts: nibbles, zero points, scales. `order`: the group of each column. `columns`: which stand side by
    /// side, if these are not those of the matrix; groups are whole blocks then, and integers follow one another along columns.
    pub fn recode(
        &self,
        format: Format,
        parts: [&[u8]; 3],
        order: &[usize],
        columns: Option<&[u32]>,
        out: &mut [u8],
    ) {
        let row_bytes = out.len() / self.rows;
        if format == Format::F32 {
            for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                self.floats(parts, order, row, out);
            }
            return;
        }
        let block_bytes = format.block_bytes();
        // By columns first: then the words of neighbouring rows, which lie side by side, are read one after the other.
        for first in (0..self.cols).step_by(BLOCK) {
            for row in 0..self.rows {
                let at = row * row_bytes + first / BLOCK * block_bytes;
                let out = &mut out[at..at + block_bytes];
                match columns {
                    None => {
                        self.block(
                            format,
                            parts,
                            (order[first], row),
                            self.integers(parts[0], first, row),
                            out,
                        );
                    }
                    Some(columns) => {
                        let columns = &columns[first..first + BLOCK];
                        let words = self.gathered(parts[0], columns, row);
                        self.block(format, parts, (order[columns[0] as usize], row), words, out);
                    }
                }
            }
        }
    }

    fn block(
        &self,
        format: Format,
        [_, zeros, scales]: [&[u8]; 3],
        (group, row): (usize, usize),
        words: [u32; 4],
        out: &mut [u8],
    ) {
        let place = 2 * (group * self.rows + row);
        let scale = f16::from_le_bytes([scales[place], scales[place + 1]]);
        let zero = if format == Format::Q4_0 { MIDDLE } else { self.zero(zeros, group, row) };
        put_block(format, scale, zero, words.map(spread), out);
    }

    fn floats(&self, [nibbles, zeros, scales]: [&[u8]; 3], order: &[usize], row: usize, out: &mut [u8]) {
        let mut held = [0; 4];
        for (column, (out, &group)) in out.as_chunks_mut::<4>().0.iter_mut().zip(order).enumerate() {
            let first = column - column % BLOCK;
            if column == first {
                // A last block may be shorter; its words are then read one by one.
                held = if first + BLOCK <= self.cols {
                    self.integers(nibbles, first, row)
                } else {
                    self.tail(nibbles, first, row)
                };
            }
            let q = held[column % BLOCK / 8] >> (4 * (column % 8)) & 15;
            let place = 2 * (group * self.rows + row);
            let scale = f16::from_le_bytes([scales[place], scales[place + 1]]).to_f32();
            let steps = q as i32 - i32::from(self.zero(zeros, group, row));
            *out = (scale * steps as f32).to_le_bytes();
        }
    }

    /// As [`Layout::integers`] of the columns that are left, zeros behind them.
    fn tail(&self, nibbles: &[u8], first: usize, row: usize) -> [u32; 4] {
        let mut words = [0; 4];
        for column in first..self.cols {
            let q = if self.along_columns {
                word(nibbles, column / 8 * self.rows + row) >> (4 * (column % 8))
            } else {
                word(nibbles, column * (self.rows / 8) + row / 8) >> (4 * self.nibbles[row % 8])
            };
            words[(column - first) / 8] |= (q & 15) << (4 * (column % 8));
        }
        words
    }
}
