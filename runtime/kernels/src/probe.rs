//! What the machine's memory can do: the ceiling beside which a decode speed is printed.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::parallel::Region;

/// Bytes to read where there is room: more than the caches of most machines.
pub const MEMORY_PROBE_BYTES: usize = 256 << 20;
/// Bytes that a task reads.
const TASK_BYTES: usize = 1 << 20;
/// Passes; the best counts, since others use the machine too.
const PASSES: usize = 4;

/// Measured bandwidth of reading `bytes` of memory in order with the region's threads, in GB/s (10^9 bytes a second).
/// Takes a fraction of a second and that much memory for that time; `bytes` is rounded down to MiB, 1 at least.
pub fn memory_read_bandwidth(region: &Region<'_>, bytes: usize) -> f64 {
    let task = TASK_BYTES / size_of::<u64>();
    let mut words = vec![0_u64; (bytes / TASK_BYTES).max(1) * task];
    // Untouched pages would all be the one page of zeros.
    region.run_chunks(&mut words, task, |index, words| words.fill(index as u64));
    let mut best_s = f64::INFINITY;
    for _ in 0..PASSES {
        let total = AtomicU64::new(0);
        let begin = Instant::now();
        region.run(words.len() / task, |index| {
            let sum = words[index * task..][..task].iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
            total.fetch_add(sum, Ordering::Relaxed);
        });
        best_s = best_s.min(begin.elapsed().as_secs_f64());
        black_box(total.into_inner());
    }
    size_of_val(&*words) as f64 / best_s / 1e9
}

#[cfg(test)]
mod tests {
    use crate::{Isa, Team};

    #[test]
    fn the_bandwidth_is_that_of_a_computer() {
        let team = Team::new(1, Isa::detect());
        let measured = team.region(|region| super::memory_read_bandwidth(region, super::MEMORY_PROBE_BYTES));
        assert!((0.05..10_000.0).contains(&measured), "{measured} GB/s");
    }
}
