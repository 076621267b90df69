//! The formats of one and two bits, and of three values.

use super::buffered::{Buffered, Bytes, put};
use super::{Packed, Scales, Signed, Sink, Wide, bits, values};
use crate::format::Format;
use crate::quant::SIGN_MASKS;

/// See [`Format::TQ1_0`].
pub(in crate::matmul) struct Tq1_0;
/// See [`Format::TQ2_0`].
pub(in crate::matmul) struct Tq2_0;
/// See [`Format::Q1_0`].
pub(in crate::matmul) struct Q1_0;
/// See [`Format::Q2_0`].
pub(in crate::matmul) struct Q2_0;

/// What 2 bits stand for; the rest of the table is not reached.
const FROM_MINUS_ONE: [i8; 16] = [-1, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// For each byte the four elements of 2 bits that it holds, in the bytes of a number.
static TWO_BITS: [u32; 256] = {
    let mut elements = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut element = 0;
        while element < 4 {
            let value = FROM_MINUS_ONE[byte >> (2 * element) & 3] as u8;
            elements[byte] |= (value as u32) << (8 * element);
            element += 1;
        }
        byte += 1;
    }
    elements
};

/// The half in the last two bytes of the block, for all sub-blocks.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn last_half<P: Packed, W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
    // SAFETY: within the block: its last 16 bytes.
    let tail = unsafe { w.column(at, P::FORMAT.block_bytes() - 16, stride) };
    to.scale[..P::SUBS].fill(w.high_halves(w.dword::<3>(tail)));
}

/// The half in the first two bytes of the block, for all sub-blocks.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn first_half<P: Packed, W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
    // SAFETY: within the block: its first 16 bytes.
    let head = unsafe { w.column(at, 0, stride) };
    to.scale[..P::SUBS].fill(w.low_halves(w.dword::<0>(head)));
}

/// The digit that times `power` brings to the top of each byte, less 1.
#[inline(always)]
fn digits<const N: usize>(bytes: &[u8], power: u8) -> [u8; N] {
    let mut digits = [0; N];
    for (digit, byte) in digits.iter_mut().zip(bytes) {
        *digit = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
        *digit = digit.wrapping_sub(1);
    }
    digits
}

// SAFETY: 5 times 32, 5 times 16 and 4 times 4 of 256 bytes are written.
unsafe impl Buffered for Tq1_0 {
    const FORMAT: Format = Format::TQ1_0;
    type Weights = Signed<32, 15>;

    #[inline(always)]
    fn unpack(block: &[u8], to: &mut Bytes) {
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        for (n, power) in POWERS.into_iter().enumerate() {
            put(to, n, digits::<32>(&block[..32], power));
            put(to, 10 + n, digits::<16>(&block[32..48], power));
        }
        for (n, power) in POWERS.into_iter().take(4).enumerate() {
            put(to, 60 + n, digits::<4>(&block[48..52], power));
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { last_half::<Self, W>(w, at, stride, to) }
    }
}

impl Packed for Tq2_0 {
    const FORMAT: Format = Format::TQ2_0;
    type Weights = Signed<32, 15>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        for half in 0..2 {
            // SAFETY: within the block.
            let q = unsafe { [w.column(at, 32 * half, stride), w.column(at, 32 * half + 16, stride)] };
            for quarter in 0..4 {
                let columns = q.map(|q| values(w, &FROM_MINUS_ONE, bits(w, q, -2 * quarter as i32, 3)));
                to.put::<Self, 2>(w, 4 * half + quarter, columns);
            }
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { last_half::<Self, W>(w, at, stride, to) }
    }
}

// SAFETY: 16 times 8 of 128 bytes are written.
unsafe impl Buffered for Q1_0 {
    const FORMAT: Format = Format::Q1_0;
    type Weights = Signed<32, 15>;

    #[inline(always)]
    fn unpack(block: &[u8], to: &mut Bytes) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        for i in 0..16 {
            // Where the bit is set 1, else all ones: -1.
            let mask = SIGN_MASKS[usize::from(block[2 + i])];
            put(to, i, (mask & ONES | !mask).to_le_bytes());
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { first_half::<Self, W>(w, at, stride, to) }
    }
}

// SAFETY: 16 times 4 of 64 bytes are written.
unsafe impl Buffered for Q2_0 {
    const FORMAT: Format = Format::Q2_0;
    type Weights = Signed<32, 15>;

    #[inline(always)]
    fn unpack(block: &[u8], to: &mut Bytes) {
        for i in 0..16 {
            put(to, i, TWO_BITS[usize::from(block[2 + i])].to_le_bytes());
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { first_half::<Self, W>(w, at, stride, to) }
    }
}
