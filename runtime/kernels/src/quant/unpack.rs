//! The layouts of the blocks, element by element.

use half::f16;

use super::{codebooks, few_bits, float4};
use crate::format::Format;

/// What the 4-bit indices of the IQ4 formats stand for.
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Most elements that a block has.
const MAX_ELEMS: usize = 256;
/// Most sub-blocks that a block has.
const MAX_SUBS: usize = 16;

/// One block, unpacked: element i of sub-block s is `scale[s] * q[i] + minimum[s]`.
pub(crate) struct SubBlocks {
    /// Signed integers, the format's offset taken off; those behind the format's block length mean nothing.
    pub q: [i8; MAX_ELEMS],
    /// One for each sub-block.
    pub scale: [f32; MAX_SUBS],
    /// One for each sub-block; 0 in formats that have none.
    pub minimum: [f32; MAX_SUBS],
}

/// Scales of the sub-blocks of a super-block as they are stored: integers, and what these are multiplied by.
pub(crate) struct IntegerScales {
    pub unit: f32,
    /// Negative, as minimums are subtracted.
    pub minimum_unit: f32,
    pub scale: [i32; MAX_SUBS],
    pub minimum: [i32; MAX_SUBS],
}

impl Default for SubBlocks {
    fn default() -> Self {
        Self { q: [0; MAX_ELEMS], scale: [0.0; MAX_SUBS], minimum: [0.0; MAX_SUBS] }
    }
}

/// Elements that share a scale; 1 for the float formats.
pub(crate) const fn sub_block_elems(format: Format) -> usize {
    match format {
        Format::Q2K | Format::Q3K | Format::Q6K | Format::NVFP4 => 16,
        Format::IQ1M | Format::IQ2XS | Format::IQ2S => 16,
        _ if format.is_float() => 1,
        _ => 32,
    }
}

/// Whether sub-blocks have a minimum.
pub(crate) const fn has_minimum(format: Format) -> bool {
    matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q2K | Format::Q4K | Format::Q5K)
}

/// Unpacks one block of a quantised format.
///
/// # Panics
/// If the block has another length than the format's, or the format is a float format.
pub(crate) fn unpack(format: Format, block: &[u8], out: &mut SubBlocks) {
    assert_eq!(block.len(), format.block_bytes(), "{format}: not one block");
    match format {
        Format::Q4_0 => q4_0(block, out),
        Format::Q4_1 => q4_1(block, out),
        Format::Q5_0 => q5_0(block, out),
        Format::Q5_1 => q5_1(block, out),
        Format::Q8_0 => q8_0(block, out),
        Format::Q2K => q2_k(block, out),
        Format::Q3K => q3_k(block, out),
        Format::Q4K => q4_k(block, out),
        Format::Q5K => q5_k(block, out),
        Format::Q6K => q6_k(block, out),
        Format::IQ4NL => iq4_nl(block, out),
        Format::IQ4XS => iq4_xs(block, out),
        Format::MXFP4 => float4::mxfp4(block, out),
        Format::NVFP4 => float4::nvfp4(block, out),
        Format::IQ1S => codebooks::iq1_s(block, out),
        Format::IQ1M => codebooks::iq1_m(block, out),
        Format::IQ2XXS => codebooks::iq2_xxs(block, out),
        Format::IQ2XS => codebooks::iq2_xs(block, out),
        Format::IQ2S => codebooks::iq2_s(block, out),
        Format::IQ3XXS => codebooks::iq3_xxs(block, out),
        Format::IQ3S => codebooks::iq3_s(block, out),
        Format::TQ1_0 => few_bits::tq1_0(block, out),
        Format::TQ2_0 => few_bits::tq2_0(block, out),
        Format::Q1_0 => few_bits::q1_0(block, out),
        Format::Q2_0 => few_bits::q2_0(block, out),
        Format::F32 | Format::F16 | Format::BF16 | Format::E4M3 => {
            unreachable!("{format} has no blocks of integers")
        }
    }
}

/// The integer scales of a block of a format that is [grouped](Format::is_grouped).
///
/// # Panics
/// If the format is another.
pub(crate) fn integer_scales(format: Format, block: &[u8]) -> IntegerScales {
    let (mut scale, mut minimum) = ([0; MAX_SUBS], [0; MAX_SUBS]);
    let (unit, minimum_unit) = match format {
        Format::Q4K | Format::Q5K => {
            for sub in 0..8 {
                let pair = six_bit_pair(&block[4..16], sub);
                (scale[sub], minimum[sub]) = (pair.0.into(), pair.1.into());
            }
            (half_at(block, 0), -half_at(block, 2))
        }
        Format::Q6K => {
            scale = std::array::from_fn(|sub| i32::from(block[192 + sub] as i8));
            (half_at(block, 208), 0.0)
        }
        _ => unreachable!("{format} is not grouped"),
    };
    IntegerScales { unit, minimum_unit, scale, minimum }
}

pub(super) fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// 16 bytes whose low nibbles are elements 0..16 and whose high nibbles are 16..32.
pub(super) fn nibbles(bytes: &[u8], q: &mut [i8]) {
    for (j, byte) in bytes[..16].iter().enumerate() {
        q[j] = (byte & 15) as i8;
        q[j + 16] = (byte >> 4) as i8;
    }
}

/// Adds bit i of 32 bits, times 16, to element i.
fn fifth_bits(bytes: &[u8], q: &mut [i8]) {
    for (i, q) in q[..32].iter_mut().enumerate() {
        *q += ((bytes[i / 8] >> (i % 8)) & 1) as i8 * 16;
    }
}

fn q4_0(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = half_at(block, 0);
    nibbles(&block[2..], &mut out.q);
    out.q[..32].iter_mut().for_each(|q| *q -= 8);
}

fn q4_1(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = half_at(block, 0);
    out.minimum[0] = half_at(block, 2);
    nibbles(&block[4..], &mut out.q);
}

fn q5_0(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = half_at(block, 0);
    nibbles(&block[6..], &mut out.q);
    fifth_bits(&block[2..], &mut out.q);
    out.q[..32].iter_mut().for_each(|q| *q -= 16);
}

fn q5_1(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = half_at(block, 0);
    out.minimum[0] = half_at(block, 2);
    nibbles(&block[8..], &mut out.q);
    fifth_bits(&block[4..], &mut out.q);
}

fn q8_0(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = half_at(block, 0);
    for (q, byte) in out.q.iter_mut().zip(&block[2..]) {
        *q = *byte as i8;
    }
}

/// 16 bytes of scale (low) and minimum (high nibble), 64 bytes of 2 bits, d, dmin. A quarter of the bits of
/// 32 bytes is 32 elements in a row.
fn q2_k(block: &[u8], out: &mut SubBlocks) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (sub, byte) in block[..16].iter().enumerate() {
        out.scale[sub] = d * f32::from(byte & 15);
        out.minimum[sub] = -(dmin * f32::from(byte >> 4));
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let (half, quarter, byte) = (i / 128, i % 128 / 32, i % 32);
        *q = ((block[16 + 32 * half + byte] >> (2 * quarter)) & 3) as i8;
    }
}

/// 32 bytes of third bits (bit b of byte l is element 32 b + l), 64 bytes of 2 bits as in Q2_K, 12 bytes of
/// scales, d.
fn q3_k(block: &[u8], out: &mut SubBlocks) {
    let d = half_at(block, 108);
    let packed = &block[96..108];
    for sub in 0..16 {
        let low = if sub < 8 { packed[sub] & 15 } else { packed[sub - 8] >> 4 };
        let high = (packed[8 + sub % 4] >> (2 * (sub / 4))) & 3;
        out.scale[sub] = d * f32::from((low | high << 4) as i8 - 32);
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let (half, quarter, byte) = (i / 128, i % 128 / 32, i % 32);
        let low = (block[32 + 32 * half + byte] >> (2 * quarter)) & 3;
        let high = (block[byte] >> (i / 32)) & 1;
        *q = (low | high << 2) as i8 - 4;
    }
}

/// The 6-bit scale and minimum of a sub-block out of the 12 bytes of Q4_K and Q5_K.
fn six_bit_pair(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let low = packed[sub + 4];
        ((low & 15) | (packed[sub - 4] >> 6) << 4, (low >> 4) | (packed[sub] >> 6) << 4)
    }
}

fn six_bit_scales(block: &[u8], out: &mut SubBlocks) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for sub in 0..8 {
        let (scale, minimum) = six_bit_pair(&block[4..16], sub);
        out.scale[sub] = d * f32::from(scale);
        out.minimum[sub] = -(dmin * f32::from(minimum));
    }
}

/// 32 bytes whose low nibbles are 32 elements and whose high nibbles are the next 32.
fn wide_nibbles(bytes: &[u8], q: &mut [i8; MAX_ELEMS]) {
    for (i, q) in q.iter_mut().enumerate() {
        let byte = bytes[i / 64 * 32 + i % 32];
        *q = (if i % 64 < 32 { byte & 15 } else { byte >> 4 }) as i8;
    }
}

/// d, dmin, 12 bytes of scales, 128 bytes of nibbles.
fn q4_k(block: &[u8], out: &mut SubBlocks) {
    six_bit_scales(block, out);
    wide_nibbles(&block[16..], &mut out.q);
}

/// d, dmin, 12 bytes of scales, 32 bytes of fifth bits (bit b of byte l is element 32 b + l), 128 of nibbles.
fn q5_k(block: &[u8], out: &mut SubBlocks) {
    six_bit_scales(block, out);
    wide_nibbles(&block[48..], &mut out.q);
    for (i, q) in out.q.iter_mut().enumerate() {
        *q += ((block[16 + i % 32] >> (i / 32)) & 1) as i8 * 16;
    }
}

/// 128 bytes of low nibbles, 64 of the upper 2 bits, 16 signed scales, d. In each half of the elements, 64
/// bytes have elements 0..64 in their low and 64..128 in their high nibbles; the upper bits lie as in Q2_K.
fn q6_k(block: &[u8], out: &mut SubBlocks) {
    let d = half_at(block, 208);
    for (sub, byte) in block[192..208].iter().enumerate() {
        out.scale[sub] = d * f32::from(*byte as i8);
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let (half, rest) = (i / 128, i % 128);
        let low = block[64 * half + rest % 64] >> (rest / 64 * 4) & 15;
        let high = (block[128 + 32 * half + rest % 32] >> (rest / 32 * 2)) & 3;
        *q = (low | high << 4) as i8 - 32;
    }
}

fn iq4_nl(block: &[u8], out: &mut SubBlocks) {
    out.scale[0] = half_at(block, 0);
    nibbles(&block[2..], &mut out.q);
    out.q[..32].iter_mut().for_each(|q| *q = IQ4_VALUES[*q as usize]);
}

/// d, 16 bits with the upper 2 of each scale, 4 bytes with the lower 4, 8 times the 16 bytes of IQ4_NL.
fn iq4_xs(block: &[u8], out: &mut SubBlocks) {
    let d = half_at(block, 0);
    let high_bits = u16::from_le_bytes([block[2], block[3]]);
    for sub in 0..8 {
        let low = (block[4 + sub / 2] >> (sub % 2 * 4)) & 15;
        let high = ((high_bits >> (2 * sub)) & 3) as u8;
        out.scale[sub] = d * f32::from((low | high << 4) as i8 - 32);
        nibbles(&block[8 + 16 * sub..], &mut out.q[32 * sub..]);
    }
    out.q.iter_mut().for_each(|q| *q = IQ4_VALUES[*q as usize]);
}
