//! `membrane trace predict`: tokens a second on paper, from the misses of a trace and what disk and memory do.
//!
//! A layer first reads its resident weights, which nothing overlaps. Then its experts: those in memory are computed while the
//! others are read, and each of these when it has arrived, the last one after all reads. With m misses and h hits of b bytes each,
//! d bytes of other weights a layer, weights going through the kernels at K bytes a second and reads coming at D:
//!
//! ```text
//! layer = d / K + max((h + m) b / K, m b / D + b / K if m > 0)        token = sum over layers + overhead
//! ```
//!
//! The misses are those of each request of the trace, not their mean, since a layer waits for its own only.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use membrane_engine::EvictionPolicy;
use membrane_pager::{Phase, Trace, simulate_each};
use membrane_profile::ByteSize;
use serde::Serialize;

use crate::options::Eviction;
use crate::report;

/// Bytes in a GB.
const GB: f64 = 1e9;

#[derive(clap::Args)]
pub struct Args {
    /// A trace, recorded or generated in the shape of the model
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    /// Weights beside the experts that every token reads from memory
    #[arg(long, value_name = "SIZE")]
    dense_bytes: ByteSize,
    /// Memory for experts; of several sizes each is computed
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', required = true)]
    arena: Vec<ByteSize>,
    /// What the disk reads of experts, GB (1e9 bytes) a second; of several numbers each is computed
    #[arg(long, value_name = "GB/S,...", value_delimiter = ',', required = true)]
    disk: Vec<f64>,
    /// How fast weights in memory go through the kernels, GB a second: at most what memory delivers
    #[arg(long, value_name = "GB/S")]
    kernels: f64,
    /// What each token costs beside, in milliseconds
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    overhead: f64,
    /// Which expert gives up its slot
    #[arg(long, value_enum, default_value_t = Eviction::Frequency)]
    eviction: Eviction,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Predicted {
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    arena_bytes: u64,
    slots: usize,
    disk_gb_s: f64,
    hit_rate: f64,
    read_bytes_per_token: f64,
    tok_s: f64,
    /// What the disk alone would allow at these misses; none if nothing is read.
    disk_tok_s: Option<f64>,
    /// What memory alone would allow.
    memory_tok_s: f64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    ensure!(positive(args.kernels), "--kernels: must be above 0");
    ensure!(args.disk.iter().all(|&disk| positive(disk)), "--disk: must be above 0");
    ensure!(args.overhead.is_finite() && args.overhead >= 0.0, "--overhead: must be 0 or more");
    let trace = super::open(&args.trace)?;
    let mut predictions = Vec::new();
    for arena in &args.arena {
        let slots = arena.bytes().checked_div(trace.header().slot_bytes).unwrap_or(0);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX).min(trace.header().experts());
        ensure!(slots > 0, "--arena {} holds no expert", arena.bytes());
        let layers = layers(&trace, slots, args.eviction.into())?;
        ensure!(!layers.is_empty(), "{}: nothing was decoded in it", args.trace.display());
        predictions.extend(
            args.disk.iter().map(|&disk| prediction(args, &trace, arena.bytes(), slots, disk, &layers)),
        );
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => report::json(&Predicted { predictions }, &mut out)?,
        false => print(&predictions, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A layer of a pass in the decode.
struct Layer {
    group: usize,
    hits: f64,
    misses: f64,
    /// Bytes of an expert.
    expert_bytes: f64,
}

fn layers(trace: &Trace, slots: usize, eviction: EvictionPolicy) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    simulate_each(trace, slots, eviction.start(), &mut |asked, counters| {
        if asked.phase == Phase::Decode {
            let group = asked.group as usize;
            layers.push(Layer {
                group,
                hits: counters.hits as f64,
                misses: counters.misses as f64,
                expert_bytes: trace.header().groups[group].1 as f64,
            });
        }
    })?;
    Ok(layers)
}

fn prediction(
    args: &Args,
    trace: &Trace,
    arena_bytes: u64,
    slots: usize,
    disk_gb_s: f64,
    layers: &[Layer],
) -> Prediction {
    let in_turn = trace.header().groups.iter().filter(|(experts, _)| *experts > 0).count().max(1) as f64;
    // A pass goes through the layers in order, so it begins where the number of the layer falls.
    let starts = layers.windows(2).filter(|pair| pair[1].group <= pair[0].group).count();
    let tokens = (starts + 1) as f64;
    let (kernels, disk) = (args.kernels * GB, disk_gb_s * GB);
    let dense = args.dense_bytes.bytes() as f64 / in_turn / kernels;
    let seconds = |layer: &Layer| {
        let of_expert = layer.expert_bytes / kernels;
        let computed = (layer.hits + layer.misses) * of_expert;
        let arrived =
            if layer.misses > 0.0 { layer.misses * layer.expert_bytes / disk + of_expert } else { 0.0 };
        dense + computed.max(arrived)
    };
    let sum = |of: &dyn Fn(&Layer) -> f64| layers.iter().map(of).sum::<f64>();
    let (hits, misses) = (sum(&|layer| layer.hits), sum(&|layer| layer.misses));
    let read = sum(&|layer| layer.misses * layer.expert_bytes) / tokens;
    let used = sum(&|layer| (layer.hits + layer.misses) * layer.expert_bytes) / tokens;
    Prediction {
        arena_bytes,
        slots,
        disk_gb_s,
        hit_rate: hits / (hits + misses).max(1.0),
        read_bytes_per_token: read,
        tok_s: 1.0 / (sum(&seconds) / tokens + args.overhead / 1e3),
        disk_tok_s: (read > 0.0).then(|| disk / read),
        memory_tok_s: kernels / (args.dense_bytes.bytes() as f64 + used),
    }
}

fn print(predictions: &[Prediction], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>10} {:>8} {:>10} {:>6} {:>12} {:>8} {:>12} {:>12}",
        "arena MiB", "slots", "disk GB/s", "hit %", "MB a token", "tok/s", "disk alone", "memory alone"
    )?;
    for p in predictions {
        let alone = p.disk_tok_s.map_or("-".to_owned(), |tok_s| format!("{tok_s:.2}"));
        writeln!(
            out,
            "{:>10.0} {:>8} {:>10.2} {:>6.1} {:>12.1} {:>8.2} {alone:>12} {:>12.2}",
            p.arena_bytes as f64 / f64::from(1 << 20),
            p.slots,
            p.disk_gb_s,
            100.0 * p.hit_rate,
            p.read_bytes_per_token / 1e6,
            p.tok_s,
            p.memory_tok_s
        )?;
    }
    Ok(())
}
