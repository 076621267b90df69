//! Matrices as they are stored: one tensor whose bytes are rows of blocks already, or several that are recoded when they are
//! read.

use std::ops::Range;
use std::path::PathBuf;

use membrane_formats::{Checkpoint, DType, FormatError, Quantised, Scheme, TensorInfo, keys};
use membrane_kernels::quant::dequantise_row;
use membrane_kernels::recode::{FloatFormat, Parts, ScaleFormat, View};
use membrane_kernels::{Format, RecodeError, Recoding, interleaved};
use membrane_pager::{ByteRange, ExpertKey, Recode};

use super::RowLayout;
use super::factors::factors;
use super::finder::{Finder, format_of};
use crate::error::{EngineError, Result, shown};
use crate::finite::is_finite;

/// A matrix on disk, and what it becomes in memory.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Name of the first part.
    pub name: String,
    pub format: Format,
    /// Where the parts lie.
    pub parts: Vec<ByteRange>,
    /// Bytes in memory.
    pub bytes: u64,
    /// None if memory holds the one part as it is.
    pub recoding: Option<Recoding>,
    /// What all of it is multiplied by.
    pub factor: f32,
}

fn range(tensor: &TensorInfo) -> ByteRange {
    ByteRange { file: tensor.file, offset: tensor.offset, bytes: tensor.bytes }
}

impl Stored {
    /// The matrix [rows, cols] of this name. Errors: it is absent, or of another shape or type than can be computed with.
    pub fn find(finder: &Finder<'_>, name: &str, rows: usize, cols: usize) -> Result<Self> {
        if let Some(quantised) = finder.quantised(name)? {
            return Self::quantised(finder.checkpoint, &quantised, rows, cols);
        }
        Self::stacked(finder, name, 1, rows, cols)
    }

    /// `count` matrices [rows, cols] in one tensor of rows of blocks. Errors: as for [`Stored::find`].
    pub fn stacked(finder: &Finder<'_>, name: &str, count: usize, rows: usize, cols: usize) -> Result<Self> {
        let (_, tensor) = finder.tensor(name, &[cols, rows, count])?;
        Ok(Self {
            name: tensor.name.clone(),
            format: format_of(tensor)?,
            parts: vec![range(tensor)],
            bytes: tensor.bytes,
            recoding: None,
            factor: finder.factor(name)?,
        })
    }

    /// A matrix [rows, cols] of elements of the one of this name. Errors: as for [`Stored::find`], and where it is stored in a
    /// way that can't be taken apart.
    pub fn view(finder: &Finder<'_>, name: &str, view: View, rows: usize, cols: usize) -> Result<Self> {
        let stored = view.stored;
        let (parts, factor, described) = match finder.quantised(name)? {
            Some(quantised) => described(finder.checkpoint, &quantised, stored)?,
            None => {
                let (_, tensor) = finder.tensor(name, &[stored[1], stored[0]])?;
                let parts = match format_of(tensor)? {
                    format if format.is_float() => Parts::Floats(float_format(tensor)?),
                    format => Parts::Blocks(format),
                };
                (vec![tensor], 1.0, parts)
            }
        };
        let recoding = Recoding::of_view(described, view, rows, cols);
        Self::recoded(parts, factor, recoding, stored)
    }

    fn quantised(checkpoint: &Checkpoint, found: &Quantised<'_>, rows: usize, cols: usize) -> Result<Self> {
        let (parts, factor, described) = described(checkpoint, found, [rows, cols])?;
        Self::recoded(parts, factor, Recoding::new(described, rows, cols), [rows, cols])
    }

    /// What is recoded so. `matrix`: rows and columns that are stored.
    fn recoded(
        parts: Vec<&TensorInfo>,
        factor: f32,
        recoding: std::result::Result<Recoding, RecodeError>,
        matrix: [usize; 2],
    ) -> Result<Self> {
        let name = parts[0].name.clone();
        let recoding = recoding.map_err(|source| EngineError::Recode { tensor: name.clone(), source })?;
        for (tensor, wanted) in parts.iter().zip(recoding.part_bytes()) {
            if tensor.bytes != wanted as u64 {
                return Err(EngineError::PartShape {
                    tensor: tensor.name.clone(),
                    found: tensor.shape.dims().iter().rev().copied().collect(),
                    dtype: tensor.dtype.name(),
                    matrix,
                });
            }
        }
        Ok(Self {
            name,
            format: recoding.format(),
            parts: parts.iter().map(|tensor| range(tensor)).collect(),
            bytes: recoding.bytes() as u64,
            recoding: Some(recoding),
            factor,
        })
    }

    /// How its rows lie in memory if they are not interleaved.
    pub fn row_layout(&self) -> RowLayout {
        RowLayout::of(self.recoding.is_some_and(|recoding| recoding.is_ordered()))
    }

    /// Bytes of its parts while they are recoded, and of what is made of them meanwhile.
    pub fn loading_bytes(&self) -> u64 {
        self.recoding.map_or(0, |recoding| self.parts_bytes() + recoding.working_bytes() as u64)
    }

    fn parts_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The file and the offset of its bytes, if they stand there as they are in memory.
    pub fn plain(&self) -> Option<(usize, u64)> {
        let part = self.parts.first().filter(|_| self.recoding.is_none())?;
        Some((part.file, part.offset))
    }

    /// Reads it into memory. `read` is memory for parts that are recoded.
    pub fn load(&self, checkpoint: &Checkpoint, read: &mut Vec<u8>, into: &mut [u8]) -> Result<()> {
        let Some(recoding) = &self.recoding else {
            return Ok(checkpoint.read_range(self.parts[0].file, self.parts[0].offset, into)?);
        };
        read.resize(self.parts_bytes() as usize, 0);
        let mut rest = &mut read[..];
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let (own, after) = rest.split_at_mut(part.bytes as usize);
            checkpoint.read_range(part.file, part.offset, own)?;
            parts.push(own);
            rest = after;
        }
        let refused = |source| {
            let error = EngineError::Recode { tensor: self.name.clone(), source };
            error.of_file(
                checkpoint.files().get(self.parts[0].file).map_or(checkpoint.path(), |file| &file.path),
            )
        };
        recoding.run(&parts, into).map_err(refused)
    }

    /// How it is stored, for messages: the types of its parts, or what it becomes.
    pub fn form(&self) -> String {
        match self.recoding {
            Some(recoding) => format!("{} made {}", recoding.kind(), self.format),
            None => self.format.to_string(),
        }
    }

    /// Whether it becomes the same in the same way, which it must for all experts of a layer.
    pub fn same_form(&self, other: &Self) -> bool {
        self.format == other.format && self.recoding == other.recoding
    }
}

/// Whether all numbers of some blocks are finite.
pub(super) fn blocks_are_finite(format: Format, bytes: &[u8]) -> bool {
    /// Blocks that are made floats at a time.
    const BLOCKS: usize = 64;
    let mut floats = vec![0.0; BLOCKS * format.block_elems()];
    bytes.chunks(BLOCKS * format.block_bytes()).all(|bytes| {
        let floats = &mut floats[..bytes.len() / format.block_bytes() * format.block_elems()];
        dequantise_row(format, bytes, floats);
        is_finite(floats)
    })
}

/// The parts of a quantised matrix that are recoded, what all of it is multiplied by, and what the parts are.
fn described<'a>(
    checkpoint: &Checkpoint,
    found: &Quantised<'a>,
    [rows, cols]: [usize; 2],
) -> Result<(Vec<&'a TensorInfo>, f32, Parts)> {
    let mut parts = found.parts.clone();
    let wanted = |part: usize, shape: &[usize]| has_shape(parts[part], shape, [rows, cols]);
    match found.scheme {
        Scheme::Fp8 => wanted(0, &[rows, cols])?,
        Scheme::Nvfp4 { .. } => {
            wanted(0, &[rows, cols / 2])?;
            wanted(1, &[rows, cols / nvfp4_group(parts[1], [rows, cols])])?;
        }
        // What differs between these two is where a word's nibbles go; taken for the other, all numbers would be wrong.
        Scheme::Gptq => wanted(0, &[cols * gptq_bits(&parts, cols) / 32, rows])?,
        Scheme::Awq => wanted(0, &[cols, rows / 8])?,
        Scheme::PackQuantized => {
            let groups = parts[1].shape.elements() as usize / rows.max(1);
            wanted(0, &[rows, cols / if is_of_bytes(&parts, cols) { 4 } else { 8 }])?;
            wanted(1, &[rows, groups])?;
            if let Some(zeros) = companion(&parts, ZERO_POINT) {
                has_shape(zeros, &[rows / 8, groups], [rows, cols])?;
            }
        }
        Scheme::IntQuantized => {
            wanted(0, &[rows, cols])?;
            wanted(1, &[rows, parts[1].shape.elements() as usize / rows.max(1)])?;
        }
        Scheme::Mxfp4 => {
            wanted(0, &[rows, cols / 2])?;
            wanted(1, &[rows, cols / 32])?;
        }
    }
    if matches!(found.scheme, Scheme::Gptq | Scheme::Awq) {
        let groups = parts[2].shape.elements() as usize / rows.max(1);
        let bits = if found.scheme == Scheme::Gptq { gptq_bits(&parts, cols) } else { 4 };
        wanted(1, &[groups, rows * bits / 32])?;
        wanted(2, &[groups, rows])?;
    }
    let (factor, described) = match found.scheme {
        Scheme::Fp8 => (1.0, fp8(checkpoint, parts[1], rows, cols)?),
        Scheme::Nvfp4 { divides } => {
            expect(parts[1], DType::F8_E4M3)?;
            let factor = factors(checkpoint, parts[2], 1, divides)?[0];
            parts.truncate(2);
            (factor, Parts::Nvfp4 { group: nvfp4_group(parts[1], [rows, cols]) })
        }
        Scheme::Gptq => (1.0, gptq(checkpoint, &parts, rows, cols)?),
        Scheme::Awq => (1.0, awq(&parts, rows)?),
        Scheme::PackQuantized => (1.0, pack_quantized(checkpoint, &parts, rows, cols)?),
        Scheme::IntQuantized => {
            check_zero_points(checkpoint, &parts, ".weight")?;
            (1.0, integers(checkpoint, &parts, rows, false)?)
        }
        Scheme::Mxfp4 => {
            expect(parts[0], DType::U8)?;
            (1.0, Parts::Mxfp4)
        }
    };
    Ok((parts, factor, described))
}

/// Refuses a part of another shape, dimensions as folders list them; those of 1 do not count.
fn has_shape(tensor: &TensorInfo, wanted: &[usize], matrix: [usize; 2]) -> Result<()> {
    let found: Vec<u64> = tensor.shape.dims().iter().rev().copied().collect();
    let alike = found
        .iter()
        .filter(|&&dim| dim != 1)
        .copied()
        .eq(wanted.iter().filter(|&&dim| dim != 1).map(|&dim| dim as u64));
    if alike {
        return Ok(());
    }
    let (tensor, dtype) = (tensor.name.clone(), tensor.dtype.name());
    Err(EngineError::PartShape { tensor, found, dtype, matrix })
}

pub(super) fn expect(tensor: &TensorInfo, dtype: DType) -> Result<()> {
    if tensor.dtype == dtype {
        return Ok(());
    }
    Err(EngineError::TensorType {
        tensor: tensor.name.clone(),
        found: tensor.dtype.name().into(),
        supported: dtype.name().into(),
    })
}

/// How a tensor of plain floats stores them.
pub(super) fn float_format(tensor: &TensorInfo) -> Result<FloatFormat> {
    match tensor.dtype {
        DType::F32 => Ok(FloatFormat::F32),
        DType::F16 => Ok(FloatFormat::F16),
        DType::BF16 => Ok(FloatFormat::BF16),
        other => Err(EngineError::TensorType {
            tensor: tensor.name.clone(),
            found: other.name().into(),
            supported: "F32, F16, BF16".into(),
        }),
    }
}

/// Floats of 8 bits: one scale for all, one a row, or one a block or a group of a row's columns; of MXFP8 one for 32 of them.
fn fp8(checkpoint: &Checkpoint, scale: &TensorInfo, rows: usize, cols: usize) -> Result<Parts> {
    let scales = match scale.dtype {
        DType::U8 => {
            has_shape(scale, &[rows, cols / 32], [rows, cols])?;
            ScaleFormat::Exponent
        }
        DType::F8_E8M0 => ScaleFormat::Exponent,
        _ => ScaleFormat::Float(float_format(scale)?),
    };
    // As folders list them: one number, one for each row as [rows] or [rows, 1], some for each row, or a matrix of blocks.
    let listed: Vec<u64> = scale.shape.dims().iter().rev().copied().collect();
    let groups = match listed[..] {
        [of_rows] if of_rows == rows as u64 => Some(1),
        [of_rows, groups] if of_rows == rows as u64 => Some(groups as usize),
        _ => None,
    };
    let groups = groups.filter(|&groups| groups > 0 && cols.is_multiple_of(groups));
    let block = if scale.shape.elements() == 1 {
        [rows, cols]
    } else if scales == ScaleFormat::Exponent && listed == [rows as u64, cols as u64 / 32] {
        [1, 32]
    } else if let Some(groups) = groups.filter(|_| !scale.name.ends_with("_inv")) {
        [1, cols / groups]
    } else {
        let block = fp8_block(checkpoint)?;
        let blocks = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        has_shape(scale, &blocks, [rows, cols])?;
        block
    };
    Ok(Parts::Fp8 { scales, block })
}

/// Columns that share a scale of NVFP4: 16, and 32 in some forms of modelopt.
fn nvfp4_group(scale: &TensorInfo, [rows, cols]: [usize; 2]) -> usize {
    if has_shape(scale, &[rows, cols / 32], [rows, cols]).is_ok() { 32 } else { 16 }
}

/// Rows and columns that share a scale.
pub(super) fn fp8_block(checkpoint: &Checkpoint) -> Result<[usize; 2]> {
    let block = checkpoint.metadata().u32_array(keys::BLOCK)?;
    Ok(match block.as_deref() {
        Some(&[rows, cols]) => [rows, cols].map(|side| (side as usize).max(1)),
        _ => [128, 128],
    })
}

/// How integers of GPTQ and AWQ have their scales, and of how many groups of columns.
fn groups(parts: &[&TensorInfo], rows: usize) -> Result<(FloatFormat, usize)> {
    expect(parts[0], DType::I32)?;
    expect(parts[1], DType::I32)?;
    integer_scales(parts[2], rows)
}

fn awq(parts: &[&TensorInfo], rows: usize) -> Result<Parts> {
    let (scales, groups) = groups(parts, rows)?;
    Ok(Parts::Awq { scales, groups })
}

/// How integers have their scales, and of how many groups of columns.
fn integer_scales(scale: &TensorInfo, rows: usize) -> Result<(FloatFormat, usize)> {
    let scales = match scale.dtype {
        DType::F16 => FloatFormat::F16,
        DType::BF16 => FloatFormat::BF16,
        other => {
            let (tensor, found) = (scale.name.clone(), other.name().into());
            return Err(EngineError::TensorType { tensor, found, supported: "F16, BF16".into() });
        }
    };
    Ok((scales, scale.shape.elements() as usize / rows.max(1)))
}

/// Endings of what integers of compressed-tensors may have beside scales.
const ZERO_POINT: &str = ".weight_zero_point";
const INDICES: &str = ".weight_g_idx";

/// The part with this ending, if there is one.
fn companion<'a>(parts: &[&'a TensorInfo], ending: &str) -> Option<&'a TensorInfo> {
    parts.iter().find(|part| part.name.ends_with(ending)).copied()
}

/// Whether integers of compressed-tensors have indices. Errors: they are of another type, or absent where the configuration says that
/// groups are not runs of columns.
fn has_indices(checkpoint: &Checkpoint, parts: &[&TensorInfo], groups: usize) -> Result<bool> {
    if let Some(indices) = companion(parts, INDICES) {
        expect(indices, DType::I32)?;
        return Ok(true);
    }
    if groups < 2 || checkpoint.metadata().bool(keys::ACT_ORDER)? != Some(true) {
        return Ok(false);
    }
    let base = parts[0].name.rsplit_once('.').map_or("", |(base, _)| base);
    let tensor = format!("`{}`", shown(&format!("{base}{INDICES}")));
    Err(FormatError::TensorMissing { path: checkpoint.path().to_owned(), tensor }.into())
}

/// Integers of 8 bits.
fn integers(
    checkpoint: &Checkpoint,
    parts: &[&TensorInfo],
    rows: usize,
    around_middle: bool,
) -> Result<Parts> {
    let (scales, groups) = integer_scales(parts[1], rows)?;
    Ok(Parts::Int8 { scales, groups, around_middle, indices: has_indices(checkpoint, parts, groups)? })
}

/// Error: zero points of another type, or none where the configuration says that there are.
fn check_zero_points(checkpoint: &Checkpoint, parts: &[&TensorInfo], ending: &str) -> Result<()> {
    match companion(parts, ZERO_POINT) {
        Some(zeros) => expect(zeros, DType::I32),
        None if checkpoint.metadata().bool(keys::SYMMETRIC)? == Some(false) => {
            let base = parts[0].name.strip_suffix(ending).unwrap_or_default();
            let tensor = format!("`{}`", shown(&format!("{base}{ZERO_POINT}")));
            Err(FormatError::TensorMissing { path: checkpoint.path().to_owned(), tensor }.into())
        }
        None => Ok(()),
    }
}

/// Whether packed integers are of 8 bits: a model may have both, and which a matrix has shows in its shape.
fn is_of_bytes(parts: &[&TensorInfo], cols: usize) -> bool {
    companion(parts, ZERO_POINT).is_none() && parts[0].shape.dims().first() == Some(&(cols as u64 / 4))
}

fn pack_quantized(checkpoint: &Checkpoint, parts: &[&TensorInfo], rows: usize, cols: usize) -> Result<Parts> {
    if is_of_bytes(parts, cols) {
        return integers(checkpoint, parts, rows, true);
    }
    let (scales, groups) = integer_scales(parts[1], rows)?;
    check_zero_points(checkpoint, parts, ".weight_packed")?;
    let zeros = companion(parts, ZERO_POINT).is_some();
    Ok(Parts::PackQuantized { scales, groups, zeros, indices: has_indices(checkpoint, parts, groups)? })
}

/// Bits of an integer of GPTQ: a model may have matrices of several widths, and which a matrix has shows in its shape.
fn gptq_bits(parts: &[&TensorInfo], cols: usize) -> usize {
    let words = parts[0].shape.dims().last().copied();
    [2, 3, 8].into_iter().find(|bits| words == Some(cols as u64 * *bits as u64 / 32)).unwrap_or(4)
}

fn gptq(checkpoint: &Checkpoint, parts: &[&TensorInfo], rows: usize, cols: usize) -> Result<Parts> {
    let (scales, groups) = groups(parts, rows)?;
    if let Some(indices) = parts.get(3) {
        expect(indices, DType::I32)?;
    }
    let metadata = checkpoint.metadata();
    let second_form = metadata.str(keys::GPTQ_FORM)? == Some("gptq_v2");
    let zero_offset = u8::from(!second_form);
    let indices = parts.len() > 3;
    let act_order = metadata.bool(keys::ACT_ORDER)?;
    if !indices && groups > 1 && act_order == Some(true) {
        let tensor = parts[0].name.replace(".qweight", ".g_idx");
        let path = checkpoint.path().to_owned();
        return Err(FormatError::TensorMissing { path, tensor: format!("`{}`", shown(&tensor)) }.into());
    }
    // Old configurations say nothing of it.
    let any_order = indices && act_order != Some(false);
    let symmetric = metadata.bool(keys::SYMMETRIC)?.unwrap_or(false);
    Ok(match gptq_bits(parts, cols) {
        8 => Parts::Gptq8 { scales, zero_offset, groups, indices, any_order },
        4 => Parts::Gptq { scales, zero_offset, symmetric, groups, indices, any_order },
        bits => Parts::GptqFewBits { bits, scales, zero_offset, symmetric, groups, indices, any_order },
    })
}

/// How one of the matrices of each expert of a layer gets into its slot.
#[derive(Debug, Clone)]
pub(super) struct ExpertForm {
    pub name: ExpertName,
    /// For each expert the file that its first part is in.
    pub files: Vec<u16>,
    /// Parts in the files; 0: those of the matrix before, which both are made of.
    pub parts: usize,
    /// Where in the part it is, if that is more than it.
    pub place: Option<Range<usize>>,
    pub recoding: Option<Recoding>,
    /// The format and the bytes of its rows if these are interleaved; no such matrix is recoded.
    pub interleaved: Option<(Format, usize)>,
}

impl ExpertForm {
    /// `parts`: where each expert's lie.
    pub fn of(name: ExpertName, recoding: Option<Recoding>, parts: &[Vec<ByteRange>]) -> Self {
        let file = |parts: &Vec<ByteRange>| parts.first().map_or(0, |part| part.file as u16);
        let count = parts.first().map_or(0, Vec::len);
        let files = parts.iter().map(file).collect();
        Self { name, files, parts: count, place: None, recoding, interleaved: None }
    }
}

/// The name of a matrix of all experts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExpertName {
    /// That of the first expert.
    first: String,
    /// Each expert's has a name of its own, with its number.
    one_by_one: bool,
}

impl ExpertName {
    /// One tensor for all experts.
    pub fn fused(name: String) -> Self {
        Self { first: name, one_by_one: false }
    }

    /// A tensor for each, of which this is the first expert's.
    pub fn one_by_one(first: String) -> Self {
        Self { first, one_by_one: true }
    }

    /// What messages call an expert's.
    pub fn of(&self, expert: u32) -> String {
        match self.first.rsplit_once(".0.").filter(|_| self.one_by_one) {
            Some((before, behind)) => format!("tensor `{before}.{expert}.{behind}`"),
            None => format!("expert {expert} in tensor `{}`", self.first),
        }
    }

    /// That of the first expert.
    pub fn first(&self) -> &str {
        &self.first
    }
}

/// Recodes the experts of all layers. Layers without experts have no forms.
#[derive(Debug, Default)]
pub(super) struct ExpertRecoding {
    /// Of the checkpoint.
    paths: Vec<PathBuf>,
    forms: Vec<Vec<ExpertForm>>,
    bytes: Vec<Vec<usize>>,
}

impl ExpertRecoding {
    /// For experts in the files of this checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self { paths: checkpoint.files().iter().map(|file| file.path.clone()).collect(), ..Self::default() }
    }

    /// Adds the next layer: how its matrices get into the slots, and how many bytes each takes there.
    pub fn add(&mut self, layer: Vec<(ExpertForm, u64)>) {
        let (forms, bytes): (Vec<_>, Vec<_>) =
            layer.into_iter().map(|(form, bytes)| (form, bytes as usize)).unzip();
        self.forms.push(forms);
        self.bytes.push(bytes);
    }

    /// Whether any matrix is other in its slot than in its files.
    pub fn is_needed(&self) -> bool {
        self.forms.iter().flatten().any(|form| form.recoding.is_some() || form.interleaved.is_some())
    }
}

impl Recode for ExpertRecoding {
    fn part_bytes(&self, group: u32) -> &[usize] {
        self.bytes.get(group as usize).map_or(&[], Vec::as_slice)
    }

    fn recode(
        &self,
        key: ExpertKey,
        mut parts: &[&[u8]],
        into: &mut [&mut [u8]],
    ) -> std::result::Result<(), String> {
        let forms = self.forms.get(key.group as usize).map_or(&[][..], Vec::as_slice);
        let mut own: &[&[u8]] = &[];
        for (form, into) in forms.iter().zip(into) {
            if form.parts > 0 {
                (own, parts) = parts.split_at(form.parts);
            }
            match &form.recoding {
                Some(recoding) => {
                    recoding.run(own, into).map_err(|error| {
                        let file = form.files.get(key.index as usize);
                        let path = file.and_then(|&file| self.paths.get(usize::from(file)));
                        let path = path.map_or("the model".into(), |path| path.to_string_lossy());
                        format!("{path}: {}: {error}", form.name.of(key.index))
                    })?;
                }
                None => {
                    let stored = form.place.clone().map_or(own[0], |place| &own[0][place]);
                    match form.interleaved {
                        Some((format, row)) => interleaved::interleave(format, row, stored, into),
                        None => into.copy_from_slice(stored),
                    }
                }
            }
        }
        Ok(())
    }
}
