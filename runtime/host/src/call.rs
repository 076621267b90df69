//! Instances of plugins and their calls: fuel, traps and their causes.

use std::marker::PhantomData;

use crate::error::{Cause, Failure};
use crate::exports::{Export, Restore, Snapshot, WorldExports};
use crate::grants::Grant;
use crate::isolation::Remote;
use crate::limits::{MAX_SHOWN_BYTES, MAX_SNAPSHOT_BYTES, START_CALLS};
use crate::plugin::{Code, Plugin};
use crate::running::Running;
use crate::state::{Agency, State};

/// An instance of a plugin of a world.
pub(crate) struct Instance<E: WorldExports> {
    pub plugin: Plugin,
    seat: Seat<E>,
}

/// Where an instance runs.
enum Seat<E: WorldExports> {
    /// In this process.
    Here(Box<Running<E, State>>),
    /// In a process of its own.
    Process(Box<Remote>, PhantomData<E>),
}

impl<E: WorldExports> Instance<E> {
    /// Makes an instance. Start functions run here, with the fuel of a start.
    pub fn start(plugin: &Plugin) -> Result<Self, Failure> {
        Self::start_in(plugin, None)
    }

    /// The same for an agent, with what it works with.
    pub fn start_in(plugin: &Plugin, agency: Option<Agency>) -> Result<Self, Failure> {
        let fuel = plugin.limits().fuel_per_call.saturating_mul(START_CALLS);
        let mut state = State::new(plugin);
        state.agency = agency.map(Box::new);
        state.start_call(fuel);
        let seat = match plugin.code() {
            Code::Here(prepared) => {
                Running::start(prepared, state, fuel).map(|running| Seat::Here(Box::new(running)))
            }
            Code::Process(process) => {
                process.start(state, fuel).map(|remote| Seat::Process(Box::new(remote), PhantomData))
            }
        };
        match seat {
            Ok(seat) => Ok(Self { plugin: plugin.clone(), seat }),
            Err(failed) => {
                let (ending, mut state) = *failed;
                let cause = ending.cause(&mut state, plugin, fuel);
                Err(Failure { plugin: plugin.name().to_owned(), hook: "start", cause })
            }
        }
    }

    /// What the host keeps for it.
    pub fn state(&mut self) -> &mut State {
        match &mut self.seat {
            Seat::Here(running) => running.data(),
            Seat::Process(remote, _) => &mut remote.state,
        }
    }

    /// Calls a hook.
    pub fn hook<X: Export<E>>(&mut self, call: &X) -> Result<X::Output, Failure> {
        let calls = if X::NAME == "configure" { START_CALLS } else { 1 };
        let fuel = self.plugin.limits().fuel_per_call.saturating_mul(calls);
        self.state().start_call(fuel);
        let result = match &mut self.seat {
            Seat::Here(running) => running.call(call, fuel),
            Seat::Process(remote, _) => remote.call::<E, X>(call, fuel),
        };
        result.map_err(|ending| {
            let plugin = self.plugin.clone();
            let cause = ending.cause(self.state(), &plugin, fuel);
            self.failure(X::NAME, cause)
        })
    }

    /// Calls a hook that can report an error of its own, which is a failure.
    pub fn strict_hook<R, X: Export<E, Output = Result<R, String>>>(
        &mut self,
        call: &X,
    ) -> Result<R, Failure> {
        let result = self.hook(call)?;
        result.map_err(|text| {
            self.failure(X::NAME, Cause::Reported(crate::text::clean(&text, MAX_SHOWN_BYTES)))
        })
    }

    /// The state that a new version may go on from; none if the plugin keeps none.
    pub fn snapshot(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if !self.plugin.keeps_state() {
            return Ok(None);
        }
        let bytes = self.hook(&Snapshot)?;
        if bytes.len() > MAX_SNAPSHOT_BYTES {
            let what = format!("a snapshot of {} bytes; the limit is {MAX_SNAPSHOT_BYTES}", bytes.len());
            return Err(self.broke("snapshot", what));
        }
        Ok(Some(bytes))
    }

    /// Takes the state of another version over. True if the plugin keeps state.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        if !self.plugin.keeps_state() {
            return Ok(false);
        }
        self.strict_hook(&Restore { bytes }).map(|()| true)
    }

    /// A failure of this plugin.
    pub fn failure(&self, hook: &'static str, cause: Cause) -> Failure {
        Failure { plugin: self.plugin.name().to_owned(), hook, cause }
    }

    /// A result that a grant would allow.
    pub fn not_granted(&self, hook: &'static str, what: &str, grant: Grant) -> Failure {
        self.broke(
            hook,
            format!(
                "it {what}, which needs the grant `{grant}`: add grants = [\"{grant}\"] to its profile entry if it may"
            ),
        )
    }

    /// A result that the contract does not allow.
    pub fn broke(&self, hook: &'static str, what: impl Into<String>) -> Failure {
        self.failure(hook, Cause::Broke(what.into()))
    }
}
