//! `membrane logits`: logits of given tokens, for comparisons with other engines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use membrane_engine::{Observer, Prepared};
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
    let mut options = args.model.load.load_options(0)?;
    options.context = options.context.or(Some(args.tokens.len() as u32));
    let prepared = Prepared::open_without_text(&args.model.model, &options)?;
    let model = report::load(prepared, true)?;
    let mut session = model.session();
    let mut recorder = Recorder::default();
    let step = if args.one_by_one { 1 } else { args.tokens.len() };
    for tokens in args.tokens.chunks(step) {
        session.append_observed(tokens, &mut recorder)?;
    }
    recorder
        .write(&args.out, args.tokens.len(), model.hyperparameters().vocabulary)
        .with_context(|| format!("writing {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps what the forward pass shows.
#[derive(Default)]
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
    fn write(&self, path: &std::path::Path, positions: usize, vocabulary: usize) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let view = TensorView::new(Dtype::F32, vec![positions, vocabulary], &self.logits)?;
        tensors.insert("logits".to_owned(), view);
        for (layer, (ids, weights)) in &self.router {
            let shape = vec![positions, ids.len() / 4 / positions];
            let ids = TensorView::new(Dtype::I32, shape.clone(), ids)?;
            tensors.insert(format!("router.{layer}.ids"), ids);
            tensors.insert(format!("router.{layer}.weights"), TensorView::new(Dtype::F32, shape, weights)?);
        }
        Ok(serialize_to_file(tensors, None, path)?)
    }
}
