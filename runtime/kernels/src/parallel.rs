//! A team of threads for regions of many short parallel loops.
//!
//! A forward pass is hundreds of loops of a few microseconds to a few milliseconds each. Waking a thread
//! costs more than the shortest of them, so a [`Region`] wakes the workers once and keeps them looking for
//! work: they spin, then yield, then sleep, and any [`Region::run`] gets them back. The caller never waits
//! for a worker that has not joined a loop: on a machine with other load a worker that was scheduled away
//! costs speed, not a stall.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::isa::Isa;

/// Pauses before a waiting thread begins to offer its core to others: some 20 to 50 us.
const SPINS_BEFORE_YIELD: u32 = 1_000;
/// Yields before a worker sleeps: about a millisecond on an idle machine.
const YIELDS_BEFORE_SLEEP: u32 = 2_000;

/// In [`Shared::state`]: the loop accepts workers. The bits below count the workers in it, those from
/// [`GENERATION`] up number the loop.
const OPEN: u64 = 1 << 31;
/// In [`Shared::state`]: one loop.
const GENERATION: u64 = 1 << 32;
/// In [`Shared::state`]: the bits that count the workers in the loop.
const JOINED: u64 = OPEN - 1;

/// A fixed number of threads and the instruction set that they use.
pub struct Team {
    /// The workers; `None` if the team is the caller alone.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    isa: Isa,
    /// Whether a region has the workers.
    busy: AtomicBool,
}

impl Team {
    /// A team of `threads` threads, the caller's among them (0 counts as 1), that uses `isa` or, if the CPU
    /// lacks it, the fastest one below. If the system refuses to make threads the team is the caller's thread
    /// alone: [`Team::threads`] tells.
    pub fn new(threads: usize, isa: Isa) -> Self {
        let workers = threads.max(1) - 1;
        let pool = (workers > 0)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(workers)
                    .thread_name(|index| format!("kernels-{}", index + 1))
                    .build()
                    .ok()
            })
            .flatten();
        let threads = if pool.is_some() { workers + 1 } else { 1 };
        Self { pool, threads, isa: isa.or_slower(), busy: AtomicBool::new(false) }
    }

    /// Threads of the team, the caller's among them; at least 1.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set of the kernels; always one that the CPU has.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Wakes the workers, runs `f` on the caller's thread with a region to run loops in, and lets the workers
    /// go.
    ///
    /// One region at a time has the workers: one that is opened while another is (by another thread, or
    /// inside a loop) is its caller's thread alone.
    pub fn region<R>(&self, f: impl FnOnce(&Region<'_>) -> R) -> R {
        let shared = Shared::new(self.threads);
        let region = |threads| Region::new(&shared, threads, self.isa);
        let Some(pool) = &self.pool else { return f(&region(1)) };
        if self.busy.swap(true, Ordering::Acquire) {
            return f(&region(1));
        }
        let _release = OnDrop(|| self.busy.store(false, Ordering::Release));
        pool.in_place_scope(|scope| {
            let _dismiss = OnDrop(|| shared.dismiss());
            for _ in 1..self.threads {
                scope.spawn(|_| shared.work());
            }
            f(&region(self.threads))
        })
    }
}

/// The time in which a team's workers are at the caller's call. Belongs to the caller's thread: it can't be
/// used inside a loop.
pub struct Region<'t> {
    shared: &'t Shared,
    threads: usize,
    isa: Isa,
    weight_bytes: Cell<u64>,
    not_sync: PhantomData<*const ()>,
}

impl<'t> Region<'t> {
    fn new(shared: &'t Shared, threads: usize, isa: Isa) -> Self {
        Self { shared, threads, isa, weight_bytes: Cell::new(0), not_sync: PhantomData }
    }
}

impl Region<'_> {
    /// Bytes of the weights that products in this region went over so far, each matrix once a product.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes.get()
    }

    /// A product goes over so many bytes of weights.
    pub(crate) fn count_weights(&self, bytes: usize) {
        self.weight_bytes.set(self.weight_bytes.get() + bytes as u64);
    }

    /// Threads that take part in a loop, the caller's among them; at least 1.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set of the kernels; always one that the CPU has.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `f` with each of `0..tasks` once, on any thread in any order, and returns when all calls have. A
    /// thread has tasks that follow each other, so that its memory does; one that has done its own takes half of
    /// another's, so tasks may differ in length. A few per thread are enough.
    ///
    /// # Panics
    /// If there are 2^32 tasks or more, and with the panic of a task; some of those that nobody had begun are then not run.
    pub fn run(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        assert!(u32::try_from(tasks).is_ok(), "a loop of {tasks} tasks");
        if self.threads == 1 || tasks <= 1 {
            (0..tasks).for_each(f);
        } else {
            self.shared.run(tasks, &f);
        }
    }

    /// Cuts `data` in pieces of `len` elements (the last may be shorter) and calls `f` with the index of each
    /// and the piece, like [`Region::run`]. A `len` of 0 counts as 1.
    ///
    /// # Panics
    /// As [`Region::run`].
    pub fn run_chunks<T: Send>(&self, data: &mut [T], len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let len = len.max(1);
        let total = data.len();
        let data = DisjointSlice::new(data);
        self.run(total.div_ceil(len), |index| {
            let begin = index * len;
            // SAFETY: the pieces of different indices do not overlap and each index is run once.
            f(index, unsafe { data.range(begin..(begin + len).min(total)) });
        });
    }

    /// Lets the workers sleep at once, for a caller that is about to wait for I/O; the next loop wakes them.
    pub fn idle(&self) {
        self.shared.idle.store(true, Ordering::Relaxed);
    }
}

/// What the threads of one region share.
struct Shared {
    /// Number of the loop, whether it is [`OPEN`], and how many workers are in it.
    state: AtomicU64,
    /// The loop; written only while it is closed and no worker is in it.
    job: UnsafeCell<Job>,
    /// For each thread the tasks of the loop that it is to do.
    shares: Box<[Share]>,
    /// The first panic of a worker in the loop.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The region is over.
    over: AtomicBool,
    /// Workers should sleep now.
    idle: AtomicBool,
    /// Workers asleep or about to be; changed only under `bed`.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

/// A loop with its types erased.
#[derive(Clone, Copy)]
struct Job {
    /// Calls the closure behind `data` with the index of a task.
    call: unsafe fn(*const (), usize),
    data: *const (),
}

/// Tasks that follow each other: the first in the low half, the end in the high half; none if that is not above it. On cache lines of
/// its own.
///
/// The word is all that is known of its tasks, so that each is taken once in whatever order threads see other memory. The region's thread
/// sets shares before it opens the loop; then the thread whose share it is sets it alone, and only when it is empty; a panic empties
/// all.
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    /// The tasks are so.
    fn set(&self, begin: u32, end: u32) {
        self.0.store(u64::from(end) << 32 | u64::from(begin), Ordering::Relaxed);
    }

    /// For the thread that has it: its first task. When there is none it is not called again before the share is set: the first task is
    /// never more than one above the end.
    fn first(&self) -> Option<u32> {
        let (begin, end) = Self::parts(self.0.fetch_add(1, Ordering::Relaxed));
        (begin < end).then_some(begin)
    }

    /// For other threads: takes the last half of the tasks, one at least.
    fn last_half(&self) -> Option<Range<u32>> {
        let mut half = None;
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |share| {
            let (begin, end) = Self::parts(share);
            half = (begin < end).then(|| begin + (end - begin) / 2..end);
            half.as_ref().map(|half| u64::from(half.start) << 32 | u64::from(begin))
        });
        half
    }

    fn parts(share: u64) -> (u32, u32) {
        (share as u32, (share >> 32) as u32)
    }
}

// SAFETY: `job` is written by the region's thread alone, at a time when `state` keeps the workers out (it is
// closed and its count is 0), and read by workers after they joined through an acquiring exchange of `state`,
// which comes after the releasing store that opened the loop. The closure behind `data` is `Sync` and
// outlives the loop. The other fields are `Sync` by themselves.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { call: |_, _| (), data: std::ptr::null() }),
            shares: (0..threads).map(|_| Share(AtomicU64::new(0))).collect(),
            panic: Mutex::new(None),
            over: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
        }
    }

    /// The caller's side of a loop.
    fn run<F: Fn(usize) + Sync>(&self, tasks: usize, f: &F) {
        // SAFETY (of calls): `data` must point to a live `F`.
        unsafe fn call<F: Fn(usize)>(data: *const (), index: usize) {
            // SAFETY: `data` is the `f` of the enclosing `run`, which lives until the loop is closed and
            // empty.
            unsafe { (*data.cast::<F>())(index) }
        }
        let job = Job { call: call::<F>, data: std::ptr::from_ref(f).cast() };
        // SAFETY: the last loop was closed and left by all workers before its `run` returned or unwound, so
        // nobody reads the job now.
        unsafe { *self.job.get() = job };
        let mut begin = 0;
        for (share, thread) in self.shares.iter().zip(1..) {
            let end = (tasks as u64 * thread / self.shares.len() as u64) as u32;
            share.set(begin, end);
            begin = end;
        }
        self.idle.store(false, Ordering::Relaxed);
        let generation = (self.state.load(Ordering::Relaxed) & !(OPEN | JOINED)).wrapping_add(GENERATION);
        self.state.store(generation | OPEN, Ordering::SeqCst);
        self.wake();
        self.take_tasks(job, 0);
        self.close();
        if let Some(payload) = lock(&self.panic).take() {
            resume_unwind(payload);
        }
    }

    /// Does a thread's tasks, and then others', until it finds none. A panic is kept for the caller, and what no thread is just taking is
    /// left undone.
    fn take_tasks(&self, job: Job, thread: usize) {
        let take = || {
            while let Some(index) = self.take_task(thread) {
                // SAFETY: the caller of `run` waits in it until this thread has left the loop: the closure is
                // alive.
                unsafe { (job.call)(job.data, index as usize) };
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(take)) {
            self.shares.iter().for_each(|share| share.set(0, 0));
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// The next task for a thread: of its own, or of the half that it takes of another's. Tasks that go from one share to another
    /// meanwhile may be missed: the thread then leaves the loop early, which costs speed alone, since the thread that has them is in it.
    fn take_task(&self, thread: usize) -> Option<u32> {
        let own = &self.shares[thread];
        own.first().or_else(|| {
            let others = self.shares[thread + 1..].iter().chain(&self.shares[..thread]);
            let taken = others.filter_map(Share::last_half).next()?;
            own.set(taken.start + 1, taken.end);
            Some(taken.start)
        })
    }

    /// Keeps further workers out of the loop and waits for those in it.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while state & JOINED != 0 {
            pause(&mut spins);
            state = self.state.load(Ordering::Acquire);
        }
    }

    /// A worker's life in the region. Its number among the threads is the same in every region; the caller is thread 0.
    fn work(&self) {
        let Some(worker) = rayon::current_thread_index() else { return };
        let thread = worker + 1;
        let mut last = 0;
        let mut spins = 0;
        while !self.over.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN == 0 || state / GENERATION == last {
                if self.idle.load(Ordering::Relaxed) || spins >= SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP {
                    self.sleep(last);
                    spins = 0;
                } else {
                    pause(&mut spins);
                }
                continue;
            }
            if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            last = state / GENERATION;
            spins = 0;
            // SAFETY: this worker is counted in the loop, so that the caller does not write the job.
            let job = unsafe { *self.job.get() };
            self.take_tasks(job, thread);
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Sleeps until there is a loop other than `last`, or the region is over.
    fn sleep(&self, last: u64) {
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            // Sequentially consistent like the stores of `run` and `dismiss` and their look at `sleepers`:
            // either this thread sees the loop, or they see the sleeper.
            let state = self.state.load(Ordering::SeqCst);
            if self.over.load(Ordering::SeqCst) || state & OPEN != 0 && state / GENERATION != last {
                break;
            }
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = lock(&self.bed);
            self.alarm.notify_all();
        }
    }

    /// Ends the region.
    fn dismiss(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake();
    }
}

/// One step of waiting: a pause at first, later a chance for other threads.
fn pause(spins: &mut u32) {
    if *spins < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
    *spins = spins.saturating_add(1);
}

/// A lock that ignores poison: nothing is left half-written under the locks here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the closure when dropped, so also when unwinding.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A mutable slice that the tasks of a loop write in parts that do not overlap.
pub(crate) struct DisjointSlice<'a, T> {
    begin: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing it gives out `&mut T` only through `range`, whose caller promises that ranges do not
// overlap; so it is as if the parts of the slice had been sent to the threads.
unsafe impl<T: Send> Sync for DisjointSlice<'_, T> {}
// SAFETY: it stands for a `&mut [T]`, which can be sent if `T` can.
unsafe impl<T: Send> Send for DisjointSlice<'_, T> {}

impl<'a, T> DisjointSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { begin: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// A part of the slice.
    ///
    /// # Panics
    /// If the range is not within the slice.
    ///
    /// # Safety
    /// While the part is in use no other part that overlaps it may be.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part outside the slice");
        // SAFETY: within the slice by the assertion, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.begin.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests;
