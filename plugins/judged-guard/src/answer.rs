//! The answer, as it arrives: nothing of it goes out before it is judged.
//!
//! Where its sentences end depends on the text alone, so that the pieces in which it arrives never change what is asked of
//! the model, and what is released.

use clauses::Stage;
use membrane_plugin::policy::{OutputVerdict, Replacement};

use crate::question::{Scores, pieces};
use crate::rules::{Clause, Hold};
use crate::{refusal, rules};

/// Longest sentence, in bytes; a longer one is judged in parts.
const MAX_SENTENCE_BYTES: usize = 1024;
/// From this many bytes on it is clear whether a sentence ends within the longest: what ends one, and the character behind.
const CLEAR_BYTES: usize = MAX_SENTENCE_BYTES + 8;
/// What a sentence is judged with, in bytes: itself and what was said before.
const MAX_SAID_BYTES: usize = 2048;
/// What is kept of it where it becomes longer.
const KEPT_SAID_BYTES: usize = 1024;
/// How much goes out at once where a refusal follows: a replacement has at most 64 KiB.
const MAX_PASSED_BYTES: usize = 32 << 10;

/// How far the answer is judged.
#[derive(Debug, Default)]
pub struct Answer {
    /// The end of what was judged.
    said: String,
    /// The start of the pending text, which was judged and is not refused. It is kept as a text: where another policy has put
    /// one of its own in the place of the pending text, that is not judged yet.
    judged: String,
    /// The clause that refuses what follows on `judged`, by its place.
    refused: Option<usize>,
}

impl Answer {
    /// What becomes of the pending text.
    pub fn verdict(
        &mut self,
        clauses: &[Clause],
        scores: &Scores,
        pending: &str,
        done: bool,
    ) -> Result<OutputVerdict, String> {
        if !clauses.iter().any(|clause| clause.label.applies(Stage::Output)) {
            return Ok(OutputVerdict::release_all(pending));
        }
        if !pending.starts_with(&self.judged) {
            (self.judged, self.refused) = (String::new(), None);
        }
        self.sentences(clauses, scores, pending, done)?;
        let waits =
            clauses.iter().any(|clause| clause.label.applies(Stage::Output) && clause.hold == Hold::Answer);
        if waits && done && self.refused.is_none() {
            self.all(clauses, scores, pending)?;
        }
        let bytes = if waits && (!done || self.refused.is_some()) { 0 } else { self.judged.len() };
        let refused = self.refused.and_then(|index| clauses.get(index));
        let Some(clause) = refused else { return Ok(self.release(bytes)) };
        if bytes == 0 {
            return Ok(OutputVerdict::Refuse(refusal(clause)));
        }
        if !done {
            return Ok(self.release(bytes));
        }
        // A mere release would drop what follows, and the refusal with it.
        let bytes = pending.floor_char_boundary(bytes.min(MAX_PASSED_BYTES));
        let text = self.judged.drain(..bytes).collect();
        Ok(OutputVerdict::Replace(Replacement { bytes: bytes as u32, text, reason: clause.label.reason() }))
    }

    fn release(&mut self, bytes: usize) -> OutputVerdict {
        self.judged.drain(..bytes);
        OutputVerdict::Release(bytes as u32)
    }

    /// Judges the sentences that are complete, each with what was said before.
    fn sentences(
        &mut self,
        clauses: &[Clause],
        scores: &Scores,
        pending: &str,
        done: bool,
    ) -> Result<(), String> {
        while self.refused.is_none() {
            let rest = &pending[self.judged.len()..];
            let Some(end) = sentence(rest, done) else { return Ok(()) };
            let sentence = &rest[..end];
            if self.said.len() + sentence.len() > MAX_SAID_BYTES {
                let from = self.said.floor_char_boundary(self.said.len().saturating_sub(KEPT_SAID_BYTES));
                self.said.drain(..from);
            }
            self.said.push_str(sentence);
            if !sentence.trim().is_empty() {
                let said = |clause: &Clause| clause.refuses(&self.said, scores);
                self.refused = first(clauses, Hold::Sentence, said)?;
            }
            if self.refused.is_none() {
                self.judged.push_str(sentence);
            }
        }
        Ok(())
    }

    /// Judges the whole answer, of which nothing has gone out.
    fn all(&mut self, clauses: &[Clause], scores: &Scores, pending: &str) -> Result<(), String> {
        let refuses = |clause: &Clause| {
            for piece in pieces(pending) {
                if clause.refuses(piece, scores)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        self.refused = first(clauses, Hold::Answer, refuses)?;
        Ok(())
    }
}

/// The place of the first clause for answers that refuses.
fn first(
    clauses: &[rules::Clause],
    hold: Hold,
    refuses: impl Fn(&Clause) -> Result<bool, String>,
) -> Result<Option<usize>, String> {
    for (index, clause) in clauses.iter().enumerate() {
        if clause.label.applies(Stage::Output) && clause.hold == hold && refuses(clause)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Where the first sentence of a text ends, if that is known.
fn sentence(text: &str, done: bool) -> Option<usize> {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        if end > MAX_SENTENCE_BYTES {
            break;
        }
        let ends = match character {
            '\n' | '。' | '！' | '？' => true,
            '.' | '!' | '?' | '…' => characters.peek().is_some_and(|(_, next)| next.is_whitespace()),
            _ => false,
        };
        if ends {
            return Some(end);
        }
    }
    let long = text.len() > MAX_SENTENCE_BYTES;
    match done {
        true if text.is_empty() => None,
        true if !long => Some(text.len()),
        false if text.len() < CLEAR_BYTES => None,
        _ => Some(text.floor_char_boundary(MAX_SENTENCE_BYTES)),
    }
}
