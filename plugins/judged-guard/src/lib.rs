//! A policy of clauses that the model judges: a question about a text, answers that allow and answers that refuse, and a
//! threshold.
//!
//! - `rules`: the file, read and checked.
//! - `question`: how the model is asked, and what its scores mean.
//! - `answer`: the answer, which is held back sentence by sentence, or wholly, until it is judged.
#![forbid(unsafe_code)]

mod answer;
mod question;
mod rules;

use clauses::Stage;
use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, Refusal, RequestVerdict, Role, ToolCallVerdict,
    ToolResultVerdict,
};
use serde::Deserialize;

use answer::Answer;
use question::Scores;
use rules::{Action, Clause};

/// The parameters in the profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The text of the rules, TOML; in a profile usually `file:PATH`.
    pub rules: String,
}

/// The policy for one answer.
pub struct JudgedGuard {
    clauses: Vec<Clause>,
    answer: Answer,
    /// How likely the model finds texts behind a question: the host's, but in tests.
    scores: Scores,
}

impl JudgedGuard {
    fn with(parameters: &Parameters, scores: Scores) -> Result<Self, String> {
        let clauses = rules::parse(&parameters.rules).map_err(|error| format!("rules: {error}"))?;
        Ok(Self { clauses, answer: Answer::default(), scores })
    }

    /// The first clause of a stage that does not let a text pass.
    fn judge(&self, stage: Stage, text: &str) -> Result<Option<&Clause>, String> {
        for clause in self.clauses.iter().filter(|clause| clause.label.applies(stage)) {
            for piece in question::pieces(text) {
                if clause.refuses(piece, &self.scores)? {
                    return Ok(Some(clause));
                }
            }
        }
        Ok(None)
    }
}

/// The refusal of a clause. One that denies calls refuses nothing else: the rules have it so.
fn refusal(clause: &Clause) -> Refusal {
    let message = match &clause.action {
        Action::Refuse { message } => message.clone(),
        Action::Deny => String::new(),
    };
    Refusal { message, reason: clause.label.reason() }
}

impl Policy for JudgedGuard {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        Self::with(&parameters, Box::new(question::ask))
    }

    fn request(&mut self, messages: Vec<Message>) -> Result<RequestVerdict, String> {
        let others = messages.iter().filter(|message| matches!(message.role, Role::User | Role::Tool));
        for message in others {
            if let Some(clause) = self.judge(Stage::Request, &message.content)? {
                return Ok(RequestVerdict::Refuse(refusal(clause)));
            }
        }
        Ok(RequestVerdict::Allow)
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        self.answer.verdict(&self.clauses, &self.scores, pending, done)
    }

    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        let text = format!("{} {}", call.name, call.compact_arguments());
        Ok(match self.judge(Stage::ToolCall, &text)? {
            None => ToolCallVerdict::Allow,
            Some(clause) if clause.action == Action::Deny => ToolCallVerdict::Deny(clause.label.reason()),
            Some(clause) => ToolCallVerdict::Refuse(refusal(clause)),
        })
    }

    fn tool_result(&mut self, _: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        Ok(match self.judge(Stage::ToolResult, output)? {
            None => ToolResultVerdict::Allow,
            Some(clause) => ToolResultVerdict::Refuse(refusal(clause)),
        })
    }
}

membrane_plugin::export_policy!(JudgedGuard);

#[cfg(test)]
mod tests;
