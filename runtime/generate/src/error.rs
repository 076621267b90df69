//! What can go wrong while an answer is made.

use std::path::PathBuf;

use membrane_audit::AuditError;
use membrane_engine::{EngineError, Model};
use membrane_host::{HostError, Refused};
use membrane_profile::Digest;
use membrane_text::{GrammarError, TextError};
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
    /// The answer could not be recorded. An answer that no record tells of is not made.
    #[error("the answer could not be recorded: {0}")]
    Audit(#[from] AuditError),
    /// A recorded answer can't be made again.
    #[error("answer {answer}: {what}")]
    Replay {
        /// Number of the answer.
        answer: u64,
        /// Why.
        what: String,
    },
    /// The prompt could not be made or read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The grammar can't be followed, or not with this model.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A policy changed the text into one that the grammar does not allow.
    #[error("a policy forced a text: with what policies let pass before it, {0}; the answer ends here")]
    ForcedAgainstGrammar(GrammarError),
    /// A grammar for an answer in which tools may be called.
    #[error(
        "an answer that must follow a grammar can't call tools, and there are some: leave out the grammar, or the tools"
    )]
    GrammarWithTools,
    /// A grammar for a text that begins in the middle of the model's reasoning.
    #[error(
        "the model's chat template begins the answer with its reasoning, which would have to follow the grammar: use \
         --raw with a prompt of your own, or a model without reasoning"
    )]
    GrammarInReasoning,
    /// The model file's chat template can't be used.
    #[error("{}: {source}", path.display())]
    Template {
        /// The model file.
        path: PathBuf,
        /// What is wrong with it.
        source: TextError,
    },
    /// The model has no chat template and raw prompts were not asked for.
    #[error(
        "the model file has no chat template (`tokenizer.chat_template`); use --raw to give it plain text"
    )]
    NoTemplate,
    /// A policy changes the messages of a context that no template made.
    #[error(
        "a policy changes what is asked, and a context of appended texts can't be changed; make it of a conversation"
    )]
    Unrendered,
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
    /// A plugin is offered again after it failed.
    #[error(
        "plugin `{plugin}` ({digest}) failed when it was in force, and is not tried again until it changes: {why}"
    )]
    FailedBefore {
        /// Name of the plugin.
        plugin: String,
        /// Digest of the component.
        digest: Digest,
        /// The failure.
        why: String,
    },
    /// A new behaviour asks the model to judge, which the memory plan was not made for.
    #[error(
        "a policy of the new behaviour may ask the model to judge (grant `judge`), which takes a second context, and no \
         memory was set aside for one when the model was loaded; start again with it"
    )]
    NoJudge,
    /// A prompt of no tokens.
    #[error(
        "the prompt is empty; give at least one character, or a model that begins with a token of its own"
    )]
    EmptyPrompt,
}

impl GenerateError {
    /// An error of making a prompt, with the name of the file if its template is at fault.
    pub(crate) fn of_prompt(source: TextError, model: &Model) -> Self {
        match source {
            TextError::Template { .. }
            | TextError::TemplateTooLong { .. }
            | TextError::TemplateLimit { .. } => {
                Self::Template { path: model.checkpoint().path().to_owned(), source }
            }
            other => Self::Text(other),
        }
    }
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

impl From<GrammarError> for Stopped {
    fn from(error: GrammarError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<TextError> for Stopped {
    fn from(error: TextError) -> Self {
        Self::Failed(error.into())
    }
}
