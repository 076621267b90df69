//! Calls of an instance: fuel, traps and their causes.

use wasmtime::component;
use wasmtime::{Store, Trap};

use crate::bindings::stateful::Stateful;
use crate::error::{Cause, Failure};
use crate::grants::Grant;
use crate::limits::{MAX_HANDLES, MAX_SHOWN_BYTES, MAX_SNAPSHOT_BYTES, MAX_TRANSFER_BYTES, START_CALLS};
use crate::plugin::Plugin;
use crate::state::{Agency, State};
use crate::wall::{self, Watchdog};
use crate::{CONTRACT, World};

/// What wasmtime says where an export has another type than its binding; it keeps the type of this error to itself.
const TYPES_DIFFER: &str = "failed to convert function to given type";

/// An instance of a plugin, with the bindings of its world.
pub(crate) struct Instance<B> {
    pub plugin: Plugin,
    pub store: Store<State>,
    bindings: B,
    /// Where the plugin exports `state`.
    stateful: Option<Stateful>,
}

impl<B> Instance<B> {
    /// Makes an instance. Start functions run here, with the fuel of a start. `bind` finds its exports.
    pub fn start(
        plugin: &Plugin,
        bind: impl FnOnce(&mut Store<State>, &component::Instance) -> wasmtime::Result<B>,
    ) -> Result<Self, Failure> {
        Self::start_in(plugin, None, bind)
    }

    /// The same for an agent, with what it works with.
    pub fn start_in(
        plugin: &Plugin,
        agency: Option<Agency>,
        bind: impl FnOnce(&mut Store<State>, &component::Instance) -> wasmtime::Result<B>,
    ) -> Result<Self, Failure> {
        let instances = plugin.instances();
        let fuel = plugin.limits().fuel_per_call.saturating_mul(START_CALLS);
        let mut state = State::new(plugin);
        state.agency = agency.map(Box::new);
        state.start_call(fuel);
        let mut store = Store::new(instances.pre.engine(), state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(MAX_TRANSFER_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        if plugin.world() == World::Tool {
            wall::watch(&mut store);
        }
        let _watchdog = Watchdog::start(&store, plugin.limits());
        let started = store.set_fuel(fuel).and_then(|()| {
            let instance = instances.pre.instantiate(&mut store)?;
            let stateful = instances.state.as_ref().map(|state| state.load(&mut store, &instance));
            Ok((bind(&mut store, &instance)?, stateful.transpose()?))
        });
        match started {
            Ok((bindings, stateful)) => Ok(Self { plugin: plugin.clone(), store, bindings, stateful }),
            Err(error) => Err(failure(plugin, &mut store, "start", fuel, &error)),
        }
    }

    /// Calls a hook.
    pub fn hook<R>(
        &mut self,
        hook: &'static str,
        call: impl FnOnce(&B, &mut Store<State>) -> wasmtime::Result<R>,
    ) -> Result<R, Failure> {
        let calls = if hook == "configure" { START_CALLS } else { 1 };
        let fuel = self.plugin.limits().fuel_per_call.saturating_mul(calls);
        self.store.data_mut().start_call(fuel);
        let _watchdog = Watchdog::start(&self.store, self.plugin.limits());
        let result = self.store.set_fuel(fuel).and_then(|()| call(&self.bindings, &mut self.store));
        result.map_err(|error| failure(&self.plugin, &mut self.store, hook, fuel, &error))
    }

    /// Calls a hook that can report an error of its own, which is a failure.
    pub fn strict_hook<R>(
        &mut self,
        hook: &'static str,
        call: impl FnOnce(&B, &mut Store<State>) -> wasmtime::Result<Result<R, String>>,
    ) -> Result<R, Failure> {
        let result = self.hook(hook, call)?;
        result.map_err(|text| self.failure(hook, Cause::Reported(crate::text::clean(&text, MAX_SHOWN_BYTES))))
    }

    /// The state that a new version may go on from; none if the plugin keeps none.
    pub fn snapshot(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(stateful) = self.stateful.take() else { return Ok(None) };
        let bytes = self.hook("snapshot", |_, store| stateful.membrane_plugin_state().call_snapshot(store));
        self.stateful = Some(stateful);
        let bytes = bytes?;
        if bytes.len() > MAX_SNAPSHOT_BYTES {
            let what = format!("a snapshot of {} bytes; the limit is {MAX_SNAPSHOT_BYTES}", bytes.len());
            return Err(self.broke("snapshot", what));
        }
        Ok(Some(bytes))
    }

    /// Takes the state of another version over. True if the plugin keeps state.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        let Some(stateful) = self.stateful.take() else { return Ok(false) };
        let restored = self
            .strict_hook("restore", |_, store| stateful.membrane_plugin_state().call_restore(store, bytes));
        self.stateful = Some(stateful);
        restored.map(|()| true)
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

fn failure(
    plugin: &Plugin,
    store: &mut Store<State>,
    hook: &'static str,
    fuel: u64,
    error: &wasmtime::Error,
) -> Failure {
    let cause = cause(store.data_mut(), plugin, fuel, error);
    Failure { plugin: plugin.name().to_owned(), hook, cause }
}

fn cause(state: &mut State, plugin: &Plugin, fuel: u64, error: &wasmtime::Error) -> Cause {
    if let Some(cause) = state.cause.take() {
        return cause;
    }
    let trap = error.downcast_ref::<Trap>().copied();
    match trap {
        Some(Trap::OutOfFuel) => Cause::Fuel { units: fuel },
        Some(Trap::StackOverflow) => Cause::Recursion,
        _ if state.meter.denied => Cause::Memory { bytes: plugin.limits().memory_bytes },
        Some(Trap::UnreachableCodeReached) => Cause::Trapped(match state.last_warning() {
            Some(warning) => format!("unreachable instruction; its last warning was: {warning}"),
            None => "unreachable instruction, a panic in most languages".into(),
        }),
        // The guest's own stack lies at the start of its memory: where it overflows, addresses wrap around.
        Some(Trap::MemoryOutOfBounds) => Cause::Trapped(
            "out of bounds memory access, by a wild pointer or recursing too deep for the plugin's own stack"
                .into(),
        ),
        Some(trap) => Cause::Trapped(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None if error.chain().any(|cause| cause.to_string() == TYPES_DIFFER) => Cause::Broke(format!(
            "a function that it exports has other parameters or results than in {CONTRACT}: it was built against \
             another text of that version. Build it with this version's wit/ or SDK"
        )),
        None => {
            let text = error.root_cause().to_string();
            // wasmtime keeps the type of this error to itself.
            if text.contains("allocated for hostcalls") {
                return Cause::Transfer { bytes: MAX_TRANSFER_BYTES };
            }
            Cause::Trapped(crate::text::clean(&text, MAX_SHOWN_BYTES))
        }
    }
}
