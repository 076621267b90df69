//! Huge pages, where they are not slow to get.
//!
//! One entry of a page table for 2 MiB spares lookups while weights are read, up to a quarter of the time. But a guest of a
//! hypervisor that takes back what is free in blocks of that size waits for each block that it touches first: 2 MiB took 8 ms on such a
//! machine, where pages of 4 KiB, which come from what is in use already, took 1.

use memmap2::MmapMut;

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const PAGE_BYTES: usize = 2 << 20;
/// Pages that are touched to see how long that takes.
#[cfg(target_os = "linux")]
const TRIAL_PAGES: usize = 16;
/// So many that took longer than [`SLOW`] are enough.
#[cfg(target_os = "linux")]
const SLOW_PAGES: usize = 3;
/// Clearing 2 MiB takes a fraction of it.
#[cfg(target_os = "linux")]
const SLOW: std::time::Duration = std::time::Duration::from_millis(2);

/// Asks for huge pages for untouched memory, unless the first ones take long. Touches up to 32 MiB of it, its beginning.
///
/// Only a hint: kernels without huge pages refuse it, and nothing depends on it but speed.
#[cfg(target_os = "linux")]
pub fn prefer_huge_pages(memory: &mut MmapMut) {
    if memory.advise(memmap2::Advice::HugePage).is_err() {
        return;
    }
    let is_slow = |page: &mut [u8]| {
        let begin = std::time::Instant::now();
        std::hint::black_box(page)[0] = 0;
        begin.elapsed() > SLOW
    };
    let slow = memory.chunks_mut(PAGE_BYTES).take(TRIAL_PAGES).filter_map(|page| is_slow(page).then_some(()));
    if slow.take(SLOW_PAGES).count() == SLOW_PAGES {
        let _ = memory.advise(memmap2::Advice::NoHugePage);
    }
}

/// Other systems choose by themselves.
#[cfg(not(target_os = "linux"))]
pub fn prefer_huge_pages(_memory: &mut MmapMut) {}
