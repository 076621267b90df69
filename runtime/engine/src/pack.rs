//! Packing: a model written again with its experts as memory holds them, each in one record.
//!
//! All other tensors, the metadata and the documents stay as they are, so that nothing but the experts is read in another way, and the
//! numbers that a model gives are the same. See [`membrane_formats::packed`] for the form.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use membrane_formats::gguf::GgufWriter;
use membrane_formats::packed::{self, PackedForm, RECORD_ALIGNMENT};
use membrane_formats::{
    Checkpoint, Container, DType, FormatError, SafetensorsWriter, SourceFile, TensorInfo, TensorSink,
};
use membrane_pager::{Catalog, ExpertKey};

use crate::architectures::Architecture;
use crate::error::{EngineError, Result, shown};
use crate::hyper::Hyperparameters;
use crate::weights::{Block, FeedForward, Layout, MoeBlock};

/// Bytes of records that are made at a time, at least one record.
const BATCH_BYTES: u64 = 64 << 20;
/// Bytes of another tensor that are copied at a time.
const COPY_BYTES: usize = 4 << 20;
/// Keys of split GGUF files; the packed one is whole.
const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];
/// The weights of a packed folder.
const WEIGHTS: &str = "model.safetensors";
/// What belongs to a tensor of the same beginning and is of no use without it.
const COMPANIONS: [&str; 5] =
    [".input_scale", ".input_global_scale", ".input_zero_point", ".act_scale", ".weight_shape"];
/// Endings of documents that belong to a folder beside its weights.
const DOCUMENTS: [&str; 6] = ["json", "jinja", "txt", "md", "model", "tiktoken"];
/// Documents that say something of the files as they were.
const OF_OTHER_FILES: [&str; 3] = ["model.safetensors.index.json", "SHA256SUMS.txt", "sha256sums.txt"];

/// A model that is to be packed.
pub struct Packing {
    checkpoint: Checkpoint,
    catalog: Catalog,
    layers: Vec<Layer>,
    /// Indices of the tensors that stay.
    kept: Vec<usize>,
}

/// The experts of a layer.
struct Layer {
    /// Of the model's layers, and of the catalog's groups.
    index: usize,
    experts: usize,
    forms: [PackedForm; 3],
    places: [Range<u64>; 3],
    record_bytes: u64,
    /// What the three matrices of each expert are multiplied by; empty if that is 1.
    factors: Vec<f32>, // [experts, 3]
}

impl Packing {
    /// Examines a model. Errors: it can't be run either, has no experts, or is packed already.
    pub fn of(checkpoint: Checkpoint) -> Result<Self> {
        let unpackable =
            |rule: &str| EngineError::Unpackable { path: checkpoint.path().to_owned(), rule: rule.into() };
        if checkpoint.is_packed()? {
            return Err(unpackable("is packed already; run it as it is"));
        }
        let architecture = Architecture::of(&checkpoint)?;
        let hyper = Hyperparameters::read(&checkpoint, &architecture)?;
        let layout = Layout::of(&checkpoint, &hyper).map_err(|error| error.of_file(checkpoint.path()))?;
        let Layout { blocks, draft, experts, expert_tensors, .. } = layout;
        let Some(catalog) = experts else {
            return Err(unpackable("has no experts, and nothing else is packed; run it as it is"));
        };
        let blocks = blocks.iter().chain(draft.iter().map(|head| &head.block));
        let layers = blocks.enumerate().filter_map(|(index, block)| Some((index, moe(block)?)));
        let layers = layers.map(|(index, moe)| Layer::of(index, moe)).collect::<Result<_>>()?;
        let kept = kept(&checkpoint, &expert_tensors);
        Ok(Self { checkpoint, catalog, layers, kept })
    }

    /// Bytes of all tensors of the packed model.
    pub fn bytes(&self) -> u64 {
        let kept = self.kept.iter().map(|&index| self.checkpoint.tensors()[index].bytes);
        self.layers.iter().map(Layer::bytes).chain(kept).sum()
    }

    /// Writes the packed model to `out`: a file for a GGUF file, a folder for a folder. `progress` is told the bytes that there are of
    /// the file with the weights.
    ///
    /// What there is when it is interrupted stays in `OUT.part`, and the same call goes on behind it. At the end everything is read back
    /// and compared. Errors: `out` exists, reading, writing, or what [`Packing::of`] could not see in the experts.
    pub fn write(&self, out: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        if out.symlink_metadata().is_ok() {
            let rule = "exists already; name another path, or take it away first".into();
            return Err(EngineError::Unpackable { path: out.to_owned(), rule });
        }
        let source = self.identity()?;
        let mut record = Records::default();
        let fill =
            |tensor: &TensorInfo, sink: &mut TensorSink<'_>| self.fill(tensor, sink, &mut record, progress);
        let layers: Vec<(usize, &[PackedForm; 3])> =
            self.layers.iter().map(|layer| (layer.index, &layer.forms)).collect();
        match self.checkpoint.container() {
            Container::Gguf { .. } => {
                let mut metadata = self.checkpoint.metadata().clone();
                for key in SPLIT_KEYS {
                    metadata.remove(key);
                }
                metadata.set("general.alignment", RECORD_ALIGNMENT as u32);
                packed::describe(&mut metadata, &layers);
                let mut writer = GgufWriter::new(out, metadata);
                self.declare(DType::I8, |name, dtype, dims| writer.declare(name, dtype, dims))?;
                writer.write_resumably(&source, fill)
            }
            Container::Folder => {
                let mut part = out.to_owned().into_os_string();
                part.push(".part");
                let part = PathBuf::from(part);
                let failed = |source| FormatError::Write { path: part.clone(), source };
                fs::create_dir_all(&part).map_err(failed)?;
                self.copy_documents(&part)?;
                fs::write(part.join(packed::DOCUMENT), packed::document(&layers)).map_err(failed)?;
                let mut writer = SafetensorsWriter::new(&part.join(WEIGHTS));
                self.declare(DType::U8, |name, dtype, dims| writer.declare(name, dtype, dims))?;
                writer.write_resumably(&source, fill)?;
                fs::rename(&part, out).map_err(failed)?;
                Ok(())
            }
        }
    }

    /// Announces all tensors, records first: their beginnings are aligned, whatever follows.
    fn declare(
        &self,
        bytes: DType,
        mut declare: impl FnMut(&str, DType, &[u64]) -> std::result::Result<(), FormatError>,
    ) -> Result<()> {
        for layer in &self.layers {
            let experts = layer.experts as u64;
            declare(&packed::experts_name(layer.index), bytes, &[layer.record_bytes, experts])?;
        }
        for layer in self.layers.iter().filter(|layer| !layer.factors.is_empty()) {
            declare(&packed::factors_name(layer.index), DType::F32, &[3, layer.experts as u64])?;
        }
        for &index in &self.kept {
            let tensor = &self.checkpoint.tensors()[index];
            declare(&tensor.name, tensor.dtype, tensor.shape.dims())?;
        }
        Ok(())
    }

    /// Gives the bytes of a tensor of the packed model.
    fn fill(
        &self,
        tensor: &TensorInfo,
        sink: &mut TensorSink<'_>,
        records: &mut Records,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let layer = packed::layer_of(&tensor.name);
        match layer.and_then(|index| self.layers.iter().find(|layer| layer.index == index)) {
            Some(layer) if tensor.name == packed::factors_name(layer.index) => {
                let bytes: Vec<u8> = layer.factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
                Ok(sink.put(&bytes)?)
            }
            Some(layer) => {
                let batch = (BATCH_BYTES / layer.record_bytes).clamp(1, layer.experts as u64) as usize;
                let mut done = 0;
                for first in (0..layer.experts).step_by(batch) {
                    let bytes = records.make(self, layer, first..layer.experts.min(first + batch))?;
                    sink.put(bytes)?;
                    done += bytes.len() as u64;
                    progress(tensor.offset + done);
                }
                Ok(())
            }
            None => {
                let mut read = vec![0; COPY_BYTES];
                let stored = self.checkpoint.require_stored(&tensor.name)?;
                for offset in (0..stored.bytes).step_by(COPY_BYTES) {
                    let piece = &mut read[..(stored.bytes - offset).min(COPY_BYTES as u64) as usize];
                    self.checkpoint.read(stored, offset, piece)?;
                    sink.put(piece)?;
                }
                progress(tensor.offset + tensor.bytes);
                Ok(())
            }
        }
    }

    /// What distinguishes the files from any others of the same shapes: length, inode and time of the last change.
    fn identity(&self) -> Result<Vec<u8>> {
        let mut identity = Vec::new();
        for file in self.checkpoint.files() {
            let found = file
                .file
                .metadata()
                .map_err(|source| FormatError::Open { path: file.path.clone(), source })?;
            for number in
                [found.len(), found.dev(), found.ino(), found.mtime() as u64, found.mtime_nsec() as u64]
            {
                identity.extend(number.to_le_bytes());
            }
        }
        Ok(identity)
    }

    /// Copies what a folder has beside its weights: what was read of it, and what else tells people or programs of the model. Error:
    /// there is something else where it goes to.
    fn copy_documents(&self, to: &Path) -> Result<()> {
        let read = |file: &SourceFile| file.path.file_name().map(PathBuf::from);
        let mut names: BTreeSet<PathBuf> = self.checkpoint.files().iter().filter_map(read).collect();
        let Some(folder) = self.checkpoint.files().first().and_then(|file| file.path.parent()) else {
            return Ok(());
        };
        names.extend(listed(folder)?);
        names.retain(|name| is_document(name) && folder.join(name).is_file());
        let own = |name: &PathBuf| {
            let text = name.to_string_lossy();
            names.contains(name) || text == packed::DOCUMENT || text.starts_with(WEIGHTS)
        };
        if let Some(other) = listed(to)?.iter().find(|name| !own(name)) {
            let rule = format!(
                "has `{}`, which does not belong to the packed model; take it away, or name another path",
                shown(&other.to_string_lossy())
            );
            return Err(EngineError::Unpackable { path: to.to_owned(), rule });
        }
        for name in names.iter().chain([&PathBuf::from(packed::DOCUMENT)]) {
            // A copy may be there already, as little to be written to as what it is of.
            let _ = fs::remove_file(to.join(name));
        }
        for name in &names {
            let copied = fs::copy(folder.join(name), to.join(name));
            copied.map_err(|source| FormatError::Write { path: to.join(name), source })?;
        }
        Ok(())
    }
}

/// The names of what is in a folder.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| FormatError::Open { path: folder.to_owned(), source };
    let names = folder.read_dir().map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.file_name().into()));
    names.collect()
}

/// Whether a file of a model's folder belongs to it also with other weights.
fn is_document(name: &Path) -> bool {
    let text = name.to_string_lossy();
    let ending = name.extension().is_some_and(|ending| DOCUMENTS.iter().any(|known| ending == *known));
    let licence = ["LICENSE", "LICENCE", "NOTICE"].iter().any(|known| text.starts_with(known));
    (ending || licence) && !OF_OTHER_FILES.contains(&&*text)
}

fn moe(block: &Block) -> Option<&MoeBlock> {
    match &block.ffn {
        FeedForward::Moe(moe) => Some(moe),
        FeedForward::Dense(_) => None,
    }
}

/// The tensors that stay: all but those that experts are made of, and what has no meaning without these.
fn kept(checkpoint: &Checkpoint, experts: &[usize]) -> Vec<usize> {
    let tensors = checkpoint.tensors();
    let packed: BTreeSet<usize> = experts.iter().copied().collect();
    let base = |name: &'_ str| name.rsplit_once('.').map(|(base, _)| base.to_owned());
    let bases: BTreeSet<String> = experts.iter().filter_map(|&index| base(&tensors[index].name)).collect();
    let stays = |&index: &usize| {
        let name = tensors[index].name.as_str();
        let companion = COMPANIONS.iter().find_map(|ending| name.strip_suffix(ending));
        !packed.contains(&index) && !companion.is_some_and(|base| bases.contains(base))
    };
    (0..tensors.len()).filter(stays).collect()
}

impl Layer {
    fn of(index: usize, moe: &MoeBlock) -> Result<Self> {
        let matrices = [&moe.gate, &moe.up, &moe.down];
        let forms = matrices.map(|matrix| matrix.packed_form());
        let experts = moe.shape.experts;
        let factors: Vec<f32> =
            (0..experts).flat_map(|expert| matrices.map(|matrix| matrix.factor(expert))).collect();
        let factors = if factors.iter().all(|&factor| factor == 1.0) { Vec::new() } else { factors };
        let (places, record_bytes) = packed::places(&forms).ok_or_else(|| EngineError::PackedForm {
            tensor: packed::experts_name(index),
            found: forms[0].to_string(),
            rows: moe.gate.rows,
            cols: moe.gate.cols,
        })?;
        Ok(Self { index, experts, forms, places, record_bytes, factors })
    }

    /// Bytes of all records.
    fn bytes(&self) -> u64 {
        self.record_bytes * self.experts as u64
    }
}

/// Records, and what is read for them.
#[derive(Default)]
struct Records {
    made: Vec<u8>,
}

impl Records {
    /// The records of some experts of a layer, made by as many threads as there are processors.
    fn make(&mut self, packing: &Packing, layer: &Layer, experts: Range<usize>) -> Result<&[u8]> {
        let bytes = layer.record_bytes as usize;
        self.made.clear();
        self.made.resize(bytes * experts.len(), 0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(experts.len());
        let share = experts.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let workers = self.made.chunks_mut(bytes * share).enumerate().map(|(number, records)| {
                let first = experts.start + number * share;
                scope.spawn(move || {
                    let mut read = Vec::new();
                    let mut numbered = records.chunks_exact_mut(bytes).zip(first..);
                    numbered.try_for_each(|(record, expert)| packing.record(layer, expert, &mut read, record))
                })
            });
            let workers: Vec<_> = workers.collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(&self.made)
    }
}

impl Packing {
    /// Makes the record of an expert, which is zeros. `read` is room for its parts.
    fn record(&self, layer: &Layer, expert: usize, read: &mut Vec<u8>, into: &mut [u8]) -> Result<()> {
        let key = ExpertKey { group: layer.index as u32, index: expert as u32 };
        let parts = &self.catalog.groups()[layer.index][expert].parts;
        read.resize(parts.iter().map(|part| part.bytes as usize).sum(), 0);
        let (mut rest, mut pieces) = (&mut read[..], Vec::with_capacity(parts.len()));
        for part in parts {
            let (piece, behind) = rest.split_at_mut(part.bytes as usize);
            self.checkpoint.read_range(part.file, part.offset, piece)?;
            pieces.push(&*piece);
            rest = behind;
        }
        let [gate, up, down] = &layer.places;
        let (gates, behind) = into.split_at_mut(up.start as usize);
        let (ups, downs) = behind.split_at_mut((down.start - up.start) as usize);
        let length = |place: &Range<u64>| (place.end - place.start) as usize;
        let mut matrices = [&mut gates[..length(gate)], &mut ups[..length(up)], &mut downs[..length(down)]];
        match self.catalog.recode() {
            Some(recode) => recode.recode(key, &pieces, &mut matrices).map_err(|rule| {
                membrane_pager::PagerError::Recode { group: key.group, index: key.index, rule }
            })?,
            None => {
                matrices.iter_mut().zip(&pieces).for_each(|(matrix, piece)| matrix.copy_from_slice(piece))
            }
        }
        Ok(())
    }
}
