//! The world `agent`: pursue a task with the model and the tools of the run.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::bindings::agent::membrane::plugin::inference::{
    Completion, Constraint, EndReason, Generation, GenerationOptions, InferenceError, ModelInfo, Overflow,
    Refusal, Score, Session, Synced, Turn, model,
};
pub use crate::bindings::agent::membrane::plugin::types::{Invocation, Reason, Role};

/// The tools of the run.
pub mod tools {
    pub use crate::bindings::agent::membrane::plugin::tools::{Offer, available, call};
}

/// Calls a tool of the run with arguments that serde makes a JSON object of. Errors: they can't be JSON, there is no such tool, it
/// failed, or a policy denied the call.
pub fn call_tool(name: &str, arguments: &impl Serialize) -> Result<String, String> {
    let arguments = serde_json::to_string(arguments).map_err(|error| error.to_string())?;
    tools::call(&Invocation { name: name.to_owned(), arguments })
}

/// What the person sees.
pub mod output {
    pub use crate::bindings::agent::membrane::plugin::output::write;
}

/// The model's vocabulary.
pub mod vocabulary {
    pub use crate::bindings::agent::membrane::plugin::vocabulary::{
        bytes_of, encode, end_token, is_end, size,
    };
}

/// The run's recorded random source.
pub mod random {
    pub use crate::bindings::agent::membrane::plugin::random::next;
}

/// Decoding step by step; needs the grant `raw-decoding`.
pub mod raw_decoding {
    pub use crate::bindings::agent::membrane::plugin::raw_decoding::{
        Candidate, append, logits, tokens, top,
    };
}

/// Values that outlive the run; needs the grant `store`.
pub mod store {
    pub use crate::bindings::agent::membrane::plugin::store::{delete, get, keys, set};
}

impl Turn {
    /// A turn of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), calls: Vec::new(), tool: None }
    }

    /// What a tool gave back.
    pub fn result(tool: impl Into<String>, content: impl Into<String>) -> Self {
        Self { tool: Some(tool.into()), ..Self::new(Role::Tool, content) }
    }

    /// What a model said, and the calls that it made.
    pub fn said(completion: &Completion) -> Self {
        let calls = completion.calls.clone();
        Self { calls, ..Self::new(Role::Assistant, completion.text.clone()) }
    }
}

impl GenerationOptions {
    /// As many tokens as the context holds, without stop texts and constraint.
    pub fn new() -> Self {
        Self { max_tokens: None, stop: Vec::new(), constraint: None, seed: None, sampling: None }
    }

    /// At most so many tokens.
    pub fn at_most(mut self, tokens: u32) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Ends before this text.
    pub fn until(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// What the text must be.
    pub fn under(mut self, constraint: Constraint) -> Self {
        self.constraint = Some(constraint);
        self
    }

    /// Parameters in the place of those that the profile's last sampler has, a JSON object.
    pub fn sampling(mut self, parameters: impl Into<String>) -> Self {
        self.sampling = Some(parameters.into());
        self
    }
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// For `?` in an agent, whose errors are sentences.
impl From<InferenceError> for String {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::Overflow(Overflow { needed, room }) => {
                format!("the context has room for {room} more tokens, and {needed} are needed")
            }
            InferenceError::Refused(refusal) => refusal.message,
            InferenceError::Busy => "a generation is running in this session".to_owned(),
            InferenceError::Invalid(what) | InferenceError::Limit(what) | InferenceError::Failed(what) => {
                what
            }
        }
    }
}

/// An agent. An instance lives for one run.
pub trait Agent: Sized {
    /// The parameters in the profile, read with serde; `#[serde(default, deny_unknown_fields)]` is good
    /// practice.
    type Parameters: DeserializeOwned;

    /// Starts a run. Errors: a parameter that is out of range.
    fn new(parameters: Self::Parameters) -> Result<Self, String>;

    /// Does a task; gives what is to be added to what was written with [`output::write`]. Errors: why it is not done.
    fn run(&mut self, task: &str) -> Result<String, String>;
}

/// Makes a type that implements [`Agent`](agent::Agent) the plugin of this crate.
#[macro_export]
macro_rules! export_agent {
    ($plugin:ty) => {
        // Natively, for tests, there is no host to export to.
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::std::cell::RefCell;
            use $crate::__private::bindings::agent::exports::membrane::plugin::agent_plugin as exports;
            use $crate::agent::Agent;

            ::std::thread_local! {
                static PLUGIN: RefCell<Option<$plugin>> = const { RefCell::new(None) };
            }

            struct Exported;

            impl exports::Guest for Exported {
                fn configure(parameters: String) -> Result<(), String> {
                    $crate::__private::report_panics();
                    let parameters = $crate::__private::parse(&parameters)?;
                    PLUGIN.set(Some(<$plugin as Agent>::new(parameters)?));
                    Ok(())
                }

                fn run(task: String) -> Result<String, String> {
                    PLUGIN.with_borrow_mut(|plugin| plugin.as_mut().ok_or("not configured")?.run(&task))
                }
            }

            $crate::__private::bindings::agent::export!(
                Exported with_types_in $crate::__private::bindings::agent
            );
        };
    };
}
