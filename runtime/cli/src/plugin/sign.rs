//! `membrane plugin sign`: signs a component.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use membrane_host::{Component, Host, signature_path};
use membrane_profile::signature::{self, SecretKey, Statement};
use serde_json::json;

use crate::report::{self, printable};
use crate::whole;

#[derive(clap::Args)]
pub struct Args {
    /// The component (.wasm)
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// The private key, PEM, as `membrane plugin keygen` makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the signature goes [default: PLUGIN.wasm.sig]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let key = SecretKey::read(&args.key).with_context(|| format!("--key {}", args.key.display()))?;
    let name = args.plugin.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let component = Component::read(&name, &args.plugin)?;
    // What is no plugin is not worth a signature.
    Host::world_of(&name, &component.bytes)?;
    let text = signature::sign(&Statement::of_file(&name, component.digest), &key)?;
    let path = args.out.clone().unwrap_or_else(|| signature_path(&args.plugin));
    for (what, taken) in [("component", &args.plugin), ("key", &args.key)] {
        ensure!(
            !same_file(&path, taken),
            "--out {}: is the {what}, which the signature would take the place of; give another file",
            path.display()
        );
    }
    whole::put(&path, &text)?;
    let fingerprint = key.public().fingerprint();
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({ "signature": path, "digest": component.digest, "fingerprint": fingerprint });
        report::json(&report, &mut out)?;
    } else {
        let path = printable(&path.display().to_string());
        writeln!(out, "{path}: {} signed by {fingerprint}", component.digest)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether both lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    let identity =
        |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    identity(a).is_some_and(|a| identity(b) == Some(a))
}
