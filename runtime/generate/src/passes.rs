//! Passes of the model that several sessions share.
//!
//! A session that decodes takes a [`Seat`]. A token that it wants to append waits until every seat has one, or until it has
//! waited as long as a pass takes; then whoever is there goes through the model together, so that each weight and each
//! expert is read once for all. Each session gets the bits that it would get alone, so that nothing but speed depends on who
//! shares a pass with whom.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use membrane_engine::{Continuation, EngineError, Model, Session};

/// Most sessions of one pass.
const MOST: usize = 32;
/// The least and the most time that a token waits for others.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// Shared passes of one model. Clones share.
#[derive(Clone)]
pub(crate) struct Passes(Arc<Shared>);

struct Shared {
    model: Model,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Sessions that decode.
    seats: usize,
    next_ticket: u64,
    waiting: Vec<Waiting>,
    done: Vec<Done>,
    running: bool,
    /// A pass panicked, and the sessions in it are gone.
    broken: bool,
    /// How long the last pass took.
    last_pass: Duration,
    passes: u64,
    tokens: u64,
}

struct Waiting {
    ticket: u64,
    session: Session,
    token: u32,
    /// Tokens to be computed ahead behind it.
    drafts: Vec<u32>,
}

struct Done {
    ticket: u64,
    session: Session,
    result: Result<(), EngineError>,
}

/// A place in the shared passes, for a session that decodes.
pub(crate) struct Seat(Passes);

impl Passes {
    pub fn new(model: Model) -> Self {
        Self(Arc::new(Shared { model, queue: Mutex::default(), changed: Condvar::new() }))
    }

    /// Takes a seat: others wait for its tokens from now on.
    pub fn seat(&self) -> Seat {
        self.lock().seats += 1;
        Seat(self.clone())
    }

    /// Passes so far, and tokens that went through them.
    pub fn counts(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.passes, queue.tokens)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those who wait through the model.
    fn pass<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let count = queue.waiting.len().min(MOST);
        let mut batch: Vec<Waiting> = queue.waiting.drain(..count).collect();
        queue.running = true;
        drop(queue);
        let running = Running(self);
        let start = Instant::now();
        let results = through(&mut batch);
        let took = start.elapsed();
        std::mem::forget(running);
        let mut queue = self.lock();
        queue.running = false;
        queue.last_pass = took;
        queue.passes += 1;
        queue.tokens += batch.len() as u64;
        let done = batch.into_iter().zip(results);
        queue.done.extend(done.map(|(waiting, result)| Done {
            ticket: waiting.ticket,
            session: waiting.session,
            result,
        }));
        self.0.changed.notify_all();
        queue
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().seats -= 1;
        self.0.0.changed.notify_all();
    }
}

impl Seat {
    /// Whether nobody else has a seat.
    pub fn is_alone(&self) -> bool {
        self.0.lock().seats <= 1
    }

    /// Appends a token to a session, with the tokens of other seats, and computes drafts ahead behind it. Errors: as for
    /// [`Session::append_ahead`]; one of another session does not concern this one.
    pub fn append(&self, session: &mut Session, token: u32, drafts: &[u32]) -> Result<(), EngineError> {
        let shared = &self.0.0;
        let mut queue = self.0.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        let since = Instant::now();
        let waiting = std::mem::replace(session, shared.model.session());
        queue.waiting.push(Waiting { ticket, session: waiting, token, drafts: drafts.to_vec() });
        if queue.is_full() {
            shared.changed.notify_all();
        }
        loop {
            if let Some(at) = queue.done.iter().position(|done| done.ticket == ticket) {
                let Done { session: done, result, .. } = queue.done.swap_remove(at);
                *session = done;
                return result;
            }
            let patience = queue.last_pass.clamp(PATIENCE.0, PATIENCE.1);
            let waited = since.elapsed();
            // Whoever waits has a session in the queue, or in the pass that runs.
            let waits = queue.waiting.iter().any(|waiting| waiting.ticket == ticket);
            if queue.broken && !waits {
                return Err(EngineError::Cancelled);
            }
            if waits && !queue.running && (queue.is_full() || waited >= patience) {
                queue = self.0.pass(queue);
                continue;
            }
            let queued = if queue.running || !waits {
                shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                let left = patience.saturating_sub(waited).max(Duration::from_micros(50));
                let (queue, _) =
                    shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
                queue
            };
            queue = queued;
        }
    }
}

/// A pass that runs. Dropped where it panics: nobody must wait for it for ever.
struct Running<'a>(&'a Passes);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        (queue.running, queue.broken) = (false, true);
        self.0.0.changed.notify_all();
    }
}

impl Queue {
    /// Whether nobody is left to wait for.
    fn is_full(&self) -> bool {
        self.waiting.len() >= self.seats.min(MOST)
    }
}

/// One pass, or where that fails one for each, so that an error reaches the session that it concerns.
fn through(batch: &mut [Waiting]) -> Vec<Result<(), EngineError>> {
    let mut together: Vec<Continuation<'_>> = batch
        .iter_mut()
        .map(|Waiting { session, token, drafts, .. }| Continuation {
            session,
            tokens: std::slice::from_ref(token),
            drafts,
        })
        .collect();
    match Session::append_all_ahead(&mut together) {
        Ok(()) => together.iter().map(|_| Ok(())).collect(),
        Err(error) if together.len() == 1 => vec![Err(error)],
        Err(EngineError::Cancelled) => together.iter().map(|_| Err(EngineError::Cancelled)).collect(),
        Err(_) => together.iter_mut().map(|one| one.session.append_ahead(one.tokens, one.drafts)).collect(),
    }
}
