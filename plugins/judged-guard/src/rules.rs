//! The rules file: reading it, and refusing what would not do what its author thinks.

use membrane_plugin::policy::Reason;
use serde::Deserialize;

/// Each clause is a question to the model for each text.
const MAX_CLAUSES: usize = 16;
const MAX_ID_BYTES: usize = 128;
const MAX_NOTE_BYTES: usize = 1024;
const MAX_TEXT_BYTES: usize = 4096;
/// Of the host: texts of one question, and bytes of each.
const MAX_ANSWERS: usize = 16;
const MAX_ANSWER_BYTES: usize = 256;

/// Ids that the host uses for its own clauses start with this.
const RESERVED_PREFIX: &str = "membrane:";

/// Where a clause looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The messages of users and tools in the request.
    Request,
    /// The answer.
    Output,
    /// Name and arguments of a tool call.
    ToolCall,
    /// What a tool gave back.
    ToolResult,
}

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
    id: String,
    note: String,
    stages: Vec<Stage>,
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

impl Clause {
    /// Whether it looks at this stage. What is for the answer also looks at the calls that the model makes in it
    /// and at what they give back, since a person sees those too.
    pub fn applies(&self, stage: Stage) -> bool {
        let shown = matches!(stage, Stage::ToolCall | Stage::ToolResult);
        self.stages.contains(&stage) || shown && self.stages.contains(&Stage::Output)
    }

    /// The reason that a verdict by this clause gives.
    pub fn reason(&self) -> Reason {
        Reason::new(self.id.as_str(), self.note.as_str())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    clause: Vec<WrittenClause>,
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

#[derive(Deserialize)]
#[serde(untagged, expecting = "a known value or a list of them")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_list(self) -> Vec<T> {
        match self {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

/// Reads the rules. Errors name the line, or the clause and the field.
pub fn parse(text: &str) -> Result<Vec<Clause>, String> {
    let written: Written = basic_toml::from_str(text).map_err(|error| error.to_string())?;
    if written.clause.is_empty() {
        return Err("there is no [[clause]]: a guard without clauses guards nothing".to_owned());
    }
    if written.clause.len() > MAX_CLAUSES {
        return Err(format!("{} clauses are more than {MAX_CLAUSES}", written.clause.len()));
    }
    let mut clauses: Vec<Clause> = Vec::new();
    for entry in written.clause {
        let id = entry.id.clone();
        let clause = entry.check().map_err(|error| format!("clause `{id}`: {error}"))?;
        if clauses.iter().any(|other| other.id == id) {
            return Err(format!("clause `{id}`: another clause has this id"));
        }
        clauses.push(clause);
    }
    Ok(clauses)
}

impl WrittenClause {
    fn check(self) -> Result<Clause, String> {
        check_id(&self.id)?;
        let note = self.note.unwrap_or_else(|| format!("The model says that clause {} applies.", self.id));
        if note.len() > MAX_NOTE_BYTES {
            return Err(format!("`note` is longer than {MAX_NOTE_BYTES} bytes"));
        }
        if self.question.trim().is_empty() || self.question.len() > MAX_TEXT_BYTES {
            return Err(format!("`question` has {} bytes, not 1 to {MAX_TEXT_BYTES}", self.question.len()));
        }
        let stages = self.when.into_list();
        if stages.is_empty() {
            return Err("`when` is empty: use request, output, tool-call or tool-result".to_owned());
        }
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
        let (id, question, hold) = (self.id, self.question, self.hold.unwrap_or_default());
        Ok(Clause { id, note, stages, question, refuse_if, allow_if, threshold, hold, action })
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
    if let Some(wrong) = answers.iter().find(|text| text.trim().is_empty() || text.len() > MAX_ANSWER_BYTES) {
        return Err(format!("`{field}` has an answer of {} bytes, not 1 to {MAX_ANSWER_BYTES}", wrong.len()));
    }
    let twice = answers.iter().enumerate().find(|(index, answer)| answers[..*index].contains(answer));
    match twice {
        Some((_, answer)) => Err(format!("`{field}` has `{answer}` twice")),
        None => Ok(answers),
    }
}

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`id` must have 1 to {MAX_ID_BYTES} printable ASCII characters"));
    }
    if id.starts_with(RESERVED_PREFIX) {
        return Err(format!("`id` must not start with `{RESERVED_PREFIX}`, which is the host's"));
    }
    Ok(())
}
