//! What the other commands need: the wasm target and the demo model.

use crate::arguments::Arguments;
use crate::workspace::{output, phase, root, run as run_command};
use crate::{model, workspace};
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
    let path = model::dense()?;
    phase(&format!("ready: {}", path.strip_prefix(workspace::root()).unwrap_or(&path).display()));
    Ok(())
}

/// Adds the wasm target to the toolchain of this repository if it is missing.
///
/// # Errors
/// When the toolchain has no such target and rustup can't add it.
pub fn guest_target() -> Result<()> {
    let ask = output(Command::new("rustc").args(["--print", "target-libdir", "--target", GUEST_TARGET]));
    let present = ask.is_ok_and(|folder| std::path::Path::new(folder.trim()).is_dir());
    if present {
        return Ok(());
    }
    phase(&format!("adding the target {GUEST_TARGET}, which plugins are built for"));
    let mut rustup = Command::new("rustup");
    run_command(rustup.args(["target", "add", GUEST_TARGET]).current_dir(root())).with_context(|| {
        format!("plugins need the target {GUEST_TARGET}: `rustup target add {GUEST_TARGET}`")
    })
}
