//! The clock's limit on calls of tools.
//!
//! Guests of the engine for tools look at its epoch. A watchdog beside each call moves the epoch when the call's time is
//! over; a guest that sees it moved and still has time, since it was another call's watchdog, goes on.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use wasmtime::{Store, UpdateDeadline};

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

/// Ends a call when its time is over, unless it is dropped before.
pub struct Watchdog(#[allow(dead_code, reason = "dropped, it tells the thread")] Option<Sender<()>>);

impl Watchdog {
    /// Begins to wait, if there is a limit. Where no thread can be started, waiting in the host still ends in time, and
    /// fuel ends what computes.
    pub fn start(store: &Store<State>, limits: &Limits) -> Self {
        let Some(wall) = limits.wall_ms.map(Duration::from_millis) else { return Self(None) };
        let engine = store.engine().weak();
        let (call, over) = mpsc::channel();
        let wait = move || {
            if over.recv_timeout(wall) == Err(RecvTimeoutError::Timeout)
                && let Some(engine) = engine.upgrade()
            {
                engine.increment_epoch();
            }
        };
        let started = thread::Builder::new().name("tool watchdog".to_owned()).spawn(wait);
        Self(started.ok().map(|_| call))
    }
}
