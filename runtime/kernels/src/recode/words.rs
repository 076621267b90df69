//! Integers in words of 32 bits, the first in the lowest.

/// Word number `index`.
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    let at = 4 * index;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Eight nibbles as the low nibbles of eight bytes, in order.
pub(super) fn spread(nibbles: u32) -> u64 {
    spread_bits(4, u64::from(nibbles))
}

/// Eight integers of so many bits, at most 4, as eight bytes, in order.
pub(super) fn spread_bits(bits: u32, eight: u64) -> u64 {
    let low = |count: u32| (1_u64 << count) - 1;
    let x = (eight | eight << (4 * (8 - bits))) & (low(4 * bits) * 0x0000_0001_0000_0001);
    let x = (x | x << (2 * (8 - bits))) & (low(2 * bits) * 0x0001_0001_0001_0001);
    (x | x << (8 - bits)) & (low(bits) * 0x0101_0101_0101_0101)
}
