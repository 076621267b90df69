//! SentencePiece vocabularies: merges by score, bytes for what no token covers, and what is refused.

#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::HashMap;

use membrane_text::{SpacePrefix, Specials, TextError, Tokenizer, VocabularySpec};
use proptest::prelude::*;

/// Tokens beside those of bytes, with scores, better ones first; types as in a GGUF file.
const TOKENS: [(&str, f32, i32); 26] = [
    ("<pad>", 0.0, 3),
    ("<eos>", 0.0, 3),
    ("<bos>", 0.0, 3),
    ("<end_of_turn>", 0.0, 3),
    ("\n\n", 0.0, 4),
    ("  ", 0.0, 4),
    ("▁t", -1.0, 1),
    ("he", -2.0, 1),
    ("in", -3.0, 1),
    ("▁the", -4.0, 1),
    ("th", -4.5, 1),
    ("the", -5.0, 1),
    ("▁a", -6.0, 1),
    (">▁<", -6.5, 1),
    ("aa", -7.0, 1),
    ("aaa", -7.0, 1),
    ("▁", -20.0, 1),
    ("t", -21.0, 1),
    ("h", -22.0, 1),
    ("e", -23.0, 1),
    ("i", -24.0, 1),
    ("n", -25.0, 1),
    ("a", -26.0, 1),
    ("<", -27.0, 1),
    (">", -28.0, 1),
    ("é", -29.0, 1),
];

fn spec() -> VocabularySpec<'static> {
    let bytes = (0..=255_u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
    let tokens = TOKENS.into_iter().map(|(text, score, kind)| (text.to_owned(), score, kind));
    let all: Vec<(String, f32, i32)> = tokens.chain(bytes).collect();
    VocabularySpec {
        model: "llama".into(),
        pre: "default".into(),
        tokens: all.iter().map(|(text, _, _)| Cow::Owned(text.clone())).collect(),
        token_types: all.iter().map(|(_, _, kind)| *kind).collect(),
        scores: all.iter().map(|(_, score, _)| *score).collect(),
        bos: Some(2),
        eos: Some(1),
        space_prefix: Some(SpacePrefix::Nowhere),
        ..VocabularySpec::default()
    }
}

fn id(text: &str) -> u32 {
    TOKENS.iter().position(|token| token.0 == text).unwrap() as u32
}

fn byte(byte: u8) -> u32 {
    TOKENS.len() as u32 + u32::from(byte)
}

/// Merges the best pair, the leftmost of equally good ones, over and over.
fn by_definition(text: &str) -> Vec<u32> {
    let known: HashMap<&str, (u32, f32)> = (0..)
        .zip(TOKENS)
        .filter(|(_, token)| token.2 == 1)
        .map(|(id, (text, score, _))| (text, (id, score)))
        .collect();
    let mut parts: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let score = |at: usize| known.get(&*format!("{}{}", parts[at], parts[at + 1])).map(|token| token.1);
        let mut best: Option<(usize, f32)> = None;
        for at in 0..parts.len().saturating_sub(1) {
            if let Some(score) = score(at).filter(|score| best.is_none_or(|best| *score > best.1)) {
                best = Some((at, score));
            }
        }
        let Some((at, _)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at] += &right;
    }
    let ids = parts.iter().flat_map(|part| match known.get(part.as_str()) {
        Some(&(id, _)) => vec![id],
        None => part.bytes().map(byte).collect(),
    });
    ids.collect()
}

#[test]
fn the_best_tokens_are_made_first() {
    let tokenizer = Tokenizer::new(spec()).unwrap();
    let encode = |text: &str| tokenizer.encode(text, Specials::AsText).unwrap();
    assert_eq!(encode("the the"), [id("the"), id("▁the")]);
    assert_eq!(encode("aaaa"), [id("aaa"), id("a")]);
    assert_eq!(encode("né"), [id("n"), id("é")]);
    assert_eq!(encode("ü"), [byte(0xC3), byte(0xBC)]);
    assert_eq!(encode("a > <"), [id("a"), id("▁"), id(">"), id("▁"), id("<")]);
    assert_eq!(encode("a\n\na  a"), [id("a"), id("\n\n"), id("a"), id("  "), id("a")]);
    for text in ["the in  a\n\n\nü💧", "", " ", "   ", "▁", "<0x41>"] {
        let tokens = encode(text);
        // The vocabulary writes U+2581 for a space, so that one can't be told from the other.
        assert_eq!(tokenizer.decode(&tokens, false), text.replace('▁', " "), "{text:?}");
        let behind = tokenizer.encode_continuation(text).unwrap();
        assert_eq!(tokenizer.decode(&behind, false), text, "{text:?}");
    }
}

#[test]
fn a_space_is_put_before_whole_texts_and_no_others() {
    for told in [None, Some(SpacePrefix::Parts)] {
        let tokenizer = Tokenizer::new(VocabularySpec { space_prefix: told, ..spec() }).unwrap();
        let whole = |text: &str| tokenizer.encode(text, Specials::Parse).unwrap();
        assert_eq!(whole("the the"), [id("▁the"), id("▁the")]);
        assert_eq!(whole(" the"), [id("▁"), id("▁the")]);
        assert_eq!(whole("<bos>the<eos> the"), [id("<bos>"), id("▁the"), id("<eos>"), id("▁"), id("▁the")]);
        assert_eq!(whole("the\n\nthe"), [id("▁the"), id("\n\n"), id("▁the")]);
        assert_eq!((whole(""), whole("<bos>")), (vec![], vec![id("<bos>")]));
        assert_eq!(tokenizer.begin("the").unwrap(), [id("<bos>"), id("▁the")]);
        assert_eq!(tokenizer.begin("").unwrap(), [id("<bos>")]);
        let behind = |text: &str| tokenizer.encode_continuation(text).unwrap();
        assert_eq!(behind("the\n\nthe"), [id("the"), id("\n\n"), id("the")]);
        assert_eq!(behind(" the"), [id("▁the")]);
        assert!(behind("<bos>").iter().all(|&token| !tokenizer.is_control(token)));
        // The space goes where it was put, and there only.
        assert_eq!(tokenizer.decode_whole(&[id("▁the"), id("▁the")]), "the the");
        assert_eq!(tokenizer.decode_whole(&[id("<bos>"), id("▁"), id("▁the")]), "<bos> the");
        assert_eq!(tokenizer.decode_whole(&[id("the"), id("▁the")]), "the the");
        assert_eq!(tokenizer.decode(&[id("▁the"), id("▁the")], false), " the the");
    }
    let without = Tokenizer::new(spec()).unwrap();
    assert_eq!(without.decode_whole(&[id("▁the")]), " the");
    assert_eq!(without.begin("the").unwrap(), [id("<bos>"), id("the")]);
}

#[test]
fn control_tokens_are_text_unless_parsed_and_bytes_are_never_names() {
    let tokenizer = Tokenizer::new(spec()).unwrap();
    let plain = tokenizer.encode("<bos>a<end_of_turn>", Specials::AsText).unwrap();
    assert!(plain.iter().all(|&token| !tokenizer.is_control(token)));
    let parsed = tokenizer.encode("<bos>a<end_of_turn>", Specials::Parse).unwrap();
    assert_eq!(parsed, [id("<bos>"), id("a"), id("<end_of_turn>")]);
    assert_eq!(tokenizer.end_tokens(), [id("<eos>"), id("<end_of_turn>")]);
    assert!(tokenizer.add_bos() && !tokenizer.add_eos());
    assert_eq!(tokenizer.token_bytes(byte(b'A')).unwrap(), b"A");
}

#[test]
fn long_texts_are_cut_where_it_does_not_show() {
    let tokenizer = Tokenizer::new(spec()).unwrap();
    let part = "the in a > < ü the  aaaa > <the ";
    let long = part.repeat((300 << 10) / part.len());
    let tokens = tokenizer.encode(&long, Specials::AsText).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false), long);
    // The parts of a text that is repeated give the same each time but for its beginning and end.
    let short = tokenizer.encode(&part.repeat(3), Specials::AsText).unwrap();
    let (one, two) = (tokenizer.encode(part, Specials::AsText).unwrap().len(), short.len());
    assert_eq!(tokens.len(), one + (long.len() / part.len() - 1) * ((two - one) / 2));
    for unit in ["a", "é", " ", "th"] {
        let text = unit.repeat((500 << 10) / unit.len());
        let tokens = tokenizer.encode(&text, Specials::AsText).unwrap();
        assert_eq!(tokenizer.decode(&tokens, false), text, "{unit:?}");
    }
}

#[test]
fn what_can_not_be_used_is_refused() {
    let error = |change: fn(&mut VocabularySpec<'static>)| {
        let mut spec = spec();
        change(&mut spec);
        Tokenizer::new(spec).expect_err("the vocabulary is refused")
    };
    assert!(error(|spec| spec.scores.clear()).to_string().contains("tokenizer.ggml.scores"));
    let count = spec().tokens.len();
    let short = error(|spec| spec.scores.truncate(5));
    assert_eq!(short, TextError::ScoreCount { found: 5, tokens: count });
    assert_eq!(error(|spec| spec.scores[7] = f32::NAN), TextError::Score { token: 7 });
    let missing = error(|spec| spec.token_types[TOKENS.len() + 0x41] = 5);
    assert!(missing.to_string().contains("<0x41>"), "{missing}");
    let signed = error(|spec| spec.tokens[TOKENS.len()] = "<0x-1>".into());
    assert!(matches!(signed, TextError::ByteToken { .. }), "{signed}");
    // Infinities can be compared.
    let mut infinite = spec();
    infinite.scores[6] = f32::NEG_INFINITY;
    Tokenizer::new(infinite).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_merged_as_defined(
        parts in proptest::collection::vec(
            prop::sample::select(vec!["a", "aa", "t", "h", "e", "i", "n", " ", "<", ">", "é", "ü", "the", " the", "▁"]),
            0..40,
        ),
    ) {
        // Two spaces are a token of the user's, which merges never see.
        let text = parts.concat().replace("  ", " ");
        prop_assume!(!text.contains("  "));
        let tokenizer = Tokenizer::new(spec()).unwrap();
        prop_assert_eq!(tokenizer.encode(&text, Specials::AsText).unwrap(), by_definition(&text));
        let prefixed = Tokenizer::new(VocabularySpec { space_prefix: None, ..spec() }).unwrap();
        let whole = prefixed.encode(&text, Specials::AsText).unwrap();
        prop_assert_eq!(&whole, &if text.is_empty() { vec![] } else { by_definition(&format!(" {text}")) });
        prop_assert_eq!(prefixed.decode_whole(&whole), text.replace('▁', " "));
        let spelled = [0xE2, 0x96, 0x81].map(byte);
        let parts: Vec<Vec<u32>> = text.split('▁').map(by_definition).collect();
        prop_assert_eq!(prefixed.encode_continuation(&text).unwrap(), parts.join(&spelled[..]));
    }
}
