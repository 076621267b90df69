//! Asking for experts, and holding them.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::ThreadId;

use crate::arena::SlotReader;
use crate::catalog::{Catalog, ExpertKey};
use crate::error::PagerError;
use crate::shared::Shared;
use crate::state::{Ask, Candidate, RequestId};

/// Slots that became ready together.
pub(crate) type Batch = Vec<Delivered>;

/// A slot that is pinned for a caller, and what is in it.
pub(crate) struct Delivered {
    pub slot: usize,
    pub key: ExpertKey,
    /// How often it was delivered since it was read, this time included.
    pub uses: u32,
    /// Whether its bytes were rewritten since.
    pub rewritten: bool,
}

/// Some experts of one group, delivered as they are in memory. Made by
/// [`Pager::request`](crate::Pager::request).
///
/// It stays with the thread that made it, because the promise that prevents deadlocks is a thread's. Leases
/// may go to other threads. Dropping a request gives back what was not delivered; reads under way still end
/// and leave their experts resident.
pub struct Request<'p> {
    shared: &'p Shared,
    thread: ThreadId,
    /// `None` if the request was refused.
    id: Option<RequestId>,
    refusal: Option<PagerError>,
    stays_with_its_thread: PhantomData<*const ()>,
}

/// Experts of one group that a pass needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Layer.
    pub group: u32,
    /// Experts of the group, each named once, in the order in which they are to be read.
    pub experts: &'a [u32],
    /// Tokens of the pass.
    pub rows: u32,
    /// How many of those tokens use each expert, in the order of `experts`; 1 where an entry is missing. What is kept in memory
    /// follows from it, never a result.
    pub uses: &'a [u32],
}

impl<'a> Wanted<'a> {
    /// Experts for one token.
    pub fn of_token(group: u32, experts: &'a [u32]) -> Self {
        Self { group, experts, rows: 1, uses: &[] }
    }
}

/// Experts of one group that the tokens of a pass may need, of each token as many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// Layer.
    pub group: u32,
    /// [tokens, `top_k`], the likeliest of each token first.
    pub experts: Vec<u32>,
    /// Experts of a token; 0 is no guess.
    pub top_k: usize,
}

impl Guess {
    /// Its experts, each once, the likeliest of all tokens first. `distance`: how many groups are asked for before this one.
    pub(crate) fn candidates(&self, catalog: &Catalog, distance: usize) -> Vec<Candidate> {
        let Self { group, ref experts, top_k } = *self;
        let mut candidates: Vec<Candidate> = Vec::with_capacity(experts.len());
        for rank in 0..top_k {
            for &index in experts.iter().skip(rank).step_by(top_k) {
                let Some(position) = catalog.position(ExpertKey { group, index }) else { continue };
                if candidates.iter().all(|other| other.position != position) {
                    candidates.push(Candidate { group, position, distance, rank });
                }
            }
        }
        candidates
    }
}

/// Experts that are in memory now; at least one.
pub struct Ready<'p> {
    /// In the order of the request for those that were resident, in order of arrival for the others.
    pub leases: Vec<Lease<'p>>,
}

/// An expert in memory. It stays there, and changes by [`Lease::rewrite`] alone, until the lease is dropped.
pub struct Lease<'p> {
    key: ExpertKey,
    catalog: &'p Catalog,
    // Fields are dropped in this order: the slot must have no reader when it stops being pinned.
    slot: SlotReader<'p>,
    pin: Pin<'p>,
    uses: u32,
    rewritten: bool,
}

/// Keeps a slot from being evicted.
struct Pin<'p> {
    shared: &'p Shared,
    slot: usize,
    thread: ThreadId,
}

impl<'p> Request<'p> {
    pub(crate) fn new(shared: &'p Shared, wanted: &Wanted<'_>, counted: bool) -> Self {
        let thread = std::thread::current().id();
        let (group, rows) = (wanted.group, wanted.rows);
        let submitted = positions(shared, wanted).and_then(|wanted| {
            let duplicate = |key: ExpertKey| PagerError::Duplicate { group: key.group, index: key.index };
            let ask = Ask { thread, group, rows, counted, wanted };
            shared.update(|state| state.submit(ask)).map_err(duplicate)
        });
        let (id, refusal) = match submitted {
            Ok(id) => (Some(id), None),
            Err(error) => (None, Some(error)),
        };
        Self { shared, thread, id, refusal, stays_with_its_thread: PhantomData }
    }

    /// Whether [`Request::next_ready`] would return at once: with an expert, an error, or the end.
    pub fn is_ready(&self) -> bool {
        self.id.is_none_or(|id| !self.shared.view(|state| state.must_wait(id)))
    }

    /// Whether experts of the request have no slot yet: it names more than the slots that it can have at once.
    pub fn lacks_slots(&self) -> bool {
        self.id.is_some_and(|id| self.shared.view(|state| state.lacks_slots(id)))
    }

    /// Blocks until at least one more expert is in memory; `None` when all were delivered. Experts that were
    /// resident come first and at once, the others as they arrive.
    ///
    /// Drop the leases of a batch before asking for the next: a request may name more experts than there are
    /// slots, and each lease dropped lets one more read begin.
    ///
    /// Errors: [`PagerError::NoSuchExpert`] and [`PagerError::Duplicate`] on the first call, nothing was
    /// asked for then; [`PagerError::Truncated`] and [`PagerError::Read`] once for each expert that could
    /// not be read, the others can still be had; [`PagerError::SlotsHeld`] if this thread keeps slots and
    /// no other can be had, call again after dropping leases.
    pub fn next_ready(&mut self) -> Result<Option<Ready<'p>>, PagerError> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let Some(id) = self.id else { return Ok(None) };
        let Some(batch) = self.shared.wait(id)? else { return Ok(None) };
        let pins: Vec<_> = batch
            .into_iter()
            .map(|one| (Pin { shared: self.shared, slot: one.slot, thread: self.thread }, one))
            .collect();
        let leases = pins.into_iter().map(|(pin, one)| Lease::new(pin, &one)).collect::<Result<_, _>>()?;
        Ok(Some(Ready { leases }))
    }
}

/// The places of the wanted experts in the catalog, and how many tokens use each.
fn positions<'a>(
    shared: &Shared,
    wanted: &Wanted<'a>,
) -> Result<impl Iterator<Item = (usize, u32)> + Clone + 'a, PagerError> {
    let Wanted { group, experts, uses, .. } = *wanted;
    let position = |index| shared.catalog.position(ExpertKey { group, index });
    if let Some(&index) = experts.iter().find(|&&index| position(index).is_none()) {
        return Err(PagerError::NoSuchExpert { group, index });
    }
    // All indices are within the group, so its first position exists if any is wanted.
    let start = position(0).unwrap_or(0);
    let uses = uses.iter().copied().chain(std::iter::repeat(1));
    Ok(experts.iter().map(move |&index| start + index as usize).zip(uses))
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.update(|state| state.release(id));
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.shared.update(|state| state.unpin(self.slot, self.thread));
    }
}

impl<'p> Lease<'p> {
    fn new(pin: Pin<'p>, delivered: &Delivered) -> Result<Self, PagerError> {
        let Delivered { slot, key, uses, rewritten } = *delivered;
        let reader = pin.shared.arena.read(slot).ok_or(PagerError::SlotBusy { slot })?;
        Ok(Self { key, catalog: &pin.shared.catalog, slot: reader, pin, uses, rewritten })
    }

    /// How often the expert was delivered since it was read, this time included.
    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// Whether its parts are what [`Lease::rewrite`] made of them, not what was read.
    pub fn is_rewritten(&self) -> bool {
        self.rewritten
    }

    /// Changes the parts of an expert where they are in memory, once and for as long as it stays there. Does nothing if it was rewritten
    /// before, or if others have it too or are promised it. Whoever asks for it meanwhile waits, so that `change` must not wait for
    /// experts.
    ///
    /// # Panics
    /// If `change` does. The expert is no longer in memory then, and whoever waited for it gets [`PagerError::Recode`].
    ///
    /// # Errors
    /// [`PagerError::SlotBusy`], a mistake of the pager.
    pub fn rewrite(self, change: impl FnOnce(&mut [&mut [u8]])) -> Result<Self, PagerError> {
        let Self { key, catalog, .. } = self;
        let (shared, number) = (self.pin.shared, self.pin.slot);
        let places: Vec<_> = (0..).map_while(|part| catalog.part(key, part)).collect();
        if !shared.update(|state| state.begin_rewrite(number)) {
            return Ok(self);
        }
        let Self { slot, pin, uses, .. } = self;
        drop(slot);
        let written =
            shared.arena.write(number).and_then(|mut slot| slot.piece(0..shared.arena.slot_bytes()));
        let Some(mut slot) = written else {
            let busy = PagerError::SlotBusy { slot: number };
            shared.update(|state| state.rewritten(number, Err(busy.clone())));
            return Err(busy);
        };
        let changed = catch_unwind(AssertUnwindSafe(|| change(&mut slot.parts_mut(&places))));
        drop(slot);
        let result = changed.as_ref().map(drop).map_err(|_| PagerError::panicked(key));
        shared.update(|state| state.rewritten(number, result));
        if let Err(panic) = changed {
            resume_unwind(panic);
        }
        Self::new(pin, &Delivered { slot: number, key, uses, rewritten: true })
    }

    /// Which expert this is, and of which group.
    pub fn key(&self) -> ExpertKey {
        self.key
    }

    /// Which expert of the request's group this is.
    pub fn index(&self) -> u32 {
        self.key.index
    }

    /// Bytes of one part of the record: exactly those of its range in the file unless it was rewritten, which begin at the same offset
    /// within a block of 4096 bytes as in the file and have no other alignment; or of the part that was made of them, where
    /// experts are recoded.
    ///
    /// # Panics
    ///
    /// If the record has no such part.
    pub fn part(&self, part: usize) -> &[u8] {
        match self.catalog.part(self.key, part) {
            Some(place) => &self.slot.bytes()[place],
            None => panic!("the record has no part {part}"),
        }
    }

    /// The parts in the order of the record.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|part| self.catalog.part(self.key, part)).map(|place| &self.slot.bytes()[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ByteRange, Record};

    #[test]
    fn the_likeliest_experts_of_all_tokens_come_first_and_each_once() {
        let record = |at: u64| Record { parts: vec![ByteRange { file: 0, offset: 9 * at, bytes: 9 }] };
        let catalog = Catalog::new(vec![(0..4).map(record).collect(), (4..9).map(record).collect()]).unwrap();
        let guess = Guess { group: 1, experts: vec![3, 0, 2, 0, 3, 1], top_k: 3 };
        let candidates = guess.candidates(&catalog, 1);
        let found: Vec<_> = candidates.iter().map(|found| (found.position - 4, found.rank)).collect();
        assert_eq!(found, [(3, 0), (0, 0), (2, 2), (1, 2)]);
        assert!(candidates.iter().all(|found| (found.group, found.distance) == (1, 1)));
        let unknown = Guess { group: 1, experts: vec![9, 4], top_k: 2 };
        assert_eq!(unknown.candidates(&catalog, 0).len(), 1);
        assert!(Guess { group: 1, experts: Vec::new(), top_k: 0 }.candidates(&catalog, 0).is_empty());
    }
}
