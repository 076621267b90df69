//! A session: one mutable timeline of tokens over a loaded model.

use std::borrow::Cow;
use std::sync::Arc;

use crate::batch;
use crate::error::{EngineError, Result};
use crate::forward::{Observer, Unobserved};
use crate::kv::KvCache;
use crate::model::Model;
use crate::pool::Pool;
use crate::state::Recurrent;

/// What `Session::sync` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// Tokens that the session held already.
    pub reused: usize,
    /// Tokens that are new to it.
    pub computed: usize,
    /// Of those reused, tokens that went through the model again, because a recurrent state had to go back to the nearest
    /// checkpoint before them. It depends on what other sessions keep in memory; the logits do not.
    pub recomputed: usize,
}

/// A timeline of tokens with its KV cache, its recurrent state and the logits behind its last token.
///
/// Several sessions of a model share its weights and its memory plan; one of them computes at a time.
pub struct Session {
    model: Model,
    pub(crate) tokens: Vec<u32>,
    /// Tokens of which keys, values and the recurrent state are there. A recurrent state that had to go back is behind a
    /// part of the tokens only; the next tokens bring it up to them.
    pub(crate) computed: usize,
    pub(crate) kv: KvCache,
    pub(crate) recurrent: Option<Recurrent>,
    /// A pass over these tokens was begun and has not ended well, so that the recurrent state is behind nobody knows what.
    torn: bool,
    pub(crate) logits: Vec<f32>, // [vocabulary], or empty when they were not computed
}

impl Session {
    pub(crate) fn new(model: Model, pool: &Arc<Pool>) -> Self {
        let core = model.core();
        let kv = KvCache::new(&core.hyper, core.kv.stored(core.precision), pool);
        let recurrent = Recurrent::new(&core.hyper, pool);
        Self { model, tokens: Vec::new(), computed: 0, kv, recurrent, torn: false, logits: Vec::new() }
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

    /// `append` under the eyes of an observer. It also sees tokens that are computed again, see [`Session::truncate`].
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
            return Ok(Synced { reused: common, computed: 0, recomputed: 0 });
        }
        let reused = common.min(tokens.len().saturating_sub(1));
        let more = tokens.len() - reused;
        let limit = self.model.plan().context as usize;
        if tokens.len() > limit {
            return Err(self.full(reused, more, limit));
        }
        self.truncate(reused);
        let recomputed = reused - self.computed;
        self.append(&tokens[reused..])?;
        Ok(Synced { reused, computed: more, recomputed })
    }

    /// Drops all but the first `length` tokens; a larger `length` changes nothing.
    ///
    /// The recurrent state of a hybrid model goes back to the nearest checkpoint; the next tokens that are appended bring the
    /// ones between through the model again.
    pub fn truncate(&mut self, length: usize) {
        if length < self.tokens.len() {
            self.tokens.truncate(length);
            self.logits.clear();
            if length < self.computed {
                self.go_back();
            }
        }
    }

    /// Brings what is in memory back to the tokens, or to the nearest checkpoint within them.
    fn go_back(&mut self) {
        self.computed = match &mut self.recurrent {
            Some(recurrent) => recurrent.go_back(&self.tokens),
            None => self.tokens.len(),
        };
        self.torn = false;
        self.kv.truncate(self.computed);
    }

    /// A second session with the same tokens; keys, values and states are shared until one of the two writes over
    /// them.
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            tokens: self.tokens.clone(),
            computed: self.computed,
            kv: self.kv.clone(),
            recurrent: self.recurrent.as_ref().map(Recurrent::fork),
            torn: self.torn,
            logits: self.logits.clone(),
        }
    }

    /// What has to go through the model so that `tokens` are behind those that are there.
    pub(crate) fn outstanding<'t>(&mut self, tokens: &'t [u32]) -> Cow<'t, [u32]> {
        if self.torn {
            self.go_back();
        }
        if tokens.is_empty() || self.computed == self.tokens.len() {
            return tokens.into();
        }
        [&self.tokens[self.computed..], tokens].concat().into()
    }

    /// Makes room for `outstanding`, the last `new` of which are new. Errors: the pool is full.
    pub(crate) fn reserve(&mut self, outstanding: &[u32], new: usize) -> Result<()> {
        self.kv.reserve(self.computed, self.computed + outstanding.len())?;
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.reserve(&self.tokens[..self.computed], outstanding, new)?;
        }
        Ok(())
    }

    /// A pass over outstanding tokens begins.
    pub(crate) fn begin(&mut self) {
        self.torn = self.recurrent.is_some();
    }

    /// The tokens have gone through the model.
    pub(crate) fn accept(&mut self, tokens: &[u32]) {
        if tokens.is_empty() {
            return;
        }
        self.tokens.extend_from_slice(tokens);
        self.computed = self.tokens.len();
        self.torn = false;
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.keep(&self.tokens);
        }
    }

    /// They have not: the session is as it was before, but for what has to be computed again.
    pub(crate) fn roll_back(&mut self) {
        if self.torn {
            self.go_back();
        }
        self.kv.truncate(self.computed);
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.forget();
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
