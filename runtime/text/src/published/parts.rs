//! A tokenizer in parts, as some models are published: `vocab.json`, `merges.txt`, `tokenizer_config.json`. How a text is cut stands in
//! none of them, but in the code of transformers for the class of the tokenizer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::{AddedToken, Vocab, broken_in, by_id, most_merges};
use crate::error::{Result, TextError, shown};
use crate::vocabulary::VocabularySpec;

const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";

/// Classes, and how they cut a text by the name that GGUF files have for it.
const CLASSES: [(&str, &str); 2] = [("Qwen2Tokenizer", "qwen2"), ("Qwen2TokenizerFast", "qwen2")];

/// What is looked at of a `tokenizer_config.json`.
#[derive(Deserialize)]
pub(super) struct Config {
    pub tokenizer_class: Option<String>,
    add_prefix_space: Option<bool>,
    /// Added tokens by their ids.
    added_tokens_decoder: Option<BTreeMap<u32, Added>>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
}

impl Config {
    /// The document.
    pub fn read(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|error| broken_in(CONFIG, &error.to_string()))
    }
}

/// The added tokens. Older folders have them elsewhere, and without all of what is needed: control tokens would be taken for text.
pub(super) fn added_tokens(config: Config) -> Result<Vec<AddedToken>> {
    let added = config.added_tokens_decoder.ok_or_else(|| {
        let rule = "it has no `added_tokens_decoder`: have transformers write the `tokenizer.json` (`AutoTokenizer`, `save_pretrained`)";
        broken_in(CONFIG, rule)
    })?;
    let added = added.into_iter();
    Ok(added.map(|(id, Added { content, special })| AddedToken { id, content, special }).collect())
}

/// The vocabulary in these documents.
pub(super) fn spec(vocab: &[u8], merges: &[u8], config: &[u8]) -> Result<VocabularySpec<'static>> {
    let config = Config::read(config)?;
    let class = config.tokenizer_class.as_deref().unwrap_or("");
    let known = CLASSES.iter().find(|(name, _)| *name == class && config.add_prefix_space != Some(true));
    let Some((_, pre)) = known else {
        return Err(TextError::TokenizerClass {
            found: shown(class),
            supported: CLASSES.map(|(name, _)| name).join(", "),
        });
    };
    let added = added_tokens(config)?;
    let Vocab(vocab) = serde_json::from_slice(vocab).map_err(|error| broken_in(VOCAB, &error.to_string()))?;
    let merges = rules(merges, most_merges(vocab.len()))?;
    let (tokens, token_types) = by_id("vocab.json and tokenizer_config.json", vocab, added)?;
    Ok(VocabularySpec {
        model: "gpt2".into(),
        pre: (*pre).into(),
        tokens,
        token_types,
        merges,
        ..VocabularySpec::default()
    })
}

/// The rules of a `merges.txt`, at most so many.
fn rules(merges: &[u8], most: usize) -> Result<Vec<Cow<'static, str>>> {
    let text = std::str::from_utf8(merges).map_err(|error| broken_in(MERGES, &error.to_string()))?;
    let mut rules = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        if rules.len() == most {
            return Err(broken_in(MERGES, &format!("it has more than {most} merge rules")));
        }
        let mut tokens = line.split_whitespace();
        let (Some(left), Some(right), None) = (tokens.next(), tokens.next(), tokens.next()) else {
            let rule = format!("line {}, {}, is not two tokens", number + 1, shown(line));
            return Err(broken_in(MERGES, &rule));
        };
        rules.push(format!("{left} {right}").into());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Specials, Tokenizer};

    const TOLD: &str = r#"{"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {
        "4": {"content": "<|end|>", "special": true}, "5": {"content": "<t>", "lstrip": false}}}"#;
    const TOKENS: &str = r#"{"a": 0, "b": 1, "ab": 2, "Ġ": 3}"#;
    const RULES: &str = "#version: 0.2\na b\n\n";

    fn made(vocab: &str, merges: &str, config: &str) -> Result<VocabularySpec<'static>> {
        VocabularySpec::from_parts(vocab.as_bytes(), merges.as_bytes(), config.as_bytes())
    }

    #[test]
    fn parts_make_a_tokenizer() {
        let spec = made(TOKENS, RULES, TOLD).unwrap();
        assert_eq!((spec.pre.as_str(), &spec.token_types[..]), ("qwen2", &[1, 1, 1, 1, 3, 4][..]));
        let tokenizer = Tokenizer::new(spec).unwrap();
        assert_eq!(tokenizer.encode("ab<t> ab", Specials::AsText).unwrap(), [2, 5, 3, 2]);
        assert_eq!(tokenizer.encode("b<|end|>", Specials::Parse).unwrap(), [1, 4]);
        assert!(tokenizer.is_control(4) && !tokenizer.add_bos());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error =
            |vocab: &str, merges: &str, config: &str| made(vocab, merges, config).unwrap_err().to_string();
        for (found, wanted) in [
            (error("[]", RULES, TOLD), "vocab.json"),
            (error(TOKENS, "a b\na b c", TOLD), "merges.txt: line 2, \"a b c\","),
            (error(TOKENS, "a", TOLD), "line 1"),
            (error(TOKENS, &"a b\n".repeat(40), TOLD), "32 merge rules"),
            (error(TOKENS, RULES, "{"), "tokenizer_config.json"),
            (error(TOKENS, RULES, "{}"), "Qwen2TokenizerFast"),
            (error(TOKENS, RULES, r#"{"tokenizer_class": "Qwen2Tokenizer"}"#), "added_tokens_decoder"),
            (
                error(TOKENS, RULES, &TOLD.replacen('{', "{\"add_prefix_space\": true, ", 1)),
                "add_prefix_space",
            ),
            (error(TOKENS, RULES, &TOLD.replace("Qwen2", "GPT2")), "GPT2Tokenizer"),
            (error(TOKENS, RULES, &TOLD.replace("\"4\"", "\"1\"")), "id 1"),
            (error(TOKENS, RULES, &TOLD.replace("\"4\"", "\"4000000000\"")), "4000000000"),
        ] {
            assert!(found.contains(wanted), "{found}");
        }
        let merges = VocabularySpec::from_parts(TOKENS.as_bytes(), &[b'a', 0xFF], TOLD.as_bytes());
        assert!(merges.unwrap_err().to_string().contains("merges.txt"));
    }
}
