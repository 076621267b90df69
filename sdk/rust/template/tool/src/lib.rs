//! Counts the words of a text.
#![forbid(unsafe_code)]

use membrane_plugin::tool::{self, Description, Tool};
use serde::Deserialize;

/// There is nothing to set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {}

/// What the model gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    text: String,
}

const SCHEMA: &str =
    r#"{"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}"#;

/// The tool.
pub struct Plugin;

impl Tool for Plugin {
    type Parameters = Parameters;

    fn new(_: Parameters) -> Result<Self, String> {
        Ok(Self)
    }

    fn describe(&self) -> Vec<Description> {
        vec![Description {
            name: "count_words".into(),
            description: "Counts the words of a text.".into(),
            parameters: SCHEMA.into(),
        }]
    }

    fn call(&mut self, _: &str, arguments: &str) -> Result<String, String> {
        let arguments: Arguments = tool::arguments(arguments)?;
        Ok(arguments.text.split_whitespace().count().to_string())
    }
}

membrane_plugin::export_tool!(Plugin);
