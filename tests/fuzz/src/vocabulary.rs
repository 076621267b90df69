//! A small vocabulary for targets that need a tokenizer: the 256 bytes, a few words, two control tokens.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use membrane_text::{Tokenizer, VocabularySpec};

/// The characters that stand for the bytes in byte-level vocabularies, by byte.
fn alphabet() -> Vec<char> {
    let visible =
        |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut next = 256;
    let mut letter = |byte: u32| {
        if visible(byte) {
            return byte;
        }
        next += 1;
        next - 1
    };
    (0..256).map(|byte| char::from_u32(letter(byte)).unwrap_or('?')).collect()
}

/// The tokens, their types, and the merges that make the words.
pub fn tokens() -> (Vec<String>, Vec<i32>, Vec<String>) {
    let mut tokens: Vec<String> = alphabet().into_iter().map(String::from).collect();
    let merges = ["t h", "th e", "a n", "{ \"", "\" :", "} }", "1 2", "t r", "tr u", "tru e"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    tokens.extend(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
    types.extend([3, 3]);
    (tokens, types, merges.map(str::to_owned).to_vec())
}

/// Its specification.
pub fn spec() -> VocabularySpec<'static> {
    let (tokens, token_types, merges) = tokens();
    let end = tokens.len() as u32 - 1;
    VocabularySpec {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: tokens.into_iter().map(Cow::Owned).collect(),
        token_types,
        merges: merges.into_iter().map(Cow::Owned).collect(),
        bos: Some(end - 1),
        eos: Some(end),
        ..VocabularySpec::default()
    }
}

/// Its tokenizer, made once.
///
/// # Panics
/// When the vocabulary is refused: it is written here.
pub fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| Arc::new(Tokenizer::new(spec()).expect("a valid vocabulary"))).clone()
}
