//! Memory limits of control groups, of both versions (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 writes a number near 2^63 where there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// A control group that this process is in, itself or by a group within it, and that limits memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where its files are.
    pub folder: PathBuf,
    /// Most memory of all its processes together, in bytes.
    pub limit: u64,
    /// Of what they use, bytes that are no page cache.
    pub unreclaimable: u64,
}

/// What the files of a version are called.
struct Version {
    /// Below the root of the file system.
    mount: &'static str,
    /// Limits; the least of them counts. Beyond `memory.high` processes are slowed down until they hardly move.
    limits: &'static [&'static str],
    usage: &'static str,
    /// Entries of `memory.stat` for page cache, of the groups within included.
    cache: [&'static str; 2],
}

const VERSION_1: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};
const VERSION_2: Version = Version {
    mount: "sys/fs/cgroup",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    cache: ["inactive_file", "active_file"],
};

/// The groups that limit the memory of this process, of a system whose files are below `root`.
pub(crate) fn limits(root: &Path) -> Vec<Group> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    text.lines().flat_map(|line| of_line(root, line)).collect()
}

/// The groups of a line `ID:CONTROLLERS:PATH`.
fn of_line(root: &Path, line: &str) -> Vec<Group> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    let version = match controllers {
        "" => VERSION_2,
        _ if controllers.split(',').any(|controller| controller == "memory") => VERSION_1,
        _ => return Vec::new(),
    };
    // The path is as seen from a root that a container may not see: then only what is at the mount exists.
    let inside: PathBuf = Path::new(path).components().filter(|part| is_name(*part)).collect();
    inside.ancestors().filter_map(|path| group(root.join(version.mount).join(path), &version)).collect()
}

/// Whether a part of a path leads to a folder within, and not out of it.
fn is_name(part: std::path::Component<'_>) -> bool {
    matches!(part, std::path::Component::Normal(_))
}

fn group(folder: PathBuf, version: &Version) -> Option<Group> {
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit =
        version.limits.iter().filter_map(|file| number(file)).min().filter(|&limit| limit < NO_LIMIT)?;
    let usage = number(version.usage).unwrap_or(0);
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let entries = stat.lines().filter_map(|line| line.split_once(' '));
    let cache = entries.filter(|(key, _)| version.cache.contains(key));
    let cache: u64 =
        cache.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).fold(0, u64::saturating_add);
    Some(Group { folder, limit, unreclaimable: usage.saturating_sub(cache) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Files below a root of their own.
    pub(crate) fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)]) -> Vec<(String, u64, u64)> {
        let root = system(files);
        let told = |group: Group| {
            let folder = group.folder.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned();
            (folder, group.limit, group.unreclaimable)
        };
        limits(root.path()).into_iter().map(told).collect()
    }

    #[test]
    fn version_2_nested() {
        let groups = found(&[
            ("proc/self/cgroup", "0::/user/shell/run\n"),
            ("sys/fs/cgroup/memory.stat", "anon 5\n"),
            ("sys/fs/cgroup/user/memory.max", "9000\n"),
            ("sys/fs/cgroup/user/memory.current", "800\n"),
            ("sys/fs/cgroup/user/memory.stat", "anon 5\ninactive_file 100\nactive_file 200\nfile 999\n"),
            ("sys/fs/cgroup/user/shell/memory.max", "max\n"),
            ("sys/fs/cgroup/user/shell/memory.high", "7000\n"),
            ("sys/fs/cgroup/user/shell/run/memory.max", "max\n"),
        ]);
        let (user, shell) = ("sys/fs/cgroup/user".to_owned(), "sys/fs/cgroup/user/shell".to_owned());
        assert_eq!(groups, [(shell, 7000, 0), (user, 9000, 500)]);
    }

    #[test]
    fn version_1_beside_other_controllers() {
        let lines = "9:name=systemd:/s\n4:cpu,cpuacct:/c\n3:memory:/box\n0::/\n";
        let none = "9223372036854771712\n";
        let groups = found(&[
            ("proc/self/cgroup", lines),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", none),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "5000"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "4000"),
            ("sys/fs/cgroup/memory/box/memory.stat", "inactive_file 1\ntotal_inactive_file 1500\n"),
            ("sys/fs/cgroup/cpu/c/memory.limit_in_bytes", "1"),
        ]);
        assert_eq!(groups, [("sys/fs/cgroup/memory/box".to_owned(), 5000, 2500)]);
    }

    #[test]
    fn a_container_that_sees_its_own_group_at_the_mount() {
        let limit = ("sys/fs/cgroup/memory.max", "6000\n");
        for path in ["/", "/docker/0123", "/../../outside"] {
            let groups = found(&[("proc/self/cgroup", &format!("0::{path}\n")), limit]);
            assert_eq!(groups, [("sys/fs/cgroup".to_owned(), 6000, 0)], "{path}");
        }
    }

    #[test]
    fn what_is_no_number_limits_nothing() {
        for text in ["max", "", "-1", "12 MiB", "99999999999999999999999"] {
            assert_eq!(found(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", text)]), []);
        }
        assert_eq!(found(&[("proc/self/cgroup", "no lines\n0:\n")]), []);
        assert_eq!(found(&[]), []);
    }
}
