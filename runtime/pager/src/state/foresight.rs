//! Experts that are read before anybody asks for them.

use super::{Ahead, Expert, Residency, State};

/// For how many groups experts are foreseen, at most.
pub(crate) const MAX_LOOKAHEAD: usize = 2;
/// Ranks of a guess that are told apart; those behind count as the last one.
const RANKS: usize = 16;
/// Guesses for which one counts: one that is as many older has a third of the weight of a new one.
const WINDOW_GUESSES: f32 = 64.0;
/// Guesses of a kind that are taken to have come true before there are any.
const TRUSTED_GUESSES: f32 = 8.0;
/// Guesses are followed if at least this share of their kind came true.
const LEAST_SHARE: f32 = 2.0 / 3.0;
/// Requests for which an expert that was not in memory counts.
const WINDOW_REQUESTS: f32 = 64.0;
/// Where fewer experts a request were not in memory, guesses cost more than they gain.
const FEW_MISSING: f32 = 1.0 / 16.0;
/// After one in so many requests guesses from one group further away are wanted to see whether they would come true by now. It
/// divides few models' number of layers.
const TRIAL: u64 = 17;

/// An expert that may be asked for soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub group: u32,
    /// Its position in the catalog.
    pub position: usize,
    /// How many groups are asked for before its own.
    pub distance: usize,
    /// How many of its group are likelier for the same token.
    pub rank: usize,
}

impl Candidate {
    /// Whether both guess for the same group from the same distance.
    fn is_alike(&self, other: &Self) -> bool {
        (self.group, self.distance) == (other.group, other.distance)
    }

    /// Distance and rank, as guesses are told apart.
    fn kind(&self) -> [usize; 2] {
        [self.distance, self.rank.min(RANKS - 1)]
    }
}

/// How often guesses came true of late, and how much there is to gain.
#[derive(Debug)]
pub(super) struct Foresight {
    /// By distance and rank.
    shares: [[Share; RANKS]; MAX_LOOKAHEAD],
    /// Guesses whose group has not been asked for yet.
    open: Vec<Candidate>,
    /// Experts that had to be read, ahead or not; older ones count less.
    missing: f32,
    requests: u64,
}

impl Default for Foresight {
    /// As if one expert of each request had had to be read, and guesses had come true.
    fn default() -> Self {
        Self { shares: Default::default(), open: Vec::new(), missing: WINDOW_REQUESTS, requests: 0 }
    }
}

/// How many guesses of a kind came true, of experts that were not in memory; older ones count less.
#[derive(Debug, Clone, Copy)]
struct Share {
    guesses: f32,
    came_true: f32,
    /// Whether there has been any.
    is_seen: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self { guesses: TRUSTED_GUESSES, came_true: TRUSTED_GUESSES, is_seen: false }
    }
}

impl Share {
    fn count(&mut self, came_true: bool) {
        for total in [&mut self.guesses, &mut self.came_true] {
            *total *= 1.0 - 1.0 / WINDOW_GUESSES;
        }
        self.is_seen = true;
        self.guesses += 1.0;
        self.came_true += f32::from(u8::from(came_true));
    }

    fn is_enough(&self) -> bool {
        self.came_true >= LEAST_SHARE * self.guesses
    }
}

impl Foresight {
    /// Notes that a group is asked for. `is_asked`: whether the request names the expert at a position.
    pub(super) fn asked(&mut self, group: u32, is_asked: impl Fn(usize) -> bool) {
        self.requests += 1;
        self.missing *= 1.0 - 1.0 / WINDOW_REQUESTS;
        let shares = &mut self.shares;
        self.open.retain(|guess| {
            let other = guess.group != group;
            if !other {
                let [distance, rank] = guess.kind();
                shares[distance][rank].count(is_asked(guess.position));
            }
            other
        });
    }

    /// Notes guesses, of experts that are not in memory, in place of earlier ones of the same groups from as far away.
    fn guessed(&mut self, guesses: &[Candidate]) {
        self.open.retain(|open| !guesses.iter().any(|guess| guess.is_alike(open)));
        self.open.extend_from_slice(guesses);
    }

    /// Notes that an expert has to be read that somebody waits for.
    pub(super) fn missed(&mut self) {
        self.missing += 1.0;
    }

    fn is_worth_reading(&self, guess: &Candidate) -> bool {
        let [distance, rank] = guess.kind();
        self.shares[distance][rank].is_enough()
    }

    /// For how many of the next groups guesses are wanted. From one that is further away more may come true than from a nearer one, whose
    /// are of what was not read for those.
    pub(super) fn depth(&self) -> usize {
        if self.missing < FEW_MISSING * WINDOW_REQUESTS {
            return 0;
        }
        let good = |shares: &&[Share; RANKS]| {
            let mut seen = shares.iter().filter(|share| share.is_seen).peekable();
            seen.peek().is_none() || seen.any(Share::is_enough)
        };
        let trial = usize::from(self.requests.is_multiple_of(TRIAL));
        let farthest = self.shares.iter().rposition(|shares| good(&shares));
        (farthest.map_or(0, |farthest| farthest + 1) + trial).min(MAX_LOOKAHEAD)
    }
}

impl State {
    /// Notes that a slot is asked for. Whether it was read ahead and nobody had asked for it before.
    pub(super) fn was_read_ahead(&mut self, slot: usize) -> bool {
        let ahead = self.slots[slot].ahead.take();
        match ahead {
            Some(Ahead::Foreseen) => self.counters.foreseen_used += 1,
            Some(Ahead::Recalled) => self.counters.recalled_used += 1,
            None => {}
        }
        ahead.is_some()
    }

    /// For how many of the next groups guesses are wanted: none where nearly all that was asked for of late was in memory, and not
    /// those that don't come true.
    pub fn lookahead(&self) -> usize {
        self.foresight.depth()
    }

    /// Lets experts that may be asked for soon be read while nothing else is, the first ones first, if such guesses came true before.
    /// None of them, and nothing that is in use, gives up its slot for that.
    pub fn foresee(&mut self, guesses: &[Candidate]) {
        if self.is_starving() {
            return;
        }
        self.serial += 1;
        self.guessed_by = Some(self.serial);
        for guess in guesses {
            self.experts[guess.position].named_by = self.serial;
        }
        let is_absent = |guess: &&Candidate| self.experts[guess.position].residency == Residency::Absent;
        let absent: Vec<Candidate> = guesses.iter().filter(is_absent).copied().collect();
        self.foresight.guessed(&absent);
        for guess in absent {
            // It may be named twice.
            let is_absent = self.experts[guess.position].residency == Residency::Absent;
            if !is_absent || !self.foresight.is_worth_reading(&guess) {
                continue;
            }
            let Some(slot) = self.spare_slot() else { return };
            self.begin_ahead(guess.position, slot, Ahead::Foreseen);
        }
    }

    /// A slot for an expert that nobody has asked for.
    fn spare_slot(&mut self) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.victim(None, false)?;
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
                self.foresight.missing += 1.0;
            }
            Ahead::Recalled => self.counters.recalled += 1,
        }
        let entry = &mut self.slots[slot];
        entry.take(position);
        (entry.owner, entry.ahead) = (0, Some(why));
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
                self.foresight.missing = (self.foresight.missing - 1.0).max(0.0);
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
        guess_as(state, expert, 0, 0)
    }

    fn guess_as(state: &mut State, position: usize, distance: usize, rank: usize) -> Option<usize> {
        state.foresee(&[Candidate { group: 0, position, distance, rank }]);
        let (slot, _) = state.next_start()?;
        state.queued(slot, PIECES);
        Some(slot)
    }

    fn read(state: &mut State, slot: usize) {
        (0..PIECES).for_each(|_| state.piece_ended(slot, Ok(())));
    }

    /// Asks for an expert, reads it if need be, and gives it back.
    fn use_once(state: &mut State, expert: usize) {
        let id = ask(state, expert);
        if let Residency::Loading(slot) = state.experts[expert].residency {
            read(state, slot);
        }
        let Next::Ready(batch) = state.next(id) else { panic!("it is there") };
        let thread = std::thread::current().id();
        batch.iter().for_each(|one| state.unpin(one.slot, thread));
        state.release(id);
    }

    #[test]
    fn guesses_are_followed_by_what_became_of_those_of_their_distance_and_rank() {
        let mut state = state(1000, 8);
        let mut experts = 0..1000;
        let (mut next, mut last_followed) = (|| experts.next().unwrap(), [0; 3]);
        for round in 0..100 {
            for (kind, [distance, rank]) in [[0, 0], [0, 1], [1, 1]].into_iter().enumerate() {
                let expert = next();
                if let Some(slot) = guess_as(&mut state, expert, distance, rank) {
                    read(&mut state, slot);
                    last_followed[kind] = round;
                }
                use_once(&mut state, if kind == 0 { expert } else { next() });
            }
        }
        assert_eq!(last_followed[0], 99, "all of these came true");
        assert!(
            (1..=8).contains(&last_followed[1]) && (1..=8).contains(&last_followed[2]),
            "{last_followed:?}"
        );
        assert_eq!(state.foresight.depth(), 1 + usize::from(state.foresight.requests.is_multiple_of(TRIAL)));
        for _ in 0..200 {
            let expert = next();
            guess_as(&mut state, expert, 1, 1);
            use_once(&mut state, expert);
        }
        let expert = next();
        assert!(guess_as(&mut state, expert, 1, 1).is_some(), "they came true for long enough");
    }

    #[test]
    fn a_group_further_away_is_foreseen_though_guesses_for_the_next_do_not_come_true() {
        let mut state = state(1000, 8);
        for expert in (0..200).step_by(2) {
            guess_as(&mut state, expert, 0, 0);
            guess_as(&mut state, expert + 1, 1, 0);
            use_once(&mut state, expert + 1);
        }
        assert_eq!(state.lookahead(), 2);
        assert_eq!(guess_as(&mut state, 500, 0, 0), None);
        assert!(guess_as(&mut state, 501, 1, 0).is_some());
    }

    #[test]
    fn what_is_named_twice_gets_one_slot() {
        let mut state = state(20, 10);
        let twice = [0, 1].map(|distance| Candidate { group: 0, position: 3, distance, rank: 0 });
        state.foresee(&twice);
        assert_eq!((state.counters.foreseen, state.free.len()), (1, 9));
    }

    #[test]
    fn requests_take_the_slots_of_guesses_last() {
        let mut state = state(20, 3);
        use_once(&mut state, 1);
        use_once(&mut state, 2);
        let slot = guess(&mut state, 9).unwrap();
        read(&mut state, slot);
        // By the policy it would go third, and then first.
        for expert in 3..7 {
            use_once(&mut state, expert);
            assert_eq!(state.experts[9].residency, Residency::Resident(slot), "when {expert} was asked for");
        }
        let ids: Vec<RequestId> = (10..13).map(|expert| ask(&mut state, expert)).collect();
        assert_eq!(state.experts[9].residency, Residency::Absent, "there was no other");
        ids.into_iter().for_each(|id| state.release(id));
    }

    #[test]
    fn none_are_wanted_where_nearly_everything_is_in_memory() {
        let mut state = state(20, 10);
        assert_eq!(state.lookahead(), 2);
        for _ in 0..5 * WINDOW_REQUESTS as usize {
            use_once(&mut state, 3);
        }
        assert_eq!(state.lookahead(), 0);
        (4..12).for_each(|expert| use_once(&mut state, expert));
        assert_eq!(state.lookahead(), 2);
    }

    #[test]
    fn a_guess_that_is_forgotten_is_not_counted() {
        let mut state = state(20, 10);
        let before = state.foresight.missing;
        let slot = guess(&mut state, 3).unwrap();
        assert!(state.forget(slot, PIECES));
        assert_eq!((state.counters.foreseen, state.counters.record_bytes), (0, 0));
        assert_eq!(state.foresight.missing, before);
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
