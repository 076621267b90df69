//! `membrane profile check`: what is wrong with a profile, found without running a model.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use membrane_formats::Checkpoint;
use membrane_generate::Behaviour;
use membrane_host::{
    AnswerContext, Description, Grant, Host, HostOptions, Plugin, PolicyChain, SamplerChain, ToolSet,
    Vocabulary, first_party,
};
use membrane_profile::{Authority, Isolation, Kind, Location, Lock, Profile, ResolvedPlugin};
use membrane_text::Tokenizer;
use serde::Serialize;

use crate::model::named;
use crate::report::{self, describe, printable};
use crate::resolution::{self, Resolution};
use crate::{code, isolation, model_lock, session};

#[derive(clap::Args)]
pub struct Args {
    /// The profile
    #[arg(value_name = "PROFILE.toml")]
    profile: PathBuf,
    /// A model whose tokenizer the samplers are started with, and that the lock file is compared with
    #[arg(long, value_name = "MODEL", value_parser = named())]
    model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    profile: String,
    plugins: usize,
    /// Plugins that run in a process of their own, such as `policy guard`.
    isolated: Vec<String>,
    findings: Vec<Finding>,
}

/// Something that is wrong.
#[derive(Serialize)]
struct Finding {
    /// `profile`, `lock`, `model`, or a plugin, such as `policy guard`.
    about: String,
    message: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, about: impl Into<String>, error: &anyhow::Error) {
        let finding = Finding { about: about.into(), message: describe(error) };
        // One fault may come up twice, when it is read and when it is compared with the lock.
        if !self.0.iter().any(|found| found.message == finding.message) {
            self.0.push(finding);
        }
    }

    /// The value, or a finding.
    fn take<T>(&mut self, about: impl Into<String>, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(about, &error)).ok()
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut findings = Findings::default();
    let (profile, plugins, isolated) = examine(args, &mut findings)?;
    let report = Report { profile, plugins, isolated, findings: findings.0 };
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(ExitCode::from(u8::from(!report.findings.is_empty())))
}

/// Gives the profile's name, the number of its plugins, and those that are isolated. Errors: only what is not the profile's fault.
fn examine(args: &Args, findings: &mut Findings) -> Result<(String, usize, Vec<String>)> {
    let (cache, processes) = (code::cache(true), Some(isolation::options()));
    let host = Host::new(HostOptions { cache, processes, ..HostOptions::default() })?;
    let shown = args.profile.display().to_string();
    let Some(profile) = findings.take("profile", Profile::read(&args.profile).map_err(Into::into)) else {
        return Ok((shown, 0, Vec::new()));
    };
    let (name, count) = (profile.name.clone(), profile.plugins().count());
    let mut tools = Vec::new();
    let mut samplers = Vec::new();
    for plugin in profile.plugins() {
        let about = format!("{} {}", plugin.kind, plugin.name);
        let loaded = load(&host, plugin, &about, findings);
        let Some((loaded, fits)) = findings.take(&about, loaded) else { continue };
        // Where the manifest has told what is wrong with the parameters, the plugin would tell it again.
        let begin = || if fits { loaded.try_configure() } else { loaded.try_start() };
        match plugin.kind {
            Kind::Policy => {
                let started = PolicyChain::start(&host, &[loaded]);
                findings.take(&about, started.map_err(Into::into));
            }
            Kind::Tool => tools.push(loaded),
            Kind::Agent => {
                findings.take(&about, begin().map_err(Into::into));
            }
            Kind::Sampler => {
                let started = begin();
                samplers.extend(findings.take(&about, started.map_err(Into::into)).map(|()| loaded));
            }
        }
    }
    findings.take("tools", ToolSet::start(&host, &tools).map_err(Into::into));
    let checkpoint = match &args.model {
        Some(model) => Some(Checkpoint::open(model)?),
        None => None,
    };
    if let Some(checkpoint) = &checkpoint {
        let vocabulary = Arc::new(Words(membrane_engine::tokenizer(checkpoint)?));
        let context = AnswerContext { vocabulary, seed: 0 };
        for sampler in samplers {
            let about = format!("sampler {}", sampler.name());
            let started = SamplerChain::start(&host, &[sampler], context.clone());
            findings.take(about, started.map_err(Into::into));
        }
    }
    let isolated = profile.plugins().filter(|plugin| plugin.isolation() != Isolation::None);
    let isolated = isolated.map(|plugin| format!("{} {}", plugin.kind, plugin.name)).collect();
    compare_with_lock(&args.profile, profile, args.model.as_deref().zip(checkpoint.as_ref()), findings)?;
    Ok((name, count, isolated))
}

/// Reads, checks and compiles a plugin. False where a manifest does not allow its parameters.
fn load(
    host: &Host,
    plugin: &ResolvedPlugin,
    about: &str,
    findings: &mut Findings,
) -> Result<(Plugin, bool)> {
    let (component, description) = resolution::component(plugin)?;
    let loaded = session::load(host, plugin, &component, None, &Behaviour::default())?;
    let mut fits = true;
    if let Location::FirstParty(name) = &plugin.location {
        let manifest = first_party::find(name)?.manifest()?;
        fits = findings.take(about, manifest.check(&plugin.parameters).map_err(Into::into)).is_some();
    }
    for unused in unused(&loaded, &description) {
        let error = anyhow::anyhow!("has the grant `{unused}` and does not import what it opens: remove it");
        findings.add(about, &error);
    }
    for (grant, values) in empty(&loaded) {
        let error = anyhow::anyhow!("has the grant `{grant}` and no `{values}`: it finds nothing behind it");
        findings.add(about, &error);
    }
    Ok((loaded, fits))
}

/// Grants that open an interface which the component does not import.
fn unused(plugin: &Plugin, description: &Description) -> Vec<&'static str> {
    let needed = description.grants();
    let unused =
        plugin.grants().iter().filter(|grant| grant.interface().is_some() && !needed.contains(grant));
    unused.map(|grant| grant.name()).collect()
}

/// Grants that have values and none here, with the field for them.
fn empty(plugin: &Plugin) -> Vec<(Grant, &'static str)> {
    let Authority { folders, hosts, environment, .. } = plugin.authority();
    let none = |grant: Grant| match grant {
        Grant::Files => folders.is_empty(),
        Grant::Http => hosts.is_empty(),
        Grant::Environment => environment.is_empty(),
        _ => false,
    };
    let empty = plugin.grants().iter().filter(|grant| none(**grant));
    empty.filter_map(|grant| Some((*grant, grant.values()?))).collect()
}

fn compare_with_lock(
    path: &Path,
    profile: Profile,
    model: Option<(&Path, &Checkpoint)>,
    findings: &mut Findings,
) -> Result<()> {
    let Some(Some(lock)) = findings.take("lock", Lock::read_beside(path).map_err(Into::into)) else {
        return Ok(());
    };
    // What can't be resolved has been found already.
    if let Ok(now) = Resolution::of(profile).and_then(|resolution| resolution.lock()) {
        findings.take("lock", resolution::refuse(&lock.differences(&now), path));
    }
    if let (Some((model, checkpoint)), Some(pinned)) = (model, &lock.model) {
        let now = model_lock::of(checkpoint, true)?;
        findings.take("model", resolution::refuse_model(&pinned.differences(&now), path, model));
    }
    Ok(())
}

/// A tokenizer as plugins see it.
struct Words(Tokenizer);

impl Vocabulary for Words {
    fn size(&self) -> u32 {
        self.0.vocab_size() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.token_bytes(token).ok()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.0.encode_continuation(text).map_err(|error| error.to_string())
    }

    fn is_end(&self, token: u32) -> bool {
        self.0.end_tokens().contains(&token)
    }

    fn end_token(&self) -> Option<u32> {
        self.0.end_tokens().first().copied()
    }
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{}: {}", printable(&finding.about), finding.message)?;
    }
    if !report.isolated.is_empty() {
        writeln!(out, "in a process of their own: {}", printable(&report.isolated.join(", ")))?;
    }
    let found = match report.findings.len() {
        0 => "nothing wrong".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    writeln!(out, "{}: {} plugins, {found}", printable(&report.profile), report.plugins)
}
