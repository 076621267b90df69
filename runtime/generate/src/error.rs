//! What can go wrong while an answer is made.

use membrane_engine::EngineError;
use membrane_host::HostError;
use membrane_text::TextError;
use thiserror::Error;

/// An error that ends an answer without a verdict of a policy.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The model could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A sampler or tool failed, or could not be started.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The prompt could not be made or read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The model has no chat template and raw prompts were not asked for.
    #[error("the model file has no chat template (`tokenizer.chat_template`); use --raw to give it plain text")]
    NoTemplate,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens and the context holds {context}; nothing was cut. \
         Give a larger --ctx or a shorter conversation"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt is empty; give at least one character, or a model that begins with a token of its own")]
    EmptyPrompt,
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, GenerateError>;
