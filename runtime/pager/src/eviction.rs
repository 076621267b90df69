//! Which expert gives up its slot.

use crate::catalog::ExpertKey;
use crate::usage::GroupUsage;

mod frequency;

pub use frequency::Frequency;

/// Chooses the slot to be reused. It hears of every use of a slot, in the order of the experts in each
/// request (first those that are resident, then those that are read), so that its choices do not depend on
/// which read ends first.
///
/// Called with the pager's lock held: every method should take constant time, or nearly.
pub trait Eviction: Send {
    /// Called once, before any other: slots are numbered from 0 to `slots - 1`; `experts` has the number of experts in each
    /// group.
    fn prepare(&mut self, slots: usize, experts: &[usize]);
    /// How often earlier runs used the experts of a group, which is a guess; called before anything is admitted. Whether the policy
    /// makes use of it: others would take what is read for that reason for what was used longest ago.
    fn expect(&mut self, _group: u32, _usage: &GroupUsage) -> bool {
        false
    }
    /// A request for experts of a group begins, for a pass of so many tokens. It is followed by [`Eviction::asked`] for each.
    fn turn(&mut self, _group: u32, _rows: u32) {}
    /// The request names an expert, whether it has a slot or not, that so many of its tokens use. If it has a slot,
    /// [`Eviction::touched`] follows at once.
    fn asked(&mut self, _key: ExpertKey, _uses: u32) {}
    /// `slot` was given to `key` and its read begins.
    fn admitted(&mut self, slot: usize, key: ExpertKey);
    /// A request named `key`, which has `slot` already.
    fn touched(&mut self, slot: usize, key: ExpertKey);
    /// `slot` holds nothing any more: it was chosen by [`Eviction::victim`], or its read failed, or
    /// it was lost as it was rewritten.
    fn removed(&mut self, slot: usize);
    /// The slot to reuse, for which `evictable` must hold, or `None` if there is no such slot. Slots that are
    /// lent out, promised to a request or being read are not evictable.
    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// The policies there are, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// [`Frequency`].
    #[default]
    Frequency,
    /// [`NextUse`].
    NextUse,
    /// [`Lru`].
    Lru,
}

impl EvictionPolicy {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Frequency, Self::NextUse, Self::Lru];

    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frequency => "frequency",
            Self::NextUse => "next-use",
            Self::Lru => "lru",
        }
    }

    /// The policy, which has seen nothing yet.
    pub fn start(self) -> Box<dyn Eviction> {
        match self {
            Self::Frequency => Box::new(Frequency::new()),
            Self::NextUse => Box::new(NextUse::new()),
            Self::Lru => Box::new(Lru::new()),
        }
    }
}

/// Slots in the order of their last use, in several lists: doubly linked through one array.
#[derive(Debug, Default)]
struct Lists {
    /// `[older, newer]` neighbours of each slot. The entries after the last slot are the ends of the lists: such
    /// an entry's newer neighbour is the oldest slot of its list, its older neighbour the newest. A slot that
    /// links to itself is in no list.
    links: Vec<[usize; 2]>,
    slots: usize,
}

const OLDER: usize = 0;
const NEWER: usize = 1;

impl Lists {
    fn new(slots: usize, lists: usize) -> Self {
        Self { links: (0..slots + lists).map(|entry| [entry, entry]).collect(), slots }
    }

    fn unlink(&mut self, slot: usize) {
        let [older, newer] = self.links[slot];
        self.links[older][NEWER] = newer;
        self.links[newer][OLDER] = older;
        self.links[slot] = [slot, slot];
    }

    fn link_newest(&mut self, list: usize, slot: usize) {
        let ends = self.slots + list;
        let newest = self.links[ends][OLDER];
        self.links[slot] = [newest, ends];
        self.links[newest][NEWER] = slot;
        self.links[ends][OLDER] = slot;
    }

    /// The oldest evictable slot of a list. What is not evictable was used by a request under way, so it is near
    /// the newest end and the walk is short.
    fn oldest(&self, list: usize, evictable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let ends = self.slots + list;
        let mut slot = self.links[ends][NEWER];
        while slot != ends {
            if evictable(slot) {
                return Some(slot);
            }
            slot = self.links[slot][NEWER];
        }
        None
    }
}

/// Evicts what was used longest ago.
#[derive(Debug, Default)]
pub struct Lru {
    lists: Lists,
}

impl Lru {
    /// An empty list; the pager tells it the number of slots.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Eviction for Lru {
    fn prepare(&mut self, slots: usize, _experts: &[usize]) {
        self.lists = Lists::new(slots, 1);
    }

    fn admitted(&mut self, slot: usize, _key: ExpertKey) {
        self.lists.link_newest(0, slot);
    }

    fn touched(&mut self, slot: usize, _key: ExpertKey) {
        self.lists.unlink(slot);
        self.lists.link_newest(0, slot);
    }

    fn removed(&mut self, slot: usize) {
        self.lists.unlink(slot);
    }

    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.lists.oldest(0, evictable)
    }
}

/// Evicts what is expected to be needed last, from the order in which a model asks: layer after layer, round
/// after round.
///
/// The next chance of an expert is its layer's next turn, and one that its layer passed over in the last n turns
/// is expected to be passed over n times more. So among experts that were used alike, those of the layer that
/// was just computed go first, since all other layers come before it. Least recently used does the opposite:
/// it evicts the layer that is about to be computed, and finds nothing at all once the experts of one token do
/// not fit.
#[derive(Debug, Default)]
pub struct NextUse {
    /// A list for each layer.
    lists: Lists,
    /// How many turns each layer has had.
    turns: Vec<u64>,
    /// The layer whose turn it is.
    current: usize,
    /// For each slot its layer, and the turn in which it was last used.
    used: Vec<(usize, u64)>,
}

impl NextUse {
    /// Empty lists; the pager tells it the number of slots and layers.
    pub fn new() -> Self {
        Self::default()
    }

    fn use_now(&mut self, slot: usize, key: ExpertKey) {
        let layer = key.group as usize;
        self.used[slot] = (layer, self.turns[layer]);
        self.lists.link_newest(layer, slot);
    }

    /// In how many layers' time a slot's expert is expected to be needed.
    fn wait(&self, slot: usize) -> u64 {
        let (layer, turn) = self.used[slot];
        let layers = self.turns.len() as u64;
        let to_next_turn = (layer + self.turns.len() - self.current - 1) as u64 % layers + 1;
        to_next_turn + layers * (self.turns[layer] - turn)
    }
}

impl Eviction for NextUse {
    fn prepare(&mut self, slots: usize, experts: &[usize]) {
        let groups = experts.len();
        *self = Self {
            lists: Lists::new(slots, groups),
            turns: vec![0; groups],
            current: 0,
            used: vec![(0, 0); slots],
        };
    }

    fn turn(&mut self, group: u32, _rows: u32) {
        self.current = group as usize;
        self.turns[self.current] += 1;
    }

    fn admitted(&mut self, slot: usize, key: ExpertKey) {
        self.use_now(slot, key);
    }

    fn touched(&mut self, slot: usize, key: ExpertKey) {
        self.lists.unlink(slot);
        self.use_now(slot, key);
    }

    fn removed(&mut self, slot: usize) {
        self.lists.unlink(slot);
    }

    /// Compares the oldest slots of all layers.
    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let oldest = (0..self.turns.len()).filter_map(|layer| self.lists.oldest(layer, evictable));
        oldest.max_by_key(|&slot| self.wait(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ExpertKey = ExpertKey { group: 0, index: 0 };

    fn order(lru: &mut Lru) -> Vec<usize> {
        let seen = std::cell::RefCell::new(Vec::new());
        let none = lru.victim(&|slot| {
            seen.borrow_mut().push(slot);
            false
        });
        assert_eq!(none, None);
        seen.into_inner()
    }

    #[test]
    fn the_oldest_evictable_slot_goes_first() {
        let mut lru = Lru::new();
        lru.prepare(4, &[4]);
        assert_eq!(lru.victim(&|_| true), None);
        (0..4).for_each(|slot| lru.admitted(slot, KEY));
        lru.touched(1, KEY);
        lru.touched(0, KEY);
        lru.touched(0, KEY);
        assert_eq!(order(&mut lru), [2, 3, 1, 0]);
        assert_eq!(lru.victim(&|slot| slot < 2), Some(1));
        lru.removed(3);
        assert_eq!(order(&mut lru), [2, 1, 0]);
        lru.admitted(3, KEY);
        lru.removed(2);
        assert_eq!(order(&mut lru), [1, 0, 3]);
        [1, 0, 3].into_iter().for_each(|slot| lru.removed(slot));
        assert_eq!(lru.victim(&|_| true), None);
    }

    /// Hits of rounds over layers, each of which uses the experts that `wanted` gives for (round, layer).
    fn hits(
        eviction: &mut dyn Eviction,
        slots: usize,
        layers: u32,
        wanted: impl Fn(u32, u32) -> Vec<u32>,
    ) -> (u32, u32) {
        eviction.prepare(slots, &vec![16; layers as usize]);
        let mut held: Vec<Option<ExpertKey>> = vec![None; slots];
        let (mut hits, mut uses) = (0, 0);
        for (round, group) in (0..50).flat_map(|round| (0..layers).map(move |group| (round, group))) {
            eviction.turn(group, 1);
            let wanted: Vec<_> =
                wanted(round, group).into_iter().map(|index| ExpertKey { group, index }).collect();
            for &key in &wanted {
                uses += 1;
                eviction.asked(key, 1);
                if let Some(slot) = held.iter().position(|held| *held == Some(key)) {
                    hits += 1;
                    eviction.touched(slot, key);
                    continue;
                }
                let slot = held.iter().position(Option::is_none).unwrap_or_else(|| {
                    let other = |slot: usize| held[slot].is_none_or(|key| !wanted.contains(&key));
                    let victim = eviction.victim(&other).unwrap();
                    eviction.removed(victim);
                    victim
                });
                held[slot] = Some(key);
                eviction.admitted(slot, key);
            }
        }
        (hits, uses)
    }

    #[test]
    fn a_part_of_a_round_that_does_not_fit_is_kept() {
        let same = |_, _| vec![0, 1];
        assert_eq!(hits(&mut Lru::new(), 10, 8, same).0, 0);
        let (hits, uses) = hits(&mut NextUse::new(), 10, 8, same);
        assert!(hits * 2 > uses, "{hits} of {uses}: 10 of 16 experts fit");
    }

    #[test]
    fn requests_are_turns_and_what_is_read_ahead_is_none() {
        let key = |group, index| ExpertKey { group, index };
        let mut eviction = NextUse::new();
        eviction.prepare(4, &[4, 4]);
        eviction.turn(0, 1);
        [0, 1].into_iter().for_each(|slot| eviction.admitted(slot, key(0, slot as u32)));
        eviction.turn(1, 1);
        eviction.admitted(2, key(1, 0));
        eviction.turn(0, 1);
        eviction.touched(0, key(0, 0));
        eviction.turn(1, 1);
        eviction.touched(2, key(1, 0));
        eviction.admitted(3, key(0, 3));
        assert_eq!(eviction.victim(&|_| true), Some(1), "its layer passed it over");
        assert_eq!(eviction.victim(&|slot| slot != 1), Some(2), "its layer's next turn is the later one");
    }

    #[test]
    fn what_its_layer_has_passed_over_goes_before_what_was_used() {
        // Expert 0 in every round, another one that changes: there is room for the former and some others.
        let changing = |round: u32, layer| vec![0, 1 + (round * 7 + layer) % 13];
        let of_lru = hits(&mut Lru::new(), 20, 8, changing).0;
        let (of_next_use, uses) = hits(&mut NextUse::new(), 20, 8, changing);
        assert!(of_next_use >= of_lru && of_next_use * 5 >= uses * 2, "{of_next_use} and {of_lru} of {uses}");
    }

    #[test]
    fn within_a_layer_the_oldest_goes_first() {
        let mut next_use = NextUse::new();
        next_use.prepare(3, &[3]);
        (0..3).for_each(|slot| next_use.admitted(slot, KEY));
        next_use.touched(0, KEY);
        assert_eq!(next_use.victim(&|_| true), Some(1));
        assert_eq!(next_use.victim(&|slot| slot != 1), Some(2));
        assert_eq!(next_use.victim(&|_| false), None);
    }
}
