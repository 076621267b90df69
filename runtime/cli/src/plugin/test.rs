//! `membrane plugin test`: the golden cases of a plugin against its component.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use membrane_host::golden::{GoldenCases, GoldenReport, Outcome};
use membrane_host::{Host, HostOptions, Isolation};
use membrane_profile::Digest;
use serde::Serialize;
use serde_json::Map;

use super::build;
use super::package::Package;
use crate::code;
use crate::isolation;
use crate::report::{self, printable};

#[derive(clap::Args)]
pub struct Args {
    /// The folder of the plugin; it is built first where its component is not of its sources
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Test this component in place of the one that is built from the folder
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,
    /// Where it runs: in this process (none), in one of its own (process), or in one that the kernel holds in (required)
    #[arg(long, value_name = "WHERE", default_value_t = Isolation::None)]
    isolation: Isolation,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    plugin: String,
    digest: String,
    passed: usize,
    failed: usize,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    file: String,
    /// Its place in the file, from 1.
    number: usize,
    about: String,
    passed: bool,
    /// What the plugin did instead.
    mismatch: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let package = Package::open(&args.path)?;
    let cases = GoldenCases::read(&package.golden(), package.manifest.world)?;
    ensure!(!cases.is_empty(), "{} has no cases: write a .json file of some", package.golden().display());
    let bytes = build::up_to_date(&package, args.component.as_deref())?;
    let digest = Digest::of(&bytes).to_string();
    let (log, processes) = (Some(std::sync::Arc::new(log) as _), Some(isolation::options()));
    let host =
        Host::new(HostOptions { log, processes, cache: code::cache(args.json), ..HostOptions::default() })?;
    let plugin = package.load(&host, bytes, Map::new(), args.isolation)?;
    let outcome = cases.run(&host, &plugin)?;
    let failed = outcome.failures().count();
    let report = Report {
        plugin: package.manifest.name.clone(),
        digest,
        passed: cases.len() - failed,
        failed,
        cases: outcome.outcomes.iter().map(Case::from).collect(),
    };
    if args.json {
        report::json(&report, &mut io::stdout().lock())?;
    } else {
        print(&report, &outcome)?;
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn print(report: &Report, outcome: &GoldenReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for failure in outcome.failures() {
        writeln!(out, "{}", printable(&failure.to_string()))?;
    }
    writeln!(out, "{}: {} passed, {} failed", report.plugin, report.passed, report.failed)
}

/// Shows what the plugin logs; the host has taken control characters out of it.
fn log(line: &membrane_host::LogLine) {
    eprintln!("[{}: {}]", line.plugin, line.text);
}

impl From<&Outcome> for Case {
    fn from(outcome: &Outcome) -> Self {
        Self {
            file: outcome.file.display().to_string(),
            number: outcome.number,
            about: outcome.about.clone(),
            passed: outcome.result.is_ok(),
            mismatch: outcome.result.as_ref().err().map(ToString::to_string),
        }
    }
}
