//! What products need to know of weights once they are unpacked. Formats that are alike in this share code.

/// A kind of weights as they come out of blocks (`K` where it is a parameter): bytes in sub-blocks that have a scale each.
pub(in crate::matmul) trait Weights {
    /// Elements of a sub-block: 16 or 32.
    const SUB: usize;
    /// No magnitude is larger: 15, 31, 63 or 128.
    const LARGEST: u8;
    /// They are signed bytes; unsigned ones otherwise.
    const SIGNED: bool = false;
    /// Unsigned weights stand for themselves less 2 to the power of this; 0: for themselves.
    const OFFSET_BITS: u32 = 0;
    /// Sub-blocks have a minimum.
    const MINIMUM: bool = false;
}

/// What [`Weights::LARGEST`] may be.
const fn bound(largest: u8) -> u8 {
    assert!(matches!(largest, 15 | 31 | 63 | 128), "few bounds, so that formats share kinds of weights");
    largest
}

/// Signed bytes.
pub(in crate::matmul) struct Signed<const SUB: usize, const LARGEST: u8>;

/// Unsigned bytes that stand for themselves less 2 to the power of `OFFSET_BITS`.
pub(in crate::matmul) struct Offset<const SUB: usize, const LARGEST: u8, const OFFSET_BITS: u32>;

/// Unsigned bytes in sub-blocks that have a minimum.
pub(in crate::matmul) struct WithMinimum<const SUB: usize, const LARGEST: u8>;

impl<const SUB: usize, const LARGEST: u8> Weights for Signed<SUB, LARGEST> {
    const SUB: usize = SUB;
    const LARGEST: u8 = bound(LARGEST);
    const SIGNED: bool = true;
}

impl<const SUB: usize, const LARGEST: u8, const OFFSET_BITS: u32> Weights
    for Offset<SUB, LARGEST, OFFSET_BITS>
{
    const SUB: usize = SUB;
    const LARGEST: u8 = bound(LARGEST);
    const OFFSET_BITS: u32 = OFFSET_BITS;
}

impl<const SUB: usize, const LARGEST: u8> Weights for WithMinimum<SUB, LARGEST> {
    const SUB: usize = SUB;
    const LARGEST: u8 = bound(LARGEST);
    const MINIMUM: bool = true;
}
