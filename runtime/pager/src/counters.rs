//! What a pager did, in numbers.

use std::ops::{AddAssign, Sub};

/// Running totals since the pager was opened. The difference of two readings is what happened between them.
///
/// When all requests ran to their end, `requests` is `hits + misses + joined`. Reads of
/// [`Pager::warm`](crate::Pager::warm) count as reads, not as requests or misses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests made, each for any number of experts.
    pub batches: u64,
    /// Experts that they named.
    pub requests: u64,
    /// Experts that were resident when they were asked for.
    pub hits: u64,
    /// Experts that had to be read.
    pub misses: u64,
    /// Experts that another request, or a read ahead, was already reading or had read while this one waited, or that were being rewritten.
    pub joined: u64,
    /// Experts that gave up their slot to another.
    pub evictions: u64,
    /// Read calls to the operating system.
    pub reads: u64,
    /// Bytes that those calls returned, with the slack around unaligned records.
    pub bytes_read: u64,
    /// Bytes of the records whose reads were begun, without slack.
    pub record_bytes: u64,
    /// Time in read calls, summed over the I/O threads, in nanoseconds.
    pub read_time_ns: u64,
    /// Wall time during which at least one read was under way, in nanoseconds.
    pub disk_busy_ns: u64,
    /// Time for which callers were blocked because nothing was ready, in nanoseconds.
    pub wait_ns: u64,
    /// Time in which experts were recoded, summed over the I/O threads, in nanoseconds.
    pub recode_time_ns: u64,
    /// Experts that were rewritten in their slots.
    pub rewritten: u64,
    /// How often requests got one that had been.
    pub rewritten_uses: u64,
    /// Files that refused direct reads and are read through the page cache instead.
    pub direct_fallbacks: u64,
    /// Experts that could not be read, or were lost as they were rewritten.
    pub failures: u64,
    /// Experts that were read ahead, before anybody asked for them.
    pub foreseen: u64,
    /// Of those, how many were asked for before they gave up their slot.
    pub foreseen_used: u64,
    /// Experts whose reads were begun since earlier runs used them much.
    pub recalled: u64,
    /// Of those, how many were asked for before they gave up their slot.
    pub recalled_used: u64,
}

impl Counters {
    /// Share of experts that were resident when asked for, from 0 to 1; `None` before the first request.
    pub fn hit_rate(&self) -> Option<f64> {
        let wanted = self.hits + self.misses + self.joined;
        (wanted > 0).then(|| self.hits as f64 / wanted as f64)
    }

    /// Bytes a second while the disk was busy, in GB (1e9 bytes); `None` if nothing was read.
    pub fn read_gb_s(&self) -> Option<f64> {
        (self.disk_busy_ns > 0).then(|| self.bytes_read as f64 / self.disk_busy_ns as f64)
    }
}

impl Sub for Counters {
    type Output = Self;

    /// What happened since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            batches: self.batches.saturating_sub(earlier.batches),
            requests: self.requests.saturating_sub(earlier.requests),
            hits: self.hits.saturating_sub(earlier.hits),
            misses: self.misses.saturating_sub(earlier.misses),
            joined: self.joined.saturating_sub(earlier.joined),
            evictions: self.evictions.saturating_sub(earlier.evictions),
            reads: self.reads.saturating_sub(earlier.reads),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            record_bytes: self.record_bytes.saturating_sub(earlier.record_bytes),
            read_time_ns: self.read_time_ns.saturating_sub(earlier.read_time_ns),
            disk_busy_ns: self.disk_busy_ns.saturating_sub(earlier.disk_busy_ns),
            wait_ns: self.wait_ns.saturating_sub(earlier.wait_ns),
            recode_time_ns: self.recode_time_ns.saturating_sub(earlier.recode_time_ns),
            rewritten: self.rewritten.saturating_sub(earlier.rewritten),
            rewritten_uses: self.rewritten_uses.saturating_sub(earlier.rewritten_uses),
            direct_fallbacks: self.direct_fallbacks.saturating_sub(earlier.direct_fallbacks),
            failures: self.failures.saturating_sub(earlier.failures),
            foreseen: self.foreseen.saturating_sub(earlier.foreseen),
            foreseen_used: self.foreseen_used.saturating_sub(earlier.foreseen_used),
            recalled: self.recalled.saturating_sub(earlier.recalled),
            recalled_used: self.recalled_used.saturating_sub(earlier.recalled_used),
        }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.batches += other.batches;
        self.requests += other.requests;
        self.hits += other.hits;
        self.misses += other.misses;
        self.joined += other.joined;
        self.evictions += other.evictions;
        self.reads += other.reads;
        self.bytes_read += other.bytes_read;
        self.record_bytes += other.record_bytes;
        self.read_time_ns += other.read_time_ns;
        self.disk_busy_ns += other.disk_busy_ns;
        self.wait_ns += other.wait_ns;
        self.recode_time_ns += other.recode_time_ns;
        self.rewritten += other.rewritten;
        self.rewritten_uses += other.rewritten_uses;
        self.direct_fallbacks += other.direct_fallbacks;
        self.failures += other.failures;
        self.foreseen += other.foreseen;
        self.foreseen_used += other.foreseen_used;
        self.recalled += other.recalled;
        self.recalled_used += other.recalled_used;
    }
}
