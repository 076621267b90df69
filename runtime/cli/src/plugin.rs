//! `membrane plugin`: from an empty folder to a plugin that is built, tested and measured. One file a verb.

mod bench;
mod build;
mod new;
mod package;
mod sources;
mod test;

use std::process::ExitCode;

use anyhow::Result;

/// What can be done with a plugin's folder.
#[derive(clap::Subcommand)]
pub enum PluginVerb {
    /// Make a folder with a plugin to start from.
    New(new::Args),
    /// Build the component of a plugin with its language's own toolchain.
    Build(build::Args),
    /// Run the golden cases of a plugin against its component.
    Test(test::Args),
    /// Measure what a plugin costs: size, compiling, starting, each call.
    Bench(bench::Args),
}

pub fn run(verb: PluginVerb) -> Result<ExitCode> {
    match verb {
        PluginVerb::New(args) => new::run(&args),
        PluginVerb::Build(args) => build::run(&args),
        PluginVerb::Test(args) => test::run(&args),
        PluginVerb::Bench(args) => bench::run(&args),
    }
}
