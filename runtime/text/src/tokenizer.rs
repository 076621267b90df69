//! Text to tokens and back.

use std::fmt;
use std::ops::Range;

use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use crate::added::Added;
use crate::error::{Result, TextError};
use crate::limits::{ENCODE_CACHE_WORDS, ENCODE_CHUNK_BYTES, MAX_ENCODE_CHUNK_BYTES};
use crate::pretokenize::{Words, chunk_end, library};
use crate::ranked::Ranked;
use crate::sentencepiece::SentencePiece;
use crate::vocabulary::{Kind, RANKED, SPACE, SpacePrefix, Spelling, TokenBytes, Vocabulary, VocabularySpec};

/// How the text of a control token, such as `<|im_start|>`, is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// As the characters that it is. For every text that wasn't written by the model's maker.
    AsText,
    /// As the control token.
    Parse,
}

/// A byte-pair tokenizer, byte-level or SentencePiece's. It can be shared between threads.
///
/// SentencePiece models such as Llama 2 and Mistral were trained on texts with a space before them, so that the first word is the
/// token that it is elsewhere. That space belongs to a text's beginning: [`Self::encode`] is for whole texts, and
/// [`Self::encode_continuation`] for what is put behind others, where a space that nobody wrote would be one too many. Chat prompts
/// are whole texts, and behind each control token in them there is a space again where the file's `SpacePrefix` says so: of GGUF
/// files the tokens are those of llama.cpp's `llama_tokenize` with `parse_special`, which looks at no `legacy` flag, and of a
/// `tokenizer.json` those of the library that wrote it, but for what it says of single added tokens (`normalized`, `lstrip`, `rstrip`,
/// `single_word`): these are found as they are spelled, and take no spaces away.
pub struct Tokenizer {
    pieces: Pieces,
    space_prefix: SpacePrefix,
    kinds: Vec<Kind>,
    bytes: TokenBytes,
    added: Added,
    ends: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

/// What makes tokens of a text without control tokens.
enum Pieces {
    /// Words, in a byte-level alphabet, and merges by rank.
    Words(Words, Box<BPE>),
    /// Merges by the scores of tokens.
    Scores(Box<SentencePiece>),
    /// Merges by rank, without words.
    Ranks(Box<Ranked>),
}

impl Tokenizer {
    /// Builds a tokenizer from a model file's vocabulary.
    ///
    /// Errors: a kind of tokenizer or pre-tokenizer that isn't supported; a vocabulary that contradicts
    /// itself or goes beyond a limit.
    pub fn new(spec: VocabularySpec<'_>) -> Result<Self> {
        let (bos, eos) = (spec.bos, spec.eos);
        let (told_bos, add_eos) = (spec.add_bos, spec.add_eos.unwrap_or(false));
        let space_prefix = match (spec.model.as_str(), spec.space_prefix) {
            ("gpt2", _) | (RANKED, None) => SpacePrefix::Nowhere,
            (_, told) => told.unwrap_or(SpacePrefix::Parts),
        };
        let (pieces, add_bos, Vocabulary { kinds, bytes, ends, .. }) = match spec.model.as_str() {
            "gpt2" => {
                let mut words = Words::named(&spec.pre)?;
                words.nfc = spec.nfc.unwrap_or(words.nfc);
                words.ignore_merges = spec.ignore_merges.unwrap_or(words.ignore_merges);
                let add_bos = words.add_bos;
                let mut vocabulary = Vocabulary::check(spec, Spelling::ByteLevel)?;
                (byte_level(words, &mut vocabulary)?, add_bos, vocabulary)
            }
            "llama" => {
                let mut vocabulary = Vocabulary::check(spec, Spelling::SentencePiece)?;
                (by_scores(&mut vocabulary)?, true, vocabulary)
            }
            RANKED => {
                let mut vocabulary = Vocabulary::check(spec, Spelling::SentencePiece)?;
                (Pieces::Ranks(Box::new(Ranked::new(&mut vocabulary)?)), true, vocabulary)
            }
            other => return Err(TextError::Model { found: other.chars().take(64).collect() }),
        };
        let added = Added::new(&kinds, &bytes)?;
        Ok(Self {
            pieces,
            space_prefix,
            kinds,
            bytes,
            added,
            ends,
            bos,
            eos,
            add_bos: told_bos.unwrap_or(add_bos),
            add_eos,
        })
    }

    /// The tokens of a whole text. A space is put before it, and before parts of it, as the vocabulary has it; tokens of the
    /// text's beginning and end are not added.
    ///
    /// Characters whose bytes the vocabulary doesn't have are left out, as the models' own tokenizers do.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        self.encode_parts(text, specials == Specials::Parse, &[])
    }

    /// The tokens of a whole text that nothing stands before: the beginning-of-text token, if the model expects one, and those of
    /// [`Self::encode`], control tokens as text.
    pub fn begin(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.encode(text, Specials::AsText)?;
        if let Some(bos) = self.bos.filter(|_| self.add_bos) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// The tokens of a text that stands behind another, control tokens as text: nothing is added, so that a vocabulary which has all
    /// bytes gives tokens that spell the text and no more. U+2581, which SentencePiece writes for a space, is spelled by its bytes.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        let bytes = match &self.pieces {
            Pieces::Words(..) => None,
            Pieces::Scores(pieces) => Some(pieces.bytes()),
            Pieces::Ranks(pieces) => Some(pieces.bytes()),
        };
        let Some(bytes) = bytes else { return self.encode_each(text, false, &[], SpacePrefix::Nowhere) };
        let mut tokens = Vec::new();
        for (number, part) in text.split(SPACE).enumerate() {
            if number > 0 {
                let mut utf8 = [0; 4];
                tokens.extend(SPACE.encode_utf8(&mut utf8).bytes().map(|byte| bytes[usize::from(byte)]));
            }
            tokens.extend(self.encode_each(part, false, &[], SpacePrefix::Nowhere)?);
        }
        Ok(tokens)
    }

    /// The tokens of a whole text in which control tokens count, except where they cover an untrusted byte (sorted
    /// ranges).
    pub(crate) fn encode_parts(
        &self,
        text: &str,
        control: bool,
        untrusted: &[Range<usize>],
    ) -> Result<Vec<u32>> {
        self.encode_each(text, control, untrusted, self.space_prefix)
    }

    fn encode_each(
        &self,
        text: &str,
        control: bool,
        untrusted: &[Range<usize>],
        prefix: SpacePrefix,
    ) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(text.len() / 4);
        let mut at = 0;
        for found in self.added.find(text, control, untrusted) {
            let part = &text[at..found.start];
            self.encode_plain(part, prefix.is_before(part, at == 0), &mut tokens)?;
            tokens.push(found.token);
            at = found.end;
        }
        let part = &text[at..];
        self.encode_plain(part, prefix.is_before(part, at == 0), &mut tokens)?;
        Ok(tokens)
    }

    /// `prefixed`: with a space before the text, of SentencePiece only.
    fn encode_plain(&self, mut text: &str, prefixed: bool, tokens: &mut Vec<u32>) -> Result<()> {
        let (words, merges) = match &self.pieces {
            Pieces::Words(words, merges) => (words, merges),
            Pieces::Scores(pieces) => {
                pieces.encode(text, prefixed, tokens);
                return Ok(());
            }
            Pieces::Ranks(pieces) => return pieces.encode(text, prefixed, tokens),
        };
        while !text.is_empty() {
            let (chunk, rest) = text.split_at(chunk_end(text, ENCODE_CHUNK_BYTES, MAX_ENCODE_CHUNK_BYTES));
            words.each(chunk, |word| {
                let found = merges.tokenize(word).map_err(library)?;
                tokens.extend(found.iter().map(|token| token.id));
                Ok(())
            })?;
            text = rest;
        }
        Ok(())
    }

    /// The bytes that a token stands for. They needn't be whole UTF-8 characters. Control tokens give their
    /// own text.
    pub fn token_bytes(&self, token: u32) -> Result<&[u8]> {
        self.bytes.get(token).ok_or(TextError::UnknownToken { id: token, tokens: self.bytes.len() })
    }

    /// The text of tokens; bytes that aren't UTF-8 and ids outside the vocabulary give U+FFFD.
    pub fn decode(&self, tokens: &[u32], skip_control: bool) -> String {
        let mut bytes = Vec::new();
        for &token in tokens.iter().filter(|&&token| !(skip_control && self.is_control(token))) {
            bytes.extend_from_slice(self.bytes.get(token).unwrap_or("\u{FFFD}".as_bytes()));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text of tokens that nothing stands before, as [`Self::begin`] and [`Self::encode`] make them: [`Self::decode`] without the
    /// space that was put before the text.
    ///
    /// A space that the text itself begins with is lost where none was put before it; such tokens are those of both texts.
    pub fn decode_whole(&self, tokens: &[u32]) -> String {
        let begun = usize::from(self.bos.is_some() && tokens.first().copied() == self.bos);
        let (mut text, rest) = (self.decode(&tokens[..begun], false), self.decode(&tokens[begun..], false));
        let added = if self.space_prefix == SpacePrefix::Nowhere { "" } else { " " };
        text.push_str(rest.strip_prefix(added).unwrap_or(&rest));
        text
    }

    /// Number of tokens, unused ones included.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a token has a meaning of its own and isn't part of a text, such as the start of a turn.
    pub fn is_control(&self, token: u32) -> bool {
        self.kinds.get(token as usize) == Some(&Kind::Control)
    }

    /// Whether a token is a piece of text: neither a control token nor one that nothing is made of.
    pub(crate) fn is_text(&self, token: u32) -> bool {
        let kind = self.kinds.get(token as usize);
        matches!(kind, Some(Kind::Normal | Kind::UserDefined | Kind::Byte))
    }

    /// Tokens that end an answer; the one that the file names is first.
    pub fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token, or that of the end of a turn.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the model expects the beginning-of-text token before a plain text.
    pub fn add_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether the model expects the end-of-text token after a plain text.
    pub fn add_eos(&self) -> bool {
        self.add_eos && self.eos.is_some()
    }

    pub(crate) fn added(&self) -> &Added {
        &self.added
    }
}

fn byte_level(words: Words, vocabulary: &mut Vocabulary) -> Result<Pieces> {
    let (normal, merges) = (std::mem::take(&mut vocabulary.normal), std::mem::take(&mut vocabulary.merges));
    let merges = BPE::builder()
        .vocab_and_merges(normal, merges)
        .ignore_merges(words.ignore_merges)
        .cache_capacity(ENCODE_CACHE_WORDS)
        .build()
        .map_err(library)?;
    Ok(Pieces::Words(words, Box::new(merges)))
}

fn by_scores(vocabulary: &mut Vocabulary) -> Result<Pieces> {
    let (normal, scores) = (std::mem::take(&mut vocabulary.normal), std::mem::take(&mut vocabulary.scores));
    Ok(Pieces::Scores(Box::new(SentencePiece::new(normal, scores, &vocabulary.kinds, &vocabulary.bytes)?)))
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.vocab_size()).finish_non_exhaustive()
    }
}
