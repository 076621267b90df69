//! Requests for more experts than there are slots, and callers that hold on to what they got.

use membrane_pager::{IoMode, PagerError};

use crate::bank::{Bank, MODES};

#[test]
fn one_slot_serves_any_request() {
    let bank = Bank::new(2, &[40], 2_000);
    for io in MODES {
        let pager = bank.pager(1, io);
        let wanted: Vec<u32> = (0..40).rev().collect();
        assert_eq!(bank.fetch(&pager, 0, &wanted), wanted, "one slot leaves no choice of order");
        let counters = pager.counters();
        assert_eq!((counters.misses, counters.evictions, pager.resident()), (40, 39, 1));
    }
}

#[test]
fn residents_are_used_before_they_are_evicted() {
    let bank = Bank::new(1, &[10], 2_000);
    let pager = bank.pager(4, IoMode::Buffered);
    bank.fetch(&pager, 0, &[6, 7, 8, 9]);
    let before = pager.counters();
    let seen = bank.fetch(&pager, 0, &(0..10).collect::<Vec<_>>());
    assert_eq!(seen[..4], [6, 7, 8, 9]);
    let between = pager.counters() - before;
    assert_eq!((between.hits, between.misses, between.evictions), (4, 6, 6));
}

/// A lease that was dropped lets the next read begin, without another call.
#[test]
fn reads_go_on_while_the_caller_works() {
    let bank = Bank::new(1, &[6], 2_000);
    let pager = bank.pager(2, IoMode::Buffered);
    bank.fetch(&pager, 0, &[0, 1]);
    let mut request = pager.request(0, &[0, 1, 2, 3]);
    assert!(request.is_ready(), "two are resident");
    let mut leases = request.next_ready().unwrap().unwrap().leases;
    assert_eq!(leases.len(), 2);
    assert!(request.is_ready(), "both slots are held: an error, not a wait");
    assert_eq!(pager.counters().misses, 2, "both slots are held");
    leases.remove(0);
    assert_eq!(pager.counters().misses, 3, "expert 2 is being read into the slot of expert 0");
    bank.check(&leases[0]);
    drop(leases);
    assert_eq!(pager.counters().misses, 4);
    let mut rest = Vec::new();
    while let Some(ready) = request.next_ready().unwrap() {
        rest.extend(ready.leases.iter().map(|lease| lease.index()));
    }
    rest.sort_unstable();
    assert_eq!(rest, [2, 3]);
}

#[test]
fn a_caller_that_keeps_every_slot_gets_an_error_and_can_go_on() {
    let bank = Bank::new(1, &[5], 2_000);
    let pager = bank.pager(2, IoMode::Direct);
    let mut request = pager.request(0, &[0, 1, 2]);
    let mut held = Vec::new();
    while held.len() < 2 {
        held.extend(request.next_ready().unwrap().unwrap().leases);
    }
    for _ in 0..2 {
        assert!(matches!(request.next_ready(), Err(PagerError::SlotsHeld { slots: 2 })));
    }
    held.iter().for_each(|lease| bank.check(lease));
    let last = held.pop().unwrap().index();
    let ready = request.next_ready().unwrap().unwrap();
    assert_eq!(ready.leases[0].index(), 2);
    bank.check(&ready.leases[0]);
    bank.check(&held[0]);
    assert_ne!(last, held[0].index());
    drop(request);

    drop(ready);
    let mut other = pager.request(0, &[3]);
    assert_eq!(other.next_ready().unwrap().unwrap().leases[0].index(), 3);
    bank.check(&held[0]);
}

#[test]
fn two_requests_of_one_thread_share_reads() {
    let bank = Bank::new(1, &[6], 2_000);
    let pager = bank.pager(3, IoMode::Buffered);
    let mut first = pager.request(0, &[0, 1]);
    let mut second = pager.request(0, &[1, 2]);
    let mut counts = [0; 3];
    for request in [&mut first, &mut second] {
        while let Some(ready) = request.next_ready().unwrap() {
            for lease in ready.leases {
                bank.check(&lease);
                counts[lease.index() as usize] += 1;
            }
        }
    }
    assert_eq!(counts, [1, 2, 1]);
    let counters = pager.counters();
    assert_eq!(counters.misses, 3, "expert 1 was read once");
    assert_eq!(counters.hits + counters.joined, 1);
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let bank = Bank::new(1, &[3, 2], 500);
    let pager = bank.pager(2, IoMode::Buffered);
    for (group, wanted) in [(0, vec![3]), (1, vec![0, 2]), (2, vec![0]), (u32::MAX, vec![u32::MAX])] {
        let mut request = pager.request(group, &wanted);
        assert!(request.is_ready());
        assert!(matches!(request.next_ready(), Err(PagerError::NoSuchExpert { .. })));
        assert!(request.next_ready().unwrap().is_none());
    }
    let mut request = pager.request(0, &[2, 1, 2]);
    assert!(matches!(request.next_ready(), Err(PagerError::Duplicate { group: 0, index: 2 })));
    assert!(request.next_ready().unwrap().is_none());
    assert!(pager.request(7, &[]).next_ready().unwrap().is_none());
    assert_eq!(pager.counters().requests, 0);
    assert_eq!(pager.counters().misses, 0);
    bank.fetch(&pager, 0, &[0, 1, 2]);
}
