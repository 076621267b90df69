//! `membrane logits`: logits of given tokens, for comparisons with other engines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use membrane_engine::{Architecture, FeedForward, Hyperparameters, Observer, Prepared, Speculate};
use membrane_formats::Checkpoint;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::options::ModelOptions;
use crate::report;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,
    /// A safetensors file for `logits` f32 [positions, vocabulary] and, of a mixture of experts,
    /// `router.L.ids` i32 (ascending) and `router.L.weights` f32 [positions, top-k]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Append the tokens one by one rather than as one prompt
    #[arg(long)]
    one_by_one: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(!args.tokens.is_empty(), "--tokens needs at least one token id");
    let checkpoint = Arc::new(Checkpoint::open(&args.model.model)?);
    let hyper = Hyperparameters::read(&checkpoint, &Architecture::of(&checkpoint)?)?;
    let positions = args.tokens.len();
    let mut options = args.model.load.load_options(Recorder::bytes(&hyper, positions))?;
    options.context = options.context.or(Some(positions as u32));
    options.speculate = Speculate::Off;
    let output = Output::create(&args.out, &checkpoint)?;
    let model = report::load(Prepared::without_text(checkpoint, &options)?, true)?;
    let mut session = model.session();
    let mut recorder = Recorder::new(&hyper, positions);
    let step = if args.one_by_one { 1 } else { positions };
    for tokens in args.tokens.chunks(step) {
        session.append_observed(tokens, &mut recorder)?;
    }
    recorder
        .write(&output.partial, positions, hyper.vocabulary)
        .and_then(|()| output.keep())
        .with_context(|| format!("writing {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A file that gets its name when it is whole.
pub(crate) struct Output {
    path: PathBuf,
    pub(crate) partial: PathBuf,
}

impl Output {
    /// Begins it, before anything is computed. Errors: it can't be written, or is a file of the model.
    pub(crate) fn create(path: &Path, model: &Checkpoint) -> Result<Self> {
        let told = || format!("--out {}", path.display());
        let check = |path: &Path| {
            let Ok(found) = fs::canonicalize(path) else { return Ok(()) };
            let is_found = |file: &Path| fs::canonicalize(file).is_ok_and(|file| file == found);
            let of_model = model.files().iter().any(|file| is_found(&file.path));
            ensure!(!of_model, "{}: {} is a file of the model", told(), path.display());
            ensure!(!found.is_dir(), "{}: {} is a folder; give a file", told(), path.display());
            Ok(())
        };
        check(path)?;
        let special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let mut name = path.file_name().with_context(told)?.to_owned();
        name.push(".part");
        // A device has no place beside it for a partial file.
        let partial = if special { path.to_owned() } else { path.with_file_name(name) };
        check(&partial)?;
        if special {
            File::create(&partial).with_context(told)?;
        } else {
            // What an earlier run left; a link is removed, not followed.
            let _ = fs::remove_file(&partial);
            File::create_new(&partial).with_context(told)?;
        }
        Ok(Self { path: path.to_owned(), partial })
    }

    /// Gives it its name.
    pub(crate) fn keep(self) -> Result<()> {
        if self.partial != self.path {
            fs::rename(&self.partial, &self.path)?;
        }
        Ok(())
    }
}

impl Drop for Output {
    /// What is not whole is not left behind.
    fn drop(&mut self) {
        if self.partial != self.path {
            fs::remove_file(&self.partial).unwrap_or_default();
        }
    }
}

/// Keeps what the forward pass shows.
struct Recorder {
    logits: Vec<u8>,
    /// By layer: ids and weights of all positions.
    router: BTreeMap<usize, (Vec<u8>, Vec<u8>)>,
}

impl Observer for Recorder {
    fn router(&mut self, layer: usize, rows: usize, ids: &[u32], weights: &[f32]) {
        let (all_ids, all_weights) = self.router.entry(layer).or_default();
        let top_k = ids.len() / rows.max(1);
        for (ids, weights) in ids.chunks(top_k).zip(weights.chunks(top_k)) {
            let mut row: Vec<(u32, f32)> = ids.iter().copied().zip(weights.iter().copied()).collect();
            row.sort_by_key(|&(id, _)| id);
            for (id, weight) in row {
                all_ids.extend_from_slice(&id.to_le_bytes());
                all_weights.extend_from_slice(&weight.to_le_bytes());
            }
        }
    }

    fn logits(&mut self, _position: usize, logits: &[f32]) {
        self.logits.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    }

    fn wants_logits(&self) -> bool {
        true
    }
}

impl Recorder {
    /// Room for all that will be shown, so that it takes no more than was planned for.
    fn new(hyper: &Hyperparameters, positions: usize) -> Self {
        let room = |bytes: usize| Vec::with_capacity(bytes);
        let router = hyper.layers.iter().enumerate().filter_map(|(layer, described)| {
            let FeedForward::Moe(moe) = described.feed_forward else { return None };
            let row = 4 * moe.top_k;
            Some((layer, (room(positions * row), room(positions * row))))
        });
        let router = router.collect();
        Self { logits: room(positions * 4 * hyper.vocabulary), router }
    }

    /// Bytes that this takes.
    fn bytes(hyper: &Hyperparameters, positions: usize) -> u64 {
        let router: usize = hyper.moes().map(|moe| 8 * moe.top_k).sum();
        (positions as u64) * (4 * hyper.vocabulary + router) as u64
    }

    fn write(&self, path: &Path, positions: usize, vocabulary: usize) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let view = TensorView::new(Dtype::F32, vec![positions, vocabulary], &self.logits)?;
        tensors.insert("logits".to_owned(), view);
        // A layer may have no experts.
        for (layer, (ids, weights)) in self.router.iter().filter(|(_, (ids, _))| !ids.is_empty()) {
            let shape = vec![positions, ids.len() / 4 / positions];
            let ids = TensorView::new(Dtype::I32, shape.clone(), ids)?;
            tensors.insert(format!("router.{layer}.ids"), ids);
            tensors.insert(format!("router.{layer}.weights"), TensorView::new(Dtype::F32, shape, weights)?);
        }
        Ok(serialize_to_file(tensors, None, path)?)
    }
}
