//! The process of a plugin, seen from the host, which trusts nothing that comes from it.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use membrane_profile::Digest;

use crate::World;
use crate::compile::{CompileWatch, INTERVAL};
use crate::ending::Ending;
use crate::engine::Host;
use crate::error::{HostError, Result};
use crate::exports::{Export, WorldExports, decode, encode};
use crate::grants::Grant;
use crate::interfaces;
use crate::isolation::frames::{Broken, Deadline, Frames};
use crate::isolation::imports::Import;
use crate::isolation::protocol::{Plugin, ToHost, ToProcess, VERSION};
use crate::isolation::{Confinement, ProcessOptions, Program, start};
use crate::limits::{
    BASE_PROCESS_BYTES, FULL_INSTANCES, Limits, MAX_CODE_BYTES, MAX_IMPORT_BYTES, MAX_RETURN_BYTES,
};
use crate::state::State;

/// Units of fuel that the slowest machine is taken to use up in a second.
const FUEL_PER_SECOND: u64 = 5_000_000;

/// Time in which a process must be ready for its plugin: on a busy machine it may wait long for its turn.
const START_TIME: Duration = Duration::from_secs(60);

/// What a plugin's processes are started with.
pub(crate) struct Launch {
    /// Name of the plugin, for errors.
    pub name: String,
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub world: World,
    pub grants: BTreeSet<Grant>,
    pub exports_state: bool,
    pub limits: Limits,
    pub options: ProcessOptions,
    /// Whether to refuse where the kernel can't hold the process in.
    pub required: bool,
    /// Code that one of these processes compiled, for the others, where there are several at a time.
    pub compiled: OnceLock<Vec<u8>>,
}

/// The process of a plugin: the one that lives, and how to start another.
pub(crate) struct Process {
    launch: Launch,
    host: Host,
    live: Mutex<Arc<Live>>,
}

/// One process.
struct Live {
    id: u32,
    connection: Mutex<Connection>,
    /// Instances that are to be dropped, with the next start.
    dropped: Mutex<Vec<u32>>,
    next: AtomicU32,
    patience: Duration,
}

/// The process and its stream. Where the process is gone there is only the reason.
pub(super) struct Connection {
    child: Child,
    frames: Frames<UnixStream>,
    /// How long one read and one write wait.
    waits: Option<(Duration, Duration)>,
    gone: Option<String>,
}

/// An instance in a process. Its state is the host's, here.
pub(crate) struct Remote {
    pub state: State,
    line: Line,
}

/// The way to an instance.
struct Line {
    live: Arc<Live>,
    instance: u32,
    world: World,
    grants: BTreeSet<Grant>,
}

/// What this machine confines processes with: starts one and asks it.
///
/// # Errors
/// The program can't be started, or is none that serves plugins.
pub fn probe(program: &Program) -> Result<Confinement> {
    let refused = |cause: String| HostError::Isolation { plugin: "(none)".into(), cause };
    let (_, confinement) =
        Connection::open(&ProcessOptions::new(program.clone()), BASE_PROCESS_BYTES).map_err(refused)?;
    Ok(confinement)
}

impl Process {
    /// Starts a process and lets it compile the plugin.
    pub fn launch(host: &Host, launch: Launch) -> Result<Self> {
        let live = Arc::new(Live::launch(host, &launch)?);
        Ok(Self { launch, host: host.clone(), live: Mutex::new(live) })
    }

    /// Makes an instance with a state of the host's; gives the state back in the error. Where the process is gone another is
    /// started.
    pub fn start(&self, mut state: State, fuel: u64) -> Result<Remote, Box<(Ending, State)>> {
        let asked = Instant::now();
        let (live, instance) = match self.place() {
            Ok(place) => place,
            Err(error) => return Err(Box::new((Ending::Process(error.to_string()), state))),
        };
        // For the calls of others, or for the process.
        state.waited(asked.elapsed());
        let dropped = std::mem::take(&mut *lock(&live.dropped));
        let line = Line { live, instance, world: self.launch.world, grants: self.launch.grants.clone() };
        let message = ToProcess::Start { instance, fuel, dropped };
        let started = line.exchange(&mut state, &message, &[], fuel, |message, _| {
            matches!(message, ToHost::Started).then_some(())
        });
        match started {
            Ok(()) => Ok(Remote { state, line }),
            Err(ending) => Err(Box::new((ending, state))),
        }
    }

    /// A process for one more instance, and the instance's number there. An agent's run takes minutes, in which its process
    /// can make no other call, so that each agent has a process to itself.
    fn place(&self) -> Result<(Arc<Live>, u32)> {
        if self.launch.world != World::Agent {
            let live = self.live()?;
            let instance = live.next.fetch_add(1, Ordering::Relaxed);
            return Ok((live, instance));
        }
        // The first run takes the process that there is. Others don't ask for it: it is busy for as long as that run.
        let first = lock(&self.live).clone();
        let instance = first.next.fetch_add(1, Ordering::Relaxed);
        if instance == 0 && first.connection().lives() {
            return Ok((first, instance));
        }
        let own = Arc::new(Live::launch(&self.host, &self.launch)?);
        let instance = own.next.fetch_add(1, Ordering::Relaxed);
        Ok((own, instance))
    }

    /// The process that was started last.
    pub fn id(&self) -> u32 {
        lock(&self.live).id
    }

    fn live(&self) -> Result<Arc<Live>> {
        let mut live = lock(&self.live);
        if !live.connection().lives() {
            *live = Arc::new(Live::launch(&self.host, &self.launch)?);
        }
        Ok(live.clone())
    }
}

impl Live {
    fn launch(host: &Host, launch: &Launch) -> Result<Self> {
        let refused = |cause: String| HostError::Isolation { plugin: launch.name.clone(), cause };
        let opened = thread::scope(|scope| {
            let compiler = host.compiler(launch.bytes.len()).filter(|_| launch.compiled.get().is_none());
            let compiling =
                compiler.map(|compiler| scope.spawn(|| compiler.compile(host, &launch.name, &launch.bytes)));
            let opened = Connection::open(&launch.options, data_bytes(host, launch)).map_err(refused)?;
            let code = match compiling.map(ScopedJoinHandle::join) {
                None => None,
                Some(Ok(code)) => Some(code?),
                Some(Err(panic)) => resume_unwind(panic),
            };
            Ok::<_, HostError>((opened, code))
        });
        let ((mut connection, confinement), code) = opened?;
        if let Some(missing) = confinement.missing() {
            if launch.required {
                return Err(refused(format!("the kernel has no {missing}, and isolation is required")));
            }
            host.warn_of_isolation(missing);
        }
        connection.load(host, launch, code)?;
        Ok(Self {
            id: connection.child.id(),
            connection: Mutex::new(connection),
            dropped: Mutex::default(),
            next: AtomicU32::new(0),
            patience: launch.options.patience,
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(|poisoned| {
            // Whoever panicked has left the conversation in its middle.
            let mut connection = poisoned.into_inner();
            connection.end(&Broken::Rule("a call was left in its middle".into()), Duration::ZERO);
            connection
        })
    }
}

/// What a process may write to: what compiling takes, and some instances that use all their memory. One more that asks
/// for memory is denied it.
fn data_bytes(host: &Host, launch: &Launch) -> u64 {
    let instances = (launch.limits.memory_bytes as u64).saturating_mul(FULL_INSTANCES);
    compiler_bytes(host, launch.bytes.len()).saturating_add(instances)
}

/// What a process may write to that compiles a component of so many bytes.
pub(super) fn compiler_bytes(host: &Host, length: usize) -> u64 {
    let compile = host.compile_limits();
    BASE_PROCESS_BYTES
        .saturating_add(compile.memory_bytes)
        .saturating_add(compile.memory_per_byte.saturating_mul(length as u64))
}

impl Connection {
    /// Starts a process and has it confine itself.
    pub(super) fn open(options: &ProcessOptions, data_bytes: u64) -> Result<(Self, Confinement), String> {
        let path = options.program.path.display();
        let (child, stream) = start(&options.program).map_err(|error| format!("{path}: {error}"))?;
        let mut connection = Self { child, frames: Frames::new(stream), waits: None, gone: None };
        let opened = connection.wait_at_most(INTERVAL, START_TIME).and_then(|()| {
            connection.frames.send(&ToProcess::Confine { data_bytes }, &[])?;
            let deadline = &mut (Instant::now() + START_TIME);
            connection.frames.receive::<ToHost>(MAX_IMPORT_BYTES, deadline).map(|(message, _)| message)
        });
        match opened {
            Ok(ToHost::Confined { version: VERSION, confinement }) => Ok((connection, confinement)),
            Ok(ToHost::Confined { version, .. }) => Err(format!(
                "{path} speaks version {version} of the protocol, and this host {VERSION}: start the same version"
            )),
            Ok(ToHost::Failed { why }) => {
                Err(format!("{path} could not confine itself: {}", crate::text::clean(&why, 400)))
            }
            Ok(_) => Err(format!("{path} is no program that serves plugins")),
            Err(broken) => {
                let why = connection.end(&broken, START_TIME);
                Err(format!("{path} did not get ready: {why}; is it a program that serves plugins?"))
            }
        }
    }

    /// Sets how long one read and one write wait.
    fn wait_at_most(&mut self, read: Duration, write: Duration) -> Result<(), Broken> {
        if self.waits == Some((read, write)) {
            return Ok(());
        }
        let stream = self.frames.stream();
        let set = stream.set_read_timeout(Some(read)).and_then(|()| stream.set_write_timeout(Some(write)));
        self.waits = Some((read, write));
        set.map_err(|_| Broken::Closed)
    }

    /// Hands the plugin over: compiled, if such a process compiled it before, as `code` is.
    fn load(&mut self, host: &Host, launch: &Launch, code: Option<Vec<u8>>) -> Result<()> {
        if launch.world == World::Agent
            && let Some(code) = &code
        {
            let _ = launch.compiled.set(code.clone());
        }
        let kept = code.or_else(|| launch.compiled.get().cloned());
        let cached =
            kept.or_else(|| host.cache()?.read_confined(host.engine(launch.world), launch.digest.as_bytes()));
        if let Some(code) = &cached
            && self.load_one(host, launch, code, true)?.is_some()
        {
            return Ok(());
        }
        // What did not take its compiled code is fresh no more.
        if cached.is_some() {
            let (fresh, _) = Self::open(&launch.options, data_bytes(host, launch))
                .map_err(|cause| HostError::Isolation { plugin: launch.name.clone(), cause })?;
            *self = fresh;
        }
        let code = self.load_one(host, launch, &launch.bytes, false)?.unwrap_or_default();
        if let Some(cache) = host.cache()
            && !code.is_empty()
        {
            // Where it can't be kept (a full disk) it is compiled again the next time.
            let _ = cache.store_confined(host.engine(launch.world), launch.digest.as_bytes(), &code);
        }
        if launch.world == World::Agent && !code.is_empty() {
            let _ = launch.compiled.set(code);
        }
        Ok(())
    }

    /// The compiled code, which is empty where it was handed over; none if handed over code was not taken.
    fn load_one(
        &mut self,
        host: &Host,
        launch: &Launch,
        bytes: &[u8],
        compiled: bool,
    ) -> Result<Option<Vec<u8>>> {
        let plugin = Plugin {
            world: launch.world,
            grants: launch.grants.iter().map(|grant| grant.name().to_owned()).collect(),
            exports_state: launch.exports_state,
            memory_bytes: launch.limits.memory_bytes as u64,
            draft: host.is_draft(),
            keep: host.cache().is_some() || launch.world == World::Agent,
        };
        let message = ToProcess::Load { plugin, compiled };
        match self.compile(host, &launch.name, &message, bytes, launch.bytes.len())? {
            (ToHost::Loaded, code) => Ok(Some(code)),
            (ToHost::NotCompiled { .. }, _) if compiled => Ok(None),
            (ToHost::NotCompiled { why }, _) => Err(not_compiled(&launch.name, &why)),
            (ToHost::Mismatch { names }, _) => Err(HostError::Mismatch {
                plugin: launch.name.clone(),
                what: crate::text::clean(&names, 1024),
            }),
            _ => Err(not_compiled(&launch.name, "its process broke the protocol: an unexpected message")),
        }
    }

    /// Sends what is to be compiled, `bytes`, and waits for the answer within the limits for a component of `length` bytes.
    pub(super) fn compile(
        &mut self,
        host: &Host,
        name: &str,
        message: &ToProcess,
        bytes: &[u8],
        length: usize,
    ) -> Result<(ToHost, Vec<u8>)> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut watch = CompileWatch::new(host.compile_limits(), length, process, None);
        let answered = self.frames.send(message, bytes).and_then(|()| {
            let (message, behind) = self.frames.receive::<ToHost>(MAX_CODE_BYTES, &mut watch)?;
            Ok((message, behind.to_vec()))
        });
        answered.map_err(|broken| match broken {
            // The watch says which limit is met; memory that was denied ends the compiler by itself.
            Broken::Rule(limit) => {
                self.kill();
                not_compiled(name, &limit)
            }
            broken => {
                let why = self.end(&broken, START_TIME);
                not_compiled(name, &format!("while it was compiled {why}"))
            }
        })
    }

    /// Ends the process, and says why.
    fn end(&mut self, broken: &Broken, waited: Duration) -> String {
        let why = match broken {
            Broken::Late => {
                self.kill();
                format!("its process did not answer for {:.0} s", waited.as_secs_f64().ceil())
            }
            Broken::Rule(rule) => {
                self.kill();
                format!("its process broke the protocol: {rule}")
            }
            // It may be about to end by itself, with a status that says more than that it was killed.
            Broken::Closed => match self.status_soon() {
                Some(status) => format!("its process ended: {status}"),
                None => {
                    self.kill();
                    "its process closed the connection".to_owned()
                }
            },
        };
        let why = crate::text::clean(&why, 400);
        self.gone.get_or_insert(why).clone()
    }

    fn status_soon(&mut self) -> Option<ExitStatus> {
        for _ in 0..50 {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                ended => return ended.ok().flatten(),
            }
        }
        None
    }

    /// Whether the process has not ended.
    pub(super) fn lives(&mut self) -> bool {
        self.gone.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    fn kill(&mut self) {
        // It fails where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The error of a plugin that can't be compiled.
pub(super) fn not_compiled(plugin: &str, cause: &str) -> HostError {
    HostError::Compile { plugin: plugin.to_owned(), cause: crate::text::clean(cause, 1024) }
}

/// A compilation must go on within its limits.
impl Deadline for CompileWatch {
    fn over(&mut self) -> Option<Broken> {
        CompileWatch::over(self).map(Broken::Rule)
    }
}

impl Remote {
    /// Calls a function with so much fuel.
    pub fn call<E: WorldExports, X: Export<E>>(&mut self, call: &X, fuel: u64) -> Result<X::Output, Ending> {
        let parameters = encode(call).map_err(|error| Ending::Trapped(error.to_string()))?;
        let message = ToProcess::Call { instance: self.line.instance, function: X::NUMBER, fuel };
        self.line.exchange(&mut self.state, &message, &parameters, fuel, |message, behind| match message {
            ToHost::Returned => decode::<X::Output>(behind),
            _ => None,
        })
    }
}

impl Line {
    /// Sends a message and serves imports until the answer comes, which `accept` reads. None of `accept`: the process may
    /// not say that.
    fn exchange<R>(
        &self,
        state: &mut State,
        message: &ToProcess,
        behind: &[u8],
        fuel: u64,
        accept: impl FnOnce(ToHost, &[u8]) -> Option<R>,
    ) -> Result<R, Ending> {
        let asked = Instant::now();
        let mut connection = self.live.connection();
        // Another instance in the process had it.
        state.waited(asked.elapsed());
        if let Some(why) = &connection.gone {
            return Err(Ending::Process(why.clone()));
        }
        let wait = self.live.patience + Duration::from_secs(fuel / FUEL_PER_SECOND);
        match self.converse(state, &mut connection, message, behind, wait, accept) {
            Ok(result) => result,
            Err(broken) => Err(Ending::Process(connection.end(&broken, wait))),
        }
    }

    fn converse<R>(
        &self,
        state: &mut State,
        connection: &mut Connection,
        message: &ToProcess,
        behind: &[u8],
        wait: Duration,
        accept: impl FnOnce(ToHost, &[u8]) -> Option<R>,
    ) -> Result<Result<R, Ending>, Broken> {
        let wall = state.limits().wall_ms.map(Duration::from_millis);
        connection.wait_at_most(wall.map_or(wait, |wall| wall.min(wait)), wait)?;
        connection.frames.send(message, behind)?;
        let mut deadline = Instant::now() + wait;
        loop {
            let mut first = state.deadline().map_or(deadline, |wall| wall.min(deadline));
            let received = connection.frames.receive::<ToHost>(MAX_RETURN_BYTES, &mut first);
            if matches!(received, Err(Broken::Late))
                && state.deadline().is_some_and(|wall| wall < Instant::now())
            {
                // As in the host's process; what computes can be ended only with its process.
                let ended = state.out_of_time();
                connection.end(&Broken::Late, wall.unwrap_or(wait));
                return Ok(Err(Ending::Trapped(ended.to_string())));
            }
            let (message, behind) = received?;
            match message {
                ToHost::Import => {
                    let begun = Instant::now();
                    let served = self.serve(state, behind)?;
                    // What the host does takes nothing of the time that the process has.
                    deadline += begun.elapsed();
                    match served {
                        Ok(result) => connection.frames.send(&ToProcess::Imported, &result)?,
                        Err(why) => connection.frames.send(&ToProcess::End { why }, &[])?,
                    }
                }
                ToHost::Ended(Ending::Process(_)) => {
                    return Err(Broken::Rule("it spoke of its own end".into()));
                }
                // Whoever was to end it in time came late himself.
                ToHost::Ended(_) if state.deadline().is_some_and(|wall| wall < Instant::now()) => {
                    return Ok(Err(Ending::Trapped(state.out_of_time().to_string())));
                }
                ToHost::Ended(ending) => return Ok(Err(ending)),
                _ if state.cause.is_some() => {
                    return Err(Broken::Rule("it went on after the host had ended the call".into()));
                }
                message => {
                    let result = accept(message, behind);
                    return result.map(Ok).ok_or_else(|| Broken::Rule("an unexpected answer".into()));
                }
            }
        }
    }

    /// Serves an import, as for a plugin in the host's process. The inner error ends the call.
    fn serve(&self, state: &mut State, import: &[u8]) -> Result<Result<Vec<u8>, String>, Broken> {
        if import.len() > MAX_IMPORT_BYTES {
            return Err(Broken::Rule(format!("an import of {} bytes", import.len())));
        }
        let Some(import) = decode::<Import>(import) else {
            return Err(Broken::Rule("a malformed import".into()));
        };
        let interface = import.interface();
        if !interfaces::is_offered(interface, self.world, &self.grants) {
            return Err(Broken::Rule(format!("it asked for `{interface}`, which it was not granted")));
        }
        if state.cause.is_some() {
            return Err(Broken::Rule("it asked for an import after the host had ended the call".into()));
        }
        Ok(import.serve(state).map_err(|error| error.root_cause().to_string()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        lock(&self.live.dropped).push(self.instance);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
