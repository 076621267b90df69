//! The tensors of what a layer adds for n-grams. Their table is far larger than all else that a token touches and stays on disk.

use membrane_formats::{Checkpoint, TensorInfo};
use membrane_kernels::Format;

use super::finder::{Finder, format_of};
use super::{Weight, named};
use crate::error::{EngineError, Result};
use crate::finite::is_finite;
use crate::hyper::{Hyperparameters, Ngrams};

/// What a layer adds for n-grams.
#[derive(Debug)]
pub(crate) struct NgramBlock {
    pub shape: Ngrams,
    /// Which of the layers with n-grams it is.
    pub slot: usize,
    pub table: NgramTable,
    pub key: Weight,           // [streams * hidden, rows of a token]
    pub value: Weight,         // [hidden, rows of a token]
    pub key_norm: Vec<f32>,    // [streams, hidden]
    pub query_norm: Vec<f32>,  // [streams, hidden]
    pub value_norm: Vec<f32>,  // [streams, hidden]
    pub convolution: Vec<f32>, // [kernel, streams * hidden]
}

/// Rows for hashes, on disk: one tensor, or several that follow one another.
#[derive(Debug)]
pub(crate) struct NgramTable {
    format: Format,
    /// What all numbers are multiplied by.
    factor: f32,
    row_bytes: u64,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    /// Index of the tensor in the checkpoint.
    tensor: usize,
    /// The table's row that is its first.
    first: u64,
    rows: u64,
}

impl NgramTable {
    /// Bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.rows * self.row_bytes).sum()
    }

    /// Reads a row [head_dim]. `bytes` is memory for it as it is stored. Errors: the file can't be read,
    /// or the row has a number that is not finite.
    pub fn read(
        &self,
        checkpoint: &Checkpoint,
        row: u64,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<()> {
        let part = &self.parts[self.parts.partition_point(|part| part.first <= row) - 1];
        bytes.resize(self.row_bytes as usize, 0);
        let tensor = &checkpoint.tensors()[part.tensor];
        checkpoint.read(tensor, (row - part.first) * self.row_bytes, bytes)?;
        membrane_kernels::quant::dequantise_row(self.format, bytes, out);
        if self.factor != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.factor);
        }
        if !is_finite(out) {
            return Err(EngineError::not_finite(checkpoint, Some(tensor.file), named(&tensor.name)));
        }
        Ok(())
    }
}

impl Finder<'_> {
    /// What a layer adds for n-grams, if it does.
    pub(super) fn ngrams(
        &mut self,
        hyper: &Hyperparameters,
        index: usize,
    ) -> Result<Option<Box<NgramBlock>>> {
        let found = hyper.ngrams.iter().enumerate().find(|(_, ngrams)| ngrams.layer == index);
        let Some((slot, shape)) = found else { return Ok(None) };
        // What is hashed by was read with the numbers of the model; here it is looked up, so that it counts as used.
        for part in ["ple_layer_multipliers", "ple_head_offsets", "ple_head_vocab_sizes"] {
            let name = format!("blk.{index}.{part}");
            if self.checkpoint.holds(&name) {
                self.index(&name)?;
            }
        }
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (width, rows) = (hyper.stream_width(), shape.width());
        Ok(Some(Box::new(NgramBlock {
            shape: shape.clone(),
            slot,
            table: self.ngram_table(index, shape)?,
            key: self.weight(&name("ple_key"), width, rows)?,
            value: self.weight(&name("ple_value"), hyper.hidden, rows)?,
            key_norm: self.vector(&name("ple_norm_key"), width)?,
            query_norm: self.vector(&name("ple_norm_query"), width)?,
            value_norm: self.vector(&name("ple_norm_conv"), width)?,
            convolution: self.taps(&name("ple_conv1d"), shape.kernel, width)?,
        })))
    }

    /// GGUF files have one table, for one layer. Folders have one for each layer, whole or in parts.
    fn ngram_table(&self, index: usize, shape: &Ngrams) -> Result<NgramTable> {
        let whole = format!("blk.{index}.ple_table.weight");
        let names = if self.checkpoint.published_name(&whole).is_none() {
            vec!["per_layer_token_embd.weight".to_owned()]
        } else if self.checkpoint.holds(&whole) {
            vec![whole]
        } else {
            (0..shape.table_parts).map(|part| format!("blk.{index}.ple_table.{part}.weight")).collect()
        };
        let mut table = NgramTable { format: Format::F32, factor: 1.0, row_bytes: 0, parts: Vec::new() };
        let mut rows = 0;
        for name in &names {
            let tensor = self.checkpoint.require(name)?;
            let part = self.table_part(name, tensor, shape, rows)?;
            let (format, factor) = (format_of(tensor)?, self.factor(name)?);
            if rows > 0 && (format, factor) != (table.format, table.factor) {
                return Err(EngineError::TensorType {
                    tensor: tensor.name.clone(),
                    found: tensor.dtype.name().into(),
                    supported: format!("the {} of the table's first part", table.format.name()),
                });
            }
            (table.format, table.factor, table.row_bytes) = (format, factor, tensor.bytes / part.rows);
            rows += part.rows;
            table.parts.push(part);
        }
        if rows < shape.table_rows() {
            let tensor = self.checkpoint.require(&names[0])?;
            return Err(EngineError::TensorShape {
                tensor: tensor.name.clone(),
                found: vec![shape.head_dim as u64, rows],
                wanted: vec![shape.head_dim as u64, shape.table_rows()],
            });
        }
        Ok(table)
    }

    /// A tensor [any number of rows, head_dim] that holds the table's rows from `first` on.
    fn table_part(&self, name: &str, tensor: &TensorInfo, shape: &Ngrams, first: u64) -> Result<Part> {
        let dims = tensor.shape.dims();
        let rows = dims.get(1).copied().unwrap_or(1);
        if dims.len() > 2 || dims.first() != Some(&(shape.head_dim as u64)) || rows == 0 {
            return Err(EngineError::TensorShape {
                tensor: tensor.name.clone(),
                found: dims.to_vec(),
                wanted: vec![shape.head_dim as u64, shape.table_rows()],
            });
        }
        Ok(Part { tensor: self.index(name)?, first, rows })
    }
}
