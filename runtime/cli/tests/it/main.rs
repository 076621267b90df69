//! The `membrane` binary as a user meets it.

#![forbid(unsafe_code)]

mod budget;
mod flags;
mod inspect;
mod interrupt;
mod logits;
mod program;
mod run;
mod watch;
