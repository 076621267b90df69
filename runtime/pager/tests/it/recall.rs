//! What earlier runs used, read while nothing else is.

use std::time::{Duration, Instant};

use membrane_pager::{EvictionPolicy, GroupUsage, Guess, IoMode, Pager, Usage};

use crate::bank::{Bank, MODES};

/// Experts of each group of the bank.
const EXPERTS: usize = 20;

/// Of 100 tokens, expert i of each group was used by i; expert 0 by none.
fn usage() -> Usage {
    let group = GroupUsage { tokens: 100, uses: (0..EXPERTS as u64).collect() };
    Usage { groups: vec![group; 2] }
}

/// A pager whose policy makes use of what earlier runs saw.
fn pager(bank: &Bank, slots: usize, io: IoMode) -> Pager {
    bank.pager_by(EvictionPolicy::Frequency, slots, io)
}

/// Waits until so many experts were recalled and all of them are in memory.
fn until_recalled(pager: &Pager, experts: usize) {
    let begun = Instant::now();
    while pager.resident() < experts || pager.counters().recalled < experts as u64 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} of {experts} experts", pager.resident());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn until_idle(pager: &Pager) {
    let begun = Instant::now();
    while !pager.is_idle() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pager.counters());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_most_used_fill_the_slots_and_are_the_files_experts() {
    let bank = Bank::new(2, &[EXPERTS, EXPERTS], 5_000);
    for io in MODES {
        let pager = pager(&bank, 9, io);
        pager.recall(&usage());
        until_recalled(&pager, 9);
        bank.fetch(&pager, 0, &[19, 18, 17, 16]);
        bank.fetch(&pager, 1, &[19, 18, 17, 16]);
        let counters = pager.counters();
        assert_eq!((counters.hits, counters.misses, counters.evictions), (8, 0, 0));
        assert_eq!((counters.recalled, counters.recalled_used), (9, 8));
    }
}

#[test]
fn those_that_nobody_used_are_not_read() {
    let bank = Bank::new(1, &[EXPERTS, EXPERTS], 2_000);
    let pager = pager(&bank, 39, IoMode::Buffered);
    pager.recall(&usage());
    until_recalled(&pager, 38);
    bank.fetch(&pager, 0, &[0]);
    assert_eq!((pager.counters().misses, pager.counters().recalled), (1, 38));
}

#[test]
fn requests_take_the_slots_that_they_need() {
    let bank = Bank::new(2, &[EXPERTS, EXPERTS], 300_000);
    for io in MODES {
        let pager = pager(&bank, 12, io);
        pager.recall(&usage());
        for round in 0..6 {
            let wanted: Vec<u32> = (0..10).map(|i| (round * 3 + i) % EXPERTS as u32).collect();
            bank.fetch(&pager, round % 2, &wanted);
        }
        let counters = pager.counters();
        assert_eq!(counters.hits + counters.misses + counters.joined, 60);
        assert!(counters.recalled <= 12 && counters.recalled_used <= counters.recalled, "{counters:?}");
        until_idle(&pager);
        assert_eq!(pager.resident(), 12);
    }
}

#[test]
fn guesses_come_first_and_lose_nothing_that_was_to_be_recalled() {
    let bank = Bank::new(2, &[EXPERTS, EXPERTS], 40_000);
    for io in MODES {
        let pager = pager(&bank, 39, io);
        pager.recall(&usage());
        while !pager.is_idle() {
            pager.foresee(&[Guess { group: 1, experts: vec![0, 1], top_k: 2 }]);
        }
        let counters = pager.counters();
        assert_eq!(counters.recalled + counters.foreseen, 39, "{counters:?}");
        bank.fetch(&pager, 0, &(1..EXPERTS as u32).collect::<Vec<_>>());
        bank.fetch(&pager, 1, &(0..EXPERTS as u32).collect::<Vec<_>>());
        assert_eq!(pager.counters().misses, 0);
    }
}

#[test]
fn a_policy_that_makes_nothing_of_usage_recalls_nothing() {
    let bank = Bank::new(1, &[EXPERTS, EXPERTS], 2_000);
    for policy in [EvictionPolicy::Lru, EvictionPolicy::NextUse] {
        let pager = bank.pager_by(policy, 10, IoMode::Buffered);
        pager.recall(&usage());
        assert!(pager.is_idle() && pager.counters().recalled == 0, "{}", policy.name());
    }
}

#[test]
fn what_was_recalled_outlives_what_a_request_used_once() {
    let bank = Bank::new(1, &[EXPERTS], 2_000);
    let pager = pager(&bank, 6, IoMode::Buffered);
    let mut usage = usage();
    usage.groups.truncate(1);
    usage.groups[0].uses = vec![0; EXPERTS];
    usage.groups[0].uses[3..6].fill(90);
    pager.recall(&usage);
    until_recalled(&pager, 3);
    for once in 7..12 {
        bank.fetch(&pager, 0, &[once]);
    }
    bank.fetch(&pager, 0, &[3, 4, 5]);
    assert_eq!(pager.counters().hits, 3);
}

#[test]
fn what_a_run_used_is_what_the_next_one_recalls() {
    let bank = Bank::new(1, &[EXPERTS, EXPERTS], 2_000);
    let first = pager(&bank, 8, IoMode::Buffered);
    bank.fetch(&first, 0, &[4, 7]);
    bank.fetch(&first, 1, &[9]);
    bank.fetch(&first, 0, &[7, 11]);
    let seen = first.usage();
    assert_eq!(seen.groups[0].tokens, 2);
    assert_eq!((seen.groups[0].uses[7], seen.groups[0].uses[4], seen.groups[1].uses[9]), (2, 1, 1));
    let next = pager(&bank, 8, IoMode::Buffered);
    next.recall(&seen);
    until_recalled(&next, 4);
    bank.fetch(&next, 0, &[4, 7, 11]);
    assert_eq!(next.counters().misses, 0);
}

#[test]
fn usage_with_a_last_group_more_or_less_is_of_the_same_model() {
    let bank = Bank::new(1, &[EXPERTS, EXPERTS], 2_000);
    let (mut less, mut more) = (usage(), usage());
    more.groups.extend(less.groups.pop());
    for usage in [less, more] {
        let pager = pager(&bank, 8, IoMode::Buffered);
        pager.recall(&usage);
        until_recalled(&pager, 8);
        bank.fetch(&pager, 0, &[19, 18, 17, 16]);
        assert_eq!(pager.counters().misses, 0);
    }
}

#[test]
fn usage_of_another_model_and_an_arena_for_everything_are_left_alone() {
    let bank = Bank::new(1, &[EXPERTS, EXPERTS], 2_000);
    let mut other = usage();
    other.groups[1].uses.pop();
    for (slots, usage) in [(10, other), (10, Usage::default()), (40, usage())] {
        let pager = pager(&bank, slots, IoMode::Buffered);
        pager.recall(&usage);
        assert_eq!((pager.counters().recalled, pager.counters().record_bytes), (0, 0), "{slots} slots");
    }
}

#[test]
fn an_expert_that_can_not_be_recalled_is_an_error_when_it_is_asked_for() {
    let bank = Bank::new(1, &[EXPERTS], 4_000);
    let pager = pager(&bank, 16, IoMode::Buffered);
    std::fs::OpenOptions::new().write(true).open(bank.path(0)).unwrap().set_len(0).unwrap();
    let mut usage = usage();
    usage.groups.truncate(1);
    pager.recall(&usage);
    let begun = Instant::now();
    while pager.counters().failures < 16 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pager.counters());
    }
    let mut request = pager.request(0, &[2]);
    assert!(request.next_ready().is_err());
    assert!(request.next_ready().unwrap().is_none());
}
