//! What the operating system says of this process' memory.

use std::fs;

/// Bytes of memory that this process holds now; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// The largest `resident_bytes` since the process started; 0 where the system does not tell.
pub fn peak_resident_bytes() -> u64 {
    status_bytes("VmHWM:")
}

/// A line of `/proc/self/status` such as `VmRSS:     1234 kB` (proc_pid_status(5)).
fn status_bytes(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
