//! From flags and a profile to a model with a behaviour.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use membrane_engine::{Model, Prepared};
use membrane_generate::{Behaviour, Generator};
use membrane_host::limits::MAX_COMPONENT_BYTES;
use membrane_host::{
    CompileLimits, Grant, Host, HostOptions, Limits, LogLevel, LogLine, Plugin, PluginSource, first_party,
};
use membrane_profile::{Digest, Kind, Location, PluginArgument, Profile, ProfileDigest, ResolvedPlugin};
use serde_json::{Value, json};

use crate::code;
use crate::options::ModelOptions;
use crate::report;

/// The sampler that decoding flags set parameters of.
const STANDARD_SAMPLER: &str = "standard-sampler";
/// Under a memory budget an instance may have this much, in bytes, unless its profile entry says otherwise: what
/// instances may take is set aside, and the host's own limits are made for machines with memory to spare. It
/// does not grow with the budget, so that the least budget that an error names is enough.
const INSTANCE_UNDER_BUDGET: usize = 4 << 20;

/// Which plugins make the behaviour.
#[derive(clap::Args, Clone)]
pub struct BehaviourOptions {
    /// A profile: sampler chain, policies, tools, their parameters and grants
    #[arg(long, value_name = "PROFILE.toml")]
    profile: Option<PathBuf>,
    /// A sampler in place of the profile's chain: PLUGIN[,KEY=VALUE]..., PLUGIN a first-party name or a
    /// .wasm file; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    sampler: Vec<PluginArgument>,
    /// A policy behind the profile's own; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    policy: Vec<PluginArgument>,
    /// A tool beside the profile's own, such as clock,grant=clock; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    tool: Vec<PluginArgument>,
    /// Temperature of the standard sampler; 0 always takes the likeliest token
    #[arg(long, value_name = "T", value_parser = finite, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// The standard sampler keeps the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<i32>,
    /// The standard sampler keeps the likeliest tokens of this mass
    #[arg(long, value_name = "P", value_parser = finite, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// The standard sampler keeps tokens of at least this fraction of the largest probability
    #[arg(long, value_name = "P", value_parser = finite, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// The standard sampler divides the logits of recent tokens by this
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
}

/// A number of a flag: one that JSON can hold.
fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("is not a finite number".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// What compiling a new version may take while the program runs under a memory budget, in bytes; it is set aside. A
/// component of 180 KB takes about 20 MB.
const RELOAD_COMPILE: u64 = 64 << 20;
/// Instances of a plugin at a time while versions change: the one in force, the new one, the one to go back to.
const RELOAD_INSTANCES: u64 = 3;

/// A profile with its plugins compiled.
pub struct Assembled {
    /// The profile, flags applied.
    pub profile: Profile,
    /// What names the behaviour.
    pub digest: ProfileDigest,
    host: Host,
    behaviour: Behaviour,
    reserve: u64,
}

impl BehaviourOptions {
    /// Reads the profile and compiles its plugins. `budget`: bytes that the process may take. Errors: a
    /// file that can't be read, a grant that is missing, a digest that is not the pinned one.
    pub fn assemble(&self, budget: Option<u64>, quiet: bool) -> Result<Assembled> {
        let log = (!quiet).then(|| Arc::new(log) as _);
        let host = Host::new(HostOptions { log, cache: code::cache(quiet), ..HostOptions::default() })?;
        self.assemble_on(host, budget.is_some(), &Behaviour::default())
    }

    /// The same on a host that there is already. `budgeted`: whether memory is limited. Plugins of `running` that are as
    /// the profile has them now are not compiled again.
    pub fn assemble_on(&self, host: Host, budgeted: bool, running: &Behaviour) -> Result<Assembled> {
        let profile = self.resolve()?;
        let mut behaviour = Behaviour::default();
        let mut digests = Vec::new();
        let mut reserve = 0;
        let most = budgeted.then_some(INSTANCE_UNDER_BUDGET);
        for resolved in profile.plugins() {
            let plugin = load(&host, resolved, most, running)?;
            digests.push(plugin.digest());
            reserve += plugin.limits().memory_bytes as u64;
            match resolved.kind {
                Kind::Sampler => behaviour.samplers.push(plugin),
                Kind::Policy => behaviour.policies.push(plugin),
                Kind::Tool => behaviour.tools.push(plugin),
            }
        }
        let digest = ProfileDigest::of(&profile, &digests)?;
        Ok(Assembled { profile, digest, host, behaviour, reserve })
    }

    /// Adds a plugin to those of the command line: a sampler before the others, which choose where it does not.
    pub fn add(&mut self, kind: Kind, argument: PluginArgument) -> Result<()> {
        match kind {
            Kind::Policy => self.policy.push(argument),
            Kind::Tool => self.tool.push(argument),
            Kind::Sampler if self.sampler.is_empty() => {
                self.sampler = vec![argument, STANDARD_SAMPLER.parse()?];
            }
            Kind::Sampler => self.sampler.insert(0, argument),
        }
        Ok(())
    }

    /// Files that the behaviour is made of, beside the components of `profile`.
    pub fn files(&self, profile: &Profile) -> Vec<PathBuf> {
        self.profile.iter().chain(profile.files()).cloned().collect()
    }

    fn resolve(&self) -> Result<Profile> {
        let mut profile = match &self.profile {
            Some(path) => Profile::read(path)?,
            None => Profile::default_profile(),
        };
        profile = profile
            .with_samplers(self.sampler.clone())?
            .with_policies(self.policy.clone())?
            .with_tools(self.tool.clone())?;
        let number = |value: Option<f32>| value.map(|value| json!(value));
        let flags: [(&str, &str, Option<Value>); 5] = [
            ("--temperature", "temperature", number(self.temperature)),
            ("--top-k", "top_k", self.top_k.map(|k| json!(k))),
            ("--top-p", "top_p", number(self.top_p)),
            ("--min-p", "min_p", number(self.min_p)),
            ("--repeat-penalty", "repeat_penalty", number(self.repeat_penalty)),
        ];
        for (flag, key, value) in flags {
            if let Some(value) = value {
                profile = profile
                    .with_parameter(Kind::Sampler, STANDARD_SAMPLER, key, value)
                    .with_context(|| format!("{flag} is a parameter of `{STANDARD_SAMPLER}`"))?;
            }
        }
        Ok(profile)
    }
}

/// Shows a line that a plugin logged; the host has taken control characters out of it.
fn log(line: &LogLine) {
    if line.level >= LogLevel::Info {
        eprintln!("[{}: {}]", line.plugin, line.text);
    }
}

/// Reads and compiles one plugin. `most`: bytes that an instance may take where its entry does not say.
fn load(host: &Host, resolved: &ResolvedPlugin, most: Option<usize>, running: &Behaviour) -> Result<Plugin> {
    let bytes = match &resolved.location {
        Location::FirstParty(name) => first_party::find(name)?.bytes.to_vec(),
        Location::Path(path) => {
            read_component(path).with_context(|| format!("plugin `{}`: {}", resolved.name, path.display()))?
        }
    };
    let digest = Digest::of(&bytes);
    if let Some(pin) = resolved.pin
        && pin != digest
    {
        bail!(
            "plugin `{}` ({}) has the digest {digest}, but the profile pins {pin}; \
             if the change is meant, put the new digest into the profile",
            resolved.name,
            resolved.location
        );
    }
    let source = PluginSource {
        parameters: Value::Object(resolved.parameters.clone()),
        grants: Grant::parse_all(&resolved.grants).with_context(|| format!("plugin `{}`", resolved.name))?,
        limits: limits(resolved, most),
        ..PluginSource::new(&resolved.name, bytes, resolved.kind)
    };
    match running.plugins().find(|plugin| plugin.is(&source, resolved.kind)) {
        Some(plugin) => Ok(plugin.clone()),
        None => Ok(host.load(source, resolved.kind)?),
    }
}

/// A component's bytes. Errors: it can't be read, or is larger than the host takes.
pub fn read_component(path: &Path) -> Result<Vec<u8>> {
    // Before it is opened: opening a pipe waits for whoever writes to it.
    let metadata = fs::metadata(path)?;
    ensure!(!metadata.is_dir(), "is a folder; give the component (.wasm)");
    ensure!(metadata.is_file(), "is no regular file; give the component (.wasm)");
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_COMPONENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= MAX_COMPONENT_BYTES, "is larger than the limit of {MAX_COMPONENT_BYTES} bytes");
    Ok(bytes)
}

fn limits(resolved: &ResolvedPlugin, most: Option<usize>) -> Limits {
    let mut limits = Limits::of(resolved.kind);
    if let Some(most) = most {
        limits.memory_bytes = limits.memory_bytes.min(most);
    }
    if let Some(fuel) = resolved.limits.fuel_per_call {
        limits.fuel_per_call = fuel;
    }
    if let Some(memory) = resolved.limits.memory {
        limits.memory_bytes = usize::try_from(memory.bytes()).unwrap_or(usize::MAX);
    }
    limits
}

impl Assembled {
    /// Sets memory aside for new versions of the plugins, and gives the host that compiles them within it.
    pub fn expect_reloads(&mut self, budgeted: bool) -> Host {
        if !budgeted {
            return self.host.clone();
        }
        self.reserve = self.reserve * RELOAD_INSTANCES + RELOAD_COMPILE;
        let limits =
            CompileLimits { memory_bytes: RELOAD_COMPILE, memory_per_byte: 0, ..CompileLimits::default() };
        self.host.within(limits)
    }

    /// The plugins.
    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Loads the model beside the plugins, within the budget, and joins them.
    pub fn open(self, options: &ModelOptions, quiet: bool) -> Result<Generator> {
        let mut load_options = options.load_options(self.reserve)?;
        load_options.context = load_options.context.or(self.profile.generation.context);
        let prepared = Prepared::open(&options.model, &load_options)?;
        let model: Model = report::load(prepared, quiet)?;
        Ok(Generator::new(self.host, model, self.behaviour)?)
    }
}
