//! The world `policy`: decide what may be asked and said.

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use crate::bindings::policy::exports::membrane::plugin::policy_plugin::{
    Ending, ForcedText, OutputVerdict, PromptVerdict, Refusal, Replacement, RequestVerdict, RewrittenRequest,
    RewrittenText, ToolCallVerdict, ToolResultVerdict,
};
pub use crate::bindings::policy::membrane::plugin::types::{Invocation, Message, Reason, Role};

impl Reason {
    /// A reason: the id of a clause (at most 128 bytes) and a sentence for people (at most 1,024 bytes).
    pub fn new(clause: impl Into<String>, note: impl Into<String>) -> Self {
        Self { clause: clause.into(), note: note.into() }
    }
}

impl Message {
    /// A turn of a conversation.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

impl OutputVerdict {
    /// Releases all of the pending text.
    pub fn release_all(pending: &str) -> Self {
        // The host caps pending text at 1 MiB.
        Self::Release(pending.len() as u32)
    }
}

impl Invocation {
    /// The arguments as compact JSON, or as they stand if they are no JSON.
    pub fn compact_arguments(&self) -> String {
        serde_json::from_str(&self.arguments)
            .map_or_else(|_| self.arguments.clone(), |arguments: Value| arguments.to_string())
    }

    /// What the call says: its name, and every string of its arguments with escapes undone, keys too. Searching
    /// each finds a text however the model wrote it in JSON.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = vec![self.name.clone()];
        match serde_json::from_str(&self.arguments) {
            Ok(arguments) => collect_strings(arguments, &mut texts),
            Err(_) => texts.push(self.arguments.clone()),
        }
        texts
    }
}

/// All strings in a JSON value, keys too.
fn collect_strings(value: Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.into_iter().for_each(|item| collect_strings(item, texts)),
        Value::Object(entries) => {
            for (key, item) in entries {
                texts.push(key);
                collect_strings(item, texts);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A policy. An instance lives for one answer, tool calls included. Every hook lets pass unless it is
/// implemented.
pub trait Policy: Sized {
    /// The parameters in the profile, read with serde; `#[serde(default, deny_unknown_fields)]` is good
    /// practice.
    type Parameters: DeserializeOwned;

    /// Starts an answer. Errors: a parameter that is out of range.
    fn new(parameters: Self::Parameters) -> Result<Self, String>;

    /// The request, before the chat template. The last message is the newest.
    fn request(&mut self, messages: Vec<Message>) -> Result<RequestVerdict, String> {
        let _ = messages;
        Ok(RequestVerdict::Allow)
    }

    /// The rendered prompt, as the model will read it.
    fn prompt(&mut self, rendered: &str) -> Result<PromptVerdict, String> {
        let _ = rendered;
        Ok(PromptVerdict::Allow)
    }

    /// Text of the answer that no one has seen yet: what was held back before, and what is new. `done` is
    /// true once, at the end; what is not released then is dropped.
    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        let _ = done;
        Ok(OutputVerdict::release_all(pending))
    }

    /// A call that the model wants to make.
    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        let _ = call;
        Ok(ToolCallVerdict::Allow)
    }

    /// What a tool gave back, before the model reads it.
    fn tool_result(&mut self, call: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        let _ = (call, output);
        Ok(ToolResultVerdict::Allow)
    }

    /// All that was released, at the end of the answer.
    fn finish(&mut self, released: &str) -> Result<(), String> {
        let _ = released;
        Ok(())
    }
}

/// Makes a type that implements [`Policy`](policy::Policy) the plugin of this crate.
#[macro_export]
macro_rules! export_policy {
    ($plugin:ty) => {
        // Natively, for tests, there is no host to export to.
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::std::cell::RefCell;
            use $crate::__private::bindings::policy::exports::membrane::plugin::policy_plugin as exports;
            use $crate::policy::{Invocation, Message, Policy};

            ::std::thread_local! {
                static PLUGIN: RefCell<Option<$plugin>> = const { RefCell::new(None) };
            }

            fn with<R>(hook: impl FnOnce(&mut $plugin) -> Result<R, String>) -> Result<R, String> {
                PLUGIN.with_borrow_mut(|plugin| hook(plugin.as_mut().ok_or("not configured")?))
            }

            struct Exported;

            impl exports::Guest for Exported {
                fn configure(parameters: String) -> Result<(), String> {
                    $crate::__private::report_panics();
                    let parameters = $crate::__private::parse(&parameters)?;
                    PLUGIN.set(Some(<$plugin as Policy>::new(parameters)?));
                    Ok(())
                }

                fn request(messages: Vec<Message>) -> Result<exports::RequestVerdict, String> {
                    with(|plugin| plugin.request(messages))
                }

                fn prompt(rendered: String) -> Result<exports::PromptVerdict, String> {
                    with(|plugin| plugin.prompt(&rendered))
                }

                fn output(pending: String, done: bool) -> Result<exports::OutputVerdict, String> {
                    with(|plugin| plugin.output(&pending, done))
                }

                fn tool_call(call: Invocation) -> Result<exports::ToolCallVerdict, String> {
                    with(|plugin| plugin.tool_call(call))
                }

                fn tool_result(
                    call: Invocation,
                    output: String,
                ) -> Result<exports::ToolResultVerdict, String> {
                    with(|plugin| plugin.tool_result(call, &output))
                }

                fn finish(released: String) -> Result<(), String> {
                    with(|plugin| plugin.finish(&released))
                }
            }

            $crate::__private::bindings::policy::export!(
                Exported with_types_in $crate::__private::bindings::policy
            );
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_its_strings_without_escapes() {
        let call = |arguments: &str| Invocation { name: "say".into(), arguments: arguments.into() };
        let nested = call(r#"{"\u0061": ["b\n", {"c": 1, "d": "\u2603"}]}"#);
        assert_eq!(nested.texts(), ["say", "a", "b\n", "c", "d", "☃"]);
        assert_eq!(nested.compact_arguments(), r#"{"a":["b\n",{"c":1,"d":"☃"}]}"#);
        assert_eq!(call("no JSON").texts(), ["say", "no JSON"]);
        assert_eq!(call("no JSON").compact_arguments(), "no JSON");
    }
}
