//! Profiles: which plugins make the behaviour of an answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::argument::PluginArgument;
use crate::authority::{self, Authority, WrittenFolder, WrittenHost, WrittenSecret};
use crate::digest::Digest;
use crate::error::ProfileError;
use crate::plugin::{Isolation, Kind, LimitsSpec, Location, Origin, ResolvedPlugin};
use crate::publisher::{self, Publisher};
use crate::read;

/// The sampler of a profile that names none.
const DEFAULT_SAMPLER: &str = "standard-sampler";

/// Plugins of one profile (the same component named ten thousand times).
const MAX_PLUGINS: usize = 64;
/// Milliseconds of a call of a tool (one that waits for ever).
const MAX_WALL_MS: u64 = 3_600_000;
/// Bytes of a name (a name that fills the screen).
const MAX_NAME_BYTES: usize = 100;

/// A parameter that starts with this is replaced by the text of the file that follows it.
const FILE_PREFIX: &str = "file:";

/// How long an answer may be and where its randomness starts. How a token is chosen is the samplers'
/// business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Seed of the recorded random source.
    pub seed: Option<u64>,
    /// Context length in tokens.
    pub context: Option<u32>,
}

/// How a model behaves: its sampler chain, policies and tools, with everything resolved that the file refers
/// to.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What the profile is called.
    pub name: String,
    /// Settings of the decode loop.
    pub generation: Generation,
    samplers: Vec<ResolvedPlugin>,
    policies: Vec<ResolvedPlugin>,
    tools: Vec<ResolvedPlugin>,
    agents: Vec<ResolvedPlugin>,
    /// Files whose text is in parameters.
    files: Vec<PathBuf>,
}

/// A profile file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    #[serde(default)]
    generation: Generation,
    /// Names of publishers to their keys.
    #[serde(default)]
    publishers: BTreeMap<String, String>,
    #[serde(default)]
    sampler: Vec<Entry>,
    #[serde(default)]
    policy: Vec<Entry>,
    #[serde(default)]
    tool: Vec<Entry>,
    #[serde(default)]
    agent: Vec<Entry>,
}

impl Written {
    /// Checks names and numbers of entries; the error says what is wrong.
    fn check(&self) -> Result<(), String> {
        let mut names = self.name.iter().chain(self.publishers.keys());
        if let Some(name) = names.find(|name| !is_name(name)) {
            return Err(format!("the name `{}` is {NAMES}", name.escape_debug()));
        }
        let plugins = self.sampler.len() + self.policy.len() + self.tool.len() + self.agent.len();
        if plugins > MAX_PLUGINS {
            return Err(format!("has {plugins} plugins, of which at most {MAX_PLUGINS} are allowed"));
        }
        Ok(())
    }
}

/// A `[[sampler]]`, `[[policy]]`, `[[tool]]` or `[[agent]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    plugin: String,
    name: Option<String>,
    #[serde(default)]
    parameters: toml::Table,
    #[serde(default)]
    grants: Vec<String>,
    #[serde(default)]
    folders: Vec<WrittenFolder>,
    #[serde(default)]
    hosts: Vec<WrittenHost>,
    #[serde(default)]
    environment: Vec<String>,
    #[serde(default)]
    secrets: Vec<WrittenSecret>,
    digest: Option<Digest>,
    publisher: Option<String>,
    #[serde(default)]
    unsigned: bool,
    #[serde(default)]
    limits: LimitsSpec,
    isolation: Option<Isolation>,
}

/// Where an entry stands, for its errors, and where its paths start.
struct Place<'a> {
    origin: &'a str,
    folder: &'a Path,
    kind: Kind,
    position: usize,
    source: Origin,
    publishers: &'a BTreeMap<String, Publisher>,
}

impl Place<'_> {
    fn error(&self, message: String) -> ProfileError {
        ProfileError::Entry {
            origin: self.origin.to_owned(),
            kind: self.kind,
            position: self.position,
            message,
        }
    }
}

impl Profile {
    /// The profile of a program that was given none: the standard sampler, no policies, no tools.
    pub fn default_profile() -> Self {
        Self {
            name: "default".to_owned(),
            generation: Generation::default(),
            samplers: vec![ResolvedPlugin::first_party(Kind::Sampler, DEFAULT_SAMPLER)],
            policies: Vec::new(),
            tools: Vec::new(),
            agents: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Reads a profile and the files that its parameters refer to.
    ///
    /// # Errors
    /// A file that can't be read, is no text, is larger than 1 MiB or lies outside of the profile's folder; a field
    /// that is unknown or of the wrong type, with its line; an entry that can't be resolved, with its kind and
    /// position.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut profile = Self::parse(&read::text(path)?, &path.display().to_string(), folder)?;
        if profile.name.is_empty() {
            profile.name = Location::Path(path.to_owned()).default_name();
        }
        Ok(profile)
    }

    /// Parses the text of a profile. `origin` names it in errors; paths in it are relative to `folder`. The
    /// name is empty if the text gives none.
    ///
    /// # Errors
    /// As for [`Profile::read`].
    pub fn parse(text: &str, origin: &str, folder: &Path) -> Result<Self, ProfileError> {
        let written: Written = read::toml(origin, text)?;
        written.check().map_err(|message| ProfileError::Name { origin: origin.to_owned(), message })?;
        let mut profile = Self {
            name: written.name.unwrap_or_default(),
            generation: written.generation,
            samplers: Vec::new(),
            policies: Vec::new(),
            tools: Vec::new(),
            agents: Vec::new(),
            files: Vec::new(),
        };
        let publishers = publisher::resolve(&written.publishers, origin, folder)?;
        let lists = [
            (Kind::Sampler, written.sampler),
            (Kind::Policy, written.policy),
            (Kind::Tool, written.tool),
            (Kind::Agent, written.agent),
        ];
        for (kind, entries) in lists {
            for (index, entry) in entries.into_iter().enumerate() {
                let (position, source, publishers) = (index + 1, Origin::Profile, &publishers);
                profile.add(entry, &Place { origin, folder, kind, position, source, publishers })?;
            }
            // Before others, which then can't have its name.
            if kind == Kind::Sampler && profile.samplers.is_empty() {
                profile.samplers.push(ResolvedPlugin::first_party(Kind::Sampler, DEFAULT_SAMPLER));
            }
        }
        Ok(profile)
    }

    /// The sampler chain in its order; at least one.
    pub fn samplers(&self) -> &[ResolvedPlugin] {
        &self.samplers
    }

    /// The policies in the order in which they see a text.
    pub fn policies(&self) -> &[ResolvedPlugin] {
        &self.policies
    }

    /// The tools that the model is offered.
    pub fn tools(&self) -> &[ResolvedPlugin] {
        &self.tools
    }

    /// The agents that tasks can be given to.
    pub fn agents(&self) -> &[ResolvedPlugin] {
        &self.agents
    }

    /// The files that parameters referred to with `file:`.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// All plugins: samplers, policies, tools, agents.
    pub fn plugins(&self) -> impl Iterator<Item = &ResolvedPlugin> {
        self.samplers.iter().chain(&self.policies).chain(&self.tools).chain(&self.agents)
    }

    /// The profile with another sampler chain. An empty chain leaves the profile's own.
    ///
    /// # Errors
    /// An argument that can't be resolved; paths are relative to the current folder.
    pub fn with_samplers(mut self, arguments: Vec<PluginArgument>) -> Result<Self, ProfileError> {
        if !arguments.is_empty() {
            self.samplers.clear();
        }
        self.extend(Kind::Sampler, arguments)
    }

    /// The profile with more policies behind its own: a policy can be added, not removed.
    ///
    /// # Errors
    /// As for [`Profile::with_samplers`].
    pub fn with_policies(self, arguments: Vec<PluginArgument>) -> Result<Self, ProfileError> {
        self.extend(Kind::Policy, arguments)
    }

    /// The profile with more tools.
    ///
    /// # Errors
    /// As for [`Profile::with_samplers`].
    pub fn with_tools(self, arguments: Vec<PluginArgument>) -> Result<Self, ProfileError> {
        self.extend(Kind::Tool, arguments)
    }

    /// The profile with its agent of that name, or with another in the place of its own; and the name of the agent. Parameters
    /// take the place of the agent's own, and grants are added to them.
    ///
    /// # Errors
    /// As for [`Profile::with_samplers`], and a folder, host or variable that the agent was granted already.
    pub fn with_agent(mut self, argument: PluginArgument) -> Result<(Self, String), ProfileError> {
        if let Some(own) = self.agents.iter_mut().find(|agent| agent.name == argument.plugin) {
            let publishers = &BTreeMap::new();
            let place = Place {
                origin: "command line",
                folder: Path::new(""),
                kind: Kind::Agent,
                position: 1,
                source: Origin::CommandLine,
                publishers,
            };
            let error = |message| place.error(message);
            let given = Authority::read(argument.authority, place.folder).map_err(error)?;
            own.authority = std::mem::take(&mut own.authority).and(given).map_err(error)?;
            let more = argument.grants.into_iter().filter(|grant| !own.grants.contains(grant));
            let more: Vec<String> = more.collect();
            own.grants.extend(more);
            self.files.extend(files(&argument.parameters, &place));
            own.parameters.extend(resolve_files(argument.parameters, &place)?);
            own.isolation = argument.isolation.or(own.isolation);
            return Ok((self, argument.plugin));
        }
        self.agents.clear();
        let profile = self.extend(Kind::Agent, vec![argument])?;
        let name = profile.agents.first().map(|agent| agent.name.clone()).unwrap_or_default();
        Ok((profile, name))
    }

    /// The profile with one parameter of one plugin set, such as `--temperature` for the standard sampler.
    ///
    /// # Errors
    /// There is no plugin of that kind and name.
    pub fn with_parameter(
        mut self,
        kind: Kind,
        name: &str,
        key: &str,
        value: Value,
    ) -> Result<Self, ProfileError> {
        let known = |list: &[ResolvedPlugin]| match list {
            [] => "none".to_owned(),
            list => list.iter().map(|p| format!("`{}`", p.name)).collect::<Vec<_>>().join(", "),
        };
        let profile = self.name.clone();
        let list = self.list(kind);
        match list.iter_mut().find(|plugin| plugin.name == name) {
            Some(plugin) => plugin.parameters.insert(key.to_owned(), value),
            None => {
                let known = known(list);
                return Err(ProfileError::NoSuchPlugin { profile, kind, name: name.to_owned(), known });
            }
        };
        Ok(self)
    }

    /// The profile with all plugins run in the same way, whatever their entries say.
    pub fn with_isolation(mut self, isolation: Isolation) -> Self {
        let lists = [&mut self.samplers, &mut self.policies, &mut self.tools, &mut self.agents];
        lists.into_iter().flatten().for_each(|plugin| plugin.isolation = Some(isolation));
        self
    }

    fn extend(mut self, kind: Kind, arguments: Vec<PluginArgument>) -> Result<Self, ProfileError> {
        for (index, argument) in arguments.into_iter().enumerate() {
            let place = Place {
                origin: "command line",
                folder: Path::new(""),
                kind,
                position: index + 1,
                source: Origin::CommandLine,
                publishers: &BTreeMap::new(),
            };
            let entry = Entry {
                plugin: argument.plugin,
                name: None,
                parameters: toml::Table::new(),
                grants: argument.grants,
                folders: argument.authority.folders,
                hosts: argument.authority.hosts,
                environment: argument.authority.environment,
                secrets: argument.authority.secrets,
                digest: None,
                publisher: None,
                unsigned: false,
                limits: LimitsSpec::default(),
                isolation: argument.isolation,
            };
            self.add(entry, &place)?;
            self.files.extend(files(&argument.parameters, &place));
            let parameters = resolve_files(argument.parameters, &place)?;
            if let Some(plugin) = self.list(kind).last_mut() {
                plugin.parameters = parameters;
            }
        }
        Ok(self)
    }

    fn add(&mut self, entry: Entry, place: &Place<'_>) -> Result<(), ProfileError> {
        let location = Location::resolve(&entry.plugin, place.folder).ok_or_else(|| {
            place.error(format!(
                "`{}` is no plugin: write the name of a first-party plugin (lower-case letters, digits, `-`) \
                 or a path that ends in .wasm",
                entry.plugin
            ))
        })?;
        let publisher = trusted(&entry, &location, place)?;
        check_limits(&entry.limits, place)?;
        let name = self.free_name(entry.name, &location, place)?;
        let parameters = to_json(entry.parameters, place)?;
        self.files.extend(files(&parameters, place));
        let parameters = resolve_files(parameters, place)?;
        let Entry { folders, hosts, environment, secrets, .. } = entry;
        let written = authority::Written { folders, hosts, environment, secrets };
        let authority = Authority::read(written, place.folder).map_err(|message| place.error(message))?;
        self.list(place.kind).push(ResolvedPlugin {
            kind: place.kind,
            name,
            location,
            parameters,
            grants: entry.grants,
            authority,
            limits: entry.limits,
            pin: entry.digest,
            publisher,
            unsigned: entry.unsigned,
            origin: place.source,
            isolation: entry.isolation,
        });
        Ok(())
    }

    /// The given name, which must be free, or the default one, numbered where it is taken.
    fn free_name(
        &self,
        given: Option<String>,
        location: &Location,
        place: &Place<'_>,
    ) -> Result<String, ProfileError> {
        let taken = |name: &str| self.plugins().any(|plugin| plugin.name == name);
        match given {
            Some(name) if !is_name(&name) => {
                Err(place.error(format!("the name `{}` is {NAMES}", name.escape_debug())))
            }
            Some(name) if taken(&name) => {
                Err(place.error(format!("another plugin is already named `{name}`: choose another `name`")))
            }
            Some(name) => Ok(name),
            None => {
                let base = location.default_name();
                let numbered = (2..).map(|number| format!("{base}-{number}"));
                let mut candidates = std::iter::once(base.clone()).chain(numbered);
                Ok(candidates.find(|name| !taken(name)).unwrap_or(base))
            }
        }
    }

    fn list(&mut self, kind: Kind) -> &mut Vec<ResolvedPlugin> {
        match kind {
            Kind::Sampler => &mut self.samplers,
            Kind::Policy => &mut self.policies,
            Kind::Tool => &mut self.tools,
            Kind::Agent => &mut self.agents,
        }
    }
}

const NAMES: &str = "empty, longer than 100 bytes, or has control characters in it";

fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
}

/// Checks limits. Errors: more memory than an instance can have; one by the clock of a plugin whose decisions are to be the
/// same every time, or out of range.
fn check_limits(limits: &LimitsSpec, place: &Place<'_>) -> Result<(), ProfileError> {
    let most = LimitsSpec::MOST_MEMORY;
    if let Some(memory) = limits.memory.filter(|memory| *memory > most) {
        return Err(
            place.error(format!("limits.memory: {memory} is more than an instance can have: at most {most}"))
        );
    }
    match limits.wall_ms {
        Some(_) if place.kind != Kind::Tool => Err(place.error(format!(
            "limits.wall_ms is for tools; {} has `fuel_per_call`",
            place.kind.with_article()
        ))),
        Some(wall) if !(1..=MAX_WALL_MS).contains(&wall) => {
            Err(place.error(format!("limits.wall_ms: {wall} is not from 1 to {MAX_WALL_MS} milliseconds")))
        }
        _ => Ok(()),
    }
}

/// The publisher of an entry. Errors: one that the profile does not know, or what says two things at once.
fn trusted(entry: &Entry, location: &Location, place: &Place<'_>) -> Result<Option<Publisher>, ProfileError> {
    let first_party = matches!(location, Location::FirstParty(_));
    if first_party && (entry.publisher.is_some() || entry.unsigned) {
        let message = "a first-party plugin is part of the program: remove `publisher` and `unsigned`";
        return Err(place.error(message.to_owned()));
    }
    let Some(name) = &entry.publisher else { return Ok(None) };
    if entry.unsigned {
        return Err(place.error("`unsigned` and `publisher` contradict each other: remove one".to_owned()));
    }
    match place.publishers.get(name) {
        Some(publisher) => Ok(Some(publisher.clone())),
        None => Err(place.error(format!(
            "there is no publisher `{name}` in this profile: add it under [publishers] with the fingerprint of its key"
        ))),
    }
}

/// The files that parameters refer to.
fn files(parameters: &Map<String, Value>, place: &Place<'_>) -> Vec<PathBuf> {
    let paths = parameters.values().filter_map(|value| value.as_str()?.strip_prefix(FILE_PREFIX));
    paths.map(|path| place.folder.join(path)).collect()
}

/// The parameters with each string `file:PATH` replaced by the text of that file.
fn resolve_files(
    mut parameters: Map<String, Value>,
    place: &Place<'_>,
) -> Result<Map<String, Value>, ProfileError> {
    for value in parameters.values_mut() {
        if let Some(path) = value.as_str().and_then(|text| text.strip_prefix(FILE_PREFIX)) {
            let text = match place.source {
                Origin::CommandLine => read::text(Path::new(path)),
                Origin::Profile => read::text_inside(place.folder, path),
            };
            *value = Value::String(text?);
        }
    }
    Ok(parameters)
}

fn to_json(table: toml::Table, place: &Place<'_>) -> Result<Map<String, Value>, ProfileError> {
    table.into_iter().map(|(key, value)| Ok((key.clone(), value_to_json(value, &key, place)?))).collect()
}

fn value_to_json(value: toml::Value, path: &str, place: &Place<'_>) -> Result<Value, ProfileError> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| {
                place.error(format!(
                    "parameters.{path}: {number} can't be passed to a plugin: use a finite number"
                ))
            })?
        }
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => {
            let items = items.into_iter().enumerate();
            let items = items.map(|(index, item)| value_to_json(item, &format!("{path}[{index}]"), place));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, item)| {
                let item = value_to_json(item, &format!("{path}.{key}"), place)?;
                Ok::<_, ProfileError>((key, item))
            });
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
    })
}
