//! `membrane plugin`: plugins looked at, signed and checked.

mod folder;
mod inspect;
mod keygen;
mod sign;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum PluginVerb {
    /// What a plugin is and asks for; the status is 1 if this program can't run it.
    Inspect(inspect::Args),
    /// Make a key to sign with.
    Keygen(keygen::Args),
    /// Sign a component; the signature goes into a file beside it.
    Sign(sign::Args),
    /// Check the signature of a component; the status is 1 if it is missing or not that of the key.
    Verify(verify::Args),
}

pub fn run(verb: PluginVerb) -> Result<ExitCode> {
    match verb {
        PluginVerb::Inspect(args) => inspect::run(&args),
        PluginVerb::Keygen(args) => keygen::run(&args),
        PluginVerb::Sign(args) => sign::run(&args),
        PluginVerb::Verify(args) => verify::run(&args),
    }
}
