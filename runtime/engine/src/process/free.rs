//! How much memory a process may take where nobody has said: what the machine and the control groups have free, less a margin.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{machine_bytes_at, status_bytes};
use crate::control_group;
use crate::plan::Bytes;

/// The margin is this part of what is free.
const MARGIN_FRACTION: u64 = 16;
/// Least margin, in bytes: page tables and other memory of the kernel that control groups count, and what others take meanwhile.
const LEAST_MARGIN: u64 = 64 << 20;
/// Most margin, in bytes.
const MOST_MARGIN: u64 = 2 << 30;

/// What a process may take of the memory that is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FreeMemory {
    /// Ceiling on the whole process: what it holds already and what is free, less the margin.
    pub budget: Bytes,
    /// What it holds already and what is free.
    pub free: Bytes,
    /// Kept free for others.
    pub margin: Bytes,
    /// What has least free.
    pub limited_by: LimitedBy,
}

/// Whose memory it is that is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The machine's.
    Machine,
    /// That of a control group of this process.
    ControlGroup {
        /// Its folder.
        folder: PathBuf,
        /// Its limit.
        limit: Bytes,
    },
}

/// The machine, in messages.
pub(crate) const THIS_MACHINE: &str = "this machine";
/// Whichever control group limits most, in messages.
pub(crate) const CONTROL_GROUP: &str = "the control group of this process";

impl LimitedBy {
    /// As messages have it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Machine => THIS_MACHINE,
            Self::ControlGroup { .. } => CONTROL_GROUP,
        }
    }
}

impl FreeMemory {
    /// What is free now; none where the system does not tell.
    pub fn now() -> Option<Self> {
        Self::at(Path::new("/"), status_bytes("RssAnon:"))
    }

    /// The same of a system whose files are below `root`, for a process that holds `own` bytes which nobody can reclaim.
    fn at(root: &Path, own: u64) -> Option<Self> {
        let machine = machine_bytes_at(root, "MemAvailable:").map(|free| (free, LimitedBy::Machine));
        let groups = control_group::limits(root).into_iter().map(|group| {
            let by = LimitedBy::ControlGroup { folder: group.folder, limit: Bytes(group.limit) };
            (group.limit.saturating_sub(group.unreclaimable), by)
        });
        let (free, limited_by) = machine.into_iter().chain(groups).min_by_key(|(free, _)| *free)?;
        let free = free.saturating_add(own);
        let margin = (free / MARGIN_FRACTION).clamp(LEAST_MARGIN, MOST_MARGIN);
        let budget = Bytes(free.saturating_sub(margin));
        Some(Self { budget, free: Bytes(free), margin: Bytes(margin), limited_by })
    }
}

impl fmt::Display for FreeMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, free, margin, limited_by } = self;
        write!(f, "{budget}: ")?;
        match limited_by {
            LimitedBy::Machine => write!(f, "the machine has {free} free")?,
            LimitedBy::ControlGroup { folder, limit } => {
                write!(f, "of {limit} the control group {} has {free} free", folder.display())?;
            }
        }
        write!(f, ", less a margin of {margin}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_group::tests::system;

    const MIB: u64 = 1 << 20;

    fn free(root: &tempfile::TempDir, own: u64) -> FreeMemory {
        FreeMemory::at(root.path(), own).unwrap()
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  8388608 kB\nMemFree: 10 kB\nMemAvailable:  4194304 kB\n");

    #[test]
    fn without_control_groups_it_is_what_the_machine_has_available() {
        let root = system(&[MEMINFO]);
        let found = free(&root, 16 * MIB);
        assert_eq!((found.free.0, found.limited_by.clone()), (4112 * MIB, LimitedBy::Machine));
        assert_eq!(found.margin.0, 257 * MIB);
        assert_eq!(found.budget.0 + found.margin.0, found.free.0);
        assert!(FreeMemory::at(system(&[]).path(), MIB).is_none());
    }

    #[test]
    fn the_margin_has_bounds() {
        let of = |kib: u64| free(&system(&[("proc/meminfo", &format!("MemAvailable: {kib} kB\n"))]), 0);
        assert_eq!(of(100 << 10).margin.0, 64 * MIB);
        assert_eq!((of(10 << 10).margin.0, of(10 << 10).budget.0), (64 * MIB, 0));
        assert_eq!(of(1 << 30).margin.0, 2048 * MIB);
    }

    #[test]
    fn the_control_group_with_least_left_counts() {
        let root = system(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a/memory.current", "943718400\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 104857600\nactive_file 104857600\n"),
            ("sys/fs/cgroup/a/b/memory.max", "536870912\n"),
            ("sys/fs/cgroup/a/b/memory.current", "0\n"),
        ]);
        // Of the outer group 324 MiB are left, its page cache counted as free; of the inner one 512.
        let found = free(&root, 10 * MIB);
        assert_eq!(found.free.0, 334 * MIB);
        let folder = root.path().join("sys/fs/cgroup/a");
        assert_eq!(found.limited_by, LimitedBy::ControlGroup { folder, limit: Bytes(1024 * MIB) });
        let told = found.to_string();
        assert!(told.contains("270MiB: of 1024MiB") && told.contains("less a margin of 64MiB"), "{told}");
    }
}
