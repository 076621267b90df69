//! The host of plugins: WebAssembly components that decide how a model behaves, each with no more than it was
//! granted.
//!
//! [`Host::load`] checks a component's imports against the grants and compiles it. An answer then starts
//! instances of its own: a [`SamplerChain`] that chooses tokens, a [`PolicyChain`] that everything passes on
//! its way in and out, and a [`ToolSet`] that the model may call. A plugin that loops, traps, takes too much
//! or breaks the contract ends in an error that names it; a policy that does so lets nothing through.
//!
//! A plugin runs in the host's process or in one of its own ([`isolation`]), with the same results.
//!
//! The contract is in `wit/`. `interfaces/` has a file for each interface that plugins may import,
//! [`sampling`] the arithmetic behind `logits`, [`limits`] all limits with the attack that each stops. [`golden`]
//! runs the cases that a plugin brings along.
#![forbid(unsafe_code)]

pub mod agent;
mod authority;
mod bindings;
mod call;
mod compile;
mod component;
mod contents;
mod conversation;
mod description;
mod ending;
mod engine;
mod error;
mod exports;
pub mod first_party;
mod folder;
mod functions;
pub mod golden;
mod grants;

mod interfaces;
pub mod isolation;
mod judge;
pub mod limits;
mod plugin;
mod policy;
mod random;
pub mod reload;
mod running;
mod sampler;
pub mod sampling;
mod state;
mod text;
mod timezone;
mod tool;
mod values;
mod vocabulary;
mod wall;
pub mod watch;
mod web;

pub use compile::CompileLimits;
pub use component::{Component, signature_path};
pub use conversation::{Invocation, Message, Role};
pub use description::{Description, Import};
pub use engine::{Host, HostOptions, LogLevel, LogLine, LogSink};
pub use error::{Cause, Failure, HostError, Result};
pub use grants::{Grant, UnknownGrant};
pub use judge::{Judge, JudgeError, Judged, Question, SharedJudge};
pub use limits::Limits;
pub use membrane_codecache::{CacheError, CodeCache, DEFAULT_CAPACITY_BYTES};
pub use membrane_profile::{Isolation, Kind as World};
pub use plugin::{Plugin, PluginSource};
pub use policy::{
    Edit, Ended, Intervention, JudgedLines, OutputOutcome, POLICY_FAILED, PolicyChain, Refused,
    RequestOutcome, ToolCallOutcome, ToolResultOutcome,
};
pub use random::Random;
pub use sampler::{AnswerContext, Chosen, SamplerChain};
pub use tool::{ToolError, ToolSet};
pub use vocabulary::Vocabulary;
pub use web::{Lookup, Network};

const CONTRACT_PACKAGE: &str = "membrane:plugin";
const CONTRACT_VERSION: &str = "0.1.0";

/// The package of the contract that this host serves.
pub const CONTRACT: &str = "membrane:plugin@0.1.0";
