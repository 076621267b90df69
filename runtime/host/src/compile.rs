//! Compiling a component within bounds of time and memory.
//!
//! A component can be built so that compiling it takes many minutes or gigabytes, and no limit on its size alone
//! keeps ordinary ones and stops all of these. The compiler can't be interrupted, so it works on a thread of its
//! own that is watched.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use wasmtime::Engine;
use wasmtime::component::Component;

/// Time between two looks at a compilation.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);

/// Where the system tells what a thread computes, the clock may show this many times the limit: on a busy machine the
/// compiler waits for most of it.
const CLOCK_FACTOR: u32 = 8;

/// Stack of the compiler's thread, in bytes: that of a main thread.
const STACK_BYTES: usize = 8 << 20;

/// What the compilation of one component may take. One of 12 MB that holds a whole JavaScript engine takes 26 s
/// on a busy machine and 342 MB, one of 18 MB with a Python interpreter 20 s of the processor; small ones take
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Time, however small the component: that in which the compiler computes where the system tells (Linux), else by
    /// the clock.
    pub time: Duration,
    /// Time for each MiB of it beside.
    pub time_per_mib: Duration,
    /// Growth of the process meanwhile, in bytes, where the system tells.
    pub memory_bytes: u64,
    /// Growth for each byte of the component beside, in bytes.
    pub memory_per_byte: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(20),
            time_per_mib: Duration::from_secs(6),
            memory_bytes: 128 << 20,
            memory_per_byte: 24,
        }
    }
}

/// A compilation under limits, seen from outside.
pub(crate) struct CompileWatch {
    most_time: Duration,
    most_memory: u64,
    begun: Instant,
    /// Folder of the process in /proc.
    process: PathBuf,
    /// Folder of the compiler's thread in /proc, where it is not the whole process that compiles.
    thread: Option<PathBuf>,
    /// What was computed, and bytes of the process, at the beginning.
    before: (Option<Duration>, u64),
}

impl CompileWatch {
    /// A compilation that begins now: of `bytes` bytes, by a thread or by a whole process.
    pub fn new(limits: CompileLimits, bytes: usize, process: PathBuf, thread: Option<PathBuf>) -> Self {
        let mut watch = Self {
            most_time: limits.time + limits.time_per_mib.mul_f64(bytes as f64 / f64::from(1 << 20)),
            most_memory: limits.memory_bytes + limits.memory_per_byte * bytes as u64,
            begun: Instant::now(),
            process,
            thread,
            before: (None, 0),
        };
        watch.before = (watch.computed(), resident_bytes(&watch.process));
        watch
    }

    /// The limit that is met, if one is.
    pub fn over(&self) -> Option<String> {
        let clock = self.begun.elapsed();
        let over = match self.computed().zip(self.before.0) {
            Some((now, before)) => {
                now.saturating_sub(before) > self.most_time || clock > self.most_time * CLOCK_FACTOR
            }
            None => clock > self.most_time,
        };
        if over {
            return Some(format!("compiling it takes more than {:.1} s", self.most_time.as_secs_f64()));
        }
        let grown = resident_bytes(&self.process).saturating_sub(self.before.1);
        (grown > self.most_memory)
            .then(|| format!("compiling it takes more than {} MiB", self.most_memory >> 20))
    }

    fn computed(&self) -> Option<Duration> {
        if let Some(thread) = &self.thread {
            return computed(thread);
        }
        let threads = std::fs::read_dir(self.process.join("task")).ok()?;
        threads.flatten().map(|thread| computed(&thread.path())).sum()
    }
}

/// Compiles a component. Error: it is malformed, or a limit is met.
///
/// Where a limit is met the compiler's thread goes on until it is done: a program that takes components from
/// strangers ends then, as `membrane` does, or compiles in a process that it can end.
pub(crate) fn compile(engine: &Engine, bytes: &[u8], limits: CompileLimits) -> wasmtime::Result<Component> {
    let (sender, receiver) = channel();
    let (engine, length, bytes) = (engine.clone(), bytes.len(), bytes.to_vec());
    let thread = std::thread::Builder::new().name("compile-plugin".into()).stack_size(STACK_BYTES);
    let (name, named) = channel();
    let (go, begin) = channel();
    thread.spawn(move || {
        let _ = name.send(std::fs::canonicalize("/proc/thread-self"));
        if begin.recv().is_ok() {
            // `from_binary` takes neither text nor precompiled code. Where no one waits any more the result is dropped.
            let _ = sender.send(Component::from_binary(&engine, &bytes));
        }
    })?;
    // Where the system has no such folder the clock counts.
    let task = named.recv().ok().and_then(std::io::Result::ok).unwrap_or_default();
    let watch = CompileWatch::new(limits, length, PathBuf::from("/proc/self"), Some(task));
    let _ = go.send(());
    loop {
        match receiver.recv_timeout(INTERVAL) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err(wasmtime::Error::msg("the compiler panicked")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(text) = watch.over() {
            return Err(wasmtime::Error::msg(text));
        }
    }
}

/// How long a thread has computed; none where the system does not tell. `task` is its folder in /proc.
fn computed(task: &Path) -> Option<Duration> {
    // Nanoseconds on a processor come first (Documentation/scheduler/sched-stats.rst of Linux).
    let statistics = std::fs::read_to_string(task.join("schedstat")).ok()?;
    statistics.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Bytes of memory that a process holds, by its folder in /proc; 0 where the system does not tell (proc_pid_statm(5)).
fn resident_bytes(process: &Path) -> u64 {
    /// Of the systems that have the file, nearly all have pages of this size; a larger one makes the limit larger.
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string(process.join("statm")).unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_sleeps_has_not_computed() {
        let task = std::fs::canonicalize("/proc/thread-self").unwrap();
        let Some(before) = computed(&task) else { return };
        std::thread::sleep(Duration::from_millis(200));
        let slept = computed(&task).unwrap() - before;
        let begun = Instant::now();
        let mut sum = 0_u64;
        while computed(&task).unwrap() - before < Duration::from_millis(100) {
            sum = (0..100_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
            assert!(begun.elapsed() < Duration::from_secs(60), "computing is not counted: {sum}");
        }
        assert!(slept < Duration::from_millis(100), "{slept:?}");
    }
}
