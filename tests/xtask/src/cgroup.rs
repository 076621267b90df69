//! A memory cgroup that counts the page cache, of the first or the second version.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cgroup made for one command. It is removed when the value is dropped.
pub struct Cgroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What a cgroup counted over its life.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// Highest sum of anonymous memory, page cache and kernel memory.
    pub peak_bytes: u64,
    /// How often an allocation met the limit and had to reclaim.
    pub limit_hits: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

impl Cgroup {
    /// Makes a cgroup with a limit. Swap does not extend it.
    ///
    /// # Errors
    /// When there is no memory controller, or the process may not make a cgroup.
    pub fn with_limit(limit_bytes: u64) -> Result<Self> {
        let base = Path::new("/sys/fs/cgroup");
        let version = if base.join("memory/memory.limit_in_bytes").exists() {
            Version::One
        } else if fs::read_to_string(base.join("cgroup.controllers"))
            .is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "memory"))
        {
            Version::Two
        } else {
            bail!(
                "there is no memory controller under /sys/fs/cgroup: a capped run needs Linux with cgroups"
            );
        };
        let parent = if version == Version::One { base.join("memory") } else { base.to_path_buf() };
        if version == Version::Two {
            // Where the controller is on for children already, the write changes nothing.
            fs::write(parent.join("cgroup.subtree_control"), "+memory")
                .with_context(|| needs_root(&parent))?;
        }
        let folder = parent.join(format!("membrane-capped-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| needs_root(&parent))?;
        let group = Self { folder, version };
        group.limit(limit_bytes)?;
        Ok(group)
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        let (limit, swap, swap_value) = match self.version {
            Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            Version::Two => ("memory.max", "memory.swap.max", 0),
        };
        let file = self.folder.join(limit);
        fs::write(&file, bytes.to_string()).with_context(|| format!("can't write {}", file.display()))?;
        let swap = self.folder.join(swap);
        if swap.exists() {
            fs::write(&swap, swap_value.to_string())
                .with_context(|| format!("can't write {}", swap.display()))?;
        }
        Ok(())
    }

    /// The file to which a process writes its id to enter.
    pub fn entrance(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// What was counted so far.
    pub fn usage(&self) -> Usage {
        match self.version {
            Version::One => Usage {
                peak_bytes: self.number("memory.max_usage_in_bytes"),
                // With a limit on swap too, the kernel meets and counts that one first.
                limit_hits: self.number("memory.failcnt") + self.number("memory.memsw.failcnt"),
                oom_kills: self.field("memory.oom_control", "oom_kill"),
            },
            Version::Two => Usage {
                peak_bytes: self.number("memory.peak"),
                limit_hits: self.field("memory.events", "max"),
                oom_kills: self.field("memory.events", "oom_kill"),
            },
        }
    }

    fn number(&self, file: &str) -> u64 {
        fs::read_to_string(self.folder.join(file)).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    fn field(&self, file: &str, name: &str) -> u64 {
        fs::read_to_string(self.folder.join(file)).map_or(0, |text| number_after(&text, name))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel frees the last process a moment after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} could not be removed: a process is still in it", self.folder.display());
    }
}

fn needs_root(parent: &Path) -> String {
    format!("can't make a cgroup under {}: run as root", parent.display())
}

/// The number on the line that begins with the word `name`, or 0.
pub fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().map(|line| line.split([' ', ':', '\t']).filter(|word| !word.is_empty()));
    line.filter_map(|mut words| (words.next()? == name).then_some(words.next()?.parse().ok()?))
        .next()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_by_name() {
        let text = "low 0\nmax 17\noom 2\noom_kill 1\nVmHWM:\t  5120 kB\nread_bytes: 77\n";
        assert_eq!(number_after(text, "oom_kill"), 1);
        assert_eq!(number_after(text, "max"), 17);
        assert_eq!(number_after(text, "VmHWM"), 5120);
        assert_eq!(number_after(text, "read_bytes"), 77);
        assert_eq!(number_after(text, "high"), 0);
    }
}
