//! A plugin's folder, built by its own toolchain.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::build;
use super::package::Package;

/// A folder with the source of a plugin.
pub struct Project {
    folder: PathBuf,
    component: PathBuf,
    toolchain: Toolchain,
}

/// What builds it.
enum Toolchain {
    /// Cargo alone, which also takes folders without a manifest of the plugin.
    Cargo,
    /// That of the plugin's language.
    Own(Box<Package>),
}

impl Project {
    /// Builds the folder for the first time.
    ///
    /// # Errors
    /// It can't be built, or what is built is no component.
    pub fn open(folder: &Path) -> Result<Self> {
        // As a behaviour names the component, which is not watched beside its sources.
        let folder = std::path::absolute(folder)?;
        if folder.join("Cargo.toml").is_file() {
            return Ok(Self { component: cargo(&folder)?, folder, toolchain: Toolchain::Cargo });
        }
        let package = Box::new(Package::open(&folder)?);
        build::up_to_date(&package, None)?;
        Ok(Self { component: package.component(), folder, toolchain: Toolchain::Own(package) })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The component that is built.
    pub fn component(&self) -> &Path {
        &self.component
    }

    /// Builds it. Errors: it can't be built; the compiler has said on standard error why.
    pub fn build(&self) -> Result<()> {
        match &self.toolchain {
            Toolchain::Cargo => cargo(&self.folder).map(drop),
            Toolchain::Own(package) => build::build(package).map(drop),
        }
    }
}

/// Runs cargo as its user would in that folder, and gives the component.
fn cargo(folder: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    // The folder's own .cargo/config.toml says the target and the linker.
    cargo.current_dir(folder).args(["build", "--release", "--message-format", "json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output();
    let output = output.context("`cargo` can't be started: install Rust from https://rustup.rs")?;
    ensure!(output.status.success(), "{}: the build failed", folder.display());
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let mut components = messages.filter_map(|line| component(&serde_json::from_slice(line).ok()?));
    let Some(component) = components.next_back() else {
        bail!(
            "{}: the build makes no .wasm: Cargo.toml needs crate-type = [\"cdylib\"], and .cargo/config.toml the \
             target wasm32-unknown-unknown with the linker wasm-component-ld",
            folder.display()
        );
    };
    Ok(component)
}

/// The component that a message of cargo tells of.
fn component(message: &Value) -> Option<PathBuf> {
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    files.map(PathBuf::from).find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
}
