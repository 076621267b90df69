//! `membrane plugin verify`: checks a signature against a key that is known.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use membrane_host::{Component, signature_path};
use membrane_profile::signature::{Fingerprint, PublicKey, Statement};
use serde::Serialize;

use crate::report::{self, describe, printable};
use crate::signed::{self, Extent, Links, Signer};

#[derive(clap::Args)]
pub struct Args {
    /// The component (.wasm), or a folder that was signed as a whole
    #[arg(value_name = "PLUGIN")]
    plugin: PathBuf,
    #[command(flatten)]
    signer: Signer,
    /// The signature [default: PLUGIN.wasm.sig]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// A path below a signed folder that is not compared, beside those that the signature leaves out; may be repeated
    #[arg(long, value_name = "PATH")]
    ignore: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    plugin: String,
    signature: String,
    valid: bool,
    signer: Option<Fingerprint>,
    files: usize,
    problem: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.signer.is_known(), "--key FILE or --fingerprint SHA256 says whose signature it must be");
    let key = args.signer.key()?;
    std::fs::metadata(&args.plugin).with_context(|| format!("{}", args.plugin.display()))?;
    let signature = args.signature.clone().unwrap_or_else(|| signature_path(&args.plugin));
    let checked = check(args, &signature, key.as_ref());
    let (valid, signer, files, problem) = match checked {
        Ok((signer, files)) => (true, Some(signer), files, None),
        Err(error) => (false, None, 0, Some(describe(&error))),
    };
    let report = Report {
        plugin: args.plugin.display().to_string(),
        signature: signature.display().to_string(),
        valid,
        signer,
        files,
        problem,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        let plugin = printable(&report.plugin);
        match (&report.signer, &report.problem) {
            (Some(signer), _) => writeln!(out, "{plugin}: signed by {signer}")?,
            (None, problem) => writeln!(out, "{plugin}: {}", problem.as_deref().unwrap_or("not signed"))?,
        }
    }
    Ok(ExitCode::from(u8::from(!report.valid)))
}

/// The key that signed, and the number of files. Errors: what is wrong with the signature.
fn check(args: &Args, signature: &Path, key: Option<&PublicKey>) -> Result<(Fingerprint, usize)> {
    let (signer, statement) = args.signer.statement(signature, key)?;
    let files = contents(args, signature, &statement)
        .with_context(|| format!("the signature {}", signature.display()))?;
    Ok((signer, files))
}

fn contents(args: &Args, signature: &Path, statement: &Statement) -> Result<usize> {
    let plugin = &args.plugin;
    if plugin.is_dir() {
        let mut ignored: Vec<PathBuf> = statement.ignored.iter().map(PathBuf::from).collect();
        ignored.extend_from_slice(&args.ignore);
        let extent = Extent { ignored: &ignored, unsigned: &[], links: Links::None };
        return signed::compare(plugin, signature, statement, &extent);
    }
    let name = plugin.file_name().unwrap_or_default().to_string_lossy();
    statement.is_of_file(Component::read(&name, plugin)?.digest)?;
    Ok(1)
}
