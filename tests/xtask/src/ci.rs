//! `cargo xtask ci`: what has to hold before a change lands.

use crate::arguments::Arguments;
use crate::workspace::{
    cargo, cargo_in, guest_workspaces, host_triple, phase, root, run as run_command, scratch,
};
use crate::{arm, deny, languages, readme, setup, suite};
use anyhow::Result;
use std::time::Instant;

/// A part of CI.
type Part = fn() -> Result<()>;

/// `cargo xtask ci`: the cheap checks first.
///
/// # Errors
/// When a check fails; the first one ends the run.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    let began = Instant::now();
    setup::guest_target()?;
    let parts: [(&str, Part); 6] = [
        ("formatting", formatting),
        ("lints", lints),
        ("tests", || suite::all(false)),
        ("languages", languages::verify),
        ("licences", deny::run),
        ("READMEs", readme::run),
    ];
    let mut times = Vec::new();
    for (name, part) in parts {
        let begun = Instant::now();
        part()?;
        times.push(format!("{name} {:.1}", minutes(begun)));
    }
    phase(&format!("all of CI passed in {:.1} minutes: {}", minutes(began), times.join(", ")));
    Ok(())
}

fn minutes(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() / 60.0
}

fn formatting() -> Result<()> {
    phase("formatting");
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    for folder in guest_workspaces()?.into_iter().chain([root().join("tests/fuzz")]) {
        run_command(cargo_in(&folder).args(["fmt", "--all", "--check"]))?;
    }
    Ok(())
}

/// Clippy with no warning allowed: the host's workspace, the kernels for ARM, then the guests as wasm and, with their
/// tests, natively.
fn lints() -> Result<()> {
    phase("lints");
    let deny_warnings = ["--", "-D", "warnings"];
    let workspace = ["clippy", "--workspace", "--release", "--all-targets"];
    run_command(cargo().args(workspace).args(deny_warnings))?;
    setup::target(arm::TARGET)?;
    let kernels =
        ["clippy", "--package", "membrane-kernels", "--release", "--lib", "--tests", "--target", arm::TARGET];
    run_command(cargo().args(kernels).args(deny_warnings))?;
    let host = host_triple()?;
    let built = scratch("guests")?;
    for folder in guest_workspaces()? {
        for (target, targets) in [("wasm32-unknown-unknown", "--lib"), (&host, "--all-targets")] {
            let mut command = cargo_in(&folder);
            command.args(["clippy", "--workspace", "--locked", targets, "--target", target]);
            run_command(command.arg("--target-dir").arg(&built).args(deny_warnings))?;
        }
    }
    Ok(())
}
