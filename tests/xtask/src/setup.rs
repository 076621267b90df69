//! What the other commands need: targets of the compiler and the demo model.

use crate::arguments::Arguments;
use crate::workspace::{output, phase, root, run as run_command};
use crate::{arm, model, workspace};
use anyhow::{Context, Result};
use std::process::Command;

/// The target that plugins are built for.
const GUEST_TARGET: &str = "wasm32-unknown-unknown";

/// `cargo xtask setup`.
///
/// # Errors
/// When a part can't be set up; says how to do it by hand.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    guest_target()?;
    target(arm::TARGET)?;
    let path = model::dense()?;
    phase(&format!("ready: {}", path.strip_prefix(workspace::root()).unwrap_or(&path).display()));
    Ok(())
}

/// Adds the target that plugins are built for to the toolchain of this repository if it is missing.
///
/// # Errors
/// As for [`target`].
pub fn guest_target() -> Result<()> {
    target(GUEST_TARGET)
}

/// Adds a target to the toolchain of this repository if it is missing.
///
/// # Errors
/// When the toolchain has no such target and rustup can't add it.
pub fn target(name: &str) -> Result<()> {
    let ask = output(Command::new("rustc").args(["--print", "target-libdir", "--target", name]));
    let present = ask.is_ok_and(|folder| std::path::Path::new(folder.trim()).is_dir());
    if present {
        return Ok(());
    }
    phase(&format!("adding the target {name}"));
    let mut rustup = Command::new("rustup");
    run_command(rustup.args(["target", "add", name]).current_dir(root()))
        .with_context(|| format!("the target {name} is needed: `rustup target add {name}`"))
}
