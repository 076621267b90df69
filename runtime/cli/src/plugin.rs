//! `membrane plugin`: from an empty folder to a plugin that is built, tested, measured, signed and checked. One file a
//! verb.

mod bench;
mod build;
mod built;
mod dev;
mod inspect;
mod keygen;
mod new;
mod package;
pub mod project;
mod sign;
mod sources;
mod test;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What can be done with a plugin.
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
    /// Make a folder with a plugin to start from.
    New(new::Args),
    /// Build the component of a plugin with its language's own toolchain.
    Build(build::Args),
    /// Run the golden cases of a plugin against its component.
    Test(test::Args),
    /// Chat with a plugin that is built and replaced whenever its files are saved.
    Dev(Box<dev::Args>),
    /// Measure what a plugin costs: size, compiling, starting, each call.
    Bench(bench::Args),
}

pub fn run(verb: PluginVerb) -> Result<ExitCode> {
    match verb {
        PluginVerb::Inspect(args) => inspect::run(&args),
        PluginVerb::Keygen(args) => keygen::run(&args),
        PluginVerb::Sign(args) => sign::run(&args),
        PluginVerb::Verify(args) => verify::run(&args),
        PluginVerb::New(args) => new::run(&args),
        PluginVerb::Build(args) => build::run(&args),
        PluginVerb::Test(args) => test::run(&args),
        PluginVerb::Dev(args) => dev::run(*args),
        PluginVerb::Bench(args) => bench::run(&args),
    }
}
