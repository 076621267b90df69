//! Experts that are read before anybody asks for them.

use std::time::{Duration, Instant};

use membrane_pager::{Guess, IoMode, Pager};

use crate::bank::{Bank, MODES, Random};

/// A guess for a single token.
fn of_token(group: u32, experts: &[u32]) -> Guess {
    Guess { group, experts: experts.to_vec(), top_k: experts.len() }
}

/// Waits until so many experts are in memory.
fn until_resident(pager: &Pager, experts: usize) {
    let begun = Instant::now();
    while pager.resident() < experts {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} of {experts} experts", pager.resident());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_was_foreseen_is_there_when_it_is_asked_for() {
    let bank = Bank::new(2, &[20, 20], 5_000);
    for io in MODES {
        let pager = bank.pager(32, io);
        pager.foresee(&[of_token(1, &[3, 7, 11])]);
        until_resident(&pager, 3);
        bank.fetch(&pager, 1, &[7, 3, 5]);
        let counters = pager.counters();
        assert_eq!((counters.hits, counters.misses, counters.requests), (2, 1, 3));
        assert_eq!((counters.foreseen, counters.foreseen_used), (3, 2));
    }
}

#[test]
fn a_request_waits_for_what_is_being_read_ahead_and_reads_it_once() {
    let bank = Bank::new(1, &[4, 40], 3 << 20);
    let pager = bank.pager(40, IoMode::Buffered);
    for round in 0..4 {
        let wanted: Vec<u32> = (round * 4..round * 4 + 4).collect();
        pager.foresee(&[of_token(1, &wanted)]);
        bank.fetch(&pager, 1, &wanted);
    }
    let counters = pager.counters();
    assert_eq!((counters.hits + counters.joined, counters.misses), (16, 0));
    assert_eq!((counters.foreseen, counters.foreseen_used, counters.failures), (16, 16, 0));
    let record = |index| bank.record(membrane_pager::ExpertKey { group: 1, index }).parts[0].bytes;
    assert_eq!(counters.record_bytes, (0..16).map(record).sum::<u64>());
}

#[test]
fn what_several_tokens_may_need_is_read_once_for_the_next_two_groups() {
    let bank = Bank::new(1, &[40, 40], 2_000);
    let pager = bank.pager(64, IoMode::Buffered);
    let tokens = Guess { group: 0, experts: vec![1, 2, 3, 2, 1, 9], top_k: 3 };
    pager.foresee(&[tokens, of_token(1, &[30, 31, 30])]);
    until_resident(&pager, 6);
    assert_eq!(pager.counters().foreseen, 6);
    bank.fetch(&pager, 0, &[1, 2, 3, 9]);
    bank.fetch(&pager, 1, &[30, 31]);
    assert_eq!((pager.counters().hits, pager.counters().misses), (6, 0));
}

#[test]
fn guesses_that_do_not_come_true_end() {
    let bank = Bank::new(1, &[100], 500);
    let pager = bank.pager(50, IoMode::Buffered);
    assert_eq!([1, 3, 4, 7].map(|experts| pager.lookahead(experts)), [2, 2, 1, 0]);
    for first in 0..300 {
        let [a, b, c] = [0, 1, 2].map(|more| (first + more) % 100);
        pager.foresee(&[of_token(0, &[a, b]), of_token(0, &[c])]);
        bank.fetch(&pager, 0, &[(first + 50) % 100]);
    }
    let foreseen = pager.counters().foreseen;
    assert!((2..=40).contains(&foreseen), "{foreseen} experts were read for nothing");
    assert!(pager.lookahead(1) <= 1, "but for a trial");
}

#[test]
fn what_is_in_use_or_named_keeps_its_slot() {
    let bank = Bank::new(1, &[9, 9], 2_000);
    let pager = bank.pager(8, IoMode::Direct);
    bank.fetch(&pager, 0, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut request = pager.request(0, &[1, 2, 3, 4, 5, 6, 7]);
    let leases = request.next_ready().unwrap().unwrap().leases;
    assert_eq!(leases.len(), 7);
    pager.foresee(&[of_token(0, &[0])]);
    assert_eq!(pager.counters().foreseen, 0, "it is resident");
    pager.foresee(&[of_token(1, &[5])]);
    until_resident(&pager, 8);
    leases.iter().for_each(|lease| bank.check(lease));
    pager.foresee(&[of_token(1, &[6])]);
    drop(leases);
    assert_eq!(
        (pager.counters().foreseen, pager.counters().evictions),
        (2, 2),
        "of expert 0, then of the guess"
    );
    bank.fetch(&pager, 0, &[1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_arena_of_few_slots_has_none_for_guesses() {
    let bank = Bank::new(1, &[30], 2_000);
    for (slots, guesses) in [(7, 1), (15, 2), (30, 2)] {
        let pager = bank.pager(slots, IoMode::Buffered);
        pager.foresee(&[of_token(0, &[4, 9][..guesses])]);
        assert_eq!(pager.counters().foreseen, 0, "{slots} slots");
    }
    let pager = bank.pager(16, IoMode::Buffered);
    pager.foresee(&[of_token(0, &[4, 9]), of_token(0, &[1])]);
    assert_eq!(pager.counters().foreseen, 2, "there are slots for the first group's alone");
    assert_eq!(bank.pager(30, IoMode::Buffered).lookahead(1), 0);
}

#[test]
fn an_expert_that_can_not_be_read_ahead_is_an_error_when_it_is_asked_for() {
    let bank = Bank::new(1, &[20], 4_000);
    let pager = bank.pager(16, IoMode::Buffered);
    std::fs::OpenOptions::new().write(true).open(bank.path(0)).unwrap().set_len(0).unwrap();
    pager.foresee(&[of_token(0, &[2])]);
    let begun = Instant::now();
    while pager.counters().failures == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the read ahead did not fail");
    }
    let mut request = pager.request(0, &[2]);
    assert!(request.next_ready().is_err());
    assert!(request.next_ready().unwrap().is_none());
}

#[test]
fn requests_and_guesses_of_several_threads_mix() {
    let bank = Bank::new(2, &[40, 40], 3_000);
    for io in [IoMode::Direct, IoMode::Buffered] {
        let pager = bank.pager(33, io);
        std::thread::scope(|scope| {
            for seed in 1..=3 {
                let (bank, pager) = (&bank, &pager);
                scope.spawn(move || {
                    let mut random = Random(seed * 104_729);
                    for _ in 0..150 {
                        let group = random.below(2) as u32;
                        let count = 1 + random.below(9) as usize;
                        let wanted = random.distinct(count, 40);
                        let next = of_token(group, &wanted[..count.min(3)]);
                        pager.foresee(&[next, of_token(1 - group, &random.distinct(1, 40))]);
                        bank.fetch(pager, group, &wanted);
                    }
                });
            }
        });
        let counters = pager.counters();
        assert_eq!(counters.hits + counters.misses + counters.joined, counters.requests);
        assert!(counters.foreseen_used <= counters.foreseen && counters.failures == 0);
        assert!(counters.foreseen_used > 0, "{} of {}", counters.foreseen_used, counters.foreseen);
    }
}
