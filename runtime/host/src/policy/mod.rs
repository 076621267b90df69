//! The policies of one answer. What they have not released reaches no one, and a policy that fails releases
//! nothing.

mod chain;
mod lines;
mod output;
mod verdict;

pub(crate) use chain::Member;
pub use chain::{PolicyChain, RequestOutcome, ToolCallOutcome, ToolResultOutcome};
pub use lines::JudgedLines;
pub(crate) use output::Turn;
pub use output::{Ended, OutputOutcome};
pub use verdict::{Edit, Intervention, POLICY_FAILED, Refused};
