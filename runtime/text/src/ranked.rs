//! Byte-pair merges by rank in SentencePiece's spelling, as a `tokenizer.json` has what was a model of SentencePiece: spaces are
//! characters like others, and what no token covers is written in bytes.

use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use crate::error::Result;
use crate::pretokenize::library;
use crate::sentencepiece::{Cuts, byte_tokens};
use crate::vocabulary::Vocabulary;

/// A vocabulary with merges.
pub(crate) struct Ranked {
    cuts: Cuts,
    merges: BPE,
    /// The token of each byte.
    bytes: [u32; 256],
}

impl Ranked {
    /// Takes normal tokens and merges out of a vocabulary. Error: a byte has no token.
    pub fn new(vocabulary: &mut Vocabulary) -> Result<Self> {
        let bytes = byte_tokens(&vocabulary.kinds, &vocabulary.bytes)?;
        let cuts = Cuts::of(vocabulary.normal.keys());
        let mut tokens = std::mem::take(&mut vocabulary.normal);
        tokens.extend(bytes.iter().enumerate().map(|(byte, &token)| (format!("<0x{byte:02X}>"), token)));
        // Pieces are long, so that none is met twice.
        let merges = BPE::builder()
            .vocab_and_merges(tokens, std::mem::take(&mut vocabulary.merges))
            .byte_fallback(true)
            .cache_capacity(0)
            .build()
            .map_err(library)?;
        Ok(Self { cuts, merges, bytes })
    }

    /// The token of each byte.
    pub fn bytes(&self) -> &[u32; 256] {
        &self.bytes
    }

    /// Adds the tokens of a text, `prefixed`: with a space before it.
    pub fn encode(&self, text: &str, prefixed: bool, tokens: &mut Vec<u32>) -> Result<()> {
        self.cuts.each(text, prefixed, |piece| {
            let found = self.merges.tokenize(piece).map_err(library)?;
            tokens.extend(found.iter().map(|token| token.id));
            Ok(())
        })
    }
}
