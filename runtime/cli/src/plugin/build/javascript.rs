//! JavaScript: componentize-qjs puts the interpreter QuickJS and the plugin's source into a component.

use std::process::Command;

use anyhow::{Context, Result};

use super::contract;
use super::toolchain::{in_folder_or_path, run};
use crate::plugin::package::Package;

/// Builds with componentize-qjs, from the plugin's own packages or `PATH`.
pub fn build(package: &Package) -> Result<()> {
    let programs = package.folder.join("node_modules/.bin");
    let tool = in_folder_or_path(&programs, "componentize-qjs").context(
        "a plugin in JavaScript is built by componentize-qjs, which is neither in node_modules of the plugin's \
         folder nor in PATH; in that folder run `npm install`",
    )?;
    contract::write(package)?;
    let component = std::path::absolute(package.component())?;
    let world = package.manifest.world.as_str();
    let mut command = Command::new(tool);
    command.current_dir(&package.folder);
    command.args([
        "--wit",
        "build/wit",
        "--js",
        "plugin.js",
        "--world",
        world,
        "--sync",
        "--stub-wasi",
        "--output",
    ]);
    run(command.arg(component))
}
