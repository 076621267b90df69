//! A text under way that must follow a grammar.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;

use super::error::{GrammarError, said, shown_bytes};
use super::words::Words;

/// What the library says where no token is left.
const NOTHING_FOLLOWS: &str = "NoExtensionBias";

/// The place in a grammar that a text has reached.
///
/// A clone shares nothing that changes with the one that it was made from: neither sees what the other does, nor spends
/// its limits.
pub struct Constraint {
    kind: &'static str,
    matcher: Matcher,
    /// The same at its beginning, and as it was before anything was asked of it.
    start: Arc<Matcher>,
    words: Arc<Words>,
    /// Tokens that it was told of.
    position: usize,
    /// An end token was among them.
    ended: bool,
    /// A bit for each token that may follow; worked out when it is asked for.
    allowed: Option<Vec<u32>>,
}

impl Constraint {
    pub(super) fn new(kind: &'static str, start: Matcher, words: Arc<Words>) -> Result<Self, GrammarError> {
        let (matcher, start) = (start.deep_clone(), Arc::new(start));
        let mut constraint = Self { kind, matcher, start, words, position: 0, ended: false, allowed: None };
        constraint.settle()?;
        Ok(constraint)
    }

    /// Sets the logits of tokens that can't follow to minus infinity. The tokens that end an answer may follow exactly
    /// where the grammar may end. Logits beyond the vocabulary are no tokens.
    ///
    /// Errors: nothing can follow, or finding out takes too much work. Each call then says the same, until it is walked
    /// again.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        let allowed = self.allowed()?;
        for (at, logits) in logits.chunks_mut(32).enumerate() {
            match allowed.get(at).copied().unwrap_or(0) {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                bits => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        // Chosen rather than branched on: the bits follow no pattern.
                        *logit = if bits & (1 << bit) == 0 { f32::NEG_INFINITY } else { *logit };
                    }
                }
            }
        }
        Ok(())
    }

    /// The tokens that may follow: bit `t % 32` of word `t / 32` for token `t`. Errors: as for [`Self::mask`].
    ///
    /// Where a text can only go on in one way, this has its first token as the tokenizer would cut it, not every token that
    /// begins it.
    pub fn allowed(&mut self) -> Result<&[u32], GrammarError> {
        let allowed = match self.allowed.take() {
            Some(allowed) => allowed,
            None => self.work_out()?,
        };
        Ok(self.allowed.insert(allowed))
    }

    fn work_out(&mut self) -> Result<Vec<u32>, GrammarError> {
        let ends = self.words.tokenizer().end_tokens().to_vec();
        let mut allowed = vec![0; self.words.plain().len()];
        let mut may_end = self.is_complete();
        if !may_end {
            let found = self.matcher.compute_mask();
            match found {
                Ok(found) => {
                    for ((word, found), plain) in
                        allowed.iter_mut().zip(found.as_slice()).zip(self.words.plain())
                    {
                        *word = found & plain;
                    }
                    may_end =
                        ends.first().is_some_and(|&end| found.is_allowed(end)) && self.ends_with(ends[0])?;
                }
                Err(error) => match said(error) {
                    // The library's name for that nothing can follow.
                    reason if reason.contains(NOTHING_FOLLOWS) => {}
                    reason => return Err(self.too_much(reason)),
                },
            }
        }
        if may_end {
            ends.iter().for_each(|&end| allowed[end as usize / 32] |= 1 << (end % 32));
        }
        if allowed.iter().all(|&word| word == 0) {
            return Err(GrammarError::DeadEnd { kind: self.kind, position: self.position });
        }
        Ok(allowed)
    }

    /// Whether the grammar is satisfied once an end token has come. One that has a part up to the end of the text, and
    /// then more, isn't.
    fn ends_with(&mut self, end: u32) -> Result<bool, GrammarError> {
        if self.may_end()? {
            return Ok(true);
        }
        let mut ended = self.matcher.clone();
        Ok(ended.consume_tokens(&[end]).is_ok() && ended.is_accepting().unwrap_or(false))
    }

    /// Goes on behind a token. Errors: the grammar does not allow it; then the constraint is where it was.
    ///
    /// It takes each token whose bytes fit, also where [`Self::mask`] has only the tokenizer's own choice.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        if self.words.tokenizer().end_tokens().contains(&token) {
            let (word, bit) = (token as usize / 32, token % 32);
            if self.allowed()?[word] & (1 << bit) == 0 {
                return Err(self.refused(token));
            }
            self.ended = true;
            self.allowed = None;
        } else {
            let plain = self
                .words
                .plain()
                .get(token as usize / 32)
                .is_some_and(|word| word & (1 << (token % 32)) != 0);
            let taken = match plain && !self.is_complete() {
                true => self.matcher.try_consume_tokens(&[token]),
                false => Ok(0),
            };
            match taken {
                Ok(0) => return Err(self.refused(token)),
                taken => {
                    self.allowed = None;
                    taken.map_err(|error| self.too_much(said(error)))?;
                }
            }
        }
        self.position += 1;
        Ok(())
    }

    /// Begins again and goes through these tokens: for a text that was changed or cut. Errors: the grammar does not
    /// allow one of them; then the constraint is before it.
    pub fn walk(&mut self, tokens: &[u32]) -> Result<(), GrammarError> {
        self.matcher = self.start.deep_clone();
        (self.position, self.ended, self.allowed) = (0, false, None);
        self.settle()?;
        tokens.iter().try_for_each(|&token| self.accept(token))
    }

    /// Whether the text may end here.
    pub fn may_end(&mut self) -> Result<bool, GrammarError> {
        let accepting = if self.is_complete() { Ok(true) } else { self.matcher.is_accepting() };
        accepting.map_err(|error| self.too_much(said(error)))
    }

    /// Whether the text is complete and nothing can follow it.
    pub fn is_complete(&self) -> bool {
        self.ended
            || matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }

    /// What it is a constraint of, for people.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Notices a grammar that is complete at its beginning.
    fn settle(&mut self) -> Result<(), GrammarError> {
        self.matcher.consume_tokens(&[]).map_err(|error| self.too_much(said(error)))
    }

    fn too_much(&self, reason: String) -> GrammarError {
        GrammarError::TooMuchWork { kind: self.kind, position: self.position, reason }
    }

    fn refused(&self, token: u32) -> GrammarError {
        let bytes = self.words.tokenizer().token_bytes(token).unwrap_or_default();
        GrammarError::Token { kind: self.kind, position: self.position, token, text: shown_bytes(bytes) }
    }
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            matcher: self.matcher.deep_clone(),
            start: self.start.clone(),
            words: self.words.clone(),
            position: self.position,
            ended: self.ended,
            allowed: self.allowed.clone(),
        }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("kind", &self.kind)
            .field("position", &self.position)
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}
