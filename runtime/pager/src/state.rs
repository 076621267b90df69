//! Which expert is where, who waits for it, and what is read next. No I/O and no memory: slots are numbers
//! here.
//!
//! An expert is absent, being read or rewritten, or resident. A slot is *pinned* by each lease of it and by each request
//! that it is promised to; only an unpinned resident slot can be evicted. Every pin belongs to the thread
//! that made the request: a thread waits for a slot only while it has no pins, so two threads can't wait for
//! each other, or while one is being filled that nobody has asked for. What is being rewritten is waited for as what is read, so that
//! whoever rewrites must not wait for experts meanwhile.
//!
//! Experts that may be asked for soon, or that earlier runs used most, can be read ahead. Nobody waits for these reads, so they make
//! way for all others, and what they bring in is evicted as if it had been asked for.
//!
//! Unless experts are read ahead, what a single caller finds, and what it leaves behind, depends on the order of its requests
//! alone and not on which read ends first: slots are given up in an order that only the requests decide. That is what lets the
//! simulator ([`simulate`](crate::simulate())) drive this very bookkeeping and come to the counters of a real run.

mod foresight;
mod recall;
mod rewriting;

use std::collections::VecDeque;
use std::thread::ThreadId;

use crate::catalog::{Catalog, ExpertKey};
use crate::counters::Counters;
use crate::error::PagerError;
use crate::eviction::Eviction;
use crate::request::{Batch, Delivered};
use crate::trace::Phase;
use crate::usage::Usage;
use foresight::Foresight;
pub(crate) use foresight::{Candidate, MAX_LOOKAHEAD};

/// Number of a request among those alive.
pub(crate) type RequestId = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Residency {
    Absent,
    /// Read or rewritten.
    Loading(usize),
    Resident(usize),
}

struct Expert {
    key: ExpertKey,
    residency: Residency,
    /// Serial number of the last request, or the last guesses, that named it.
    named_by: u64,
    /// Length of its record.
    bytes: u64,
}

#[derive(Default)]
struct Slot {
    /// Position in the catalog of the expert that has this slot.
    expert: usize,
    pins: u32,
    /// Serial number of the last request that got it.
    owner: u64,
    /// Reads that have not ended, or 1 while it is rewritten; 0 when the content is complete.
    pieces_left: usize,
    /// Reads that bring in the expert.
    pieces: usize,
    failure: Option<PagerError>,
    /// Requests that get the expert when it is complete. Each has a pin.
    waiters: Vec<RequestId>,
    /// Why it is read, or was read, for an expert that nobody has asked for yet.
    ahead: Option<Ahead>,
    /// How often the expert was delivered since it was read.
    uses: u32,
    /// Whether its bytes were rewritten since.
    rewritten: bool,
}

impl Slot {
    /// Takes an expert, which is still to be read. There is one piece to come, so that the slot is not taken for complete before its
    /// reads are queued.
    fn take(&mut self, position: usize) {
        (self.expert, self.pieces_left) = (position, 1);
        (self.uses, self.rewritten) = (0, false);
    }
}

/// Why an expert is read that nobody has asked for yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// One of the next layers is likely to need it.
    Foreseen,
    /// Earlier runs used it much.
    Recalled,
}

/// A request that is under way.
struct Waiting {
    thread: ThreadId,
    /// Serial number, see [`Expert::named_by`] and [`Slot::owner`].
    serial: u64,
    /// Whether its experts count as hits and misses.
    counted: bool,
    /// Experts that have no slot yet, in the order in which they were named.
    pending: VecDeque<usize>,
    /// Slots of its experts in the order in which it got them. If there are no others, it gives them up in this order.
    own: VecDeque<usize>,
    /// Slots being read for it.
    loading: Vec<usize>,
    /// Slots that are complete and pinned for it.
    ready: Vec<usize>,
    failures: Vec<PagerError>,
}

/// Experts of one group that a pass needs.
pub(crate) struct Ask<I> {
    pub thread: ThreadId,
    pub group: u32,
    /// Tokens of the pass.
    pub rows: u32,
    /// Whether its experts count as hits and misses.
    pub counted: bool,
    /// Position of each expert in the catalog, and how many of the tokens use it.
    pub wanted: I,
}

/// Hears of requests, in the order in which they are made.
pub(crate) trait RequestLog: Send {
    /// `wanted`: each expert of the group that is asked for, and how many of the `rows` tokens use it.
    fn asked(&mut self, group: u32, rows: u32, wanted: &mut dyn Iterator<Item = (u32, u32)>);
    /// What the next requests are for.
    fn phase(&mut self, phase: Phase);
    /// No more requests follow. Error: something could not be written.
    fn end(&mut self) -> std::io::Result<()>;
}

/// What a request can do next.
pub(crate) enum Next {
    /// These slots are pinned for the caller.
    Ready(Batch),
    /// Something is under way that ends without the caller's doing.
    Wait,
    /// The caller keeps some of its slots, and others that it gave back can now be used: schedule, and look again.
    Reschedule,
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
    /// Slots that are read ahead and that a request waits for now.
    urgent: Vec<usize>,
    foresight: Foresight,
    /// Serial number of the last guesses, see [`Expert::named_by`].
    guessed_by: Option<u64>,
    /// Experts that are still to be read since earlier runs used them, by position; the last one first.
    recalled: Vec<usize>,
    /// What was asked for by counted requests.
    pub usage: Usage,
    /// Set when something became ready, or failed, since it was last looked at.
    news: bool,
    serial: u64,
    /// Hears of counted requests, if anyone listens.
    pub log: Option<Box<dyn RequestLog>>,
    pub counters: Counters,
}

impl State {
    pub fn new(catalog: &Catalog, slots: usize, mut eviction: Box<dyn Eviction>) -> Self {
        let sizes: Vec<usize> = catalog.groups().iter().map(Vec::len).collect();
        eviction.prepare(slots, &sizes);
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
            urgent: Vec::new(),
            foresight: Foresight::default(),
            guessed_by: None,
            recalled: Vec::new(),
            usage: Usage::none(catalog),
            news: false,
            serial: 0,
            log: None,
            counters: Counters::default(),
        }
    }

    /// Enters a request for experts given by position. Resident ones are pinned at once. Error: the position
    /// that was named twice; nothing was changed then.
    pub fn submit<I>(&mut self, ask: Ask<I>) -> Result<RequestId, ExpertKey>
    where
        I: Iterator<Item = (usize, u32)> + Clone,
    {
        let Ask { thread, group, rows, counted, wanted } = ask;
        self.serial += 1;
        for (position, _) in wanted.clone() {
            let expert = &mut self.experts[position];
            if expert.named_by == self.serial {
                return Err(expert.key);
            }
            expert.named_by = self.serial;
        }
        let any = wanted.clone().next().is_some();
        if let Some(log) = self.log.as_mut().filter(|_| counted && any) {
            let experts = &self.experts;
            log.asked(group, rows, &mut wanted.clone().map(|(at, uses)| (experts[at].key.index, uses)));
        }
        let id = self.new_request(thread, counted);
        self.counters.batches += u64::from(counted);
        if any {
            let (experts, serial) = (&self.experts, self.serial);
            self.foresight.asked(group, |position| experts[position].named_by == serial);
            self.eviction.turn(group, rows);
            if counted && let Some(usage) = self.usage.groups.get_mut(group as usize) {
                usage.tokens += u64::from(rows);
            }
        }
        for (position, uses) in wanted {
            self.counters.requests += u64::from(counted);
            let Expert { key, residency, .. } = self.experts[position];
            self.eviction.asked(key, uses);
            if counted {
                self.usage.groups[key.group as usize].uses[key.index as usize] += u64::from(uses);
            }
            match residency {
                Residency::Resident(slot) => {
                    self.eviction.touched(slot, key);
                    self.counters.hits += u64::from(counted);
                    self.was_read_ahead(slot);
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
        let serial = self.serial;
        if let Some(id) = self.unused_requests.pop() {
            let request = &mut self.requests[id];
            (request.thread, request.serial, request.counted) = (thread, serial, counted);
            return id;
        }
        self.requests.push(Waiting {
            thread,
            serial,
            counted,
            pending: VecDeque::new(),
            own: VecDeque::new(),
            loading: Vec::new(),
            ready: Vec::new(),
            failures: Vec::new(),
        });
        self.requests.len() - 1
    }

    /// What the request's caller gets now. Slots handed out stay pinned until [`State::unpin`].
    pub fn next(&mut self, id: RequestId) -> Next {
        let Self { requests, slots, experts, counters, .. } = self;
        let request = &mut requests[id];
        if let Some(failure) = request.failures.pop() {
            return Next::Failed(failure);
        }
        if !request.ready.is_empty() {
            let deliver = |slot: usize| {
                let entry = &mut slots[slot];
                entry.uses = entry.uses.saturating_add(1);
                counters.rewritten_uses += u64::from(request.counted && entry.rewritten);
                Delivered {
                    slot,
                    key: experts[entry.expert].key,
                    uses: entry.uses,
                    rewritten: entry.rewritten,
                }
            };
            return Next::Ready(request.ready.drain(..).map(deliver).collect());
        }
        if self.must_wait(id) {
            return Next::Wait;
        }
        if self.requests[id].pending.is_empty() {
            return Next::Done;
        }
        if self.advance_own(id) {
            return Next::Reschedule;
        }
        Next::Failed(PagerError::SlotsHeld { slots: self.slots.len() })
    }

    /// Whether [`State::next`] would say [`Next::Wait`].
    pub fn must_wait(&self, id: RequestId) -> bool {
        let request = &self.requests[id];
        let nothing_to_tell = request.failures.is_empty() && request.ready.is_empty();
        let slot_to_come = || !self.holds(request.thread) || self.reads_for_nobody();
        let more_to_come = !request.loading.is_empty() || (!request.pending.is_empty() && slot_to_come());
        nothing_to_tell && more_to_come
    }

    /// Whether a slot is being filled that nobody waits for: it can be had when its read has ended.
    fn reads_for_nobody(&self) -> bool {
        self.slots.iter().any(|slot| slot.pins == 0 && slot.pieces_left > 0)
    }

    /// Brings a slot that can be given up to the front of a request's own, past those that its caller keeps. Whether there is
    /// one, and the request is the next to get a slot.
    fn advance_own(&mut self, id: RequestId) -> bool {
        let serial = self.requests[id].serial;
        let can_go = |&slot: &usize| self.slots[slot].owner == serial && self.evictable(slot);
        let at = self.requests[id].own.iter().position(can_go);
        let next_to_get = self.starving.front() == Some(&id);
        let own = &mut self.requests[id].own;
        let Some(slot) = at.filter(|_| next_to_get).and_then(|at| own.remove(at)) else { return false };
        own.push_front(slot);
        true
    }

    /// Whether nobody needs what a slot holds.
    fn evictable(&self, slot: usize) -> bool {
        self.slots[slot].pins == 0 && self.slots[slot].pieces_left == 0
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
        self.requests[id].own.clear();
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
        self.slots[slot].owner = self.requests[id].serial;
        self.requests[id].ready.push(slot);
        self.requests[id].own.push_back(slot);
        self.news = true;
    }

    /// Lets a request wait for a slot that is being read.
    fn wait_for(&mut self, slot: usize, id: RequestId) {
        self.pin(slot, self.requests[id].thread);
        self.slots[slot].owner = self.requests[id].serial;
        self.slots[slot].waiters.push(id);
        self.requests[id].loading.push(slot);
        self.requests[id].own.push_back(slot);
    }

    /// Lets a request share a read that another one began.
    fn join(&mut self, slot: usize, id: RequestId) {
        self.eviction.touched(slot, self.experts[self.slots[slot].expert].key);
        self.counters.joined += u64::from(self.requests[id].counted);
        if self.was_read_ahead(slot) {
            self.urgent.push(slot);
        }
        self.wait_for(slot, id);
    }

    /// Takes a slot from the expert that has it.
    fn give_up(&mut self, slot: usize) {
        let entry = &mut self.slots[slot];
        entry.ahead = None;
        self.experts[entry.expert].residency = Residency::Absent;
        self.eviction.removed(slot);
        self.counters.evictions += 1;
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
                    let Some(slot) = self.take_slot(id) else { return };
                    self.begin(position, slot, id);
                }
                Residency::Loading(slot) => self.join(slot, id),
                // Another request read it while this one waited for a slot.
                Residency::Resident(slot) => {
                    self.eviction.touched(slot, self.experts[position].key);
                    self.counters.joined += u64::from(self.requests[id].counted);
                    self.was_read_ahead(slot);
                    self.promise(slot, id);
                }
            }
            self.requests[id].pending.pop_front();
        }
    }

    /// Whether a request waits for a slot.
    pub fn is_starving(&self) -> bool {
        !self.starving.is_empty()
    }

    /// A slot for an expert of a request: a free one, one that the policy gives up, of those that the last guesses name after all
    /// others, or, where all are in use, the first of the request's own. These are not left to the policy, since which of them the
    /// caller is done with depends on time.
    fn take_slot(&mut self, id: RequestId) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let owner = Some(self.requests[id].serial);
        let slot = match self.victim(owner, false).or_else(|| self.victim(owner, true)) {
            Some(slot) => slot,
            None => self.first_own(id)?,
        };
        self.give_up(slot);
        Some(slot)
    }

    /// The slot that the policy gives up of those that nobody needs, without those of `owner`, the serial number of a request. `guessed`:
    /// whether what the last guesses name, and nobody has asked for since, may go. A policy that names another slot is treated like one
    /// that names none.
    fn victim(&mut self, owner: Option<u64>, guessed: bool) -> Option<usize> {
        let Self { slots, experts, eviction, guessed_by, .. } = self;
        let evictable = |slot: usize| {
            slots.get(slot).is_some_and(|slot| {
                let is_guessed = Some(experts[slot.expert].named_by) == *guessed_by;
                let unused = slot.pins == 0 && slot.pieces_left == 0;
                unused && owner != Some(slot.owner) && (guessed || !is_guessed)
            })
        };
        eviction.victim(&evictable).filter(|&slot| evictable(slot))
    }

    /// The slot that a request has had for longest, if nobody needs it any more.
    fn first_own(&mut self, id: RequestId) -> Option<usize> {
        while let Some(&slot) = self.requests[id].own.front() {
            let position = self.slots[slot].expert;
            let own = self.slots[slot].owner == self.requests[id].serial;
            let resident = self.experts[position].residency == Residency::Resident(slot);
            // Neither after a read that failed.
            if own && (resident || self.slots[slot].pieces_left > 0) {
                if !self.evictable(slot) {
                    return None;
                }
                self.requests[id].own.pop_front();
                return Some(slot);
            }
            self.requests[id].own.pop_front();
        }
        None
    }

    fn begin(&mut self, position: usize, slot: usize, id: RequestId) {
        let Expert { key, bytes, .. } = self.experts[position];
        self.experts[position].residency = Residency::Loading(slot);
        self.eviction.admitted(slot, key);
        self.counters.misses += u64::from(self.requests[id].counted);
        self.foresight.missed();
        self.counters.record_bytes += bytes;
        self.slots[slot].take(position);
        self.wait_for(slot, id);
        self.starts.push_back(slot);
    }

    /// A slot whose reads are to be queued, with its expert. The caller answers with [`State::queued`].
    pub fn next_start(&mut self) -> Option<(usize, ExpertKey)> {
        let slot = self.starts.pop_front()?;
        Some((slot, self.experts[self.slots[slot].expert].key))
    }

    /// Whether a slot has an expert that nobody has asked for yet.
    pub fn is_ahead(&self, slot: usize) -> bool {
        self.slots[slot].ahead.is_some()
    }

    /// The reads of a slot are queued; `pieces` is at least 1.
    pub fn queued(&mut self, slot: usize, pieces: usize) {
        (self.slots[slot].pieces, self.slots[slot].pieces_left) = (pieces, pieces);
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
        self.slots[slot].ahead = None;
        self.experts[position].residency = Residency::Absent;
        self.eviction.removed(slot);
        self.free.push(slot);
    }

    /// Whether experts of a request have no slot yet.
    pub fn lacks_slots(&self, id: RequestId) -> bool {
        !self.requests[id].pending.is_empty()
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
