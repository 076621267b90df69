//! The conversations that the sessions of a run keep, and what these take of the memory.

use std::sync::{Arc, Mutex};

use membrane_host::agent::InferenceError;
use membrane_host::limits::MAX_CONVERSATIONS_BYTES;
use membrane_text::{ChatMessage, ToolCall};
use serde_json::Value;

use super::lock;

/// Bytes that a field of an object takes beside its name and its value.
const FIELD_BYTES: usize = size_of::<String>() + 16;

/// Bytes of all conversations of a run. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Conversations(Arc<Mutex<usize>>);

/// The bytes of one conversation, which count until this is dropped.
pub(super) struct Share {
    all: Conversations,
    bytes: usize,
}

impl Conversations {
    /// Counts a conversation. Errors: with it they take more than they may.
    pub fn keep(&self, messages: &[ChatMessage]) -> Result<Share, InferenceError> {
        let bytes = messages.iter().map(message_bytes).sum::<usize>();
        let mut all = lock(&self.0);
        let together = *all + bytes;
        if together > MAX_CONVERSATIONS_BYTES {
            return Err(InferenceError::Limit(format!(
                "with this one the conversations of all sessions take {together} bytes of memory; the limit is \
                 {MAX_CONVERSATIONS_BYTES}: drop sessions that are done, or leave earlier turns out"
            )));
        }
        *all = together;
        Ok(Share { all: self.clone(), bytes })
    }
}

impl Share {
    /// The bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *lock(&self.all.0) -= self.bytes;
    }
}

fn message_bytes(message: &ChatMessage) -> usize {
    let call = |call: &ToolCall| size_of::<ToolCall>() + call.name.len() + value_bytes(&call.arguments);
    let calls = message.tool_calls.iter().map(call).sum::<usize>();
    size_of::<ChatMessage>() + message.content.len() + message.name.as_ref().map_or(0, String::len) + calls
}

fn value_bytes(value: &Value) -> usize {
    let within = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_bytes).sum::<usize>(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| FIELD_BYTES + name.len() + value_bytes(value);
            fields.iter().map(field).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + within
}

#[cfg(test)]
mod tests {
    use membrane_host::limits::{MAX_ARGUMENTS_VALUES, MAX_MESSAGE_BYTES, MAX_TURNS};
    use membrane_text::Role;
    use serde_json::json;

    use super::*;

    fn says(bytes: usize) -> ChatMessage {
        ChatMessage::new(Role::User, "x".repeat(bytes))
    }

    #[test]
    fn conversations_count_as_long_as_they_are_kept() {
        let (all, long) = (Conversations::default(), [says(MAX_CONVERSATIONS_BYTES / 4)]);
        let mut kept: Vec<Share> = (0..4).filter_map(|_| all.keep(&long).ok()).collect();
        assert_eq!(kept.len(), 3);
        let Err(InferenceError::Limit(why)) = all.keep(&long) else { panic!("a fourth is kept") };
        assert!(why.contains(&MAX_CONVERSATIONS_BYTES.to_string()) && why.contains("drop sessions"), "{why}");
        kept.pop();
        assert!(all.keep(&long).is_ok(), "it counts no longer than it is kept");
        kept.clear();
        assert_eq!(*lock(&all.0), 0);
    }

    #[test]
    fn values_of_arguments_count_by_the_memory_that_they_take() {
        let arguments = json!({ "a": vec![0; 10_000] });
        let text = arguments.to_string();
        let tool_calls = vec![ToolCall { name: "add".into(), arguments }];
        let bytes = message_bytes(&ChatMessage { tool_calls, ..says(0) });
        assert!(bytes > 10_000 * size_of::<Value>() && bytes > 10 * text.len(), "{bytes}");
    }

    #[test]
    fn the_longest_conversation_can_take_the_place_of_another() {
        let all = Conversations::default();
        let mut messages = vec![says(0); MAX_TURNS - 1];
        messages.push(says(MAX_MESSAGE_BYTES));
        let fields: serde_json::Map<String, Value> =
            (0..MAX_ARGUMENTS_VALUES - 1).map(|number| (number.to_string(), Value::Null)).collect();
        messages[0].tool_calls = vec![ToolCall { name: "add".into(), arguments: fields.into() }];
        let before = all.keep(&messages);
        assert!(before.is_ok() && all.keep(&messages).is_ok());
    }
}
