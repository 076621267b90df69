//! The tensor types that this program writes.

use membrane_formats::DType;
use membrane_kernels::Format;
use std::str::FromStr;

/// A tensor type with what has to be known of it here.
#[derive(Debug, Clone, Copy)]
pub struct Quantisation {
    /// Its name and number in a file.
    pub dtype: DType,
    /// Its name for the kernels.
    pub format: Format,
    /// `general.file_type` of a model that is mostly of this type.
    pub file_type: u32,
    /// Which bytes of a block hold codes, and the lowest bit of each code in such a byte.
    pub codes: Codes,
}

/// Where the codes of a block are.
#[derive(Debug, Clone, Copy)]
pub struct Codes {
    /// First byte.
    pub first: usize,
    /// Behind the last byte.
    pub end: usize,
    /// The lowest bit of each code.
    pub low_bits: u8,
}

const fn row(
    dtype: DType,
    format: Format,
    file_type: u32,
    first: usize,
    end: usize,
    low_bits: u8,
) -> Quantisation {
    Quantisation { dtype, format, file_type, codes: Codes { first, end, low_bits } }
}

/// Two codes in a byte, or the low nibbles of wider ones.
const NIBBLES: u8 = 0x11;

const ALL: [Quantisation; 11] = [
    row(DType::Q4_K, Format::Q4K, 15, 16, 144, NIBBLES),
    row(DType::Q5_K, Format::Q5K, 17, 48, 176, NIBBLES),
    row(DType::Q6_K, Format::Q6K, 18, 0, 128, NIBBLES),
    row(DType::Q8_0, Format::Q8_0, 7, 2, 34, 0x01),
    row(DType::Q4_0, Format::Q4_0, 2, 2, 18, NIBBLES),
    row(DType::Q4_1, Format::Q4_1, 3, 4, 20, NIBBLES),
    row(DType::Q5_0, Format::Q5_0, 8, 6, 22, NIBBLES),
    row(DType::Q5_1, Format::Q5_1, 9, 8, 24, NIBBLES),
    row(DType::MXFP4, Format::MXFP4, 38, 1, 17, NIBBLES),
    row(DType::NVFP4, Format::NVFP4, 39, 4, 36, NIBBLES),
    row(DType::F16, Format::F16, 1, 0, 2, 0x00),
];

impl Quantisation {
    /// Values in a block.
    pub fn block_values(&self) -> usize {
        self.dtype.block_elems() as usize
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.dtype.block_bytes() as usize
    }

    /// Bytes of `values`, a multiple of a block.
    pub fn bytes(&self, values: usize) -> usize {
        values / self.block_values() * self.block_bytes()
    }

    /// Whether codes have low bits to flip.
    pub fn has_codes(&self) -> bool {
        self.codes.low_bits != 0
    }
}

/// The kernels' name of a tensor type, if they can read it.
pub fn format_of(dtype: DType) -> Option<Format> {
    Format::from_name(dtype.name())
}

impl FromStr for Quantisation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ALL.iter().find(|known| known.dtype.name().eq_ignore_ascii_case(text)).copied();
        let names = || ALL.iter().map(|known| known.dtype.name()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("`{text}` is not among {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lie_in_their_block() {
        for known in ALL {
            assert!(
                known.codes.first < known.codes.end && known.codes.end <= known.block_bytes(),
                "{known:?}"
            );
            assert_eq!(known.dtype.name().parse::<Quantisation>().unwrap().dtype, known.dtype);
        }
        assert!("Q9_Z".parse::<Quantisation>().unwrap_err().contains("Q4_K"));
    }
}
