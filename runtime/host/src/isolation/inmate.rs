//! The process of a plugin, seen from inside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::de::DeserializeOwned;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::World;
use crate::bindings::{agent::Agent, policy::Policy, sampler::Sampler, tool::Tool};
use crate::ending::Ending;
use crate::engine::{config, keeping};
use crate::exports::{WorldExports, decode, encode};
use crate::functions::CompiledFunctions;
use crate::grants::Grant;
use crate::isolation::Confinement;
use crate::isolation::frames::{Broken, Frames};
use crate::isolation::imports::Import;
use crate::isolation::jail;
use crate::isolation::protocol::{Plugin, ToHost, ToProcess, VERSION};
use crate::limits::{Limits, MAX_CODE_BYTES, MAX_IMPORT_BYTES, Meter};
use crate::plugin::mismatch;
use crate::running::{Imports, Prepared, Running};

/// Exit status where the host is gone, which is how such a process ends.
const DONE: i32 = 0;
/// Exit status of a process that did not understand its host, or could not be confined.
const FAILED: i32 = 2;

type Host = Frames<File>;

/// A process that has given up all but computing.
pub struct Confined {
    /// What keeps it in.
    pub confinement: Confinement,
    host: Host,
    engines: Engines,
}

/// The engines, made before the process gave up what making them takes.
struct Engines {
    best: Engine,
    draft: Engine,
    /// For compiling in haste what others run.
    compiler: Engine,
    /// What it has compiled.
    functions: Arc<CompiledFunctions>,
}

impl Engines {
    fn new() -> wasmtime::Result<Self> {
        let functions = Arc::new(CompiledFunctions::default());
        Ok(Self {
            best: Engine::new(&config(false, true))?,
            draft: Engine::new(&config(true, true))?,
            compiler: Engine::new(&keeping(config(true, true), &functions))?,
            functions,
        })
    }
}

/// Runs a plugin for the host that started this process, to the end of the process.
///
/// To be called first of all in `main`, before a file is opened or a thread started, and only where the arguments say
/// that a host started it.
pub fn serve() -> ! {
    let confined = match confine() {
        Ok(confined) => confined,
        Err(_) => std::process::exit(FAILED),
    };
    std::process::exit(match confined.work() {
        Ok(()) | Err(Broken::Closed) => DONE,
        Err(_) => FAILED,
    })
}

/// Gives up all but computing, as the host on the other end of standard input says. [`serve`] does it first.
///
/// # Errors
/// Standard input is not a host, or a step that every kernel has was refused. The host is told.
pub fn confine() -> io::Result<Confined> {
    let stdin = jail::standard_input()?;
    let mut host = Frames::new(File::from(stdin));
    let broken = |broken: Broken| io::Error::other(format!("{broken:?}"));
    let (ToProcess::Confine { data_bytes }, _) = host.receive(MAX_IMPORT_BYTES, &mut ()).map_err(broken)?
    else {
        return Err(io::Error::other("not a host"));
    };
    // The engine looks at the processor and installs its signal handlers, which files and calls beyond those of
    // computing take.
    let engines = match Engines::new() {
        Ok(engines) => engines,
        Err(error) => {
            let why = format!("{error:#}");
            host.send(&ToHost::Failed { why: why.clone() }, &[]).map_err(broken)?;
            return Err(io::Error::other(why));
        }
    };
    match jail::enter(data_bytes) {
        Ok(confinement) => {
            host.send(&ToHost::Confined { version: VERSION, confinement }, &[]).map_err(broken)?;
            Ok(Confined { confinement, host, engines })
        }
        Err(error) => {
            host.send(&ToHost::Failed { why: error.to_string() }, &[]).map_err(broken)?;
            Err(error)
        }
    }
}

impl Confined {
    /// The other end of the stream to the host.
    ///
    /// For tests of what a process can still do.
    pub fn into_stream(self) -> File {
        self.host.into_stream()
    }

    /// Takes the plugin in and makes its calls, or compiles.
    fn work(mut self) -> Result<(), Broken> {
        let (message, behind) = self.host.receive(usize::MAX, &mut ())?;
        let (plugin, compiled) = match message {
            ToProcess::Load { plugin, compiled } => (plugin, compiled),
            ToProcess::Compile => {
                let component = behind.to_vec();
                return self.compile(component);
            }
            _ => return Err(unexpected()),
        };
        let engine = if plugin.draft { &self.engines.draft } else { &self.engines.best };
        let component = if compiled {
            membrane_codecache::load_confined(engine, behind)
        } else {
            Component::from_binary(engine, behind)
        };
        let component = match component {
            Ok(component) => component,
            Err(error) => {
                return self.host.send(&ToHost::NotCompiled { why: format!("{error:#}") }, &[]);
            }
        };
        let grants: Vec<Grant> = plugin.grants.iter().filter_map(|name| name.parse().ok()).collect();
        let (world, state) = (plugin.world, plugin.exports_state);
        let prepared = match Prepared::<Inmate>::new(&component, world, &grants, state) {
            Ok(prepared) => prepared,
            Err(error) => return self.host.send(&ToHost::Mismatch { names: mismatch(&error) }, &[]),
        };
        // Where it can't be serialised, or is too large, it is compiled again the next time.
        let mut code = Vec::new();
        if plugin.keep && !compiled {
            code = component.serialize().unwrap_or_default();
            code.truncate(if code.len() > MAX_CODE_BYTES { 0 } else { code.len() });
        }
        self.host.send(&ToHost::Loaded, &code)?;
        drop(code);
        let host = Arc::new(Mutex::new(self.host));
        Cell { plugin, prepared, host, instances: BTreeMap::new() }.work()
    }

    /// Compiles this component, and those that come after it. None of them runs here.
    fn compile(mut self, mut component: Vec<u8>) -> Result<(), Broken> {
        loop {
            self.engines.functions.begin(component.len());
            let compiled = Component::from_binary(&self.engines.compiler, &component)
                .and_then(|component| component.serialize());
            match compiled {
                Ok(code) => self.host.send(&ToHost::Compiled, &code)?,
                Err(error) => self.host.send(&ToHost::NotCompiled { why: format!("{error:#}") }, &[])?,
            }
            let (message, behind) = self.host.receive(usize::MAX, &mut ())?;
            let ToProcess::Compile = message else { return Err(unexpected()) };
            component.clear();
            component.extend_from_slice(behind);
        }
    }
}

/// A process that has a plugin: its instances.
struct Cell {
    plugin: Plugin,
    prepared: Prepared<Inmate>,
    host: Arc<Mutex<Host>>,
    instances: BTreeMap<u32, Box<dyn Callable>>,
}

impl Cell {
    fn work(mut self) -> Result<(), Broken> {
        loop {
            let mut host = locked(&self.host)?;
            let (message, behind) = host.receive(usize::MAX, &mut ())?;
            match message {
                ToProcess::Start { instance, fuel, dropped } => {
                    drop(host);
                    for gone in dropped {
                        self.instances.remove(&gone);
                    }
                    self.start(instance, fuel)?;
                }
                ToProcess::Call { instance, function, fuel } => {
                    let parameters = behind.to_vec();
                    drop(host);
                    let callable = self.instances.get_mut(&instance).ok_or_else(unexpected)?;
                    let called = callable.call_encoded(function, &parameters, fuel);
                    let mut host = locked(&self.host)?;
                    match called {
                        Ok(result) => host.send(&ToHost::Returned, &result)?,
                        Err(ending) => host.send(&ToHost::Ended(ending), &[])?,
                    }
                }
                _ => return Err(unexpected()),
            }
        }
    }

    fn start(&mut self, instance: u32, fuel: u64) -> Result<(), Broken> {
        let started = match self.plugin.world {
            World::Sampler => self.start_one::<Sampler>(fuel),
            World::Policy => self.start_one::<Policy>(fuel),
            World::Tool => self.start_one::<Tool>(fuel),
            World::Agent => self.start_one::<Agent>(fuel),
        };
        let mut host = locked(&self.host)?;
        match started {
            Ok(started) => {
                self.instances.insert(instance, started);
                host.send(&ToHost::Started, &[])
            }
            Err(ending) => host.send(&ToHost::Ended(ending), &[]),
        }
    }

    fn start_one<E: WorldExports>(&self, fuel: u64) -> Result<Box<dyn Callable>, Ending> {
        let memory_bytes = usize::try_from(self.plugin.memory_bytes).unwrap_or(usize::MAX);
        let limits = Limits { fuel_per_call: fuel, memory_bytes, wall_ms: None };
        let inmate = Inmate { host: self.host.clone(), meter: Meter::new(&limits) };
        match Running::<E, Inmate>::start(&self.prepared, inmate, fuel) {
            Ok(running) => Ok(Box::new(running)),
            Err(failed) => Err(failed.0),
        }
    }
}

/// An instance of any world.
trait Callable {
    fn call_encoded(&mut self, function: u8, parameters: &[u8], fuel: u64) -> Result<Vec<u8>, Ending>;
}

impl<E: WorldExports> Callable for Running<E, Inmate> {
    fn call_encoded(&mut self, function: u8, parameters: &[u8], fuel: u64) -> Result<Vec<u8>, Ending> {
        Running::call_encoded(self, function, parameters, fuel)
    }
}

/// What stands in the store of an instance: it asks the host for every import.
pub struct Inmate {
    host: Arc<Mutex<Host>>,
    meter: Meter,
}

impl Imports for Inmate {
    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}

impl Inmate {
    /// Asks the host for an import. The error ends the call.
    pub fn ask<R: DeserializeOwned>(&mut self, import: &Import) -> wasmtime::Result<R> {
        let gone = |_| wasmtime::Error::msg("the host is gone");
        let import = encode(import)?;
        if import.len() > MAX_IMPORT_BYTES {
            let text = format!("the parameters of an import have more than {} MiB", MAX_IMPORT_BYTES >> 20);
            return Err(wasmtime::Error::msg(text));
        }
        let mut host = locked(&self.host).map_err(gone)?;
        host.send(&ToHost::Import, &import).map_err(gone)?;
        let (message, result) = host.receive(usize::MAX, &mut ()).map_err(gone)?;
        match message {
            ToProcess::Imported => decode(result).ok_or_else(|| wasmtime::Error::msg("a malformed result")),
            ToProcess::End { why } => Err(wasmtime::Error::msg(why)),
            _ => Err(gone(unexpected())),
        }
    }
}

/// The stream, which only the one thread of this process uses.
fn locked(host: &Mutex<Host>) -> Result<MutexGuard<'_, Host>, Broken> {
    host.lock().map_err(|_| unexpected())
}

fn unexpected() -> Broken {
    Broken::Rule("an unexpected message".into())
}
