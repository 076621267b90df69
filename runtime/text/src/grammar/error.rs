//! What can go wrong with a grammar, before a text and within it.

use std::fmt::Display;

use crate::error::shown;
use crate::limits::MAX_GRAMMAR_MESSAGE_CHARS;

/// An error of a grammar or of a text that should follow one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A grammar that is too large.
    #[error("the {kind} has {found} {what}, more than the limit of {max}; make it smaller")]
    TooLarge {
        /// What it is.
        kind: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much may be.
        max: usize,
    },
    /// A grammar that can't be compiled.
    #[error("the {kind} can't be followed: {reason}")]
    Refused {
        /// What it is.
        kind: &'static str,
        /// Where it goes wrong, why, and what to do.
        reason: String,
    },
    /// A vocabulary that no grammar can be held to.
    #[error("this model's vocabulary can't be held to a grammar: {reason}")]
    Vocabulary {
        /// Why.
        reason: String,
    },
    /// Working out which tokens are allowed takes too much.
    #[error(
        "the {kind} takes more work at token {position} than the limits allow ({reason}); make it simpler: fewer \
         alternatives that begin alike, smaller counts in repetitions"
    )]
    TooMuchWork {
        /// What it is.
        kind: &'static str,
        /// Tokens before.
        position: usize,
        /// Which limit.
        reason: String,
    },
    /// There is no way on.
    #[error(
        "the {kind} has no way on at token {position}: what it asks for there can't be written with this model's \
         vocabulary"
    )]
    DeadEnd {
        /// What it is.
        kind: &'static str,
        /// Tokens before.
        position: usize,
    },
    /// A token that the grammar does not allow.
    #[error("the {kind} does not allow {text} (token {token}) at token {position}")]
    Token {
        /// What it is.
        kind: &'static str,
        /// Tokens before.
        position: usize,
        /// The token.
        token: u32,
        /// Its text, shortened.
        text: String,
    },
}

impl GrammarError {
    pub(super) fn schema(reason: String) -> Self {
        Self::Refused { kind: "JSON schema", reason }
    }
}

/// What the library says, as an error message may show it: one line, without what it adds for its own makers, and
/// short. It may repeat the grammar's own words.
pub(super) fn said(error: impl Display) -> String {
    let whole = format!("{error:#}");
    let own =
        ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"].iter().filter_map(|mark| whole.find(mark)).min();
    let words = whole[..own.unwrap_or(whole.len())].split(|c: char| c.is_control() || c.is_whitespace());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_GRAMMAR_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A token's bytes, as an error message may show them.
pub(super) fn shown_bytes(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(bytes))
}
