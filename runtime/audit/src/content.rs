//! Contents of answers: what the log has digests of, and a text file the words.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::judgement::JudgementText;

/// A content. Its JSON is what is digested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Content {
    /// What was asked.
    Request(RequestText),
    /// What the model read.
    Prompt(PromptText),
    /// What the model wrote.
    Tokens(TokensText),
    /// What it judged for a policy.
    Judgement(JudgementText),
    /// What it asked of a tool, and got.
    Call(CallText),
    /// What the person saw.
    End(EndText),
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestText {
    /// The messages as they were given: objects with `role`, `content`, and where they have them `tool_calls`, `name`
    /// and `tool_call_id`.
    pub messages: Vec<Value>,
    /// What the text of the answer had to follow: a JSON schema, or the text of an expression or a grammar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<Value>,
}

/// What the model read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptText {
    /// The rendered prompt as policies saw it; empty for a rewind.
    pub rendered: String,
    /// Token ids.
    pub ids: Vec<u32>,
}

/// What the model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensText {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Each text that was sent through the policies meanwhile, in order.
    pub outputs: Vec<Output>,
}

/// A text that was sent through the policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// How many tokens of the answer were chosen by then.
    pub token: u64,
    /// The text; what tool calls are made of is not in it.
    pub text: String,
    /// Whether it was the end of the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Name of the tool.
    pub name: String,
    /// Arguments, JSON.
    pub arguments: String,
}

/// What the model asked of a tool, and got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallText {
    /// The call as the model asked for it.
    pub asked: Call,
    /// The call as it was made; none if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Call>,
    /// What the tool gave back, before any policy; none if it was not called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What the model reads; none if a policy refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
}

/// What the person saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndText {
    /// All text that was released, tool rounds included.
    pub released: String,
    /// In place of what was withheld, if a policy refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What went wrong, if the answer failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The policies' sentences about their verdicts, in the order of the verdict records.
    pub notes: Vec<String>,
}
