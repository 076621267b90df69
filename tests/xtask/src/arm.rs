//! `cargo xtask arm`: the tests of the kernels as code for 64-bit ARM, on CPUs that QEMU plays.
//!
//! It is no part of CI, which only lints that code: compiling and playing take some ten minutes.

use crate::arguments::Arguments;
use crate::setup;
use crate::workspace::{cargo, output, phase, run as run_command, scratch};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// The target whose linker and C library come with the toolchain.
pub const TARGET: &str = "aarch64-unknown-linux-musl";

/// CPUs with and without products of bytes (FEAT_DotProd).
const CPUS: [&str; 2] = ["max", "cortex-a72"];

/// `cargo xtask arm`.
///
/// # Errors
/// When something can't be set up or a test fails.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    setup::target(TARGET)?;
    let qemu = qemu()?;
    for cpu in CPUS {
        phase(&format!("testing the kernels on the CPU {cpu}"));
        let mut command = cargo();
        command.args(["test", "--release", "--package", "membrane-kernels", "--lib", "--target", TARGET]);
        for setting in
            ["linker=\"rust-lld\"".to_owned(), format!("runner=[{:?}]", qemu.display().to_string())]
        {
            command.arg("--config").arg(format!("target.{TARGET}.{setting}"));
        }
        run_command(command.env("QEMU_CPU", cpu))?;
    }
    Ok(())
}

/// QEMU for programs of Linux on 64-bit ARM: the machine's, or Debian's package unpacked under `target/tools`.
fn qemu() -> Result<PathBuf> {
    for name in ["qemu-aarch64", "qemu-aarch64-static"] {
        if output(Command::new(name).arg("--version")).is_ok() {
            return Ok(name.into());
        }
    }
    let folder = scratch("tools/qemu")?;
    let program = folder.join("usr/bin/qemu-aarch64-static");
    if !program.exists() {
        phase("fetching QEMU into target/tools/qemu");
        let advice = "QEMU's emulation of programs is needed (Debian: `apt-get install qemu-user`)";
        let mut fetch = Command::new("apt-get");
        run_command(fetch.args(["download", "qemu-user-static"]).current_dir(&folder)).context(advice)?;
        let packages = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        for package in packages.filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
            run_command(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&folder))
                .context(advice)?;
            std::fs::remove_file(package)?;
        }
    }
    Ok(program)
}
