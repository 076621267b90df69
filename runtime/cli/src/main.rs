//! `membrane`: mixture-of-experts models larger than memory, with behaviour as WebAssembly plugins.

#![forbid(unsafe_code)]

/// As in std, but where standard error can't be written (its reader has gone, the disk is full) what is for people is
/// lost, and not the answer.
macro_rules! eprint {
    ($($text:tt)*) => { $crate::report::tell(format_args!($($text)*)) };
}
/// `eprint!` with the end of the line.
macro_rules! eprintln {
    () => { eprint!("\n") };
    ($($text:tt)*) => { eprint!("{}\n", format_args!($($text)*)) };
}

mod agent;
mod audit;
mod bench;
mod cache;
mod chat;
mod code;
mod components;
mod constraint;
mod digests;
mod doctor;
mod eval;
mod fingerprint;
mod isolation;
mod judged;
mod logits;
mod model;
mod model_lock;
mod options;
mod peer;
mod plugin;
mod plugin_log;
mod printer;
mod profile;
mod recall;
mod recording;
mod replay;
mod report;
mod resolution;
mod run;
mod session;
mod signed;
mod template;
mod trace;
mod transcript;
mod watch;
mod whole;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit status of a usage error or a failure.
const FAILURE: u8 = 2;
/// Exit status of an answer that Ctrl-C ended, as shells have it for programs that end by themselves then.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer a prompt, or chat in the terminal if none is given.
    #[command(visible_alias = "chat")]
    Run(Box<run::Args>),
    /// Give tasks to an agent, which uses the model and tools by itself.
    Agent(Box<agent::Args>),
    /// Find model files, look at them, verify them.
    #[command(subcommand)]
    Model(model::ModelVerb),
    /// Look at profiles, lock them, compare them.
    #[command(subcommand)]
    Profile(profile::ProfileVerb),
    /// Write, build, test, measure, inspect, sign and verify plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginVerb),
    /// Compute the logits of given tokens, for comparisons with other engines.
    Logits(logits::Args),
    /// Measure prefill and decode beside what this machine's memory and disk allow.
    Bench(bench::Args),
    /// Record which experts a model asks for, and judge how they are kept in memory.
    #[command(subcommand)]
    Trace(trace::TraceVerb),
    /// Measure how good a model is.
    #[command(subcommand)]
    Eval(eval::EvalVerb),
    /// Look at audit logs.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Make recorded answers again, and say where they differ.
    Replay(replay::Args),
    /// Say what this machine has and what is missing.
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    isolation::serve_if_asked();
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::run(*args),
        Verb::Agent(args) => agent::run(*args),
        Verb::Model(verb) => model::run(&verb),
        Verb::Profile(verb) => profile::run(verb),
        Verb::Plugin(verb) => plugin::run(verb),
        Verb::Logits(args) => logits::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Trace(verb) => trace::run(&verb),
        Verb::Eval(verb) => eval::run(&verb),
        Verb::Audit(verb) => audit::run(&verb),
        Verb::Replay(args) => replay::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
    };
    plugin_log::flush();
    match result {
        Ok(code) => code,
        Err(error) if closed_pipe(&error) => ExitCode::from(FAILURE),
        Err(error) => {
            eprintln!("membrane: {}", judged::error(&error));
            ExitCode::from(FAILURE)
        }
    }
}

/// Whether whoever reads standard output has gone, as `head` does; there is no one to tell.
fn closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
