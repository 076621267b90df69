//! `membrane plugin build`: runs the toolchain of a plugin's language, and checks what comes out.

mod c;
mod contract;
mod javascript;
mod python;
mod rust;
mod toolchain;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use membrane_host::{Component, Host};
use membrane_profile::Digest;
use serde::Serialize;

use super::built;
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
/// goes to standard error. A component that is there is lost to nothing but a new one, whole and checked. Errors: a tool is missing
/// (with what to install), the build fails, or what comes out is no plugin of the manifest's world.
pub fn build(package: &Package) -> Result<Vec<u8>> {
    let language = package.language()?;
    let component = package.component();
    let folder = component.parent().context("the component has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let _alone = alone(folder)?;
    let sources = built::sources(package);
    let fresh = component.with_extension("new.wasm");
    // What a killed build has left must not be taken for what is built now.
    remove(&fresh)?;
    let bytes = compile(package, language, &fresh).and_then(|bytes| {
        let (from, to) = (fresh.display(), component.display());
        fs::rename(&fresh, &component).with_context(|| format!("can't make {from} {to}"))?;
        Ok(bytes)
    });
    match &bytes {
        Ok(bytes) => built::keep(package, bytes, sources)?,
        Err(_) => remove(&fresh)?,
    }
    bytes
}

/// Waits until no other build writes to the folder; none does until what is given is dropped. A file system without locks keeps none
/// away.
fn alone(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::options().append(true).create(true).open(&path);
    let file = file.with_context(|| format!("can't write {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        eprintln!("another build of this plugin is under way, and is waited for");
        file.lock().with_context(|| format!("can't wait for {}", path.display()))?;
    }
    Ok(file)
}

/// The component of a plugin: one that is given, or its own, built where it is not of these sources.
pub fn up_to_date(package: &Package, given: Option<&Path>) -> Result<Vec<u8>> {
    match given {
        Some(path) => read_component(path),
        None => built::up_to_date(package).map_or_else(|| build(package), Ok),
    }
}

fn compile(package: &Package, language: Language, output: &Path) -> Result<Vec<u8>> {
    match language {
        Language::Rust => rust::build(package, output)?,
        Language::C => c::build(package, output)?,
        Language::JavaScript => javascript::build(package, output)?,
        Language::Python => python::build(package, output)?,
    }
    let bytes = Component::read(&package.manifest.name, output)?.bytes;
    check(package, &bytes)?;
    Ok(bytes)
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
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
