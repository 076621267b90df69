//! `membrane profile lock`: writes the lock file of a profile.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use membrane_formats::Checkpoint;
use membrane_profile::{Difference, Lock, LockedModel, Profile};
use serde::Serialize;

use crate::model::named;
use crate::model_lock;
use crate::report::{self, printable};
use crate::resolution::Resolution;
use crate::whole;

#[derive(clap::Args)]
pub struct Args {
    /// The profile; its lock file is written beside it
    #[arg(value_name = "PROFILE.toml")]
    profile: PathBuf,
    /// Pin this model too: its files, tokenizer and chat template
    #[arg(long, value_name = "MODEL", value_parser = named(), conflicts_with = "any_model")]
    model: Option<PathBuf>,
    /// Pin no model, also if the lock file there is pins one
    #[arg(long)]
    any_model: bool,
    /// Approve that something may do more than the lock file there is allows, or than one that can't be read may have
    /// allowed
    #[arg(long)]
    approve: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    lock: String,
    written: bool,
    /// Whether there was a lock file.
    replaces: bool,
    /// Why the lock file that is there can't be read, if it can't: nothing is compared with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    model: Option<LockedModel>,
    plugins: usize,
    differences: Vec<Difference>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let path = Lock::path_of(&args.profile);
    let (before, unreadable) = match Lock::read_beside(&args.profile) {
        Ok(before) => (before, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let mut lock = Resolution::of(Profile::read(&args.profile)?)?.lock()?;
    let pinned = before.as_ref().and_then(|lock| lock.model.clone());
    lock.model = match &args.model {
        Some(model) => Some(model_lock::of(&Checkpoint::open(model)?, args.json)?),
        None if args.any_model => None,
        None => pinned.clone(),
    };
    let mut differences = before.as_ref().map(|before| before.differences(&lock)).unwrap_or_default();
    differences.extend(model_differences(pinned.as_ref(), lock.model.as_ref(), before.is_some()));
    let widens = unreadable.is_some() || differences.iter().any(|difference| difference.widens);
    let written = args.approve || !widens;
    if written {
        whole::put(&path, &lock.to_toml(&path)?)?;
    }
    if let Some(why) = &unreadable {
        eprintln!("membrane: {}; nothing is compared with it", printable(why));
    }
    let report = Report {
        lock: path.display().to_string(),
        written,
        replaces: before.is_some() || unreadable.is_some(),
        unreadable,
        model: lock.model,
        plugins: lock.plugins.len(),
        differences,
    };
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut out)?;
    }
    if !written {
        let model = if report.unreadable.is_some() && report.model.is_none() {
            ", and pin the model again, if one was pinned, with --model MODEL"
        } else {
            ""
        };
        eprintln!("membrane: nothing was written; if that is meant, say so with --approve{model}");
    }
    Ok(ExitCode::from(u8::from(!written)))
}

/// What becomes of the model that a lock pins.
fn model_differences(
    before: Option<&LockedModel>,
    now: Option<&LockedModel>,
    locked: bool,
) -> Vec<Difference> {
    let whole = |from: Option<&LockedModel>, to: Option<&LockedModel>, widens| {
        let name = |model: &LockedModel| model.files.first().map(|file| file.name.clone());
        let (about, what) = ("model".to_owned(), "pin".to_owned());
        vec![Difference { about, what, from: from.and_then(name), to: to.and_then(name), widens }]
    };
    match (before, now) {
        (Some(before), Some(now)) => before.differences(now),
        (Some(before), None) => whole(Some(before), None, true),
        (None, Some(now)) if locked => whole(None, Some(now), false),
        (None, _) => Vec::new(),
    }
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for difference in &report.differences {
        writeln!(out, "  {}", printable(&difference.to_string()))?;
    }
    let what = if report.written { "written" } else { "not written" };
    let model = match &report.model {
        Some(model) => {
            let names: Vec<&str> = model.files.iter().map(|file| file.name.as_str()).collect();
            format!("the model {}", names.join(", "))
        }
        None => "any model".to_owned(),
    };
    writeln!(out, "{}: {what}: {} plugins, {}", printable(&report.lock), report.plugins, printable(&model))
}
