//! `tokenizer.json` as models are published with it, made a [`VocabularySpec`].
//!
//! The pre-tokenizer must be one that is known here, whatever it is called: regular expressions of strangers are compared, not
//! run, since one that backtracks would take minutes for a line of text.

mod parts;
mod ranks;
mod spelled;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Result, TextError, shown};
use crate::limits::{MAX_ADDED_TOKENS, MAX_MERGES, MAX_MERGES_PER_TOKEN, MAX_TOKENS, MAX_WITHOUT_ROW};
use crate::pretokenize;
use crate::vocabulary::VocabularySpec;

/// Types of tokens, as [`VocabularySpec::token_types`] has them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
/// The document.
const FILE: &str = "tokenizer.json";
/// Steps of a part of a tokenizer; public ones have up to four (a list of millions).
const MAX_STEPS: usize = 16;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Step>,
    pre_tokenizer: Option<Step>,
    post_processor: Option<Step>,
    model: Model,
}

/// A step, or several: what of its description is looked at. All else is skipped without being kept.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Step {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(alias = "normalizers", alias = "pretokenizers", alias = "processors")]
    steps: Few<Step>,
    pattern: Option<Pattern>,
    content: Option<String>,
    behavior: Option<String>,
    invert: Option<bool>,
    individual_digits: Option<bool>,
    add_prefix_space: Option<bool>,
    use_regex: Option<bool>,
    /// What a normaliser puts before a text.
    prepend: Option<String>,
    /// Where a `Metaspace` does.
    prepend_scheme: Option<String>,
    /// Whether a `Metaspace` cuts at spaces.
    split: Option<bool>,
    /// What it writes for a space.
    replacement: Option<String>,
    /// What a post-processor makes of one text.
    single: Few<Piece>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pattern {
    #[serde(rename = "Regex")]
    regex: Option<String>,
    #[serde(rename = "String")]
    text: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Piece {
    #[serde(rename = "SpecialToken")]
    special: Option<IgnoredAny>,
}

/// At most [`MAX_STEPS`] of something; a longer list is an error before it is in memory.
struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        struct List<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("steps of a tokenizer")
            }

            fn visit_unit<E>(self) -> std::result::Result<Few<T>, E> {
                Ok(Few::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Few<T>, A::Error> {
                let mut few = Vec::new();
                while let Some(one) = list.next_element()? {
                    if few.len() == MAX_STEPS {
                        let text = format_args!("more than the {MAX_STEPS} steps that are accepted");
                        return Err(A::Error::custom(text));
                    }
                    few.push(one);
                }
                Ok(Few(few))
            }
        }
        json.deserialize_any(List(std::marker::PhantomData))
    }
}

impl Step {
    fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("")
    }

    /// The text that it looks for, where that is no regular expression.
    fn text(&self) -> Option<&str> {
        self.pattern.as_ref()?.text.as_deref()
    }

    /// Calls `each` with the step, or with each of a sequence.
    fn each<'a>(&'a self, each: &mut dyn FnMut(&'a Step) -> Result<()>) -> Result<()> {
        if self.kind() == "Sequence" { self.steps.0.iter().try_for_each(each) } else { each(self) }
    }

    /// One step of a pre-tokenizer, in the words of [`pretokenize::name_of`].
    fn cut(&self) -> Result<pretokenize::Step> {
        let is = |flag: Option<bool>, wanted: bool| flag.unwrap_or(false) == wanted;
        Ok(match self.kind() {
            "Split" if self.behavior.as_deref() == Some("Isolated") && is(self.invert, false) => {
                let regex = self.pattern.as_ref().and_then(|pattern| pattern.regex.as_deref());
                let regex =
                    regex.ok_or_else(|| broken("a Split of its pre-tokenizer has no Regex".into()))?;
                pretokenize::Step::Regex(regex.replace('\r', r"\r").replace('\n', r"\n"))
            }
            "Digits" if is(self.individual_digits, true) => pretokenize::Step::Digits,
            // The library's own default is to cut as GPT-2 does.
            "ByteLevel" if is(self.add_prefix_space, false) => match self.use_regex.unwrap_or(true) {
                true => pretokenize::Step::Gpt2,
                false => pretokenize::Step::Bytes,
            },
            other => {
                return Err(broken(format!("its pre-tokenizer's step {} is not known here", shown(other))));
            }
        })
    }

    /// Whether a post-processor puts a special token before a text.
    fn puts_a_token_first(&self) -> bool {
        let first = self.single.0.first();
        self.steps.0.iter().any(Self::puts_a_token_first)
            || first.is_some_and(|first| first.special.is_some())
    }
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

struct Model {
    kind: Option<String>,
    vocab: Vec<(String, u32)>,
    /// Two tokens with a space between them each.
    merges: Vec<Cow<'static, str>>,
    ignore_merges: bool,
    byte_fallback: bool,
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Model;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the model of a tokenizer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Model, A::Error> {
                let (mut kind, mut vocab, mut merges) = (None, None, None);
                let (mut ignore_merges, mut byte_fallback) = (None, None);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    // The tokens stand before the rules in every file that the library has written.
                    let most = vocab.as_ref().map_or(MAX_MERGES, |vocab: &Vocab| most_merges(vocab.0.len()));
                    match &*key {
                        "type" => once("type", &mut kind, map.next_value()?)?,
                        "vocab" => once("vocab", &mut vocab, map.next_value()?)?,
                        "merges" => once("merges", &mut merges, map.next_value_seed(Merges { most })?)?,
                        "ignore_merges" => once("ignore_merges", &mut ignore_merges, map.next_value()?)?,
                        "byte_fallback" => once("byte_fallback", &mut byte_fallback, map.next_value()?)?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Model {
                    kind: kind.flatten(),
                    vocab: vocab.ok_or_else(|| A::Error::missing_field("vocab"))?.0,
                    merges: merges.ok_or_else(|| A::Error::missing_field("merges"))?,
                    ignore_merges: ignore_merges.unwrap_or(false),
                    byte_fallback: byte_fallback.unwrap_or(false),
                })
            }
        }
        json.deserialize_map(Fields)
    }
}

/// Most merge rules of so many tokens.
fn most_merges(tokens: usize) -> usize {
    tokens.saturating_mul(MAX_MERGES_PER_TOKEN).min(MAX_MERGES)
}

/// Sets a field. Error: it is set.
fn once<T, E: Error>(name: &'static str, field: &mut Option<T>, value: T) -> std::result::Result<(), E> {
    if field.replace(value).is_some() { Err(E::duplicate_field(name)) } else { Ok(()) }
}

impl VocabularySpec<'static> {
    /// The vocabulary in a `tokenizer.json`. Which tokens begin and end a text stands in other files and is left open, but
    /// whether the post-processor puts one before a text is said.
    ///
    /// Errors: it is not one, not byte-level BPE, has a pre-tokenizer that isn't known, or goes beyond a limit.
    pub fn from_tokenizer_json(json: &[u8]) -> Result<Self> {
        let file: File = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
        let kind = file.model.kind.as_deref().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(TextError::Model { found: kind.chars().take(64).collect() });
        }
        if file.model.byte_fallback { spelled::spec(file) } else { byte_level(file) }
    }

    /// The vocabulary of a model without `tokenizer.json`, of which that would be made: `vocab.json` (an id for each token),
    /// `merges.txt` (a rule a line, behind a line with a version) and `tokenizer_config.json` (the tokenizer's class, added tokens).
    ///
    /// Errors: those of [`VocabularySpec::from_tokenizer_json`], and a class of which it is not known how it cuts text.
    pub fn from_parts(vocab: &[u8], merges: &[u8], config: &[u8]) -> Result<Self> {
        parts::spec(vocab, merges, config)
    }

    /// The vocabulary of a model with a `tiktoken.model` (a token in base64 and its rank a line) and a `tokenizer_config.json` (the
    /// tokenizer's class, added tokens).
    ///
    /// Errors: lines that are no such pairs, two tokens with one id, a class of which it is not known how it cuts text, or more than a
    /// limit.
    pub fn from_ranks(ranks: &[u8], config: &[u8]) -> Result<Self> {
        ranks::spec(ranks, config)
    }

    /// Leaves out added tokens from this id on, such as that of an image in a model without images, or of padding in one that was
    /// trained further: nothing may make a token of a text that the model has no row for. Tokens that merges make stay, and so does all
    /// if there are more than [`MAX_WITHOUT_ROW`]: that is no vocabulary of this model.
    pub fn leave_out_added(&mut self, first: usize) {
        if self.tokens.len().saturating_sub(first) > MAX_WITHOUT_ROW {
            return;
        }
        let made = self.token_types.iter().rposition(|kind| matches!(*kind, NORMAL | BYTE));
        let kept = first.max(made.map_or(0, |last| last + 1));
        self.tokens.truncate(kept);
        self.token_types.truncate(kept);
    }
}

/// Byte-level BPE.
fn byte_level(file: File) -> Result<VocabularySpec<'static>> {
    let mut cuts = Vec::new();
    if let Some(step) = &file.pre_tokenizer {
        step.each(&mut |step| {
            cuts.push(step.cut()?);
            Ok(())
        })?;
    }
    let mut nfc = false;
    if let Some(step) = &file.normalizer {
        step.each(&mut |step| match step.kind() {
            "NFC" => {
                nfc = true;
                Ok(())
            }
            other => Err(broken(format!("its normalizer {} is not known here", shown(other)))),
        })?;
    }
    let pre = pretokenize::name_of(&cuts).ok_or_else(|| TextError::PreTokenizer {
        found: format!("{cuts:?}").chars().take(200).collect(),
        supported: pretokenize::all_names(),
    })?;
    let Model { vocab, merges, ignore_merges, .. } = file.model;
    let (tokens, token_types) = by_id(FILE, vocab, file.added_tokens)?;
    Ok(VocabularySpec {
        model: "gpt2".into(),
        pre: pre.into(),
        nfc: Some(nfc),
        ignore_merges: Some(ignore_merges),
        tokens,
        token_types,
        merges,
        add_bos: Some(file.post_processor.is_some_and(|step| step.puts_a_token_first())),
        ..VocabularySpec::default()
    })
}

fn broken(rule: String) -> TextError {
    broken_in(FILE, &rule)
}

/// The error of a document that breaks a rule. Messages of the parser repeat keys as they stand.
fn broken_in(file: &'static str, rule: &str) -> TextError {
    let rule = rule.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    TextError::Document { file, rule }
}

/// Texts and types of all tokens by their id. Ids that no token has are unused.
fn by_id(
    file: &'static str,
    vocab: Vec<(String, u32)>,
    added: Vec<AddedToken>,
) -> Result<(Vec<Cow<'static, str>>, Vec<i32>)> {
    if added.len() > MAX_ADDED_TOKENS {
        let rule = format!("it has {} added tokens, and {MAX_ADDED_TOKENS} are accepted", added.len());
        return Err(broken_in(file, &rule));
    }
    let ids = vocab.iter().map(|(_, id)| *id).chain(added.iter().map(|token| token.id));
    let count = ids.max().map_or(0, |id| id as usize + 1);
    if count > MAX_TOKENS {
        let rule = format!("a token has the id {}, and {MAX_TOKENS} tokens are accepted", count - 1);
        return Err(broken_in(file, &rule));
    }
    let mut texts: Vec<Cow<'static, str>> = vec![Cow::Borrowed(""); count];
    let mut types = vec![UNUSED; count];
    let twice = |id: u32| broken_in(file, &format!("two tokens have the id {id}"));
    for (text, id) in vocab {
        if !texts[id as usize].is_empty() {
            return Err(twice(id));
        }
        texts[id as usize] = text.into();
        types[id as usize] = NORMAL;
    }
    for AddedToken { id, content, special } in added {
        let text = &mut texts[id as usize];
        if !text.is_empty() && *text != content {
            return Err(twice(id));
        }
        *text = content.into();
        types[id as usize] = if special { CONTROL } else { USER_DEFINED };
    }
    Ok((texts, types))
}

/// The tokens of a model, each with its id.
struct Vocab(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if tokens.len() == MAX_TOKENS {
                        return Err(A::Error::custom(format_args!("more than {MAX_TOKENS} tokens")));
                    }
                    tokens.push(entry);
                }
                Ok(Vocab(tokens))
            }
        }
        json.deserialize_map(Tokens)
    }
}

/// Reads at most so many merge rules: a small vocabulary has no use for millions, each of which takes memory.
struct Merges {
    most: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair([String; 2]),
}

impl<'de> DeserializeSeed<'de> for Merges {
    type Value = Vec<Cow<'static, str>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Merges {
    type Value = Vec<Cow<'static, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("merge rules")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Self::Value, A::Error> {
        let mut merges: Vec<Cow<'static, str>> = Vec::new();
        while let Some(merge) = list.next_element()? {
            if merges.len() == self.most {
                return Err(A::Error::custom(format_args!("more than {} merge rules", self.most)));
            }
            merges.push(match merge {
                Merge::Joined(text) => text.into(),
                Merge::Pair([left, right]) => format!("{left} {right}").into(),
            });
        }
        Ok(merges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Specials, Tokenizer};

    const QWEN: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
        r"|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    );

    fn file(regex: &str, vocab: &str, added: &str, merges: &str) -> String {
        let pattern = format!(r#"{{"type":"Split","pattern":{{"Regex":"{regex}"}},"behavior":"Isolated"}}"#);
        let bytes = r#"{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}"#;
        format!(
            r#"{{"added_tokens":[{added}],"normalizer":{{"type":"NFC"}},
            "pre_tokenizer":{{"type":"Sequence","pretokenizers":[{pattern},{bytes}]}},
            "post_processor":null,"model":{{"type":"BPE","vocab":{{{vocab}}},"merges":[{merges}]}}}}"#
        )
    }

    fn small(added: &str) -> String {
        file(QWEN, r#""a":0,"b":1,"ab":2"#, added, r#"["a","b"]"#)
    }

    #[test]
    fn texts_get_the_ids_of_the_file() {
        let added = r#"{"id":5,"content":"<|end|>","special":true},{"id":4,"content":"<t>","special":false}"#;
        let spec = VocabularySpec::from_tokenizer_json(small(added).as_bytes()).unwrap();
        assert_eq!(spec.token_types, [1, 1, 1, 5, 4, 3]);
        let tokenizer = Tokenizer::new(spec).unwrap();
        assert_eq!(tokenizer.encode("aab<t>", Specials::AsText).unwrap(), [0, 2, 4]);
        assert_eq!(tokenizer.encode("ab<|end|>", Specials::Parse).unwrap(), [2, 5]);
        assert!(!tokenizer.encode("<|end|>", Specials::AsText).unwrap().contains(&5));
        assert!(tokenizer.is_control(5) && !tokenizer.add_bos());
        // Where the embedding has fewer rows.
        for (rows, kept) in [(6, 6), (5, 5), (4, 4), (2, 3)] {
            let mut spec = VocabularySpec::from_tokenizer_json(small(added).as_bytes()).unwrap();
            spec.leave_out_added(rows);
            assert_eq!((spec.tokens.len(), spec.token_types.len()), (kept, kept));
        }
    }

    #[test]
    fn what_can_not_be_trusted_is_refused() {
        let error =
            |json: String| VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap_err().to_string();
        let backtracking = error(file("(a+)+$", r#""a":0"#, "", ""));
        assert!(backtracking.contains("(a+)+$"), "{backtracking}");
        let high = error(small(r#"{"id":4294967295,"content":"x"}"#));
        assert!(high.contains("4294967295"), "{high}");
        let other = error(small(r#"{"id":1,"content":"x"}"#));
        assert!(other.contains("id 1"), "{other}");
        let twice = error(file(QWEN, r#""a":0,"b":0"#, "", ""));
        assert!(twice.contains("id 0"), "{twice}");
        let prefix = small("").replace("\"NFC\"", "\"Replace\"");
        assert!(error(prefix).contains("Replace"));
        assert!(error("{".into()).contains("tokenizer.json"));
        let deep = format!(
            "{{\"normalizer\":{}{{}}{}}}",
            "{\"normalizers\":[".repeat(100_000),
            "]}".repeat(100_000)
        );
        assert!(error(deep).contains("recursion"));
        let long = small("").replace(
            "\"post_processor\":null",
            &format!("\"post_processor\":{{\"processors\":[{}{{}}]}}", "{},".repeat(20_000)),
        );
        assert!(error(long).contains("16 steps"));
        let rules =
            |count: usize| file(QWEN, r#""a":0,"b":1,"ab":2"#, "", &vec![r#"["a","b"]"#; count].join(","));
        VocabularySpec::from_tokenizer_json(rules(24).as_bytes()).unwrap();
        assert!(error(rules(25)).contains("more than 24 merge rules"));
    }
}
