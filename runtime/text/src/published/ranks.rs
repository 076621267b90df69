//! A tokenizer as Kimi K2 is published: `tiktoken.model`, the bytes of each token in base64 with its rank, and
//! `tokenizer_config.json`. How a text is cut stands in code beside them, by the class of the tokenizer.

use ahash::AHashMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::parts::{Config, added_tokens};
use super::{broken_in, by_id, most_merges};
use crate::error::{Result, TextError, shown};
use crate::limits::{MAX_RANKED_BYTES, MAX_TOKENS};
use crate::vocabulary::{Alphabet, VocabularySpec};

const FILE: &str = "tiktoken.model";
/// Classes, and how they cut a text by the name that GGUF files have for it.
const CLASSES: [(&str, &str); 1] = [("TikTokenTokenizer", "kimi-k2")];

/// The vocabulary in these documents. Of two neighbours that make a token those are merged first whose token has the lowest rank, and
/// a word that is a token is that token.
pub(super) fn spec(ranks: &[u8], config: &[u8]) -> Result<VocabularySpec<'static>> {
    let config = Config::read(config)?;
    let class = config.tokenizer_class.as_deref().unwrap_or("");
    let known = CLASSES.iter().find(|(name, _)| *name == class);
    let Some((_, pre)) = known else {
        return Err(TextError::TokenizerClass {
            found: shown(class),
            supported: CLASSES.map(|(name, _)| name).join(", "),
        });
    };
    let added = added_tokens(config)?;
    let tokens = tokens(ranks)?;
    let merges = merges(&tokens)?;
    let alphabet = Alphabet::new();
    let spelled = tokens.iter().map(|(bytes, rank)| (alphabet.encode(bytes), *rank)).collect();
    let (tokens, token_types) = by_id("tiktoken.model and tokenizer_config.json", spelled, added)?;
    Ok(VocabularySpec {
        model: "gpt2".into(),
        pre: (*pre).into(),
        ignore_merges: Some(true),
        tokens,
        token_types,
        merges: merges
            .into_iter()
            .map(|(left, right)| format!("{} {}", alphabet.encode(left), alphabet.encode(right)).into())
            .collect(),
        ..VocabularySpec::default()
    })
}

/// The bytes of each token, and its rank.
fn tokens(ranks: &[u8]) -> Result<Vec<(Vec<u8>, u32)>> {
    let mut tokens = Vec::new();
    for (number, line) in ranks.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let broken = |rule: &str| {
            let line = shown(&String::from_utf8_lossy(&line[..line.len().min(64)]));
            broken_in(FILE, &format!("line {}, {line}, {rule}", number + 1))
        };
        if tokens.len() == MAX_TOKENS {
            return Err(broken_in(FILE, &format!("it has more than {MAX_TOKENS} tokens")));
        }
        let mut words = line.split(|&byte| byte == b' ');
        let (Some(token), Some(rank), None) = (words.next(), words.next(), words.next()) else {
            return Err(broken("is not a token and its rank"));
        };
        if token.len() > MAX_RANKED_BYTES.div_ceil(3) * 4 {
            return Err(broken(&format!("has more than the {MAX_RANKED_BYTES} bytes that a token may have")));
        }
        let bytes = STANDARD.decode(token).ok().filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| broken("has a token that is not in base64"))?;
        let rank = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse().ok());
        let rank = rank.ok_or_else(|| broken("has a rank that is no integer from 0 to 4294967295"))?;
        tokens.push((bytes, rank));
    }
    tokens.sort_unstable_by_key(|(_, rank)| *rank);
    Ok(tokens)
}

/// All pairs of tokens that make a token, those of the lowest rank first.
fn merges(tokens: &[(Vec<u8>, u32)]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut ranks = AHashMap::with_capacity(tokens.len());
    for (bytes, rank) in tokens {
        if let Some(first) = ranks.insert(&bytes[..], *rank) {
            return Err(broken_in(FILE, &format!("the tokens of ranks {first} and {rank} are the same")));
        }
    }
    let most = most_merges(tokens.len());
    let mut merges = Vec::new();
    for (bytes, _) in tokens {
        let first = merges.len();
        let halves = (1..bytes.len()).map(|at| bytes.split_at(at));
        merges.extend(halves.filter(|(left, right)| ranks.contains_key(left) && ranks.contains_key(right)));
        merges[first..].sort_by_key(|(left, right)| (ranks.get(left), ranks.get(right)));
        if merges.len() > most {
            return Err(broken_in(FILE, &format!("more than {most} pairs of its tokens make a token")));
        }
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Specials, Tokenizer};

    const CONFIG: &str = r#"{"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": {
        "260": {"content": "[BOS]", "special": true}, "263": {"content": "<think>", "special": false}}}"#;

    /// All bytes, then `ab`, `bc`, `abc` and ` a`.
    fn file() -> String {
        let tokens = (0..=255_u8).map(|byte| vec![byte]);
        let tokens = tokens.chain([&b"ab"[..], b"bc", b"abc", b" a"].map(<[u8]>::to_vec));
        tokens.enumerate().map(|(rank, token)| format!("{} {rank}\n", STANDARD.encode(&token))).collect()
    }

    fn made(ranks: &str, config: &str) -> Result<VocabularySpec<'static>> {
        VocabularySpec::from_ranks(ranks.as_bytes(), config.as_bytes())
    }

    #[test]
    fn pairs_are_merged_by_the_rank_of_what_they_make() {
        let spec = made(&file(), CONFIG).unwrap();
        assert_eq!((spec.pre.as_str(), spec.tokens.len()), ("kimi-k2", 264));
        assert_eq!(&spec.token_types[259..], [1, 3, 5, 5, 4]);
        let merges: Vec<&str> = spec.merges.iter().map(|merge| &**merge).collect();
        assert_eq!(merges, ["a b", "b c", "a bc", "ab c", "Ġ a"]);
        let tokenizer = Tokenizer::new(spec).unwrap();
        let encode = |text: &str| tokenizer.encode(text, Specials::Parse).unwrap();
        assert_eq!(encode("abc"), [258]);
        assert_eq!(encode("babc bc"), [98, 258, 32, 257]);
        assert_eq!(encode("[BOS] ab<think>\u{e4}"), [260, 32, 256, 263, 0xC3, 0xA4]);
        assert!(tokenizer.is_control(260) && !tokenizer.is_control(263) && !tokenizer.add_bos());
        assert_eq!(tokenizer.decode(&[98, 258, 32, 257], false), "babc bc");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |ranks: &str, config: &str| made(ranks, config).unwrap_err().to_string();
        for (ranks, wanted) in [
            ("YQ== 0\nYQ==", "tiktoken.model: line 2, \"YQ==\","),
            ("YQ== 0 1", "line 1"),
            ("YQ== -1", "rank"),
            ("YQ== 4294967296", "rank"),
            ("YQ=a 0", "base64"),
            ("YQ 0", "base64"),
            ("Y=== 0", "base64"),
            (" 0", "line 1"),
            ("YQ== 0\nYQ== 1", "ranks 0 and 1 are the same"),
            ("YQ== 0\nYg== 0", "id 0"),
            ("YQ== 4000000000", "4000000000"),
            ("YQ== 260", "id 260"),
        ] {
            let found = error(ranks, CONFIG);
            assert!(found.contains(wanted), "{ranks:?}: {found}");
        }
        let long = format!("{} 0", "YWFh".repeat(1000));
        assert!(error(&long, CONFIG).contains("256 bytes"));
        let chain: String = (1..=60).map(|n| format!("{} {n}\n", "YWFh".repeat(n))).collect();
        assert!(error(&chain, CONFIG).contains("pairs of its tokens"));
        assert!(error(&file(), "{}").contains("TikTokenTokenizer"));
        assert!(
            error(&file(), r#"{"tokenizer_class": "TikTokenTokenizer"}"#).contains("added_tokens_decoder")
        );
    }
}
