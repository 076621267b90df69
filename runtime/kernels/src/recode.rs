//! Quantised matrices of published checkpoints, made rows of blocks while they are read.
//!
//! Such a matrix lies in several tensors: numbers, scales, zero points, and which input has which. Kernels know one shape of
//! work, rows of blocks with their scales in them. A [`Recoding`] makes the one of the others, and loses nothing: every
//! element stands for the same number before and after. (One exception: bfloat16 scales of integers below 2^-17.)
//!
//! ```text
//! FP8, MXFP8                32 floats of 8 bits behind an f32            Format::E4M3
//! NVFP4                     the blocks of GGUF; a factor stays outside   Format::NVFP4
//! the same in narrow rows   element * scale has few bits                 Format::BF16
//! MXFP4                     the blocks of GGUF                           Format::MXFP4
//! plain floats              themselves, in another order                 as they are
//! 4-bit integers, zero 8    scale * (q - 8)                              Format::Q4_0
//! 4-bit integers            scale * (q - zero), q - zero in -16..16      Format::Q5_0
//! integers of 2 and 3 bits  scale * (q - zero), q - zero in -8..8        Format::Q4_0
//! 2-bit integers, zero 2    -scale * (2 - q), groups of 64n columns      Format::Q2_0
//! 8-bit integers, zero 128  scale * (q - 128)                            Format::Q8_0
//! signed 8-bit integers     scale * q                                    Format::Q8_0
//! the same, groups of any   the same blocks, columns of a group side by side; behind
//! columns (act-order)       the rows the order of the columns, u32 for each
//! the same, groups that
//! are not whole blocks      f32, since a block has one scale             Format::F32
//! ```
//!
//! A matrix may also be a part of a stored one, or stand there in another order: see [`View`]. Blocks that such a matrix has not as they
//! are become f32.

mod bytes;
mod few_bits;
mod integers;
mod packed;
mod parts;
mod scales;
mod view;
mod words;

use crate::format::Format;
use crate::quant::{FLOAT4_VALUES, FLOAT8_VALUES, dequantise_row};
use integers::{Groups, Layout};
pub use parts::Parts;
pub use scales::{FloatFormat, ScaleFormat};
pub use view::View;
use words::{spread, word};

/// A shape or content that can't be recoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecodeError {
    /// The shape does not go with the way of storing.
    #[error("{rows} x {cols} can't be stored so: {rule}")]
    Shape {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// What they must be.
        rule: &'static str,
    },
    /// The numbers of the parts contradict what was said of them.
    #[error("{0}; the file is damaged or hostile: fetch it again")]
    Content(&'static str),
}

/// How one matrix is recoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recoding {
    parts: Parts,
    rows: usize,
    cols: usize,
    format: Format,
    /// None if it is the stored matrix.
    view: Option<View>,
    /// The order of the columns stands behind the rows.
    ordered: bool,
}

impl Recoding {
    /// The recoding of a matrix. Errors: [`RecodeError::Shape`].
    pub fn new(parts: Parts, rows: usize, cols: usize) -> Result<Self, RecodeError> {
        Self::of(parts, None, rows, cols)
    }

    /// The recoding of a matrix that consists of elements of a stored one. Errors: [`RecodeError::Shape`].
    pub fn of_view(parts: Parts, view: View, rows: usize, cols: usize) -> Result<Self, RecodeError> {
        Self::of(parts, Some(view), rows, cols)
    }

    fn of(parts: Parts, view: Option<View>, rows: usize, cols: usize) -> Result<Self, RecodeError> {
        let rule = |holds: bool, rule| match holds {
            true => Ok(()),
            false => Err(RecodeError::Shape { rows, cols, rule }),
        };
        let grouped = |groups: usize| groups > 0 && cols.is_multiple_of(groups);
        let in_blocks = |groups: usize| {
            rule(grouped(groups), "the columns must be whole groups")?;
            let whole = (cols / groups).is_multiple_of(32);
            rule(whole, "groups of such integers must be of 32 columns, or a multiple")
        };
        rule(rows > 0 && cols > 0 && rows.checked_mul(cols).is_some(), "there are no elements, or too many")?;
        if let Some(view) = &view {
            rule(view.fits(rows, cols), "the stored matrix does not have all of its elements")?;
        }
        let halves = parts.integer_scales().is_none_or(|scales| scales.bytes() == 2);
        rule(halves, "scales are of 16 bits")?;
        let mut ordered = false;
        let whole_rows = view.as_ref().is_none_or(|view| view.has_whole_rows(cols));
        let format = match parts {
            Parts::Floats(format) => format.as_rows(),
            Parts::Blocks(format) if whole_rows => format,
            Parts::Mxfp4 if whole_rows => {
                rule(cols.is_multiple_of(32), "32 columns share a scale")?;
                Format::MXFP4
            }
            Parts::Fp8 { block, .. } if view.is_some() => {
                rule(block[0] > 0 && block[1] > 0, "a block has no elements")?;
                let aligned = view.as_ref().is_some_and(|view| view.keeps_blocks(block, cols));
                if aligned { Format::E4M3 } else { Format::F32 }
            }
            _ if view.is_some() && !(whole_rows && matches!(parts, Parts::Nvfp4 { .. })) => {
                let [rows, cols] = view.map_or([0; 2], |view| view.stored);
                Self::new(parts, rows, cols)?;
                Format::F32
            }
            Parts::Blocks(format) => format,
            Parts::Mxfp4 => Format::MXFP4,
            Parts::Fp8 { block: [block_rows, block_cols], .. } => {
                rule(block_rows > 0 && block_cols > 0, "a block has no elements")?;
                let whole = block_cols.is_multiple_of(32) || block_cols >= cols;
                if whole && cols.is_multiple_of(32) { Format::E4M3 } else { Format::F32 }
            }
            Parts::Nvfp4 { group } => {
                rule(group > 0 && group.is_multiple_of(16), "scales are for 16 columns, or a multiple")?;
                rule(cols.is_multiple_of(group), "the columns must be whole groups")?;
                if cols.is_multiple_of(64) { Format::NVFP4 } else { Format::BF16 }
            }
            Parts::Gptq { groups, any_order, symmetric, .. } => {
                rule(rows.is_multiple_of(8) && cols.is_multiple_of(8), "rows and columns come in eights")?;
                rule(any_order || grouped(groups), "the columns must be whole groups")?;
                let whole_blocks = grouped(groups) && (cols / groups).is_multiple_of(32);
                ordered = any_order && whole_blocks;
                integers::format(!whole_blocks, symmetric)
            }
            Parts::GptqFewBits { bits, symmetric, groups, any_order, .. } => {
                rule(matches!(bits, 2 | 3), "few bits are 2 or 3")?;
                rule(rows.is_multiple_of(32), "rows come in 32, of 2 and 3 bits")?;
                in_blocks(groups)?;
                ordered = any_order;
                few_bits::Layout::format(bits, symmetric, cols / groups, !any_order)
            }
            Parts::Gptq8 { groups, any_order, .. } => {
                rule(rows.is_multiple_of(4), "rows come in fours")?;
                in_blocks(groups)?;
                ordered = any_order;
                Format::Q8_0
            }
            Parts::PackQuantized { groups, indices, .. } | Parts::Int8 { groups, indices, .. } => {
                ordered = indices;
                in_blocks(groups)?;
                match parts {
                    Parts::PackQuantized { zeros, .. } => {
                        rule(!zeros || rows.is_multiple_of(8), "rows with zero points come in eights")?;
                        integers::format(false, !zeros)
                    }
                    _ => Format::Q8_0,
                }
            }
            Parts::Awq { groups, .. } => {
                rule(rows.is_multiple_of(8), "rows come in eights")?;
                rule(grouped(groups), "the columns must be whole groups")?;
                integers::format(!(cols / groups.max(1)).is_multiple_of(32), false)
            }
        };
        rule(format.row_bytes(cols).is_some(), "a row is not whole blocks of the format that it becomes")?;
        let bytes = format.row_bytes(cols).and_then(|row| row.checked_mul(rows)?.checked_add(4 * cols));
        rule(bytes.is_some(), "it is larger than the address space")?;
        Ok(Self { parts, rows, cols, format, view, ordered })
    }

    /// The format of the result.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether the order of the columns stands behind the rows, as [`Matrix::ordered`](crate::Matrix::ordered) takes it.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Bytes of the result: all rows, and the order of the columns if it has one.
    pub fn bytes(&self) -> usize {
        self.rows_bytes() + if self.ordered { size_of::<u32>() * self.cols } else { 0 }
    }

    /// Bytes of all rows.
    pub fn rows_bytes(&self) -> usize {
        // The product was computed before.
        self.format.row_bytes(self.cols).unwrap_or(0) * self.rows
    }

    /// The recoding of the stored matrix, where that has to be floats before elements of it can be taken.
    fn unpacked(&self) -> Option<Self> {
        let View { stored: [rows, cols], .. } = self.view?;
        let one_by_one = matches!(self.parts, Parts::Floats(_) | Parts::Fp8 { .. });
        let whole = || Self::new(self.parts, rows, cols).ok();
        if one_by_one || self.format != Format::F32 { None } else { whole() }
    }

    /// Bytes that are used beside the parts and the result.
    pub fn working_bytes(&self) -> usize {
        self.unpacked().map_or(0, |whole| whole.bytes() + size_of::<f32>() * whole.rows * whole.cols)
    }

    /// The elements as f32, row by row, columns in the order of the input.
    fn floats(&self, parts: &[&[u8]]) -> Result<Vec<[u8; 4]>, RecodeError> {
        let mut blocks = vec![0; self.bytes()];
        self.run(parts, &mut blocks)?;
        let (rows, order) = blocks.split_at(self.rows_bytes());
        let (mut floats, mut row) = (vec![[0; 4]; self.rows * self.cols], vec![0.0; self.cols]);
        let order = order.as_chunks().0;
        for (bytes, floats) in
            rows.chunks_exact(rows.len() / self.rows).zip(floats.chunks_exact_mut(self.cols))
        {
            dequantise_row(self.format, bytes, &mut row);
            for (index, x) in row.iter().enumerate() {
                floats[order.get(index).map_or(index, |place| u32::from_le_bytes(*place) as usize)] =
                    x.to_le_bytes();
            }
        }
        Ok(floats)
    }

    /// What people call the parts.
    pub fn kind(&self) -> &'static str {
        match self.parts {
            Parts::Floats(_) => "floats",
            Parts::Blocks(_) => "rows of blocks",
            Parts::Mxfp4 => "MXFP4",
            Parts::Fp8 { .. } => "FP8",
            Parts::Nvfp4 { .. } => "NVFP4",
            Parts::Gptq { .. } => "GPTQ",
            Parts::GptqFewBits { .. } => "GPTQ in few bits",
            Parts::Gptq8 { .. } => "GPTQ in 8 bits",
            Parts::PackQuantized { .. } => "packed integers of 4 bits",
            Parts::Int8 { .. } => "integers of 8 bits",
            Parts::Awq { .. } => "AWQ",
        }
    }

    /// Rows and columns of the stored matrix.
    fn stored(&self) -> [usize; 2] {
        self.view.map_or([self.rows, self.cols], |view| view.stored)
    }

    /// Bytes of each part.
    pub fn part_bytes(&self) -> Vec<usize> {
        let [rows, cols] = self.stored();
        let mut bytes = match self.parts {
            Parts::Floats(format) => vec![rows * cols * format.bytes()],
            Parts::Blocks(format) => vec![rows * format.row_bytes(cols).unwrap_or(0)],
            Parts::Mxfp4 => vec![rows * (cols / 2), rows * (cols / 32)],
            Parts::Fp8 { scales, block } => {
                vec![rows * cols, scales.bytes() * rows.div_ceil(block[0]) * cols.div_ceil(block[1])]
            }
            Parts::Nvfp4 { group } => vec![rows * (cols / 2), rows * (cols / group)],
            Parts::Gptq { groups, .. } => vec![rows * (cols / 2), groups * (rows / 2), groups * rows * 2],
            Parts::GptqFewBits { bits, groups, .. } => {
                vec![rows * (cols * bits / 8), groups * (rows * bits / 8), groups * rows * 2]
            }
            Parts::Gptq8 { groups, .. } => vec![rows * cols, groups * rows, groups * rows * 2],
            Parts::PackQuantized { groups, zeros, .. } => {
                let mut bytes = vec![rows * (cols / 2), groups * rows * 2];
                bytes.extend(zeros.then_some(groups * (rows / 2)));
                bytes
            }
            Parts::Int8 { groups, .. } => vec![rows * cols, groups * rows * 2],
            Parts::Awq { groups, .. } => vec![cols * (rows / 2), groups * (rows / 2), groups * rows * 2],
        };
        bytes.extend(self.has_indices().then_some(4 * cols));
        bytes
    }

    /// Whether the last part is the group of each column.
    fn has_indices(&self) -> bool {
        match self.parts {
            Parts::Gptq { indices, .. }
            | Parts::GptqFewBits { indices, .. }
            | Parts::Gptq8 { indices, .. }
            | Parts::PackQuantized { indices, .. }
            | Parts::Int8 { indices, .. } => indices,
            Parts::Floats(_)
            | Parts::Blocks(_)
            | Parts::Mxfp4
            | Parts::Fp8 { .. }
            | Parts::Nvfp4 { .. }
            | Parts::Awq { .. } => false,
        }
    }

    /// Writes the rows of blocks to `out`.
    ///
    /// # Errors
    /// [`RecodeError::Content`].
    ///
    /// # Panics
    /// If a part or `out` has another length than was said.
    pub fn run(&self, parts: &[&[u8]], out: &mut [u8]) -> Result<(), RecodeError> {
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, self.part_bytes(), "recode: lengths of parts");
        assert_eq!(out.len(), self.bytes(), "recode: length of the result");
        let view = self.view.unwrap_or(View::whole(self.rows, self.cols));
        if let Some(whole) = self.unpacked() {
            view.copy(&whole.floats(parts)?, self.cols, out.as_chunks_mut().0);
            return Ok(());
        }
        match self.parts {
            Parts::Floats(format) if format.bytes() == 4 => {
                view.copy(parts[0].as_chunks::<4>().0, self.cols, out.as_chunks_mut::<4>().0);
                Ok(())
            }
            Parts::Floats(_) => {
                view.copy(parts[0].as_chunks::<2>().0, self.cols, out.as_chunks_mut::<2>().0);
                Ok(())
            }
            Parts::Blocks(_) => {
                let row_bytes = out.len() / self.rows;
                for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                    let first = view.place(row, 0) / self.cols * row_bytes;
                    out.copy_from_slice(&parts[0][first..first + row_bytes]);
                }
                Ok(())
            }
            Parts::Mxfp4 => self.mxfp4(&view, parts[0], parts[1], out),
            Parts::Fp8 { scales, block } if self.view.is_some() => {
                self.fp8_view(&view, parts[0], |index| scales.at(parts[1], index), block, out);
                Ok(())
            }
            Parts::Fp8 { scales, block } => {
                self.fp8(parts[0], |index| scales.at(parts[1], index), block, out);
                Ok(())
            }
            Parts::Nvfp4 { group } => {
                let row_bytes = out.len() / self.rows;
                for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                    let first = view.place(row, 0);
                    let nibbles = &parts[0][first / 2..][..self.cols / 2];
                    self.nvfp4(nibbles, &parts[1][first / group..][..self.cols / group], group, out)?;
                }
                Ok(())
            }
            Parts::Gptq { scales, zero_offset, symmetric, groups, indices, any_order } => {
                let scales = packed::halves(scales, parts[2])?;
                let layout = Layout::gptq(self.rows, self.cols, zero_offset);
                let groups = Groups { cols: self.cols, count: groups };
                let order = groups.order(indices.then(|| parts[3]), any_order)?;
                if symmetric {
                    layout.check_symmetric(parts[1])?;
                }
                let (out, columns) = self.columns(groups, &order, out)?;
                layout.recode(self.format, [parts[0], parts[1], &scales], &order, columns.as_deref(), out);
                Ok(())
            }
            Parts::GptqFewBits { scales, bits, zero_offset, symmetric, groups, indices, any_order } => {
                let scales = packed::halves(scales, parts[2])?;
                let layout = few_bits::Layout { rows: self.rows, bits, zero_offset };
                if symmetric {
                    layout.check_symmetric(parts[1], groups)?;
                }
                let groups = Groups { cols: self.cols, count: groups };
                let order = groups.order(indices.then(|| parts[3]), any_order)?;
                let (out, columns) = self.columns(groups, &order, out)?;
                layout.recode(self.format, [parts[0], parts[1], &scales], &order, columns.as_deref(), out);
                Ok(())
            }
            Parts::Gptq8 { scales, zero_offset, groups, indices, any_order } => {
                let scales = packed::halves(scales, parts[2])?;
                let groups = Groups { cols: self.cols, count: groups };
                let order = groups.order(indices.then(|| parts[3]), any_order)?;
                bytes::check_symmetric(parts[1], zero_offset)?;
                let (out, columns) = self.columns(groups, &order, out)?;
                bytes::recode([self.rows, self.cols], [parts[0], &scales], &order, columns.as_deref(), out);
                Ok(())
            }
            Parts::PackQuantized { scales, groups, zeros, .. } => {
                let (out, columns) = self.columns_of(groups, parts, out)?;
                let rows = self.packed_rows(groups, scales, parts, columns.as_deref());
                rows.recode(self.format, zeros.then(|| parts[2]), out)
            }
            Parts::Int8 { scales, groups, around_middle, .. } => {
                let (out, columns) = self.columns_of(groups, parts, out)?;
                self.packed_rows(groups, scales, parts, columns.as_deref()).recode_bytes(around_middle, out)
            }
            Parts::Awq { scales, groups } => {
                let scales = packed::halves(scales, parts[2])?;
                let order = Groups { cols: self.cols, count: groups }.order(None, false)?;
                let layout = Layout::awq(self.rows, self.cols);
                layout.recode(self.format, [parts[0], parts[1], &scales], &order, None, out);
                Ok(())
            }
        }
    }

    fn packed_rows<'a>(
        &self,
        groups: usize,
        scale_format: FloatFormat,
        parts: &[&'a [u8]],
        columns: Option<&'a [u32]>,
    ) -> packed::Rows<'a> {
        packed::Rows { cols: self.cols, groups, integers: parts[0], scales: parts[1], scale_format, columns }
    }

    /// As [`Recoding::columns`], where indices that are all -1 say that nobody set them.
    fn columns_of<'o>(
        &self,
        groups: usize,
        parts: &[&[u8]],
        out: &'o mut [u8],
    ) -> Result<(&'o mut [u8], Option<Vec<u32>>), RecodeError> {
        let groups = Groups { cols: self.cols, count: groups };
        let indices = parts.last().filter(|part| self.has_indices() && part.iter().any(|&byte| byte != 0xFF));
        self.columns(groups, &groups.order(indices.copied(), true)?, out)
    }

    /// The rows of the result and, if columns have an order of their own, that order, which is written behind them.
    fn columns<'o>(
        &self,
        groups: Groups,
        order: &[usize],
        out: &'o mut [u8],
    ) -> Result<(&'o mut [u8], Option<Vec<u32>>), RecodeError> {
        let (rows, places) = out.split_at_mut(self.rows_bytes());
        if !self.ordered {
            return Ok((rows, None));
        }
        let columns = groups.side_by_side(order)?;
        places
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(&columns)
            .for_each(|(place, column)| *place = column.to_le_bytes());
        Ok((rows, Some(columns)))
    }

    fn fp8(&self, bytes: &[u8], scale: impl Fn(usize) -> f32, block: [usize; 2], out: &mut [u8]) {
        let scales_in_row = self.cols.div_ceil(block[1]);
        if self.format == Format::F32 {
            for (index, (byte, out)) in bytes.iter().zip(out.as_chunks_mut::<4>().0).enumerate() {
                let (row, col) = (index / self.cols, index % self.cols);
                let scale = scale(row / block[0] * scales_in_row + col / block[1]);
                *out = (scale * FLOAT8_VALUES[usize::from(*byte)]).to_le_bytes();
            }
            return;
        }
        let elems = self.format.block_elems();
        let rows = bytes.chunks_exact(self.cols).zip(out.chunks_exact_mut(self.bytes() / self.rows));
        for (row, (bytes, out)) in rows.enumerate() {
            let first = row / block[0] * scales_in_row;
            let blocks = bytes.chunks_exact(elems).zip(out.chunks_exact_mut(self.format.block_bytes()));
            for (index, (bytes, out)) in blocks.enumerate() {
                let (head, body) = out.split_at_mut(size_of::<f32>());
                // What is no number stands in the scale, where kernels see it: the product of the row is none either way.
                let number = !bytes.iter().fold(false, |none, byte| none | (byte & 0x7F == 0x7F));
                let scale = if number { scale(first + index * elems / block[1]) } else { f32::NAN };
                head.copy_from_slice(&scale.to_le_bytes());
                body.copy_from_slice(bytes);
            }
        }
    }

    fn fp8_view(
        &self,
        view: &View,
        bytes: &[u8],
        scale: impl Fn(usize) -> f32,
        block: [usize; 2],
        out: &mut [u8],
    ) {
        let [_, stored_cols] = view.stored;
        let scales_in_row = stored_cols.div_ceil(block[1]);
        let scale_of = |place: usize| {
            scale(place / stored_cols / block[0] * scales_in_row + place % stored_cols / block[1])
        };
        let (elems, block_bytes) = (self.format.block_elems(), self.format.block_bytes());
        for (index, out) in out.chunks_exact_mut(block_bytes).enumerate() {
            let (row, first) = (index * elems / self.cols, index * elems % self.cols);
            let place = view.place(row, first);
            if self.format == Format::F32 {
                let float = scale_of(place) * FLOAT8_VALUES[usize::from(bytes[place])];
                out.copy_from_slice(&float.to_le_bytes());
                continue;
            }
            let (head, body) = out.split_at_mut(size_of::<f32>());
            for (col, out) in body.iter_mut().enumerate() {
                *out = bytes[view.place(row, first + col)];
            }
            let number = body.iter().all(|byte| byte & 0x7F != 0x7F);
            head.copy_from_slice(&if number { scale_of(place) } else { f32::NAN }.to_le_bytes());
        }
    }

    /// In GGUF's blocks the low nibbles are elements 0..16 and the high ones 16..32, behind the scale.
    fn mxfp4(&self, view: &View, nibbles: &[u8], scales: &[u8], out: &mut [u8]) -> Result<(), RecodeError> {
        const NOT_A_NUMBER: u8 = 0xFF;
        let blocks_in_row = self.cols / 32;
        for (index, out) in out.as_chunks_mut::<17>().0.iter_mut().enumerate() {
            let place = view.place(index / blocks_in_row, index % blocks_in_row * 32);
            let scale = scales[place / 32];
            if scale == NOT_A_NUMBER {
                return Err(RecodeError::Content("a scale of a block is no number"));
            }
            out[0] = scale;
            let word = |at: usize| word(nibbles, place / 8 + at);
            let (low, high) = ([spread(word(0)), spread(word(1))], [spread(word(2)), spread(word(3))]);
            for half in 0..2 {
                out[1 + 8 * half..9 + 8 * half].copy_from_slice(&(low[half] | high[half] << 4).to_le_bytes());
            }
        }
        Ok(())
    }

    /// A row.
    fn nvfp4(&self, nibbles: &[u8], scales: &[u8], group: usize, out: &mut [u8]) -> Result<(), RecodeError> {
        const LARGEST: u8 = 0x7E;
        if scales.iter().any(|&scale| scale > LARGEST) {
            return Err(RecodeError::Content("a scale of a block is negative or no number"));
        }
        if self.format == Format::BF16 {
            for (index, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let code = nibbles[index / 2] >> (index % 2 * 4) & 15;
                // The table has twice the element.
                let element = f32::from(FLOAT4_VALUES[usize::from(code)]) / 2.0;
                let scale = FLOAT8_VALUES[usize::from(scales[index / group])];
                *out = half::bf16::from_f32(element * scale).to_le_bytes();
            }
            return Ok(());
        }
        let blocks = out.chunks_exact_mut(self.format.block_bytes()).zip(nibbles.chunks_exact(32));
        for (block, (out, nibbles)) in blocks.enumerate() {
            let (head, body) = out.split_at_mut(4);
            match group {
                16 => head.copy_from_slice(&scales[4 * block..][..4]),
                _ => {
                    for (quarter, scale) in head.iter_mut().enumerate() {
                        *scale = scales[(64 * block + 16 * quarter) / group];
                    }
                }
            }
            for (out, sixteen) in body.as_chunks_mut::<8>().0.iter_mut().zip(nibbles.as_chunks::<8>().0) {
                let sixteen = u64::from_le_bytes(*sixteen);
                let (low, high) = (spread(sixteen as u32), spread((sixteen >> 32) as u32));
                *out = (low | high << 4).to_le_bytes();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
