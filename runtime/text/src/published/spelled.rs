//! A `tokenizer.json` of what was a model of SentencePiece: spaces are characters, there are no words, and what no token covers is
//! bytes.

use super::{BYTE, FILE, File, Model, NORMAL, Step, broken, by_id};
use crate::error::{Result, TextError, shown};
use crate::vocabulary::{RANKED, SPACE, SpacePrefix, VocabularySpec, byte_token};

/// The vocabulary. Errors: steps that are not known, or not all that are needed.
pub(super) fn spec(file: File) -> Result<VocabularySpec<'static>> {
    let space_prefix = space_prefix(&file)?;
    let Model { vocab, merges, .. } = file.model;
    // Runs of spaces are made by merges: the text that they are looked for in has no such characters before.
    let added = file.added_tokens.into_iter().filter(|token| token.special || !token.content.contains(SPACE));
    let (tokens, mut token_types) = by_id(FILE, vocab, added.collect())?;
    for (kind, text) in token_types.iter_mut().zip(&tokens) {
        if *kind == NORMAL && byte_token(text).is_some() {
            *kind = BYTE;
        }
    }
    Ok(VocabularySpec {
        model: RANKED.into(),
        tokens,
        token_types,
        merges,
        add_bos: Some(file.post_processor.is_some_and(|step| step.puts_a_token_first())),
        space_prefix: Some(space_prefix),
        ..VocabularySpec::default()
    })
}

/// Where the steps before the model put a space, and that they do what such a file's steps do besides: write U+2581 for spaces, by
/// a normaliser or by the pre-tokenizer `Metaspace`.
fn space_prefix(file: &File) -> Result<SpacePrefix> {
    let mut prefix = SpacePrefix::Nowhere;
    let mut spaces = false;
    if let Some(step) = &file.normalizer {
        step.each(&mut |step| {
            match step.kind() {
                "Prepend" if is_space(&step.prepend) && prefix == SpacePrefix::Nowhere => {
                    prefix = SpacePrefix::Parts;
                }
                "Replace" if step.text() == Some(" ") && is_space(&step.content) && !spaces => spaces = true,
                other => return Err(unknown("its normalizer", other)),
            }
            Ok(())
        })?;
    }
    if let Some(step) = &file.pre_tokenizer {
        step.each(&mut |step| {
            match step.kind() {
                // Where there are no spaces any more it cuts nothing.
                "Split" if step.text() == Some(" ") && step.invert != Some(true) => {
                    spaces.then_some(()).ok_or_else(kept)?
                }
                "Metaspace" => {
                    // Where the normaliser has put a space, no other comes before it.
                    let own = metaspace(step)?;
                    prefix = if prefix == SpacePrefix::Nowhere { own } else { prefix };
                    spaces = true;
                }
                other => return Err(unknown("its pre-tokenizer's step", other)),
            }
            Ok(())
        })?;
    }
    if spaces { Ok(prefix) } else { Err(kept()) }
}

fn kept() -> TextError {
    broken("its normalizer does not replace spaces, as one with byte_fallback does".into())
}

/// Where a `Metaspace` puts a space. Older files say so by `add_prefix_space` alone.
fn metaspace(step: &Step) -> Result<SpacePrefix> {
    if !is_space(&step.replacement) {
        let found = shown(step.replacement.as_deref().unwrap_or_default());
        return Err(broken(format!("its Metaspace writes {found} for a space, and U+2581 is known here")));
    }
    if step.split != Some(false) {
        return Err(broken(
            "its Metaspace cuts at spaces (split), which is not known here with byte_fallback".into(),
        ));
    }
    match (step.prepend_scheme.as_deref(), step.add_prefix_space.unwrap_or(true)) {
        (Some("never"), _) | (None, false) => Ok(SpacePrefix::Nowhere),
        (Some("always") | None, true) => Ok(SpacePrefix::BareParts),
        (Some("first"), true) => Ok(SpacePrefix::Beginning),
        (Some(other), true) => Err(unknown("its Metaspace's prepend_scheme", other)),
        (Some(other), false) => Err(broken(format!(
            "its Metaspace has add_prefix_space false and prepend_scheme {}",
            shown(other)
        ))),
    }
}

fn is_space(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| text.chars().eq([SPACE]))
}

fn unknown(what: &str, found: &str) -> TextError {
    broken(format!("{what} {} is not known here", shown(found)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Specials, Tokenizer};

    /// A vocabulary of all bytes, a few characters and what the rules make of them, with the steps before the model.
    fn file(normalizer: &str, pre_tokenizer: &str, added: &str) -> String {
        let mut vocab: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        vocab.extend(["a", "b", "\u{2581}", "ab", "\u{2581}a", "\u{2581}\u{2581}", "\\n"].map(str::to_owned));
        let vocab: Vec<String> =
            vocab.iter().enumerate().map(|(id, text)| format!("\"{text}\":{id}")).collect();
        let rules = r#"["\u2581","\u2581"],["a","b"],["\u2581","a"]"#;
        format!(
            r#"{{"added_tokens":[{added}],"normalizer":{normalizer},"pre_tokenizer":{pre_tokenizer},
            "post_processor":null,"model":{{"type":"BPE","byte_fallback":true,"vocab":{{{}}},"merges":[{rules}]}}}}"#,
            vocab.join(",")
        )
    }

    const SPACES: &str = r#"{"type":"Replace","pattern":{"String":" "},"content":"\u2581"}"#;
    const SPLIT: &str =
        r#"{"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":false}"#;
    const ADDED: &str = r#"{"id":263,"content":"<bos>","special":true,"normalized":false,"single_word":false,"lstrip":false,"rstrip":false},
        {"id":264,"content":"\n\n","special":false,"normalized":false,"single_word":false,"lstrip":false,"rstrip":false}"#;

    fn prepended() -> String {
        format!(r#"{{"type":"Sequence","normalizers":[{{"type":"Prepend","prepend":"\u2581"}},{SPACES}]}}"#)
    }

    fn metaspace(rest: &str) -> String {
        format!(r#"{{"type":"Metaspace","replacement":"\u2581",{rest}}}"#)
    }

    fn tokenizer(json: &str) -> Tokenizer {
        Tokenizer::new(VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn sentencepiece_in_a_tokenizer_json_merges_by_rank() {
        let added = r#"{"id":263,"content":"<bos>","special":true},{"id":264,"content":"\n\n","special":false},
            {"id":261,"content":"\u2581\u2581","special":false},{"id":270,"content":"<image>","special":true}"#;
        let json = file(SPACES, SPLIT, added).replace(
            "\"post_processor\":null",
            r#""post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<bos>"}}]}"#,
        );
        let spec = VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap();
        assert_eq!((spec.add_bos, spec.space_prefix), (Some(true), Some(SpacePrefix::Nowhere)));
        let tokenizer = Tokenizer::new(spec).unwrap();
        let encode = |text: &str| tokenizer.encode(text, Specials::AsText).unwrap();
        // The pair of spaces comes first, then ab, so that no space is left for an a.
        assert_eq!(encode("a  ab b a"), [256, 261, 259, 258, 257, 260]);
        assert_eq!(encode("\n\n\n"), [264, 262]);
        assert_eq!(encode("\u{e4}<0x41>")[..3], [0xC3, 0xA4, 0x3C]);
        assert_eq!(tokenizer.decode(&[256, 261, 259, 260, 0xC3, 0xA4], false), "a  ab a\u{e4}");
        let long = "a b\u{e4}  ab ".repeat(5000);
        assert_eq!(tokenizer.decode(&encode(&long), false), long);
        let mut spec = VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap();
        spec.leave_out_added(265);
        assert_eq!((spec.tokens.len(), spec.token_types.len()), (265, 265));
        spec.leave_out_added(4);
        assert_eq!(spec.tokens.len(), 265);
        spec.leave_out_added(210);
        assert_eq!(spec.tokens.len(), 263);
    }

    #[test]
    fn a_space_stands_where_the_file_puts_it() {
        let always = metaspace(r#""prepend_scheme":"always","split":false"#);
        let older = metaspace(r#""add_prefix_space":true,"split":false"#);
        let first = metaspace(r#""prepend_scheme":"first","split":false"#);
        let never = metaspace(r#""prepend_scheme":"never","split":false"#);
        let [space, a, spaced] = [258, 256, 260];
        let (bos, pair) = (263, 261);
        for (normalizer, pre_tokenizer, bare, spaced_text, parts) in [
            (prepended(), "null", vec![spaced], vec![pair, a], vec![bos, spaced, bos, pair, a]),
            ("null".into(), always.as_str(), vec![spaced], vec![spaced], vec![bos, spaced, bos, spaced]),
            ("null".into(), older.as_str(), vec![spaced], vec![spaced], vec![bos, spaced, bos, spaced]),
            ("null".into(), first.as_str(), vec![spaced], vec![spaced], vec![bos, a, bos, spaced]),
            ("null".into(), never.as_str(), vec![a], vec![spaced], vec![bos, a, bos, spaced]),
            (SPACES.into(), never.as_str(), vec![a], vec![spaced], vec![bos, a, bos, spaced]),
            (prepended(), first.as_str(), vec![spaced], vec![pair, a], vec![bos, spaced, bos, pair, a]),
        ] {
            let tokenizer = tokenizer(&file(&normalizer, pre_tokenizer, ADDED));
            let encode = |text: &str| tokenizer.encode(text, Specials::Parse).unwrap();
            assert_eq!(encode("a"), bare, "{normalizer} {pre_tokenizer}");
            assert_eq!(encode(" a"), spaced_text, "{normalizer} {pre_tokenizer}");
            assert_eq!(encode("<bos>a<bos> a"), parts, "{normalizer} {pre_tokenizer}");
            assert!(encode("").is_empty() && encode("<bos>") == [bos]);
            assert_eq!(tokenizer.encode_continuation("a").unwrap(), [a]);
            assert_eq!(tokenizer.encode_continuation("b\n\na").unwrap(), [257, 264, a]);
            assert_eq!(tokenizer.encode_continuation(" ").unwrap(), [space]);
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let error =
            |json: String| VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error(file("null", SPLIT, "")).contains("does not replace spaces"));
        assert!(error(file("null", "null", "")).contains("does not replace spaces"));
        for (bad, named) in [("\\u2581\\u2581", "Prepend"), ("x", "Prepend"), ("", "Prepend")] {
            let normalizer = prepended().replace(r#""prepend":"\u2581""#, &format!(r#""prepend":"{bad}""#));
            assert!(error(file(&normalizer, SPLIT, "")).contains(named), "{bad:?}");
        }
        assert!(error(file(&SPACES.replace("2581", "2582"), SPLIT, "")).contains("Replace"));
        assert!(error(file(SPACES, &SPLIT.replace("Split", "Whitespace"), "")).contains("Whitespace"));
        for (rest, named) in [
            (r#""prepend_scheme":"first","split":true"#, "split"),
            (r#""prepend_scheme":"first""#, "split"),
            (r#""prepend_scheme":"last","split":false"#, "\"last\""),
            (r#""prepend_scheme":"first","add_prefix_space":false,"split":false"#, "add_prefix_space"),
            (r#""split":false,"replacement":"_""#, "\"_\""),
        ] {
            let step =
                metaspace(rest).replacen(r#""replacement":"\u2581","#, "", usize::from(rest.contains("_\"")));
            let found = error(file("null", &step, ""));
            assert!(found.contains(named), "{rest}: {found}");
        }
        let json = file(SPACES, SPLIT, "").replace("<0x41>", "<0xZZ>");
        let spec = VocabularySpec::from_tokenizer_json(json.as_bytes()).unwrap();
        assert!(Tokenizer::new(spec).unwrap_err().to_string().contains("<0x41>"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// The library that writes such files reads them too.
        #[test]
        fn tokens_are_those_of_the_library(
            parts in proptest::collection::vec(
                prop::sample::select(vec!["a", "b", "ab", " ", "  ", "\n", "\n\n", "<bos>", "\u{e4}", "\u{2581}", "<0x41>"]),
                0..12,
            ),
            scheme in 0..5_usize,
        ) {
            let (normalizer, pre_tokenizer) = match scheme {
                0 => (prepended(), "null".to_owned()),
                1 => (SPACES.to_owned(), SPLIT.to_owned()),
                2 => ("null".to_owned(), metaspace(r#""prepend_scheme":"always","split":false"#)),
                3 => ("null".to_owned(), metaspace(r#""prepend_scheme":"first","split":false"#)),
                _ => ("null".to_owned(), metaspace(r#""prepend_scheme":"never","split":false"#)),
            };
            let json = file(&normalizer, &pre_tokenizer, ADDED);
            let text = parts.concat();
            let library = tokenizers::Tokenizer::from_bytes(&json).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let wanted = library.encode_fast(text.as_str(), false).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let found = tokenizer(&json).encode(&text, Specials::Parse).unwrap();
            prop_assert_eq!(found.as_slice(), wanted.get_ids(), "{}", text);
        }
    }
}
