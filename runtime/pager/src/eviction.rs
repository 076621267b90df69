//! Which expert gives up its slot.

use crate::catalog::ExpertKey;

/// Chooses the slot to be reused. It hears of every use of a slot, in the order of the experts in each
/// request (first those that are resident, then those that are read), so that its choices do not depend on
/// which read ends first.
///
/// Called with the pager's lock held: every method should take constant time, or nearly.
pub trait Eviction: Send {
    /// Called once, before any other: slots are numbered from 0 to `slots - 1`.
    fn prepare(&mut self, slots: usize);
    /// `slot` was given to `key` and its read begins.
    fn admitted(&mut self, slot: usize, key: ExpertKey);
    /// A request named `key`, which has `slot` already.
    fn touched(&mut self, slot: usize, key: ExpertKey);
    /// `slot` holds nothing any more: it was chosen by [`Eviction::victim`], or its read failed.
    fn removed(&mut self, slot: usize);
    /// The slot to reuse, for which `evictable` must hold, or `None` if there is no such slot. Slots that are
    /// lent out, promised to a request or being read are not evictable.
    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// Evicts what was used longest ago: a doubly linked list through an array, oldest first.
#[derive(Debug, Default)]
pub struct Lru {
    /// `[older, newer]` neighbours of each slot. The entry after the last slot is the ends of the list: its
    /// newer neighbour is the oldest slot, its older neighbour the newest. A slot that links to itself is not
    /// in the list.
    links: Vec<[usize; 2]>,
}

const OLDER: usize = 0;
const NEWER: usize = 1;

impl Lru {
    /// An empty list; the pager tells it the number of slots.
    pub fn new() -> Self {
        Self::default()
    }

    fn ends(&self) -> usize {
        self.links.len() - 1
    }

    fn unlink(&mut self, slot: usize) {
        let [older, newer] = self.links[slot];
        self.links[older][NEWER] = newer;
        self.links[newer][OLDER] = older;
        self.links[slot] = [slot, slot];
    }

    fn link_newest(&mut self, slot: usize) {
        let ends = self.ends();
        let newest = self.links[ends][OLDER];
        self.links[slot] = [newest, ends];
        self.links[newest][NEWER] = slot;
        self.links[ends][OLDER] = slot;
    }
}

impl Eviction for Lru {
    fn prepare(&mut self, slots: usize) {
        self.links = (0..=slots).map(|slot| [slot, slot]).collect();
    }

    fn admitted(&mut self, slot: usize, _key: ExpertKey) {
        self.link_newest(slot);
    }

    fn touched(&mut self, slot: usize, _key: ExpertKey) {
        self.unlink(slot);
        self.link_newest(slot);
    }

    fn removed(&mut self, slot: usize) {
        self.unlink(slot);
    }

    /// Walks from the oldest slot. What is not evictable was used by a request under way, so it is near the
    /// newest end and the walk is short.
    fn victim(&mut self, evictable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let ends = self.ends();
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
        lru.prepare(4);
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
}
