//! The vocabulary as the library sees it: a trie of the tokens that are text.

use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::error::GrammarError;
use crate::limits::{MAX_TRIE_BYTES, MAX_TRIE_TOKEN_BYTES};
use crate::tokenizer::Tokenizer;

/// Stands for no token.
const NONE: u32 = u32::MAX;

/// Tokens that are text, by their bytes. Control tokens and unused ones are not in it, so that no grammar can mean
/// them, whatever it says.
pub(super) struct Words {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
    /// A bit for each token that is in the trie.
    plain: Vec<u32>,
}

impl Words {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, GrammarError> {
        let count = tokenizer.vocab_size();
        let mut plain = vec![0; count.div_ceil(32)];
        let word = |token: u32| match tokenizer.token_bytes(token) {
            Ok(bytes) if tokenizer.is_text(token) && fits(bytes) => {
                plain[token as usize / 32] |= 1 << (token % 32);
                bytes.to_vec()
            }
            _ => Vec::new(),
        };
        let words: Vec<Vec<u8>> = (0..count as u32).map(word).collect();
        let bytes: usize = words.iter().map(Vec::len).sum();
        if bytes > MAX_TRIE_BYTES {
            let reason =
                format!("its tokens have {bytes} bytes together, more than the limit of {MAX_TRIE_BYTES}");
            return Err(GrammarError::Vocabulary { reason });
        }
        let end = tokenizer.end_tokens().first().copied().unwrap_or(NONE);
        let trie = TokTrie::from(&TokRxInfo::new(count as u32, end), &words);
        Ok(Self { tokenizer, trie, plain })
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A bit for each token that can be part of a text.
    pub fn plain(&self) -> &[u32] {
        &self.plain
    }

    /// The tokens of a text, if they spell it.
    fn encode(&self, text: &str) -> Option<Vec<TokenId>> {
        let tokens = self.tokenizer.encode_continuation(text).ok()?;
        let mut rest = text.as_bytes();
        for &token in &tokens {
            rest = rest.strip_prefix(self.trie.token(token))?;
        }
        rest.is_empty().then_some(tokens)
    }
}

/// Whether the trie can hold a token. No text has the byte 0xFF, by which the library marks tokens that are none.
fn fits(bytes: &[u8]) -> bool {
    !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) && bytes.len() <= MAX_TRIE_TOKEN_BYTES
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let spelled =
            |text: &str| self.encode(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        self.trie.tokenize_with_greedy_fallback(bytes, spelled)
    }
}
