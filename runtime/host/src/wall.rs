//! The clock's limit on calls of tools.
//!
//! Guests of the engine for tools look at its epoch. When the time of a call is over its [`Clock`] moves the epoch; a guest
//! that sees it moved and still has time, since another call's time was over, goes on.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::{Engine, EngineWeak, Store, UpdateDeadline};

use crate::limits::Limits;
use crate::state::State;

/// Makes the guests of a store look at the time when the epoch has moved.
pub fn watch(store: &mut Store<State>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| {
        context.data_mut().time_left(Duration::ZERO)?;
        Ok(UpdateDeadline::Continue(1))
    });
}

/// Moves the epoch of engines when the time of a call is over: one thread for all calls, since starting one for each would
/// take longer than most calls do.
pub struct Clock(Arc<Shared>);

#[derive(Default)]
struct Shared {
    calls: Mutex<Calls>,
    /// Told when the thread waits for longer than it should.
    sooner: Condvar,
}

#[derive(Default)]
struct Calls {
    engines: Vec<EngineWeak>,
    /// When the calls under way must be over, each with its number.
    ends: BTreeSet<(Instant, u64)>,
    next: u64,
    thread: Thread,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Thread {
    #[default]
    NotStarted,
    /// It waits until then, or without an end.
    Waits(Option<Instant>),
    /// The clock is gone.
    Over,
}

/// A call whose time is looked after until this is dropped.
pub struct Watchdog {
    shared: Arc<Shared>,
    call: (Instant, u64),
}

impl Clock {
    /// A clock for the calls of guests of `engine`.
    pub fn new(engine: &Engine) -> Self {
        let clock = Self(Arc::default());
        clock.add(engine);
        clock
    }

    /// The same for guests of another engine.
    pub fn add(&self, engine: &Engine) {
        let mut calls = self.0.calls();
        calls.engines.retain(|engine| engine.upgrade().is_some());
        calls.engines.push(engine.weak());
    }

    /// Looks after a call that begins now, if there is a limit. Where no thread can be started, waiting in the host still ends
    /// in time, and fuel ends what computes.
    pub fn watchdog(&self, limits: &Limits) -> Option<Watchdog> {
        let end = Instant::now().checked_add(limits.wall_ms.map(Duration::from_millis)?)?;
        let mut calls = self.0.calls();
        let call = (end, calls.next);
        calls.next += 1;
        match calls.thread {
            Thread::Waits(until) if until.is_some_and(|until| until <= end) => {}
            Thread::Waits(_) => self.0.sooner.notify_one(),
            Thread::NotStarted | Thread::Over => {
                let shared = self.0.clone();
                let thread = thread::Builder::new().name("clock of tools".to_owned());
                thread.spawn(move || shared.end_calls()).ok()?;
                calls.thread = Thread::Waits(Some(end));
            }
        }
        calls.ends.insert(call);
        drop(calls);
        Some(Watchdog { shared: self.0.clone(), call })
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the epoch at the end of each call that is still under way then.
    fn end_calls(&self) {
        let mut calls = self.calls();
        while calls.thread != Thread::Over {
            let now = Instant::now();
            let due = calls.ends.first().is_some_and(|(end, _)| *end <= now);
            if due {
                calls.ends.retain(|(end, _)| *end > now);
                for engine in calls.engines.iter().filter_map(EngineWeak::upgrade) {
                    engine.increment_epoch();
                }
            }
            let until = calls.ends.first().map(|(end, _)| *end);
            calls.thread = Thread::Waits(until);
            calls = match until {
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    self.sooner.wait_timeout(calls, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.sooner.wait(calls).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.calls().thread = Thread::Over;
        self.0.sooner.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // The thread waits on: most likely the next call ends later than this one would have.
        self.shared.calls().ends.remove(&self.call);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wasmtime::{Config, Instance, Module};

    /// Loops on an engine of its own until the epoch has moved. Gives how long that took.
    fn loops(engine: &Engine) -> Duration {
        let module =
            Module::new(engine, wat::parse_str("(module (func (export \"f\") (loop (br 0))))").unwrap());
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        let instance = Instance::new(&mut store, &module.unwrap(), &[]).unwrap();
        let endless = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        let begun = Instant::now();
        assert!(endless.call(&mut store, ()).is_err());
        begun.elapsed()
    }

    fn engine() -> Engine {
        Engine::new(Config::new().epoch_interruption(true)).unwrap()
    }

    fn limits(wall_ms: u64) -> Limits {
        Limits { wall_ms: Some(wall_ms), ..Limits::of(crate::World::Tool) }
    }

    /// Also where the thread waits for another call's end, or for nothing; and on an engine that came later.
    #[test]
    fn a_call_ends_when_its_time_is_over() {
        let (engine, later) = (engine(), engine());
        let clock = Clock::new(&engine);
        clock.add(&later);
        let _long = clock.watchdog(&limits(3_600_000));
        for engine in [&engine, &later, &engine] {
            let _call = clock.watchdog(&limits(200));
            let took = loops(engine);
            assert!(took >= Duration::from_millis(150), "{took:?}");
            assert!(took < Duration::from_secs(60), "{took:?}");
        }
    }

    #[test]
    fn a_call_that_is_over_ends_no_other() {
        let engine = engine();
        let clock = Clock::new(&engine);
        drop(clock.watchdog(&limits(50)));
        let _call = clock.watchdog(&limits(1000));
        let took = loops(&engine);
        assert!(took >= Duration::from_millis(900), "{took:?}");
    }
}
