//! The rules file: reading it, and refusing what would not do what its author thinks.

use clauses::{Label, MAX_TEXT_BYTES, OneOrMany, Stage};
use serde::Deserialize;

/// Each clause is a question to the model for each text.
const MAX_CLAUSES: usize = 16;
/// Of the host: texts of one question, and bytes of each.
const MAX_ANSWERS: usize = 16;
const MAX_ANSWER_BYTES: usize = 256;

/// What a clause does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the answer with a message.
    Refuse {
        /// What the person sees.
        message: String,
    },
    /// The tool is not called; the model is told so.
    Deny,
}

/// How much of an answer is held back until it is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// A sentence; it is judged with what was said before.
    #[default]
    Sentence,
    /// All of it.
    Answer,
}

/// A clause that holds.
#[derive(Debug)]
pub struct Clause {
    /// Its name, and where it looks.
    pub label: Label,
    /// What the model is asked about a text.
    pub question: String,
    /// Answers that refuse.
    pub refuse_if: Vec<String>,
    /// Answers that allow.
    pub allow_if: Vec<String>,
    /// It refuses from this share of the answers that refuse on, 0 to 1.
    pub threshold: f64,
    /// For answers.
    pub hold: Hold,
    /// What it does.
    pub action: Action,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenClause {
    id: String,
    when: OneOrMany<Stage>,
    question: String,
    refuse_if: Option<OneOrMany<String>>,
    allow_if: Option<OneOrMany<String>>,
    threshold: Option<f64>,
    hold: Option<Hold>,
    action: Verb,
    message: Option<String>,
    note: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Refuse,
    Deny,
}

/// Reads the rules. Errors name the line, or the clause and the field.
pub fn parse(text: &str) -> Result<Vec<Clause>, String> {
    clauses::parse(text, MAX_CLAUSES, |written: &WrittenClause| written.id.as_str(), WrittenClause::check)
}

impl WrittenClause {
    fn check(self) -> Result<Clause, String> {
        let otherwise = format!("The model says that clause {} applies.", self.id);
        let label = Label::new(self.id, self.note, &otherwise, self.when)?;
        if self.question.trim().is_empty() {
            return Err("`question` is blank".to_owned());
        }
        if self.question.len() > MAX_TEXT_BYTES {
            return Err(format!("`question` is longer than {MAX_TEXT_BYTES} bytes"));
        }
        let stages = label.stages();
        if self.action == Verb::Deny && stages.iter().any(|stage| *stage != Stage::ToolCall) {
            return Err("to deny is for `tool-call` alone".to_owned());
        }
        if self.hold.is_some() && !stages.contains(&Stage::Output) {
            return Err("`hold` has a meaning for `output` only".to_owned());
        }
        let threshold = self.threshold.unwrap_or(0.5);
        if !(0.0..=1.0).contains(&threshold) {
            return Err(format!("`threshold` {threshold} is not between 0 and 1"));
        }
        let refuse_if = answers("refuse_if", self.refuse_if, "Yes")?;
        let allow_if = answers("allow_if", self.allow_if, "No")?;
        if refuse_if.len() + allow_if.len() > MAX_ANSWERS {
            return Err(format!("`refuse_if` and `allow_if` have more than {MAX_ANSWERS} answers together"));
        }
        if let Some(both) = refuse_if.iter().find(|answer| allow_if.contains(answer)) {
            return Err(format!("`{both}` is in `refuse_if` and in `allow_if`"));
        }
        let action = action(self.action, self.message)?;
        let (question, hold) = (self.question, self.hold.unwrap_or_default());
        Ok(Clause { label, question, refuse_if, allow_if, threshold, hold, action })
    }
}

fn action(verb: Verb, message: Option<String>) -> Result<Action, String> {
    match (verb, message) {
        (Verb::Deny, Some(_)) => Err("`message` has no meaning for this action".to_owned()),
        (Verb::Deny, None) => Ok(Action::Deny),
        (Verb::Refuse, Some(message)) if message.len() > MAX_TEXT_BYTES => {
            Err(format!("`message` is longer than {MAX_TEXT_BYTES} bytes"))
        }
        (Verb::Refuse, Some(message)) if !message.trim().is_empty() => Ok(Action::Refuse { message }),
        (Verb::Refuse, _) => Err("to refuse needs a `message` for the person who asked".to_owned()),
    }
}

/// Answers of the model. What it writes decides: `Yes` and ` yes` are two.
fn answers(field: &str, given: Option<OneOrMany<String>>, default: &str) -> Result<Vec<String>, String> {
    let answers = given.map_or_else(|| vec![default.to_owned()], OneOrMany::into_list);
    if answers.is_empty() {
        return Err(format!("`{field}` is empty"));
    }
    if answers.iter().any(|text| text.trim().is_empty()) {
        return Err(format!("`{field}` has an answer that is blank"));
    }
    if answers.iter().any(|text| text.len() > MAX_ANSWER_BYTES) {
        return Err(format!("`{field}` has an answer that is longer than {MAX_ANSWER_BYTES} bytes"));
    }
    let twice = answers.iter().enumerate().find(|(index, answer)| answers[..*index].contains(answer));
    match twice {
        Some((_, answer)) => Err(format!("`{field}` has `{answer}` twice")),
        None => Ok(answers),
    }
}
