//! Experts that are read before anybody asks for them.

use super::{Ahead, Expert, Residency, State};

/// Experts that were read ahead until it is asked whether that pays.
const TRIAL: u32 = 96;
/// Of these, one in so many must have been asked for.
const LEAST_SHARE: u32 = 2;
/// Occasions to foresee that are let pass after a trial that did not pay.
const PAUSE: u32 = 2048;

/// How often what was foreseen came true of late.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    /// Experts that were read ahead.
    begun: u32,
    /// Of these, how many were asked for.
    used: u32,
    /// Occasions that are still let pass.
    pause: u32,
}

impl Foresight {
    /// Whether to read ahead on this occasion.
    fn is_worth_it(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        if self.begun >= TRIAL {
            if self.used * LEAST_SHARE < self.begun {
                *self = Self { pause: PAUSE, ..Self::default() };
                return false;
            }
            (self.begun, self.used) = (self.begun / 2, self.used / 2);
        }
        true
    }
}

impl State {
    /// Notes that a slot is asked for. Whether it was read ahead and nobody had asked for it before.
    pub(super) fn was_read_ahead(&mut self, slot: usize) -> bool {
        let ahead = self.slots[slot].ahead.take();
        match ahead {
            Some(Ahead::Foreseen) => {
                self.counters.foreseen_used += 1;
                self.foresight.used += 1;
            }
            Some(Ahead::Recalled) => self.counters.recalled_used += 1,
            None => {}
        }
        ahead.is_some()
    }

    /// Lets experts that may be asked for soon be read while nothing else is, the first ones first; they are given by position.
    /// None of them, and nothing that is in use, gives up its slot for that. What was foreseen before and did not come true
    /// counts against further foresight.
    pub fn foresee(&mut self, positions: impl Iterator<Item = usize> + Clone) {
        if self.is_starving() || !self.foresight.is_worth_it() {
            return;
        }
        self.serial += 1;
        for position in positions.clone() {
            self.experts[position].named_by = self.serial;
        }
        for position in positions {
            if self.experts[position].residency != Residency::Absent {
                continue;
            }
            let Some(slot) = self.spare_slot() else { return };
            self.begin_ahead(position, slot, Ahead::Foreseen);
        }
    }

    /// A slot for an expert that nobody has asked for.
    fn spare_slot(&mut self) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let (slots, experts, serial) = (&self.slots, &self.experts, self.serial);
        let evictable = |slot: usize| {
            slots.get(slot).is_some_and(|slot| {
                slot.pins == 0 && slot.pieces_left == 0 && experts[slot.expert].named_by != serial
            })
        };
        let slot = self.eviction.victim(&evictable).filter(|&slot| evictable(slot))?;
        self.give_up(slot);
        Some(slot)
    }

    pub(super) fn begin_ahead(&mut self, position: usize, slot: usize, why: Ahead) {
        let Expert { key, bytes, .. } = self.experts[position];
        self.experts[position].residency = Residency::Loading(slot);
        self.eviction.admitted(slot, key);
        self.counters.record_bytes += bytes;
        match why {
            Ahead::Foreseen => {
                self.counters.foreseen += 1;
                self.foresight.begun += 1;
            }
            Ahead::Recalled => self.counters.recalled += 1,
        }
        let entry = &mut self.slots[slot];
        (entry.expert, entry.pieces_left, entry.owner, entry.ahead) = (position, 1, 0, Some(why));
        self.starts.push_back(slot);
    }

    /// Takes back an expert that is read ahead, of which `queued` reads have not begun, if these are all and nobody waits for it.
    pub fn forget(&mut self, slot: usize, queued: usize) -> bool {
        let entry = &mut self.slots[slot];
        let Some(why) = entry.ahead.filter(|_| entry.pieces == queued && entry.pieces_left == queued) else {
            return false;
        };
        (entry.ahead, entry.pieces_left) = (None, 0);
        let position = entry.expert;
        let expert = &mut self.experts[position];
        expert.residency = Residency::Absent;
        self.counters.record_bytes -= expert.bytes;
        match why {
            Ahead::Foreseen => {
                self.counters.foreseen -= 1;
                // It may have begun in an earlier trial.
                self.foresight.begun = self.foresight.begun.saturating_sub(1);
            }
            Ahead::Recalled => {
                self.counters.recalled -= 1;
                self.recalled.push(position);
            }
        }
        self.eviction.removed(slot);
        self.free.push(slot);
        true
    }

    /// Slots that were read ahead and that somebody waits for since the last call.
    pub fn take_urgent(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.urgent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ByteRange, Catalog, Record};
    use crate::eviction::EvictionPolicy;
    use crate::state::{Ask, Next, RequestId};

    /// Reads of each expert.
    const PIECES: usize = 3;

    fn state(experts: usize, slots: usize) -> State {
        let record =
            |at: usize| Record { parts: vec![ByteRange { file: 0, offset: 9 * at as u64, bytes: 9 }] };
        let catalog = Catalog::new(vec![(0..experts).map(record).collect()]).unwrap();
        State::new(&catalog, slots, EvictionPolicy::Lru.start())
    }

    fn ask(state: &mut State, expert: usize) -> RequestId {
        let thread = std::thread::current().id();
        let wanted = std::iter::once((expert, 1));
        let Ok(id) = state.submit(Ask { thread, group: 0, rows: 1, counted: true, wanted }) else {
            panic!("named once")
        };
        state.schedule();
        while let Some((slot, _)) = state.next_start() {
            state.queued(slot, PIECES);
        }
        id
    }

    /// Foresees an expert. The slot that it is to be read to.
    fn guess(state: &mut State, expert: usize) -> Option<usize> {
        state.foresee(std::iter::once(expert));
        let (slot, _) = state.next_start()?;
        state.queued(slot, PIECES);
        Some(slot)
    }

    fn read(state: &mut State, slot: usize) {
        (0..PIECES).for_each(|_| state.piece_ended(slot, Ok(())));
    }

    #[test]
    fn a_guess_may_be_forgotten_after_its_trial() {
        let mut state = state(200, 150);
        let late = guess(&mut state, 0).unwrap();
        for expert in 1..TRIAL as usize {
            let slot = guess(&mut state, expert).unwrap();
            read(&mut state, slot);
        }
        assert_eq!(guess(&mut state, 150), None, "none of them came true");
        assert!(state.forget(late, PIECES));
        assert_eq!(state.counters.foreseen, u64::from(TRIAL) - 1);
        assert_eq!(state.counters.record_bytes, 9 * (u64::from(TRIAL) - 1));
    }

    #[test]
    fn what_was_read_in_part_is_kept() {
        let mut state = state(20, 10);
        let slot = guess(&mut state, 3).unwrap();
        state.piece_ended(slot, Ok(()));
        assert!(!state.forget(slot, PIECES - 1));
        let other = guess(&mut state, 4).unwrap();
        assert!(state.forget(other, PIECES));
        assert!(guess(&mut state, 4).is_some(), "it has no slot any more");
    }

    #[test]
    fn who_keeps_slots_waits_for_those_of_guesses() {
        let mut state = state(20, 2);
        let first = ask(&mut state, 0);
        read(&mut state, 0);
        assert!(matches!(state.next(first), Next::Ready(_)));
        let slot = guess(&mut state, 5).unwrap();
        let second = ask(&mut state, 6);
        assert!(matches!(state.next(second), Next::Wait), "the read ahead ends by itself");
        read(&mut state, slot);
        state.schedule();
        assert_eq!(state.next_start().map(|(slot, _)| slot), Some(slot));
    }

    #[test]
    fn guesses_take_nothing_from_requests_that_lack_slots() {
        let mut state = state(20, 1);
        let first = ask(&mut state, 0);
        read(&mut state, 0);
        assert!(matches!(state.next(first), Next::Ready(_)));
        ask(&mut state, 1);
        assert!(state.is_starving());
        state.unpin(0, std::thread::current().id());
        assert_eq!(guess(&mut state, 9), None);
    }
}
