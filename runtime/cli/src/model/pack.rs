//! `membrane model pack`: a mixture of experts written again, each expert in one record as memory holds it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use membrane_engine::{Bytes, Packing};
use membrane_formats::Checkpoint;

use crate::report::{Progress, printable};

#[derive(clap::Args)]
pub struct Args {
    /// The model: a GGUF file, the first of a split one, or a folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Where the packed model goes: a file for a GGUF file, a folder for a folder
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let packing = Packing::of(Checkpoint::open(&args.model)?)?;
    let total = packing.bytes();
    let mut progress = Progress::new("pack", false);
    let written = packing.write(&args.out, &mut |done| progress.bytes(done.min(total), total));
    progress.done();
    let part = format!("{}.part", args.out.display());
    let kept =
        || format!("what is written stays in {}; the same command goes on from there", printable(&part));
    match PathBuf::from(&part).exists() {
        true => written.with_context(kept)?,
        false => written?,
    }
    eprintln!(
        "{}: {}, written and read back; give it to `run` in place of {}",
        printable(&args.out.display().to_string()),
        Bytes(total),
        printable(&args.model.display().to_string())
    );
    Ok(ExitCode::SUCCESS)
}
