//! The types that a tensor's elements can be stored in.

use crate::shape::{Shape, ShapeError};

/// Ids from here on are none of ggml's: types that only safetensors files have.
const PUBLISHED: u32 = 1 << 16;

/// Declares [`DType`] from a table: name = id, elements of a block, bytes of a block.
macro_rules! dtypes {
    ($($name:ident = $id:literal, $elems:literal, $bytes:literal, $doc:literal;)*) => {
        /// How a tensor's elements are stored: every type of ggml that files still use, by ggml's names and
        /// ids, and those of safetensors files that ggml has not, by their names there.
        ///
        /// Elements come in blocks along a row. The byte order inside a block is the type's own and is the
        /// kernels' matter; here only names and sizes are known.
        #[allow(non_camel_case_types, reason = "the names that files and users know them by")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DType {
            $(#[doc = $doc] $name = $id,)*
        }

        impl DType {
            /// Every type, by ascending id.
            pub const ALL: &'static [DType] = &[$(DType::$name),*];

            /// The name that ggml or safetensors gives the type, in capitals.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$name => stringify!($name),)* }
            }

            /// Elements of one block.
            pub fn block_elems(self) -> u64 {
                match self { $(DType::$name => $elems,)* }
            }

            /// Bytes of one block.
            pub fn block_bytes(self) -> u64 {
                match self { $(DType::$name => $bytes,)* }
            }

            /// The type with this id in a GGUF file, if there is one.
            pub fn from_ggml_id(id: u32) -> Option<Self> {
                match id { $($id if $id < PUBLISHED => Some(DType::$name),)* _ => None }
            }
        }
    };
}

dtypes! {
    F32 = 0, 1, 4, "IEEE 754 binary32.";
    F16 = 1, 1, 2, "IEEE 754 binary16.";
    Q4_0 = 2, 32, 18, "4 bits, one scale for 32.";
    Q4_1 = 3, 32, 20, "4 bits, scale and minimum for 32.";
    Q5_0 = 6, 32, 22, "5 bits, one scale for 32.";
    Q5_1 = 7, 32, 24, "5 bits, scale and minimum for 32.";
    Q8_0 = 8, 32, 34, "8 bits, one scale for 32.";
    Q8_1 = 9, 32, 36, "8 bits, scale and sum for 32; of activations.";
    Q2_K = 10, 256, 84, "2 bits in super-blocks of 256.";
    Q3_K = 11, 256, 110, "3 bits in super-blocks of 256.";
    Q4_K = 12, 256, 144, "4 bits in super-blocks of 256.";
    Q5_K = 13, 256, 176, "5 bits in super-blocks of 256.";
    Q6_K = 14, 256, 210, "6 bits in super-blocks of 256.";
    Q8_K = 15, 256, 292, "8 bits in super-blocks of 256; of activations.";
    IQ2_XXS = 16, 256, 66, "Codebook, 2.06 bits.";
    IQ2_XS = 17, 256, 74, "Codebook, 2.31 bits.";
    IQ3_XXS = 18, 256, 98, "Codebook, 3.06 bits.";
    IQ1_S = 19, 256, 50, "Codebook, 1.56 bits.";
    IQ4_NL = 20, 32, 18, "4 bits into a table of 16 unevenly spaced values, one scale for 32.";
    IQ3_S = 21, 256, 110, "Codebook, 3.44 bits.";
    IQ2_S = 22, 256, 82, "Codebook, 2.56 bits.";
    IQ4_XS = 23, 256, 136, "The table of IQ4_NL in super-blocks of 256.";
    I8 = 24, 1, 1, "Signed 8-bit integer.";
    I16 = 25, 1, 2, "Signed 16-bit integer.";
    I32 = 26, 1, 4, "Signed 32-bit integer.";
    I64 = 27, 1, 8, "Signed 64-bit integer.";
    F64 = 28, 1, 8, "IEEE 754 binary64.";
    IQ1_M = 29, 256, 56, "Codebook, 1.75 bits.";
    BF16 = 30, 1, 2, "The upper half of a binary32.";
    TQ1_0 = 34, 256, 54, "Ternary, 1.69 bits.";
    TQ2_0 = 35, 256, 66, "Ternary, 2.06 bits.";
    MXFP4 = 39, 32, 17, "4-bit floats, a power of two for 32.";
    NVFP4 = 40, 64, 36, "4-bit floats, an 8-bit float for each 16.";
    Q1_0 = 41, 128, 18, "1 bit, one scale for 128.";
    Q2_0 = 42, 64, 18, "2 bits, one scale for 64.";
    BOOL = 0x10000, 1, 1, "Truth value.";
    U8 = 0x10001, 1, 1, "Unsigned 8-bit integer, or two 4-bit floats.";
    U16 = 0x10002, 1, 2, "Unsigned 16-bit integer.";
    U32 = 0x10003, 1, 4, "Unsigned 32-bit integer.";
    U64 = 0x10004, 1, 8, "Unsigned 64-bit integer.";
    F8_E4M3 = 0x10005, 1, 1, "8-bit float with 4 bits of exponent and no infinity.";
    F8_E5M2 = 0x10006, 1, 1, "8-bit float with 5 bits of exponent.";
    F8_E8M0 = 0x10007, 1, 1, "A power of two.";
}

impl DType {
    /// The type that safetensors files call so, if it is one of whole bytes.
    pub fn of_safetensors(name: &str) -> Option<Self> {
        let plain = |dtype: &Self| dtype.block_elems() == 1 && dtype.name() == name;
        Self::ALL.iter().copied().find(plain)
    }

    /// The id of the type in a GGUF file; beyond all of ggml's for one that only safetensors files have.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The type of this name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|d| d.name().eq_ignore_ascii_case(name))
    }

    /// Name of a type that files once used and ggml removed; its bytes can't be read any more.
    pub fn removed(id: u32) -> Option<&'static str> {
        Some(match id {
            4 => "Q4_2",
            5 => "Q4_3",
            31 => "Q4_0_4_4",
            32 => "Q4_0_4_8",
            33 => "Q4_0_8_8",
            36 => "IQ4_NL_4_4",
            37 => "IQ4_NL_4_8",
            38 => "IQ4_NL_8_8",
            _ => return None,
        })
    }

    /// Bytes of a tensor of this type and shape: whole blocks, rows without padding between them.
    pub fn tensor_bytes(self, shape: &Shape) -> Result<u64, ShapeError> {
        let (columns, block) = (shape.columns(), self.block_elems());
        if columns % block != 0 {
            return Err(ShapeError::Block { columns, block, dtype: self.name() });
        }
        (shape.elements() / block).checked_mul(self.block_bytes()).ok_or(ShapeError::Bytes)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_lead_back() {
        for &dtype in DType::ALL {
            let ggml = dtype.id() < PUBLISHED;
            assert_eq!(DType::from_ggml_id(dtype.id()), ggml.then_some(dtype));
            assert_eq!(DType::of_safetensors(dtype.name()).is_some(), dtype.block_elems() == 1);
            assert_eq!(DType::from_name(&dtype.name().to_lowercase()), Some(dtype));
            assert_eq!(DType::removed(dtype.id()), None);
        }
        for id in (0..200).filter(|&id| DType::from_ggml_id(id).is_none()) {
            assert_eq!(DType::removed(id).is_some(), [4, 5, 31, 32, 33, 36, 37, 38].contains(&id), "{id}");
        }
    }

    #[test]
    fn sizes_of_rows() {
        let shape = |dims: &[u64]| Shape::new(dims).unwrap();
        assert_eq!(DType::Q4_K.tensor_bytes(&shape(&[512, 3])), Ok(864));
        assert_eq!(DType::BF16.tensor_bytes(&shape(&[3, 5, 7])), Ok(210));
        assert_eq!(
            DType::Q8_0.tensor_bytes(&shape(&[48, 2])),
            Err(ShapeError::Block { columns: 48, block: 32, dtype: "Q8_0" })
        );
        assert_eq!(DType::F64.tensor_bytes(&shape(&[1 << 61])), Err(ShapeError::Bytes));
        assert_eq!(DType::I8.tensor_bytes(&shape(&[i64::MAX as u64])), Ok(i64::MAX as u64));
    }
}
