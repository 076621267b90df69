//! Texts that are there at once: requests, tool calls, tool results.

use clauses::Stage;
use membrane_plugin::policy::{Invocation, Message, Reason, Refusal, Role, ToolCallVerdict};

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
pub fn request(clauses: &[Clause], mut messages: Vec<Message>) -> Outcome<Vec<Message>> {
    let mut first_reason = None;
    for message in messages.iter_mut().filter(|message| matches!(message.role, Role::User | Role::Tool)) {
        match apply(clauses, Stage::Request, &message.content) {
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
pub fn tool_result(clauses: &[Clause], output: &str) -> Outcome<String> {
    apply(clauses, Stage::ToolResult, output)
}

/// Applies the clauses for tool calls. They see the call as `NAME ARGUMENTS` with the arguments as compact
/// JSON, and also its name and each string of the arguments by themselves, so that no way to write JSON hides a text.
pub fn tool_call(clauses: &[Clause], call: &Invocation) -> ToolCallVerdict {
    let mut texts = call.texts();
    texts.push(format!("{} {}", call.name, call.compact_arguments()));
    let matches = |clause: &&Clause| texts.iter().any(|text| clause.matcher.find(text, 0).is_some());
    match clauses.iter().filter(|clause| clause.label.applies(Stage::ToolCall)).find(matches) {
        Some(clause) => match &clause.action {
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

/// Applies the clauses of a stage to a text, each to what the ones before have left.
fn apply(clauses: &[Clause], stage: Stage, text: &str) -> Outcome<String> {
    let mut current: Option<(String, Reason)> = None;
    for clause in clauses.iter().filter(|clause| clause.label.applies(stage)) {
        let seen = current.as_ref().map_or(text, |(text, _)| text);
        if clause.matcher.find(seen, 0).is_none() {
            continue;
        }
        match &clause.action {
            Action::Redact { replacement } => {
                let redacted = redact(clause, seen, replacement);
                let reason = current.map_or_else(|| clause.label.reason(), |(_, reason)| reason);
                current = Some((redacted, reason));
            }
            Action::Refuse { message } => return Outcome::Refused(message.clone(), clause.label.reason()),
            Action::Stop => {
                let end = clause.matcher.find(seen, 0).map_or(seen.len(), |found| found.start);
                let cut = seen[..end].to_owned();
                let reason = current.map_or_else(|| clause.label.reason(), |(_, reason)| reason);
                current = Some((cut, reason));
            }
            // The rules allow this for calls only.
            Action::Deny => {}
        }
    }
    match current {
        Some((text, reason)) => Outcome::Changed(text, reason),
        None => Outcome::Unchanged,
    }
}

fn redact(clause: &Clause, text: &str, replacement: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(found) = clause.matcher.find(text, from) {
        redacted.push_str(&text[from..found.start]);
        redacted.push_str(replacement);
        from = found.end;
    }
    redacted.push_str(&text[from..]);
    redacted
}
