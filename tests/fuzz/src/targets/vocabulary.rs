//! A vocabulary as it stands in the metadata of a GGUF file, here as JSON, and a text through the tokenizer made of it.

use std::borrow::Cow;

use membrane_text::{SpacePrefix, Specials, Tokenizer, VocabularySpec};
use serde::{Deserialize, Serialize};

use super::shown;
use crate::vocabulary;

/// Names that are looked for.
pub const WORDS: &[&str] = &[
    "\"gpt2\"",
    "\"llama\"",
    "\"pre\"",
    "qwen2",
    "llama-bpe",
    "gpt-4o",
    "deepseek-v3",
    "tekken",
    "<0x41>",
    "<0x-1>",
    "<0xZZ>",
    "\u{2581}",
    "<|im_end|>",
];

/// The fields of a specification by their names in a file.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    model: String,
    pre: String,
    nfc: Option<bool>,
    ignore_merges: Option<bool>,
    tokens: Vec<String>,
    token_types: Vec<i32>,
    scores: Vec<f32>,
    merges: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    ends: Vec<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
    /// What is encoded.
    text: String,
}

/// Makes a tokenizer and encodes the text.
pub fn target(data: &[u8]) {
    let Ok(written) = serde_json::from_slice::<Written>(data) else { return };
    let texts = |texts: Vec<String>| texts.into_iter().map(Cow::Owned).collect();
    let spec = VocabularySpec {
        model: written.model,
        pre: written.pre,
        nfc: written.nfc,
        ignore_merges: written.ignore_merges,
        tokens: texts(written.tokens),
        token_types: written.token_types,
        scores: written.scores,
        merges: texts(written.merges),
        bos: written.bos,
        eos: written.eos,
        eot: written.eot,
        ends: written.ends,
        unk: written.unk,
        pad: written.pad,
        add_bos: written.add_bos,
        add_eos: written.add_eos,
        space_prefix: written.add_space_prefix.map(SpacePrefix::told),
    };
    match Tokenizer::new(spec) {
        Ok(tokenizer) => encode(&tokenizer, &written.text),
        Err(error) => shown(&error),
    }
}

/// Encodes a text both ways. Tokens are of the vocabulary, and a user's text makes no control tokens.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str) {
    for specials in [Specials::AsText, Specials::Parse] {
        match tokenizer.encode(text, specials) {
            Ok(tokens) => {
                for &token in &tokens {
                    assert!(tokenizer.token_bytes(token).is_ok(), "token {token} is not in the vocabulary");
                    let control = matches!(specials, Specials::AsText) && tokenizer.is_control(token);
                    assert!(!control, "the control token {token} from a user's text");
                }
                let _ = tokenizer.decode(&tokens, true);
            }
            Err(error) => shown(&error),
        }
    }
    match tokenizer.encode_continuation(text) {
        Ok(tokens) => {
            assert!(!tokens.iter().any(|&token| tokenizer.is_control(token)), "a control token from a text");
            let _ = tokenizer.decode_whole(&tokens);
        }
        Err(error) => shown(&error),
    }
    for &end in tokenizer.end_tokens() {
        assert!((end as usize) < tokenizer.vocab_size());
    }
}

/// One of bytes and merges for several pre-tokenizers, and one of scores.
pub fn seeds() -> Vec<Vec<u8>> {
    let (tokens, token_types, merges) = vocabulary::tokens();
    let few = Written {
        model: "gpt2".into(),
        pre: "qwen2".into(),
        tokens: ["t", "h", "e", "th", "the", "Ġ", "<|im_start|>", "<|im_end|>"].map(str::to_owned).to_vec(),
        token_types: vec![1, 1, 1, 1, 1, 1, 3, 3],
        merges: vec!["t h".into(), "th e".into()],
        bos: Some(6),
        eos: Some(7),
        ends: vec![7],
        add_bos: Some(true),
        text: "the <|im_end|> the".into(),
        ..Written::default()
    };
    let whole = Written {
        model: "gpt2".into(),
        pre: "llama-bpe".into(),
        tokens,
        token_types,
        merges,
        text: "{\"the\": 12} é\u{1f600}\r\n".into(),
        ..Written::default()
    };
    let mut pieces: Vec<String> =
        ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "\u{2581}a", "ab"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3, 1, 1, 1, 1, 1];
    pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(pieces.len(), 6);
    let scored = Written {
        model: "llama".into(),
        pre: "default".into(),
        scores: (0..pieces.len()).map(|at| -(at as f32)).collect(),
        tokens: pieces,
        token_types: types,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        add_space_prefix: Some(true),
        text: "a ab b\u{e9}".into(),
        ..Written::default()
    };
    [few, whole, scored].iter().map(|written| serde_json::to_vec(written).expect("plain data")).collect()
}
