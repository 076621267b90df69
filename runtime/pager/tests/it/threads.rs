//! Several threads on one pager.

use std::sync::atomic::{AtomicU64, Ordering};

use membrane_pager::{IoMode, PagerError};

use crate::bank::{Bank, Random};

#[test]
fn threads_share_a_pager_without_deadlock_or_mixing() {
    let bank = Bank::new(2, &[10, 10], 3_000);
    for slots in [1, 2, 3, 7] {
        let pager = bank.pager(slots, IoMode::Direct);
        let asked = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let (bank, pager, asked) = (&bank, &pager, &asked);
                scope.spawn(move || {
                    let mut random = Random(seed * 7919);
                    for _ in 0..100 {
                        let count = random.below(11) as usize;
                        let wanted = random.distinct(count, 10);
                        asked.fetch_add(wanted.len() as u64, Ordering::Relaxed);
                        bank.fetch(pager, random.below(2) as u32, &wanted);
                    }
                });
            }
        });
        let counters = pager.counters();
        let named = counters.hits + counters.misses + counters.joined;
        assert_eq!((named, counters.requests), (asked.into_inner(), named));
        assert_eq!((counters.batches, counters.failures), (400, 0));
    }
}

/// What a request named is read for an older one: its slot is not kept from the request that comes behind.
#[test]
fn slots_filled_for_another_request_can_be_had() {
    let bank = Bank::new(1, &[3], 2_000);
    let pager = bank.pager(1, IoMode::Buffered);
    let mut older = pager.request(0, &[0, 2]);
    let mut newer = pager.request(0, &[1, 2]);
    let mut seen = [0, 0];
    for (request, seen) in [&mut older, &mut newer].into_iter().zip(&mut seen) {
        while let Some(ready) = request.next_ready().unwrap() {
            ready.leases.iter().for_each(|lease| bank.check(lease));
            *seen += ready.leases.len();
        }
    }
    assert_eq!(seen, [2, 2]);
}

/// Leases go to other threads, as a pool of kernels needs, and come back from there.
#[test]
fn leases_may_be_used_and_dropped_elsewhere() {
    let bank = Bank::new(1, &[12], 5_000);
    let pager = bank.pager(2, IoMode::Buffered);
    let mut request = pager.request(0, &(0..12).collect::<Vec<_>>());
    let mut seen = 0;
    while let Some(ready) = request.next_ready().unwrap() {
        std::thread::scope(|scope| {
            for lease in ready.leases {
                seen += 1;
                let bank = &bank;
                scope.spawn(move || bank.check(&lease));
            }
        });
    }
    assert_eq!(seen, 12);
}

/// One thread keeps every slot for a while; another, which has none, waits for it instead of failing.
#[test]
fn a_thread_without_leases_waits_for_those_of_others() {
    let bank = Bank::new(1, &[3], 2_000);
    let pager = bank.pager(1, IoMode::Buffered);
    let mut request = pager.request(0, &[0]);
    let held = request.next_ready().unwrap().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| bank.fetch(&pager, 0, &[2, 1]));
        while pager.counters().batches < 2 {
            std::thread::yield_now();
        }
        let mut greedy = pager.request(0, &[1]);
        assert!(matches!(greedy.next_ready(), Err(PagerError::SlotsHeld { .. })));
        drop((greedy, held));
        assert_eq!(waiter.join().unwrap(), [2, 1]);
    });
    assert!(pager.counters().wait_ns > 0);
}
