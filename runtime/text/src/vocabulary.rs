//! A vocabulary as a model file gives it, and its checks.
//!
//! Everything from the file is checked here, once; what comes out can't hold a bad id, length or type.

use std::borrow::Cow;

use ahash::AHashMap;

use crate::error::{Result, TextError, shown};
use crate::limits::{MAX_ADDED_TOKENS, MAX_MERGES, MAX_MERGES_PER_TOKEN, MAX_TOKEN_BYTES, MAX_TOKENS};

/// A vocabulary in plain data, named after the GGUF metadata keys `tokenizer.ggml.*` that it comes from.
///
/// Texts may be borrowed from the file's metadata: what is refused is then refused before it is copied.
#[derive(Debug, Clone, Default)]
pub struct VocabularySpec<'a> {
    /// `model`: the kind of tokenizer; `gpt2` is byte-level byte-pair encoding, `llama` is SentencePiece's. `bpe`, which no GGUF
    /// file has, is SentencePiece's spelling with merges in place of scores.
    pub model: String,
    /// `pre`: the name of the pre-tokenizer.
    pub pre: String,
    /// Whether text is brought to Unicode normalisation form C first; by default as `pre` says.
    pub nfc: Option<bool>,
    /// Whether a word that is a token is that token, whatever the merges say; by default as `pre` says.
    pub ignore_merges: Option<bool>,
    /// `tokens`: the text of each token, normal ones in the byte-level alphabet.
    pub tokens: Vec<Cow<'a, str>>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty: all normal.
    pub token_types: Vec<i32>,
    /// `scores`: how good each token is, in SentencePiece; of two possible merges the one to the better token is made.
    pub scores: Vec<f32>,
    /// `merges`: pairs of tokens, separated by a space, first rule first.
    pub merges: Vec<Cow<'a, str>>,
    /// `bos_token_id`: beginning of text.
    pub bos: Option<u32>,
    /// `eos_token_id`: end of text or of a turn.
    pub eos: Option<u32>,
    /// `eot_token_id`: end of a turn.
    pub eot: Option<u32>,
    /// Further tokens that end an answer.
    pub ends: Vec<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`: put the beginning-of-text token before a plain text.
    pub add_bos: Option<bool>,
    /// `add_eos_token`: put the end-of-text token after a plain text.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`: where a space is put before a text, in SentencePiece; by default before each part where tokens have
    /// scores, and nowhere where they are merged by rank.
    pub space_prefix: Option<SpacePrefix>,
}

/// Where a vocabulary of SentencePiece has a space put before a text. A part of a text is what stands between two tokens that are
/// found by their text, control and user-defined ones, or between one of them and an end of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpacePrefix {
    /// Nowhere.
    Nowhere,
    /// Before each part, one that begins with a space too: `add_space_prefix` in llama.cpp, the normaliser `Prepend` of a
    /// `tokenizer.json`.
    Parts,
    /// Before each part that does not begin with a space: `Metaspace` with the scheme `always`.
    BareParts,
    /// Before the text, if it begins neither with a space nor with such a token: `Metaspace` with the scheme `first`.
    Beginning,
}

impl SpacePrefix {
    /// What `add_space_prefix` in a GGUF file means.
    pub fn told(add: bool) -> Self {
        if add { Self::Parts } else { Self::Nowhere }
    }

    /// Whether a space stands before a part. `first`: the text begins with it.
    pub(crate) fn is_before(self, part: &str, first: bool) -> bool {
        let bare = !part.is_empty() && !part.starts_with([' ', SPACE]);
        match self {
            Self::Nowhere => false,
            Self::Parts => !part.is_empty(),
            Self::BareParts => bare,
            Self::Beginning => bare && first,
        }
    }
}

impl VocabularySpec<'_> {
    /// Refuses arrays of lengths that can't make a vocabulary. For whoever fills a specification, before the
    /// work of filling it.
    pub fn check_lengths(tokens: usize, token_types: usize, merges: usize) -> Result<()> {
        within("tokenizer.ggml.tokens", tokens, MAX_TOKENS)?;
        if tokens == 0 {
            return Err(TextError::Empty);
        }
        if token_types != 0 && token_types != tokens {
            return Err(TextError::TypeCount { found: token_types, tokens });
        }
        within("tokenizer.ggml.merges", merges, MAX_MERGES.min(tokens.saturating_mul(MAX_MERGES_PER_TOKEN)))
    }
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text, made by merges.
    Normal,
    /// Has a meaning of its own (start of a turn, end of text); never made from a user's text.
    Control,
    /// Made from its exact text wherever it stands.
    UserDefined,
    /// Never made from text, like an entry that only fills up the table.
    Unused,
    /// One byte, written `<0x41>`.
    Byte,
}

/// How a vocabulary writes bytes as characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Each byte as a visible character.
    ByteLevel,
    /// As they are, but for spaces, which are U+2581.
    SentencePiece,
}

/// The kind of tokenizer that has SentencePiece's spelling and merges.
pub(crate) const RANKED: &str = "bpe";

/// What SentencePiece writes for a space.
pub(crate) const SPACE: char = '\u{2581}';

/// A checked vocabulary, split for its users.
pub(crate) struct Vocabulary {
    /// What each token is for.
    pub kinds: Vec<Kind>,
    /// The bytes of each token.
    pub bytes: TokenBytes,
    /// Normal tokens by their text, as the vocabulary spells it.
    pub normal: AHashMap<String, u32>,
    /// How good each token is; empty where the file does not say it.
    pub scores: Vec<f32>,
    /// Merge rules between normal tokens, first rule first.
    pub merges: Vec<(String, String)>,
    /// Tokens that end an answer; the file's end-of-text token is first.
    pub ends: Vec<u32>,
}

/// Texts of tokens that end a turn or a text, in the models that a file may hold without naming them in its
/// metadata. Converters have written other types for them than that of control tokens.
const END_TEXTS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];
/// One that is an end where it is a control token. Elsewhere it is the tag of HTML, as in Gemma.
const END_OR_TAG: &str = "</s>";

/// What ends answers in channels. There `<|end|>` ends a message, and no answer, whatever a file says.
const CHANNEL_ENDS: [&str; 2] = ["<|return|>", "<|call|>"];

impl Vocabulary {
    /// Checks a specification. It is taken by value so that texts of its own are moved, not copied.
    pub fn check(spec: VocabularySpec<'_>, spelling: Spelling) -> Result<Self> {
        let count = spec.tokens.len();
        VocabularySpec::check_lengths(count, spec.token_types.len(), spec.merges.len())?;
        let specials = [
            ("bos", spec.bos),
            ("eos", spec.eos),
            ("eot", spec.eot),
            ("unknown", spec.unk),
            ("padding", spec.pad),
        ];
        let further = spec.ends.iter().map(|&id| ("eos", Some(id)));
        for (name, id) in specials.into_iter().chain(further) {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(TextError::SpecialId { name, id, tokens: count });
            }
        }
        let VocabularySpec { tokens, token_types, merges, scores, bos, eos, eot, ends: further, .. } = spec;
        let named = eos.into_iter().chain(eot).chain(further);
        let mut kinds = kinds(&tokens, &token_types)?;
        let mut ends = ends(&tokens, &kinds, named);
        let message_end = message_end(&tokens, &ends);
        ends.retain(|&id| Some(id) != message_end);
        // Files that name no beginning of their own may name a letter.
        let bos = bos.filter(|&bos| kinds[bos as usize] == Kind::UserDefined);
        for token in bos.into_iter().chain(ends.iter().copied()).chain(message_end) {
            kinds[token as usize] = Kind::Control;
        }
        let added = kinds.iter().filter(|kind| matches!(kind, Kind::Control | Kind::UserDefined)).count();
        within("tokenizer.ggml.token_type (control and user-defined)", added, MAX_ADDED_TOKENS)?;
        check_scores(&scores, count)?;
        let bytes = TokenBytes::new(&tokens, &kinds, spelling)?;
        let (normal, special) = by_text(tokens, &kinds)?;
        let merges = check_merges(merges, &normal, &special)?;
        Ok(Self { kinds, bytes, normal, scores, merges, ends })
    }
}

/// Refuses scores that belong to no token, or that nothing can be compared with.
fn check_scores(scores: &[f32], tokens: usize) -> Result<()> {
    if !scores.is_empty() && scores.len() != tokens {
        return Err(TextError::ScoreCount { found: scores.len(), tokens });
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(token) => Err(TextError::Score { token: token as u32 }),
        None => Ok(()),
    }
}

fn within(key: &'static str, found: usize, max: usize) -> Result<()> {
    if found > max { Err(TextError::TooMany { key, found, max }) } else { Ok(()) }
}

fn kinds(tokens: &[Cow<'_, str>], types: &[i32]) -> Result<Vec<Kind>> {
    let kind = |(index, text): (usize, &Cow<'_, str>)| {
        let token = index as u32;
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TextError::TokenTooLong { token, bytes: text.len(), max: MAX_TOKEN_BYTES });
        }
        match types.get(index).copied().unwrap_or(1) {
            _ if text.is_empty() => Ok(Kind::Unused),
            1 => Ok(Kind::Normal),
            3 => Ok(Kind::Control),
            4 => Ok(Kind::UserDefined),
            2 | 5 => Ok(Kind::Unused),
            6 => Ok(Kind::Byte),
            found => Err(TextError::TokenType { token, found }),
        }
    };
    tokens.iter().enumerate().map(kind).collect()
}

/// Tokens that end an answer: those that the file names, then those that are known by their text.
fn ends(tokens: &[Cow<'_, str>], kinds: &[Kind], named: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut ends: Vec<u32> = Vec::new();
    let known = |(index, text): (usize, &Cow<'_, str>)| {
        let ends = match kinds[index] {
            Kind::Control => END_TEXTS.contains(&text.as_ref()) || text == END_OR_TAG,
            Kind::UserDefined | Kind::Normal => END_TEXTS.contains(&text.as_ref()),
            Kind::Unused | Kind::Byte => false,
        };
        ends.then_some(index as u32)
    };
    for id in named.chain(tokens.iter().enumerate().filter_map(known)) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}

/// The token that ends a message of an answer in channels and would be taken for an end of the answer.
fn message_end(tokens: &[Cow<'_, str>], ends: &[u32]) -> Option<u32> {
    let text = |id: &u32| tokens[*id as usize].as_ref();
    let channels = CHANNEL_ENDS.iter().all(|end| ends.iter().any(|id| text(id) == *end));
    ends.iter().copied().find(|id| channels && text(id) == "<|end|>")
}

/// Texts of normal tokens, to be merged, and of all others.
type ByText = (AHashMap<String, u32>, AHashMap<String, u32>);

fn by_text(tokens: Vec<Cow<'_, str>>, kinds: &[Kind]) -> Result<ByText> {
    let special = kinds.iter().filter(|&&kind| kind != Kind::Normal).count();
    let mut normal = AHashMap::with_capacity(tokens.len() - special);
    let mut others = AHashMap::with_capacity(special);
    for (index, text) in tokens.into_iter().enumerate() {
        if text.is_empty() {
            continue;
        }
        let second = index as u32;
        let (map, other) =
            if kinds[index] == Kind::Normal { (&mut normal, &others) } else { (&mut others, &normal) };
        if let Some(&first) = map.get(text.as_ref()).or_else(|| other.get(text.as_ref())) {
            return Err(TextError::DuplicateToken { first, second, text: shown(&text) });
        }
        map.insert(text.into_owned(), second);
    }
    Ok((normal, others))
}

/// Splits the rules. A rule that takes or makes a token other than a normal one is left out: merges must not
/// lead from a user's text to a control token.
fn check_merges(
    merges: Vec<Cow<'_, str>>,
    normal: &AHashMap<String, u32>,
    special: &AHashMap<String, u32>,
) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (index, rule) in merges.into_iter().enumerate() {
        let bad = |text: &str, reason| Err(TextError::Merge { index, text: shown(text), reason });
        let mut spaces = rule.match_indices(' ').map(|(at, _)| at);
        let (Some(space), None) = (spaces.next(), spaces.next()) else {
            return bad(&rule, "a rule is two tokens with one space between them");
        };
        let (left, right) = (&rule[..space], &rule[space + 1..]);
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let is_special = |text: &str| special.contains_key(text);
        if is_special(left) || is_special(right) || is_special(&joined) {
            continue;
        }
        if !normal.contains_key(left) || !normal.contains_key(right) {
            return bad(&rule, "a part isn't a token");
        }
        if !normal.contains_key(&joined) {
            return bad(&rule, "what it makes isn't a token");
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

/// The bytes of all tokens, end to end.
pub(crate) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`; it starts where the one before ends.
    ends: Vec<u32>,
}

impl TokenBytes {
    fn new(tokens: &[Cow<'_, str>], kinds: &[Kind], spelling: Spelling) -> Result<Self> {
        let alphabet = Alphabet::new();
        let total = tokens.iter().map(|text| text.len()).sum();
        let mut bytes = Vec::with_capacity(total);
        let mut ends = Vec::with_capacity(tokens.len());
        for (index, text) in tokens.iter().enumerate() {
            match kinds[index] {
                Kind::Normal if spelling == Spelling::SentencePiece => {
                    bytes.extend_from_slice(text.replace(SPACE, " ").as_bytes());
                }
                Kind::Normal => alphabet.decode(text, &mut bytes),
                Kind::Byte => bytes.push(
                    byte_token(text)
                        .ok_or_else(|| TextError::ByteToken { token: index as u32, text: shown(text) })?,
                ),
                Kind::Control | Kind::UserDefined | Kind::Unused => bytes.extend_from_slice(text.as_bytes()),
            }
            ends.push(bytes.len() as u32);
        }
        bytes.shrink_to_fit();
        Ok(Self { bytes, ends })
    }

    /// The bytes of a token; none when it isn't in the vocabulary.
    pub fn get(&self, token: u32) -> Option<&[u8]> {
        let index = token as usize;
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// The byte that `<0x41>` names.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The byte-level alphabet: a visible character for each byte.
///
/// Bytes that Latin-1 shows stand for themselves, the others for the characters from U+0100 on, in order.
pub(crate) struct Alphabet {
    /// Byte of each character below U+0144.
    bytes: [Option<u8>; 0x144],
}

impl Alphabet {
    pub fn new() -> Self {
        let mut bytes = [None; 0x144];
        let mut next = 0x100;
        for byte in 0..=255u8 {
            if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
                bytes[byte as usize] = Some(byte);
            } else {
                bytes[next] = Some(byte);
                next += 1;
            }
        }
        Self { bytes }
    }

    /// How a token of these bytes is written.
    pub fn encode(&self, bytes: &[u8]) -> String {
        let mut characters = ['\0'; 256];
        for (character, byte) in (0_u32..).zip(self.bytes) {
            if let (Some(byte), Some(character)) = (byte, char::from_u32(character)) {
                characters[usize::from(byte)] = character;
            }
        }
        bytes.iter().map(|&byte| characters[usize::from(byte)]).collect()
    }

    /// Adds the bytes of a token. A text that isn't wholly in the alphabet stands for itself.
    fn decode(&self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for character in text.chars() {
            match self.bytes.get(character as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => {
                    out.truncate(start);
                    out.extend_from_slice(text.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>(tokens: &[&'a str]) -> VocabularySpec<'a> {
        VocabularySpec {
            model: "gpt2".into(),
            pre: "gpt-2".into(),
            tokens: tokens.iter().map(|&token| token.into()).collect(),
            ..VocabularySpec::default()
        }
    }

    fn error(spec: VocabularySpec<'_>) -> TextError {
        Vocabulary::check(spec, Spelling::ByteLevel).err().expect("the vocabulary is refused")
    }

    #[test]
    fn arrays_of_different_lengths_are_refused() {
        let spec = VocabularySpec { token_types: vec![1, 1], ..spec(&["a", "b", "c"]) };
        assert_eq!(error(spec), TextError::TypeCount { found: 2, tokens: 3 });
    }

    #[test]
    fn special_ids_out_of_range_are_refused() {
        let spec = VocabularySpec { eos: Some(3), ..spec(&["a", "b", "c"]) };
        assert_eq!(error(spec), TextError::SpecialId { name: "eos", id: 3, tokens: 3 });
    }

    #[test]
    fn byte_tokens_name_exactly_one_byte() {
        for text in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x100>", "<0x1>", "<0x>", "0x41"] {
            let spec = VocabularySpec { token_types: vec![6], ..spec(&[text]) };
            assert!(matches!(error(spec), TextError::ByteToken { token: 0, .. }), "{text}");
        }
        let good = VocabularySpec { token_types: vec![6], ..spec(&["<0x0a>"]) };
        let good = Vocabulary::check(good, Spelling::ByteLevel).unwrap();
        assert_eq!(good.bytes.get(0), Some(&b"\n"[..]));
    }

    #[test]
    fn a_long_token_is_refused() {
        let long = "x".repeat(100 << 20);
        let expected = TextError::TokenTooLong { token: 1, bytes: 100 << 20, max: MAX_TOKEN_BYTES };
        assert_eq!(error(spec(&["a", &long])), expected);
    }

    #[test]
    fn duplicates_are_refused_across_kinds() {
        let found = error(VocabularySpec { token_types: vec![1, 1, 3], ..spec(&["a", "b", "a"]) });
        assert_eq!(found, TextError::DuplicateToken { first: 0, second: 2, text: "\"a\"".into() });
    }

    #[test]
    fn unknown_types_are_refused() {
        for found in [-1, 0, 7, i32::MIN] {
            let spec = VocabularySpec { token_types: vec![found], ..spec(&["a"]) };
            assert_eq!(error(spec), TextError::TokenType { token: 0, found });
        }
    }

    #[test]
    fn a_million_added_tokens_are_refused() {
        let tokens: Vec<Cow<'_, str>> = (0..1_000_000).map(|index| format!("<{index}>").into()).collect();
        let spec = VocabularySpec { token_types: vec![3; tokens.len()], tokens, ..spec(&[]) };
        assert!(matches!(error(spec), TextError::TooMany { found: 1_000_000, .. }));
    }

    #[test]
    fn many_merges_of_few_tokens_are_refused() {
        let spec = VocabularySpec { merges: vec!["a b".into(); 25], ..spec(&["a", "b", "ab"]) };
        let key = "tokenizer.ggml.merges";
        assert_eq!(error(spec), TextError::TooMany { key, found: 25, max: 24 });
    }

    #[test]
    fn bad_merges_are_refused() {
        for merge in ["ab", "a b c", "a  b", " a", "a ", "a z", "b a"] {
            let spec = VocabularySpec { merges: vec![merge.into()], ..spec(&["a", "b", "ab"]) };
            assert!(matches!(error(spec), TextError::Merge { index: 0, .. }), "{merge:?}");
        }
    }

    #[test]
    fn merges_never_make_control_tokens() {
        let spec = VocabularySpec {
            token_types: vec![1, 1, 3],
            merges: vec!["a b".into()],
            ..spec(&["a", "b", "ab"])
        };
        let vocabulary = Vocabulary::check(spec, Spelling::ByteLevel).unwrap();
        assert!(vocabulary.merges.is_empty());
        assert!(!vocabulary.normal.contains_key("ab"));
    }

    #[test]
    fn ends_are_known_by_their_text() {
        let ends = |token_types: Vec<i32>, eos| {
            let tokens = ["<eos>", "</s>", "<|im_end|>", "a"];
            let spec = VocabularySpec { token_types, eos, ..spec(&tokens) };
            Vocabulary::check(spec, Spelling::ByteLevel).unwrap().ends
        };
        assert_eq!(ends(vec![3, 3, 3, 1], None), [0, 1, 2]);
        // A tag of HTML, unless the file names it.
        assert_eq!(ends(vec![3, 4, 4, 1], Some(3)), [3, 0, 2]);
        assert_eq!(ends(vec![4, 1, 1, 1], Some(1)), [1, 0, 2]);
        assert!(ends(vec![5, 5, 5, 1], None).is_empty());
        assert_eq!(ends(vec![], None), [0, 2]);
    }

    #[test]
    fn the_end_of_a_message_in_a_channel_is_no_end() {
        let ends = |last: &'static str, eot| {
            let tokens = ["<|end|>", "<|call|>", last, "a"];
            let spec = VocabularySpec { token_types: vec![3, 3, 3, 1], eot, ..spec(&tokens) };
            Vocabulary::check(spec, Spelling::ByteLevel).unwrap().ends
        };
        assert_eq!(ends("<|return|>", Some(0)), [1, 2]);
        assert_eq!(ends("<|return|>", None), [1, 2]);
        assert_eq!(ends("<|other|>", Some(0)), [0, 1]);
    }

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let alphabet = Alphabet::new();
        let mut seen: Vec<u8> = alphabet.bytes.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        let mut bytes = Vec::new();
        alphabet.decode("Ġhi", &mut bytes);
        alphabet.decode("<｜x｜>", &mut bytes);
        assert_eq!(bytes, " hi<｜x｜>".as_bytes());
    }
}
