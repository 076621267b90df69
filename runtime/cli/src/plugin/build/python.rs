//! Python: componentize-py puts the interpreter and the plugin's modules into a component.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::contract;
use super::toolchain::{environment, in_folder_or_path, run};
use crate::plugin::package::Package;

/// Builds with componentize-py, from the plugin's own environment or `PATH`.
pub fn build(package: &Package, output: &Path) -> Result<()> {
    let environment = environment(&package.folder);
    let tool = in_folder_or_path(&environment, "componentize-py").context(
        "a plugin in Python is built by componentize-py, which is neither in .venv of the plugin's folder nor in \
         PATH; in that folder run `python3 -m venv .venv` and `.venv/bin/pip install -r requirements.txt`",
    )?;
    contract::write(package)?;
    let component = std::path::absolute(output)?;
    let world = package.manifest.world.as_str();
    let mut command = Command::new(tool);
    command.current_dir(&package.folder);
    command.args(["--wit-path", "build/wit", "--world", world, "componentize", "--stub-wasi"]);
    command.args(["--python-path", ".", "--python-path", "sdk", "plugin", "--output"]).arg(component);
    run(&mut command).map_err(|error| match contract::missing_grant(package, Path::new("plugin.py")) {
        Some(grant) => error.context(grant),
        None => error,
    })
}
