//! Model files that are one huge key: every verb ends in a typed error or in its normal output, in bounded time
//! and under 100 MB.
//!
//! A binary of its own with one test: what is measured are all children of this process together.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may stop at the first thing that goes wrong")]

#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "it/program.rs"]
mod program;

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use program::{MOE, changed, command};

const MOST_BYTES: i64 = 100_000_000;
/// Of the processor's time. A quiet machine takes at most a second; the rest is for one that is not. What this
/// stops took half a minute.
const MOST_MILLISECONDS: i64 = 5000;

/// Type ids of metadata values.
const U8: u32 = 0;
const I32: u32 = 5;
const BOOL: u32 = 7;
const STR: u32 = 8;
const ARRAY: u32 = 9;

/// A metadata entry that is never whole in memory: what this process takes counts against its children.
struct Entry {
    key: String,
    /// Type and length.
    head: Vec<u8>,
    piece: Vec<u8>,
    times: u64,
}

impl Entry {
    fn array(key: &str, kind: u32, piece: &[u8], times: u64) -> Self {
        let head = [&ARRAY.to_le_bytes()[..], &kind.to_le_bytes(), &times.to_le_bytes()].concat();
        Self { key: key.into(), head, piece: piece.into(), times }
    }

    /// A text of zeros, which are text like any other and take no room on the disk.
    fn text(key: &str, length: u64) -> Self {
        let head = [&STR.to_le_bytes()[..], &length.to_le_bytes()].concat();
        Self { key: key.into(), head, piece: vec![0], times: length }
    }

    fn bytes(&self) -> u64 {
        (8 + self.key.len() + self.head.len()) as u64 + self.piece.len() as u64 * self.times
    }

    fn write(&self, out: &mut BufWriter<File>) {
        out.write_all(&(self.key.len() as u64).to_le_bytes()).unwrap();
        out.write_all(self.key.as_bytes()).unwrap();
        out.write_all(&self.head).unwrap();
        if self.piece.iter().all(|&byte| byte == 0) {
            out.seek(SeekFrom::Current((self.piece.len() as u64 * self.times) as i64)).unwrap();
        } else {
            (0..self.times).for_each(|_| out.write_all(&self.piece).unwrap());
        }
    }
}

fn string(length: usize) -> Vec<u8> {
    [&(length as u64).to_le_bytes()[..], &vec![b'i'; length]].concat()
}

/// The fixture with these entries in place of its own of the same keys.
fn model(folder: &Path, mut entries: Vec<Entry>) -> PathBuf {
    let base = changed(MOE, folder, |metadata| {
        for entry in &entries {
            metadata.remove(&entry.key);
        }
    });
    let base = std::fs::read(base).unwrap();
    // Tensors stay aligned if what comes before them grows by a multiple of 32 bytes.
    let mut padding = Entry::array("padding", U8, &[0], 0);
    let bytes = padding.bytes() + entries.iter().map(Entry::bytes).sum::<u64>();
    padding = Entry::array("padding", U8, &[0], bytes.next_multiple_of(32) - bytes);
    entries.push(padding);
    let path = folder.join("hostile.gguf");
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let count = u64::from_le_bytes(base[16..24].try_into().unwrap()) + entries.len() as u64;
    out.write_all(&base[..16]).unwrap();
    out.write_all(&count.to_le_bytes()).unwrap();
    entries.iter().for_each(|entry| entry.write(&mut out));
    out.write_all(&base[24..]).unwrap();
    out.flush().unwrap();
    path
}

fn children() -> Usage {
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap()
}

/// Runs the binary to its end and holds it to the bounds.
fn bounded(case: &str, arguments: &[&str]) -> Output {
    let time = |usage: Usage| usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds();
    let before = time(children());
    let output = command(arguments).stdout(Stdio::null()).output().unwrap();
    let usage = children();
    let (taken, peak) = (time(usage) - before, usage.max_rss() * 1024);
    assert!(peak < MOST_BYTES, "{case}: {arguments:?} took {peak} bytes");
    assert!(taken < MOST_MILLISECONDS, "{case}: {arguments:?} took {taken} ms");
    output
}

#[test]
fn one_huge_key() {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const MERGES: &str = "tokenizer.ggml.merges";
    const TYPES: &str = "tokenizer.ggml.token_type";
    const MIB: u64 = 1 << 20;
    let many = |entry: &dyn Fn(&str) -> Entry| (0..31).map(|index| entry(&format!("x.{index}"))).collect();
    // What the error must name; none if the file is accepted.
    let cases: [(Vec<Entry>, Option<&str>); 21] = [
        (vec![Entry::array("x.blob", U8, &[0], 60_000_000)], Some("x.blob")),
        (vec![Entry::array("x.blob", BOOL, &[0], 60_000_000)], Some("x.blob")),
        (vec![Entry::array("x.blob", STR, &[0; 8], 7_500_000)], Some("x.blob")),
        (vec![Entry::text("x.blob", 60_000_000)], Some("x.blob")),
        (vec![Entry::text("tokenizer.chat_template", 50_000_000)], Some("tokenizer.chat_template")),
        (vec![Entry::text("general.architecture", 60_000_000)], Some("general.architecture")),
        (vec![Entry::text("tokenizer.ggml.pre", 60_000_000)], Some("tokenizer.ggml.pre")),
        (vec![Entry::array(TOKENS, STR, &[0; 8], 7_500_000)], Some(TOKENS)),
        (vec![Entry::array(TOKENS, STR, &string(48), 1_000_000)], Some(TOKENS)),
        (vec![Entry::array(MERGES, STR, &string(3), 5_000_000)], Some(MERGES)),
        (vec![Entry::array(TYPES, I32, &[0; 4], 15_000_000)], Some(TYPES)),
        // Within the limits of the format, and refused by whoever reads the key.
        (vec![Entry::text("tokenizer.chat_template", MIB)], Some("tokenizer.chat_template")),
        (vec![Entry::text("general.architecture", MIB)], Some("architecture")),
        (vec![Entry::array(TOKENS, STR, &string(20), MIB)], Some(TOKENS)),
        (vec![Entry::array(TOKENS, STR, &string(30_000), 1024)], Some(TOKENS)),
        (vec![Entry::array(MERGES, STR, &string(3), 2 * MIB)], Some(MERGES)),
        (vec![Entry::array(MERGES, STR, &string(3900), 8192)], Some(MERGES)),
        (vec![Entry::array(TYPES, U8, &[0], 2 * MIB)], Some(TYPES)),
        // As much as there may be of what nobody reads.
        (many(&|key| Entry::array(key, U8, &[0], MIB)), None),
        (many(&|key| Entry::array(key, STR, &[0; 8], MIB / 8)), None),
        (many(&|key| Entry::text(key, MIB)), None),
    ];
    for (index, (entries, named)) in cases.into_iter().enumerate() {
        let case = format!("case {index}, {}", entries[0].key);
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path(), entries);
        let path = path.to_str().unwrap();
        bounded(&case, &["model", "inspect", path]);
        bounded(&case, &["model", "inspect", path, "--json"]);
        let run = bounded(&case, &["run", path, "hello", "--sampler", "greedy", "-n", "1", "-q"]);
        let errors = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(if named.is_some() { 2 } else { 0 }), "{case}: {errors}");
        if let Some(named) = named {
            assert!(errors.contains("hostile.gguf: ") && errors.contains(named), "{case}: {errors}");
            assert!(errors.len() < 1000 && !errors.contains("panicked"), "{case}: {errors}");
        }
    }
}
