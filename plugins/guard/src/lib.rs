//! A policy that follows a small readable file of clauses: what to look for, where, and what to do then.
//!
//! - `rules`: the file, read and checked.
//! - `matcher`: what a clause looks for, at one position of a text; patterns, in a whole text too.
//! - `index`: where the literals of all clauses may start.
//! - `draft`: a whole text on which clauses act one after the other.
//! - `whole`: requests, tool calls and tool results, which are there at once.
//! - `answer`: the answer, which arrives piece by piece and of which nothing may be released too early.
#![forbid(unsafe_code)]

mod answer;
mod draft;
mod index;
mod matcher;
mod rules;
mod whole;

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, Refusal, RequestVerdict, RewrittenRequest, RewrittenText,
    ToolCallVerdict, ToolResultVerdict,
};
use serde::Deserialize;

use answer::Answer;
use index::Index;
use rules::Clause;
use whole::Outcome;

/// The parameters in the profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The text of the rules, TOML; in a profile usually `file:PATH`.
    pub rules: String,
}

/// The policy for one answer.
pub struct Guard {
    clauses: Vec<Clause>,
    index: Index,
    answer: Answer,
}

impl Policy for Guard {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let clauses = rules::parse(&parameters.rules).map_err(|error| format!("rules: {error}"))?;
        Ok(Self { index: Index::new(&clauses), clauses, answer: Answer::default() })
    }

    fn request(&mut self, messages: Vec<Message>) -> Result<RequestVerdict, String> {
        Ok(match whole::request(&self.clauses, &self.index, messages) {
            Outcome::Unchanged => RequestVerdict::Allow,
            Outcome::Changed(messages, reason) => {
                RequestVerdict::Rewrite(RewrittenRequest { messages, reason })
            }
            Outcome::Refused(message, reason) => RequestVerdict::Refuse(Refusal { message, reason }),
        })
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        Ok(self.answer.verdict(&self.clauses, &self.index, pending, done))
    }

    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        Ok(whole::tool_call(&self.clauses, &self.index, &call))
    }

    fn tool_result(&mut self, _: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        Ok(match whole::tool_result(&self.clauses, &self.index, output) {
            Outcome::Unchanged => ToolResultVerdict::Allow,
            Outcome::Changed(text, reason) => ToolResultVerdict::Rewrite(RewrittenText { text, reason }),
            Outcome::Refused(message, reason) => ToolResultVerdict::Refuse(Refusal { message, reason }),
        })
    }
}

membrane_plugin::export_policy!(Guard);

#[cfg(test)]
mod tests;
