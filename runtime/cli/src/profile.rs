//! `membrane profile`: profiles looked at, checked, locked and compared, without a model being run.

mod check;
mod diff;
mod excerpt;
mod lock;
mod show;
mod transcripts;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum ProfileVerb {
    /// What a profile resolves to: plugins, digests, what each may do, limits, model.
    Show(show::Args),
    /// Find what is wrong with a profile, without running a model; the status is 1 if something is.
    Check(check::Args),
    /// Write the lock file of a profile: a run refuses whatever then differs from it.
    Lock(lock::Args),
    /// What differs in the behaviour of two profiles; the status is 1 if something does. On recorded answers
    /// (`--transcripts`) it is 2 if something is newly allowed.
    Diff(diff::Args),
}

pub fn run(verb: ProfileVerb) -> Result<ExitCode> {
    match verb {
        ProfileVerb::Show(args) => show::run(&args),
        ProfileVerb::Check(args) => check::run(&args),
        ProfileVerb::Lock(args) => lock::run(&args),
        ProfileVerb::Diff(args) => diff::run(&args),
    }
}
