//! `membrane plugin`: what authors of plugins do.

mod dev;
pub mod project;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Verb {
    /// Chat with a plugin that is built and replaced whenever its files are saved.
    Dev(dev::Args),
}

pub fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Dev(args) => dev::run(args),
    }
}
