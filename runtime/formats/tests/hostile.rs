//! Model files made to break a reader: each ends in a typed error, in under a second and 60 MB.
//!
//! One test for a class of attack. Numbers of published flaws stand where a case repeats one.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first thing that goes wrong")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{ARRAY, BOOL, Counting, I32, Raw, STR, U32, array, lying_string, peak_bytes, string};
use membrane_formats::{Checkpoint, FormatError, ShapeError, limits};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens `path` within the bounds that hold for every file.
fn open(path: &Path) -> Result<Checkpoint, FormatError> {
    let start = thread_time();
    let (result, peak) = peak_bytes(|| Checkpoint::open(path));
    let time = thread_time() - start;
    assert!(time < Duration::from_secs(1), "{} took {time:?}", path.display());
    assert!(peak < 60_000_000, "{} took {peak} bytes", path.display());
    result
}

/// Processor time of this thread, which other work on the machine does not lengthen.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every supported system and `time` is valid for writing.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    fs::write(&path, bytes).unwrap();
    let result = open(&path);
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(message.contains("hostile.gguf"), "names no file: {message}");
        assert!(!message.contains(|c: char| c.is_control()), "control characters: {message:?}");
        assert!(message.len() < 600, "{message}");
    }
    result
}

/// Asserts that the result is this error and that its message has these texts.
macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)? $(, $text:expr)* $(,)?) => {{
        let error = $result.map(drop).expect_err("accepted");
        assert!(matches!(error, $pattern $(if $guard)?), "{error:?}");
        let (message, texts): (_, &[&str]) = (error.to_string(), &[$($text),*]);
        texts.iter().for_each(|text| assert!(message.contains(text), "no {text:?} in: {message}"));
    }};
}

fn refused_tensor(dims: &[u64], kind: u32, offset: u64) -> Result<Checkpoint, FormatError> {
    open_bytes(&Raw::default().tensor("w", dims, kind, offset).data(4096).bytes())
}

#[test]
fn the_valid_file_is_accepted() {
    let checkpoint = open_bytes(&Raw::valid().bytes()).unwrap();
    assert_eq!(checkpoint.tensors().len(), 3);
    let mut bytes = [0; 32];
    checkpoint.read(checkpoint.require("norm").unwrap(), 0, &mut bytes).unwrap();
    assert_eq!(bytes, std::array::from_fn(|index| 160 + index as u8));
}

#[test]
fn case_1_magic_and_version() {
    let with = |magic: &[u8; 4], version| open_bytes(&Raw { magic: *magic, version, ..Raw::valid() }.bytes());
    refused!(with(b"GGML", 3), FormatError::Magic { .. }, "GGML");
    refused!(with(b"\x1b[2J", 3), FormatError::Magic { .. }, "[2J");
    refused!(with(b"FUGG", 3), FormatError::ByteSwapped { .. }, "little-endian");
    for version in [0, 1, 4, u32::MAX] {
        refused!(with(b"GGUF", version), FormatError::Version { found, .. } if found == version);
    }
    for version in [2u32, 3] {
        refused!(with(b"GGUF", version.swap_bytes()), FormatError::ByteSwapped { .. }, "little-endian");
    }
    refused!(open_bytes(b""), FormatError::Truncated { .. }, "magic");
    refused!(open_bytes(b"GGUF\x03\0"), FormatError::Truncated { .. }, "version");
}

#[test]
fn case_2_counts_beyond_the_file() {
    // TALOS-2024-1913, CVE-2024-21802 and its kind; reserve(count).
    let counts = |tensors, entries| {
        let raw = Raw { tensor_count: Some(tensors), entry_count: Some(entries), ..Raw::default() };
        let bytes = raw.header();
        assert_eq!(bytes.len(), 24);
        open_bytes(&bytes)
    };
    refused!(counts(u64::MAX, 0), FormatError::Limit { .. }, "number of tensors");
    refused!(counts(0, u64::MAX), FormatError::Limit { .. }, "number of metadata entries");
    refused!(counts(1 << 63, 1 << 63), FormatError::Limit { .. });
    refused!(counts(limits::TENSORS, 0), FormatError::Truncated { left: 0, .. }, "65536 tensors");
    refused!(counts(0, limits::METADATA_ENTRIES), FormatError::Truncated { .. }, "16384 metadata entries");
    refused!(counts(1, 0), FormatError::Truncated { .. });
    // The sum of both must be there, not each alone.
    let both = Raw { tensor_count: Some(10), entry_count: Some(25), ..Raw::default() };
    let mut bytes = both.header();
    bytes.resize(24 + 350, 0);
    refused!(open_bytes(&bytes), FormatError::Truncated { wanted: 680, left: 350, .. });
}

#[test]
fn case_3_lengths_of_strings() {
    // CVE-2024-23605, CVE-2024-21825, and case 4: lengths near 2^64 that wrap a position.
    for length in [u64::MAX, u64::MAX - 7, u64::MAX - 40, 1 << 63, 1 << 40, 10_000] {
        let value = Raw::default().entry("k", STR, &lying_string(length, b"abc"));
        let result = open_bytes(&value.bytes());
        refused!(result, FormatError::Truncated { wanted, .. } if wanted == length, "\"k\"");
        let key = Raw::default().raw_entry(lying_string(length, b"abcdefghijklmnop"));
        refused!(open_bytes(&key.bytes()), FormatError::Limit { .. } | FormatError::Truncated { .. }, "key");
        let element = array(STR, 2, &[string(b"x"), lying_string(length, b"y")].concat());
        let raw = Raw::default().entry("words", ARRAY, &element);
        refused!(open_bytes(&raw.bytes()), FormatError::Truncated { .. }, "\"words\"");
        let name = Raw { tensors: vec![lying_string(length, &[b'n'; 40])], ..Raw::default() };
        refused!(open_bytes(&name.bytes()), FormatError::Limit { .. }, "name", "item 0");
    }
}

#[test]
fn case_3_lengths_of_arrays() {
    for kind in [0, 1, 2, 3, U32, I32, 6, BOOL, STR, 10, 11, 12] {
        for count in [1 << 60, u64::MAX, u64::MAX / 8 + 2, 1 << 61, 5_000] {
            let raw = Raw::default().entry("list", ARRAY, &array(kind, count, &[0; 16]));
            refused!(open_bytes(&raw.bytes()), FormatError::Truncated { .. }, "\"list\"");
        }
    }
}

#[test]
fn case_3_unknown_and_nested_element_types() {
    // An unknown type that takes no bytes made a reader loop 2^60 times (kekzl/imp PR 532).
    for kind in [13, 99, u32::MAX, 0x8000_0000] {
        let raw = Raw::default().entry("list", ARRAY, &array(kind, 1 << 60, &[0; 64]));
        refused!(open_bytes(&raw.bytes()), FormatError::Entry { .. }, "\"list\"", "elements");
        let raw = Raw::default().entry("value", kind, &[0; 64]);
        refused!(open_bytes(&raw.bytes()), FormatError::Entry { .. }, "\"value\"", "not known");
    }
    let mut nested = array(U32, 1, &[0; 4]);
    for _ in 0..1000 {
        nested = array(ARRAY, 1, &nested);
    }
    let raw = Raw::default().entry("deep", ARRAY, &nested);
    refused!(open_bytes(&raw.bytes()), FormatError::Entry { .. }, "\"deep\"", "array of arrays");
}

#[test]
fn case_3_values_that_do_not_exist() {
    let raw = Raw::default().entry("flag", BOOL, &[2]);
    refused!(open_bytes(&raw.bytes()), FormatError::Entry { .. }, "\"flag\"", "2, not 0 or 1");
    let raw = Raw::default().entry("flags", ARRAY, &array(BOOL, 3, &[1, 0, 255]));
    refused!(open_bytes(&raw.bytes()), FormatError::Entry { .. }, "\"flags\"", "255");
}

#[test]
fn case_3_a_short_string_does_not_shift_what_follows() {
    // A reader that went on after a short string took its bytes for the next length.
    let mut bytes = Raw::default().entry("k", STR, &string(&[b'x'; 100])).header();
    bytes.truncate(bytes.len() - 1);
    refused!(open_bytes(&bytes), FormatError::Truncated { wanted: 100, left: 99, .. });
}

#[test]
fn case_3_large_files_of_nothing() {
    // Sparse files: the bytes are really there, so only the caps hold.
    let sparse = |raw: Raw, bytes: u64| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse.gguf");
        fs::write(&path, raw.header()).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        open(&path)
    };
    let with = |value: Vec<u8>| Raw::default().entry("k", ARRAY, &value);
    let large = 8 << 30;
    for value in [
        array(0, large / 2, &[]),
        array(U32, large / 8, &[]),
        array(BOOL, large / 2, &[]),
        array(STR, large / 16, &[]),
    ] {
        refused!(sparse(with(value), large), FormatError::Limit { .. }, "of the array", "\"k\"");
    }
    // Case 11: one token of 100 MB, alone and in a vocabulary; and the shortest that is too long.
    for token in [100_000_000, limits::STRING_BYTES + 1] {
        let value = lying_string(token, &[]);
        for raw in
            [Raw::default().entry("k", STR, &value), with(array(STR, 1, &value)), with(array(STR, 4, &value))]
        {
            let result = sparse(raw, large);
            refused!(result, FormatError::Limit { found, .. } if found == token, "of a string", "\"k\"");
        }
    }
    for kind in [0, U32, BOOL, STR, 12] {
        let result = sparse(with(array(kind, limits::ARRAY_ELEMENTS + 1, &[])), large);
        refused!(result, FormatError::Limit { found: 2_097_153, .. }, "of the array", "\"k\"");
    }
    // What is just short enough is accepted.
    for kind in [0, U32, BOOL, STR, 12] {
        sparse(with(array(kind, limits::ARRAY_ELEMENTS, &[])), large).unwrap();
    }
    sparse(Raw::default().entry("k", STR, &lying_string(limits::STRING_BYTES, &[])), large).unwrap();
}

#[test]
fn case_3_headers_as_large_as_they_may_be() {
    for (kind, element) in [(0, 1), (U32, 4), (BOOL, 1), (STR, 8), (12, 8)] {
        let value = array(kind, (1 << 20) / element, &[0; 1 << 20]);
        let filled =
            |keys| (0..keys).fold(Raw::default(), |raw, key| raw.entry(&format!("k{key}"), ARRAY, &value));
        open_bytes(&filled(31).bytes()).unwrap();
        refused!(open_bytes(&filled(32).bytes()), FormatError::Limit { .. }, "header", "\"k31\"");
    }
    let text = string(&vec![b'x'; limits::STRING_BYTES as usize]);
    let raw = (0..31).fold(Raw::default(), |raw, index| raw.entry(&format!("{index}"), STR, &text));
    open_bytes(&raw.bytes()).unwrap();
}

#[test]
fn case_3_many_small_things() {
    let mut raw = Raw::default();
    for index in 0..limits::METADATA_ENTRIES {
        raw = raw.entry(&format!("{index}"), 0, &[0]);
    }
    for index in 0..limits::TENSORS {
        raw = raw.tensor(&format!("{index:063}"), &[1, 1, 1, 1], 24, index * 32);
    }
    raw.data = limits::TENSORS as usize * 32;
    let checkpoint = open_bytes(&raw.bytes()).unwrap();
    assert_eq!(checkpoint.tensors().len() as u64, limits::TENSORS);
    // All keys equal: finding duplicates must not compare each with each.
    let entries = vec![Raw::default().entry("same", 0, &[0]).entries.remove(0); 16_384];
    refused!(
        open_bytes(&Raw { entries, ..Raw::default() }.bytes()),
        FormatError::Duplicate { .. },
        "\"same\""
    );
}

#[test]
fn case_5_duplicate_names() {
    let raw = Raw::valid().u32("llama.block_count", 3);
    refused!(open_bytes(&raw.bytes()), FormatError::Duplicate { .. }, "metadata key", "llama.block_count");
    let raw = Raw::valid().tensor("norm", &[1], 24, 96);
    refused!(open_bytes(&raw.data(4096).bytes()), FormatError::Overlap { .. }, "output.weight", "norm");
    let raw = Raw::valid().tensor("norm", &[1], 24, 192);
    refused!(open_bytes(&raw.data(4096).bytes()), FormatError::Duplicate { .. }, "tensor \"norm\"");
}

#[test]
fn case_5_names() {
    let raw = Raw::valid().entry("", U32, &[0; 4]);
    refused!(open_bytes(&raw.bytes()), FormatError::Entry { .. }, "empty");
    let raw = Raw::default().raw_entry([string(b"\xff\xfe"), vec![0; 12]].concat());
    refused!(open_bytes(&raw.bytes()), FormatError::Utf8 { .. }, "key");
    let raw = Raw::default().entry("text", STR, &string(b"ab\xc3"));
    refused!(open_bytes(&raw.bytes()), FormatError::Utf8 { .. }, "\"text\"");
    // A character cut in two by the border of two strings is valid only when they are joined.
    let raw =
        Raw::default().entry("list", ARRAY, &array(STR, 2, &[string(b"\xc3"), string(b"\xa9")].concat()));
    refused!(open_bytes(&raw.bytes()), FormatError::Utf8 { .. }, "\"list\"");
    let long = vec![b'k'; limits::KEY_BYTES as usize + 1];
    let raw = Raw::default().raw_entry([string(&long), vec![0; 12]].concat());
    refused!(open_bytes(&raw.bytes()), FormatError::Limit { .. }, "key", "65535");
    let name = |name: &[u8]| open_bytes(&Raw::default().ranked_tensor(name, 1, &[1], 24, 0).data(64).bytes());
    name(&[b'n'; 63]).unwrap();
    refused!(name(&[b'n'; 64]), FormatError::Limit { limit: 63, found: 64, .. }, "name");
    refused!(name(b""), FormatError::Tensor { .. }, "empty");
    refused!(name(b"\xed\xa0\x80"), FormatError::Utf8 { .. }, "item 0");
    refused!(
        open_bytes(&Raw::default().tensor("\x1b]0;x\x07\n", &[0], 0, 0).bytes()),
        FormatError::TensorShape { .. },
        "\\u{1b}"
    );
}

#[test]
fn case_6_alignment() {
    // llama.cpp issues 24997 and 26318.
    for alignment in [0, 1, 4, 13, 33, 0x8000_0000, u32::MAX, limits::MAX_ALIGNMENT * 2] {
        let raw = Raw::valid().u32("general.alignment", alignment);
        refused!(open_bytes(&raw.bytes()), FormatError::Alignment { .. }, &alignment.to_string());
    }
    let raw = Raw::valid().entry("general.alignment", I32, &32i32.to_le_bytes());
    refused!(open_bytes(&raw.bytes()), FormatError::Alignment { .. }, "32 (i32)");
    let raw = Raw::valid().entry("general.alignment", STR, &string(b"32"));
    refused!(open_bytes(&raw.bytes()), FormatError::Alignment { .. }, "a string");
    let raw = Raw { alignment: 64, ..Raw::default() }.u32("general.alignment", 64);
    open_bytes(&raw.clone().tensor("w", &[4], 0, 64).data(128).bytes()).unwrap();
    refused!(
        open_bytes(&raw.tensor("w", &[4], 0, 32).data(128).bytes()),
        FormatError::Tensor { .. },
        "multiple"
    );
}

#[test]
fn case_7_dimensions() {
    let ranked = |rank, dims: &[u64]| {
        open_bytes(&Raw::default().ranked_tensor(b"w", rank, dims, 0, 0).data(4096).bytes())
    };
    for rank in [0, 5, 6, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let dims = vec![1; rank.min(6) as usize];
        let found = u64::from(rank);
        refused!(
            ranked(rank, &dims),
            FormatError::TensorShape { source: ShapeError::Rank { found: f }, .. } if f == found,
            "\"w\""
        );
    }
    refused!(refused_tensor(&[4, 0], 0, 0), FormatError::TensorShape { .. }, "dimension 1 is 0");
    refused!(refused_tensor(&[-4i64 as u64], 0, 0), FormatError::TensorShape { .. }, "-4");
    refused!(
        refused_tensor(&[1 << 62, 4], 0, 0),
        FormatError::TensorShape { source: ShapeError::Elements, .. }
    );
    refused!(
        refused_tensor(&[1 << 32; 4], 0, 0),
        FormatError::TensorShape { source: ShapeError::Elements, .. }
    );
    refused!(refused_tensor(&[1 << 62], 0, 0), FormatError::TensorShape { source: ShapeError::Bytes, .. });
    refused!(
        refused_tensor(&[33], 8, 0),
        FormatError::TensorShape { source: ShapeError::Block { .. }, .. },
        "Q8_0"
    );
    refused!(refused_tensor(&[128, 2], 12, 0), FormatError::TensorShape { .. }, "256", "Q4_K");
    refused!(refused_tensor(&[1 << 40, 2], 0, 0), FormatError::Truncated { .. }, "\"w\"");
}

#[test]
fn case_7_sums_of_sizes() {
    // CVE-2025-53630, then CVE-2026-27940: the product was checked, the sum of sizes was not.
    let half = 0x7fff_ffff_ffff_ffc0;
    let raw = Raw::default().tensor("a", &[half], 24, 0).tensor("b", &[half], 24, half);
    let result = open_bytes(&raw.data(256).bytes());
    refused!(result, FormatError::Truncated { wanted, .. } if wanted == half, "\"a\"");
    let raw = Raw::default().tensor("a", &[32], 24, 0).tensor("b", &[half], 24, half);
    refused!(open_bytes(&raw.data(256).bytes()), FormatError::Truncated { .. }, "\"b\"");
}

#[test]
fn case_8_tensor_types() {
    for id in [4, 5, 31, 32, 33, 36, 37, 38] {
        refused!(refused_tensor(&[256], id, 0), FormatError::TensorType { .. }, "removed", "\"w\"");
    }
    for id in [43, 200, 1000, 0x7fff_ffff] {
        refused!(refused_tensor(&[256], id, 0), FormatError::TensorType { .. }, "not a known type");
    }
    refused!(refused_tensor(&[256], -1i32 as u32, 0), FormatError::TensorType { .. }, "type id -1,");
}

#[test]
fn case_9_tensor_places() {
    // CVE-2026-7482: a tensor that was declared beyond the file read the process's own memory.
    refused!(refused_tensor(&[4], 0, 4096), FormatError::Truncated { .. }, "\"w\"");
    refused!(refused_tensor(&[1024], 0, 32), FormatError::Truncated { wanted: 4096, left: 4064, .. });
    refused!(refused_tensor(&[4], 0, 1 << 40), FormatError::Truncated { left: 0, .. });
    refused_tensor(&[1024], 0, 0).unwrap();
    refused!(refused_tensor(&[4], 0, 1), FormatError::Tensor { .. }, "multiple of the alignment 32");
    // Offsets that would wrap into the header.
    for back in [32, 64, 96, 1 << 63] {
        refused!(refused_tensor(&[4], 0, 0u64.wrapping_sub(back)), FormatError::Truncated { .. }, "\"w\"");
    }
}

#[test]
fn case_9_overlaps() {
    let pair = |a: u64, b: u64| {
        let raw = Raw::default().tensor("a", &[16], 0, a).tensor("b", &[16], 0, b);
        open_bytes(&raw.data(4096).bytes())
    };
    refused!(pair(64, 64), FormatError::Overlap { .. });
    refused!(pair(0, 32), FormatError::Overlap { .. }, "\"a\" and \"b\"");
    refused!(pair(96, 64), FormatError::Overlap { .. }, "\"b\" and \"a\"");
    pair(64, 0).unwrap();
    let inside = Raw::default().tensor("big", &[512], 0, 0).tensor("small", &[1], 0, 1024).data(4096);
    refused!(open_bytes(&inside.bytes()), FormatError::Overlap { .. }, "\"big\" and \"small\"");
}

/// Writes a series of `count` files with one tensor each and gives the path of the first.
fn series(folder: &Path, count: u64, change: impl Fn(u64, Raw) -> Raw) -> std::path::PathBuf {
    let path = |number: u64| folder.join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
    for number in 0..count {
        let raw = Raw { data: 32, ..Raw::default() }
            .entry("split.no", 2, &(number as u16).to_le_bytes())
            .entry("split.count", 2, &(count as u16).to_le_bytes())
            .entry("split.tensors.count", I32, &(count as i32).to_le_bytes());
        let raw = if number == 0 { raw.entry("general.name", STR, &string(b"model")) } else { raw };
        change(number, raw.tensor(&format!("t{number}"), &[8], 0, 0)).save(&path(number));
    }
    path(0)
}

#[test]
fn case_13_split_series() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let same = |_, raw| raw;
    let first = series(folder, 3, same);
    assert_eq!(open(&first).unwrap().files().len(), 3);
    let second = folder.join("m-00002-of-00003.gguf");
    refused!(open(&second), FormatError::Split { .. }, "file 2 of 3", "-00001-of-00003.gguf");
    let third = folder.join("m-00003-of-00003.gguf");
    fs::copy(&second, &third).unwrap();
    refused!(open(&first), FormatError::Split { .. }, "number 3 by its name and 2 inside");
    fs::remove_file(&third).unwrap();
    refused!(open(&first), FormatError::Split { .. }, "m-00003-of-00003.gguf", "missing");
    fs::create_dir(&third).unwrap();
    refused!(open(&first), FormatError::NotAFile { .. }, "m-00003-of-00003.gguf");
    let renamed = folder.join("renamed.gguf");
    fs::copy(&first, &renamed).unwrap();
    refused!(open(&renamed), FormatError::Split { .. }, "original names");
}

#[test]
fn case_13_split_counts() {
    let count = |kind, bytes: &[u8]| {
        open_bytes(&Raw::valid().u32("split.no", 0).entry("split.count", kind, bytes).bytes())
    };
    refused!(count(2, &u16::MAX.to_le_bytes()), FormatError::Limit { found: 65_535, .. }, "split.count");
    refused!(count(10, &u64::MAX.to_le_bytes()), FormatError::Limit { .. }, "split.count");
    refused!(count(I32, &(-2i32).to_le_bytes()), FormatError::KeyType { .. }, "split.count");
    refused!(count(STR, &string(b"3")), FormatError::KeyType { .. }, "split.count");
    let number = Raw::valid().u32("split.count", 3).entry("split.no", 10, &u64::MAX.to_le_bytes());
    refused!(open_bytes(&number.bytes()), FormatError::Split { .. });
    refused!(
        open_bytes(&Raw::valid().u32("split.count", 3).bytes()),
        FormatError::KeyMissing { .. },
        "split.no"
    );
}

#[test]
fn case_13_files_of_other_models() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let other = |change: fn(Raw) -> Raw| {
        open(&series(folder, 3, |number, raw| if number == 1 { change(raw) } else { raw }))
    };
    other(|raw| raw.entry("general.name", STR, &string(b"model"))).unwrap();
    refused!(
        other(|raw| raw.entry("general.name", STR, &string(b"another"))),
        FormatError::Split { .. },
        "m-00002-of-00003.gguf",
        "general.name"
    );
    refused!(
        other(|raw| raw.tensor("t0", &[8], 0, 32).data(64)),
        FormatError::Split { .. },
        "3 tensors (split.tensors.count) and has 4"
    );
    refused!(
        other(|raw| Raw { tensors: Vec::new(), ..raw }.tensor("t0", &[8], 0, 0)),
        FormatError::Duplicate { .. },
        "tensor \"t0\"",
        "m-00002-of-00003.gguf"
    );
    refused!(other(|raw| Raw { entries: Vec::new(), ..raw }), FormatError::KeyMissing { .. }, "split.no");
}

#[test]
fn case_13_limits_hold_over_all_files() {
    let folder = tempfile::tempdir().unwrap();
    let filler = vec![0; 15 << 20];
    let first = series(folder.path(), 3, |_, raw| {
        raw.entry("filler", ARRAY, &array(12, filler.len() as u64 / 8, &filler))
    });
    refused!(open(&first), FormatError::Limit { .. }, "m-00003-of-00003.gguf", "header");
}

#[test]
fn case_13_names_never_leave_the_folder() {
    // Neither metadata nor the stem decide about folders: only the last part of the path changes.
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    series(folder.path(), 2, |_, raw| raw);
    series(&inner, 2, |_, raw| raw.entry("split.prefix", STR, &string(b"../m")));
    fs::remove_file(inner.join("m-00002-of-00002.gguf")).unwrap();
    let result = open(&inner.join("m-00001-of-00002.gguf"));
    refused!(result, FormatError::Split { .. }, "inner/m-00002-of-00002.gguf", "missing");
    for name in ["..-00001-of-00002.gguf", "..%2fm-00001-of-00002.gguf", "-00001-of-00002.gguf"] {
        fs::copy(inner.join("m-00001-of-00002.gguf"), inner.join(name)).unwrap();
        refused!(open(&inner.join(name)), FormatError::Split { .. }, "missing");
    }
}

#[test]
fn case_14_not_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A folder may be a model, which this one is not.
    refused!(open(folder), FormatError::Folder { .. }, "config.json");
    refused!(open(Path::new("/dev/zero")), FormatError::NotAFile { found: "a device", .. }, "/dev/zero");
    let fifo = folder.join("fifo.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused!(open(&fifo), FormatError::NotAFile { found: "a pipe", .. });
    let socket = folder.join("socket.gguf");
    let _listener = UnixListener::bind(&socket).unwrap();
    refused!(open(&socket), FormatError::NotAFile { found: "a socket", .. });
    let link = folder.join("link.gguf");
    symlink(&fifo, &link).unwrap();
    refused!(open(&link), FormatError::NotAFile { found: "a pipe", .. }, "link.gguf");
    let (one, two) = (folder.join("one.gguf"), folder.join("two.gguf"));
    symlink(&one, &two).unwrap();
    symlink(&two, &one).unwrap();
    refused!(open(&one), FormatError::SymlinkLoop { .. }, "one.gguf");
    refused!(open(&folder.join("absent.gguf")), FormatError::Open { .. }, "absent.gguf");
}

#[test]
fn case_14_a_link_to_a_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    series(&blobs, 2, |_, raw| raw);
    // As model caches do: the links have the names, the files have not.
    for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        fs::rename(blobs.join(name), blobs.join(&name[..7])).unwrap();
        symlink(blobs.join(&name[..7]), folder.path().join(name)).unwrap();
    }
    assert_eq!(open(&folder.path().join("m-00001-of-00002.gguf")).unwrap().tensors().len(), 2);
}

#[test]
fn case_14_truncated_or_replaced_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("used.gguf");
    Raw::valid().save(&path);
    let checkpoint = open(&path).unwrap();
    let norm = checkpoint.require("norm").unwrap();
    let mut bytes = [0; 32];

    let replacement = folder.path().join("new.gguf");
    fs::write(&replacement, b"short").unwrap();
    fs::copy(&path, folder.path().join("kept.gguf")).unwrap();
    fs::rename(&replacement, &path).unwrap();
    checkpoint.read(norm, 0, &mut bytes).expect("a replaced path leaves the open file alone");
    assert_eq!(bytes[0], 160);

    let path = folder.path().join("kept.gguf");
    let checkpoint = open(&path).unwrap();
    let norm = checkpoint.require("norm").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(norm.offset + 10).unwrap();
    refused!(
        checkpoint.read(norm, 0, &mut bytes),
        FormatError::Truncated { left: 10, .. },
        "\"norm\"",
        "kept.gguf"
    );
    checkpoint.read(norm, 0, &mut bytes[..10]).unwrap();
}

#[test]
fn reads_stay_inside_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    Raw::valid().save(&path);
    let checkpoint = open(&path).unwrap();
    let tensor = checkpoint.require("token_embd.weight").unwrap();
    let mut bytes = [0; 65];
    checkpoint.read(tensor, 0, &mut bytes[..64]).unwrap();
    checkpoint.read(tensor, 64, &mut []).unwrap();
    for (offset, length) in [(0, 65), (1, 64), (64, 1), (65, 0), (u64::MAX, 1), (u64::MAX - 10, 64)] {
        let result = checkpoint.read(tensor, offset, &mut bytes[..length]);
        refused!(result, FormatError::Range { size: 64, .. }, "token_embd.weight");
    }
    let mut foreign = tensor.clone();
    foreign.file = 7;
    refused!(checkpoint.read(&foreign, 0, &mut bytes[..1]), FormatError::Range { .. });
    foreign = tensor.clone();
    foreign.offset = u64::MAX - 3;
    refused!(checkpoint.read(&foreign, 10, &mut bytes[..1]), FormatError::Range { .. });
}
