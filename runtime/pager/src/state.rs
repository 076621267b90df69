//! Which expert is where, who waits for it, and what is read next. No I/O and no memory: slots are numbers
//! here.
//!
//! An expert is absent, being read, or resident. A slot is *pinned* by each lease of it and by each request
//! that it is promised to; only an unpinned resident slot can be evicted. Every pin belongs to the thread
//! that made the request: a thread waits for a slot only while it has no pins, so two threads can't wait for
//! each other.

use std::collections::VecDeque;
use std::thread::ThreadId;

use crate::catalog::{Catalog, ExpertKey};
use crate::counters::Counters;
use crate::error::PagerError;
use crate::eviction::Eviction;
use crate::request::Batch;

/// Number of a request among those alive.
pub(crate) type RequestId = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Residency {
    Absent,
    Loading(usize),
    Resident(usize),
}

struct Expert {
    key: ExpertKey,
    residency: Residency,
    /// Serial number of the last request that named it.
    named_by: u64,
    /// Length of its record.
    bytes: u64,
}

#[derive(Default)]
struct Slot {
    /// Position in the catalog of the expert that has this slot.
    expert: usize,
    pins: u32,
    /// Reads that have not ended; 0 when the content is complete.
    pieces_left: usize,
    failure: Option<PagerError>,
    /// Requests that get the expert when it is complete. Each has a pin.
    waiters: Vec<RequestId>,
}

/// A request that is under way.
struct Waiting {
    thread: ThreadId,
    /// Whether its experts count as hits and misses.
    counted: bool,
    /// Experts that have no slot yet, in the order in which they were named.
    pending: VecDeque<usize>,
    /// Slots being read for it.
    loading: Vec<usize>,
    /// Slots that are complete and pinned for it.
    ready: Vec<usize>,
    failures: Vec<PagerError>,
}

/// What a request can do next.
pub(crate) enum Next {
    /// These slots are pinned for the caller.
    Ready(Batch),
    /// Something is under way that ends without the caller's doing.
    Wait,
    /// All its experts were delivered.
    Done,
    /// An expert could not be read, or no slot can be had.
    Failed(PagerError),
}

/// The bookkeeping of a pager.
pub(crate) struct State {
    experts: Vec<Expert>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    eviction: Box<dyn Eviction>,
    /// Entries are reused, so that requests allocate nothing once the pager is warm.
    requests: Vec<Waiting>,
    unused_requests: Vec<RequestId>,
    /// Requests with experts that have no slot yet, oldest first.
    starving: VecDeque<RequestId>,
    /// Pins by thread.
    holders: Vec<(ThreadId, u32)>,
    /// Slots whose read was decided on and not begun.
    starts: VecDeque<usize>,
    /// Set when something became ready, or failed, since it was last looked at.
    news: bool,
    serial: u64,
    pub counters: Counters,
}

impl State {
    pub fn new(catalog: &Catalog, slots: usize, mut eviction: Box<dyn Eviction>) -> Self {
        eviction.prepare(slots, catalog.groups().len());
        let expert = |(key, record): (ExpertKey, &crate::Record)| Expert {
            key,
            residency: Residency::Absent,
            named_by: 0,
            bytes: record.bytes(),
        };
        Self {
            experts: catalog.iter().map(expert).collect(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            free: (0..slots).rev().collect(),
            eviction,
            requests: Vec::new(),
            unused_requests: Vec::new(),
            starving: VecDeque::new(),
            holders: Vec::new(),
            starts: VecDeque::new(),
            news: false,
            serial: 0,
            counters: Counters::default(),
        }
    }

    /// Enters a request for experts given by position. Resident ones are pinned at once. Error: the position
    /// that was named twice; nothing was changed then.
    pub fn submit(
        &mut self,
        thread: ThreadId,
        counted: bool,
        wanted: impl Iterator<Item = usize> + Clone,
    ) -> Result<RequestId, ExpertKey> {
        self.serial += 1;
        for position in wanted.clone() {
            let expert = &mut self.experts[position];
            if expert.named_by == self.serial {
                return Err(expert.key);
            }
            expert.named_by = self.serial;
        }
        let id = self.new_request(thread, counted);
        self.counters.batches += u64::from(counted);
        for position in wanted {
            self.counters.requests += u64::from(counted);
            let Expert { key, residency, .. } = self.experts[position];
            match residency {
                Residency::Resident(slot) => {
                    self.eviction.touched(slot, key);
                    self.counters.hits += u64::from(counted);
                    self.promise(slot, id);
                }
                Residency::Loading(slot) => self.join(slot, id),
                Residency::Absent => self.requests[id].pending.push_back(position),
            }
        }
        if !self.requests[id].pending.is_empty() {
            self.starving.push_back(id);
        }
        Ok(id)
    }

    fn new_request(&mut self, thread: ThreadId, counted: bool) -> RequestId {
        if let Some(id) = self.unused_requests.pop() {
            self.requests[id].thread = thread;
            self.requests[id].counted = counted;
            return id;
        }
        self.requests.push(Waiting {
            thread,
            counted,
            pending: VecDeque::new(),
            loading: Vec::new(),
            ready: Vec::new(),
            failures: Vec::new(),
        });
        self.requests.len() - 1
    }

    /// What the request's caller gets now. Slots handed out stay pinned until [`State::unpin`].
    pub fn next(&mut self, id: RequestId) -> Next {
        let request = &mut self.requests[id];
        if let Some(failure) = request.failures.pop() {
            return Next::Failed(failure);
        }
        if !request.ready.is_empty() {
            let with_key = |slot: usize| (slot, self.experts[self.slots[slot].expert].key);
            return Next::Ready(request.ready.drain(..).map(with_key).collect());
        }
        if self.must_wait(id) {
            return Next::Wait;
        }
        if self.requests[id].pending.is_empty() {
            return Next::Done;
        }
        Next::Failed(PagerError::SlotsHeld { slots: self.slots.len() })
    }

    /// Whether [`State::next`] would say [`Next::Wait`].
    pub fn must_wait(&self, id: RequestId) -> bool {
        let request = &self.requests[id];
        let nothing_to_tell = request.failures.is_empty() && request.ready.is_empty();
        let more_to_come =
            !request.loading.is_empty() || !(request.pending.is_empty() || self.holds(request.thread));
        nothing_to_tell && more_to_come
    }

    /// Whether a thread has pins.
    fn holds(&self, thread: ThreadId) -> bool {
        self.holders.iter().any(|&(holder, pins)| holder == thread && pins > 0)
    }

    /// Ends a request. What is being read for it is still read, and is then resident.
    pub fn release(&mut self, id: RequestId) {
        let thread = self.requests[id].thread;
        while let Some(slot) = self.requests[id].ready.pop() {
            self.unpin(slot, thread);
        }
        while let Some(slot) = self.requests[id].loading.pop() {
            self.slots[slot].waiters.retain(|&waiter| waiter != id);
            self.unpin(slot, thread);
        }
        if !self.requests[id].pending.is_empty() {
            self.requests[id].pending.clear();
            self.starving.retain(|&starving| starving != id);
        }
        self.requests[id].failures.clear();
        self.unused_requests.push(id);
    }

    fn pin(&mut self, slot: usize, thread: ThreadId) {
        self.slots[slot].pins += 1;
        match self.holders.iter_mut().find(|(holder, _)| *holder == thread) {
            Some((_, pins)) => *pins += 1,
            None => self.holders.push((thread, 1)),
        }
    }

    /// Gives back a pin of a thread's.
    pub fn unpin(&mut self, slot: usize, thread: ThreadId) {
        self.slots[slot].pins -= 1;
        if let Some(at) = self.holders.iter().position(|&(holder, _)| holder == thread) {
            self.holders[at].1 -= 1;
            if self.holders[at].1 == 0 {
                self.holders.swap_remove(at);
            }
        }
    }

    /// Pins a complete slot for a request.
    fn promise(&mut self, slot: usize, id: RequestId) {
        self.pin(slot, self.requests[id].thread);
        self.requests[id].ready.push(slot);
        self.news = true;
    }

    /// Lets a request wait for a slot that is being read.
    fn wait_for(&mut self, slot: usize, id: RequestId) {
        self.pin(slot, self.requests[id].thread);
        self.slots[slot].waiters.push(id);
        self.requests[id].loading.push(slot);
    }

    /// Lets a request share a read that another one began.
    fn join(&mut self, slot: usize, id: RequestId) {
        self.eviction.touched(slot, self.experts[self.slots[slot].expert].key);
        self.counters.joined += u64::from(self.requests[id].counted);
        self.wait_for(slot, id);
    }

    /// Gives slots to the experts that lack one, as far as slots can be had. To be called after every change.
    pub fn schedule(&mut self) {
        while let Some(&id) = self.starving.front() {
            let Some(&position) = self.requests[id].pending.front() else {
                self.starving.pop_front();
                continue;
            };
            match self.experts[position].residency {
                Residency::Absent => {
                    let Some(slot) = self.take_slot() else { return };
                    self.begin(position, slot, id);
                }
                Residency::Loading(slot) => self.join(slot, id),
                // Another request read it while this one waited for a slot.
                Residency::Resident(slot) => {
                    self.eviction.touched(slot, self.experts[position].key);
                    self.counters.joined += u64::from(self.requests[id].counted);
                    self.promise(slot, id);
                }
            }
            self.requests[id].pending.pop_front();
        }
    }

    fn take_slot(&mut self) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slots = &self.slots;
        let evictable = |slot: usize| slots.get(slot).is_some_and(|s| s.pins == 0 && s.pieces_left == 0);
        // A policy that names another slot than it may is treated like one that names none.
        let slot = self.eviction.victim(&evictable).filter(|&slot| evictable(slot))?;
        self.experts[self.slots[slot].expert].residency = Residency::Absent;
        self.eviction.removed(slot);
        self.counters.evictions += 1;
        Some(slot)
    }

    fn begin(&mut self, position: usize, slot: usize, id: RequestId) {
        let Expert { key, bytes, .. } = self.experts[position];
        self.experts[position].residency = Residency::Loading(slot);
        self.eviction.admitted(slot, key);
        self.counters.misses += u64::from(self.requests[id].counted);
        self.counters.record_bytes += bytes;
        // At least one piece, so that the slot is not taken for complete before its reads are queued.
        (self.slots[slot].expert, self.slots[slot].pieces_left) = (position, 1);
        self.wait_for(slot, id);
        self.starts.push_back(slot);
    }

    /// A slot whose reads are to be queued, with its expert. The caller answers with [`State::queued`].
    pub fn next_start(&mut self) -> Option<(usize, ExpertKey)> {
        let slot = self.starts.pop_front()?;
        Some((slot, self.experts[self.slots[slot].expert].key))
    }

    /// The reads of a slot are queued; `pieces` is at least 1.
    pub fn queued(&mut self, slot: usize, pieces: usize) {
        self.slots[slot].pieces_left = pieces;
    }

    /// Whether an earlier read of the slot failed, so that the others are in vain.
    pub fn is_doomed(&self, slot: usize) -> bool {
        self.slots[slot].failure.is_some()
    }

    /// One read of a slot ended. After the last one the expert is resident, or absent if any failed.
    pub fn piece_ended(&mut self, slot: usize, result: Result<(), PagerError>) {
        let entry = &mut self.slots[slot];
        if let Err(error) = result {
            entry.failure.get_or_insert(error);
        }
        entry.pieces_left -= 1;
        if entry.pieces_left > 0 {
            return;
        }
        self.news = true;
        let (failure, position) = (entry.failure.take(), entry.expert);
        let mut waiters = std::mem::take(&mut entry.waiters);
        for &id in &waiters {
            let request = &mut self.requests[id];
            request.loading.retain(|&loading| loading != slot);
            match &failure {
                None => request.ready.push(slot),
                Some(error) => {
                    request.failures.push(error.clone());
                    let thread = request.thread;
                    self.unpin(slot, thread);
                }
            }
        }
        waiters.clear();
        self.slots[slot].waiters = waiters;
        if failure.is_none() {
            self.experts[position].residency = Residency::Resident(slot);
            return;
        }
        self.counters.failures += 1;
        self.experts[position].residency = Residency::Absent;
        self.eviction.removed(slot);
        self.free.push(slot);
    }

    /// Whether a waiting caller may find something since the last call.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Experts that are complete in the arena.
    pub fn resident(&self) -> usize {
        self.experts.iter().filter(|expert| matches!(expert.residency, Residency::Resident(_))).count()
    }
}
