//! The WebAssembly engine, and how it loads plugins.

use std::sync::{Arc, Once};

use membrane_codecache::CodeCache;
use membrane_profile::{Digest, Isolation};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, OptLevel, RegallocAlgorithm};

use crate::World;
use crate::compile::{CompileLimits, compile};
use crate::contents::Contents;
use crate::error::{HostError, Result};
use crate::functions::{CompiledFunctions, MAX_COMPONENT_BYTES};
use crate::isolation::{Compiler, ProcessOptions};
use crate::limits::MAX_STACK_BYTES;
use crate::plugin::{Plugin, PluginSource};
use crate::wall::Clock;
use crate::web::Network;

/// How important a line of a plugin's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For the plugin's author.
    Debug,
    /// For whoever runs the host.
    Info,
    /// Something is wrong.
    Warning,
}

/// A line that a plugin logged. It is data from the plugin: cut, and without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Name of the plugin.
    pub plugin: String,
    /// How important the plugin takes it to be.
    pub level: LogLevel,
    /// One line.
    pub text: String,
    /// Whether the policies have let it pass already, or this stands in its place.
    pub judged: bool,
}

/// Where log lines go.
pub type LogSink = Arc<dyn Fn(&LogLine) + Send + Sync>;

/// Options of a host.
#[derive(Clone, Default)]
pub struct HostOptions {
    /// Where log lines of plugins go; without it they are dropped.
    pub log: Option<LogSink>,
    /// What compiling a component may take.
    pub compile: CompileLimits,
    /// Where compiled code is kept from run to run; without it everything is compiled anew.
    pub cache: Option<Arc<CodeCache>>,
    /// How tools reach the network that they are granted.
    pub network: Network,
    /// How plugins get processes of their own; without it none can have one.
    pub processes: Option<ProcessOptions>,
}

/// How a host compiles in haste.
#[derive(Clone)]
struct Draft {
    /// What the engines have compiled.
    functions: Arc<CompiledFunctions>,
    /// What compiles for plugins in processes of their own.
    compiler: Arc<Compiler>,
}

/// The WebAssembly engine. Cheap to clone; clones share the engine.
#[derive(Clone)]
pub struct Host {
    /// For samplers, policies and agents.
    engine: Engine,
    /// For tools, whose calls also end by the clock.
    tools: Engine,
    /// Ends calls of tools by the clock.
    clock: Arc<Clock>,
    /// Set where it compiles in haste.
    draft: Option<Draft>,
    log: Option<LogSink>,
    compile: CompileLimits,
    cache: Option<Arc<CodeCache>>,
    network: Network,
    processes: Option<ProcessOptions>,
    warned: Arc<Once>,
}

impl Host {
    /// Sets the engine up. Errors: the machine can't run compiled WebAssembly.
    pub fn new(options: HostOptions) -> Result<Self> {
        let HostOptions { log, compile, cache, network, processes } = options;
        let (engine, tools) = engines(config(false, false))?;
        let (clock, warned) = (Arc::new(Clock::new(&tools)), Arc::new(Once::new()));
        Ok(Self { engine, tools, clock, log, compile, cache, network, processes, draft: None, warned })
    }

    /// A host that compiles in half the time, to code that is slower and otherwise does the same: the same results, the
    /// same fuel. Its plugins run beside those of this host. Of a component that it has compiled one much like before
    /// ([`Host::foresee`]) it compiles the functions that changed. It keeps nothing on the disk.
    pub fn draft(&self) -> Result<Self> {
        let functions = Arc::new(CompiledFunctions::default());
        let (engine, tools) = engines(keeping(config(true, false), &functions))?;
        self.clock.add(&tools);
        let draft = Draft { functions, compiler: Arc::default() };
        Ok(Self { engine, tools, cache: None, draft: Some(draft), ..self.clone() })
    }

    /// Compiles a component of which new versions are to come, for plugins with this isolation, and drops it. Only a draft has
    /// use for it; on another host, and for a component of more than 4 MiB, nothing happens. What is wrong with the
    /// component is told when it is loaded.
    pub fn foresee(&self, bytes: &[u8], world: World, isolation: Isolation) {
        let Some(draft) = &self.draft else { return };
        if bytes.len() <= MAX_COMPONENT_BYTES {
            let _ = match isolation {
                Isolation::None => self.component(bytes, &Digest::of(bytes), world).map(drop).is_ok(),
                Isolation::Process | Isolation::Required => draft.compiler.compile(self, "", bytes).is_ok(),
            };
        }
    }

    /// The same host with other bounds on compiling.
    pub fn within(&self, compile: CompileLimits) -> Self {
        Self { compile, ..self.clone() }
    }

    /// Checks and compiles a plugin for a world. Imports are compared with the grants before anything is
    /// compiled.
    pub fn load(&self, source: PluginSource, world: World) -> Result<Plugin> {
        Plugin::load(self, source, world)
    }

    /// The world that a component is made for. `name` is for errors.
    pub fn world_of(name: &str, bytes: &[u8]) -> Result<World> {
        Contents::read(name, bytes)?.world(name)
    }

    pub(crate) fn engine(&self, world: World) -> &Engine {
        match world {
            World::Sampler | World::Policy | World::Agent => &self.engine,
            World::Tool => &self.tools,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The compiled code of a component with this digest, from the cache or from the compiler.
    pub(crate) fn component(
        &self,
        bytes: &[u8],
        digest: &Digest,
        world: World,
    ) -> wasmtime::Result<Component> {
        let engine = self.engine(world);
        let cached = self.cache.as_ref().and_then(|cache| cache.load(engine, digest.as_bytes()));
        if let Some(component) = cached {
            return Ok(component);
        }
        if let Some(draft) = &self.draft {
            draft.functions.begin(bytes.len());
        }
        let component = compile(engine, bytes, self.compile)?;
        if let Some(cache) = &self.cache {
            // Where it can't be kept (a full disk) it is compiled again the next time.
            let _ = cache.store(engine, digest.as_bytes(), &component);
        }
        Ok(component)
    }

    pub(crate) fn cache(&self) -> Option<&CodeCache> {
        self.cache.as_deref()
    }

    pub(crate) fn compile_limits(&self) -> CompileLimits {
        self.compile
    }

    pub(crate) fn is_draft(&self) -> bool {
        self.draft.is_some()
    }

    /// What compiles a component of so many bytes for plugins in processes of their own, if it is not these processes.
    pub(crate) fn compiler(&self, bytes: usize) -> Option<&Compiler> {
        let draft = self.draft.as_ref().filter(|_| bytes <= MAX_COMPONENT_BYTES);
        draft.map(|draft| &*draft.compiler)
    }

    pub(crate) fn processes(&self) -> Option<&ProcessOptions> {
        self.processes.as_ref()
    }

    /// Says, once, what the kernel lacks to keep processes in.
    pub(crate) fn warn_of_isolation(&self, missing: &str) {
        if let Some(warn) = self.processes.as_ref().and_then(|options| options.warn.as_ref()) {
            self.warned.call_once(|| {
                warn(&format!(
                    "the kernel has no {missing}: plugins in processes of their own are held by WebAssembly and by \
                     having nothing, but not by the kernel"
                ));
            });
        }
    }

    /// Where log lines of plugins go.
    pub fn log(&self) -> Option<LogSink> {
        self.log.clone()
    }
}

/// An engine for samplers, policies and agents, and one for tools. Looking at the clock costs about a tenth of a guest's time.
fn engines(mut config: Config) -> Result<(Engine, Engine)> {
    let engine =
        |config: &Config| Engine::new(config).map_err(|error| HostError::Engine(format!("{error:#}")));
    Ok((engine(&config)?, engine(config.epoch_interruption(true))?))
}

/// Deterministic, with fuel, and with no more of WebAssembly than plugins need. `draft`: compile in haste.
/// `confined`: for a process that can make no files, in which memories can't begin as copies of one.
pub(crate) fn config(draft: bool, confined: bool) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .cranelift_opt_level(OptLevel::Speed)
        .concurrency_support(false)
        .wasm_component_model(true)
        .wasm_memory64(false)
        // Components of several modules are joined by modules that reach into the memories of both sides.
        .wasm_multi_memory(true)
        .max_wasm_stack(MAX_STACK_BYTES)
        // Guests are stripped and traps name the hook: traces through them would cost memory and say nothing.
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false)
        .generate_address_map(false)
        .memory_init_cow(!confined);
    if draft {
        config
            .cranelift_opt_level(OptLevel::None)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    }
    config
}

/// The same, and functions that were compiled before are not compiled again.
pub(crate) fn keeping(mut config: Config, functions: &Arc<CompiledFunctions>) -> Config {
    // It fails where there is no compiler to keep anything of.
    let _ = config.enable_incremental_compilation(functions.clone());
    config
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::first_party;

    /// A section that says nothing makes another component of it.
    #[test]
    fn of_the_next_version_a_draft_compiles_what_changed() {
        let draft = Host::new(HostOptions::default()).unwrap().draft().unwrap();
        let mut bytes = first_party::find("greedy").unwrap().bytes.to_vec();
        draft.foresee(&bytes, World::Sampler, Isolation::None);
        let functions = draft.draft.as_ref().unwrap().functions.clone();
        let count = functions.count();
        assert!(count > 100, "{count} functions");
        bytes.extend([0, 3, 1, b'v', 1]);
        draft.load(PluginSource::new("greedy", bytes, World::Sampler), World::Sampler).unwrap();
        // Some trampolines have other names each time.
        let anew = functions.count() - count;
        assert!(anew < count / 5, "{anew} of {count} functions");
    }
}
