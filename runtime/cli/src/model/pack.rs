//! `membrane model pack`: a mixture of experts written again, each expert in one record as memory holds it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use membrane_engine::{Bytes, EngineError, Packing};
use membrane_formats::{Checkpoint, FormatError, Step, Unfinished};

use super::named;
use crate::report::{Progress, printable};

#[derive(clap::Args)]
pub struct Args {
    /// The model: a GGUF file, the first of a split one, or a folder
    #[arg(value_name = "MODEL", value_parser = named())]
    model: PathBuf,
    /// Where the packed model goes: a file for a GGUF file, a folder for a folder
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let packing = Packing::of(Checkpoint::open(&args.model)?)?;
    let total = packing.bytes();
    let mut progress =
        [Step::Finding, Step::Writing, Step::Comparing].map(|step| (step, Progress::new(name(step), false)));
    let written = packing.write(&args.out, &mut |step, at| {
        let of_step = progress.iter_mut().find(|(known, _)| *known == step);
        of_step.into_iter().for_each(|(_, progress)| progress.bytes(at.min(total), total));
    });
    progress.into_iter().for_each(|(_, progress)| progress.done());
    let begun = Unfinished::folder(&args.out).filter(|folder| folder.exists());
    // What the disk did not do may be done the next time.
    let interrupted = matches!(
        written,
        Err(EngineError::Format(
            FormatError::Write { .. } | FormatError::Read { .. } | FormatError::Open { .. }
        ))
    );
    match begun.filter(|_| interrupted) {
        Some(folder) => written.with_context(|| {
            let folder = printable(&folder.display().to_string());
            format!("what is written stays in {folder}; the same command goes on from there")
        })?,
        None => written?,
    }
    eprintln!(
        "{}: {}, written and read back; give it to `run` in place of {}",
        printable(&args.out.display().to_string()),
        Bytes(total),
        printable(&args.model.display().to_string())
    );
    Ok(ExitCode::SUCCESS)
}

/// What a step is called.
fn name(step: Step) -> &'static str {
    match step {
        Step::Finding => "find what is written",
        Step::Writing => "pack",
        Step::Comparing => "compare",
    }
}
