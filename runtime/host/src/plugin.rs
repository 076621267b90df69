//! A compiled plugin.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use membrane_profile::{Authority, Digest, Isolation};
use serde_json::{Map, Value};

use crate::authority::Opened;
use crate::bindings::{agent::Agent, policy::Policy, sampler::Sampler, tool::Tool};
use crate::call::Instance;
use crate::contents::Contents;
use crate::engine::{Host, LogSink};
use crate::error::{Cause, Failure, HostError, Result};
use crate::grants::Grant;
use crate::isolation::{Launch, Process};
use crate::limits::Limits;
use crate::running::Prepared;
use crate::state::State;
use crate::wall::Clock;
use crate::{World, error, exports};

/// A plugin before it is loaded.
#[derive(Debug, Clone)]
pub struct PluginSource {
    /// Name in errors, records and interventions.
    pub name: String,
    /// The component. These bytes are checked, hashed and compiled.
    pub bytes: Vec<u8>,
    /// A JSON object for `configure`.
    pub parameters: Value,
    /// What it may have beyond its world.
    pub grants: BTreeSet<Grant>,
    /// What it finds behind grants that have values.
    pub authority: Authority,
    /// Limits of its instances.
    pub limits: Limits,
    /// Whether its instances get a process of their own.
    pub isolation: Isolation,
}

impl PluginSource {
    /// A component without parameters and grants, with the default limits of `world`, in the host's process.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, world: World) -> Self {
        Self {
            name: name.into(),
            bytes: bytes.into(),
            parameters: Value::Object(Map::new()),
            grants: BTreeSet::new(),
            authority: Authority::default(),
            limits: Limits::of(world),
            isolation: Isolation::None,
        }
    }
}

/// A plugin, checked and compiled. Cheap to clone. Every answer starts instances of its own.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

#[derive(Clone)]
struct Loaded {
    name: String,
    digest: Digest,
    world: World,
    imports: Vec<String>,
    grants: BTreeSet<Grant>,
    authority: Authority,
    opened: Arc<Opened>,
    parameters: String,
    limits: Limits,
    log: Option<LogSink>,
    clock: Arc<Clock>,
    exports_state: bool,
    isolation: Isolation,
    code: Arc<Code>,
}

/// What makes instances.
pub(crate) enum Code {
    /// In this process.
    Here(Prepared<State>),
    /// In a process of their own.
    Process(Box<Process>),
}

impl Plugin {
    pub(crate) fn load(host: &Host, source: PluginSource, world: World) -> Result<Self> {
        let PluginSource { name, bytes, parameters, grants, authority, limits, isolation } = source;
        let name = crate::text::clean(&name, 100);
        if !parameters.is_object() {
            let found = crate::text::clean(&parameters.to_string(), 100);
            return Err(HostError::Parameters { plugin: name, found });
        }
        let contents = Contents::read(&name, &bytes)?;
        let found = contents.world(&name)?;
        if found != world {
            return Err(HostError::WrongWorld { plugin: name, found, wanted: world });
        }
        let granted: Vec<Grant> = grants.iter().copied().collect();
        contents.check_imports(&name, world, &granted)?;
        let opened = Arc::new(Opened::open(&name, &authority, &grants, host.network())?);
        let digest = Digest::of(&bytes);
        let exports_state = contents.exports_state();
        let code = match isolation {
            Isolation::None => Code::here(host, &name, &bytes, &digest, world, &grants, exports_state)?,
            Isolation::Process | Isolation::Required => {
                let options = host.processes().cloned().ok_or_else(|| {
                    let cause = "this program does not say which program to start".to_owned();
                    HostError::Isolation { plugin: name.clone(), cause }
                })?;
                let (name, grants) = (name.clone(), grants.clone());
                let (required, compiled) = (isolation == Isolation::Required, OnceLock::new());
                let launch = Launch {
                    name,
                    bytes,
                    digest,
                    world,
                    grants,
                    exports_state,
                    limits,
                    options,
                    required,
                    compiled,
                };
                Code::Process(Box::new(Process::launch(host, launch)?))
            }
        };
        Ok(Self(Arc::new(Loaded {
            name,
            digest,
            world,
            imports: contents.imports,
            grants,
            authority,
            opened,
            parameters: parameters.to_string(),
            limits,
            log: host.log(),
            clock: host.clock().clone(),
            exports_state,
            isolation,
            code: Arc::new(code),
        })))
    }

    /// The same plugin with other parameters. It is not compiled again.
    pub fn with_parameters(&self, parameters: Map<String, Value>) -> Self {
        let parameters = Value::Object(parameters).to_string();
        Self(Arc::new(Loaded { parameters, ..Loaded::clone(&self.0) }))
    }

    /// The same plugin with something else behind its grants.
    pub(crate) fn with_opened(&self, opened: Opened) -> Self {
        Self(Arc::new(Loaded { opened: Arc::new(opened), ..Loaded::clone(&self.0) }))
    }

    /// Name in errors, records and interventions.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// SHA-256 of the component.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The world that it is a plugin of.
    pub fn world(&self) -> World {
        self.0.world
    }

    /// Names of the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// What it may do beyond its world.
    pub fn grants(&self) -> &BTreeSet<Grant> {
        &self.0.grants
    }

    /// What it finds behind grants that have values.
    pub fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// Limits of its instances.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Its parameters, a JSON object.
    pub fn parameters(&self) -> &str {
        &self.0.parameters
    }

    /// Makes an instance and drops it; nothing is configured. Errors: it traps when it starts, or exports functions of
    /// other types than the contract's.
    pub fn try_start(&self) -> Result<(), Failure> {
        match self.world() {
            World::Sampler => Instance::<Sampler>::start(self).map(drop),
            World::Policy => Instance::<Policy>::start(self).map(drop),
            World::Tool => Instance::<Tool>::start(self).map(drop),
            World::Agent => Instance::<Agent>::start(self).map(drop),
        }
    }

    /// Starts an instance and gives it its parameters. What it asks a model for meanwhile can't be known here and is no error.
    ///
    /// # Errors
    /// Its start function fails, or the parameters are not what it takes.
    pub fn try_configure(&self) -> Result<(), Failure> {
        let parameters = self.parameters();
        let configured = match self.world() {
            World::Sampler => {
                Instance::<Sampler>::start(self)?.strict_hook(&exports::sampler::Configure { parameters })
            }
            World::Policy => {
                Instance::<Policy>::start(self)?.strict_hook(&exports::policy::Configure { parameters })
            }
            World::Tool => {
                Instance::<Tool>::start(self)?.strict_hook(&exports::tool::Configure { parameters })
            }
            World::Agent => {
                Instance::<Agent>::start(self)?.strict_hook(&exports::agent::Configure { parameters })
            }
        };
        match configured {
            Err(Failure { cause: Cause::Broke(_), .. }) => Ok(()),
            other => other,
        }
    }

    /// Whether a new version of it can go on where it was.
    pub fn keeps_state(&self) -> bool {
        self.0.exports_state
    }

    /// Where its instances run.
    pub fn isolation(&self) -> Isolation {
        self.0.isolation
    }

    /// The process of its own that was started last, if it has one.
    pub fn process_id(&self) -> Option<u32> {
        match &*self.0.code {
            Code::Here(_) => None,
            Code::Process(process) => Some(process.id()),
        }
    }

    /// Errors: it is a plugin of another world.
    pub(crate) fn require(&self, world: World) -> Result<()> {
        if self.world() == world { Ok(()) } else { Err(error::wrong_world(self, world)) }
    }

    /// Whether loading this source for a world would give the same plugin.
    pub fn is(&self, source: &PluginSource, world: World) -> bool {
        let parameters = source.parameters.to_string();
        self.name() == source.name
            && (self.world(), self.0.limits) == (world, source.limits)
            && self.isolation() == source.isolation
            && (&self.0.grants, &self.0.authority) == (&source.grants, &source.authority)
            && self.parameters() == parameters
            && self.digest() == Digest::of(&source.bytes)
    }

    /// Whether both behave alike: the same component under the same name, with the same parameters, grants and limits, in the
    /// same kind of process.
    pub fn same(&self, other: &Self) -> bool {
        let of = |plugin: &Self| {
            let Loaded { digest, world, limits, .. } = &*plugin.0;
            (*digest, *world, *limits, plugin.isolation())
        };
        Arc::ptr_eq(&self.0, &other.0)
            || (of(self) == of(other)
                && self.name() == other.name()
                && self.parameters() == other.parameters()
                && self.grants() == other.grants()
                && self.authority() == other.authority())
    }

    pub(crate) fn code(&self) -> &Code {
        &self.0.code
    }

    pub(crate) fn opened(&self) -> &Arc<Opened> {
        &self.0.opened
    }

    /// What ends its calls in time.
    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.0.clock
    }

    pub(crate) fn log(&self) -> Option<&LogSink> {
        self.0.log.as_ref()
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.0.world, self.0.name, self.0.digest)
    }
}

impl Code {
    /// Compiled in this process, for this process.
    fn here(
        host: &Host,
        name: &str,
        bytes: &[u8],
        digest: &Digest,
        world: World,
        grants: &BTreeSet<Grant>,
        exports_state: bool,
    ) -> Result<Self> {
        let component = host.component(bytes, digest, world).map_err(|error| HostError::Compile {
            plugin: name.to_owned(),
            cause: crate::text::clean(&format!("{error:#}"), 1024),
        })?;
        let prepared = Prepared::new(&component, world, grants, exports_state);
        let mismatch = |error| HostError::Mismatch { plugin: name.to_owned(), what: mismatch(&error) };
        Ok(Self::Here(prepared.map_err(mismatch)?))
    }
}

/// Where a component and the contract differ: the names that the linker's errors quote, without its words, which are
/// about types of the component model.
pub(crate) fn mismatch(error: &wasmtime::Error) -> String {
    let mut names: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        for name in cause.split('`').skip(1).step_by(2) {
            let name = crate::text::clean(name, 100);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.is_empty() { "one of its interfaces".to_owned() } else { names.join(", ") }
}
