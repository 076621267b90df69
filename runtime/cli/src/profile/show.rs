//! `membrane profile show`: what a profile resolves to.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use membrane_host::{Component, Description, Grant};
use membrane_profile::{
    ByteSize, Difference, Generation, Isolation, Location, Lock, LockedModel, LockedPublisher, Profile,
    ResolvedPlugin,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::report::{self, printable};
use crate::resolution::{self, Resolution};

/// Characters of a value that are shown.
const SHOWN: usize = 100;

#[derive(clap::Args)]
pub struct Args {
    /// The profile
    #[arg(value_name = "PROFILE.toml")]
    profile: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    name: String,
    digest: String,
    generation: Generation,
    plugins: Vec<Plugin>,
    /// Path of the lock file, if there is one.
    lock: Option<String>,
    /// What is not as the lock has it.
    differences: Vec<Difference>,
    /// What the lock pins; without it the profile goes with any model.
    model: Option<LockedModel>,
}

#[derive(Serialize)]
struct Plugin {
    kind: String,
    name: String,
    location: String,
    digest: String,
    /// Why the component is taken: what the profile says about whose it is.
    trust: &'static str,
    /// Where its instances run.
    isolation: Isolation,
    publisher: Option<LockedPublisher>,
    parameters: Map<String, Value>,
    grants: Vec<Granted>,
    /// What it finds behind grants that have values, a sentence each.
    authority: BTreeSet<String>,
    fuel_per_call: u64,
    memory_bytes: usize,
    wall_ms: Option<u64>,
}

/// A grant in plain words.
#[derive(Serialize)]
struct Granted {
    name: &'static str,
    meaning: &'static str,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let resolution = Resolution::of(Profile::read(&args.profile)?)?;
    let lock = Lock::read_beside(&args.profile)?;
    let now = resolution.lock()?;
    let report = Report {
        name: resolution.profile.name.clone(),
        digest: resolution.digest()?.to_string(),
        generation: resolution.profile.generation,
        plugins: resolution.plugins().map(plugin).collect::<Result<_>>()?,
        differences: lock.as_ref().map(|lock| lock.differences(&now)).unwrap_or_default(),
        lock: lock.as_ref().map(|_| Lock::path_of(&args.profile).display().to_string()),
        model: lock.and_then(|lock| lock.model),
    };
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn plugin((plugin, component, _): (&ResolvedPlugin, &Component, &Description)) -> Result<Plugin> {
    let limits = resolution::limits(plugin, None);
    let granted = |grant: Grant| Granted { name: grant.name(), meaning: grant.meaning() };
    let publisher = plugin.publisher.as_ref();
    Ok(Plugin {
        kind: plugin.kind.to_string(),
        name: plugin.name.clone(),
        location: plugin.location.to_string(),
        digest: component.digest.to_string(),
        trust: match &plugin.location {
            Location::FirstParty(_) => "part of this program",
            Location::Path(_) if publisher.is_some() && plugin.pin.is_some() => "pinned by digest and signed",
            Location::Path(_) if publisher.is_some() => "signed",
            Location::Path(_) if plugin.pin.is_some() => "pinned by digest",
            Location::Path(_) => "unsigned, and taken as it is",
        },
        isolation: plugin.isolation(),
        publisher: publisher.map(|p| LockedPublisher { name: p.name.clone(), fingerprint: p.fingerprint }),
        parameters: plugin.parameters.clone(),
        grants: resolution::grants(plugin)?.into_iter().map(granted).collect(),
        authority: plugin.authority.lines(),
        fuel_per_call: limits.fuel_per_call,
        memory_bytes: limits.memory_bytes,
        wall_ms: limits.wall_ms,
    })
}

/// The beginning of a text, on one line.
pub fn short(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push_str("...");
    }
    line
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "profile {} {}", printable(&report.name), report.digest)?;
    let Generation { max_tokens, seed, context } = report.generation;
    let number =
        |number: Option<u64>, otherwise: &str| number.map_or(otherwise.to_owned(), |n| n.to_string());
    writeln!(
        out,
        "  at most {} tokens an answer, seed {}, context {}",
        number(max_tokens.map(u64::from), "as many as fit"),
        number(seed, "a new one"),
        number(context.map(u64::from), "by the model")
    )?;
    report.plugins.iter().try_for_each(|plugin| print_plugin(plugin, out))?;
    match (&report.lock, &report.differences[..]) {
        (None, _) => writeln!(out, "lock: none")?,
        (Some(path), []) => writeln!(out, "lock: {}, nothing differs", printable(path))?,
        (Some(path), differences) => {
            writeln!(out, "lock: {}, which a run holds to; this differs:", printable(path))?;
            for difference in differences {
                writeln!(out, "  {}", printable(&difference.to_string()))?;
            }
        }
    }
    match &report.model {
        None => writeln!(out, "model: any"),
        Some(model) => model.files.iter().try_for_each(|file| {
            let (name, size) = (printable(&file.name), ByteSize(file.bytes));
            writeln!(out, "model: {name}, {size:#}, {}", file.digest)
        }),
    }
}

fn print_plugin(plugin: &Plugin, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} {} ({})", plugin.kind, short(&plugin.name), short(&plugin.location))?;
    writeln!(out, "  {}", plugin.digest)?;
    match &plugin.publisher {
        Some(publisher) => writeln!(out, "  {} by {}", plugin.trust, short(&publisher.to_string()))?,
        None => writeln!(out, "  {}", plugin.trust)?,
    }
    let place = match plugin.isolation {
        Isolation::None => "runs in this program's process",
        Isolation::Process => "runs in a process of its own",
        Isolation::Required => "runs in a process of its own that the kernel holds in, or not at all",
    };
    writeln!(out, "  {place}")?;
    for (name, value) in &plugin.parameters {
        writeln!(out, "  {} = {}", short(name), short(&value.to_string()))?;
    }
    for grant in &plugin.grants {
        writeln!(out, "  may {} ({})", grant.meaning, grant.name)?;
    }
    for authority in &plugin.authority {
        writeln!(out, "    may {}", printable(authority))?;
    }
    if plugin.grants.is_empty() {
        writeln!(out, "  may do no more than any {}", plugin.kind)?;
    }
    let memory = ByteSize(plugin.memory_bytes as u64);
    let wall = plugin.wall_ms.map_or(String::new(), |wall| format!(", {wall} ms a call"));
    writeln!(out, "  at most {} units of fuel a call and {memory:#} of memory{wall}", plugin.fuel_per_call)
}
