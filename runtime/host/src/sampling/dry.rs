//! DRY, "don't repeat yourself": a penalty that grows with the length of the repetition that a token would
//! continue.

use std::collections::HashMap;

use super::candidates::Candidates;
use super::operation::{Context, Dry, tail};
use crate::vocabulary::Vocabulary;

/// Exponents are cut so that base ^ exponent stays below the largest number of single precision.
const MOST_LN: f32 = 88.72;

/// Penalises tokens that would continue a repetition longer than allowed.
pub fn apply(dry: &Dry, candidates: &mut Candidates, context: &mut Context) {
    let tokens = tail(context.history, dry.last);
    let allowed = dry.allowed_length as usize;
    if dry.multiplier == 0.0 || dry.base < 1.0 || tokens.len() <= allowed {
        return;
    }
    let breakers = &mut context.repetition.breakers;
    breakers.set(&dry.breakers);
    let limit = breakers.free_tail(tokens, context.vocabulary);
    if limit < allowed {
        return;
    }
    let mut longest: HashMap<u32, usize> = HashMap::new();
    // Nothing stands before the first token, so it continued nothing.
    for (end, length) in repeated_suffixes(tokens).enumerate().skip(1) {
        let length = length.min(limit);
        if length >= allowed {
            let entry = longest.entry(tokens[end]).or_default();
            *entry = length.max(*entry);
        }
    }
    let most = if dry.base > 1.000_001 { MOST_LN / dry.base.ln() } else { f32::INFINITY };
    for (&token, &length) in &longest {
        if token >= candidates.vocabulary() || breakers.is_breaker(token, context.vocabulary) {
            continue;
        }
        let exponent = ((length - allowed) as f32).min(most.floor());
        let penalty = dry.multiplier * dry.base.powf(exponent);
        candidates.change(token, |logit| logit - penalty);
    }
    candidates.drop_dead();
}

/// For each place `end` from 1 to the last: how long the longest text is that ends before `end` and also ends
/// the tokens. The token at `end` is the one that continued it then. The first item is place 0, before which
/// there is nothing.
///
/// This is the Z function of the reversed tokens, in linear time.
fn repeated_suffixes(tokens: &[u32]) -> impl Iterator<Item = usize> {
    let n = tokens.len();
    let back = |i: usize| tokens[n - 1 - i];
    let mut lengths = vec![0usize; n];
    // The rightmost stretch known to equal a prefix: it starts at `left` and ends before `right`.
    let (mut left, mut right) = (0, 0);
    for start in 1..n {
        let mut length = if start < right { lengths[start - left].min(right - start) } else { 0 };
        while start + length < n && back(length) == back(start + length) {
            length += 1;
        }
        if start + length > right {
            (left, right) = (start, start + length);
        }
        lengths[start] = length;
    }
    // A repetition that starts `start` back is continued by the token at n - start.
    lengths.push(0);
    lengths.into_iter().skip(1).rev()
}

/// Texts that break a repetition, as sequences of tokens.
#[derive(Debug, Default)]
pub struct Breakers {
    texts: Vec<String>,
    /// For a token the sequences that must follow it to complete a breaker; an empty one: it holds a whole
    /// breaker. Filled for the tokens that occur.
    tails: HashMap<u32, Vec<Vec<u32>>>,
}

impl Breakers {
    /// Whether these are the texts.
    pub(super) fn are(&self, texts: &[String]) -> bool {
        self.texts == texts
    }

    fn set(&mut self, texts: &[String]) {
        if !self.are(texts) {
            self.texts = texts.to_vec();
            self.tails.clear();
        }
    }

    fn tails(&mut self, token: u32, vocabulary: &dyn Vocabulary) -> &[Vec<u32>] {
        self.tails.entry(token).or_insert_with(|| {
            let word = vocabulary.bytes_of(token).unwrap_or_default();
            let mut tails = Vec::new();
            for text in self.texts.iter().filter(|text| !text.is_empty()) {
                tails_of(word, text, vocabulary, &mut tails);
            }
            tails
        })
    }

    /// Whether the token holds a whole breaker.
    fn is_breaker(&mut self, token: u32, vocabulary: &dyn Vocabulary) -> bool {
        self.tails(token, vocabulary).iter().any(Vec::is_empty)
    }

    /// How many tokens there are after the last breaker: a repetition can't be longer.
    fn free_tail(&mut self, tokens: &[u32], vocabulary: &dyn Vocabulary) -> usize {
        for (back, &token) in tokens.iter().rev().enumerate() {
            let after = &tokens[tokens.len() - back..];
            let tails = self.tails(token, vocabulary);
            let longest = tails.iter().filter(|tail| after.starts_with(tail)).map(Vec::len).max();
            if let Some(longest) = longest {
                return back - longest;
            }
        }
        tokens.len()
    }
}

/// What must follow `word` to complete `breaker`, if `word` holds it or ends with a beginning of it.
fn tails_of(word: &[u8], breaker: &str, vocabulary: &dyn Vocabulary, tails: &mut Vec<Vec<u32>>) {
    let bytes = breaker.as_bytes();
    if word.windows(bytes.len()).any(|window| window == bytes) {
        tails.push(Vec::new());
        return;
    }
    for begun in 1..bytes.len().min(word.len() + 1) {
        // A remainder that starts within a character has no tokens of its own.
        let remainder = breaker.get(begun..);
        if word.ends_with(&bytes[..begun])
            && let Some(Ok(tail)) = remainder.map(|text| vocabulary.encode(text))
            && !tail.is_empty()
            && !tails.contains(&tail)
        {
            tails.push(tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_or_long_breakers_are_refused() {
        let check = |breakers: Vec<String>| {
            let dry = Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, last: -1, breakers };
            super::super::Operation::Dry(dry).check().map_err(|error| error.to_string())
        };
        assert_eq!(check(vec!["e".repeat(256); 64]), Ok(()));
        assert!(check(vec!["e".repeat(257)]).is_err_and(|error| error.contains("257 bytes, more than 256")));
        assert!(check(vec!["e".into(); 65]).is_err_and(|error| error.contains("65 texts, more than 64")));
    }

    #[test]
    fn repeated_suffixes_are_those_of_the_definition() {
        let mut state = 1u32;
        for length in 0..60 {
            let tokens: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state >> 30
                })
                .collect();
            let found: Vec<usize> = repeated_suffixes(&tokens).collect();
            let expected: Vec<usize> = (0..tokens.len())
                .map(|end| {
                    (0..=end).rev().find(|&n| tokens[end - n..end] == tokens[tokens.len() - n..]).unwrap()
                })
                .collect();
            assert_eq!(found, expected, "{tokens:?}");
        }
    }
}
