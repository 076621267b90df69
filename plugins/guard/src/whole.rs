//! Texts that are there at once: requests, tool calls, tool results.

use clauses::Stage;
use membrane_plugin::policy::{Invocation, Message, Reason, Refusal, Role, ToolCallVerdict};

use crate::draft::Draft;
use crate::index::Index;
use crate::matcher::Matcher;
use crate::rules::{Action, Clause};

/// What the clauses make of something.
pub enum Outcome<T> {
    /// No clause redacts or refuses.
    Unchanged,
    /// What is left after redaction, with the first clause that redacted.
    Changed(T, Reason),
    /// The message of the first clause that refuses.
    Refused(String, Reason),
}

/// Applies the clauses for requests, in their order, to the messages of users and tools. System messages are
/// the operator's, and the assistant's have passed as answers.
pub fn request(clauses: &[Clause], index: &Index, mut messages: Vec<Message>) -> Outcome<Vec<Message>> {
    let mut first_reason = None;
    for message in messages.iter_mut().filter(|message| matches!(message.role, Role::User | Role::Tool)) {
        match apply(clauses, index, Stage::Request, &message.content) {
            Outcome::Unchanged => {}
            Outcome::Changed(content, reason) => {
                message.content = content;
                first_reason.get_or_insert(reason);
            }
            Outcome::Refused(text, reason) => return Outcome::Refused(text, reason),
        }
    }
    match first_reason {
        Some(reason) => Outcome::Changed(messages, reason),
        None => Outcome::Unchanged,
    }
}

/// Applies the clauses for tool results.
pub fn tool_result(clauses: &[Clause], index: &Index, output: &str) -> Outcome<String> {
    apply(clauses, index, Stage::ToolResult, output)
}

/// Applies the clauses for tool calls. They see the call as `NAME ARGUMENTS` with the arguments as compact
/// JSON, and also its name and each string and number of the arguments by themselves, so that no way to write JSON hides a text.
pub fn tool_call(clauses: &[Clause], index: &Index, call: &Invocation) -> ToolCallVerdict {
    let mut texts = call.texts();
    texts.push(format!("{} {}", call.name, call.compact_arguments()));
    let mut literals = vec![false; clauses.len()];
    for text in &texts {
        index.find(text, 0..text.len(), |number, _| literals[number] = true);
    }
    let matches = |(number, clause): &(usize, &Clause)| match &clause.matcher {
        Matcher::Literals(_) => literals[*number],
        Matcher::Pattern(pattern) => texts.iter().any(|text| pattern.find(text, 0).is_some()),
    };
    match numbered(clauses, Stage::ToolCall).find(matches) {
        Some((_, clause)) => match &clause.action {
            Action::Refuse { message } => {
                ToolCallVerdict::Refuse(Refusal { message: message.clone(), reason: clause.label.reason() })
            }
            Action::Deny | Action::Stop | Action::Redact { .. } => {
                ToolCallVerdict::Deny(clause.label.reason())
            }
        },
        None => ToolCallVerdict::Allow,
    }
}

/// The clauses that look at a stage, with their places.
fn numbered(clauses: &[Clause], stage: Stage) -> impl Iterator<Item = (usize, &Clause)> {
    clauses.iter().enumerate().filter(move |(_, clause)| clause.label.applies(stage))
}

/// Applies the clauses of a stage to a text, each to what the ones before have left.
fn apply(clauses: &[Clause], index: &Index, stage: Stage, text: &str) -> Outcome<String> {
    let mut draft = Draft::new(clauses, index, stage, text);
    let mut reason = None;
    for (number, clause) in numbered(clauses, stage) {
        let Some(first) = draft.matches(number).next() else { continue };
        match &clause.action {
            Action::Redact { replacement } => {
                let found: Vec<_> = draft.matches(number).collect();
                draft.replace(&found, replacement, number + 1);
            }
            Action::Refuse { message } => return Outcome::Refused(message.clone(), clause.label.reason()),
            Action::Stop => {
                let rest = first.start..draft.text().len();
                draft.replace(&[rest], "", number + 1);
            }
            // The rules allow this for calls only.
            Action::Deny => continue,
        }
        reason.get_or_insert_with(|| clause.label.reason());
    }
    match reason {
        Some(reason) => Outcome::Changed(draft.text().to_owned(), reason),
        None => Outcome::Unchanged,
    }
}

#[cfg(test)]
mod tests;
