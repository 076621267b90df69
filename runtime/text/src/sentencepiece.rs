//! SentencePiece's byte-pair merges: of all neighbours that make a token together, those that make the best token are joined
//! first; the leftmost of equally good ones. What no token covers is written in bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ahash::{AHashMap, AHashSet};

use crate::error::{Result, TextError};
use crate::limits::{ENCODE_CHUNK_BYTES, MAX_ENCODE_CHUNK_BYTES};
use crate::vocabulary::{Kind, SPACE, TokenBytes};

/// A vocabulary with scores.
pub(crate) struct SentencePiece {
    tokens: AHashMap<String, u32>,
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: [u32; 256],
    cuts: Cuts,
}

/// Where a text can be cut so that the pieces give what the whole gives.
pub(crate) struct Cuts {
    /// Characters that stand before a space within a token. Between any other and a space a text can be cut.
    before_space: AHashSet<char>,
}

/// A part of a text that is a token or will be a part of one.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// Bytes; 0 when it has become a part of the one before.
    len: usize,
    /// The symbols beside it.
    before: Option<u32>,
    behind: Option<u32>,
}

/// Two neighbours that make a token.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both when they met; another length later means that one of them is gone.
    len: usize,
}

impl Ord for Pair {
    /// Better scores are greater, then symbols further left.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// Errors: there are no scores, or a byte has no token.
    pub fn new(
        tokens: AHashMap<String, u32>,
        scores: Vec<f32>,
        kinds: &[Kind],
        spelled: &TokenBytes,
    ) -> Result<Self> {
        if scores.is_empty() {
            return Err(missing("tokenizer.ggml.scores".into()));
        }
        let bytes = byte_tokens(kinds, spelled)?;
        let cuts = Cuts::of(tokens.keys());
        // Both zeros are one score.
        let scores = scores.into_iter().map(|score| if score == 0.0 { 0.0 } else { score }).collect();
        Ok(Self { tokens, scores, bytes, cuts })
    }

    /// The token of each byte.
    pub fn bytes(&self) -> &[u32; 256] {
        &self.bytes
    }

    /// Adds the tokens of a text, `prefixed`: with a space before it.
    pub fn encode(&self, text: &str, prefixed: bool, tokens: &mut Vec<u32>) {
        let pieces = self.cuts.each(text, prefixed, |piece| {
            self.encode_piece(piece, tokens);
            Ok(())
        });
        debug_assert!(pieces.is_ok(), "no piece is refused");
    }

    fn encode_piece(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut symbols = symbols(text);
        let mut pairs = BinaryHeap::new();
        for right in 1..symbols.len() as u32 {
            pairs.extend(self.pair(text, &symbols, right - 1, right));
        }
        while let Some(Pair { left, right, len, .. }) = pairs.pop() {
            let (first, second) = (symbols[left as usize], symbols[right as usize]);
            if first.len == 0 || second.len == 0 || first.len + second.len != len {
                continue;
            }
            symbols[left as usize] = Symbol { len, behind: second.behind, ..first };
            symbols[right as usize].len = 0;
            if let Some(before) = first.before {
                pairs.extend(self.pair(text, &symbols, before, left));
            }
            if let Some(behind) = second.behind {
                symbols[behind as usize].before = Some(left);
                pairs.extend(self.pair(text, &symbols, left, behind));
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let part = &text[symbol.start..symbol.start + symbol.len];
            match self.tokens.get(part) {
                Some(&token) => tokens.push(token),
                None => tokens.extend(part.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// Two neighbours, if they make a token.
    fn pair(&self, text: &str, symbols: &[Symbol], left: u32, right: u32) -> Option<Pair> {
        let (first, second) = (symbols[left as usize], symbols[right as usize]);
        let len = first.len + second.len;
        let token = *self.tokens.get(&text[first.start..first.start + len])?;
        Some(Pair { score: self.scores[token as usize], left, right, len })
    }
}

/// The token of each byte. Error: one has none.
pub(crate) fn byte_tokens(kinds: &[Kind], spelled: &TokenBytes) -> Result<[u32; 256]> {
    let mut bytes = [None; 256];
    for token in (0..kinds.len() as u32).filter(|&token| kinds[token as usize] == Kind::Byte) {
        if let Some(&[byte]) = spelled.get(token) {
            bytes[usize::from(byte)].get_or_insert(token);
        }
    }
    if let Some(byte) = bytes.iter().position(Option::is_none) {
        return Err(missing(format!("a token <0x{byte:02X}>")));
    }
    Ok(bytes.map(Option::unwrap_or_default))
}

fn missing(what: String) -> TextError {
    TextError::SentencePiece { what }
}

impl Cuts {
    /// `tokens`: the texts of all that merges can make.
    pub fn of<'a>(tokens: impl Iterator<Item = &'a String>) -> Self {
        let mut before_space = AHashSet::new();
        for text in tokens {
            let pairs = text.chars().zip(text.chars().skip(1));
            before_space.extend(pairs.filter(|pair| pair.1 == SPACE).map(|pair| pair.0));
        }
        Self { before_space }
    }

    /// Calls `take` with the pieces of a text, spaces as the vocabulary spells them, `prefixed`: with one before it.
    pub fn each(&self, text: &str, prefixed: bool, mut take: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut spelled = String::with_capacity(text.len() + SPACE.len_utf8());
        spelled.extend(prefixed.then_some(SPACE));
        spelled.extend(text.chars().map(|character| if character == ' ' { SPACE } else { character }));
        let mut rest = spelled.as_str();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(self.first(rest));
            take(piece)?;
            rest = behind;
        }
        Ok(())
    }

    /// Where the first piece of a text ends: at a space that no token joins with what is before it; in a text without such a
    /// place at the limit.
    fn first(&self, text: &str) -> usize {
        let mut before = None;
        for (at, character) in text.char_indices() {
            let joined =
                character != SPACE || before.is_none_or(|before| self.before_space.contains(&before));
            if at >= MAX_ENCODE_CHUNK_BYTES || at >= ENCODE_CHUNK_BYTES && !joined {
                return at;
            }
            before = Some(character);
        }
        text.len()
    }
}

/// The characters of a text.
fn symbols(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (index, (start, character)) in (0_u32..).zip(text.char_indices()) {
        let before = index.checked_sub(1);
        symbols.push(Symbol { start, len: character.len_utf8(), before, behind: Some(index + 1) });
    }
    if let Some(last) = symbols.last_mut() {
        last.behind = None;
    }
    symbols
}
