//! Experts that are changed where they are in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use membrane_pager::{EvictionPolicy, IoMode, Lease, Pager, PagerError};

use crate::bank::{Bank, MODES, Random};

fn invert(parts: &mut [&mut [u8]]) {
    parts.iter_mut().for_each(|part| part.iter_mut().for_each(|byte| *byte = !*byte));
}

/// What is in memory is what was read, or that inverted.
fn check(bank: &Bank, lease: &Lease<'_>) {
    let record = bank.record(lease.key());
    for (found, part) in lease.parts().zip(&record.parts) {
        let mut wanted = bank.content(part.file)[part.offset as usize..][..part.bytes as usize].to_vec();
        if lease.is_rewritten() {
            invert(&mut [&mut wanted]);
        }
        assert!(found == wanted, "{:?}", lease.key());
    }
}

/// Asks for an expert, and rewrites it; how often it was used, and whether it was rewritten before.
fn one(bank: &Bank, pager: &Pager, expert: u32, rewrite: bool) -> (u32, bool) {
    let mut request = pager.request(0, &[expert]);
    let mut leases = request.next_ready().unwrap().unwrap().leases;
    let mut lease = leases.pop().unwrap();
    check(bank, &lease);
    let (uses, rewritten) = (lease.uses(), lease.is_rewritten());
    if rewrite {
        lease = lease.rewrite(invert).unwrap();
        assert!(lease.is_rewritten() && lease.uses() == uses && lease.index() == expert);
        check(bank, &lease);
    }
    drop(lease);
    assert!(request.next_ready().unwrap().is_none());
    (uses, rewritten)
}

#[test]
fn a_rewritten_expert_stays_so_until_it_gives_up_its_slot() {
    let bank = Bank::new(3, &[4], 9_000);
    for io in MODES {
        let pager = bank.pager(2, io);
        assert_eq!(one(&bank, &pager, 0, false), (1, false));
        assert_eq!(one(&bank, &pager, 0, true), (2, false));
        assert_eq!(one(&bank, &pager, 0, false), (3, true));
        assert_eq!(one(&bank, &pager, 1, false), (1, false));
        assert_eq!(one(&bank, &pager, 0, false), (4, true));
        assert_eq!((pager.counters().rewritten, pager.counters().rewritten_uses), (1, 2));
        bank.fetch(&pager, 0, &[2, 3]);
        assert_eq!(one(&bank, &pager, 0, false), (1, false));
        assert_eq!(pager.counters().failures, 0);
    }
}

#[test]
fn what_others_have_too_is_left_as_it_is() {
    let bank = Bank::new(1, &[2], 9_000);
    let pager = bank.pager(2, IoMode::Buffered);
    let mut requests = [pager.request(0, &[1]), pager.request(0, &[1])];
    let mut first = requests[0].next_ready().unwrap().unwrap().leases.remove(0);
    first = first.rewrite(|_| panic!("the other request is promised it")).unwrap();
    let second = requests[1].next_ready().unwrap().unwrap().leases.remove(0);
    first = first.rewrite(|_| panic!("the other request has it")).unwrap();
    check(&bank, &first);
    drop(second);
    first = first.rewrite(invert).unwrap();
    check(&bank, &first.rewrite(|_| panic!("it was rewritten")).unwrap());
}

#[test]
fn whoever_asks_for_an_expert_that_is_rewritten_waits_for_it() {
    let bank = Bank::new(2, &[2], 9_000);
    let pager = bank.pager(1, IoMode::Buffered);
    let lease = pager.request(0, &[1]).next_ready().unwrap().unwrap().leases.remove(0);
    let (lease, seen) = std::thread::scope(|scope| {
        let mut asking = None;
        let lease = lease.rewrite(|parts| {
            let (bank, pager) = (&bank, &pager);
            assert!(!pager.request(0, &[1]).is_ready());
            asking = Some(scope.spawn(move || one(bank, pager, 1, false)));
            while pager.counters().requests < 3 {
                std::thread::yield_now();
            }
            invert(parts);
        });
        (lease.unwrap(), asking.unwrap().join().unwrap())
    });
    assert_eq!(seen, (2, true));
    check(&bank, &lease);
    drop(lease);
    bank.fetch(&pager, 0, &[0]);
}

#[test]
fn an_expert_whose_rewriting_panicked_is_read_again() {
    let bank = Bank::new(2, &[3], 9_000);
    for slots in [1, 2] {
        let pager = bank.pager(slots, IoMode::Buffered);
        for _ in 0..2 * slots {
            let lease = pager.request(0, &[1]).next_ready().unwrap().unwrap().leases.remove(0);
            let rewriting = AssertUnwindSafe(|| {
                lease.rewrite(|parts| {
                    invert(&mut parts[..1]);
                    panic!("on purpose");
                })
            });
            assert!(catch_unwind(rewriting).is_err());
            assert_eq!(pager.resident(), 0);
        }
        let mut waiting = None;
        let lease = pager.request(0, &[1]).next_ready().unwrap().unwrap().leases.remove(0);
        let rewriting = AssertUnwindSafe(|| {
            lease.rewrite(|_| {
                waiting = Some(pager.request(0, &[1]));
                panic!("on purpose");
            })
        });
        assert!(catch_unwind(rewriting).is_err());
        let error = waiting.take().unwrap().next_ready().err().unwrap();
        assert!(matches!(error, PagerError::Recode { group: 0, index: 1, .. }), "{error}");
        bank.fetch(&pager, 0, &[1, 0, 2]);
    }
}

#[test]
fn a_slot_whose_rewriting_panicked_goes_to_whoever_waits_for_one() {
    let bank = Bank::new(2, &[3], 9_000);
    let pager = bank.pager(1, IoMode::Buffered);
    let lease = pager.request(0, &[1]).next_ready().unwrap().unwrap().leases.remove(0);
    let mut waiting = None;
    let rewriting = AssertUnwindSafe(|| {
        lease.rewrite(|_| {
            waiting = Some(pager.request(0, &[0]));
            assert!(waiting.as_ref().unwrap().lacks_slots());
            panic!("on purpose");
        })
    });
    assert!(catch_unwind(rewriting).is_err());
    let mut waiting = waiting.unwrap();
    assert!(!waiting.lacks_slots());
    let lease = waiting.next_ready().unwrap().unwrap().leases.remove(0);
    assert_eq!(lease.index(), 0);
    check(&bank, &lease.rewrite(invert).unwrap());
    assert!(waiting.next_ready().unwrap().is_none());
    bank.fetch(&pager, 0, &[1, 2]);
}

#[test]
fn threads_rewrite_experts_of_one_pager() {
    let bank = Bank::new(2, &[10], 3_000);
    for (slots, policy) in
        [(1, EvictionPolicy::Lru), (3, EvictionPolicy::default()), (7, EvictionPolicy::default())]
    {
        let pager = bank.pager_by(policy, slots, IoMode::Buffered);
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let (bank, pager) = (&bank, &pager);
                scope.spawn(move || {
                    let mut random = Random(seed * 104_729);
                    for _ in 0..100 {
                        let count = 1 + random.below(9) as usize;
                        let wanted = random.distinct(count, 10);
                        let mut request = pager.request(0, &wanted);
                        while let Some(ready) = request.next_ready().unwrap() {
                            for lease in ready.leases {
                                check(bank, &lease);
                                let plain = random.below(2) == 0;
                                let lease = if plain { lease.rewrite(invert).unwrap() } else { lease };
                                check(bank, &lease);
                            }
                        }
                    }
                });
            }
        });
        assert!(pager.counters().failures == 0 && pager.counters().rewritten > 0);
    }
}
