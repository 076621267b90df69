//! Agents: components that pursue a task with the model, and what the host needs for them.
//!
//! The host knows no model. Whoever runs an agent gives it an [`Environment`]: sessions, tools, the person's ear. All that an
//! agent hands on goes through there, and so through policies.

mod environment;
mod run;
mod store;

pub(crate) use environment::top;
pub use environment::{Environment, Generation, Session};
pub use run::{AgentRun, RunEnd};
pub use store::{Store, StoreError};

pub use crate::bindings::agent::membrane::plugin::inference::{
    Completion, Constraint, EndReason, GenerationOptions, InferenceError, ModelInfo, Overflow, Refusal,
    Score, Synced, Turn,
};
pub use crate::bindings::agent::membrane::plugin::raw_decoding::Candidate;
pub use crate::bindings::agent::membrane::plugin::tools::Offer;
pub use crate::bindings::sampler::membrane::plugin::types::Reason;

/// A session in an agent's table of handles.
pub type SessionHandle = Box<dyn Session>;
/// A generation in an agent's table of handles.
pub type GenerationHandle = Box<dyn Generation>;
