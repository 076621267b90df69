//! GGUF files written byte by byte, so that every field can lie.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Type ids of metadata values.
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;

/// A file in the making; counts are true unless overridden.
#[derive(Clone)]
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    /// Bytes of tensor data.
    pub data: usize,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: 0,
        }
    }
}

impl Raw {
    /// A file with a little of everything, valid.
    pub fn valid() -> Self {
        let words: Vec<u8> = ["a", "", "déjà"].iter().flat_map(|word| string(word.as_bytes())).collect();
        let numbers: Vec<u8> = [1i32, -2, 3].iter().flat_map(|n| n.to_le_bytes()).collect();
        Self { data: 192, ..Self::default() }
            .entry("general.architecture", STR, &string(b"llama"))
            .entry("llama.block_count", U32, &2u32.to_le_bytes())
            .entry("tokenizer.ggml.tokens", ARRAY, &array(STR, 3, &words))
            .entry("tokenizer.ggml.token_type", ARRAY, &array(I32, 3, &numbers))
            .entry("flags", ARRAY, &array(BOOL, 2, &[1, 0]))
            .entry("flag", BOOL, &[1])
            .entry("rope", 6, &10_000f32.to_le_bytes())
            .tensor("token_embd.weight", &[8, 2], 0, 0)
            .tensor("output.weight", &[32, 2], 8, 64)
            .tensor("norm", &[8], 0, 160)
    }

    pub fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push([string(key.as_bytes()), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, U32, &value.to_le_bytes())
    }

    /// An entry with nothing right but its place.
    pub fn raw_entry(mut self, bytes: Vec<u8>) -> Self {
        self.entries.push(bytes);
        self
    }

    pub fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.ranked_tensor(name.as_bytes(), dims.len() as u32, dims, kind, offset)
    }

    pub fn ranked_tensor(mut self, name: &[u8], rank: u32, dims: &[u64], kind: u32, offset: u64) -> Self {
        let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        self.tensors.push(
            [
                string(name),
                rank.to_le_bytes().to_vec(),
                dims,
                kind.to_le_bytes().to_vec(),
                offset.to_le_bytes().to_vec(),
            ]
            .concat(),
        );
        self
    }

    pub fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    pub fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        out.extend(self.tensors.concat());
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend((0..self.data).map(|index| index as u8));
        out
    }

    pub fn save(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// Length, then bytes that need not be as many.
pub fn lying_string(length: u64, bytes: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), bytes].concat()
}

pub fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// The system's allocator, keeping for each thread what it has allocated and the most that it had at once.
pub struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // While a thread ends its counters are gone, and nobody asks for them any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counters neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new block may exist side by side.
        count(size as i64);
        count(-(layout.size() as i64));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work` and gives its result and the most bytes that this thread had allocated above what it had
/// before.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as u64)
}

/// The fixtures of this repository and, where it is, the reference data.
pub fn model_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let reference = std::env::var_os("MEMBRANE_REFERENCE")
        .map_or_else(|| root.join("../shared/reference"), PathBuf::from)
        .join("gguf");
    let mut found = Vec::new();
    for folder in [root.join("tests/fixtures/gguf"), reference] {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            println!("skipped: no {}", folder.display());
            continue;
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        found.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "gguf")));
    }
    found
}
