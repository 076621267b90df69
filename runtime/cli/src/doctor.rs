//! `membrane doctor`: what this machine has, and what is missing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Result;
use membrane_engine::{Bytes, Isa, process};
use membrane_host::isolation::{Confinement, probe};
use membrane_kernels::{MEMORY_PROBE_BYTES, Team, fastest_isa, memory_read_bandwidth};
use serde::Serialize;

use crate::isolation;
use crate::report::json;

/// The target that guests are built for.
const GUEST_TARGET: &str = "wasm32-unknown-unknown";

#[derive(clap::Args)]
pub struct Args {
    /// A file of at least some MB on the disk to probe, such as a model [default: this program]
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    plugin_contract: &'static str,
    processors: usize,
    instruction_sets: Vec<String>,
    processor_features: Vec<&'static str>,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    cgroup_limit_bytes: Option<u64>,
    huge_pages: Option<String>,
    memory_read_gb_s: f64,
    disk: Result<Disk, String>,
    /// What holds processes of plugins in.
    isolation: Result<Confinement, String>,
    first_party_plugins: Vec<Plugin>,
    toolchain: Vec<Tool>,
}

#[derive(Serialize)]
struct Disk {
    file: PathBuf,
    direct_gb_s: Option<f64>,
    buffered_gb_s: f64,
}

#[derive(Serialize)]
struct Plugin {
    name: String,
    world: String,
    digest: String,
}

/// Something that plugin authors need.
#[derive(Serialize)]
struct Tool {
    name: &'static str,
    /// What it says of itself; none if it is missing.
    found: Option<String>,
    /// How to get it.
    install: &'static str,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let report = examine(args)?;
    let mut out = io::stdout().lock();
    if args.json {
        json(&report, &mut out)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(ExitCode::from(u8::from(report.disk.is_err() || report.isolation.is_err())))
}

fn examine(args: &Args) -> Result<Report> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let file = match &args.disk {
        Some(file) => file.clone(),
        None => std::env::current_exe()?,
    };
    let team = Team::new(processors, fastest_isa());
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        plugin_contract: membrane_host::CONTRACT,
        processors,
        instruction_sets: Isa::available().into_iter().map(Isa::name).map(str::to_owned).collect(),
        processor_features: features(),
        memory_bytes: process::machine_bytes("MemTotal:"),
        memory_available_bytes: process::machine_bytes("MemAvailable:"),
        cgroup_limit_bytes: process::control_group_bytes(),
        huge_pages: std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .ok()
            .map(|text| text.trim().to_owned()),
        memory_read_gb_s: team.region(|region| memory_read_bandwidth(region, MEMORY_PROBE_BYTES)),
        disk: disk(file),
        isolation: probe(&isolation::program()).map_err(|error| error.to_string()),
        first_party_plugins: membrane_host::first_party::list()
            .map(|plugin| Plugin {
                name: plugin.name.into(),
                world: plugin.world.to_string(),
                digest: plugin.digest(),
            })
            .collect(),
        toolchain: toolchain(),
    })
}

fn disk(file: PathBuf) -> Result<Disk, String> {
    let probe = membrane_pager::probe_disk(&file).map_err(|error| error.to_string())?;
    Ok(Disk { file, direct_gb_s: probe.direct_gb_s, buffered_gb_s: probe.buffered_gb_s })
}

/// Features of the processor that kernels use or could use.
fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! look {
            ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })* };
        }
        look!(
            "avx2",
            "fma",
            "f16c",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512vnni",
            "avx512vbmi",
            "avx512bitalg",
            "avx512bf16",
            "avxvnni"
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! look {
            ($($name:tt),*) => {
                $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })*
            };
        }
        look!("neon", "dotprod", "i8mm", "fp16");
    }
    found
}

fn toolchain() -> Vec<Tool> {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let sysroot = output("rustc", &["--print", "sysroot"]);
    let target = sysroot.as_ref().and_then(|root| {
        let folder = format!("{root}/lib/rustlib/{GUEST_TARGET}/lib");
        std::path::Path::new(&folder).is_dir().then(|| GUEST_TARGET.to_owned())
    });
    vec![
        Tool { name: "rustc", found: output("rustc", &["--version"]), install: "https://rustup.rs" },
        Tool { name: "cargo", found: output("cargo", &["--version"]), install: "https://rustup.rs" },
        Tool { name: GUEST_TARGET, found: target, install: "rustup target add wasm32-unknown-unknown" },
    ]
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "membrane {}, serves plugins of {}", report.version, report.plugin_contract)?;
    writeln!(
        out,
        "processors: {}, instruction sets: {}",
        report.processors,
        report.instruction_sets.join(", ")
    )?;
    writeln!(out, "  features: {}", report.processor_features.join(" "))?;
    let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| Bytes(bytes).to_string());
    writeln!(
        out,
        "memory: {}, available {}",
        size(report.memory_bytes),
        size(report.memory_available_bytes)
    )?;
    if let Some(limit) = report.cgroup_limit_bytes {
        writeln!(out, "  control group limit: {}", Bytes(limit))?;
    }
    writeln!(out, "  read bandwidth: {:.1} GB/s", report.memory_read_gb_s)?;
    if let Some(pages) = &report.huge_pages {
        writeln!(out, "  transparent huge pages: {pages}")?;
    }
    match &report.disk {
        Ok(disk) => {
            let direct = disk.direct_gb_s.map_or("not supported".into(), |speed| format!("{speed:.2} GB/s"));
            writeln!(
                out,
                "disk of {}: direct {direct}, buffered {:.2} GB/s",
                disk.file.display(),
                disk.buffered_gb_s
            )?;
        }
        Err(error) => writeln!(out, "disk: {error}")?,
    }
    match &report.isolation {
        Ok(confinement) => writeln!(out, "processes of plugins are held in by: {confinement}")?,
        Err(error) => writeln!(out, "processes of plugins: {error}")?,
    }
    writeln!(out, "first-party plugins:")?;
    for plugin in &report.first_party_plugins {
        writeln!(out, "  {:<18} {:<8} {}", plugin.name, plugin.world, plugin.digest)?;
    }
    writeln!(out, "for writing plugins in Rust:")?;
    for tool in &report.toolchain {
        match &tool.found {
            Some(found) => writeln!(out, "  {:<24} {found}", tool.name)?,
            None => writeln!(out, "  {:<24} missing: {}", tool.name, tool.install)?,
        }
    }
    Ok(())
}
