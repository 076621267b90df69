//! Opening a pager and asking it.

use std::io::Write;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::arena::Arena;
use crate::catalog::Catalog;
use crate::counters::Counters;
use crate::error::PagerError;
use crate::eviction::{Eviction, EvictionPolicy};
use crate::files::{Files, PagedFile};
use crate::probe::{self, IoChoice, IoReason};
use crate::request::{Guess, Request, Wanted};
use crate::shared::Shared;
use crate::staging::Staging;
use crate::state::{MAX_LOOKAHEAD, State};
use crate::trace::{Phase, TraceHeader, TraceWriter};
use crate::usage::Usage;

/// Most I/O threads: more than any queue that pays for reads of this size.
const MAX_IO_THREADS: usize = 64;

/// Stack of an I/O thread, in bytes; it calls little more than the system.
const IO_STACK_BYTES: usize = 128 << 10;

/// How experts are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IoMode {
    /// What a short measurement on the files finds faster.
    #[default]
    Auto,
    /// Past the page cache, where the file system can; through it elsewhere.
    Direct,
    /// Through the page cache. Nothing is left there if the experts don't all fit the arena.
    Buffered,
}

/// What a pager may use.
pub struct PagerConfig {
    /// Ceiling of the memory for experts, in bytes. Rounded down to whole slots.
    pub arena_bytes: u64,
    /// How to read.
    pub io: IoMode,
    /// Reads at a time (queue depth), one thread each; at least 1 and at most 64 are used.
    pub io_threads: usize,
    /// Who gives up a slot.
    pub eviction: Box<dyn Eviction>,
}

impl PagerConfig {
    /// Reads at a time by default.
    pub const IO_THREADS: usize = 4;

    /// An arena of this size with the defaults: measured I/O, four reads at a time, and the default
    /// [`EvictionPolicy`].
    pub fn new(arena_bytes: u64) -> Self {
        Self {
            arena_bytes,
            io: IoMode::Auto,
            io_threads: Self::IO_THREADS,
            eviction: EvictionPolicy::default().start(),
        }
    }
}

impl Default for PagerConfig {
    /// The defaults of [`PagerConfig::new`] with an arena of 0 bytes, which must be set.
    fn default() -> Self {
        Self::new(0)
    }
}

/// Experts in an arena of fixed size. Dropping it ends its threads after the reads that they are at.
pub struct Pager {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    io: IoChoice,
}

/// Where the arena has fewer slots than so many times the experts that are foreseen, each is needed for what was asked for.
const SLOTS_FOR_FORESIGHT: usize = 8;

impl Pager {
    /// Reserves the arena, chooses how to read and starts the I/O threads. Nothing is read yet, but for the
    /// measurement of [`IoMode::Auto`], which takes about a tenth of a second.
    ///
    /// Errors: [`PagerError::EmptyCatalog`], [`PagerError::ArenaTooSmall`], [`PagerError::UnknownFile`],
    /// [`PagerError::PastEnd`], [`PagerError::Open`], [`PagerError::Reserve`], [`PagerError::Thread`].
    pub fn open(files: &[PagedFile], catalog: Catalog, config: PagerConfig) -> Result<Self, PagerError> {
        let PagerConfig { arena_bytes, io, io_threads, eviction } = config;
        if catalog.experts() == 0 {
            return Err(PagerError::EmptyCatalog);
        }
        let slots = Self::slots_for(&catalog, arena_bytes);
        let slot_bytes = catalog.slot_bytes();
        if slots == 0 {
            return Err(PagerError::ArenaTooSmall { arena_bytes, slot_bytes });
        }
        let io_threads = io_threads.clamp(1, MAX_IO_THREADS);
        let everything_fits = slots == catalog.experts();
        let mut opened = Files::open(files, &catalog, io, !everything_fits)?;
        let mut state = State::new(&catalog, slots, eviction);
        let wants_direct = io == IoMode::Direct || (io == IoMode::Auto && !everything_fits);
        let io = choose_io(io, everything_fits, &opened, &catalog, io_threads);
        if wants_direct {
            state.counters.direct_fallbacks = opened.without_direct() as u64;
        }
        if !io.direct {
            opened.close_direct();
        }
        let arena = Arena::reserve(slots, slot_bytes as usize)?;
        let staging = match catalog.staging_bytes() {
            0 => None,
            bytes => Some(Arena::buffers(io_threads, bytes as usize)?),
        };
        let shared = Arc::new(Shared::new(arena, catalog, opened, state));
        let mut pager = Self { shared, threads: Vec::with_capacity(io_threads), io };
        for number in 0..io_threads {
            let shared = Arc::clone(&pager.shared);
            let staging = staging.as_ref().map(|arena| Staging::new(Arc::clone(arena), number));
            let thread = std::thread::Builder::new()
                .name(format!("pager-io-{number}"))
                .stack_size(IO_STACK_BYTES)
                .spawn(move || shared.serve(staging))
                .map_err(|source| PagerError::Thread { source: Arc::new(source) })?;
            pager.threads.push(thread);
        }
        Ok(pager)
    }

    /// How many experts an arena of this size would hold; never more than the catalog has. A plan needs at
    /// least 1, and each takes [`Catalog::slot_bytes`].
    pub fn slots_for(catalog: &Catalog, arena_bytes: u64) -> usize {
        let slots = arena_bytes.checked_div(catalog.slot_bytes()).unwrap_or(0);
        usize::try_from(slots).unwrap_or(usize::MAX).min(catalog.experts())
    }

    /// Bytes of one slot for a catalog, before anything is opened: the smallest possible arena.
    pub fn slot_bytes_for(catalog: &Catalog) -> u64 {
        catalog.slot_bytes()
    }

    /// How many experts fit at once.
    pub fn slots(&self) -> usize {
        self.shared.arena.slots()
    }

    /// Bytes of one slot: the largest record in whole blocks. Smaller records leave the rest unused.
    pub fn slot_bytes(&self) -> u64 {
        self.shared.arena.slot_bytes() as u64
    }

    /// Bytes of memory that the experts take at most.
    pub fn arena_bytes(&self) -> u64 {
        self.slots() as u64 * self.slot_bytes()
    }

    /// What is paged.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// Whether every expert has a slot, so that none is read twice.
    pub fn holds_everything(&self) -> bool {
        self.slots() == self.catalog().experts()
    }

    /// How many experts are in memory now.
    pub fn resident(&self) -> usize {
        self.shared.view(State::resident)
    }

    /// Asks for experts of one group, each named once, in the order in which they are to be read. Reads of
    /// those that are missing begin at once, as far as there are slots that nobody holds. A request that
    /// names none is empty. What is wrong with a request is told by the first [`Request::next_ready`].
    pub fn request(&self, group: u32, wanted: &[u32]) -> Request<'_> {
        Request::new(&self.shared, &Wanted::of_token(group, wanted), true)
    }

    /// The same for a pass of several tokens.
    pub fn request_for(&self, wanted: &Wanted<'_>) -> Request<'_> {
        Request::new(&self.shared, wanted, true)
    }

    /// For how many of the next groups guesses of so many experts each are wanted by [`Pager::foresee`]: 0 where every expert has a slot,
    /// or where nearly all that was asked for of late was in memory; fewer where there are few slots, or where those of more distant
    /// groups don't come true.
    pub fn lookahead(&self, experts: usize) -> usize {
        if self.holds_everything() {
            return 0;
        }
        let room = self.slots() / (SLOTS_FOR_FORESIGHT * experts.max(1));
        self.shared.view(State::lookahead).min(room)
    }

    /// Lets experts be read that may be asked for soon, while no request needs the disk: those of the next group first, then those
    /// of the one after it, and so on. Does nothing where every expert has a slot, nor for groups with which the guesses would name
    /// more than an eighth as many experts as there are slots.
    ///
    /// They are guesses, on which no result depends. What the last ones named and is not begun is dropped. Requests show how often
    /// they come true, for each distance and each rank among the choices of a token, and those that seldom do are not
    /// followed. Hits depend on time then, not on the order of requests alone.
    pub fn foresee(&self, guesses: &[Guess]) {
        if self.holds_everything() {
            return;
        }
        let mut candidates = Vec::new();
        for (distance, guess) in guesses.iter().take(MAX_LOOKAHEAD).enumerate() {
            let first = candidates.len();
            candidates.extend(guess.candidates(&self.shared.catalog, distance));
            if candidates.len() * SLOTS_FOR_FORESIGHT > self.slots() {
                candidates.truncate(first);
                break;
            }
        }
        if !candidates.is_empty() {
            self.shared.foresee(&candidates);
        }
    }

    /// Tells what earlier runs saw: the experts that they used most are read while no request waits for a read, into slots that are
    /// free, and are then taken for likely until requests say otherwise. Does nothing if every expert has a slot, if the policy
    /// makes nothing of usage, or if the usage is of another catalog. To be called before the first request.
    ///
    /// It is a guess, on which no result depends. Hits depend on time then, not on the order of requests alone.
    pub fn recall(&self, usage: &Usage) {
        if !self.holds_everything() && usage.fits(self.catalog()) {
            let usage = usage.within(self.catalog());
            self.shared.update(|state| state.recall(&usage));
        }
    }

    /// Whether no expert is being read or is still to be.
    pub fn is_idle(&self) -> bool {
        self.shared.is_idle()
    }

    /// What requests asked for since the pager was opened.
    pub fn usage(&self) -> Usage {
        self.shared.view(|state| state.usage.clone())
    }

    /// Reads every expert if all fit the arena, so that none has to be waited for later, and returns the
    /// bytes read, without slack; 0 if they don't all fit. Errors: those of [`Request::next_ready`].
    pub fn warm(&self) -> Result<u64, PagerError> {
        if !self.holds_everything() {
            return Ok(0);
        }
        let before = self.counters().record_bytes;
        for (group, records) in self.catalog().groups().iter().enumerate() {
            let all: Vec<u32> = (0..records.len() as u32).collect();
            let mut request = Request::new(&self.shared, &Wanted::of_token(group as u32, &all), false);
            while request.next_ready()?.is_some() {}
        }
        Ok(self.counters().record_bytes - before)
    }

    /// Totals since the pager was opened.
    pub fn counters(&self) -> Counters {
        self.shared.view(|state| state.counters)
    }

    /// Writes every request from now on to `out`, as [`Trace`](crate::Trace) reads them. `model`: a name for people. Another
    /// recording under way ends. Requests of one thread are written as they are made; where several threads ask, in the order
    /// in which the pager took them.
    ///
    /// A recording that begins before the first request lets [`simulate`](crate::simulate()) come to the counters of this pager, if one
    /// caller asks and nothing is read ahead.
    pub fn record(&self, model: &str, out: Box<dyn Write + Send>) {
        let header = TraceHeader::of(model, self.catalog(), self.slots());
        self.shared.update(|state| state.log = Some(Box::new(TraceWriter::begin(&header, out))));
    }

    /// Notes in the recording, if there is one, what the requests from here on are for.
    pub fn mark(&self, phase: Phase) {
        self.shared.update(|state| state.log.iter_mut().for_each(|log| log.phase(phase)));
    }

    /// Ends the recording, if there is one. Error: it could not be written.
    pub fn end_recording(&self) -> std::io::Result<()> {
        self.shared.update(|state| state.log.take()).map_or(Ok(()), |mut log| log.end())
    }

    /// How experts are read, why, and the figures of the measurement if there was one.
    pub fn io_mode(&self) -> &IoChoice {
        &self.io
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

fn choose_io(
    mode: IoMode,
    everything_fits: bool,
    files: &Files,
    catalog: &Catalog,
    depth: usize,
) -> IoChoice {
    let buffered = |reason| IoChoice { direct: false, reason };
    match mode {
        IoMode::Buffered => buffered(IoReason::Configured),
        IoMode::Auto if everything_fits && !probe::worthwhile(files, catalog) => {
            buffered(IoReason::EverythingFits)
        }
        _ if !files.any_direct() => buffered(IoReason::NoDirectReads),
        IoMode::Direct => IoChoice { direct: true, reason: IoReason::Configured },
        IoMode::Auto => probe::choose(files, catalog, depth, everything_fits),
    }
}
