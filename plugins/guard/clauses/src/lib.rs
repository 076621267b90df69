//! What the rules files of guard and judged-guard have in common: a list of `[[clause]]`, each with an id, a note, and the
//! stages at which it looks.
#![forbid(unsafe_code)]

use membrane_plugin::policy::Reason;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Bytes of a text of a clause that people or the model read.
pub const MAX_TEXT_BYTES: usize = 4096;
const MAX_ID_BYTES: usize = 128;
const MAX_NOTE_BYTES: usize = 1024;

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

impl Stage {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Request => "request",
            Stage::Output => "output",
            Stage::ToolCall => "tool-call",
            Stage::ToolResult => "tool-result",
        }
    }
}

/// One value, or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a known value or a list of them")]
pub enum OneOrMany<T> {
    /// A value by itself.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The list.
    pub fn into_list(self) -> Vec<T> {
        match self {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

/// What a verdict by a clause says of it, and where it looks.
#[derive(Debug)]
pub struct Label {
    id: String,
    note: String,
    stages: Vec<Stage>,
}

impl Label {
    /// A clause's label. `otherwise`: its note where it has none. Errors: an id, a note or stages that can't be.
    pub fn new(
        id: String,
        note: Option<String>,
        otherwise: &str,
        when: OneOrMany<Stage>,
    ) -> Result<Self, String> {
        check_id(&id)?;
        let note = note.unwrap_or_else(|| otherwise.to_owned());
        if note.len() > MAX_NOTE_BYTES {
            return Err(format!("`note` is longer than {MAX_NOTE_BYTES} bytes"));
        }
        let stages = when.into_list();
        if stages.is_empty() {
            return Err("`when` is empty: use request, output, tool-call or tool-result".to_owned());
        }
        Ok(Self { id, note, stages })
    }

    /// The stages that are written.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Whether the clause looks at this stage. What is for the answer also looks at the calls that the model makes in it and
    /// at what they give back, since a person sees those too.
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
#[serde(deny_unknown_fields, bound = "W: DeserializeOwned")]
struct Written<W> {
    #[serde(default = "Vec::new")]
    clause: Vec<W>,
}

/// Reads a rules file of at most so many clauses. `id`: of a clause as it is written; `check`: makes one of it. Errors name the
/// line, or the clause and the field.
pub fn parse<W: DeserializeOwned, C>(
    text: &str,
    most: usize,
    id: impl Fn(&W) -> &str,
    check: impl Fn(W) -> Result<C, String>,
) -> Result<Vec<C>, String> {
    let written: Written<W> = basic_toml::from_str(text).map_err(|error| error.to_string())?;
    if written.clause.is_empty() {
        return Err("there is no [[clause]]: a guard without clauses guards nothing".to_owned());
    }
    if written.clause.len() > most {
        return Err(format!("{} clauses are more than {most}", written.clause.len()));
    }
    let mut ids: Vec<String> = Vec::new();
    let mut clauses = Vec::new();
    for entry in written.clause {
        let id = id(&entry).to_owned();
        let clause = check(entry).map_err(|error| format!("clause `{id}`: {error}"))?;
        if ids.contains(&id) {
            return Err(format!("clause `{id}`: another clause has this id"));
        }
        ids.push(id);
        clauses.push(clause);
    }
    Ok(clauses)
}

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`id` is not 1 to {MAX_ID_BYTES} printable ASCII characters without spaces"));
    }
    if id.starts_with(RESERVED_PREFIX) {
        return Err(format!("ids that start with `{RESERVED_PREFIX}` belong to the host"));
    }
    Ok(())
}
