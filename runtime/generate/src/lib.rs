//! Joins engine, text and host: the loop that makes an answer.
//!
//! [`Generator::answer`] takes a conversation to its end, tool calls included. Text reaches the caller as
//! [`Event`]s, and only after every policy of the behaviour has released it.

#![forbid(unsafe_code)]

mod answer;
mod behaviour;
mod decode;
mod error;
mod event;
mod reload;

pub use answer::{Answer, AnswerOptions, Generator};
pub use behaviour::Behaviour;
pub use error::{GenerateError, Result};
pub use event::{EndReason, Event, Intervention, Reload, Stats};
pub use reload::Reloads;
