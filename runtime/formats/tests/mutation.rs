//! Valid files damaged at random, tens of thousands of times: an error or a sound checkpoint, nothing else.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first thing that goes wrong")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::{ARRAY, BOOL, Counting, Raw, STR, U32, array, peak_bytes, string};
use membrane_formats::{Checkpoint, FormatError};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most that opening a file of a few kilobytes may allocate: the read buffer and small change.
const MOST_BYTES: u64 = 256 << 10;

/// A file that is overwritten for each try: to make it anew each time would take longer than all else.
struct Scratch {
    path: PathBuf,
    file: File,
    _folder: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.gguf");
        Self { file: File::create(&path).unwrap(), path, _folder: folder }
    }
}

/// Opens `bytes` as a file, and if they pass, checks that what came out is sound.
fn probe(scratch: &Scratch, bytes: &[u8]) -> Result<(), FormatError> {
    scratch.file.set_len(bytes.len() as u64).unwrap();
    scratch.file.write_all_at(bytes, 0).unwrap();
    let (result, peak) = peak_bytes(|| Checkpoint::open(&scratch.path));
    assert!(peak < MOST_BYTES, "{peak} bytes allocated for {} bytes:\n{}", bytes.len(), bytes.escape_ascii());
    let checkpoint = result.inspect_err(|error| assert!(!error.to_string().is_empty()))?;
    let mut end = 0;
    let mut tensors: Vec<_> = checkpoint.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.offset);
    for tensor in tensors {
        assert!(tensor.offset >= end && tensor.bytes > 0);
        end = tensor.offset + tensor.bytes;
        assert!(end <= bytes.len() as u64);
        let mut data = vec![0; tensor.bytes as usize];
        checkpoint.read(tensor, 0, &mut data).unwrap();
        assert_eq!(data, bytes[tensor.offset as usize..end as usize]);
        assert_eq!(checkpoint.tensor(&tensor.name), Some(tensor));
    }
    for (key, value) in checkpoint.metadata().iter() {
        assert_eq!(checkpoint.metadata().get(key).unwrap().to_string(), value.to_string());
        // Each either fits or is a typed error; neither may panic.
        let _ =
            (checkpoint.metadata().u32(key), checkpoint.metadata().f32(key), checkpoint.metadata().str(key));
        let _ = (checkpoint.metadata().i32_array(key), checkpoint.metadata().str_array(key));
    }
    Ok(())
}

/// Numbers that break size arithmetic.
const NASTY: [u64; 14] = [
    0,
    1,
    2,
    31,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// xorshift64*: the same damage on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.below(256) as u8,
        2 | 3 => {
            let nasty = NASTY[random.below(NASTY.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&nasty[..width]);
        }
        4 => bytes.truncate(at + 1),
        5 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        6 => {
            let from = random.below(bytes.len());
            let copy = bytes[from..(from + 1 + random.below(64)).min(bytes.len())].to_vec();
            bytes.splice(at..at, copy);
        }
        _ => {
            let other = random.below(bytes.len());
            bytes.swap(at, other);
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

fn seeds() -> Vec<Raw> {
    let wide = (0..8).fold(Raw::default(), |raw, index| raw.u32(&format!("key.{index}"), index));
    let wide = (0..8).fold(wide, |raw, index| raw.tensor(&format!("blk.{index}"), &[2, 2, 2], 0, 32 * index));
    let aligned = Raw { alignment: 64, ..Raw::default() }
        .u32("general.alignment", 64)
        .entry("list", ARRAY, &array(STR, 2, &[string(b"one"), string(b"two")].concat()))
        .entry("flag", BOOL, &[0])
        .entry("none", ARRAY, &array(U32, 0, &[]));
    vec![
        Raw::valid(),
        Raw { version: 2, ..Raw::valid() },
        wide.data(256),
        aligned.tensor("w", &[256], 14, 64).data(512),
        Raw::valid().u32("split.count", 2).u32("split.no", 0),
    ]
}

#[test]
fn random_damage() {
    let scratch = Scratch::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..6_000 {
        for seed in seeds() {
            let mut bytes = if round % 2 == 0 { seed.header() } else { seed.bytes() };
            for _ in 0..1 + random.below(6) {
                damage(&mut bytes, &mut random);
            }
            if round % 2 == 0 {
                // Damage to the header alone, so that not all of it lands in the data.
                bytes.resize(bytes.len().next_multiple_of(seed.alignment) + seed.data, 0);
            }
            match probe(&scratch, &bytes) {
                Ok(()) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
    }
    // If either were rare, this would test less than it says.
    assert!(accepted > 500 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn every_truncation_is_refused() {
    let scratch = Scratch::new();
    for seed in seeds().iter().take(4) {
        let bytes = seed.bytes();
        let whole = probe(&scratch, &bytes);
        assert!(whole.is_ok(), "{whole:?}");
        let end = Checkpoint::open(&scratch.path)
            .unwrap()
            .tensors()
            .iter()
            .map(|t| t.offset + t.bytes)
            .max()
            .unwrap();
        for length in 0..end as usize {
            let result = probe(&scratch, &bytes[..length]);
            assert!(matches!(result, Err(FormatError::Truncated { .. })), "{length}: {result:?}");
        }
    }
}

#[test]
fn nasty_numbers_everywhere() {
    let scratch = Scratch::new();
    for seed in seeds() {
        let bytes = seed.bytes();
        for at in 0..seed.header().len() {
            for nasty in NASTY {
                for width in [4, 8] {
                    let mut damaged = bytes.clone();
                    let end = (at + width).min(damaged.len());
                    damaged[at..end].copy_from_slice(&nasty.to_le_bytes()[..end - at]);
                    // The probe asserts; either verdict is right.
                    let _ = probe(&scratch, &damaged);
                }
            }
        }
    }
}
