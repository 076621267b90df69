//! Experts under a byte budget.
//!
//! A [`Pager`] knows byte ranges of files and keys for them, and no model. It owns one arena of equal slots,
//! reads the experts of a [`Request`] into it with explicit reads (never through a file mapping, whose page
//! faults are several times slower and whose failures are signals), and lends them out as [`Lease`]s.
//!
//! ```text
//! request(layer, [7, 2, 40])          2 is resident; 7 and 40 start to be read
//!   next_ready -> [2]                 the caller computes with 2 while the disk works
//!   next_ready -> [40]                waits for whichever arrives first
//!   next_ready -> [7]
//!   next_ready -> None
//! ```
//!
//! # Memory
//!
//! The peak of a pager is `arena_bytes` of its configuration, whatever is asked of it; pages of the arena are
//! touched when they are first read into. Beside it stand a few dozen bytes an expert of bookkeeping. When
//! the catalog is larger than the arena, reads leave nothing behind in the page cache, so a control group
//! that counts the cache sees the same figure.
//!
//! All slots have the size of the largest record (see [`Catalog::slot_bytes`]). Where layers differ in type,
//! the smaller records waste the difference; [`Pager::slot_bytes`] beside [`Catalog::bytes`] shows how much.
//!
//! # Recoding
//!
//! Where the kernels want an expert in another form than its files have ([`Recode`]), a slot holds that form. An I/O thread
//! then reads a whole expert into memory of its own and makes of it what the slot holds; what is read stays what the files
//! have, and the time that it takes is counted.
//!
//! Or a caller changes an expert that stays in memory where it lies ([`Lease::rewrite`]), which later leases of it say.
//!
//! # What the caller promises
//!
//! Drop the leases of one batch before asking for the next. Each drop lets a further read begin at once, so a
//! loop that consumes the batch by value keeps the disk busy. A caller that keeps every slot and asks for
//! more gets [`PagerError::SlotsHeld`], not a deadlock: a thread waits for a slot only while it holds none
//! itself.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod arena;
mod catalog;
mod counters;
mod error;
mod eviction;
mod files;
mod os;
mod pager;
mod probe;
mod ranges;
mod request;
mod shared;
mod simulate;
mod staging;
mod state;
mod trace;
mod usage;

pub use catalog::{ByteRange, Catalog, ExpertKey, Recode, Record};
pub use counters::Counters;
pub use error::PagerError;
pub use eviction::{Eviction, EvictionPolicy, Frequency, Lru, NextUse};
pub use files::{PagedFile, drop_from_page_cache};
pub use pager::{IoMode, Pager, PagerConfig};
pub use probe::{DiskProbe, IoChoice, IoReason, Rate, probe_disk};
pub use ranges::{FileRange, read_ranges};
pub use request::{Guess, Lease, Ready, Request, Wanted};
pub use simulate::{Outcome, optimum, simulate, simulate_each};
pub use trace::{Asked, Phase, Trace, TraceError, TraceHeader};
pub use usage::{GroupUsage, Usage};
