//! `membrane eval`: how good a model is at something.

mod perplexity;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum EvalVerb {
    /// How well a model predicts a text, as llama.cpp's tool measures it.
    Perplexity(perplexity::Args),
}

pub fn run(verb: &EvalVerb) -> Result<ExitCode> {
    match verb {
        EvalVerb::Perplexity(args) => perplexity::run(args),
    }
}
