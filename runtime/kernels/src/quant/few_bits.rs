//! The formats of one and two bits, and of three values.

use super::unpack::{SubBlocks, half_at};

/// Sub-blocks of 32 elements that share the scale of their block.
fn one_scale(scale: f32, subs: usize, out: &mut SubBlocks) {
    out.scale[..subs].fill(scale);
}

/// d, then a bit for each element: 1 for d, 0 for -d.
pub(super) fn q1_0(block: &[u8], out: &mut SubBlocks) {
    one_scale(half_at(block, 0), 4, out);
    for (i, q) in out.q[..128].iter_mut().enumerate() {
        *q = if block[2 + i / 8] >> (i % 8) & 1 == 1 { 1 } else { -1 };
    }
}

/// d, then 2 bits for each element, which stand for -1 to 2.
pub(super) fn q2_0(block: &[u8], out: &mut SubBlocks) {
    one_scale(half_at(block, 0), 2, out);
    for (i, q) in out.q[..64].iter_mut().enumerate() {
        *q = (block[2 + i / 4] >> (2 * (i % 4)) & 3) as i8 - 1;
    }
}

/// 48 bytes of 5 digits, 4 of 4 digits, d. A byte is a fraction of 256, of which times 3 takes the next digit. The
/// first digits of 32 bytes are 32 elements in a row, then come the second ones; so for the next 16 bytes and the last 4.
pub(super) fn tq1_0(block: &[u8], out: &mut SubBlocks) {
    one_scale(half_at(block, 52), 8, out);
    let mut q = out.q.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for digit in 0..digits {
            for (byte, q) in bytes.iter().zip(&mut q) {
                let rest = byte.wrapping_mul(3_u8.pow(digit));
                *q = (u16::from(rest) * 3 >> 8) as i8 - 1;
            }
        }
    }
}

/// 64 bytes of 2 bits as in Q2_K, which stand for -1 to 2, and d.
pub(super) fn tq2_0(block: &[u8], out: &mut SubBlocks) {
    one_scale(half_at(block, 64), 8, out);
    for (i, q) in out.q.iter_mut().enumerate() {
        let (half, quarter, byte) = (i / 128, i % 128 / 32, i % 32);
        *q = (block[32 * half + byte] >> (2 * quarter) & 3) as i8 - 1;
    }
}
