//! What a pager would have found on a recorded trace, with another number of slots, by another policy, or knowing the future.

use std::collections::{BTreeSet, VecDeque};

use crate::catalog::{Catalog, ExpertKey};
use crate::counters::Counters;
use crate::error::PagerError;
use crate::eviction::Eviction;
use crate::state::{Ask, Next, State};
use crate::trace::{Asked, Phase, Trace};

/// Counters of a trace, by what its requests were for. Times, read calls and the bytes that these returned are 0: they depend on
/// the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of prompts.
    pub prompt: Counters,
    /// Of answers.
    pub decode: Counters,
}

impl Outcome {
    /// Of both.
    pub fn all(&self) -> Counters {
        let mut all = self.prompt;
        all += self.decode;
        all
    }

    fn of(&mut self, phase: Phase) -> &mut Counters {
        match phase {
            Phase::Prompt => &mut self.prompt,
            Phase::Decode => &mut self.decode,
        }
    }
}

/// Plays a trace through the bookkeeping of a pager with so many slots (at most one for each expert, at least one), in which every
/// read ends at once. The counters are those that the pager has, but for what was rewritten, whichever read ends first there: see
/// [`Pager::record`](crate::Pager::record) for what that takes. Where all experts have a slot, they are read before, as
/// [`Pager::warm`](crate::Pager::warm) does. Errors: records that can't exist.
pub fn simulate(trace: &Trace, slots: usize, eviction: Box<dyn Eviction>) -> Result<Outcome, PagerError> {
    let mut outcome = Outcome::default();
    simulate_each(trace, slots, eviction, &mut |asked, counters| *outcome.of(asked.phase) += counters)?;
    Ok(outcome)
}

/// The same, with the counters of each request to itself.
pub fn simulate_each(
    trace: &Trace,
    slots: usize,
    eviction: Box<dyn Eviction>,
    served: &mut dyn FnMut(&Asked<'_>, Counters),
) -> Result<(), PagerError> {
    let catalog = trace.header().catalog()?;
    let slots = slots.clamp(1, catalog.experts().max(1));
    let mut state = State::new(&catalog, slots, eviction);
    if slots >= catalog.experts() {
        warm(&mut state, &catalog)?;
    }
    let mut before = state.counters;
    for asked in trace.requests() {
        let start = catalog.position(ExpertKey { group: asked.group, index: 0 }).unwrap_or(0);
        let wanted = asked.experts.iter().map(|&(at, uses)| (start + at as usize, uses));
        serve(&mut state, asked.group, asked.rows, true, wanted)?;
        served(&asked, state.counters - before);
        before = state.counters;
    }
    Ok(())
}

fn warm(state: &mut State, catalog: &Catalog) -> Result<(), PagerError> {
    let mut start = 0;
    for (group, records) in catalog.groups().iter().enumerate() {
        let all = (start..start + records.len()).map(|at| (at, 1));
        serve(state, group as u32, 1, false, all)?;
        start += records.len();
    }
    Ok(())
}

/// Serves one request to its end, giving back each expert as it comes.
fn serve(
    state: &mut State,
    group: u32,
    rows: u32,
    counted: bool,
    wanted: impl Iterator<Item = (usize, u32)> + Clone,
) -> Result<(), PagerError> {
    let thread = std::thread::current().id();
    let ask = Ask { thread, group, rows, counted, wanted };
    let id =
        state.submit(ask).map_err(|ExpertKey { group, index }| PagerError::Duplicate { group, index })?;
    loop {
        state.schedule();
        while let Some((slot, _)) = state.next_start() {
            state.queued(slot, 1);
            state.piece_ended(slot, Ok(()));
        }
        match state.next(id) {
            Next::Ready(batch) => batch.iter().for_each(|one| state.unpin(one.slot, thread)),
            Next::Wait | Next::Reschedule => {}
            Next::Done => break,
            Next::Failed(error) => return Err(error),
        }
    }
    state.release(id);
    Ok(())
}

/// The most hits that any choice of victims reaches with so many slots (Belady's optimum): who must give up a slot is the expert
/// whose next request is farthest away. As in a pager, an expert that is asked for must be in memory, and one that the
/// request under way asks for gives up its slot only where no other is left. Where requests name more experts than there are slots
/// another choice can have a few hits more; and the optimum is that of all requests, of which a part can have fewer than by
/// another choice. Error: records that can't exist.
pub fn optimum(trace: &Trace, slots: usize) -> Result<Outcome, PagerError> {
    let catalog = trace.header().catalog()?;
    let mut future = Future::of(trace, &catalog);
    let mut outcome = Outcome::default();
    let mut memory = Memory {
        slots: slots.clamp(1, catalog.experts().max(1)),
        resident: vec![None; catalog.experts()],
        others: BTreeSet::new(),
        own: VecDeque::new(),
    };
    if memory.slots >= catalog.experts() {
        memory.others = (0..catalog.experts()).map(|expert| (usize::MAX, expert)).collect();
        memory.resident.fill(Some(usize::MAX));
    }
    for (asked, next) in trace.requests().zip(&mut future.next) {
        let counters = outcome.of(asked.phase);
        memory.serve(&asked, next, &catalog, counters);
    }
    Ok(outcome)
}

/// When experts are needed again.
struct Future {
    /// For each request, for each of its experts, the number of the next request for it; the largest number if there is none.
    next: Vec<Vec<usize>>,
}

impl Future {
    fn of(trace: &Trace, catalog: &Catalog) -> Self {
        let requests: Vec<Asked<'_>> = trace.requests().collect();
        let mut upcoming = vec![usize::MAX; catalog.experts()];
        let mut next: Vec<Vec<usize>> = Vec::with_capacity(requests.len());
        for (number, asked) in requests.iter().enumerate().rev() {
            let positions = Trace::keys(asked).filter_map(|key| catalog.position(key));
            next.push(positions.map(|at| std::mem::replace(&mut upcoming[at], number)).collect());
        }
        next.reverse();
        Self { next }
    }
}

/// What the optimum has in memory.
struct Memory {
    slots: usize,
    /// For each expert that is in memory, when it is needed next.
    resident: Vec<Option<usize>>,
    /// Those that the request under way does not ask for: when they are needed next, and which.
    others: BTreeSet<(usize, usize)>,
    /// Those that it asks for.
    own: VecDeque<usize>,
}

impl Memory {
    fn serve(&mut self, asked: &Asked<'_>, next: &[usize], catalog: &Catalog, counters: &mut Counters) {
        let wanted =
            || Trace::keys(asked).filter_map(|key| catalog.position(key).map(|at| (at, key))).zip(next);
        counters.batches += 1;
        counters.requests += asked.experts.len() as u64;
        let there: Vec<bool> = wanted().map(|((at, _), _)| self.resident[at].is_some()).collect();
        for (((at, _), &next), _) in wanted().zip(&there).filter(|(_, there)| **there) {
            counters.hits += 1;
            let before = self.resident[at].replace(next).unwrap_or(usize::MAX);
            self.others.remove(&(before, at));
            self.own.push_back(at);
        }
        for (((at, key), &next), _) in wanted().zip(&there).filter(|(_, there)| !**there) {
            counters.misses += 1;
            counters.record_bytes += catalog.record(key).bytes();
            if self.others.len() + self.own.len() == self.slots {
                let farthest = self.others.pop_last().map(|(_, at)| at).or_else(|| self.own.pop_front());
                farthest.into_iter().for_each(|at| self.resident[at] = None);
                counters.evictions += 1;
            }
            self.resident[at] = Some(next);
            self.own.push_back(at);
        }
        for at in self.own.drain(..) {
            self.others.insert((self.resident[at].unwrap_or(usize::MAX), at));
        }
    }
}
