//! How the numbers of a weight matrix are stored.

use std::fmt;

/// A storage format of weights; the quantised ones have the block layouts of GGUF.
///
/// A row is a sequence of blocks; all blocks of a format have the same number of elements and of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 32 x 4 bits, a scale.
    Q4_0,
    /// 32 x 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 x 5 bits, a scale.
    Q5_0,
    /// 32 x 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 x 8 bits, a scale.
    Q8_0,
    /// 256 x 2 bits, 16 scales and minimums of 4 bits.
    Q2K,
    /// 256 x 3 bits, 16 scales of 6 bits.
    Q3K,
    /// 256 x 4 bits, 8 scales and minimums of 6 bits.
    Q4K,
    /// 256 x 5 bits, 8 scales and minimums of 6 bits.
    Q5K,
    /// 256 x 6 bits, 16 scales of 8 bits.
    Q6K,
    /// 32 x 4 bits that index a table, a scale.
    IQ4NL,
    /// 256 x 4 bits that index a table, 8 scales of 6 bits.
    IQ4XS,
    /// 32 x floats of 4 bits, a power of two.
    MXFP4,
    /// 64 x floats of 4 bits, 4 scales that are floats of 8 bits. A tensor may have a factor of its own beside it.
    NVFP4,
    /// 32 x floats of 8 bits, a scale in single precision: what published FP8 weights become.
    E4M3,
    /// 256 x patterns of 8 out of 2,048, each moved by an eighth, 8 scales of 3 bits.
    IQ1S,
    /// 256 x patterns of 8 out of 2,048, each moved by an eighth, 16 scales of 3 bits.
    IQ1M,
    /// 256 x patterns of 8 out of 256, signs, 8 scales of 4 bits.
    IQ2XXS,
    /// 256 x patterns of 8 out of 512, signs, 16 scales of 4 bits.
    IQ2XS,
    /// 256 x patterns of 8 out of 1,024, signs, 16 scales of 4 bits.
    IQ2S,
    /// 256 x patterns of 4 out of 256, signs, 8 scales of 4 bits.
    IQ3XXS,
    /// 256 x patterns of 4 out of 512, signs, 8 scales of 4 bits.
    IQ3S,
    /// 256 x -1, 0 or 1, five in a byte, a scale.
    TQ1_0,
    /// 256 x 2 bits from -1 on, a scale.
    TQ2_0,
    /// 128 x a sign, a scale.
    Q1_0,
    /// 64 x 2 bits from -1 on, a scale.
    Q2_0,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 29] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::MXFP4,
        Self::NVFP4,
        Self::E4M3,
        Self::IQ1S,
        Self::IQ1M,
        Self::IQ2XXS,
        Self::IQ2XS,
        Self::IQ2S,
        Self::IQ3XXS,
        Self::IQ3S,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::Q1_0,
        Self::Q2_0,
    ];

    /// Elements of a block; 1 for the floats.
    pub const fn block_elems(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4NL | Self::MXFP4 => 32,
            Self::E4M3 => 32,
            Self::NVFP4 | Self::Q2_0 => 64,
            Self::Q1_0 => 128,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::IQ4XS => 256,
            Self::IQ1S | Self::IQ1M | Self::IQ2XXS | Self::IQ2XS | Self::IQ2S => 256,
            Self::IQ3XXS | Self::IQ3S | Self::TQ1_0 | Self::TQ2_0 => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 | Self::IQ4NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::IQ4XS => 136,
            Self::MXFP4 => 17,
            Self::NVFP4 | Self::E4M3 => 36,
            Self::IQ1S => 50,
            Self::IQ1M => 56,
            Self::IQ2XXS => 66,
            Self::IQ2XS => 74,
            Self::IQ2S => 82,
            Self::IQ3XXS => 98,
            Self::IQ3S => 110,
            Self::TQ1_0 => 54,
            Self::TQ2_0 => 66,
            Self::Q1_0 | Self::Q2_0 => 18,
        }
    }

    /// Bytes of a row of `cols` elements; `None` if they are not whole blocks or the number does not fit.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_elems()) {
            return None;
        }
        (cols / self.block_elems()).checked_mul(self.block_bytes())
    }

    /// Whether the elements are computed with as floats, not as integers in blocks.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::E4M3)
    }

    /// Whether [`crate::quant::quantise_row`] writes it.
    pub const fn is_written(self) -> bool {
        !matches!(
            self,
            Self::IQ1S
                | Self::IQ1M
                | Self::IQ2XXS
                | Self::IQ2XS
                | Self::IQ2S
                | Self::IQ3XXS
                | Self::IQ3S
                | Self::TQ1_0
                | Self::TQ2_0
                | Self::Q1_0
                | Self::Q2_0
        )
    }

    /// The name that GGUF files and tools use: `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::IQ4NL => "IQ4_NL",
            Self::IQ4XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
            Self::NVFP4 => "NVFP4",
            Self::E4M3 => "F8_E4M3",
            Self::IQ1S => "IQ1_S",
            Self::IQ1M => "IQ1_M",
            Self::IQ2XXS => "IQ2_XXS",
            Self::IQ2XS => "IQ2_XS",
            Self::IQ2S => "IQ2_S",
            Self::IQ3XXS => "IQ3_XXS",
            Self::IQ3S => "IQ3_S",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::Q1_0 => "Q1_0",
            Self::Q2_0 => "Q2_0",
        }
    }

    /// Whether [`Precision::Int8Groups`](crate::Precision::Int8Groups) adds up its sub-blocks in integers: super-blocks whose scales
    /// are integers.
    pub const fn is_grouped(self) -> bool {
        matches!(self, Self::Q4K | Self::Q5K | Self::Q6K)
    }

    /// Whether files have rows of it. Blocks of floats of 8 bits are made of a matrix and its scales ([`crate::recode`]).
    pub fn is_stored(self) -> bool {
        self != Self::E4M3
    }

    /// The format that [`Format::name`] calls so, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A matrix or row whose shape does not fit its format or its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The row can't be cut in blocks.
    #[error(
        "rows of {cols} elements are not whole {format} blocks of {}: store this tensor in another format",
        .format.block_elems()
    )]
    NotWholeBlocks {
        /// Storage format.
        format: Format,
        /// Elements of a row.
        cols: usize,
    },
    /// Rows of this format are only read.
    #[error("{format} is not written here, only read: quantise to another format, or with llama.cpp")]
    NotWritten {
        /// Storage format.
        format: Format,
    },
    /// More or fewer bytes than the shape needs.
    #[error("a {format} matrix of {rows} x {cols} needs {expected} bytes, not {actual}: the file is damaged")]
    WrongLength {
        /// Storage format.
        format: Format,
        /// Rows.
        rows: usize,
        /// Elements of a row.
        cols: usize,
        /// Bytes that such a matrix has.
        expected: usize,
        /// Bytes that were given.
        actual: usize,
    },
    /// A column that is for an element which the input does not have.
    #[error(
        "the order of the {cols} columns names one that is not there: the file is damaged or hostile, fetch it again"
    )]
    Order {
        /// Elements of a row.
        cols: usize,
    },
    /// The size in bytes does not fit in a `usize`.
    #[error("a {format} matrix of {rows} x {cols} is larger than the address space")]
    TooLarge {
        /// Storage format.
        format: Format,
        /// Rows.
        rows: usize,
        /// Elements of a row.
        cols: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Format::Q4K.row_bytes(512), Some(288));
        assert_eq!(Format::Q4K.row_bytes(500), None);
        assert_eq!(Format::F16.row_bytes(7), Some(14));
        assert_eq!(Format::F32.row_bytes(usize::MAX / 2), None);
        assert_eq!(Format::IQ4XS.to_string(), "IQ4_XS");
        assert_eq!(Format::from_name("iq2_xxs"), Some(Format::IQ2XXS));
        assert_eq!(Format::from_name("Q8_K"), None);
    }
}
