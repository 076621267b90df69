//! What callers and I/O threads share: the bookkeeping behind one lock, the queue of reads, and the arena.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::arena::{Arena, Piece};
use crate::catalog::{Catalog, ExpertKey};
use crate::error::PagerError;
use crate::files::{Files, Job, ReadCost};
use crate::request::Batch;
use crate::staging::Staging;
use crate::state::{Candidate, Next, RequestId, State};

/// Longest single read, in bytes; a multiple of the block. Larger regions are cut, so that even one expert
/// keeps several threads and the device's queue busy.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Another recalled expert is begun while fewer reads than this are queued or under way: enough for most disks, and where an expert is
/// a single read one fewer than there are threads by default, so that what is asked for meanwhile begins at once.
const RECALL_READS: usize = 3;

pub(crate) struct Shared {
    pub arena: Arc<Arena>,
    pub catalog: Catalog,
    pub files: Files,
    inner: Mutex<Inner>,
    /// A read was queued, or the pager closes.
    work: Condvar,
    /// Something became ready, or failed.
    arrived: Condvar,
}

/// What an I/O thread does next.
enum Work {
    /// Reads a piece of an expert to where it stays.
    Read(Job),
    /// Reads a whole expert and recodes it into its slot.
    Recode(ExpertKey, Piece),
}

impl Work {
    fn slot(&self) -> usize {
        match self {
            Self::Read(job) => job.into.slot(),
            Self::Recode(_, into) => into.slot(),
        }
    }
}

struct Inner {
    state: State,
    queue: VecDeque<Work>,
    /// Reads of experts that nobody has asked for yet; they begin while `queue` is empty.
    ahead: VecDeque<Work>,
    closed: bool,
    /// Reads under way.
    reading: usize,
    /// When the first of them began.
    busy_since: Option<Instant>,
}

impl Shared {
    pub fn new(arena: Arc<Arena>, catalog: Catalog, files: Files, state: State) -> Self {
        let (queue, ahead) = (VecDeque::new(), VecDeque::new());
        let inner = Inner { state, queue, ahead, closed: false, reading: 0, busy_since: None };
        let inner = Mutex::new(inner);
        Self { arena, catalog, files, inner, work: Condvar::new(), arrived: Condvar::new() }
    }

    /// A thread that panicked left the bookkeeping whole: no change of it is interrupted by anything that can
    /// panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bookkeeping, then begins the reads that have become possible.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner.state);
        self.settle(&mut inner);
        result
    }

    /// Looks at the bookkeeping.
    pub fn view<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Brings slots, queue and sleeping threads up to date after a change.
    fn settle(&self, inner: &mut Inner) {
        inner.state.schedule();
        if inner.state.is_starving() && inner.forget_ahead() {
            inner.state.schedule();
        }
        let mut queued = self.queue_starts(inner);
        while inner.has_time_for_recall() && inner.state.begin_recalled() {
            queued += self.queue_starts(inner);
        }
        for slot in inner.state.take_urgent() {
            let (urgent, others) =
                std::mem::take(&mut inner.ahead).into_iter().partition(|work| work.slot() == slot);
            (queued, inner.ahead) = (queued + VecDeque::<Work>::len(&urgent), others);
            inner.queue.extend(urgent);
        }
        match queued {
            0 => {}
            1 => self.work.notify_one(),
            _ => self.work.notify_all(),
        }
        if inner.state.take_news() {
            self.arrived.notify_all();
        }
    }

    /// Queues the reads that were decided on, and returns how many they are.
    fn queue_starts(&self, inner: &mut Inner) -> usize {
        let mut queued = 0;
        while let Some((slot, key)) = inner.state.next_start() {
            let queue = if inner.state.is_ahead(slot) { &mut inner.ahead } else { &mut inner.queue };
            match self.jobs(slot, key, queue) {
                Some(pieces) => {
                    inner.state.queued(slot, pieces);
                    queued += pieces;
                }
                None => inner.state.piece_ended(slot, Err(PagerError::SlotBusy { slot })),
            }
        }
        queued
    }

    /// Queues the reads that fill a slot with an expert, in the order of its parts, and returns how many they
    /// are. `None`, and nothing queued, if the arena does not give the slot.
    fn jobs(&self, slot: usize, key: ExpertKey, queue: &mut VecDeque<Work>) -> Option<usize> {
        let before = queue.len();
        let mut writer = self.arena.write(slot)?;
        if self.catalog.recode().is_some() {
            queue.push_back(Work::Recode(key, writer.piece(0..self.arena.slot_bytes())?));
            return Some(1);
        }
        let record = self.catalog.record(key);
        for (part, region) in record.parts.iter().zip(record.regions()) {
            for start in (0..region.slot_bytes).step_by(PIECE_BYTES) {
                let end = region.slot_bytes.min(start + PIECE_BYTES);
                let Some(into) = writer.piece(region.slot_offset + start..region.slot_offset + end) else {
                    queue.truncate(before);
                    return None;
                };
                let data = region.lead.max(start) - start..end.min(region.lead + region.bytes) - start;
                let offset = region.file_offset + start as u64;
                queue.push_back(Work::Read(Job { file: part.file, offset, data, into }));
            }
        }
        Some(queue.len() - before)
    }

    /// Lets experts be read that may be asked for soon, the first ones first. Those of before that are not begun are not read.
    pub fn foresee(&self, guesses: &[Candidate]) {
        let mut inner = self.lock();
        inner.forget_ahead();
        inner.state.foresee(guesses);
        self.settle(&mut inner);
    }

    /// Whether no read is queued, under way, or to follow by itself.
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.queue.is_empty() && inner.ahead.is_empty() && inner.reading == 0 && !inner.state.is_recalling()
    }

    /// Waits for the next experts of a request, and lends them out.
    pub fn wait(&self, id: RequestId) -> Result<Option<Batch>, PagerError> {
        let mut inner = self.lock();
        let mut waiting_since = None;
        let result = loop {
            match inner.state.next(id) {
                Next::Ready(batch) => break Ok(Some(batch)),
                Next::Done => break Ok(None),
                Next::Failed(error) => break Err(error),
                Next::Reschedule => self.settle(&mut inner),
                Next::Wait => {
                    waiting_since.get_or_insert_with(Instant::now);
                    inner = self.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        if let Some(since) = waiting_since {
            inner.state.counters.wait_ns += nanoseconds_since(since);
        }
        result
    }

    /// The life of an I/O thread: carries out reads until the pager closes.
    /// `staging`: memory of its own, if experts are recoded.
    pub fn serve(&self, mut staging: Option<Staging>) {
        let mut inner = self.lock();
        while !inner.closed {
            let Some(work) = inner.take_work() else {
                inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let slot = work.slot();
            if inner.state.is_doomed(slot) {
                drop(work);
                inner.state.piece_ended(slot, Ok(()));
                self.settle(&mut inner);
                continue;
            }
            let begun = Instant::now();
            inner.reading += 1;
            inner.busy_since.get_or_insert(begun);
            drop(inner);
            // The piece goes back before the slot can be called complete, because readers are refused until
            // then.
            let (cost, recode_ns, result) = match work {
                Work::Read(mut job) => {
                    let (cost, result) = self.files.read(&mut job);
                    (cost, 0, result)
                }
                Work::Recode(key, mut into) => self.recode(key, &mut into, staging.as_mut()),
            };
            inner = self.lock();
            inner.count_read(begun, cost, recode_ns);
            inner.state.piece_ended(slot, result);
            self.settle(&mut inner);
        }
    }

    /// Reads a whole expert into `staging` and fills its slot with what it becomes. Gives the time of the latter, too.
    fn recode(
        &self,
        key: ExpertKey,
        into: &mut Piece,
        staging: Option<&mut Staging>,
    ) -> (ReadCost, u64, Result<(), PagerError>) {
        let busy = PagerError::SlotBusy { slot: into.slot() };
        let (Some(staging), Some(recode)) = (staging, self.catalog.recode()) else {
            return (ReadCost::default(), 0, Err(busy));
        };
        let record = self.catalog.record(key);
        let (cost, read) = staging.fill(&self.files, record);
        if let Err(error) = read {
            return (cost, 0, Err(error));
        }
        let begun = Instant::now();
        let places = self.catalog.places(key.group);
        // Whoever waits for the expert would wait for ever if the thread ended.
        let recoding = AssertUnwindSafe(|| staging.recode(record, recode.as_ref(), key, places, into));
        let result = catch_unwind(recoding).unwrap_or_else(|_| Err(PagerError::panicked(key)));
        (cost, nanoseconds_since(begun), result)
    }

    /// Lets the I/O threads end after the reads that they are at; what is queued is forgotten.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.queue.clear();
        inner.ahead.clear();
        self.work.notify_all();
    }
}

impl Inner {
    /// Forgets the experts that are to be read ahead and whose reads have not begun. Whether there were any.
    fn forget_ahead(&mut self) -> bool {
        let before = self.ahead.len();
        let mut slots: Vec<usize> = self.ahead.iter().map(Work::slot).collect();
        slots.dedup();
        for slot in slots {
            let queued = self.ahead.iter().filter(|work| work.slot() == slot).count();
            if self.state.forget(slot, queued) {
                self.ahead.retain(|work| work.slot() != slot);
            }
        }
        self.ahead.len() < before
    }

    /// Whether nobody waits for a read, and few others are under way.
    fn has_time_for_recall(&self) -> bool {
        let reads = self.reading + self.ahead.len();
        self.state.is_recalling() && self.queue.is_empty() && reads < RECALL_READS && !self.state.is_awaited()
    }

    /// What a thread does next: a read that somebody waits for, if there is one.
    fn take_work(&mut self) -> Option<Work> {
        self.queue.pop_front().or_else(|| self.ahead.pop_front())
    }

    fn count_read(&mut self, begun: Instant, cost: ReadCost, recode_ns: u64) {
        let counters = &mut self.state.counters;
        counters.reads += cost.calls;
        counters.bytes_read += cost.bytes;
        counters.direct_fallbacks += cost.fallbacks;
        counters.read_time_ns += nanoseconds_since(begun).saturating_sub(recode_ns);
        counters.recode_time_ns += recode_ns;
        self.reading -= 1;
        if self.reading == 0
            && let Some(since) = self.busy_since.take()
        {
            counters.disk_busy_ns += nanoseconds_since(since);
        }
    }
}

fn nanoseconds_since(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
