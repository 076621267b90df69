//! `membrane trace`: which experts a model asks for, and what keeping them in memory in one way or another is worth.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use membrane_pager::Trace;

mod generate;
mod predict;
mod record;
mod simulate;

#[derive(Subcommand)]
pub enum TraceVerb {
    /// Run a text through a model and write down which experts it asks for
    Record(Box<record::Args>),
    /// Play a trace through the engine's own bookkeeping, with several sizes and policies, and through Belady's optimum
    Simulate(simulate::Args),
    /// Tokens a second that a trace, a disk and a memory allow, on paper
    Predict(predict::Args),
    /// Write a trace of drawn routing in the shape of any model
    Generate(generate::Args),
}

pub fn run(verb: &TraceVerb) -> Result<ExitCode> {
    match verb {
        TraceVerb::Record(args) => record::run(args),
        TraceVerb::Simulate(args) => simulate::run(args),
        TraceVerb::Predict(args) => predict::run(args),
        TraceVerb::Generate(args) => generate::run(args),
    }
}

fn open(path: &Path) -> Result<Trace> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Trace::read(BufReader::new(file)).with_context(|| path.display().to_string())
}

/// Experts that one token asks for in all layers: with fewer slots, those of a token don't fit.
fn cliff(trace: &Trace) -> usize {
    let mut most = vec![0; trace.header().groups.len()];
    for asked in trace.requests() {
        // A token of a longer pass asks for as many; how many can be told from their uses together.
        let uses: u64 = asked.experts.iter().map(|&(_, uses)| u64::from(uses)).sum();
        let of_token = usize::try_from(uses / u64::from(asked.rows)).unwrap_or(usize::MAX);
        let most = &mut most[asked.group as usize];
        *most = of_token.max(*most);
    }
    most.iter().sum()
}
