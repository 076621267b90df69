//! `cargo xtask arm`: the tests of the kernels as code for 64-bit ARM, on CPUs that QEMU plays.
//!
//! It is no part of CI, which only lints that code: compiling and playing take some ten minutes.

use crate::arguments::Arguments;
use crate::setup;
use crate::workspace::{cargo, output, phase, run as run_command, scratch};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target whose linker and C library come with the toolchain.
pub const TARGET: &str = "aarch64-unknown-linux-musl";

/// CPUs with and without products of bytes (FEAT_DotProd), and the instruction set that the kernels must find there.
const CPUS: [(&str, &str); 2] = [("max", "dotprod"), ("cortex-a72", "neon")];

/// What the program is called in Debian's releases.
const NAMES: [&str; 2] = ["qemu-aarch64", "qemu-aarch64-static"];
/// The packages that have it without needing others: up to Debian 12, and since.
const PACKAGES: [&str; 2] = ["qemu-user-static", "qemu-user"];

/// Tells the tests that instruction set.
const EXPECTED_ISA: &str = "MEMBRANE_TEST_ISA";

/// `cargo xtask arm`.
///
/// # Errors
/// When something can't be set up or a test fails.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    setup::target(TARGET)?;
    let qemu = qemu()?;
    for (cpu, isa) in CPUS {
        phase(&format!("testing the kernels on the CPU {cpu}"));
        let mut command = cargo();
        command.args(["test", "--release", "--package", "membrane-kernels", "--tests", "--target", TARGET]);
        for setting in
            ["linker=\"rust-lld\"".to_owned(), format!("runner=[{:?}]", qemu.display().to_string())]
        {
            command.arg("--config").arg(format!("target.{TARGET}.{setting}"));
        }
        run_command(command.env("QEMU_CPU", cpu).env(EXPECTED_ISA, isa))?;
    }
    Ok(())
}

/// QEMU for programs of Linux on 64-bit ARM: the machine's, or Debian's package unpacked under `target/tools`.
fn qemu() -> Result<PathBuf> {
    let folder = scratch("tools/qemu")?;
    let unpacked = NAMES.map(|name| folder.join("usr/bin").join(name));
    let found = || NAMES.map(PathBuf::from).into_iter().chain(unpacked.clone()).find(|program| runs(program));
    if let Some(program) = found() {
        return Ok(program);
    }
    let advice = "QEMU's emulation of programs is needed (Debian: `apt-get install qemu-user`)";
    for package in PACKAGES {
        phase(&format!("fetching {package} into target/tools/qemu"));
        let mut fetch = Command::new("apt-get");
        run_command(fetch.args(["download", package]).current_dir(&folder)).context(advice)?;
        let files = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
            run_command(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&folder)).context(advice)?;
            std::fs::remove_file(file)?;
        }
        if let Some(program) = found() {
            return Ok(program);
        }
    }
    bail!(advice)
}

fn runs(program: &Path) -> bool {
    output(Command::new(program).arg("--version")).is_ok()
}
