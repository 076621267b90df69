//! A session: one mutable timeline of tokens over a loaded model.

use std::sync::Arc;

use crate::batch;
use crate::error::{EngineError, Result};
use crate::forward::{Observer, Unobserved};
use crate::kv::{KvCache, KvPool};
use crate::model::Model;

/// What `Session::sync` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// Tokens whose keys and values were there already.
    pub reused: usize,
    /// Tokens that went through the model.
    pub computed: usize,
}

/// A timeline of tokens with its KV cache and the logits behind its last token.
///
/// Several sessions of a model share its weights and its memory plan; one of them computes at a time.
pub struct Session {
    model: Model,
    pub(crate) tokens: Vec<u32>,
    pub(crate) kv: KvCache,
    pub(crate) logits: Vec<f32>, // [vocabulary], or empty when they were not computed
}

impl Session {
    pub(crate) fn new(model: Model, pool: &Arc<KvPool>) -> Self {
        let core = model.core();
        let kv = KvCache::new(&core.hyper, core.precision, pool);
        Self { model, tokens: Vec::new(), kv, logits: Vec::new() }
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens still fit.
    pub fn room(&self) -> usize {
        (self.model.plan().context as usize).saturating_sub(self.tokens.len())
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Logits behind the last token, [vocabulary]; empty for an empty session and after `truncate`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Runs tokens through the model, behind those that are there.
    ///
    /// Errors: the context is full, a token is not in the vocabulary, a read failed, it was cancelled.
    /// After an error the session is as it was before.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.append_observed(tokens, &mut Unobserved)
    }

    /// `append` under the eyes of an observer.
    pub fn append_observed(&mut self, tokens: &[u32], observer: &mut dyn Observer) -> Result<()> {
        batch::append(&mut [(self, tokens)], observer)
    }

    /// `append` to several sessions of one model at a time, to each its own tokens. Each weight and each expert is
    /// read once for all of them, and each session gets the bits that it would get alone.
    ///
    /// Errors: those of `append`, and sessions of different models. After an error all are as they were before.
    pub fn append_all(sessions: &mut [(&mut Self, &[u32])]) -> Result<()> {
        batch::append(sessions, &mut Unobserved)
    }

    /// Makes the session hold exactly these tokens: keeps the common prefix, drops what is behind it,
    /// computes the rest. The last token's logits are there afterwards.
    pub fn sync(&mut self, tokens: &[u32]) -> Result<Synced> {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if common == tokens.len() && common == self.tokens.len() && !self.logits.is_empty() {
            return Ok(Synced { reused: common, computed: 0 });
        }
        let reused = common.min(tokens.len().saturating_sub(1));
        let more = tokens.len() - reused;
        let limit = self.model.plan().context as usize;
        if tokens.len() > limit {
            return Err(self.full(reused, more, limit));
        }
        self.truncate(reused);
        self.append(&tokens[reused..])?;
        Ok(Synced { reused, computed: more })
    }

    /// Drops all but the first `length` tokens; a larger `length` changes nothing.
    pub fn truncate(&mut self, length: usize) {
        if length < self.tokens.len() {
            self.tokens.truncate(length);
            self.kv.truncate(length);
            self.logits.clear();
        }
    }

    /// A second session with the same tokens; keys and values are shared until one of the two writes over
    /// them.
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            tokens: self.tokens.clone(),
            kv: self.kv.clone(),
            logits: self.logits.clone(),
        }
    }

    /// Whether the tokens can be appended.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<()> {
        let limit = self.model.plan().context as usize;
        if tokens.len() > self.room() {
            return Err(self.full(self.tokens.len(), tokens.len(), limit));
        }
        let size = self.model.hyperparameters().vocabulary as u32;
        match tokens.iter().find(|&&token| token >= size) {
            Some(&token) => Err(EngineError::Token { token, size }),
            None => Ok(()),
        }
    }

    fn full(&self, have: usize, more: usize, limit: usize) -> EngineError {
        let trained = self.model.hyperparameters().trained_context;
        EngineError::ContextFull { have, more, limit, trained }
    }
}
