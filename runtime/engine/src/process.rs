//! What the operating system says of the memory of this process and of the machine.

use std::fs;
use std::path::Path;

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
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The memory limit of this process' control group, version 2 or 1, and of those around it; none if there is
/// no limit.
pub fn control_group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // The path is as seen from the root, which a container may not see: then only the root exists.
        let folders =
            Path::new(path.trim_start_matches('/')).ancestors().map(|path| Path::new(root).join(path));
        let read = |folder: std::path::PathBuf| -> Option<u64> {
            fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
        };
        folders.filter_map(read).min()
    });
    // Version 1 writes a number near 2^63 where there is no limit.
    limits.filter(|&limit| limit < 1 << 60).min()
}

/// A line of `/proc/self/status` such as `VmRSS:     1234 kB` (proc_pid_status(5)).
fn status_bytes(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
