//! What is lent out is what is in the files.

use membrane_pager::{IoMode, IoReason, PagerConfig};

use crate::bank::{Bank, MODES, Random};

#[test]
fn every_expert_is_right_under_any_number_of_slots() {
    let bank = Bank::new(2, &[7, 0, 5], 20_000);
    for io in MODES {
        for slots in [1, 2, 3, 11, 12, 100] {
            let pager = bank.pager(slots, io);
            for _ in 0..3 {
                bank.fetch(&pager, 0, &[3, 0, 6, 1, 2, 5, 4]);
                bank.fetch(&pager, 1, &[]);
                bank.fetch(&pager, 2, &[4, 1, 0, 3, 2]);
            }
            let counters = pager.counters();
            assert_eq!((counters.batches, counters.requests), (9, 36));
            assert_eq!(counters.hits + counters.misses, 36);
            if slots >= 12 {
                assert_eq!((counters.misses, counters.evictions), (12, 0));
                assert_eq!(counters.record_bytes, pager.catalog().bytes());
            }
        }
    }
}

#[test]
fn random_requests_always_get_the_right_bytes() {
    let bank = Bank::new(3, &[9, 9, 9], 9_000);
    for io in MODES {
        for slots in [1, 2, 3, 8, 27] {
            let pager = bank.pager(slots, io);
            let mut random = Random(slots as u64 + 1);
            for _ in 0..150 {
                let count = random.below(10) as usize;
                let wanted = random.distinct(count, 9);
                bank.fetch(&pager, random.below(3) as u32, &wanted);
            }
        }
    }
}

/// A record of several megabytes is read in pieces by several threads; its parts must still join without a
/// seam.
#[test]
fn large_records_are_cut_and_joined() {
    let bank = Bank::new(2, &[3], 5_000_000);
    for io in MODES {
        let pager = bank.pager(2, io);
        bank.fetch(&pager, 0, &[0, 1, 2]);
        let counters = pager.counters();
        assert!(counters.reads > 6, "{counters:?}");
        assert!(counters.bytes_read >= pager.catalog().bytes());
        assert!(counters.read_time_ns > 0 && counters.disk_busy_ns > 0);
    }
}

#[test]
fn direct_reads_take_whole_blocks_and_buffered_ones_the_data_alone() {
    let bank = Bank::new(1, &[4], 10_000);
    let buffered = bank.pager(2, IoMode::Buffered);
    bank.fetch(&buffered, 0, &[0, 1, 2, 3]);
    assert_eq!(buffered.counters().bytes_read, buffered.catalog().bytes());
    assert_eq!(buffered.io_mode().reason, IoReason::Configured);
    let direct = bank.pager(2, IoMode::Direct);
    bank.fetch(&direct, 0, &[0, 1, 2, 3]);
    if !direct.io_mode().direct {
        println!("skipped: this file system has no direct reads");
        assert_eq!(direct.io_mode().reason, IoReason::NoDirectReads);
        return;
    }
    assert!(direct.counters().bytes_read > direct.catalog().bytes());
    assert_eq!(direct.counters().direct_fallbacks, 0);
}

#[test]
fn warming_reads_everything_once_or_nothing() {
    let bank = Bank::new(2, &[4, 0, 6], 3_000);
    let pager = bank.pager(10, IoMode::Auto);
    assert!(pager.holds_everything());
    assert_eq!(pager.io_mode().reason, IoReason::EverythingFits);
    assert_eq!(pager.warm().unwrap(), pager.catalog().bytes());
    assert_eq!((pager.resident(), pager.warm().unwrap()), (10, 0));
    bank.fetch(&pager, 2, &[5, 0, 1, 2, 3, 4]);
    bank.fetch(&pager, 0, &[3, 2, 1, 0]);
    let counters = pager.counters();
    assert_eq!((counters.requests, counters.hits, counters.misses), (10, 10, 0));
    assert_eq!(counters.hit_rate(), Some(1.0));

    let pager = bank.pager(9, IoMode::Auto);
    assert_eq!((pager.warm().unwrap(), pager.resident()), (0, 0));
    assert_eq!(pager.counters().bytes_read, 0);
}

#[test]
fn a_measured_choice_keeps_its_figures() {
    let bank = Bank::new(2, &[8], 400_000);
    let pager = bank.pager(3, IoMode::Auto);
    match &pager.io_mode().reason {
        IoReason::Measured { direct, buffered } => {
            assert!(direct.gb_s() > 0.0 && buffered.gb_s() > 0.0);
            assert!(direct.bytes > 0 && buffered.bytes > 0);
        }
        other => assert_eq!(*other, IoReason::NoDirectReads),
    }
}

#[test]
fn any_number_of_io_threads_works() {
    let bank = Bank::new(1, &[6], 30_000);
    for io_threads in [0, 1, 2, 500] {
        let catalog = bank.catalog();
        let config = PagerConfig { io_threads, ..PagerConfig::new(catalog.slot_bytes() * 3) };
        let pager = membrane_pager::Pager::open(&bank.files, catalog, config).unwrap();
        bank.fetch(&pager, 0, &[5, 4, 3, 2, 1, 0]);
    }
}

#[test]
fn the_arena_is_never_larger_than_asked() {
    let bank = Bank::new(1, &[6], 5_000);
    let slot_bytes = bank.catalog().slot_bytes();
    for extra in [0, 1, slot_bytes - 1] {
        let arena_bytes = 2 * slot_bytes + extra;
        let config = PagerConfig::new(arena_bytes);
        let pager = membrane_pager::Pager::open(&bank.files, bank.catalog(), config).unwrap();
        assert_eq!((pager.slots(), pager.arena_bytes()), (2, 2 * slot_bytes));
        assert!(pager.arena_bytes() <= arena_bytes);
    }
}
