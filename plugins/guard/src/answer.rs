//! The answer, as it arrives.
//!
//! The text is searched from left to right. At each position the first clause of the file that matches there
//! counts, and what it matches is not searched again. What holds at a position depends on a bounded stretch
//! behind it, so the search waits there, and releases what is before, until that stretch has arrived. Hence
//! the pieces in which an answer arrives never change what is released.

use clauses::Stage;
use membrane_plugin::policy::{Ending, OutputVerdict, Refusal, Replacement};

use crate::index::Index;
use crate::matcher::{At, Matcher};
use crate::rules::{Action, Clause};

/// How much text before a match goes out in one replacement with it, in bytes: a replacement has at most 64
/// KiB.
const MAX_PREFIX_BYTES: usize = 32 << 10;

/// How far the search has come.
#[derive(Debug, Default)]
pub struct Answer {
    /// The last character of the answer that is no longer pending, as the model wrote it.
    previous: Option<char>,
}

/// What the search has found first.
enum Found<'a> {
    /// Nothing before this byte; what starts here is not known yet.
    Nothing(usize),
    /// A match of a clause, from byte to byte.
    Match(&'a Clause, usize, usize),
}

impl Answer {
    /// What becomes of the pending text.
    pub fn verdict(&mut self, clauses: &[Clause], index: &Index, pending: &str, done: bool) -> OutputVerdict {
        match self.search(clauses, index, pending, done) {
            Found::Nothing(start) => self.release(pending, start),
            Found::Match(_, start, _) if start > 0 && !done => self.release(pending, start),
            Found::Match(clause, start, end) => self.act(clause, pending, start, end),
        }
    }

    fn search<'a>(&self, clauses: &'a [Clause], index: &Index, pending: &str, done: bool) -> Found<'a> {
        let before = self.previous.map_or(0, char::len_utf8);
        let text: String = self.previous.into_iter().chain(pending.chars()).collect();
        let applies = |clause: &&Clause| clause.label.applies(Stage::Output);
        let patterns: Vec<&Clause> = clauses
            .iter()
            .filter(applies)
            .filter(|clause| matches!(clause.matcher, Matcher::Pattern(_)))
            .collect();
        let all: Vec<&Clause> = clauses.iter().filter(applies).collect();
        for (start, _) in pending.char_indices() {
            let mut found = None;
            let may_start = index.may_start(&pending.as_bytes()[start..]);
            for &clause in if may_start { &all } else { &patterns } {
                match clause.matcher.at(&text, before + start, done) {
                    At::Open => return Found::Nothing(start),
                    At::Match(end) if found.is_none() => {
                        found = Some(Found::Match(clause, start, end - before))
                    }
                    At::Match(_) | At::Nothing => {}
                }
            }
            if let Some(found) = found {
                return found;
            }
        }
        Found::Nothing(pending.len())
    }

    /// Takes the action of a clause on the match at `start..end`. At the end of the answer there can be text
    /// before the match; it goes out as a replacement by itself, since a mere release would drop what
    /// follows.
    fn act(&mut self, clause: &Clause, pending: &str, start: usize, end: usize) -> OutputVerdict {
        let prefix = &pending[..pending.floor_char_boundary(start.min(MAX_PREFIX_BYTES))];
        let (bytes, text) = match &clause.action {
            Action::Stop | Action::Deny => {
                return OutputVerdict::Stop(Ending { release: start as u32, reason: clause.label.reason() });
            }
            Action::Refuse { message } if start == 0 => {
                return OutputVerdict::Refuse(Refusal {
                    message: message.clone(),
                    reason: clause.label.reason(),
                });
            }
            Action::Redact { replacement } if prefix.len() == start => {
                (end, format!("{prefix}{replacement}"))
            }
            Action::Refuse { .. } | Action::Redact { .. } => (prefix.len(), prefix.to_owned()),
        };
        self.pass(&pending[..bytes]);
        OutputVerdict::Replace(Replacement { bytes: bytes as u32, text, reason: clause.label.reason() })
    }

    fn release(&mut self, pending: &str, bytes: usize) -> OutputVerdict {
        self.pass(&pending[..bytes]);
        OutputVerdict::Release(bytes as u32)
    }

    fn pass(&mut self, text: &str) {
        self.previous = text.chars().next_back().or(self.previous);
    }
}
