//! The `membrane` binary as a user meets it.

#![forbid(unsafe_code)]

mod agent;
mod audit;
mod authoring;
mod auto;
mod bench;
mod budget;
mod component;
mod eval;
mod flags;
mod folder;
mod inspect;
mod interrupt;
mod logits;
mod model;
mod plugin;
mod profile;
mod program;
#[path = "../../../../tests/src/published.rs"]
#[allow(dead_code, reason = "the tests of the engine use more of it")]
mod published;
mod recall;
mod run;
mod spoken;
mod transcripts;
mod watch;
mod withheld;
