//! Joins engine, text and host: the loop that makes an answer.
//!
//! [`Generator::answer`] takes a conversation to its end, tool calls included. Text reaches the caller as
//! [`Event`]s, and only after every policy of the behaviour has released it.

#![forbid(unsafe_code)]

mod answer;
mod behaviour;
mod decide;
mod decode;
mod error;
mod event;
mod journal;
mod reload;
mod replay;

pub use answer::{Answer, AnswerOptions, Generator};
pub use behaviour::Behaviour;
pub use decide::{Decided, Decisions, decide};
pub use error::{GenerateError, Result};
pub use event::{EndReason, Event, Intervention, Reload, Stats};
pub use journal::Audit;
pub use reload::Reloads;
pub use replay::{Candidate, Difference, Replayed, Sameness};
