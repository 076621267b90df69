//! Rust: cargo builds for wasm32-unknown-unknown, and the linker that is part of the Rust toolchain makes a component.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::toolchain::{in_path, shown};
use crate::plugin::package::Package;

const TARGET: &str = "wasm32-unknown-unknown";

/// Builds with cargo and copies the component out of its target folder.
pub fn build(package: &Package, output: &Path) -> Result<()> {
    if in_path("cargo").is_none() {
        bail!(
            "a plugin in Rust is built by cargo, which is not in PATH: install Rust from https://rustup.rs"
        );
    }
    require_target(&package.folder)?;
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&package.folder);
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let built = component(&mut cargo)?;
    fs::copy(&built, output)
        .with_context(|| format!("can't copy {} to {}", built.display(), output.display()))?;
    Ok(())
}

/// Says what to install where the target is missing; the compiler's own words come late and are many.
fn require_target(folder: &Path) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(folder).args(["--print", "target-libdir", "--target", TARGET]);
    let output = rustc.output().context("can't run rustc: install Rust from https://rustup.rs")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !libraries.is_dir() {
        bail!("a plugin in Rust is built for {TARGET}, which is missing: run `rustup target add {TARGET}`");
    }
    Ok(())
}

/// Runs cargo; gives the component that it made.
fn component(cargo: &mut Command) -> Result<PathBuf> {
    let shown = shown(cargo);
    eprintln!("   {shown}");
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("can't run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}); what it said is above", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files = artifacts.filter_map(|artifact| artifact["filenames"].as_array().cloned()).flatten();
    let wasm = files.filter_map(|file| file.as_str().map(PathBuf::from));
    let wasm: Vec<PathBuf> = wasm.filter(|file| file.extension().is_some_and(|e| e == "wasm")).collect();
    match wasm.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("cargo made no .wasm: set crate-type = [\"cdylib\", \"lib\"] under [lib] in Cargo.toml"),
        _ => bail!("cargo made several .wasm files; build one package, in its own folder"),
    }
}
