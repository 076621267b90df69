//! The page cache must not take what the arena may not.

use std::os::fd::AsRawFd;

use membrane_pager::{IoMode, IoReason};

use crate::bank::Bank;

#[test]
fn paged_reads_leave_next_to_nothing_in_the_cache() {
    let bank = Bank::new(1, &[12], 300_000);
    let all = bank.content(0).len().div_ceil(4096);
    for io in [IoMode::Buffered, IoMode::Direct] {
        empty_cache(&bank);
        let before = cached_pages(&bank);
        if before > 0 {
            println!("skipped: this file system keeps its pages");
            return;
        }
        let pager = bank.pager(2, io);
        for _ in 0..2 {
            bank.fetch(&pager, 0, &(0..12).collect::<Vec<_>>());
        }
        let after = cached_pages(&bank);
        assert!(after * 10 < all, "{after} of {all} pages are cached after {io:?}");
    }
}

/// Experts that all fit are read once and stay in the cache, where the next start of the program finds them.
#[test]
fn reads_into_an_arena_for_all_stay_in_the_cache() {
    let bank = Bank::new(1, &[12], 300_000);
    let pager = bank.pager(12, IoMode::Buffered);
    empty_cache(&bank);
    pager.warm().unwrap();
    let all = bank.content(0).len() / 4096;
    let cached = cached_pages(&bank);
    assert!(cached * 10 > all * 9, "{cached} of {all} pages are cached");
}

/// Enough to be worth a measurement.
#[test]
fn experts_that_all_fit_are_measured_unless_the_cache_has_them() {
    let bank = Bank::new(1, &[48], 8_000_000);
    let experts: Vec<u32> = (0..48).collect();
    assert!(bank.catalog().bytes() > 128 << 20);
    empty_cache(&bank);
    if cached_pages(&bank) > 0 {
        println!("skipped: this file system keeps its pages");
        return;
    }
    let pager = bank.pager(48, IoMode::Auto);
    let reason = &pager.io_mode().reason;
    // This system tells what is in the cache, and the file is ours; only one without direct reads has nothing to measure.
    let direct = bank.pager(1, IoMode::Direct).io_mode().direct;
    assert_eq!(matches!(reason, IoReason::Measured { .. }), direct, "{reason:?}");
    // A part of it comes into the cache, from where it is then read: the bytes are the same.
    let third = bank.content(0).len() as u64 / 3;
    let mut reader = std::io::Read::take(std::fs::File::open(bank.path(0)).unwrap(), third);
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    pager.warm().unwrap();
    bank.fetch(&pager, 0, &experts);
    std::fs::read(bank.path(0)).unwrap();
    let pager = bank.pager(48, IoMode::Auto);
    assert_eq!(pager.io_mode().reason, IoReason::EverythingFits);
    pager.warm().unwrap();
    bank.fetch(&pager, 0, &experts);
}

fn empty_cache(bank: &Bank) {
    // SAFETY: the call takes no pointers, and the descriptor is open.
    let result =
        unsafe { libc::posix_fadvise(bank.files[0].file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

/// Pages of the file that are in memory, as the kernel counts them for a mapping of it.
fn cached_pages(bank: &Bank) -> usize {
    let bytes = bank.content(0).len();
    // SAFETY: the file is a regular one that nothing changes; the mapping is only asked about, never read.
    let map = unsafe { memmap2::Mmap::map(&*bank.files[0].file).unwrap() };
    let mut pages = vec![0u8; bytes.div_ceil(4096)];
    // SAFETY: the range is that of the mapping, and `pages` has a byte for each of its pages.
    let result = unsafe { libc::mincore(map.as_ptr() as *mut _, bytes, pages.as_mut_ptr()) };
    assert_eq!(result, 0);
    pages.iter().filter(|&&page| page & 1 == 1).count()
}
