//! What the host keeps for one instance of a plugin, and hands to the interfaces that the instance calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Resource, ResourceTable};

use crate::agent::{Environment, GenerationHandle, InferenceError, SessionHandle, Store};
use crate::authority::Opened;
use crate::engine::{LogLevel, LogLine, LogSink};
use crate::error::Cause;
use crate::grants::Grant;
use crate::judge::Bench;
use crate::limits::{Limits, MAX_GENERATIONS, MAX_LOG_LINES, MAX_SESSIONS, MAX_SHOWN_BYTES, Meter};
use crate::plugin::Plugin;
use crate::random::Random;
use crate::running::Imports;
use crate::sampling::{Candidates, Repetition};
use crate::vocabulary::Vocabulary;
use crate::wall::{self, Clock, Watchdog};

/// Data of one instance.
pub struct State {
    plugin: String,
    limits: Limits,
    grants: BTreeSet<Grant>,
    /// What is behind grants that have values.
    pub(crate) authority: Arc<Opened>,
    /// What the current call has made of it.
    pub(crate) used: Used,
    /// When the current call must be over.
    deadline: Option<Instant>,
    clock: Arc<Clock>,
    meter: Meter,
    log: Option<LogSink>,
    log_lines: u32,
    last_warning: Option<String>,
    /// Units of fuel left for what the host does on behalf of the current call.
    work_left: u64,
    /// Why the host ended a call, where it did.
    pub(crate) cause: Option<Cause>,
    /// The step of a sampler; lent for the duration of a call.
    pub(crate) step: Option<Box<Step>>,
    /// What an agent works with.
    pub(crate) agency: Option<Box<Agency>>,
    /// Whom a policy may ask.
    pub(crate) bench: Option<Bench>,
    /// Whether the policy is configured.
    pub(crate) configured: bool,
}

/// What the instance of an agent works with.
pub struct Agency {
    pub environment: Box<dyn Environment>,
    pub store: Option<Store>,
    /// Bytes that it wrote to its answer.
    pub written: usize,
    /// Generations that it has begun.
    pub begun: u32,
    pub sessions: ResourceTable,
    pub generations: ResourceTable,
}

impl Agency {
    pub fn new(environment: Box<dyn Environment>, store: Option<Store>) -> Self {
        let (mut sessions, mut generations) = (ResourceTable::new(), ResourceTable::new());
        sessions.set_max_capacity(MAX_SESSIONS);
        generations.set_max_capacity(MAX_GENERATIONS);
        Self { environment, store, written: 0, begun: 0, sessions, generations }
    }

    pub fn add_session(&mut self, session: SessionHandle) -> Result<Resource<SessionHandle>, InferenceError> {
        self.sessions.push(session).map_err(|_| {
            InferenceError::Limit(format!("there are {MAX_SESSIONS} sessions already; drop one"))
        })
    }

    pub fn add_generation(
        &mut self,
        generation: GenerationHandle,
    ) -> Result<Resource<GenerationHandle>, InferenceError> {
        self.generations.push(generation).map_err(|_| {
            InferenceError::Limit(format!("there are {MAX_GENERATIONS} generations already; drop one"))
        })
    }
}

/// What a call of a tool has used of what is counted.
#[derive(Debug, Default)]
pub(crate) struct Used {
    pub requests: u32,
    /// Files and folders that were made.
    pub created: u32,
    pub written_bytes: usize,
}

/// One step of decoding, as the samplers of a chain hand it on.
pub struct Step {
    pub candidates: Candidates,
    /// Tokens of the context, prompt included.
    pub history: Vec<u32>,
    pub prompt_tokens: usize,
    pub random: Random,
    pub repetition: Repetition,
    /// The last token that was drawn in this step, with its probability.
    pub drawn: Option<(u32, f32)>,
    pub vocabulary: Arc<dyn Vocabulary>,
}

impl Step {
    /// Takes the context of a new step over.
    pub fn follow(&mut self, history: &[u32], prompt_tokens: usize) {
        self.prompt_tokens = prompt_tokens;
        self.drawn = None;
        // Nearly always one token was added; comparing is far cheaper than copying.
        if !history.starts_with(&self.history) {
            self.history.clear();
        }
        self.history.extend_from_slice(&history[self.history.len()..]);
    }
}

impl Imports for State {
    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    fn look_at_the_clock(store: &mut wasmtime::Store<Self>) {
        wall::watch(store);
    }

    fn watchdog(store: &wasmtime::Store<Self>) -> Option<Watchdog> {
        let state = store.data();
        state.clock.watchdog(&state.limits)
    }
}

impl State {
    pub fn new(plugin: &Plugin) -> Self {
        Self {
            plugin: plugin.name().to_owned(),
            limits: *plugin.limits(),
            grants: plugin.grants().clone(),
            authority: plugin.opened().clone(),
            used: Used::default(),
            deadline: None,
            clock: plugin.clock().clone(),
            meter: Meter::new(plugin.limits()),
            log: plugin.log().cloned(),
            log_lines: 0,
            last_warning: None,
            work_left: 0,
            cause: None,
            step: None,
            agency: None,
            bench: None,
            configured: false,
        }
    }

    /// Whether the plugin was granted something.
    pub fn has(&self, grant: Grant) -> bool {
        self.grants.contains(&grant)
    }

    /// Starts a call that may use so much fuel.
    pub fn start_call(&mut self, fuel: u64) {
        self.work_left = fuel;
        self.used = Used::default();
        self.deadline = self.limits.wall_ms.map(|wall| Instant::now() + Duration::from_millis(wall));
        self.cause = None;
        self.last_warning = None;
    }

    /// Takes nothing of the current call's time for waiting that was not its own.
    pub fn waited(&mut self, time: Duration) {
        self.deadline = self.deadline.map(|deadline| deadline + time);
    }

    /// Charges for work of the host: what every import of an agent begins with. The error ends the call, also where the run is
    /// over.
    pub fn charge(&mut self, units: usize) -> wasmtime::Result<()> {
        self.go_on()?;
        match self.work_left.checked_sub(units as u64) {
            Some(left) => {
                self.work_left = left;
                Ok(())
            }
            None => Err(self.end(Cause::Fuel { units: self.limits.fuel_per_call })),
        }
    }

    /// Charges for the bytes of what the guest is given.
    pub fn give<T>(&mut self, value: T, bytes: impl FnOnce(&T) -> usize) -> wasmtime::Result<T> {
        self.charge(bytes(&value))?;
        Ok(value)
    }

    /// Limits of the plugin.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When the current call must be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is left of the time of the current call, at most `most`. The error ends the call: nothing is.
    pub fn time_left(&mut self, most: Duration) -> wasmtime::Result<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(self.out_of_time()),
            left => Ok(left.map_or(most, |left| left.min(most))),
        }
    }

    /// The error that ends the current call because its time is over.
    pub fn out_of_time(&mut self) -> wasmtime::Error {
        self.end(Cause::Wall { ms: self.limits.wall_ms.unwrap_or_default() })
    }

    /// The error that ends the current call for a cause.
    pub fn end(&mut self, cause: Cause) -> wasmtime::Error {
        let error = wasmtime::Error::msg(cause.to_string());
        self.cause = Some(cause);
        error
    }

    /// The step, and `work` units charged. The error ends the call; it can't happen in a sampler.
    pub fn step(&mut self, work: impl FnOnce(&Step) -> usize) -> wasmtime::Result<&mut Step> {
        let units = self.step.as_deref().map(work);
        match units {
            Some(units) => self.charge(units)?,
            None => return Err(self.end(Cause::Broke("it asked for logits where there are none".into()))),
        }
        self.step.as_deref_mut().ok_or_else(|| wasmtime::Error::msg("no step"))
    }

    /// What an agent works with, and `work` units charged. The error ends the call.
    pub fn agency(&mut self, work: usize) -> wasmtime::Result<&mut Agency> {
        self.charge(work)?;
        if self.agency.is_none() {
            return Err(self.end(Cause::Broke("it asked for a session where there is no model".into())));
        }
        self.agency.as_deref_mut().ok_or_else(|| wasmtime::Error::msg("no agency"))
    }

    /// Whom a policy may ask, and the policy's name. The error ends the call: there is nobody.
    pub fn bench(&mut self) -> wasmtime::Result<(&mut Bench, String)> {
        if self.bench.is_none() {
            let why = if self.configured { "there is no model to ask here" } else { "`configure` can't ask" };
            return Err(self.unjudged(why));
        }
        let name = self.plugin.clone();
        let bench = self.bench.as_mut().ok_or_else(|| wasmtime::Error::msg("no judge"))?;
        Ok((bench, name))
    }

    /// The error that ends a call which the model can't judge for.
    pub fn unjudged(&mut self, why: &str) -> wasmtime::Error {
        self.end(Cause::Unjudged(crate::text::clean(why, MAX_SHOWN_BYTES)))
    }

    /// The answer of an agent's environment. The error ends the call, also where the run is over meanwhile.
    pub fn inferred<T>(
        &mut self,
        work: usize,
        ask: impl FnOnce(&mut Agency) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let answer = ask(self.agency(work)?)?;
        self.go_on().map(|()| answer)
    }

    /// The error that ends the call where the run is over.
    pub fn go_on(&self) -> wasmtime::Result<()> {
        if self.ended() { Err(wasmtime::Error::msg("the run is over")) } else { Ok(()) }
    }

    /// Whether the run of an agent is over.
    pub fn ended(&self) -> bool {
        self.agency.as_ref().is_some_and(|agency| agency.environment.ended())
    }

    /// The model's vocabulary, and `work` units charged.
    pub fn vocabulary(&mut self, work: usize) -> wasmtime::Result<Arc<dyn Vocabulary>> {
        match &self.agency {
            Some(_) => Ok(self.agency(work)?.environment.vocabulary()),
            None => Ok(self.step(|_| work)?.vocabulary.clone()),
        }
    }

    /// Hands a line to whoever runs the host; lines above the limit are dropped.
    pub fn log(&mut self, level: LogLevel, text: &str) {
        if self.log_lines >= MAX_LOG_LINES {
            return;
        }
        self.log_lines += 1;
        let text = crate::text::clean(text, MAX_SHOWN_BYTES);
        if level == LogLevel::Warning {
            self.last_warning = Some(text.clone());
        }
        if let Some(agency) = &mut self.agency {
            agency.environment.log(level, &text);
        } else if let Some(sink) = &self.log {
            sink(&LogLine { plugin: self.plugin.clone(), level, text, judged: false });
        }
    }

    /// The last warning of the current call: SDKs log a panic's message as one before they trap.
    pub fn last_warning(&mut self) -> Option<String> {
        self.last_warning.take()
    }
}
