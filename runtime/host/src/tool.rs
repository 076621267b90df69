//! The tools of one answer.

use std::sync::Arc;

use serde_json::{Value, json};
use thiserror::Error;

use crate::bindings::tool::Tool;
use crate::bindings::tool::exports::membrane::plugin::tool_plugin::Description;
use crate::call::Instance;
use crate::engine::Host;
use crate::error::{Failure, HostError, Result};
use crate::exports::tool::{Call, Configure, Describe};
use crate::limits::{
    MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_VALUES, MAX_RESULT_BYTES, MAX_TOOL_DESCRIPTION_BYTES,
    MAX_TOOL_NAME_BYTES, MAX_TOOL_SCHEMA_BYTES, MAX_TOOL_SCHEMA_VALUES, MAX_TOOLS,
};
use crate::plugin::Plugin;
use crate::{World, error, values};

/// Why a tool call gave no result. The text is for the model, and spoils this call only.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ToolError {
    /// There is no such tool.
    #[error("there is no tool `{name}`; there are: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Names of the tools.
        known: String,
    },
    /// The arguments are not a JSON object.
    #[error(
        "the arguments of `{tool}` are not a JSON object of at most {MAX_ARGUMENTS_BYTES} bytes and \
         {MAX_ARGUMENTS_VALUES} values"
    )]
    Arguments {
        /// The tool.
        tool: String,
    },
    /// The tool reported an error.
    #[error("{0}")]
    Reported(String),
    /// The plugin failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Instances of tool plugins for one answer.
pub struct ToolSet {
    pub(crate) members: Vec<Member>,
    /// Name of each tool, and the index of its plugin.
    pub(crate) tools: Vec<(String, usize)>,
    pub(crate) descriptions: Arc<[Value]>,
}

pub(crate) struct Member {
    pub plugin: Plugin,
    /// None after a failure, until the next call.
    pub instance: Option<Instance<Tool>>,
    /// The version that comes back after a failure.
    pub before: Option<Plugin>,
}

impl ToolSet {
    /// Starts an instance of each plugin and asks it for its tools. Errors: a plugin that is no tool or fails
    /// to start, a description that the contract does not allow, or two tools of one name.
    pub fn start(_host: &Host, plugins: &[Plugin]) -> Result<Self> {
        let mut set = Self { members: Vec::new(), tools: Vec::new(), descriptions: Arc::default() };
        let mut descriptions = Vec::new();
        for (index, plugin) in plugins.iter().enumerate() {
            let mut instance = start(plugin)?;
            for (name, description) in describe(&mut instance)? {
                if let Some((_, first)) = set.tools.iter().find(|(taken, _)| *taken == name) {
                    let first = plugins[*first].name().to_owned();
                    let second = plugin.name().to_owned();
                    return Err(HostError::DuplicateTool { tool: name, first, second });
                }
                descriptions.push(description);
                set.tools.push((name, index));
            }
            set.members.push(Member { plugin: plugin.clone(), instance: Some(instance), before: None });
        }
        set.descriptions = descriptions.into();
        Ok(set)
    }

    /// Whether there are no tools.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Whether there is a tool of this name.
    pub fn offers(&self, name: &str) -> bool {
        self.tools.iter().any(|(tool, _)| tool == name)
    }

    /// The tools as chat templates take them: `{"type": "function", "function": {name, description,
    /// parameters}}`.
    pub fn descriptions(&self) -> &Arc<[Value]> {
        &self.descriptions
    }

    /// Calls a tool with a JSON object. After a failure the next call gets a new instance.
    pub fn call(&mut self, name: &str, arguments: &str) -> Result<String, ToolError> {
        let Some((_, index)) = self.tools.iter().find(|(tool, _)| tool == name) else {
            let known: Vec<&str> = self.tools.iter().map(|(name, _)| name.as_str()).collect();
            let name = crate::text::clean(name, MAX_TOOL_NAME_BYTES);
            return Err(ToolError::Unknown { name, known: known.join(", ") });
        };
        if values::of_arguments(arguments).is_none() {
            return Err(ToolError::Arguments { tool: name.to_owned() });
        }
        let member = &mut self.members[*index];
        let mut instance = match member.instance.take() {
            Some(instance) => instance,
            None => start(&member.plugin)?,
        };
        let result = instance.hook(&Call { name, arguments });
        let result = result.inspect_err(|_| {
            if let Some(before) = member.before.take() {
                member.plugin = before;
            }
        })?;
        member.instance = Some(instance);
        result.map(cut).map_err(|text| ToolError::Reported(cut(text)))
    }
}

pub(crate) fn start(plugin: &Plugin) -> Result<Instance<Tool>, Failure> {
    if plugin.world() != World::Tool {
        let is = plugin.world().with_article();
        let cause = error::Cause::Broke(format!("it is {is}, not {}", World::Tool.with_article()));
        return Err(Failure { plugin: plugin.name().to_owned(), hook: "start", cause });
    }
    let mut instance = Instance::start(plugin)?;
    instance.strict_hook(&Configure { parameters: plugin.parameters() })?;
    Ok(instance)
}

/// The tools of an instance: name and what chat templates take.
pub(crate) fn describe(instance: &mut Instance<Tool>) -> Result<Vec<(String, Value)>, Failure> {
    let tools = instance.hook(&Describe)?;
    if tools.is_empty() || tools.len() > MAX_TOOLS {
        let what = format!("it describes {} tools; there must be 1 to {MAX_TOOLS}", tools.len());
        return Err(instance.broke("describe", what));
    }
    let mut together = 0;
    let shown = |tool: Description| {
        let schema = check(&tool).map_err(|what| instance.broke("describe", what))?;
        together += values::count(&schema);
        if together > MAX_TOOL_SCHEMA_VALUES {
            let what = format!(
                "the schemas of its tools have more than {MAX_TOOL_SCHEMA_VALUES} JSON values together"
            );
            return Err(instance.broke("describe", what));
        }
        let function = json!({ "name": tool.name, "description": tool.description, "parameters": schema });
        Ok((tool.name, json!({ "type": "function", "function": function })))
    };
    tools.into_iter().map(shown).collect()
}

/// Checks a description, and gives the schema of its parameters.
fn check(tool: &Description) -> Result<Value, String> {
    let shown = crate::text::clean(&tool.name, MAX_TOOL_NAME_BYTES);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=MAX_TOOL_NAME_BYTES).contains(&tool.name.len()) || !tool.name.bytes().all(allowed) {
        return Err(format!(
            "the tool's name `{shown}` is not of 1 to {MAX_TOOL_NAME_BYTES} letters, digits, `_` and `-`"
        ));
    }
    if tool.description.len() > MAX_TOOL_DESCRIPTION_BYTES {
        return Err(format!("the description of `{shown}` has more than {MAX_TOOL_DESCRIPTION_BYTES} bytes"));
    }
    if tool.parameters.len() > MAX_TOOL_SCHEMA_BYTES {
        return Err(format!("the schema of `{shown}` has more than {MAX_TOOL_SCHEMA_BYTES} bytes"));
    }
    match serde_json::from_str(&tool.parameters) {
        Ok(schema @ Value::Object(_)) => Ok(schema),
        _ => Err(format!("the schema of `{shown}` is not a JSON object")),
    }
}

/// Cuts a result at its limit, at a character.
fn cut(mut text: String) -> String {
    let mut end = text.len().min(MAX_RESULT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
