//! `membrane`: mixture-of-experts models larger than memory, with behaviour as WebAssembly plugins.

#![forbid(unsafe_code)]

mod bench;
mod chat;
mod code;
mod doctor;
mod inspect;
mod logits;
mod options;
mod peer;
mod plugin;
mod printer;
mod report;
mod run;
mod session;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit status of a usage error or a failure.
const FAILURE: u8 = 2;

#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer a prompt, or chat in the terminal if none is given.
    Run(run::Args),
    /// Look at model files.
    #[command(subcommand)]
    Model(ModelVerb),
    /// Write plugins.
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// Compute the logits of given tokens, for comparisons with other engines.
    Logits(logits::Args),
    /// Measure prefill and decode beside what this machine's memory and disk allow.
    Bench(bench::Args),
    /// Say what this machine has and what is missing.
    Doctor(doctor::Args),
}

#[derive(Subcommand)]
enum ModelVerb {
    /// Metadata, architecture, tensors by type and the memory plan of a model file.
    Inspect(inspect::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::run(args),
        Verb::Model(ModelVerb::Inspect(args)) => inspect::run(&args),
        Verb::Plugin(verb) => plugin::run(verb),
        Verb::Logits(args) => logits::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) if closed_pipe(&error) => ExitCode::from(FAILURE),
        Err(error) => {
            eprintln!("membrane: {}", report::describe(&error));
            ExitCode::from(FAILURE)
        }
    }
}

/// Whether whoever reads standard output has gone, as `head` does; there is no one to tell.
fn closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
