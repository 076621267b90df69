//! What the fuzzers do with their bytes: a parser is called as the program calls it, and what it gives is looked at.
//!
//! A file of [`targets`] is one target: `target` takes the bytes, `seeds` makes small valid inputs with the crates' own
//! writers, `WORDS` are what mutations put in. A target panics where the parser does, and where its result breaks what
//! it promises: a range outside of the file, a token that is allowed and refused, a text that does not read back.

#![forbid(unsafe_code)]

mod mutation;
#[cfg(test)]
mod regressions;
mod scratch;
pub mod targets;
mod vocabulary;

pub use mutation::{Random, mutate};
pub use targets::{TARGETS, Target};
