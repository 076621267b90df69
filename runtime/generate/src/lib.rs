//! Joins engine, text and host: the loop that makes an answer.
//!
//! [`Generator::answer`] takes a conversation to its end, tool calls included. Text reaches the caller as
//! [`Event`]s, and only after every policy of the behaviour has released it. [`Agents::run`] gives a task to an agent, which
//! uses the model by itself; the same holds for what it says.

#![forbid(unsafe_code)]

mod agent;
mod answer;
mod behaviour;
mod calls;
pub mod contrast;
mod decide;
mod decode;
mod error;
mod event;
mod journal;
mod judge;
mod merge;
mod passes;
mod reader;
mod reload;
mod replay;
mod scoring;
mod speculate;
mod stop;

pub use agent::{AgentAnswer, AgentOptions, Agents, EventSink};
pub use answer::{Answer, AnswerOptions, Generator};
pub use behaviour::Behaviour;
pub use decide::{Decided, Decisions, decide};
pub use error::{GenerateError, Result};
pub use event::{EndReason, Event, Intervention, Reload, Stats};
pub use journal::Audit;
pub use judge::asks_the_model;
pub use reload::Reloads;
pub use replay::{Candidate, Difference, Replayed, Sameness, Versions};
pub use speculate::{Trial, trial};
