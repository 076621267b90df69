//! The audit log: what made each answer, what each plugin decided, and which tokens came out, in a form that shows
//! whether anyone has changed it. Pure data: no engine, no wasm, and no other crate of ours, so that an auditor
//! can use it alone.
//!
//! A log is a file of JSON Lines. Each line is a [`Record`] with its number, the hash of the line before and
//! its own hash ([`line`]). [`Log`] writes one and goes on behind a line that a killed process left torn;
//! [`verify`](verify::verify) says what was modified, deleted, inserted, reordered or cut off, and where. Texts are in the
//! log as salted digests; who wants to keep them has them in a second file that may be erased ([`text`]).
//!
//! # What can be detected
//!
//! The hash chain shows each change by someone who does not compute all later hashes anew. Someone who does
//! is found out by what they can't change: a [`Head`] that the verifier kept (number and hash of a
//! record), or a [`Checkpoint`], which a key signs that is not theirs. Records behind the newest trusted head or
//! checkpoint are as good as the writer's honesty. A checkpoint is over all that stands before it: records that
//! somebody else adds between two runs are signed by the second. So a report counts records of answers that a
//! later run alone signed. That records are missing at the end shows against a head only.
#![forbid(unsafe_code)]

mod chain;
mod content;
mod digest;
mod error;
mod head;
mod judgement;
mod keys;
pub mod limits;
pub mod line;
mod lines;
mod log;
mod private;
mod record;
mod script;
mod tail;
pub mod text;
mod transcript;
pub mod verify;

pub use content::{Call, CallText, Content, EndText, Output, PromptText, RequestText, TokensText};
pub use digest::{Digest, DigestError, Salt};
pub use error::{AuditError, Result};
pub use head::{Head, head_path};
pub use judgement::{JudgedIds, Judgement, JudgementText, LogProbability};
pub use keys::{KeyError, PublicKey, SigningKey};
pub use log::{Log, LogOptions};
pub use record::{
    Answer, Behaviour, Checkpoint, Constraint, End, Engine, Keep, LogId, Model, ModelFile, Open, Plugin,
    Record, Recovered, Rewind, Round, Sealed, Span, Swap, Swapped, Tokens, Tool, Verdict,
};
pub use script::{ChosenToken, Judged, Script, Step};
pub use transcript::{Event, RecordedAnswer, Transcript};
