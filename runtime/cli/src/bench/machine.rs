//! On what a measurement was made: build, machine, model, flags.

use std::fs;

use anyhow::{Context, Result};
use membrane_engine::process;
use membrane_formats::Checkpoint;
use membrane_profile::Digester;
use serde::Serialize;

use super::Args;
use crate::model::DIGESTED_BYTES;
use crate::{digests, fingerprint};

/// The commit that this program was built from, `-dirty` behind it if files differed from it.
const COMMIT: &str = env!("MEMBRANE_COMMIT");

/// All of it.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// UTC, as in `2026-01-31T12:00:00Z`.
    pub date: String,
    pub version: &'static str,
    pub commit: &'static str,
    pub machine: Machine,
    pub model: ModelName,
    /// Flags as they were given, beside those of which a case has one value of several; some have a column too, such as
    /// `--threads`.
    pub flags: String,
}

/// The machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    pub memory_bytes: u64,
    /// Of the operating system.
    pub kernel: String,
}

/// The model.
#[derive(Debug, Serialize)]
pub struct ModelName {
    /// Of the file or folder.
    pub name: String,
    /// Of all its files.
    pub bytes: u64,
    /// Of several files that of the list of theirs.
    pub digest: String,
    /// What was digested: `file`, or of large models of which it is not known, the `header` before the weights.
    pub digest_of: &'static str,
}

impl Setting {
    pub fn of(checkpoint: &Checkpoint, args: &Args) -> Result<Self> {
        Ok(Self {
            date: date(),
            version: env!("CARGO_PKG_VERSION"),
            commit: COMMIT,
            machine: Machine::this(),
            model: ModelName::of(checkpoint)?,
            flags: flags(args),
        })
    }
}

impl Machine {
    fn this() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            processors,
            memory_bytes: process::machine_bytes("MemTotal:").unwrap_or(0),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The processor's name in `/proc/cpuinfo`; those of Arm have numbers in its place.
fn processor(cpuinfo: &str) -> String {
    let of = |key: &str| {
        let line =
            cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let arm = || Some(format!("implementer {} part {}", of("CPU implementer")?, of("CPU part")?));
    of("model name").or_else(arm).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

impl ModelName {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.files();
        let bytes = files.iter().map(|file| file.bytes).sum();
        let known: Option<Vec<_>> = files.iter().map(digests::remembered).collect();
        let (digests, digest_of) = match known {
            Some(known) => (known, "file"),
            None if bytes <= DIGESTED_BYTES => {
                let read = files.iter().map(|file| Ok(digests::whole(file, true)?.0));
                (read.collect::<Result<_>>().context("computing the model's digest")?, "file")
            }
            None => {
                let headers = (0..files.len()).map(|index| fingerprint::header(checkpoint, index));
                (headers.collect::<std::io::Result<_>>().context("computing the header's digest")?, "header")
            }
        };
        let digest = match &digests[..] {
            [one] => one.to_string(),
            several => {
                let mut digester = Digester::default();
                several.iter().for_each(|digest| digester.update(format!("{digest}\n").as_bytes()));
                digester.finish().to_string()
            }
        };
        let name = checkpoint.path().file_name().unwrap_or(checkpoint.path().as_os_str());
        Ok(Self { name: name.to_string_lossy().into_owned(), bytes, digest, digest_of })
    }
}

/// Flags that change figures, as they were given; not the model, those of which a case has one value, and those that say where
/// figures go.
fn flags(args: &Args) -> String {
    const LEFT_OUT: [&str; 9] = [
        "--json",
        "--csv",
        "--against",
        "--peer-args",
        "--repeat",
        "--memory",
        "--start",
        "--context",
        "--depth",
    ];
    let own = args.model.model.as_os_str();
    let mut kept = Vec::new();
    let mut words = std::env::args_os().skip(2);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (name, joined) = text.split_once('=').map_or((&*text, false), |(name, _)| (name, true));
        match LEFT_OUT.contains(&name) {
            true if joined || name == "--json" => {}
            true => drop(words.next()),
            false if word == own || word == "--" => {}
            false => kept.push(text),
        }
    }
    kept.join(" ")
}

/// Now, in UTC.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    date_of(now.as_secs())
}

/// The date and time so many seconds after the beginning of 1970.
fn date_of(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", month + 1, days + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date_of(0), "1970-01-01T00:00:00Z");
        assert_eq!(date_of(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date_of(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date_of(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(date_of(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn names_of_processors() {
        let intel = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Some CPU @ 2.00GHz\n";
        assert_eq!(processor(intel), "Some CPU @ 2.00GHz");
        let arm = "processor : 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";
        assert_eq!(processor(arm), "implementer 0x41 part 0xd40");
        assert_eq!(processor(""), std::env::consts::ARCH);
    }
}
