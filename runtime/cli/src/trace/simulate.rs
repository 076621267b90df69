//! `membrane trace simulate`: hits of each policy and of Belady's optimum, for several sizes of the arena.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use membrane_engine::{Counters, EvictionPolicy};
use membrane_pager::{Outcome, Trace, optimum, simulate};
use serde::Serialize;

use crate::options::{Eviction, at_least_one};
use crate::report;

/// Sizes of arenas by default, in quarters of what one token asks for.
const QUARTERS: [usize; 11] = [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32];

#[derive(clap::Args)]
pub struct Args {
    /// A trace, as `membrane trace record` writes them
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    /// Experts that the arena holds; of several numbers each is played [default: from a quarter to eight times of what one token
    /// asks for, and what was recorded]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = at_least_one)]
    slots: Vec<usize>,
    /// Policies [default: all]
    #[arg(long, value_enum, value_name = "POLICY,...", value_delimiter = ',')]
    eviction: Vec<Eviction>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Simulated {
    model: String,
    experts: usize,
    slot_bytes: u64,
    /// Experts that one token asks for.
    per_token: usize,
    /// Slots of the pager that was recorded.
    recorded_slots: usize,
    sizes: Vec<Size>,
}

#[derive(Serialize)]
struct Size {
    slots: usize,
    optimum: Phases,
    policies: Vec<Policy>,
}

#[derive(Serialize)]
struct Policy {
    eviction: &'static str,
    #[serde(flatten)]
    phases: Phases,
}

#[derive(Serialize)]
struct Phases {
    prompt: Counts,
    decode: Counts,
}

#[derive(Serialize)]
struct Counts {
    requests: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
    record_bytes: u64,
}

impl Phases {
    fn of(outcome: &Outcome) -> Self {
        Self { prompt: Counts::of(&outcome.prompt), decode: Counts::of(&outcome.decode) }
    }

    /// Of the decode, or of the prompt where nothing was decoded.
    fn counts(&self) -> &Counts {
        if self.decode.requests > 0 { &self.decode } else { &self.prompt }
    }
}

impl Counts {
    fn of(counters: &Counters) -> Self {
        let Counters { requests, hits, misses, evictions, record_bytes, .. } = *counters;
        Self { requests, hits, misses, evictions, record_bytes }
    }

    fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.requests.max(1) as f64
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let trace = super::open(&args.trace)?;
    let header = trace.header();
    ensure!(header.experts() > 0, "{}: there are no experts in it", args.trace.display());
    let experts = header.experts();
    if let Some(slots) = args.slots.iter().find(|&&slots| slots == 0 || slots > experts) {
        bail!("--slots {slots}: the trace is of {experts} experts; give 1 to {experts}");
    }
    let per_token = super::cliff(&trace);
    let policies: Vec<EvictionPolicy> = match args.eviction.is_empty() {
        true => EvictionPolicy::ALL.to_vec(),
        false => args.eviction.iter().map(|&eviction| eviction.into()).collect(),
    };
    let sizes = sizes(args, &trace, per_token).into_iter().map(|slots| size(&trace, slots, &policies));
    let simulated = Simulated {
        model: header.model.clone(),
        experts: header.experts(),
        slot_bytes: header.slot_bytes,
        per_token,
        recorded_slots: header.slots,
        sizes: sizes.collect::<Result<_>>()?,
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => report::json(&simulated, &mut out)?,
        false => print(&simulated, &policies, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn sizes(args: &Args, trace: &Trace, per_token: usize) -> Vec<usize> {
    let experts = trace.header().experts();
    let mut sizes = args.slots.clone();
    if sizes.is_empty() {
        sizes.extend(QUARTERS.iter().map(|quarters| (per_token * quarters / 4).max(1)));
        sizes.push(trace.header().slots.clamp(1, experts));
    }
    sizes.retain(|&slots| slots <= experts);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn size(trace: &Trace, slots: usize, policies: &[EvictionPolicy]) -> Result<Size> {
    let policy = |&policy: &EvictionPolicy| {
        let phases = Phases::of(&simulate(trace, slots, policy.start())?);
        Ok(Policy { eviction: policy.name(), phases })
    };
    Ok(Size {
        slots,
        optimum: Phases::of(&optimum(trace, slots)?),
        policies: policies.iter().map(policy).collect::<Result<_>>()?,
    })
}

fn print(simulated: &Simulated, policies: &[EvictionPolicy], out: &mut impl Write) -> io::Result<()> {
    let Simulated { experts, per_token, slot_bytes, .. } = simulated;
    let model = report::printable(&simulated.model);
    writeln!(out, "{model}: {experts} experts, a token asks for {per_token}")?;
    writeln!(out, "hits in percent, and in brackets the share of those of the optimum")?;
    write!(out, "{:>8} {:>8} {:>6} {:>8}", "slots", "MiB", "bank %", "optimum")?;
    policies.iter().try_for_each(|policy| write!(out, " {:>14}", policy.name()))?;
    writeln!(out)?;
    for size in &simulated.sizes {
        let best = size.optimum.counts().hit_rate();
        let mebibytes = (size.slots as f64 * *slot_bytes as f64) / f64::from(1 << 20);
        let bank = 100.0 * size.slots as f64 / *experts as f64;
        write!(out, "{:>8} {mebibytes:>8.0} {bank:>6.1} {:>8.1}", size.slots, 100.0 * best)?;
        for policy in &size.policies {
            let rate = policy.phases.counts().hit_rate();
            write!(out, " {:>7.1} ({:>4.0})", 100.0 * rate, 100.0 * rate / best.max(1e-9))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
