//! The arithmetic behind the interface `logits`: the candidates of one step and the standard operations on
//! them.
//!
//! A vocabulary has 150,000 tokens and more, and after the first cut a few dozen are left. So [`Candidates`]
//! never sorts or exponentiates the whole vocabulary where a bound on each chunk of it decides as well. Ties
//! go to the lower token, sums are in double precision and in a fixed order, and the exponential function is
//! our own, so that a step gives the same result on every machine.

mod candidates;
mod cuts;
mod dry;
mod exponential;
mod operation;
mod penalties;

pub use candidates::{Candidate, Candidates, SamplingError};
pub use operation::{Context, Dry, Operation, Penalties, Repetition, Temperature, Xtc};
