//! `membrane plugin inspect`: what a plugin is and what it asks for.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use membrane_host::{
    CONTRACT, Component, Description, Grant, Host, HostOptions, Isolation, PluginSource, World, first_party,
    signature_path,
};
use membrane_profile::signature::Bundle;
use membrane_profile::{ByteSize, Digest, Manifest};
use serde::Serialize;
use serde_json::{Value, json};

use super::package::Package;
use crate::isolation;
use crate::report::{self, describe, printable};

const MANIFEST: &str = "plugin.toml";
/// Where cargo puts components, below a plugin's folder.
const BUILT: &str = "target/wasm32-unknown-unknown/release";

#[derive(clap::Args)]
pub struct Args {
    /// A component (.wasm), a folder with a plugin.toml, or the name of a first-party plugin
    plugin: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where a plugin was found.
struct Found {
    name: String,
    /// The file, if it is none of this program's own.
    path: Option<PathBuf>,
    component: Component,
    manifest: Option<Manifest>,
}

#[derive(Serialize)]
struct Report {
    name: String,
    path: Option<PathBuf>,
    summary: Option<String>,
    version: Option<String>,
    world: Option<World>,
    /// Versions of the contract that it was built for.
    contract: Vec<String>,
    bytes: usize,
    digest: Digest,
    signature: String,
    /// Where a profile runs it that says nothing of that, and does not pin it.
    isolation: Isolation,
    imports: Vec<String>,
    grants: Vec<Asked>,
    /// What it wants behind grants that have values, a sentence each; a profile grants it or not.
    asks: Vec<String>,
    parameters: Option<Value>,
    /// Why this program can't run it.
    problems: Vec<String>,
}

/// A grant that a plugin asks for.
#[derive(Serialize)]
struct Asked {
    name: &'static str,
    meaning: &'static str,
    /// `import` if its component can't be loaded without, `manifest` if only its plugin.toml says so.
    by: &'static str,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let found = find(&args.plugin)?;
    let report = examine(&found)?;
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(ExitCode::from(u8::from(!report.problems.is_empty())))
}

/// A path where there is one, else a first-party plugin.
fn find(plugin: &str) -> Result<Found> {
    let path = Path::new(plugin);
    if path.is_dir() {
        return in_folder(path);
    }
    if path.exists() || plugin.contains(['/', '\\']) || plugin.ends_with(".wasm") {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let component = Component::read(&name, path)?;
        let manifest = manifest_of(path)?;
        return Ok(Found { name, path: Some(path.to_owned()), component, manifest });
    }
    let own = first_party::find(plugin)?;
    let component = Component { bytes: own.bytes.to_vec(), digest: Digest::of(own.bytes) };
    Ok(Found { name: plugin.to_owned(), path: None, component, manifest: Some(own.manifest()?) })
}

/// The manifest of a component: beside it, or in the plugin's folder if it lies where `membrane plugin build` puts it.
fn manifest_of(component: &Path) -> Result<Option<Manifest>> {
    let beside = component.with_file_name(MANIFEST);
    if beside.exists() {
        return Ok(Some(Manifest::read(&beside)?));
    }
    let component = std::path::absolute(component)?;
    let Some(folder) = component.parent().and_then(Path::parent) else { return Ok(None) };
    if !folder.join(MANIFEST).is_file() {
        return Ok(None);
    }
    let package = Package::open(folder)?;
    Ok((package.component() == component).then_some(package.manifest))
}

/// The plugin of a folder: its manifest, and the component that `membrane plugin build` made, else the one that lies there
/// or where cargo builds it.
fn in_folder(folder: &Path) -> Result<Found> {
    let package = Package::open(folder)?;
    let (made, manifest) = (package.component(), package.manifest);
    if made.is_file() {
        let component = Component::read(&manifest.name, &made)?;
        return Ok(Found {
            name: manifest.name.clone(),
            path: Some(made),
            component,
            manifest: Some(manifest),
        });
    }
    let entries = fs::read_dir(folder).with_context(|| format!("{}: can't be read", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut components: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "wasm")).collect();
    let built = folder.join(BUILT).join(format!("{}.wasm", manifest.name.replace('-', "_")));
    if components.is_empty() && built.is_file() {
        components.push(built.clone());
    }
    match &components[..] {
        [path] => {
            let component = Component::read(&manifest.name, path)?;
            Ok(Found {
                name: manifest.name.clone(),
                path: Some(path.clone()),
                component,
                manifest: Some(manifest),
            })
        }
        [] => bail!(
            "{}: has no component; build it with `membrane plugin build {0}`, or give the .wasm file (neither {} nor {} \
             is there)",
            folder.display(),
            made.display(),
            built.display()
        ),
        many => bail!("{}: has {} components; give the .wasm file", folder.display(), many.len()),
    }
}

fn examine(found: &Found) -> Result<Report> {
    let description = Description::of(&found.name, &found.component.bytes)?;
    let world = description.world.clone().ok();
    let mut problems: Vec<String> = Vec::new();
    if let Err(error) = &description.world {
        problems.push(error.to_string());
    }
    for import in description.imports.iter().filter(|import| world.is_some() && !import.offered) {
        problems.push(format!("imports `{}`, which this program does not offer", import.name));
    }
    if let (Some(world), true) = (world, problems.is_empty()) {
        problems.extend(load(found, &description, world).err().map(|error| describe(&error)));
    }
    if let (Some(manifest), Some(world)) = (&found.manifest, world)
        && manifest.world != world
    {
        let (said, is) = (manifest.world.with_article(), world.with_article());
        problems.push(format!("its {MANIFEST} says that it is {said}, and it is {is}"));
    }
    Ok(Report {
        name: found.name.clone(),
        path: found.path.clone(),
        summary: found.manifest.as_ref().map(|manifest| manifest.summary.clone()),
        version: found.manifest.as_ref().map(|manifest| manifest.version.clone()),
        world,
        contract: description.contract.iter().cloned().collect(),
        bytes: description.bytes,
        digest: description.digest,
        signature: signature(found),
        isolation: default_isolation(found),
        imports: description.import_names(),
        grants: asked(found, &description)?,
        asks: found.manifest.as_ref().and_then(|manifest| manifest.asks.lines().ok()).unwrap_or_default(),
        parameters: found.manifest.as_ref().map(parameters),
        problems,
    })
}

/// Whether it can be loaded and started with all that it asks for.
fn load(found: &Found, description: &Description, world: World) -> Result<()> {
    let host = Host::new(HostOptions { processes: Some(isolation::options()), ..HostOptions::default() })?;
    let source = PluginSource {
        grants: description.grants(),
        isolation: default_isolation(found),
        ..PluginSource::new(&found.name, found.component.bytes.clone(), world)
    };
    Ok(host.load(source, world)?.try_start()?)
}

/// Where it runs, and is tried here.
fn default_isolation(found: &Found) -> Isolation {
    if found.path.is_some() { Isolation::Process } else { Isolation::None }
}

fn asked(found: &Found, description: &Description) -> Result<Vec<Asked>> {
    let asked = |grant: Grant, by| Asked { name: grant.name(), meaning: grant.meaning(), by };
    let imported = description.grants();
    let mut all: Vec<Asked> = imported.iter().map(|grant| asked(*grant, "import")).collect();
    if let Some(manifest) = &found.manifest {
        let named = Grant::parse_all(&manifest.grants).with_context(|| format!("{MANIFEST}: grants"))?;
        all.extend(named.difference(&imported).map(|grant| asked(*grant, "manifest")));
    }
    Ok(all)
}

/// The state of its signature, in words.
fn signature(found: &Found) -> String {
    let Some(path) = &found.path else { return "none needed: it is part of this program".to_owned() };
    let path = signature_path(path);
    let checked = || -> Result<String> {
        let Some(bundle) = Bundle::read(&path)? else {
            return Ok(format!("none: there is no {}", path.display()));
        };
        let verified = match bundle.verify(None) {
            Err(membrane_profile::signature::SignatureError::NoKey { hint }) => {
                return Ok(format!(
                    "by the key {hint}, it says; `membrane plugin verify` checks it with that key"
                ));
            }
            other => other?,
        };
        verified.statement.is_of_file(found.component.digest)?;
        let signer = verified.signer.fingerprint();
        Ok(format!("valid, by the key {signer}; whose that is, is for you to know"))
    };
    checked().unwrap_or_else(|error| format!("not valid: {} {}", path.display(), describe(&error)))
}

fn parameters(manifest: &Manifest) -> Value {
    let one = |(name, parameter): (&String, &membrane_profile::Parameter)| {
        let value = json!({
            "type": parameter.kind.to_string(),
            "required": parameter.required,
            "default": parameter.default,
            "minimum": parameter.minimum,
            "maximum": parameter.maximum,
            "choices": parameter.choices,
            "description": parameter.description,
        });
        (name.clone(), value)
    };
    Value::Object(manifest.parameters.iter().map(one).collect())
}

/// What every plugin of a world may do.
fn powers(world: World) -> &'static str {
    match world {
        World::Sampler => {
            "chooses tokens: sees the likeliest of each step and what the model wrote; no clock, no network"
        }
        World::Policy => {
            "decides what may be asked and said: sees the conversation and the answer; no clock, no network"
        }
        World::Tool => "does something when the model asks for it: sees the arguments of its calls",
        World::Agent => {
            "pursues a task: sees it, uses the model and calls the tools of its run; what it says passes the policies"
        }
    }
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let version = report.version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
    writeln!(out, "{}{}", printable(&report.name), printable(&version))?;
    if let Some(summary) = &report.summary {
        writeln!(out, "  {}", printable(summary))?;
    }
    if let Some(path) = &report.path {
        writeln!(out, "file: {}", printable(&path.display().to_string()))?;
    }
    writeln!(out, "digest: {}", report.digest)?;
    writeln!(out, "size: {:#}", ByteSize(report.bytes as u64))?;
    let built = match &report.contract[..] {
        [] => "no version of the contract".to_owned(),
        versions => format!("the contract {}", versions.join(", ")),
    };
    writeln!(out, "built for: {built}; this program serves {CONTRACT}")?;
    writeln!(out, "signature: {}", printable(&report.signature))?;
    let place = match report.isolation {
        Isolation::None => "in the host's process",
        _ => "in a process of its own; in the host's where a profile pins its digest or its publisher",
    };
    writeln!(out, "runs: {place}")?;
    if let Some(world) = report.world {
        writeln!(out, "world: {world}, which {}", powers(world))?;
    }
    if report.grants.is_empty() && report.world.is_some() {
        writeln!(out, "asks for nothing beyond that")?;
    }
    for grant in &report.grants {
        writeln!(out, "asks to {} (grant `{}`)", grant.meaning, grant.name)?;
    }
    for ask in &report.asks {
        writeln!(out, "  would {}", printable(ask))?;
    }
    if let Some(Value::Object(parameters)) = &report.parameters {
        print_parameters(parameters, out)?;
    }
    for problem in &report.problems {
        writeln!(out, "problem: {}", printable(problem))?;
    }
    Ok(())
}

fn print_parameters(parameters: &serde_json::Map<String, Value>, out: &mut impl Write) -> io::Result<()> {
    if !parameters.is_empty() {
        writeln!(out, "parameters:")?;
    }
    for (name, parameter) in parameters {
        let text = |key: &str| parameter[key].as_str().unwrap_or_default().to_owned();
        let state = match (&parameter["default"], &parameter["required"]) {
            (_, Value::Bool(true)) => "required".to_owned(),
            (Value::Null, _) => "optional".to_owned(),
            (default, _) => format!("default {default}"),
        };
        let (name, description) = (printable(name), printable(&text("description")));
        writeln!(out, "  {name}: {}, {}. {description}", text("type"), printable(&state))?;
    }
    Ok(())
}
