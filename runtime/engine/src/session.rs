//! A session: one mutable timeline of tokens over a loaded model.

use std::borrow::Cow;
use std::sync::Arc;

use crate::ahead::{Ahead, Foreseen};
use crate::batch;
use crate::error::{EngineError, Result};
use crate::forward::{DraftState, Observer, Unobserved};
use crate::kv::{BLOCK, KvCache};
use crate::model::Model;
use crate::pool::{Charge, Pool};
use crate::propose::propose;
use crate::state::{self, Recurrent};

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
    /// Drafts behind the tokens. As long as there are any, keys, values and the recurrent state are behind the last of them.
    ahead: Ahead,
    /// What the head that drafts tokens goes on from.
    pub(crate) draft: DraftState,
}

/// What is to go through the model for one of several sessions.
pub struct Continuation<'a> {
    /// The session.
    pub session: &'a mut Session,
    /// Tokens that it gets.
    pub tokens: &'a [u32],
    /// Tokens that may follow them, to be computed ahead, see [`Session::append_ahead`].
    pub drafts: &'a [u32],
}

impl Session {
    pub(crate) fn new(model: Model, pool: &Arc<Pool>) -> Self {
        let core = model.core();
        let kv = KvCache::new(&core.hyper, core.kv.stored(core.computes), pool);
        let recurrent = Recurrent::new(&core.hyper, pool);
        let (tokens, logits, ahead) = (Vec::new(), Vec::new(), Ahead::default());
        let draft = DraftState::default();
        Self { model, tokens, computed: 0, kv, recurrent, torn: false, logits, ahead, draft }
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
        batch::append(&mut [Continuation { session: self, tokens, drafts: &[] }], observer)
    }

    /// `append`, and in the same pass computes ahead what follows if `drafts` are the next tokens. They are none of the
    /// session's tokens; but appending those that it [foresees](Self::foresees) takes no pass. Drafts that find no room, in
    /// the context, the memory plan or the pool, are left out.
    ///
    /// Errors: those of `append`.
    pub fn append_ahead(&mut self, tokens: &[u32], drafts: &[u32]) -> Result<()> {
        self.append_ahead_observed(tokens, drafts, &mut Unobserved)
    }

    /// `append_ahead` under the eyes of an observer, which sees drafts as it sees tokens.
    pub fn append_ahead_observed(
        &mut self,
        tokens: &[u32],
        drafts: &[u32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        batch::append(&mut [Continuation { session: self, tokens, drafts }], observer)
    }

    /// Tokens that may follow `token`, which is to follow those that are there, as the model's own head for multi-token
    /// prediction says: at most `count`, and none where no head is loaded or it lacks what the model made of the last token.
    /// Drops what has been computed ahead.
    ///
    /// Errors: a read failed, or there is no room for keys and values.
    pub fn propose(&mut self, token: u32, count: usize) -> Result<Vec<u32>> {
        propose(self, token, count, &mut Unobserved)
    }

    /// `propose` under the eyes of an observer.
    pub fn propose_observed(
        &mut self,
        token: u32,
        count: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<u32>> {
        propose(self, token, count, observer)
    }

    /// Whether these tokens, at least one, have been computed ahead.
    pub fn foresees(&self, tokens: &[u32]) -> bool {
        self.ahead.begins_with(tokens)
    }

    /// Tokens that have been computed ahead.
    pub fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Tokens that an `append` takes through the model beside those that it is given, because drafts before them were not
    /// taken or because of a truncation.
    pub fn behind(&self) -> usize {
        match self.recurrent.as_ref().and_then(Recurrent::held) {
            Some(position) if !self.ahead.is_empty() => self.tokens.len() - position,
            _ => self.tokens.len() - self.computed,
        }
    }

    /// Drops what has been computed ahead.
    pub fn drop_ahead(&mut self) {
        if self.ahead.is_empty() {
            return;
        }
        self.ahead.clear();
        self.draft.cut(self.tokens.len(), true);
        if let Some(position) = self.recurrent.as_mut().and_then(Recurrent::back_to_held) {
            self.computed = position;
        }
        self.kv.truncate(self.tokens.len());
    }

    /// `append` to several sessions of one model at a time, to each its own tokens. Each weight and each expert is
    /// read once for all of them, and each session gets the bits that it would get alone.
    ///
    /// Errors: those of `append`, and sessions of different models. After an error all are as they were before.
    pub fn append_all(sessions: &mut [(&mut Self, &[u32])]) -> Result<()> {
        let parts =
            sessions.iter_mut().map(|(session, tokens)| Continuation { session, tokens, drafts: &[] });
        Self::append_all_ahead(&mut parts.collect::<Vec<_>>())
    }

    /// The same with drafts, see [`Session::append_ahead`].
    pub fn append_all_ahead(parts: &mut [Continuation<'_>]) -> Result<()> {
        batch::append(parts, &mut Unobserved)
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
        self.drop_ahead();
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
            self.drop_ahead();
            self.tokens.truncate(length);
            self.draft.cut(length, false);
            self.logits.clear();
            if length < self.computed {
                self.go_back();
            }
        }
    }

    /// Brings what is in memory back to the tokens, or to the nearest checkpoint within them.
    fn go_back(&mut self) {
        // Behind what was computed there are no keys and values, whatever checkpoints others have made.
        let known = &self.tokens[..self.tokens.len().min(self.computed)];
        self.computed = match &mut self.recurrent {
            Some(recurrent) => recurrent.go_back(known),
            None => known.len(),
        };
        self.draft.known = self.draft.known.min(self.computed);
        self.torn = false;
        self.kv.truncate(self.computed);
    }

    /// A second session with the same tokens; keys, values and states are shared until one of the two writes over
    /// them. What the first has computed ahead it keeps for itself.
    pub fn fork(&self) -> Self {
        let computed = self.tokens.len() - self.behind();
        let mut kv = self.kv.clone();
        kv.truncate(computed);
        Self {
            model: self.model.clone(),
            tokens: self.tokens.clone(),
            computed,
            kv,
            recurrent: self.recurrent.as_ref().map(Recurrent::fork),
            torn: self.torn,
            logits: self.logits.clone(),
            ahead: Ahead::default(),
            draft: DraftState {
                known: self.draft.known.min(computed).min(self.tokens.len().saturating_sub(1)),
                ..self.draft.clone()
            },
        }
    }

    /// What has to go through the model so that `tokens` are behind those that are there: nothing if they were computed ahead.
    pub(crate) fn outstanding<'t>(&mut self, tokens: &'t [u32]) -> Cow<'t, [u32]> {
        if tokens.is_empty() || self.foresees(tokens) {
            return Cow::Borrowed(&[]);
        }
        self.drop_ahead();
        if self.torn {
            self.go_back();
        }
        if self.computed == self.tokens.len() {
            return tokens.into();
        }
        [&self.tokens[self.computed..], tokens].concat().into()
    }

    /// How many drafts can be computed ahead behind so many further tokens.
    pub(crate) fn drafts_that_fit(&self, new: usize, drafts: &[u32]) -> usize {
        let plan = self.model.plan();
        let size = self.model.hyperparameters().vocabulary as u32;
        let most = self.room().saturating_sub(new).min(plan.drafts as usize);
        let known = drafts.iter().take(most).take_while(|&&draft| draft < size).count();
        // A block that tokens do not need yet may be the one that another session needs now.
        let end = self.tokens.len() + new;
        let in_block = known.min(end.next_multiple_of(BLOCK) - end);
        match &self.recurrent {
            // The state before drafts is held: if tokens were to be computed again with each, there would be more each time.
            Some(_) if self.computed < self.tokens.len() => 0,
            Some(_) => in_block.min(state::to_next_checkpoint(end)),
            None => in_block,
        }
    }

    /// Makes room for `outstanding`, of which the last `drafts` are drafts and the `new` before them are new. Gives the room
    /// of the drafts' logits. Errors: the pool is full.
    pub(crate) fn reserve(
        &mut self,
        outstanding: &[u32],
        new: usize,
        drafts: usize,
    ) -> Result<Option<Charge>> {
        let core = self.model.core();
        let charge = match drafts {
            0 => None,
            _ => Some(core.draft_pool.take((drafts * core.hyper.vocabulary * 4) as u64)?),
        };
        self.kv.reserve(self.computed, self.computed + outstanding.len())?;
        if let Some(recurrent) = &mut self.recurrent {
            if drafts > 0 {
                recurrent.hold(self.computed, &core.draft_pool)?;
            }
            let known = &outstanding[..outstanding.len() - drafts];
            recurrent.reserve(&self.tokens[..self.computed], known, new)?;
        }
        Ok(charge)
    }

    /// A pass over outstanding tokens begins.
    pub(crate) fn begin(&mut self) {
        self.torn = self.recurrent.is_some();
    }

    /// The tokens have gone through the model, and `ahead` with them; or they were computed ahead before.
    pub(crate) fn accept(&mut self, tokens: &[u32], ahead: Ahead) {
        if tokens.is_empty() {
            return;
        }
        let foreseen = self.foresees(tokens);
        self.tokens.extend_from_slice(tokens);
        self.computed = self.tokens.len();
        self.torn = false;
        if !foreseen {
            self.ahead = ahead;
            if let Some(recurrent) = &mut self.recurrent {
                recurrent.keep(&self.tokens);
            }
        } else if let Some(Foreseen { logits, hidden, .. }) = self.ahead.take(tokens.len()) {
            (self.logits, self.draft.last) = (logits, hidden);
        }
        if let Some(recurrent) = self.recurrent.as_mut().filter(|_| self.ahead.is_empty()) {
            recurrent.release();
        }
    }

    /// They have not: the session is as it was before, but for what has to be computed again.
    pub(crate) fn roll_back(&mut self) {
        if self.torn {
            match self.recurrent.as_mut().and_then(Recurrent::back_to_held) {
                Some(position) => (self.computed, self.torn) = (position, false),
                None => self.go_back(),
            }
        }
        self.draft.cut(self.tokens.len(), false);
        self.draft.known = self.draft.known.min(self.computed);
        self.give_back();
    }

    /// Gives back the room for a pass.
    pub(crate) fn give_back(&mut self) {
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
