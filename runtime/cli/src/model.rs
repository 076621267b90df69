//! `membrane model`: model files before they are run. One file a verb.

mod inspect;
mod ls;
mod named;
mod pack;
mod places;
mod sums;
mod templates;
mod values;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
pub use inspect::DIGESTED_BYTES;
pub use named::model as named;

#[derive(Subcommand)]
pub enum ModelVerb {
    /// What a model is: architecture, quantisation, tokenizer and template with digests, what is unusual, and the memory plan.
    Inspect(inspect::Args),
    /// Find models where Hugging Face, Ollama, LM Studio and llama.cpp keep them, and in folders.
    Ls(ls::Args),
    /// Write a mixture of experts again with each expert in one record, as memory holds it: nothing is to be recoded at a run.
    Pack(pack::Args),
    /// Compare the digests of a model's files with a list, its names, a profile's lock or a signature.
    Verify(verify::Args),
}

pub fn run(verb: &ModelVerb) -> Result<ExitCode> {
    match verb {
        ModelVerb::Inspect(args) => inspect::run(args),
        ModelVerb::Ls(args) => ls::run(args),
        ModelVerb::Pack(args) => pack::run(args),
        ModelVerb::Verify(args) => verify::run(args),
    }
}
