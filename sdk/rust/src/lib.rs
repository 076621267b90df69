//! Write plugins for Membrane in Rust.
//!
//! A plugin is a crate of type `cdylib` for `wasm32-unknown-unknown` that implements one trait and exports
//! it:
//!
//! ```no_run
//! use membrane_plugin::sampler::{Choice, Sampler, logits};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Parameters {}
//!
//! struct Greedy;
//!
//! impl Sampler for Greedy {
//!     type Parameters = Parameters;
//!
//!     fn new(_: Parameters) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn sample(&mut self) -> Result<Choice, String> {
//!         Ok(Choice::Token(logits::greedy()?.token))
//!     }
//! }
//!
//! membrane_plugin::export_sampler!(Greedy);
//! # fn main() {}
//! ```
//!
//! [`sampler`], [`policy`], [`tool`] and [`agent`] are the worlds of the contract (`wit/`). An instance lives for
//! one answer, or one run of an agent, so state is a field of the plugin; [`state`] lets a new version go on from
//! it. An `Err`, a panic or a limit that is hit ends the answer
//! with an error that names the plugin; for a policy it counts as a refusal.
//!
//! Ordinary functions of a plugin can be tested natively with `cargo test`; those that call the host (such as
//! [`sampler::logits`]) exist only inside it.

#[doc(hidden)]
pub mod bindings;
mod panics;
mod parameters;

pub mod agent;
pub mod judge;
pub mod log;
pub mod policy;
pub mod sampler;
pub mod state;
pub mod tool;

#[doc(hidden)]
pub mod __private {
    pub use crate::bindings;
    pub use crate::panics::report as report_panics;
    pub use crate::parameters::parse;
}
