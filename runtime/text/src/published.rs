//! `tokenizer.json` as models are published with it, made a [`VocabularySpec`].
//!
//! The pre-tokenizer must be one that is known here, whatever it is called: regular expressions of strangers are compared, not
//! run, since one that backtracks would take minutes for a line of text.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::{Result, TextError, shown};
use crate::limits::{MAX_ADDED_TOKENS, MAX_MERGES, MAX_TOKENS};
use crate::pretokenize;
use crate::vocabulary::{RANKED, SPACE, VocabularySpec, byte_token};

/// Types of tokens, as [`VocabularySpec::token_types`] has them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
/// Steps of a pre-tokenizer; public ones have up to four.
const MAX_STEPS: usize = 16;
/// Elements of a description of steps; the longest published ones have some hundreds (a list of millions of zeros).
const MAX_DESCRIPTION_ELEMENTS: usize = 10_000;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Description,
    #[serde(default)]
    pre_tokenizer: Description,
    #[serde(default)]
    post_processor: Description,
    model: Model,
}

/// What a step is described by: some JSON, of a size that such descriptions have.
#[derive(Default)]
struct Description(Value);

impl<'de> Deserialize<'de> for Description {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        let left = Cell::new(MAX_DESCRIPTION_ELEMENTS);
        Few { left: &left }.deserialize(json).map(Self)
    }
}

/// Makes a value of at most `left` elements.
#[derive(Clone, Copy)]
struct Few<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Few<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            let text = format_args!("a step has more than {MAX_DESCRIPTION_ELEMENTS} elements");
            return Err(Error::custom(text));
        };
        self.left.set(left);
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Few<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step of a tokenizer")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Value, A::Error> {
        let mut values = serde_json::Map::new();
        while let Some(key) = object.next_key::<String>()? {
            values.insert(key, object.next_value_seed(self)?);
        }
        Ok(Value::Object(values))
    }
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Vocab,
    merges: Merges,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
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
        if file.model.byte_fallback { spelled(file) } else { byte_level(file) }
    }

    /// Leaves out added tokens from this id on, such as that of an image in a model without images: nothing may make a token
    /// of a text that the model has no row for. Tokens that merges make stay, and so do all of a byte-level vocabulary: no published
    /// one has more than rows, and its reader is to be told.
    pub fn leave_out_added(&mut self, first: usize) {
        if self.model != RANKED {
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
    steps(&file.pre_tokenizer.0, "pretokenizers", &mut |step| {
        cuts.push(cut(step)?);
        Ok(())
    })?;
    let mut nfc = false;
    steps(&file.normalizer.0, "normalizers", &mut |step| match kind_of(step) {
        "NFC" => {
            nfc = true;
            Ok(())
        }
        other => Err(broken(format!("its normalizer {} is not known here", shown(other)))),
    })?;
    let pre = pretokenize::name_of(&cuts).ok_or_else(|| TextError::PreTokenizer {
        found: format!("{cuts:?}").chars().take(200).collect(),
        supported: pretokenize::all_names(),
    })?;
    let Model { vocab, merges, ignore_merges, .. } = file.model;
    let (tokens, token_types) = by_id(vocab.0, file.added_tokens)?;
    Ok(VocabularySpec {
        model: "gpt2".into(),
        pre: pre.into(),
        nfc: Some(nfc),
        ignore_merges: Some(ignore_merges),
        tokens,
        token_types,
        merges: merges.0,
        add_bos: Some(puts_a_token_first(&file.post_processor.0)),
        ..VocabularySpec::default()
    })
}

/// What was a model of SentencePiece: spaces are characters, there are no words, and what no token covers is bytes.
fn spelled(file: File) -> Result<VocabularySpec<'static>> {
    let text = |step: &Value, key: &str| step.get(key).and_then(Value::as_str).map(str::to_owned);
    let of_spaces = |step: &Value| step.get("pattern").and_then(|pattern| text(pattern, "String"));
    let mut spaces = false;
    steps(&file.normalizer.0, "normalizers", &mut |step| {
        let content = text(step, "content").unwrap_or_default();
        spaces = kind_of(step) == "Replace"
            && of_spaces(step).as_deref() == Some(" ")
            && content.chars().eq([SPACE])
            && !spaces;
        match (spaces, kind_of(step)) {
            (true, _) => Ok(()),
            (_, "Prepend") => Err(TextError::SpacePrefix),
            (_, other) => Err(broken(format!("its normalizer {} is not known here", shown(other)))),
        }
    })?;
    if !spaces {
        return Err(broken("its normalizer does not replace spaces, as one with byte_fallback does".into()));
    }
    // There are no spaces any more, so that this one cuts nothing.
    steps(&file.pre_tokenizer.0, "pretokenizers", &mut |step| match kind_of(step) == "Split"
        && of_spaces(step).as_deref() == Some(" ")
    {
        true => Ok(()),
        false => Err(broken(format!("its pre-tokenizer's step {} is not known here", shown(kind_of(step))))),
    })?;
    let Model { vocab, merges, .. } = file.model;
    // Runs of spaces are made by merges: the text that they are looked for in has no such characters before.
    let added = file.added_tokens.into_iter().filter(|token| token.special || !token.content.contains(SPACE));
    let (tokens, mut token_types) = by_id(vocab.0, added.collect())?;
    for (kind, text) in token_types.iter_mut().zip(&tokens) {
        if *kind == NORMAL && byte_token(text).is_some() {
            *kind = BYTE;
        }
    }
    Ok(VocabularySpec {
        model: RANKED.into(),
        tokens,
        token_types,
        merges: merges.0,
        add_bos: Some(puts_a_token_first(&file.post_processor.0)),
        ..VocabularySpec::default()
    })
}

fn broken(rule: String) -> TextError {
    TextError::Json(rule.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

fn kind_of(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("")
}

/// Calls `each` with a step, or with each of a sequence.
fn steps(step: &Value, list: &str, each: &mut dyn FnMut(&Value) -> Result<()>) -> Result<()> {
    if step.is_null() {
        return Ok(());
    }
    if kind_of(step) != "Sequence" {
        return each(step);
    }
    let inner = step.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if inner.len() > MAX_STEPS {
        return Err(broken(format!("it has {} {list}, and {MAX_STEPS} are accepted", inner.len())));
    }
    inner.iter().try_for_each(each)
}

/// One step of a pre-tokenizer, in the words of [`pretokenize::name_of`].
fn cut(step: &Value) -> Result<pretokenize::Step> {
    let is = |key: &str, wanted: bool| step.get(key).and_then(Value::as_bool).unwrap_or(false) == wanted;
    Ok(match kind_of(step) {
        "Split"
            if step.get("behavior").and_then(Value::as_str) == Some("Isolated") && is("invert", false) =>
        {
            let regex = step.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
            let regex = regex.ok_or_else(|| broken("a Split of its pre-tokenizer has no Regex".into()))?;
            pretokenize::Step::Regex(regex.replace('\r', r"\r").replace('\n', r"\n"))
        }
        "Digits" if is("individual_digits", true) => pretokenize::Step::Digits,
        "ByteLevel" if is("add_prefix_space", false) => {
            // The library's own default is to cut as GPT-2 does.
            let cuts = step.get("use_regex").and_then(Value::as_bool).unwrap_or(true);
            if cuts { pretokenize::Step::Gpt2 } else { pretokenize::Step::Bytes }
        }
        other => return Err(broken(format!("its pre-tokenizer's step {} is not known here", shown(other)))),
    })
}

/// Whether the post-processor puts a special token before a text.
fn puts_a_token_first(processor: &Value) -> bool {
    if let Some(inner) = processor.get("processors").and_then(Value::as_array) {
        return inner.iter().any(puts_a_token_first);
    }
    let single = processor.get("single").and_then(Value::as_array);
    single.and_then(|single| single.first()).is_some_and(|first| first.get("SpecialToken").is_some())
}

/// Texts and types of all tokens by their id. Ids that no token has are unused.
fn by_id(vocab: Vec<(String, u32)>, added: Vec<AddedToken>) -> Result<(Vec<Cow<'static, str>>, Vec<i32>)> {
    if added.len() > MAX_ADDED_TOKENS {
        return Err(broken(format!(
            "it has {} added tokens, and {MAX_ADDED_TOKENS} are accepted",
            added.len()
        )));
    }
    let ids = vocab.iter().map(|(_, id)| *id).chain(added.iter().map(|token| token.id));
    let count = ids.max().map_or(0, |id| id as usize + 1);
    if count > MAX_TOKENS {
        return Err(broken(format!(
            "a token has the id {}, and {MAX_TOKENS} tokens are accepted",
            count - 1
        )));
    }
    let mut texts: Vec<Cow<'static, str>> = vec![Cow::Borrowed(""); count];
    let mut types = vec![UNUSED; count];
    let twice = |id: u32| broken(format!("two tokens have the id {id}"));
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

/// Merge rules: two tokens with a space between them.
struct Merges(Vec<Cow<'static, str>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair([String; 2]),
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        struct Rules;
        impl<'de> Visitor<'de> for Rules {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("merge rules")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Merges, A::Error> {
                let mut merges: Vec<Cow<'static, str>> = Vec::new();
                while let Some(merge) = list.next_element()? {
                    if merges.len() == MAX_MERGES {
                        return Err(A::Error::custom(format_args!("more than {MAX_MERGES} merge rules")));
                    }
                    merges.push(match merge {
                        Merge::Joined(text) => text.into(),
                        Merge::Pair([left, right]) => format!("{left} {right}").into(),
                    });
                }
                Ok(Merges(merges))
            }
        }
        json.deserialize_seq(Rules)
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
    }

    /// A vocabulary of all bytes, a few characters and what the rules make of them.
    fn fallback(normalizer: &str, added: &str) -> String {
        let mut vocab: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        vocab.extend(["a", "b", "\u{2581}", "ab", "\u{2581}a", "\u{2581}\u{2581}", "\\n"].map(str::to_owned));
        let vocab: Vec<String> =
            vocab.iter().enumerate().map(|(id, text)| format!("\"{text}\":{id}")).collect();
        let rules = r#"["\u2581","\u2581"],["a","b"],["\u2581","a"]"#;
        format!(
            r#"{{"added_tokens":[{added}],"normalizer":{normalizer},
            "pre_tokenizer":{{"type":"Split","pattern":{{"String":" "}},"behavior":"MergedWithPrevious"}},
            "post_processor":{{"type":"TemplateProcessing","single":[{{"SpecialToken":{{"id":"<bos>"}}}}]}},
            "model":{{"type":"BPE","byte_fallback":true,"vocab":{{{}}},"merges":[{rules}]}}}}"#,
            vocab.join(",")
        )
    }

    const SPACES: &str = r#"{"type":"Replace","pattern":{"String":" "},"content":"\u2581"}"#;

    #[test]
    fn sentencepiece_in_a_tokenizer_json_merges_by_rank() {
        let added = r#"{"id":263,"content":"<bos>","special":true},{"id":264,"content":"\n\n","special":false},
            {"id":261,"content":"\u2581\u2581","special":false},{"id":270,"content":"<image>","special":true}"#;
        let spec = VocabularySpec::from_tokenizer_json(fallback(SPACES, added).as_bytes()).unwrap();
        let tokenizer = Tokenizer::new(spec).unwrap();
        let encode = |text: &str| tokenizer.encode(text, Specials::AsText).unwrap();
        // The pair of spaces comes first, then ab, so that no space is left for an a.
        assert_eq!(encode("a  ab b a"), [256, 261, 259, 258, 257, 260]);
        assert_eq!(encode("\n\n\n"), [264, 262]);
        assert_eq!(encode("\u{e4}<0x41>")[..3], [0xC3, 0xA4, 0x3C]);
        assert_eq!(tokenizer.decode(&[256, 261, 259, 260, 0xC3, 0xA4], false), "a  ab a\u{e4}");
        let long = "a b\u{e4}  ab ".repeat(5000);
        assert_eq!(tokenizer.decode(&encode(&long), false), long);
        let mut spec = VocabularySpec::from_tokenizer_json(fallback(SPACES, added).as_bytes()).unwrap();
        spec.leave_out_added(265);
        assert_eq!((spec.tokens.len(), spec.token_types.len()), (265, 265));
        spec.leave_out_added(4);
        assert_eq!(spec.tokens.len(), 263);
    }

    #[test]
    fn other_spellings_are_refused() {
        let error =
            |json: String| VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error(fallback("null", "")).contains("spaces"));
        let prepended = format!(r#"{{"type":"Sequence","normalizers":[{{"type":"Prepend"}},{SPACES}]}}"#);
        assert!(error(fallback(&prepended, "")).contains("space"));
        assert!(error(fallback(&SPACES.replace("2581", "2582"), "")).contains("Replace"));
        let cut = fallback(SPACES, "").replace("\"Split\"", "\"Whitespace\"");
        assert!(error(cut).contains("Whitespace"));
        let json = fallback(SPACES, "").replace("<0x41>", "<0xZZ>");
        let spec = VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap();
        assert!(Tokenizer::new(spec).unwrap_err().to_string().contains("<0x41>"));
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
        let deep = format!("{{\"normalizer\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(error(deep).contains("recursion"));
        let long = small("")
            .replace("\"post_processor\":null", &format!("\"post_processor\":[{}0]", "0,".repeat(20_000)));
        assert!(error(long).contains("elements"));
    }
}
