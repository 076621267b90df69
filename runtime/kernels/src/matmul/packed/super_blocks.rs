//! The formats with blocks of 256 elements.

use super::{
    Grouped, IntegerScales, Offset, Packed, Scales, Signed, Sink, Wide, WithMinimum, bits, high_nibbles,
    iq4_values, low_nibbles, or,
};
use crate::format::Format;

/// See [`Format::Q2K`].
pub(in crate::matmul) struct Q2K;
/// See [`Format::Q3K`].
pub(in crate::matmul) struct Q3K;
/// See [`Format::Q4K`].
pub(in crate::matmul) struct Q4K;
/// See [`Format::Q5K`].
pub(in crate::matmul) struct Q5K;
/// See [`Format::Q6K`].
pub(in crate::matmul) struct Q6K;
/// See [`Format::IQ4XS`].
pub(in crate::matmul) struct Iq4Xs;

/// Each of the four unsigned bytes of each dword, less `offset`, times `unit`.
#[inline(always)]
fn byte_scales<W: Wide>(w: W, bytes: W::V, offset: i32, unit: W::F, to: &mut [W::F]) {
    for (byte, to) in to[..4].iter_mut().enumerate() {
        let scale = w.byte_of_dwords(bytes, byte);
        *to = w.mul(unit, w.floats(w.sub32(scale, w.splat32(offset))));
    }
}

/// What Q4_K and Q5_K begin with.
struct SixBits<W: Wide> {
    unit: W::F,
    minimum_unit: W::F,
    /// A byte for each of four sub-blocks.
    scales: [W::V; 2],
    minimums: [W::V; 2],
}

/// Units, scales and minimums of Q4_K and Q5_K.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn six_bits<W: Wide>(w: W, at: *const u8, stride: usize) -> SixBits<W> {
    // SAFETY: within the block.
    let [units, low_scales, low_minimums, high] = w.dwords(unsafe { w.column(at, 0, stride) });
    let (unit, minimum_unit) = (w.low_halves(units), w.negate(w.high_halves(units)));
    let (six, four, two) = (w.splat8(0x3F), w.splat8(0x0F), w.splat8(0x30));
    let scales = [w.and(low_scales, six), w.or(w.and(high, four), w.and(w.shr32(low_scales, 2), two))];
    let minimums =
        [w.and(low_minimums, six), w.or(w.and(w.shr32(high, 4), four), w.and(w.shr32(low_minimums, 2), two))];
    SixBits { unit, minimum_unit, scales, minimums }
}

/// The scales and minimums of Q4_K and Q5_K.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn six_bit_scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
    // SAFETY: the caller's promise.
    let SixBits { unit, minimum_unit, scales, minimums } = unsafe { six_bits(w, at, stride) };
    for half in 0..2 {
        byte_scales(w, scales[half], 0, unit, &mut to.scale[4 * half..]);
        byte_scales(w, minimums[half], 0, minimum_unit, &mut to.minimum[4 * half..]);
    }
}

/// The same as integers.
///
/// # Safety
/// As for [`Packed::scales`].
#[inline(always)]
unsafe fn six_bit_integers<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut IntegerScales<W>) {
    // SAFETY: the caller's promise.
    let SixBits { unit, minimum_unit, scales, minimums } = unsafe { six_bits(w, at, stride) };
    (to.unit, to.minimum_unit) = (unit, minimum_unit);
    for sub in 0..8 {
        to.scale[sub] = w.byte_of_dwords(scales[sub / 4], sub % 4);
        to.minimum[sub] = w.byte_of_dwords(minimums[sub / 4], sub % 4);
    }
}

impl Grouped for Q4K {
    #[inline(always)]
    unsafe fn integer_scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut IntegerScales<W>) {
        // SAFETY: the caller's promise.
        unsafe { six_bit_integers(w, at, stride, to) }
    }
}

impl Grouped for Q5K {
    #[inline(always)]
    unsafe fn integer_scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut IntegerScales<W>) {
        // SAFETY: the caller's promise.
        unsafe { six_bit_integers(w, at, stride, to) }
    }
}

impl Grouped for Q6K {
    #[inline(always)]
    unsafe fn integer_scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut IntegerScales<W>) {
        // SAFETY: within the block; the unit is its last two bytes.
        let (packed, unit) = unsafe { (w.column(at, 192, stride), w.last_halves(at, 208, stride)) };
        to.unit = unit;
        for (i, dword) in w.dwords(packed).into_iter().enumerate() {
            for byte in 0..4 {
                to.scale[4 * i + byte] = w.sar32(w.shl32(dword, 24 - 8 * byte as u32), 24);
            }
        }
    }
}

impl Packed for Q2K {
    const FORMAT: Format = Format::Q2K;
    type Weights = WithMinimum<16, 15>;
    const PIECES: usize = 4;
    const PIECES_A_RUN: usize = 2;

    #[inline(always)]
    unsafe fn piece<W: Wide>(w: W, at: *const u8, stride: usize, piece: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let q = unsafe { w.column(at, 16 + 16 * piece, stride) };
        for quarter in 0..4 {
            let sub = piece / 2 * 8 + 2 * quarter + piece % 2;
            to.put::<Self, 1>(w, sub, [bits(w, q, -2 * quarter as i32, 3)]);
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the units are its last four bytes.
        let (packed, tail) = unsafe { (w.column(at, 0, stride), w.column(at, 68, stride)) };
        let units = w.dword::<3>(tail);
        let (unit, minimum_unit) = (w.low_halves(units), w.negate(w.high_halves(units)));
        let mask = w.splat8(15);
        for (i, dword) in w.dwords(packed).into_iter().enumerate() {
            let minimums = w.and(w.shr32(dword, 4), mask);
            byte_scales(w, w.and(dword, mask), 0, unit, &mut to.scale[4 * i..]);
            byte_scales(w, minimums, 0, minimum_unit, &mut to.minimum[4 * i..]);
        }
    }
}

impl Packed for Q3K {
    const FORMAT: Format = Format::Q3K;
    type Weights = Offset<16, 15, 2>;
    const PIECES: usize = 4;
    const PIECES_A_RUN: usize = 2;

    #[inline(always)]
    unsafe fn piece<W: Wide>(w: W, at: *const u8, stride: usize, piece: usize, to: &mut impl Sink<W>) {
        let (half, side) = (piece / 2, piece % 2);
        // SAFETY: within the block.
        let (third, q) = unsafe { (w.column(at, 16 * side, stride), w.column(at, 32 + 16 * piece, stride)) };
        for quarter in 0..4 {
            let low = bits(w, q, -2 * quarter as i32, 3);
            let high = bits(w, third, 2 - (4 * half + quarter) as i32, 4);
            to.put::<Self, 1>(w, half * 8 + 2 * quarter + side, [or(w, low, high)]);
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the unit is its last two bytes.
        let (packed, unit) = unsafe { (w.column(at, 92, stride), w.last_halves(at, 108, stride)) };
        let [_, first, second, high] = w.dwords(packed);
        let (four, two) = (w.splat8(0x0F), w.splat8(0x30));
        for group in 0..4 {
            let low = if group % 2 == 0 { first } else { second };
            let low = w.and(if group < 2 { low } else { w.shr32(low, 4) }, four);
            let high = if group < 2 {
                w.shl32(high, 4 - 2 * group as u32)
            } else {
                w.shr32(high, 2 * group as u32 - 4)
            };
            byte_scales(w, w.or(low, w.and(high, two)), 32, unit, &mut to.scale[4 * group..]);
        }
    }
}

impl Packed for Q4K {
    const FORMAT: Format = Format::Q4K;
    type Weights = WithMinimum<32, 15>;
    const PIECES: usize = 4;

    #[inline(always)]
    unsafe fn piece<W: Wide>(w: W, at: *const u8, stride: usize, pair: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let (a, b) = unsafe { (w.column(at, 16 + 32 * pair, stride), w.column(at, 32 + 32 * pair, stride)) };
        to.put::<Self, 2>(w, 2 * pair, [low_nibbles(w, a), low_nibbles(w, b)]);
        to.put::<Self, 2>(w, 2 * pair + 1, [high_nibbles(w, a), high_nibbles(w, b)]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { six_bit_scales(w, at, stride, to) }
    }
}

impl Packed for Q5K {
    const FORMAT: Format = Format::Q5K;
    type Weights = WithMinimum<32, 31>;
    const PIECES: usize = 4;

    #[inline(always)]
    unsafe fn piece<W: Wide>(w: W, at: *const u8, stride: usize, pair: usize, to: &mut impl Sink<W>) {
        // SAFETY: within the block.
        let (fifth, a, b) = unsafe {
            let fifth = [w.column(at, 16, stride), w.column(at, 32, stride)];
            (fifth, w.column(at, 48 + 32 * pair, stride), w.column(at, 64 + 32 * pair, stride))
        };
        for high in 0..2 {
            let sub = 2 * pair + high;
            let nibbles = if high == 0 {
                [low_nibbles(w, a), low_nibbles(w, b)]
            } else {
                [high_nibbles(w, a), high_nibbles(w, b)]
            };
            let shift = 4 - sub as i32;
            let columns = [
                or(w, nibbles[0], bits(w, fifth[0], shift, 16)),
                or(w, nibbles[1], bits(w, fifth[1], shift, 16)),
            ];
            to.put::<Self, 2>(w, sub, columns);
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: the caller's promise.
        unsafe { six_bit_scales(w, at, stride, to) }
    }
}

impl Packed for Q6K {
    const FORMAT: Format = Format::Q6K;
    type Weights = Offset<16, 63, 5>;
    const PIECES: usize = 4;
    const PIECES_A_RUN: usize = 2;

    #[inline(always)]
    unsafe fn piece<W: Wide>(w: W, at: *const u8, stride: usize, piece: usize, to: &mut impl Sink<W>) {
        let (half, side) = (piece / 2, piece % 2);
        // SAFETY: within the block.
        let (a, b, upper) = unsafe {
            let low = 64 * half + 16 * side;
            (
                w.column(at, low, stride),
                w.column(at, low + 32, stride),
                w.column(at, 128 + 16 * piece, stride),
            )
        };
        let sub = 8 * half + side;
        to.put::<Self, 1>(w, sub, [or(w, low_nibbles(w, a), bits(w, upper, 4, 0x30))]);
        to.put::<Self, 1>(w, sub + 2, [or(w, low_nibbles(w, b), bits(w, upper, 2, 0x30))]);
        to.put::<Self, 1>(w, sub + 4, [or(w, high_nibbles(w, a), bits(w, upper, 0, 0x30))]);
        to.put::<Self, 1>(w, sub + 6, [or(w, high_nibbles(w, b), bits(w, upper, -2, 0x30))]);
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block; the unit is its last two bytes.
        let (packed, unit) = unsafe { (w.column(at, 192, stride), w.last_halves(at, 208, stride)) };
        // Signed bytes are taken for 2^24 times as much.
        let unit = w.mul(unit, w.splat(1.0 / 16_777_216.0));
        for (i, dword) in w.dwords(packed).into_iter().enumerate() {
            for byte in 0..4 {
                to.scale[4 * i + byte] = w.mul(unit, w.floats(w.high_byte_of_dwords(dword, byte)));
            }
        }
    }
}

impl Packed for Iq4Xs {
    const FORMAT: Format = Format::IQ4XS;
    type Weights = Signed<32, 128>;

    #[inline(always)]
    unsafe fn weights<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut impl Sink<W>) {
        for sub in 0..8 {
            // SAFETY: within the block.
            let q = unsafe { w.column(at, 8 + 16 * sub, stride) };
            let columns = [iq4_values(w, low_nibbles(w, q)), iq4_values(w, high_nibbles(w, q))];
            to.put::<Self, 2>(w, sub, columns);
        }
    }

    #[inline(always)]
    unsafe fn scales<W: Wide>(w: W, at: *const u8, stride: usize, to: &mut Scales<W>) {
        // SAFETY: within the block.
        let [head, low, ..] = w.dwords(unsafe { w.column(at, 0, stride) });
        let unit = w.low_halves(head);
        for (sub, scale) in to.scale[..8].iter_mut().enumerate() {
            let low = w.and(w.shr32(low, 4 * sub as u32), w.splat32(15));
            let high = w.and(w.shr32(head, 16 + 2 * sub as u32), w.splat32(3));
            let six = w.or(low, w.shl32(high, 4));
            *scale = w.mul(unit, w.floats(w.sub32(six, w.splat32(32))));
        }
    }
}
