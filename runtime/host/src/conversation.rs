//! What policies and tools see of a conversation.

use crate::bindings::sampler::membrane::plugin::types as wit;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Whoever set the conversation up.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Text.
    pub content: String,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Name of the tool.
    pub name: String,
    /// Arguments, a JSON object.
    pub arguments: String,
}

impl From<Role> for wit::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::System => Self::System,
            Role::User => Self::User,
            Role::Assistant => Self::Assistant,
            Role::Tool => Self::Tool,
        }
    }
}

impl From<wit::Role> for Role {
    fn from(role: wit::Role) -> Self {
        match role {
            wit::Role::System => Self::System,
            wit::Role::User => Self::User,
            wit::Role::Assistant => Self::Assistant,
            wit::Role::Tool => Self::Tool,
        }
    }
}

impl From<Message> for wit::Message {
    fn from(message: Message) -> Self {
        Self { role: message.role.into(), content: message.content }
    }
}

impl From<wit::Message> for Message {
    fn from(message: wit::Message) -> Self {
        Self { role: message.role.into(), content: message.content }
    }
}

impl From<&Invocation> for wit::Invocation {
    fn from(call: &Invocation) -> Self {
        Self { name: call.name.clone(), arguments: call.arguments.clone() }
    }
}

impl From<wit::Invocation> for Invocation {
    fn from(call: wit::Invocation) -> Self {
        Self { name: call.name, arguments: call.arguments }
    }
}
