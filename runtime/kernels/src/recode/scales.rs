//! Plain floats, and scales of other numbers.

use crate::format::Format;

/// How plain floats are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
}

impl FloatFormat {
    /// Bytes of one.
    pub(super) fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Rows of them.
    pub(super) fn as_rows(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::BF16 => Format::BF16,
        }
    }
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFormat {
    /// As floats.
    Float(FloatFormat),
    /// As exponents of two (e8m0 of the OCP Microscaling Formats specification): a byte stands for 2 to the power of it less
    /// 127, and 255 for no number.
    Exponent,
}

impl ScaleFormat {
    /// Bytes of one.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Float(format) => format.bytes(),
            Self::Exponent => 1,
        }
    }

    /// Scale number `index`.
    pub(super) fn at(self, bytes: &[u8], index: usize) -> f32 {
        let half = |at: usize| [bytes[at], bytes[at + 1]];
        match self {
            Self::Float(FloatFormat::F32) => {
                let at = 4 * index;
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
            Self::Float(FloatFormat::F16) => half::f16::from_le_bytes(half(2 * index)).to_f32(),
            Self::Float(FloatFormat::BF16) => half::bf16::from_le_bytes(half(2 * index)).to_f32(),
            Self::Exponent => match bytes[index] {
                // 2^-127 is below the normal numbers.
                0 => f32::from_bits(1 << 22),
                255 => f32::NAN,
                exponent => f32::from_bits(u32::from(exponent) << 23),
            },
        }
    }
}
