//! What the operating system says of the memory of this process and of the machine.

use std::fs;
use std::path::Path;

pub(crate) use free::{CONTROL_GROUP, THIS_MACHINE};
pub use free::{FreeMemory, LimitedBy};

use crate::control_group;

mod free;

/// Bytes of memory that this process holds now; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// The largest `resident_bytes` since the process started; 0 where the system does not tell.
pub fn peak_resident_bytes() -> u64 {
    status_bytes("VmHWM:")
}

/// Bytes of memory that this process can have at most: the machine's, or its control group's limit where that
/// is less; none where the system does not tell.
pub fn memory_limit() -> Option<u64> {
    let limits = [machine_bytes("MemTotal:"), control_group_bytes()];
    limits.into_iter().flatten().min()
}

/// A line of `/proc/meminfo` such as `MemTotal:   16384 kB` (proc_meminfo(5)).
pub fn machine_bytes(key: &str) -> Option<u64> {
    machine_bytes_at(Path::new("/"), key)
}

fn machine_bytes_at(root: &Path, key: &str) -> Option<u64> {
    kib(&fs::read_to_string(root.join("proc/meminfo")).ok()?, key)
}

/// The memory limit of this process' control group, version 2 or 1, and of those around it; none if there is
/// no limit.
pub fn control_group_bytes() -> Option<u64> {
    control_group::limits(Path::new("/")).into_iter().map(|group| group.limit).min()
}

/// A line of `/proc/self/status` such as `VmRSS:     1234 kB` (proc_pid_status(5)).
fn status_bytes(key: &str) -> u64 {
    kib(&fs::read_to_string("/proc/self/status").unwrap_or_default(), key).unwrap_or(0)
}

/// The bytes of a line such as `VmRSS:     1234 kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}
