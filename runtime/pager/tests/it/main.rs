//! Pagers on real files: contents, eviction, waves, failures, threads.

#![allow(clippy::unwrap_used)]

mod bank;
mod contents;
mod failures;
mod foresight;
mod lru;
#[cfg(target_os = "linux")]
mod page_cache;
mod recall;
mod recoding;
mod rewriting;
mod threads;
mod traces;
mod waves;
