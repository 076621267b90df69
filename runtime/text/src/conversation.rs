//! A conversation as a chat template reads it.

use serde_json::{Map, Value, json};

use crate::reasoning;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever runs the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name that chat templates use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A call of a tool, made by the model.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// What it is called with; a JSON object.
    pub arguments: Value,
}

/// A message.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// Calls that the message makes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The name of the speaker; for a tool's result that of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The call that a tool's result answers. If absent it is the first call that has no answer yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), name: None, tool_call_id: None }
    }
}

/// What a chat template is given.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// The messages, first one first.
    pub messages: &'a [ChatMessage],
    /// Tools that the model may call, each `{"type": "function", "function": {"name", "description",
    /// "parameters"}}`.
    pub tools: &'a [Value],
    /// End with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`, from whoever runs the model.
    pub extra: &'a Map<String, Value>,
    /// Text of the beginning-of-text token; empty if there is none.
    pub bos_token: &'a str,
    /// Text of the end-of-text token; empty if there is none.
    pub eos_token: &'a str,
    /// What `strftime_now` takes for the time, seconds since 1970, UTC. A recorded value makes the prompt
    /// reproducible.
    pub now: i64,
}

impl Conversation<'_> {
    /// The variables of a template that reads so. Texts that whoever runs the model didn't write go through `untrusted`.
    pub(crate) fn variables(&self, reads: Reads, untrusted: &dyn Fn(&str) -> String) -> Map<String, Value> {
        let mut variables = self.extra.clone();
        let tools: Vec<Value> = self.tools.iter().map(|tool| map_strings(tool, untrusted)).collect();
        let tools = if tools.is_empty() { Value::Null } else { Value::Array(tools) };
        variables.insert("messages".into(), self.messages_value(reads, untrusted));
        variables.insert("tools".into(), tools);
        variables.insert("documents".into(), Value::Null);
        variables.insert("add_generation_prompt".into(), self.add_generation_prompt.into());
        variables.insert("bos_token".into(), self.bos_token.into());
        variables.insert("eos_token".into(), self.eos_token.into());
        variables
    }

    fn messages_value(&self, reads: Reads, untrusted: &dyn Fn(&str) -> String) -> Value {
        let calls = self.messages.iter().flat_map(|message| &message.tool_calls).enumerate();
        let ids: Vec<String> =
            calls.map(|(index, call)| reads.call_id(index, &untrusted(&call.name))).collect();
        let (mut made, mut answered) = (0, 0);
        let mut list = Vec::with_capacity(self.messages.len());
        for message in self.messages {
            let mut value = Map::new();
            value.insert("role".into(), message.role.name().into());
            let thinks = reads.reasoning && message.role == Role::Assistant;
            let parts = if thinks { reasoning::split(&message.content, reads.opens_reasoning) } else { None };
            let content = match parts {
                None => untrusted(&message.content),
                Some((mut thoughts, mut content)) => {
                    // gpt-oss' template takes one of them with a call.
                    if reads.one_with_call && !message.tool_calls.is_empty() && !content.is_empty() {
                        thoughts = format!("{thoughts}\n\n{content}");
                        content.clear();
                    }
                    let thoughts = untrusted(&thoughts);
                    value.insert("thinking".into(), thoughts.clone().into());
                    value.insert("reasoning_content".into(), thoughts.into());
                    untrusted(&content)
                }
            };
            value.insert("content".into(), content.into());
            if let Some(name) = &message.name {
                value.insert("name".into(), untrusted(name).into());
            }
            if message.role == Role::Tool {
                let of_call = || ids.get(answered).cloned().unwrap_or_else(|| call_id(answered));
                let id = message.tool_call_id.as_deref().map(untrusted).unwrap_or_else(of_call);
                answered += 1;
                value.insert("tool_call_id".into(), id.into());
            }
            if !message.tool_calls.is_empty() {
                let calls = message.tool_calls.iter().zip(&ids[made..]).map(|(call, id)| {
                    let arguments = match reads.arguments_as_text {
                        true => Value::String(untrusted(&call.arguments.to_string())),
                        false => map_strings(&call.arguments, untrusted),
                    };
                    let function = json!({"name": untrusted(&call.name), "arguments": arguments});
                    json!({"type": "function", "id": id, "function": function})
                });
                value.insert("tool_calls".into(), calls.collect());
                made += message.tool_calls.len();
            }
            list.push(Value::Object(value));
        }
        Value::Array(list)
    }
}

/// What a chat template reads of messages, beyond what all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Reasoning apart from the content, which it does not take from there by itself.
    pub reasoning: bool,
    /// Prompts may end with the tag that opens reasoning.
    pub opens_reasoning: bool,
    /// With a call, reasoning or content and not both.
    pub one_with_call: bool,
    /// The name of a tool from the id of its call, as Kimi's models write it.
    pub names_from_ids: bool,
    /// A call's arguments as JSON text, which it adds to others, as DeepSeek's do.
    pub arguments_as_text: bool,
}

impl Reads {
    pub fn of(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        let by_itself = has("split('</think>'") || has("split(\"</think>\"");
        Self {
            reasoning: (has("reasoning_content") || has(".thinking")) && !by_itself,
            opens_reasoning: has(reasoning::OPEN),
            one_with_call: has(".thinking"),
            names_from_ids: has("<|tool_call_argument_begin|>"),
            arguments_as_text: adds_arguments(source),
        }
    }

    fn call_id(self, index: usize, name: &str) -> String {
        if self.names_from_ids { format!("functions.{name}:{index}") } else { call_id(index) }
    }
}

/// Whether a template adds a call's arguments to texts as they are, which only a text can be.
fn adds_arguments(source: &str) -> bool {
    let dense: String = source.chars().filter(|c| !c.is_whitespace()).collect();
    let has = |text: &str| dense.contains(text);
    let adds = has("['arguments']+'") || has("+tool['function']['arguments']") || has(".arguments+'");
    adds && !["argumentsisstring", "['arguments']isstring", "arguments|tojson", "['arguments']|tojson"]
        .map(has)
        .contains(&true)
}

/// The id of the n-th call of a conversation, in the form that the strictest templates want: nine letters and
/// digits.
fn call_id(index: usize) -> String {
    format!("call{index:05}")
}

/// A JSON value with all its texts, keys included, replaced.
fn map_strings(value: &Value, replace: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(replace(text)),
        Value::Array(items) => items.iter().map(|item| map_strings(item, replace)).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, value)| (replace(key), map_strings(value, replace))).collect()
        }
        other => other.clone(),
    }
}
