//! Packing: a model written again with its experts as memory holds them, each in one record.
//!
//! All other tensors, the metadata and the documents stay as they are, so that nothing but the experts is read in another way, and the
//! numbers that a model gives are the same. (What nothing reads of a folder may be told otherwise, such as a shape of five dimensions.) See
//! [`membrane_formats::packed`] for the form.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use membrane_formats::gguf::{GgufWriter, SPLIT_KEYS};
use membrane_formats::packed::{self, PackedForm, RECORD_ALIGNMENT};
use membrane_formats::{
    Checkpoint, Container, DType, FormatError, SafetensorsWriter, SourceFile, Step, TensorInfo, TensorSink,
    Unfinished,
};
use membrane_pager::{Catalog, ExpertKey};

use crate::architectures::Architecture;
use crate::error::{EngineError, Result};
use crate::hyper::Hyperparameters;
use crate::weights::{Block, FeedForward, Interleaving, Layout, MoeBlock};

/// Bytes of records that are made at a time, at least one record.
const BATCH_BYTES: u64 = 64 << 20;
/// Bytes of another tensor that are copied at a time.
const COPY_BYTES: usize = 4 << 20;
/// The weights of a packed folder.
const WEIGHTS: &str = "model.safetensors";
/// What belongs to a tensor of the same beginning and is of no use without it.
const COMPANIONS: [&str; 6] = [
    ".input_scale",
    ".input_scale_2",
    ".input_global_scale",
    ".input_zero_point",
    ".act_scale",
    ".weight_shape",
];
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
        let unpackable = |rule| EngineError::Unpackable { path: checkpoint.path().to_owned(), rule };
        if checkpoint.is_packed()? {
            return Err(unpackable("is packed already; run it as it is"));
        }
        let Layout { blocks, draft, experts, expert_tensors, .. } = layout(&checkpoint)?;
        let Some(catalog) = experts else {
            return Err(unpackable("has no experts, and nothing else is packed; run it as it is"));
        };
        let blocks = blocks.iter().chain(draft.iter().map(|head| &head.block));
        let layers = blocks.enumerate().filter_map(|(index, block)| Some((index, moe(block)?)));
        let layers = layers.map(|(index, moe)| Layer::of(&checkpoint, index, moe)).collect::<Result<_>>()?;
        let kept = kept(&checkpoint, &expert_tensors);
        Ok(Self { checkpoint, catalog, layers, kept })
    }

    /// Bytes of all tensors of the packed model.
    pub fn bytes(&self) -> u64 {
        let kept = self.kept.iter().map(|&index| self.checkpoint.tensors()[index].bytes);
        self.layers.iter().map(Layer::bytes).chain(kept).sum()
    }

    /// Writes the packed model to `out`: a file for a GGUF file, a folder for a folder. `progress` is told the step, and the bytes of the
    /// weights' file that it has come to.
    ///
    /// It is made in the folder `OUT.unfinished`, which stays when the process ends before; the same call goes on with it. At the end the
    /// weights are read back and compared, the model is opened, and takes its place. Errors: something is at `out`; reading or
    /// writing; numbers of experts that can't be recoded.
    pub fn write(&self, out: &Path, progress: &mut dyn FnMut(Step, u64)) -> Result<()> {
        let layers: Vec<(usize, &[PackedForm; 3])> =
            self.layers.iter().map(|layer| (layer.index, &layer.forms)).collect();
        let file = matches!(self.checkpoint.container(), Container::Gguf { .. });
        if file && out.extension().is_some_and(|extension| extension == "safetensors") {
            let rule = "would be a GGUF file, which can't be called so; name another path";
            return Err(EngineError::Unpackable { path: out.to_owned(), rule });
        }
        let description = packed::document(&layers);
        let identity = self.identity(&description)?;
        let mut unfinished = Unfinished::begin(out, &identity)?;
        let model = unfinished.model();
        let mut records = Vec::new();
        let fill = |tensor: &TensorInfo, from: u64, sink: &mut TensorSink<'_>| {
            self.fill(tensor, from, sink, &mut records)
        };
        if file {
            let mut metadata = self.checkpoint.metadata().clone();
            // The packed one is whole.
            for key in SPLIT_KEYS {
                metadata.remove(key);
            }
            metadata.set("general.alignment", RECORD_ALIGNMENT as u32);
            packed::describe(&mut metadata, &layers);
            let mut writer = GgufWriter::new(&model, metadata);
            self.declare(DType::I8, |name, dtype, dims| writer.declare(name, dtype, dims))?;
            writer.write_resumably(&mut unfinished, progress, fill)?;
        } else {
            self.write_documents(&model, &description)?;
            let mut writer = SafetensorsWriter::new(&model.join(WEIGHTS));
            self.declare(DType::U8, |name, dtype, dims| writer.declare(name, dtype, dims))?;
            writer.write_resumably(&mut unfinished, progress, fill)?;
        }
        if self.identity(&description)? != identity {
            return Err(FormatError::Changed { path: self.checkpoint.path().to_owned() }.into());
        }
        let made = layout(&Checkpoint::open(&model)?)?;
        if made.experts.as_ref().map(|experts| experts.groups().len()) != Some(self.catalog.groups().len()) {
            let rule = "was not packed as a whole, which is a defect of this program; run the model as it is";
            return Err(EngineError::Unpackable { path: self.checkpoint.path().to_owned(), rule });
        }
        Ok(unfinished.publish()?)
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

    /// Gives the bytes of a tensor of the packed model, from one on.
    fn fill(
        &self,
        tensor: &TensorInfo,
        from: u64,
        sink: &mut TensorSink<'_>,
        records: &mut Vec<u8>,
    ) -> Result<()> {
        let layer = packed::layer_of(&tensor.name);
        match layer.and_then(|index| self.layers.iter().find(|layer| layer.index == index)) {
            Some(layer) if tensor.name == packed::factors_name(layer.index) => {
                let bytes: Vec<u8> = layer.factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
                Ok(sink.put(bytes.get(from as usize..).unwrap_or_default())?)
            }
            Some(layer) => {
                let batch = (BATCH_BYTES / layer.record_bytes).clamp(1, layer.experts as u64) as usize;
                let first = (from / layer.record_bytes) as usize;
                let mut there = (from % layer.record_bytes) as usize;
                for first in (first..layer.experts).step_by(batch) {
                    self.records(layer, first..layer.experts.min(first + batch), records)?;
                    sink.put(&records[std::mem::take(&mut there)..])?;
                }
                Ok(())
            }
            None => {
                let mut read = vec![0; COPY_BYTES];
                let stored = self.checkpoint.require_stored(&tensor.name)?;
                for offset in (from..stored.bytes).step_by(COPY_BYTES) {
                    let piece = &mut read[..(stored.bytes - offset).min(COPY_BYTES as u64) as usize];
                    self.checkpoint.read(stored, offset, piece)?;
                    sink.put(piece)?;
                }
                Ok(())
            }
        }
    }

    /// What distinguishes this packing from any other: the files, by name, inode, length and time of the last change, what becomes of
    /// them, and which version makes it.
    fn identity(&self, description: &str) -> Result<Vec<u8>> {
        let mut identity = format!("{}\n{description}\n", env!("CARGO_PKG_VERSION")).into_bytes();
        for file in self.checkpoint.files() {
            let opened = |source| FormatError::Open { path: file.path.clone(), source };
            let found = file.file.metadata().map_err(opened)?;
            identity.extend(self.checkpoint.name_of(file).as_os_str().as_encoded_bytes());
            for number in [found.len(), found.ino(), found.mtime() as u64, found.mtime_nsec() as u64] {
                identity.extend(number.to_le_bytes());
            }
        }
        Ok(identity)
    }

    /// Puts into a folder what the model's has beside its weights: what was read of it, and what else tells people or programs of the
    /// model; and the description of the records. All is on the disk then.
    fn write_documents(&self, to: &Path, description: &str) -> Result<()> {
        let failed = |path: &Path, source| FormatError::Write { path: path.to_owned(), source };
        match fs::create_dir(to) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(to, error).into());
            }
            _ => {}
        }
        let read = |file: &SourceFile| self.checkpoint.name_of(file).to_owned();
        let mut names: BTreeSet<PathBuf> = self.checkpoint.files().iter().map(read).collect();
        let Some(folder) = self.checkpoint.files().first().and_then(|file| file.path.parent()) else {
            return Ok(());
        };
        names.extend(listed(folder)?.into_iter().filter(|name| is_its_own(folder, name)));
        names.retain(|name| is_document(name) && folder.join(name).is_file());
        // A copy may be there already, as little to be written to as what it is of.
        for old in names.iter().map(PathBuf::as_path).chain([Path::new(packed::DOCUMENT)]) {
            let _ = fs::remove_file(to.join(old));
        }
        for name in &names {
            let copy = to.join(name);
            if let Some(below) = copy.parent().filter(|below| *below != to) {
                fs::create_dir_all(below).map_err(|source| failed(below, source))?;
            }
            let copied = fs::copy(folder.join(name), &copy).and_then(|_| fs::File::open(&copy)?.sync_all());
            copied.map_err(|source| failed(&copy, source))?;
            // The folder itself is brought to the disk when it is published.
            if let Some(below) = copy.parent().filter(|below| *below != to) {
                fs::File::open(below)
                    .and_then(|below| below.sync_all())
                    .map_err(|source| failed(below, source))?;
            }
        }
        let path = to.join(packed::DOCUMENT);
        let written = fs::write(&path, description).and_then(|()| fs::File::open(&path)?.sync_all());
        Ok(written.map_err(|source| failed(&path, source))?)
    }
}

/// The layout of a model, with the head that drafts tokens where that can be run.
fn layout(checkpoint: &Checkpoint) -> Result<Layout> {
    let architecture = Architecture::of(checkpoint)?;
    let hyper = Hyperparameters::read(checkpoint, &architecture)?;
    let of = |hyper: &Hyperparameters| {
        Layout::of(checkpoint, hyper, Interleaving::default())
            .map_err(|error| error.of_file(checkpoint.path()))
    };
    match of(&hyper) {
        Err(_) if hyper.draft_layer.is_some() => of(&Hyperparameters { draft_layer: None, ..hyper }),
        layout => layout,
    }
}

/// The names of what is in a folder.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| FormatError::Open { path: folder.to_owned(), source };
    let names = folder.read_dir().map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.file_name().into()));
    names.collect()
}

/// Whether what has a name in a folder is a file there, or a link into the `blobs` of the same model in a hub's cache: any other link may
/// lead to what whoever made the folder has no business with.
fn is_its_own(folder: &Path, name: &Path) -> bool {
    let path = folder.join(name);
    if !path.is_symlink() {
        return true;
    }
    let blobs = folder.join("../../blobs").canonicalize();
    blobs.is_ok_and(|blobs| path.canonicalize().is_ok_and(|target| target.parent() == Some(&*blobs)))
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
    fn of(checkpoint: &Checkpoint, index: usize, moe: &MoeBlock) -> Result<Self> {
        let matrices = moe.matrices();
        let forms = matrices.map(|matrix| matrix.packed_form());
        let experts = moe.shape.experts;
        let factors: Vec<f32> =
            (0..experts).flat_map(|expert| matrices.map(|matrix| matrix.factor(expert))).collect();
        let factors = if factors.iter().all(|&factor| factor == 1.0) { Vec::new() } else { factors };
        let (places, record_bytes) = packed::places(&forms).ok_or_else(|| EngineError::Unpackable {
            path: checkpoint.path().to_owned(),
            rule: "has experts whose matrices are no rows of whole blocks; run it as it is",
        })?;
        Ok(Self { index, experts, forms, places, record_bytes, factors })
    }

    /// Bytes of all records.
    fn bytes(&self) -> u64 {
        self.record_bytes * self.experts as u64
    }
}

impl Packing {
    /// Makes the records of some experts of a layer, by as many threads as there are processors.
    fn records(&self, layer: &Layer, experts: Range<usize>, made: &mut Vec<u8>) -> Result<()> {
        let bytes = layer.record_bytes as usize;
        made.clear();
        made.resize(bytes * experts.len(), 0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(experts.len());
        let share = experts.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let workers = made.chunks_mut(bytes * share).enumerate().map(|(number, records)| {
                let first = experts.start + number * share;
                scope.spawn(move || {
                    let mut read = Vec::new();
                    let mut numbered = records.chunks_exact_mut(bytes).zip(first..);
                    numbered.try_for_each(|(record, expert)| self.record(layer, expert, &mut read, record))
                })
            });
            let workers: Vec<_> = workers.collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

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
