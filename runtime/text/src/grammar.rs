//! What an answer may be: a JSON schema, a regular expression or a grammar, and which tokens it allows.
//!
//! A [`GrammarCompiler`] is made once from a tokenizer. It makes a [`Constraint`] of a [`Grammar`]: asked before each
//! token, it sets the logits of those that can't follow to minus infinity; told of each token, it goes on. What is
//! allowed depends on the grammar, the vocabulary and the tokens, and on nothing else: limits count work, not time.
//!
//! The parsing is that of the crate `llguidance`, whose dialect of Lark is the one of [`Grammar::Lark`].

mod check;
mod compiler;
mod constraint;
mod error;
mod keywords;
mod place;
mod words;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::shown;

pub use compiler::GrammarCompiler;
pub use constraint::Constraint;
pub use error::GrammarError;
pub use keywords::UnknownKeyword;

/// What a text must be. Untrusted: [`crate::limits`] says what it may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grammar {
    /// JSON that is valid under this schema. What of JSON Schema can't be enforced is refused, not ignored.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole, in the syntax of the crate `regex`.
    Regex(String),
    /// A text of this language: Lark as `llguidance` reads it. The rule `start` is the text.
    Lark(String),
}

impl Grammar {
    /// A schema from its JSON. Errors: no JSON, or beyond a limit.
    pub fn json_schema(text: &str) -> Result<Self, GrammarError> {
        check::schema_size(text.len())?;
        let schema = serde_json::from_str(text);
        let schema = schema.map_err(|error| GrammarError::schema(format!("it is no JSON: {error}")))?;
        if let Some(number) = keywords::rounded_when_read(text) {
            let number = shown(number);
            return Err(GrammarError::schema(format!(
                "it has the number {number}, which is not kept exactly"
            )));
        }
        Ok(Self::JsonSchema(schema))
    }

    /// Keywords of a JSON schema that there are not. They are allowed and mean nothing; one may be misspelt.
    pub fn unknown_keywords(&self) -> Vec<UnknownKeyword> {
        match self {
            Self::JsonSchema(schema) => keywords::unknown(schema),
            Self::Regex(_) | Self::Lark(_) => Vec::new(),
        }
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
        }
    }
}
