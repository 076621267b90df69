//! From flags and a profile to a model with a behaviour.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use membrane_engine::{Model, Prepared};
use membrane_generate::{Behaviour, Generator};
use membrane_host::{Host, Limits, Plugin, PluginSource, World, first_party};
use membrane_profile::{Digest, Kind, Location, PluginArgument, Profile, ProfileDigest, ResolvedPlugin};
use serde_json::{Value, json};

use crate::options::ModelOptions;
use crate::report;

/// The sampler that decoding flags set parameters of.
const STANDARD_SAMPLER: &str = "standard-sampler";

/// Which plugins make the behaviour.
#[derive(clap::Args, Clone)]
pub struct BehaviourOptions {
    /// A profile: sampler chain, policies, tools, their parameters and grants
    #[arg(long, value_name = "PROFILE.toml")]
    profile: Option<PathBuf>,
    /// A sampler in place of the profile's chain: PLUGIN[,KEY=VALUE]..., PLUGIN a first-party name or a .wasm file;
    /// may be repeated
    #[arg(long, value_name = "PLUGIN")]
    sampler: Vec<PluginArgument>,
    /// A policy behind the profile's own; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    policy: Vec<PluginArgument>,
    /// A tool beside the profile's own, such as clock,grant=clock; may be repeated
    #[arg(long, value_name = "PLUGIN")]
    tool: Vec<PluginArgument>,
    /// Temperature of the standard sampler; 0 always takes the likeliest token
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// The standard sampler keeps the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<i32>,
    /// The standard sampler keeps the likeliest tokens of this mass
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// The standard sampler keeps tokens of at least this fraction of the largest probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// The standard sampler divides the logits of recent tokens by this
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
}

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
    /// Reads the profile and compiles its plugins. Errors: a file that can't be read, a grant that is missing, a digest that
    /// is not the pinned one.
    pub fn assemble(&self) -> Result<Assembled> {
        let profile = self.resolve()?;
        let host = Host::new()?;
        let mut behaviour = Behaviour::default();
        let mut digests = Vec::new();
        let mut reserve = 0;
        for resolved in profile.plugins() {
            let (plugin, digest, memory) = load(&host, resolved)?;
            digests.push(digest);
            reserve += memory;
            match resolved.kind {
                Kind::Sampler => behaviour.samplers.push(plugin),
                Kind::Policy => behaviour.policies.push(plugin),
                Kind::Tool => behaviour.tools.push(plugin),
            }
        }
        let digest = ProfileDigest::of(&profile, &digests)?;
        Ok(Assembled { profile, digest, host, behaviour, reserve })
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

/// Reads and compiles one plugin. Returns the memory that its instances may take, in bytes, too.
fn load(host: &Host, resolved: &ResolvedPlugin) -> Result<(Plugin, Digest, u64)> {
    let bytes = match &resolved.location {
        Location::FirstParty(name) => match first_party::get(name) {
            Some(plugin) => plugin.bytes.to_vec(),
            None => {
                let known: Vec<_> = first_party::list().map(|plugin| plugin.name).collect();
                bail!("there is no first-party plugin `{name}`; there are {}", known.join(", "));
            }
        },
        Location::Path(path) => membrane_host::read_component(path)?,
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
    let world = match resolved.kind {
        Kind::Sampler => World::Sampler,
        Kind::Policy => World::Policy,
        Kind::Tool => World::Tool,
    };
    let limits = Limits::of(world).with(&resolved.limits);
    let memory = limits.memory_bytes;
    let source = PluginSource {
        name: resolved.name.clone(),
        bytes,
        parameters: Value::Object(resolved.parameters.clone()),
        grants: membrane_host::parse_grants(&resolved.name, &resolved.grants)?,
        limits,
    };
    Ok((host.load(source, world)?, digest, memory))
}

impl Assembled {
    /// Loads the model beside the plugins, within the budget, and joins them.
    pub fn open(self, options: &ModelOptions, quiet: bool) -> Result<Generator> {
        let mut load_options = options.load_options(self.reserve)?;
        load_options.context = load_options.context.or(self.profile.generation.context);
        let prepared = Prepared::open(&options.model, &load_options)?;
        let model: Model = report::load(prepared, quiet)?;
        Ok(Generator::new(self.host, model, self.behaviour)?)
    }
}
