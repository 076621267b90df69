//! `cargo xtask capped`: a command under a memory limit that counts the page cache, and what it really used.

use crate::arguments::Arguments;
use crate::cgroup::{Cgroup, Usage, number_after};
use crate::workspace::{output, root};
use anyhow::{Context, Result, bail};
use membrane_profile::ByteSize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

/// How often the process is looked at. Peaks come from the kernel's own counters, so a short one is not
/// missed unless the process ends within this time of it.
const SAMPLE_MS: u64 = 10;

/// What is known of the command when it has ended.
struct Report {
    limit_bytes: u64,
    usage: Usage,
    process: ProcessPeak,
    read_ahead_kib: Option<u64>,
    wall_seconds: f64,
    status: ExitStatus,
}

/// Counters of the process itself, all threads together.
#[derive(Default, Clone, Copy)]
struct ProcessPeak {
    /// `VmHWM`: highest resident set.
    peak_rss_bytes: u64,
    /// Bytes that the block layer read for it.
    disk_read_bytes: u64,
}

/// `cargo xtask capped`. Exits as the command did.
///
/// # Errors
/// When there is no cgroup to be had, or the command can't be started.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let memory: ByteSize = arguments.option("--memory")?.context("--memory SIZE is missing")?;
    let read_ahead_kib: Option<u64> = arguments.option("--read-ahead-kib")?;
    let json: Option<PathBuf> = arguments.option("--json")?;
    let mut cold: Vec<PathBuf> = Vec::new();
    while let Some(file) = arguments.option("--cold")? {
        cold.push(file);
    }
    let command = arguments.after();
    arguments.finish()?;
    if command.is_empty() {
        bail!("no command: `cargo xtask capped --memory 1GiB -- COMMAND ...`");
    }
    let device = cold.first().map_or_else(root, Clone::clone);
    let read_ahead = ReadAhead::set(&device, read_ahead_kib)?;
    for file in &cold {
        evict(file)?;
    }
    let report = measure(memory.bytes(), read_ahead.now_kib, &command)?;
    drop(read_ahead);
    eprint!("{}", report.text());
    if let Some(path) = json {
        let line = format!("{}\n", report.json(&command));
        fs::write(&path, line).with_context(|| format!("can't write {}", path.display()))?;
    }
    let code = report.status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn measure(limit_bytes: u64, read_ahead_kib: Option<u64>, command: &[String]) -> Result<Report> {
    let group = Cgroup::with_limit(limit_bytes)?;
    // The shell enters the cgroup and then becomes the command, so that none of its memory is counted
    // elsewhere.
    let enter = "echo $$ > \"$0\" && exec \"$@\"";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", enter]).arg(group.entrance()).args(command);
    let began = Instant::now();
    let mut child = shell.spawn().context("can't run /bin/sh")?;
    let (status, process) = watch(&mut child)?;
    let wall_seconds = began.elapsed().as_secs_f64();
    Ok(Report { limit_bytes, usage: group.usage(), process, read_ahead_kib, wall_seconds, status })
}

/// Waits for the child and keeps the last counters that could be read.
fn watch(child: &mut Child) -> Result<(ExitStatus, ProcessPeak)> {
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    let mut peak = ProcessPeak::default();
    loop {
        if let Ok(text) = fs::read_to_string(folder.join("status")) {
            // A process that is ending has no memory lines left.
            peak.peak_rss_bytes = peak.peak_rss_bytes.max(number_after(&text, "VmHWM") * 1024);
        }
        if let Ok(text) = fs::read_to_string(folder.join("io")) {
            peak.disk_read_bytes = peak.disk_read_bytes.max(number_after(&text, "read_bytes"));
        }
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        std::thread::sleep(Duration::from_millis(SAMPLE_MS));
    }
}

impl Report {
    fn text(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let read_ahead =
            self.read_ahead_kib.map_or_else(String::new, |kib| format!(", read-ahead {kib} KiB"));
        format!(
            "capped: limit {:.1} MiB, cgroup peak {:.1} MiB (page cache included), \
             limit met {} times, {} killed\n\
             capped: peak RSS {:.1} MiB, {:.1} MiB read from disk, {:.2} s{read_ahead}, {}\n",
            mib(self.limit_bytes),
            mib(self.usage.peak_bytes),
            self.usage.limit_hits,
            self.usage.oom_kills,
            mib(self.process.peak_rss_bytes),
            mib(self.process.disk_read_bytes),
            self.wall_seconds,
            self.status,
        )
    }

    fn json(&self, command: &[String]) -> serde_json::Value {
        serde_json::json!({
            "command": command,
            "limit_bytes": self.limit_bytes,
            "cgroup_peak_bytes": self.usage.peak_bytes,
            "limit_hits": self.usage.limit_hits,
            "oom_kills": self.usage.oom_kills,
            "peak_rss_bytes": self.process.peak_rss_bytes,
            "disk_read_bytes": self.process.disk_read_bytes,
            "read_ahead_kib": self.read_ahead_kib,
            "wall_seconds": self.wall_seconds,
            "exit_code": self.status.code(),
        })
    }
}

/// Takes a file out of the page cache: what another cgroup has read is not counted against this one.
fn evict(file: &Path) -> Result<()> {
    output(&mut Command::new("sync"))?;
    let input = format!("if={}", file.display());
    output(Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]))
        .with_context(|| format!("can't take {} out of the page cache", file.display()))?;
    Ok(())
}

/// The read-ahead of the device that holds a file; set for a while, then put back.
struct ReadAhead {
    file: PathBuf,
    before: Option<String>,
    /// What holds during the run, if the device tells.
    now_kib: Option<u64>,
}

impl ReadAhead {
    fn set(held_file: &Path, kib: Option<u64>) -> Result<Self> {
        let found = fs::metadata(held_file).with_context(|| held_file.display().to_string())?;
        let (major, minor) = device_numbers(found.dev());
        let file = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
        let mut before = None;
        if let Some(kib) = kib {
            let old = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
            fs::write(&file, kib.to_string())
                .with_context(|| format!("can't set the read-ahead in {}: run as root", file.display()))?;
            before = Some(old.trim().to_owned());
        }
        let now_kib = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Ok(Self { file, before, now_kib })
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = fs::write(&self.file, before)
        {
            eprintln!("{} could not be set back to {before}: {error}", self.file.display());
        }
    }
}

/// Major and minor number of a Linux device id.
fn device_numbers(device: u64) -> (u64, u64) {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & 0xffff_f000);
    let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
    (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_device_ids() {
        assert_eq!(device_numbers(0xfe00), (254, 0));
        assert_eq!(device_numbers(0x0010_0803), (8, 0x103));
    }

    #[test]
    fn watches_a_process_to_its_end() {
        let script = "x = bytearray(b'x') * (64 << 20); import time; time.sleep(0.3)";
        let mut child = Command::new("python3").args(["-c", script]).spawn().unwrap();
        let (status, peak) = watch(&mut child).unwrap();
        assert!(status.success());
        assert!(peak.peak_rss_bytes > 64 << 20, "{} bytes", peak.peak_rss_bytes);
    }
}
