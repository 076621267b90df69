//! `membrane profile diff`: what differs in the behaviour of two profiles, and in what they say to recorded answers.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use membrane_profile::{Difference, Lock, LockedPlugin, Profile};
use serde::Serialize;

use super::{excerpt, transcripts};
use crate::report::{self, printable};
use crate::resolution::Resolution;
use crate::session;

#[derive(clap::Args)]
pub struct Args {
    /// A profile
    #[arg(value_name = "A.toml")]
    a: PathBuf,
    /// The profile that it is compared with
    #[arg(value_name = "B.toml")]
    b: PathBuf,
    /// Show the answers of this audit log (recorded with `--audit-keep text`) to the policies of both profiles, and say
    /// what is newly allowed, newly refused or changed. The status is 2 if something is newly allowed, 1 if something
    /// else differs or can't be told, and 0 if nothing does
    #[arg(long, value_name = "LOG")]
    transcripts: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    a: Side,
    b: Side,
    differences: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transcripts: Option<transcripts::Report>,
}

#[derive(Serialize)]
struct Side {
    profile: String,
    digest: String,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let (before, now) = (a.lock()?, b.lock()?);
    let mut differences = before.differences(&now);
    differences.extend(held_more(&before, &now));
    for difference in &mut differences {
        let value = |resolution: &Resolution| parameter(&resolution.profile, difference);
        (difference.from, difference.to) = match (value(&a), value(&b)) {
            (None, None) => continue,
            values => values,
        };
    }
    let side = |resolution: &Resolution| {
        let (profile, digest) = (resolution.profile.name.clone(), resolution.digest()?.hex());
        Ok::<_, anyhow::Error>(Side { profile, digest })
    };
    let transcripts = match &args.transcripts {
        Some(log) => Some(transcripts::Report::of(log, (&a, &b), &session::host(args.json)?)?),
        None => None,
    };
    let report = Report { a: side(&a)?, b: side(&b)?, differences, transcripts };
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut out)?;
    }
    let status = match &report.transcripts {
        Some(transcripts) => transcripts.status(),
        None => u8::from(!report.differences.is_empty()),
    };
    Ok(ExitCode::from(status))
}

fn read(path: &Path) -> Result<Resolution> {
    Resolution::of(Profile::read(path)?)
}

/// Plugins that are held more than before, which locks allow and don't count as different.
fn held_more(before: &Lock, now: &Lock) -> Vec<Difference> {
    let pairs = now.plugins.iter().filter_map(|plugin| {
        let of = |plugin: &LockedPlugin| (plugin.kind, plugin.name.clone());
        Some((before.plugins.iter().find(|other| of(other) == of(plugin))?, plugin))
    });
    let held = pairs.filter(|(before, now)| before.isolation < now.isolation);
    let told = held.map(|(before, now)| Difference {
        about: format!("{} {}", now.kind, now.name),
        what: "isolation".to_owned(),
        from: Some(before.isolation.to_string()),
        to: Some(now.isolation.to_string()),
        widens: false,
    });
    told.collect()
}

/// The value that a difference of parameters is about, where the lock has only its digest.
fn parameter(profile: &Profile, difference: &Difference) -> Option<String> {
    let name = difference.what.strip_prefix("parameters.")?;
    let plugin =
        profile.plugins().find(|plugin| difference.about == format!("{} {}", plugin.kind, plugin.name))?;
    plugin.parameters.get(name).map(ToString::to_string)
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let name = |side: &Side| format!("{} {}", printable(&side.profile), &side.digest[..12]);
    writeln!(out, "{} -> {}", name(&report.a), name(&report.b))?;
    if report.differences.is_empty() {
        writeln!(out, "  nothing differs")?;
    }
    for difference in &report.differences {
        let (from, to) = excerpt::pair(difference.from.as_deref(), difference.to.as_deref());
        let shown = Difference { from, to, ..difference.clone() };
        writeln!(out, "  {}", printable(&shown.to_string()))?;
    }
    report.transcripts.as_ref().map_or(Ok(()), |transcripts| transcripts.print(out))
}
