//! What an agent works with.

use std::sync::Arc;

use super::{
    Candidate, Completion, GenerationHandle, GenerationOptions, InferenceError, ModelInfo, Offer, Score,
    SessionHandle, Synced, Turn,
};
use crate::conversation::Invocation;
use crate::engine::LogLevel;
use crate::limits::MAX_TOP;
use crate::vocabulary::Vocabulary;

/// The surroundings of one run of an agent. An agent gets at the world through this and through nothing else.
pub trait Environment: Send {
    /// The model.
    fn model(&self) -> ModelInfo;

    /// The model's vocabulary.
    fn vocabulary(&self) -> Arc<dyn Vocabulary>;

    /// 64 random bits of the run's recorded source.
    fn random(&mut self) -> u64;

    /// A session without tokens.
    fn session(&mut self) -> SessionHandle;

    /// A session with the context that was kept under a name.
    fn open(&mut self, name: &str) -> Option<SessionHandle>;

    /// The tools of the run.
    fn tools(&mut self) -> Vec<Offer>;

    /// Calls a tool, if the policies allow it. Gives what policies let through of the result. Errors: why there is none.
    fn call(&mut self, call: Invocation) -> Result<String, String>;

    /// Adds text to the answer.
    fn write(&mut self, text: &str);

    /// Takes a line of the agent's log, which is data from the guest.
    fn log(&mut self, level: LogLevel, line: &str);

    /// Whether the run is over, because a policy ended the answer or somebody cancelled it: the agent gets no further.
    fn ended(&self) -> bool;
}

/// One context of an agent.
pub trait Session: Send {
    /// A second one with the same tokens.
    fn fork(&self) -> Result<SessionHandle, InferenceError>;
    /// Number of tokens.
    fn length(&self) -> usize;
    /// About how many bytes the conversation takes that it begins with; 0 where it begins with an appended text.
    fn conversation_bytes(&self) -> usize;
    /// Number of tokens that still fit.
    fn room(&self) -> usize;
    /// Drops all but the first tokens.
    fn truncate(&mut self, tokens: usize) -> Result<(), InferenceError>;
    /// Appends a text, look-alikes of control tokens as text. Gives the number of tokens.
    fn append(&mut self, text: &str) -> Result<usize, InferenceError>;
    /// Makes it the context of a conversation.
    fn chat(&mut self, turns: &[Turn], tools: bool) -> Result<Synced, InferenceError>;
    /// Starts to generate behind it.
    fn generate(&mut self, options: GenerationOptions) -> Result<GenerationHandle, InferenceError>;
    /// How likely texts are behind it.
    fn score(&mut self, continuations: &[String]) -> Result<Vec<Score>, InferenceError>;
    /// Keeps the context under a name.
    fn save(&mut self, name: &str) -> Result<(), InferenceError>;
    /// The tokens.
    fn tokens(&self) -> Result<Vec<u32>, InferenceError>;
    /// Shows the logits of the next token, [vocabulary].
    fn logits(&mut self, read: &mut dyn FnMut(&[f32])) -> Result<(), InferenceError>;
    /// Appends tokens.
    fn append_tokens(&mut self, tokens: &[u32]) -> Result<(), InferenceError>;
}

/// A text in the making.
pub trait Generation: Send {
    /// Waits for more of the text; none at its end.
    fn next(&mut self) -> Result<Option<String>, InferenceError>;
    /// Waits for the end.
    fn finish(&mut self) -> Result<Completion, InferenceError>;
    /// Ends it; the session is as it was before.
    fn cancel(&mut self);
}

/// The likeliest `n` tokens by their logits, best first, ties by lower token.
pub(crate) fn top(logits: &[f32], n: usize) -> Vec<Candidate> {
    let n = n.min(MAX_TOP as usize).min(logits.len());
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if n < order.len() {
        order.select_nth_unstable_by(n, better);
        order.truncate(n);
    }
    order.sort_unstable_by(better);
    let candidate = |token: u32| {
        let logit = logits[token as usize];
        let probability = (f64::from(logit - most).exp() / mass) as f32;
        Candidate { token, logit, probability }
    };
    order.into_iter().map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_tokens_come_first_and_ties_by_lower_token() {
        let logits = [0.0, 3.0, f32::NEG_INFINITY, 3.0, 1.0];
        let found: Vec<u32> = top(&logits, 3).iter().map(|candidate| candidate.token).collect();
        assert_eq!(found, [1, 3, 4]);
        let all = top(&logits, 99);
        assert_eq!(all.len(), 5);
        let mass: f32 = all.iter().map(|candidate| candidate.probability).sum();
        assert!((mass - 1.0).abs() < 1e-6);
        assert!(top(&[], 4).is_empty() && top(&logits, 0).is_empty());
    }
}
