//! What can go wrong while an answer is made.

use membrane_engine::EngineError;
use membrane_host::{HostError, Refused};
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
    #[error(
        "the model file has no chat template (`tokenizer.chat_template`); use --raw to give it plain text"
    )]
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
    #[error(
        "the prompt is empty; give at least one character, or a model that begins with a token of its own"
    )]
    EmptyPrompt,
}

/// Shorthand of this crate.
pub type Result<T, E = GenerateError> = std::result::Result<T, E>;

/// What ends an answer early.
pub(crate) enum Stopped {
    /// A policy's verdict, or that it failed.
    Refused(Refused),
    Failed(GenerateError),
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<GenerateError> for Stopped {
    fn from(error: GenerateError) -> Self {
        Self::Failed(error)
    }
}

impl From<EngineError> for Stopped {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<TextError> for Stopped {
    fn from(error: TextError) -> Self {
        Self::Failed(error.into())
    }
}
