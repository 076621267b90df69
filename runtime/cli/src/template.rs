//! What chat templates are told beside the conversation.

use serde_json::{Map, Value};

/// Further variables of chat templates.
#[derive(clap::Args)]
pub struct TemplateOptions {
    /// Further variables of the model's chat template, as a JSON object, such as '{"enable_thinking": false}' for Qwen3 or
    /// '{"reasoning_effort": "high"}' for gpt-oss
    #[arg(long, value_name = "JSON", value_parser = object)]
    chat_template_kwargs: Option<Object>,
}

type Object = Map<String, Value>;

impl TemplateOptions {
    /// The variables.
    pub fn variables(&self) -> Object {
        self.chat_template_kwargs.clone().unwrap_or_default()
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.chat_template_kwargs.as_ref().is_none_or(Map::is_empty)
    }
}

/// Names that the template is given anyway.
const TAKEN: &[&str] = &["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"];

fn object(text: &str) -> Result<Object, String> {
    let object: Object =
        serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    match TAKEN.iter().find(|name| object.contains_key(**name)) {
        Some(name) => Err(format!("`{name}` is made of the conversation and can't be set")),
        None => Ok(object),
    }
}
