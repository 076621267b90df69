//! How the rows of a matrix lie in memory.

use membrane_kernels::{Format, Isa, Matrix, ShapeError, interleaved};

use super::stored::blocks_are_finite;
use crate::finite::is_finite;

/// How the rows of a matrix lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowLayout {
    /// One after the other.
    Plain,
    /// The same, and behind them stands the order of the columns.
    Ordered,
    /// Side by side ([`interleaved`]).
    Interleaved,
}

impl RowLayout {
    /// How those lie that are not interleaved.
    pub fn of(ordered: bool) -> Self {
        if ordered { Self::Ordered } else { Self::Plain }
    }

    /// Whether all numbers of a matrix are finite, given its bytes.
    pub fn are_finite(self, format: Format, rows: usize, cols: usize, bytes: &[u8]) -> bool {
        match self {
            Self::Plain | Self::Ordered => {
                let blocks = format.row_bytes(cols).unwrap_or(0) * rows;
                bytes.get(..blocks).is_some_and(|blocks| blocks_are_finite(format, blocks))
            }
            Self::Interleaved => {
                let mut floats = vec![0.0; cols];
                self.matrix(format, rows, cols, bytes).is_ok_and(|matrix| {
                    (0..rows).all(|row| {
                        matrix.dequantise_row(row, &mut floats);
                        is_finite(&floats)
                    })
                })
            }
        }
    }

    /// A matrix over its bytes.
    pub fn matrix(
        self,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Matrix<'_>, ShapeError> {
        match self {
            Self::Plain => Matrix::new(format, rows, cols, bytes),
            Self::Ordered => Matrix::ordered(format, rows, cols, bytes),
            Self::Interleaved => Matrix::interleaved(format, rows, cols, bytes),
        }
    }
}

/// Which matrices are interleaved: those that an instruction set then multiplies faster.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Interleaving {
    /// The instruction set; for none, no matrix is.
    pub isa: Option<Isa>,
    /// Experts as they are read. That takes about as long as multiplying one a few times, which is worth it for what stays in memory;
    /// otherwise those are interleaved later that are used time and again.
    pub experts: bool,
}

impl Interleaving {
    /// The bytes of a row, if a matrix whose rows lie one after the other in so many bytes is interleaved. One that has other bytes than
    /// its shape says is not: whoever makes a [`Matrix`] of it is told.
    pub fn row_bytes(self, format: Format, [rows, cols]: [usize; 2], bytes: u64) -> Option<usize> {
        let row = format.row_bytes(cols).filter(|&row| row > 0)?;
        let whole = row.checked_mul(rows).is_some_and(|all| all as u64 == bytes);
        (whole && self.isa.is_some_and(|isa| interleaved::is_faster(isa, format, rows))).then_some(row)
    }
}
