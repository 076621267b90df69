//! Least recently used against the plainest possible model of it.

use membrane_pager::{ExpertKey, IoMode};

use crate::bank::{Bank, Random};

/// Keys from the one used longest ago to the newest.
struct Model {
    slots: usize,
    order: Vec<ExpertKey>,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Model {
    /// A request for no more experts than there are slots: those that are there first, then those that are
    /// not.
    fn request(&mut self, group: u32, wanted: &[u32]) {
        let keys = wanted.iter().map(|&index| ExpertKey { group, index });
        let (there, missing): (Vec<_>, Vec<_>) = keys.partition(|key| self.order.contains(key));
        self.hits += there.len() as u64;
        self.misses += missing.len() as u64;
        for &key in &there {
            self.order.retain(|&other| other != key);
            self.order.push(key);
        }
        for key in missing {
            if self.order.len() == self.slots {
                self.order.remove(0);
                self.evictions += 1;
            }
            self.order.push(key);
        }
    }
}

#[test]
fn hits_misses_and_evictions_are_exactly_those_of_a_model() {
    let bank = Bank::new(1, &[16, 16, 16], 300);
    for slots in [1, 2, 3, 5, 12, 30, 47, 48] {
        let pager = bank.pager(slots, IoMode::Buffered);
        let mut model = Model { slots, order: Vec::new(), hits: 0, misses: 0, evictions: 0 };
        let mut random = Random(77 + slots as u64);
        for _ in 0..1500 {
            let most = slots.min(6) as u64;
            // Low experts are more popular, so that there is something to hit.
            let limit = if random.below(3) == 0 { 16 } else { 6 };
            let count = 1 + random.below(most) as usize;
            let wanted = random.distinct(count, limit);
            let group = random.below(3) as u32;
            let there: Vec<u32> = wanted
                .iter()
                .copied()
                .filter(|&index| model.order.contains(&ExpertKey { group, index }))
                .collect();
            model.request(group, &wanted);
            let seen = bank.fetch(&pager, group, &wanted);
            assert_eq!(seen[..there.len()], there, "residents come first, in the order of the request");
        }
        let counters = pager.counters();
        assert_eq!(
            (counters.hits, counters.misses, counters.evictions, counters.joined),
            (model.hits, model.misses, model.evictions, 0),
            "{slots} slots"
        );
        assert_eq!(pager.resident(), model.order.len());
        assert!(slots == 1 || counters.hits > 0);
    }
}

#[test]
fn counters_subtract_to_what_happened_between() {
    let bank = Bank::new(1, &[4], 300);
    let pager = bank.pager(2, IoMode::Buffered);
    bank.fetch(&pager, 0, &[0, 1]);
    let before = pager.counters();
    bank.fetch(&pager, 0, &[1, 2]);
    let between = pager.counters() - before;
    assert_eq!((between.batches, between.hits, between.misses, between.evictions), (1, 1, 1, 1));
    assert_eq!(between.hit_rate(), Some(0.5));
    assert_eq!((pager.counters() - pager.counters()).hit_rate(), None);
}
