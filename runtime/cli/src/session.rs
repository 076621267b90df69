//! From flags and a profile to a model with a behaviour.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use membrane_audit as audit;
use membrane_engine::{Model, Prepared, Usage};
use membrane_formats::Checkpoint;
use membrane_generate::{Behaviour, Generator, asks_the_model};
use membrane_host::{CompileLimits, Component, Host, HostOptions, Plugin, PluginSource, first_party};
use membrane_profile::{
    Isolation, Kind, LimitsSpec, Location, Lock, Manifest, PluginArgument, Profile, ProfileDigest,
    ResolvedPlugin,
};
use membrane_text::Grammar;
use membrane_text::limits::GRAMMAR_MEMORY_BYTES;
use serde_json::{Value, json};

use crate::code;
use crate::isolation;
use crate::judged;
use crate::model_lock;
use crate::options::ModelOptions;
use crate::plugin_log;
use crate::report;
use crate::resolution::{self, Resolution};

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
    /// Refuse a profile that has no lock file beside it
    #[arg(long, requires = "profile")]
    locked: bool,
    /// A sampler in place of the profile's chain: PLUGIN[,KEY=VALUE]..., PLUGIN a first-party name or a
    /// .wasm file; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    sampler: Vec<PluginArgument>,
    /// A policy behind the profile's own; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    policy: Vec<PluginArgument>,
    /// A tool beside the profile's own, such as clock,grant=clock or
    /// files,grant=files:notes=./notes; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    tool: Vec<PluginArgument>,
    /// Where all plugins run: in this process (none), each in one of its own (process), or in one that the kernel holds in
    /// (required) [default: as the profile says, and in one of its own what nobody vouches for]
    #[arg(long, value_name = "WHERE")]
    isolation: Option<Isolation>,
    /// Temperature of the standard sampler; 0 always takes the likeliest token
    #[arg(long, value_name = "T", value_parser = finite, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// The standard sampler keeps the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<i32>,
    /// The standard sampler keeps the likeliest tokens of this mass
    #[arg(long, value_name = "P", value_parser = finite, allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// The standard sampler keeps tokens of at least this fraction of the largest probability
    #[arg(long, value_name = "P", value_parser = finite, allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// The standard sampler divides the logits of recent tokens by this
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    repeat_penalty: Option<f64>,
}

/// A number of a flag: one that JSON can hold.
fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Samplers compute in single precision.
        Ok(number) if (number as f32).is_finite() => Ok(number),
        Ok(_) => Err("is not a finite number".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the process of an isolated plugin takes before its instances do, in bytes: it counts into the budget like all that
/// this program starts.
const PROCESS_UNDER_BUDGET: u64 = 24 << 20;

/// What compiling a new version may take while the program runs under a memory budget, in bytes; it is set aside. A
/// component of 180 KB takes about 20 MB.
const RELOAD_COMPILE: u64 = 64 << 20;
/// What the process that compiles new versions takes, and the functions that it keeps from one to the next, in bytes.
const RELOAD_COMPILER: u64 = PROCESS_UNDER_BUDGET + (16 << 20);
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
    agents: Vec<Plugin>,
    /// The agent that is to run.
    agent: Option<Plugin>,
    reserve: u64,
    /// What answers must follow.
    grammar: Option<Grammar>,
    /// What earlier runs of the model used.
    usage: Option<Usage>,
    /// What the profile's lock pins, and the profile's path.
    locked: Option<(Lock, PathBuf)>,
}

impl BehaviourOptions {
    /// Reads the profile and compiles its plugins. `budgeted`: whether the memory of the process is limited, be it to what is
    /// free. Errors: a file that can't be read, a grant that is missing, a digest that is not the pinned one, or anything that is not
    /// as the profile's lock has it.
    pub fn assemble(&self, budgeted: bool, quiet: bool) -> Result<Assembled> {
        let assembled = self.assemble_on(host(quiet)?, budgeted, &Behaviour::default())?;
        judged::by(&assembled.host, &assembled.behaviour.policies);
        Ok(assembled)
    }

    /// The same on a host that there is already. `budgeted`: whether memory is limited. Plugins of `running` that are as
    /// the profile has them now are not compiled again. Its policies judge nothing before they are in force.
    pub fn assemble_on(&self, host: Host, budgeted: bool, running: &Behaviour) -> Result<Assembled> {
        self.assemble_profile(self.resolve()?, host, budgeted, running)
    }

    /// The same for a run of an agent, which is one of the profile's or takes their place. `tasks`: how many it works on at a
    /// time.
    pub fn assemble_for(
        &self,
        agent: &PluginArgument,
        tasks: usize,
        host: Host,
        budgeted: bool,
        running: &Behaviour,
    ) -> Result<Assembled> {
        let (profile, name) = self.resolve()?.with_agent(agent.clone())?;
        let mut assembled = self.assemble_profile(profile, host, budgeted, running)?;
        assembled.reserve = assembled.reserve.saturating_mul(tasks as u64);
        assembled.agent = assembled.agents.iter().find(|agent| agent.name() == name).cloned();
        Ok(assembled)
    }

    fn assemble_profile(
        &self,
        profile: Profile,
        host: Host,
        budgeted: bool,
        running: &Behaviour,
    ) -> Result<Assembled> {
        let resolution = Resolution::of(self.isolated(profile))?;
        let locked = self.lock(&resolution)?;
        let mut behaviour = Behaviour::default();
        let mut agents = Vec::new();
        let mut reserve = 0;
        let most = budgeted.then_some(INSTANCE_UNDER_BUDGET);
        for (resolved, component, _) in resolution.plugins() {
            let plugin = load(&host, resolved, component, most, running)?;
            let process = if plugin.isolation() == Isolation::None { 0 } else { PROCESS_UNDER_BUDGET };
            reserve = u64::saturating_add(reserve, instance_bytes(&plugin).saturating_add(process));
            match resolved.kind {
                Kind::Sampler => behaviour.samplers.push(plugin),
                Kind::Policy => behaviour.policies.push(plugin),
                Kind::Tool => behaviour.tools.push(plugin),
                Kind::Agent => agents.push(plugin),
            }
        }
        let digest = resolution.digest()?;
        behaviour.record = Some(Arc::new(record(&resolution.profile, digest, &behaviour, &agents)));
        Ok(Assembled {
            profile: resolution.profile,
            digest,
            host,
            behaviour,
            agents,
            agent: None,
            reserve,
            grammar: None,
            usage: None,
            locked,
        })
    }

    /// The lock of the profile, which allows it as it is. Errors: it doesn't, or there is none and one was asked for.
    fn lock(&self, resolution: &Resolution) -> Result<Option<(Lock, PathBuf)>> {
        let Some(path) = &self.profile else { return Ok(None) };
        let lock = resolution.check_lock(path)?;
        let (shown, beside) = (path.display(), Lock::path_of(path));
        ensure!(
            lock.is_some() || !self.locked,
            "--locked: there is no {}; `membrane profile lock {shown}` writes it",
            beside.display()
        );
        Ok(lock.map(|lock| (lock, path.clone())))
    }

    /// Adds a plugin to those of the command line: a sampler before the others, which choose where it does not.
    pub fn add(&mut self, kind: Kind, argument: PluginArgument) -> Result<()> {
        match kind {
            Kind::Policy => self.policy.push(argument),
            Kind::Tool => self.tool.push(argument),
            Kind::Agent => bail!("an agent is run by `membrane agent`"),
            Kind::Sampler if self.sampler.is_empty() => {
                self.sampler = vec![argument, STANDARD_SAMPLER.parse()?];
            }
            Kind::Sampler => self.sampler.insert(0, argument),
        }
        Ok(())
    }

    /// Files that the behaviour is made of, beside the components of `profile`, and the one that approves it.
    pub fn files(&self, profile: &Profile) -> Vec<PathBuf> {
        let lock = self.profile.as_deref().map(Lock::path_of);
        self.profile.iter().chain(profile.files()).cloned().chain(lock).collect()
    }

    /// The profile with its components, which are not compiled.
    pub fn resolution(&self) -> Result<Resolution> {
        Resolution::of(self.isolated(self.resolve()?))
    }

    fn isolated(&self, profile: Profile) -> Profile {
        match self.isolation {
            Some(isolation) => profile.with_isolation(isolation),
            None => profile,
        }
    }

    /// The profile with what the flags change in it.
    pub fn resolve(&self) -> Result<Profile> {
        let mut profile = match &self.profile {
            Some(path) => Profile::read(path)?,
            None => Profile::default_profile(),
        };
        profile = profile
            .with_samplers(self.sampler.clone())?
            .with_policies(self.policy.clone())?
            .with_tools(self.tool.clone())?;
        let number = |value: Option<f64>| value.map(|value| json!(value));
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

/// The host of plugins, whose log lines are shown unless it is to be quiet.
pub fn host(quiet: bool) -> Result<Host> {
    let log = (!quiet).then(|| Arc::new(plugin_log::show) as _);
    let processes = Some(isolation::options());
    Ok(Host::new(HostOptions { log, cache: code::cache(quiet), processes, ..HostOptions::default() })?)
}

/// Compiles one plugin, if it is not among those of `running`. `most`: bytes that an instance may take where its entry
/// does not say.
pub fn load(
    host: &Host,
    resolved: &ResolvedPlugin,
    component: &Component,
    most: Option<usize>,
    running: &Behaviour,
) -> Result<Plugin> {
    let source = PluginSource {
        parameters: Value::Object(resolved.parameters.clone()),
        grants: resolution::grants(resolved)?,
        authority: resolved.authority.clone(),
        limits: resolution::limits(resolved, most),
        isolation: resolved.isolation(),
        ..PluginSource::new(&resolved.name, component.bytes.clone(), resolved.kind)
    };
    match running.plugins().find(|plugin| plugin.is(&source, resolved.kind)) {
        Some(plugin) => Ok(plugin.clone()),
        None => Ok(host.load(source, resolved.kind)?),
    }
}

/// What an instance of a plugin can take, in bytes, whatever limit a log or a profile names.
pub fn instance_bytes(plugin: &Plugin) -> u64 {
    LimitsSpec::MOST_MEMORY.bytes().min(plugin.limits().memory_bytes as u64)
}

/// A plugin as the audit log has it.
fn recorded(resolved: &ResolvedPlugin, plugin: &Plugin) -> audit::Plugin {
    let (location, version) = match &resolved.location {
        Location::FirstParty(name) => {
            let manifest = first_party::get(name).map(|plugin| Manifest::parse(plugin.manifest, name));
            (name.clone(), manifest.and_then(Result::ok).map(|manifest| manifest.version))
        }
        // As a path it must not pass for a name.
        Location::Path(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            (path.to_string_lossy().into_owned(), None)
        }
    };
    audit::Plugin {
        kind: resolved.kind.as_str().to_owned(),
        name: plugin.name().to_owned(),
        digest: audit::Digest::from_bytes(*plugin.digest().as_bytes()),
        version,
        location,
        parameters: resolved.parameters.clone(),
        grants: resolved.grants.clone(),
        authority: resolved.authority.lines().into_iter().collect(),
        fuel_per_call: plugin.limits().fuel_per_call,
        memory_bytes: plugin.limits().memory_bytes as u64,
        wall_ms: plugin.limits().wall_ms,
        isolation: Some(plugin.isolation().as_str().to_owned()),
    }
}

/// A behaviour as the audit log has it, with the agents that it is for.
fn record(
    profile: &Profile,
    digest: ProfileDigest,
    behaviour: &Behaviour,
    agents: &[Plugin],
) -> audit::Behaviour {
    let plugins = profile.plugins().zip(behaviour.plugins().chain(agents));
    audit::Behaviour {
        profile: profile.name.clone(),
        digest: digest.hex().parse().unwrap_or(audit::Digest::ZERO),
        plugins: plugins.map(|(resolved, plugin)| recorded(resolved, plugin)).collect(),
    }
}

impl Assembled {
    /// Sets memory aside for new versions of the plugins, and gives the host that compiles them within it.
    pub fn expect_reloads(&mut self, budgeted: bool) -> Host {
        if !budgeted {
            return self.host.clone();
        }
        let instances = self.reserve.saturating_mul(RELOAD_INSTANCES);
        self.reserve = instances.saturating_add(RELOAD_COMPILE + RELOAD_COMPILER);
        let limits =
            CompileLimits { memory_bytes: RELOAD_COMPILE, memory_per_byte: 0, ..CompileLimits::default() };
        self.host.within(limits)
    }

    /// Has answers follow a grammar: memory is set aside for that, and one that can't be followed is refused before the model is
    /// loaded.
    pub fn constrain(&mut self, grammar: Grammar) {
        self.reserve = self.reserve.saturating_add(GRAMMAR_MEMORY_BYTES);
        self.grammar = Some(grammar);
    }

    /// Tells what earlier runs of the model used.
    pub fn recall(&mut self, usage: Option<Usage>) {
        self.usage = usage;
    }

    /// The host that the plugins are on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The plugins.
    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// The agent, if it is for the run of one.
    pub fn agent(&self) -> Option<&Plugin> {
        self.agent.as_ref()
    }

    /// Loads the model beside the plugins, within the budget, and joins them.
    pub fn open(self, options: &ModelOptions, quiet: bool) -> Result<Generator> {
        let (host, model, behaviour) = self.open_model(options, 1, 1, quiet)?;
        Ok(Generator::new(host, model, behaviour)?)
    }

    /// Loads the model beside the plugins, within the budget, for as many full contexts and sessions.
    pub fn open_model(
        mut self,
        options: &ModelOptions,
        contexts: u32,
        sessions: u32,
        quiet: bool,
    ) -> Result<(Host, Model, Behaviour)> {
        let mut load_options = options.load.load_options(self.reserve)?;
        load_options.context = load_options.context.or(self.profile.generation.context);
        (load_options.contexts, load_options.sessions) = (contexts, sessions);
        load_options.recall = self.usage.take();
        load_options.side_contexts = u32::from(asks_the_model(&self.behaviour.policies));
        let checkpoint = Arc::new(Checkpoint::open(&options.model)?);
        if let Some((lock, profile)) = &self.locked
            && let Some(pinned) = &lock.model
        {
            let differences = pinned.differences(&model_lock::of(&checkpoint, quiet)?);
            resolution::refuse_model(&differences, profile, &options.model)?;
        }
        let prepared = Prepared::of(checkpoint, &load_options)?;
        if let Some(grammar) = &self.grammar {
            prepared.grammars()?.compile(grammar)?;
        }
        Ok((self.host, report::load(prepared, quiet)?, self.behaviour))
    }
}
