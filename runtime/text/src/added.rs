//! Tokens that are matched by their exact text before words are cut: control and user-defined ones.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use crate::error::{Result, TextError};
use crate::vocabulary::{Kind, TokenBytes};

/// Control and user-defined tokens, ready for search. User-defined ones that stand between such marks as begin and end turns are found like
/// control tokens: DeepSeek's `tokenizer.json` does not call these special.
pub(crate) struct Added {
    control: Patterns,
    user_defined: Patterns,
}

/// A token found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub token: u32,
    /// First byte.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}

impl Added {
    pub fn new(kinds: &[Kind], bytes: &TokenBytes) -> Result<Self> {
        let marker = |token: u32| bytes.get(token).is_some_and(is_marker);
        Ok(Self {
            control: Patterns::new(kinds, bytes, |kind, token| {
                kind == Kind::Control || kind == Kind::UserDefined && marker(token)
            })?,
            user_defined: Patterns::new(kinds, bytes, |kind, token| {
                kind == Kind::UserDefined && !marker(token)
            })?,
        })
    }

    /// The tokens of a text, leftmost first and the longest of those, without overlaps. Control tokens only
    /// where `control` is set, and never over a byte in `untrusted` (sorted ranges).
    pub fn find(&self, text: &str, control: bool, untrusted: &[Range<usize>]) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = 0;
        let mut next_control = if control { self.control.trusted(text, at, untrusted) } else { None };
        let mut next_user = self.user_defined.first(text, at);
        loop {
            let next = match (next_control, next_user) {
                (None, None) => return found,
                (Some(one), None) | (None, Some(one)) => one,
                (Some(a), Some(b)) if (b.start, a.end) < (a.start, b.end) => b,
                (Some(a), Some(_)) => a,
            };
            found.push(next);
            at = next.end;
            if next_control.is_some_and(|control| control.start < at) {
                next_control = self.control.trusted(text, at, untrusted);
            }
            if next_user.is_some_and(|user| user.start < at) {
                next_user = self.user_defined.first(text, at);
            }
        }
    }

    /// Every place where the text of a control token stands, overlapping ones too.
    pub fn control_places(&self, text: &str) -> Vec<Found> {
        let mut places = Vec::new();
        let mut at = 0;
        while let Some(found) = self.control.first(text, at) {
            places.push(found);
            at = found.start + text[found.start..].chars().next().map_or(1, char::len_utf8);
        }
        places
    }

    /// How many bytes at the start and at the end of `text` could be a part of a control token that reaches
    /// beyond it.
    pub fn control_edges(&self, text: &str) -> (usize, usize) {
        let mut edges = (0, 0);
        for pattern in &self.control.texts {
            let longest = text.len().min(pattern.len().saturating_sub(1));
            let head = (1..=longest).rev().find(|&n| text.as_bytes()[..n] == pattern[pattern.len() - n..]);
            let tail = (1..=longest).rev().find(|&n| text.as_bytes()[text.len() - n..] == pattern[..n]);
            edges.0 = edges.0.max(head.unwrap_or(0));
            edges.1 = edges.1.max(tail.unwrap_or(0));
        }
        edges
    }
}

/// Whether a token stands between marks of turns, in ASCII or of full width.
fn is_marker(token: &[u8]) -> bool {
    [("<|", "|>"), ("<｜", "｜>")].iter().any(|(open, close)| {
        token.len() > open.len() + close.len()
            && token.starts_with(open.as_bytes())
            && token.ends_with(close.as_bytes())
    })
}

struct Patterns {
    search: AhoCorasick,
    tokens: Vec<u32>,
    texts: Vec<Vec<u8>>,
}

impl Patterns {
    fn new(kinds: &[Kind], bytes: &TokenBytes, has: impl Fn(Kind, u32) -> bool) -> Result<Self> {
        let chosen = (0..kinds.len() as u32).filter(|&token| has(kinds[token as usize], token));
        let (tokens, texts): (Vec<u32>, Vec<Vec<u8>>) =
            chosen.filter_map(|token| Some((token, bytes.get(token)?.to_vec()))).unzip();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(Self { search, tokens, texts })
    }

    fn first(&self, text: &str, from: usize) -> Option<Found> {
        let found = self.search.find(Input::new(text).range(from..))?;
        Some(Found { token: self.tokens[found.pattern().as_usize()], start: found.start(), end: found.end() })
    }

    /// The first one that covers no untrusted byte.
    fn trusted(&self, text: &str, mut from: usize, untrusted: &[Range<usize>]) -> Option<Found> {
        loop {
            let found = self.first(text, from)?;
            let after = untrusted.partition_point(|range| range.end <= found.start);
            if untrusted.get(after).is_none_or(|range| range.start >= found.end) {
                return Some(found);
            }
            from = found.start + text[found.start..].chars().next().map_or(1, char::len_utf8);
        }
    }
}
