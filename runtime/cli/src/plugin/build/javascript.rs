//! JavaScript: componentize-qjs puts the interpreter QuickJS and the plugin's source into a component.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::contract;
use super::toolchain::{in_folder_or_path, run};
use crate::plugin::package::Package;

const SOURCE: &str = "plugin.js";

/// Builds with componentize-qjs, from the plugin's own packages or `PATH`.
pub fn build(package: &Package, output: &Path) -> Result<()> {
    let programs = package.folder.join("node_modules/.bin");
    let tool = in_folder_or_path(&programs, "componentize-qjs").context(
        "a plugin in JavaScript is built by componentize-qjs, which is neither in node_modules of the plugin's \
         folder nor in PATH; in that folder run `npm install`",
    )?;
    require_export(package)?;
    contract::write(package)?;
    let component = std::path::absolute(output)?;
    let world = package.manifest.world.as_str();
    let mut command = Command::new(tool);
    command.current_dir(&package.folder);
    command.args([
        "--wit",
        "build/wit",
        "--js",
        SOURCE,
        "--world",
        world,
        "--sync",
        "--stub-wasi",
        "--output",
    ]);
    run(command.arg(component)).map_err(|error| match contract::missing_grant(package, Path::new(SOURCE)) {
        Some(grant) => error.context(grant),
        None => error,
    })
}

/// The tool makes a component of any module; one without the export would trap at its first call.
fn require_export(package: &Package) -> Result<()> {
    let path = package.folder.join(SOURCE);
    let source = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let world = package.manifest.world;
    ensure!(
        source.contains(&format!("{world}Plugin")),
        "{} has no export `{world}Plugin`, which the host calls: see sdk/{world}.js",
        path.display()
    );
    Ok(())
}
