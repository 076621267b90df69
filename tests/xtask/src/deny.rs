//! Licences, banned crates, sources and advisories of all dependencies, by cargo-deny and `deny.toml`.

use crate::workspace::{cargo, guest_workspaces, output, phase, root, run as run_command, scratch};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "0.20.2";

/// Checks the workspace and the guests.
///
/// # Errors
/// When cargo-deny can't be installed or finds something.
pub fn run() -> Result<()> {
    let tool = install()?;
    phase("licences, bans and sources");
    let mut workspaces = vec![root()];
    // A template becomes somebody's own plugin, whose licence they choose; it depends on nothing but the SDK and serde.
    let is_template = |folder: &PathBuf| folder.components().any(|part| part.as_os_str() == "template");
    workspaces.extend(guest_workspaces()?.into_iter().filter(|folder| !is_template(folder)));
    for folder in &workspaces {
        run_command(check(&tool, folder).args(["licenses", "bans", "sources"]))?;
    }
    phase("advisories");
    let fetch = output(base(&tool, &root()).args(["fetch", "db"]));
    if let Err(error) = fetch {
        let reason = format!("{error:#}");
        let reason = reason.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        println!(
            "advisories not checked: their database can't be fetched ({}); what stands is the list of known \
             bad versions in deny.toml, which was checked",
            reason.trim()
        );
        return Ok(());
    }
    for folder in &workspaces {
        run_command(check(&tool, folder).arg("advisories"))?;
    }
    Ok(())
}

/// `cargo-deny` of the pinned version, under `target/tools`.
fn install() -> Result<PathBuf> {
    let tools = scratch("tools")?;
    let tool = tools.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    let installed = output(Command::new(&tool).arg("--version"));
    if installed.is_ok_and(|text| text.split_whitespace().last() == Some(VERSION)) {
        return Ok(tool);
    }
    phase(&format!("installing cargo-deny {VERSION} (about a minute on 2 cores)"));
    let build = tools.join("build");
    let mut command = cargo();
    command.args(["install", "--quiet", "--locked", "--force", "cargo-deny", "--version", VERSION]);
    // Its release profile links with fat LTO, for which it takes three times as long to install.
    command.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "false");
    run_command(command.arg("--root").arg(&tools).arg("--target-dir").arg(&build))?;
    std::fs::remove_dir_all(&build)?;
    Ok(tool)
}

fn base(tool: &Path, folder: &Path) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(folder).args(["--log-level", "error", "--all-features", "--manifest-path"]);
    command.arg(folder.join("Cargo.toml")).arg("--config").arg(root().join("deny.toml"));
    command
}

fn check(tool: &Path, folder: &Path) -> Command {
    let mut command = base(tool, folder);
    command.args(["check", "--hide-inclusion-graph"]);
    command
}
