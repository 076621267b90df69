//! The model as a judge of policies. The host knows no model: whoever starts policies may give them a [`Judge`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::bindings::policy::membrane::plugin::judge as wit;
use crate::conversation::Message;

/// What the model is to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A text as it is, look-alikes of control tokens as text.
    Text(String),
    /// A conversation, by the model's chat template.
    Chat(Vec<Message>),
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Of each continuation the natural logarithm of its probability.
    pub scores: Vec<f64>,
    /// Tokens of question and continuations together, whether or not the model had read them before.
    pub tokens: u64,
}

/// Why there are no scores.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JudgeError {
    /// More tokens than are left. The policy is told so.
    #[error("it has {tokens} tokens")]
    Tokens {
        /// Tokens of question and continuations.
        tokens: u64,
    },
    /// What was asked can't be, with this model. The policy is told so.
    #[error("{0}")]
    Invalid(String),
    /// There is no model, or it failed. It ends the policy's call, which counts as a failure of the policy.
    #[error("{0}")]
    Unavailable(String),
    /// The answer is to be cancelled. It ends the policy's call.
    #[error("the answer is cancelled")]
    Cancelled,
}

/// Who scores continuations for the policies of an answer.
pub trait Judge: Send {
    /// How likely the continuations are behind a question of `policy`, each by itself. `left`: most tokens of all together.
    /// The same question must have the same answer.
    fn score(
        &mut self,
        policy: &str,
        question: &Question,
        continuations: &[String],
        left: u64,
    ) -> Result<Judged, JudgeError>;
}

/// A judge that the policies of an answer share. Clones are the same.
#[derive(Clone)]
pub struct SharedJudge(Arc<Mutex<dyn Judge>>);

impl SharedJudge {
    /// Shares a judge.
    pub fn new(judge: impl Judge + 'static) -> Self {
        Self(Arc::new(Mutex::new(judge)))
    }

    /// A judge keeps itself in order: a panic in one call says nothing of the next.
    pub(crate) fn lock(&self) -> MutexGuard<'_, dyn Judge + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a policy's instance has of a judge.
pub(crate) struct Bench {
    pub judge: SharedJudge,
    /// Calls in this answer.
    pub calls: u32,
    /// Tokens of all that was judged in this answer.
    pub tokens: u64,
    /// Bytes of all that was asked in this answer.
    pub bytes: usize,
}

impl From<SharedJudge> for Bench {
    fn from(judge: SharedJudge) -> Self {
        Self { judge, calls: 0, tokens: 0, bytes: 0 }
    }
}

impl From<wit::Question> for Question {
    fn from(question: wit::Question) -> Self {
        match question {
            wit::Question::Text(text) => Self::Text(text),
            wit::Question::Chat(messages) => Self::Chat(messages.into_iter().map(Into::into).collect()),
        }
    }
}
