//! 8-bit integers around 128 with scales by groups of columns.

use super::RecodeError;
use crate::format::Format;

/// Elements of a block with one scale.
const BLOCK: usize = 32;
/// The zero point.
const MIDDLE: u8 = 128;

/// Error: a zero point is not the middle.
pub(super) fn check_symmetric(zeros: &[u8], zero_offset: u8) -> Result<(), RecodeError> {
    if zeros.iter().all(|&zero| zero.wrapping_add(zero_offset) == MIDDLE) {
        return Ok(());
    }
    Err(RecodeError::Content(
        "a zero point of 8-bit integers is not 128; those with zero points of their own are not read",
    ))
}

/// Writes all rows. Parts: integers and scales. `order`: the group of each column. `columns`: which stand side by side, if these
/// are not those of the matrix.
pub(super) fn recode(
    [rows, cols]: [usize; 2],
    [integers, scales]: [&[u8]; 2],
    order: &[usize],
    columns: Option<&[u32]>,
    out: &mut [u8],
) {
    let (row_bytes, block_bytes) = (out.len() / rows, Format::Q8_0.block_bytes());
    // By columns first: then the words of neighbouring rows, which lie side by side, are read one after the other.
    for first in (0..cols).step_by(BLOCK) {
        let own: [usize; BLOCK] =
            std::array::from_fn(|i| columns.map_or(first + i, |columns| columns[first + i] as usize));
        let group = order[own[0]];
        for row in 0..rows {
            let at = row * row_bytes + first / BLOCK * block_bytes;
            let (scale, elements) = out[at..at + block_bytes].split_at_mut(2);
            let place = 2 * (group * rows + row);
            scale.copy_from_slice(&scales[place..place + 2]);
            for (element, column) in elements.iter_mut().zip(own) {
                // From 0..256 to -128..128 in two's complement.
                *element = integers[4 * (column / 4 * rows + row) + column % 4] ^ MIDDLE;
            }
        }
    }
}
