//! Dimensions of a tensor, checked at construction.

use crate::limits;

/// Why dimensions or a byte size were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// None, or more than a tensor may have.
    #[error("it has {found} dimensions, and 1 to {} are possible", limits::DIMS)]
    Rank {
        /// Number of dimensions found.
        found: u64,
    },
    /// A dimension of 0, or one that is negative when read as a signed number.
    #[error("dimension {index} is {}, and it must be positive", *found as i64)]
    Dimension {
        /// Which dimension, from 0.
        index: usize,
        /// Its value as stored.
        found: u64,
    },
    /// The product of the dimensions overflows.
    #[error("its dimensions multiply to more than 2^63 - 1 elements")]
    Elements,
    /// A row is not a whole number of blocks of its type.
    #[error("a row of {columns} elements is not a multiple of the {block} in a block of {dtype}")]
    Block {
        /// Elements of a row.
        columns: u64,
        /// Elements of a block.
        block: u64,
        /// Name of the type.
        dtype: &'static str,
    },
    /// The size in bytes overflows.
    #[error("it would take more than 2^64 - 1 bytes")]
    Bytes,
}

/// One to four positive dimensions whose product fits 63 bits, in ggml's order: the first is contiguous in
/// memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Dimensions from the contiguous one; 1 past `rank`.
    dims: [u64; limits::DIMS],
    rank: u8,
    elements: u64,
}

impl Shape {
    /// Checks `dims`, the contiguous one first.
    pub fn new(dims: &[u64]) -> Result<Self, ShapeError> {
        if dims.is_empty() || dims.len() > limits::DIMS {
            return Err(ShapeError::Rank { found: dims.len() as u64 });
        }
        let mut all = [1; limits::DIMS];
        let mut elements = 1u64;
        for (index, &dim) in dims.iter().enumerate() {
            if dim == 0 || dim > limits::ELEMENTS {
                return Err(ShapeError::Dimension { index, found: dim });
            }
            all[index] = dim;
            elements = elements
                .checked_mul(dim)
                .filter(|&product| product <= limits::ELEMENTS)
                .ok_or(ShapeError::Elements)?;
        }
        Ok(Self { dims: all, rank: dims.len() as u8, elements })
    }

    /// The dimensions; `dims()[0]` is the contiguous one, the columns of a matrix.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..usize::from(self.rank)]
    }

    /// Elements of a row: the first dimension.
    pub fn columns(&self) -> u64 {
        self.dims[0]
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.elements / self.dims[0]
    }

    /// Number of elements: the product of all dimensions; at most 2^63 - 1.
    pub fn elements(&self) -> u64 {
        self.elements
    }
}

impl std::fmt::Display for Shape {
    /// `[columns, rows, ...]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shape{:?}", self.dims())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rows_and_elements() {
        let shape = Shape::new(&[256, 3, 5]).unwrap();
        assert_eq!((shape.columns(), shape.rows(), shape.elements()), (256, 15, 3840));
        assert_eq!(shape.dims(), [256, 3, 5]);
        assert_eq!(Shape::new(&[7]).unwrap().rows(), 1);
        assert_eq!(shape.to_string(), "[256, 3, 5]");
    }

    #[test]
    fn refuses_bad_dimensions() {
        assert_eq!(Shape::new(&[]), Err(ShapeError::Rank { found: 0 }));
        assert_eq!(Shape::new(&[1; 5]), Err(ShapeError::Rank { found: 5 }));
        assert_eq!(Shape::new(&[4, 0]), Err(ShapeError::Dimension { index: 1, found: 0 }));
        assert_eq!(Shape::new(&[u64::MAX]), Err(ShapeError::Dimension { index: 0, found: u64::MAX }));
        assert_eq!(Shape::new(&[1 << 32, 1 << 31]), Err(ShapeError::Elements));
        assert_eq!(Shape::new(&[1 << 40; 4]), Err(ShapeError::Elements));
        assert!(Shape::new(&[limits::ELEMENTS, 1]).is_ok());
    }
}
