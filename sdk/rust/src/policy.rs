//! The world `policy`: decide what may be asked and said.

use serde::de::DeserializeOwned;

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
