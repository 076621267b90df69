//! The rules file: reading it, and refusing what would not do what its author thinks.

use clauses::{Label, MAX_TEXT_BYTES, OneOrMany, Stage};
use serde::Deserialize;

use crate::matcher::{Literals, Matcher, Pattern};

/// Limits that keep the work for each token small.
const MAX_CLAUSES: usize = 1000;

/// How long a match of a pattern may be where the clause does not say, in bytes.
const DEFAULT_MAX_MATCH: usize = 256;
/// At the end of an answer that many places may each be searched that far.
const LARGEST_MAX_MATCH: usize = 1024;

/// What a clause does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the answer with a message.
    Refuse {
        /// What the person sees.
        message: String,
    },
    /// Replaces what matches.
    Redact {
        /// What stands in its place.
        replacement: String,
    },
    /// Ends the answer before what matches.
    Stop,
    /// The tool is not called; the model is told so.
    Deny,
}

/// A clause that holds.
#[derive(Debug)]
pub struct Clause {
    /// Its name, and where it looks.
    pub label: Label,
    /// What it looks for.
    pub matcher: Matcher,
    /// What it does.
    pub action: Action,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenClause {
    id: String,
    when: OneOrMany<Stage>,
    #[serde(rename = "match")]
    literals: Option<OneOrMany<String>>,
    pattern: Option<String>,
    max_match: Option<usize>,
    #[serde(default)]
    case_sensitive: bool,
    #[serde(default)]
    words: bool,
    action: Verb,
    message: Option<String>,
    replacement: Option<String>,
    note: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Refuse,
    Redact,
    Stop,
    Deny,
}

/// Reads the rules. Errors name the line, or the clause and the field.
pub fn parse(text: &str) -> Result<Vec<Clause>, String> {
    clauses::parse(text, MAX_CLAUSES, |written: &WrittenClause| written.id.as_str(), WrittenClause::check)
}

impl WrittenClause {
    fn check(self) -> Result<Clause, String> {
        let action = self.action()?;
        let matcher = self.matcher()?;
        let otherwise = format!("Matched clause {}.", self.id);
        let label = Label::new(self.id, self.note, &otherwise, self.when)?;
        match label.stages().iter().find(|stage| !action.possible(**stage)) {
            Some(stage) => Err(format!("`{}` can't {}", stage.as_str(), action.impossible())),
            None => Ok(Clause { label, matcher, action }),
        }
    }

    fn action(&self) -> Result<Action, String> {
        let unused = match self.action {
            Verb::Refuse => [("replacement", &self.replacement), ("", &None)],
            Verb::Redact => [("message", &self.message), ("", &None)],
            Verb::Stop | Verb::Deny => [("message", &self.message), ("replacement", &self.replacement)],
        };
        if let Some((name, _)) = unused.iter().find(|(_, value)| value.is_some()) {
            return Err(format!("`{name}` has no meaning for this action"));
        }
        let texts = [("message", &self.message), ("replacement", &self.replacement)];
        if let Some((name, _)) =
            texts.iter().find(|(_, t)| t.as_ref().is_some_and(|t| t.len() > MAX_TEXT_BYTES))
        {
            return Err(format!("`{name}` is longer than {MAX_TEXT_BYTES} bytes"));
        }
        Ok(match self.action {
            Verb::Stop => Action::Stop,
            Verb::Deny => Action::Deny,
            Verb::Redact => {
                let replacement = self.replacement.clone().unwrap_or_else(|| "[redacted]".to_owned());
                Action::Redact { replacement }
            }
            Verb::Refuse => {
                let message = self.message.clone().filter(|message| !message.trim().is_empty());
                Action::Refuse {
                    message: message.ok_or("to refuse needs a `message` for the person who asked")?,
                }
            }
        })
    }

    fn matcher(&self) -> Result<Matcher, String> {
        match (&self.literals, &self.pattern) {
            (Some(literals), None) => {
                if self.max_match.is_some() {
                    return Err("`max_match` has no meaning for `match`, only for `pattern`".to_owned());
                }
                let literals = match literals {
                    OneOrMany::One(text) => std::slice::from_ref(text),
                    OneOrMany::Many(texts) => texts,
                };
                Ok(Matcher::Literals(Literals::new(literals, self.case_sensitive, self.words)?))
            }
            (None, Some(pattern)) => {
                if self.words {
                    return Err("`words` has no meaning for `pattern`: write \\b".to_owned());
                }
                let max_match = self.max_match.unwrap_or(DEFAULT_MAX_MATCH);
                if !(1..=LARGEST_MAX_MATCH).contains(&max_match) {
                    return Err(format!("`max_match` {max_match} is not between 1 and {LARGEST_MAX_MATCH}"));
                }
                Ok(Matcher::Pattern(Pattern::new(pattern, self.case_sensitive, max_match)?))
            }
            _ => Err("needs either `match` or `pattern`".to_owned()),
        }
    }
}

impl Action {
    /// Whether the action can be taken at a stage.
    fn possible(&self, stage: Stage) -> bool {
        match self {
            Action::Refuse { .. } => true,
            Action::Redact { .. } => stage != Stage::ToolCall,
            Action::Stop => stage == Stage::Output,
            Action::Deny => stage == Stage::ToolCall,
        }
    }

    /// Ends the sentence "STAGE can't ...".
    const fn impossible(&self) -> &'static str {
        match self {
            Action::Refuse { .. } => "refuse",
            Action::Redact { .. } => "redact: arguments with a hole are no call; use deny",
            Action::Stop => "stop: that is for output",
            Action::Deny => "deny: that is for tool-call; use refuse",
        }
    }
}
