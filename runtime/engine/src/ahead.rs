//! What a session computes ahead: tokens that may follow its last one, and the logits behind each.
//!
//! A draft goes through the model in the same pass as the token before it, and stands behind the session's tokens without
//! being one of them. A session that is then given the very token takes what is there; given another, it drops what it
//! computed ahead. Either way it has the bits that it would have without drafts.

use std::collections::VecDeque;

use serde::Serialize;

use crate::pool::Charge;

/// Most drafts in a pass: with the token before them they are twice the rows that kernels take at once, and a further one
/// is not likely to save as much as it costs.
pub const MOST_DRAFTS: usize = 7;
/// Under a memory budget, what is set aside for drafts is at most this fraction of it.
pub(crate) const DRAFTS_FRACTION: u64 = 32;

/// Whether tokens are drafted and computed ahead. It never changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speculate {
    /// Never; nothing is set aside for it.
    #[default]
    Off,
    /// While measurements say that it saves time.
    Auto,
    /// Whenever there is a draft, whatever it costs: for measurements and tests.
    Always,
}

/// A draft that has gone through the model.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Foreseen {
    pub token: u32,
    pub logits: Vec<f32>, // [vocabulary], behind it
    pub hidden: Vec<f32>, // [hidden], the model's last state after the norm; empty where no head drafts tokens
}

impl Foreseen {
    /// A draft of which nothing has been computed.
    pub fn of(token: u32) -> Self {
        Self { token, ..Self::default() }
    }
}

/// Drafts that are not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    drafts: VecDeque<Foreseen>,
    charge: Option<Charge>,
}

impl Ahead {
    /// Drafts, and their room.
    pub fn new(drafts: impl Iterator<Item = Foreseen>, charge: Option<Charge>) -> Self {
        Self { drafts: drafts.collect(), charge }
    }

    /// Drafts that are left.
    pub fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// Whether they begin with these tokens, of which there must be one at least.
    pub fn begins_with(&self, tokens: &[u32]) -> bool {
        !tokens.is_empty()
            && tokens.len() <= self.drafts.len()
            && self.drafts.iter().zip(tokens).all(|(draft, token)| draft.token == *token)
    }

    /// Takes so many drafts. Gives the last of them.
    pub fn take(&mut self, count: usize) -> Option<Foreseen> {
        let last = self.drafts.drain(..count).next_back();
        if self.drafts.is_empty() {
            self.charge = None;
        }
        last
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.drafts.clear();
        self.charge = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_taken_in_order_and_only_if_they_are_the_very_tokens() {
        let draft = |token| Foreseen { token, logits: vec![token as f32], hidden: Vec::new() };
        let mut ahead = Ahead::new([4, 5, 6].map(draft).into_iter(), None);
        assert!(ahead.begins_with(&[4]) && ahead.begins_with(&[4, 5, 6]));
        assert!(!ahead.begins_with(&[]) && !ahead.begins_with(&[5]) && !ahead.begins_with(&[4, 5, 6, 7]));
        assert_eq!(ahead.take(2), Some(draft(5)));
        assert!(ahead.begins_with(&[6]) && ahead.len() == 1);
        ahead.clear();
        assert!(ahead.is_empty() && ahead.take(0).is_none());
    }
}
