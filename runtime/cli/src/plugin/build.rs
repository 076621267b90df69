//! `membrane plugin build`: runs the toolchain of a plugin's language, and checks what comes out.

mod c;
mod contract;
mod javascript;
mod python;
mod rust;
mod toolchain;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use membrane_host::Host;
use membrane_profile::Digest;
use serde::Serialize;

use super::package::{Package, read_component, size};
use super::sources::Language;
use crate::report;

#[derive(clap::Args)]
pub struct Args {
    /// The folder of the plugin
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Built {
    component: PathBuf,
    language: Language,
    bytes: usize,
    digest: String,
    seconds: f64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let package = Package::open(&args.path)?;
    let language = package.language()?;
    let begun = Instant::now();
    let bytes = build(&package)?;
    let built = Built {
        component: package.component(),
        language,
        bytes: bytes.len(),
        digest: Digest::of(&bytes).to_string(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    if args.json {
        report::json(&built, &mut io::stdout().lock())?;
    } else {
        println!("{}", built.component.display());
        eprintln!("{} in {:.1} s, {}", size(built.bytes), built.seconds, built.digest);
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the component of a plugin, puts it at [`Package::component`] and gives its bytes. The toolchain's output
/// goes to standard error. Errors: a tool is missing (with what to install), the build fails, or what comes out is no
/// plugin of the manifest's world.
pub fn build(package: &Package) -> Result<Vec<u8>> {
    let language = package.language()?;
    let component = package.component();
    let folder = component.parent().context("the component has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    // What can't be built must not leave an older component behind that is taken for it.
    remove(&component)?;
    match language {
        Language::Rust => rust::build(package)?,
        Language::C => c::build(package)?,
        Language::JavaScript => javascript::build(package)?,
        Language::Python => python::build(package)?,
    }
    let bytes = read_component(&component)?;
    let checked = check(package, &bytes);
    if checked.is_err() {
        remove(&component)?;
    }
    checked.map(|()| bytes)
}

/// The component of a plugin: one that is given, or its own, built where its source is younger.
pub fn up_to_date(package: &Package, given: Option<&Path>) -> Result<Vec<u8>> {
    match given {
        Some(path) => read_component(path),
        None if package.is_built() => read_component(&package.component()),
        None => build(package),
    }
}

fn check(package: &Package, bytes: &[u8]) -> Result<()> {
    let manifest = &package.manifest;
    let found = Host::world_of(&manifest.name, bytes)?;
    ensure!(
        found == manifest.world,
        "the component is {}, but {} says `world = \"{}\"`",
        found.with_article(),
        package.folder.join("plugin.toml").display(),
        manifest.world
    );
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't replace {}", path.display()))
        }
        _ => Ok(()),
    }
}
