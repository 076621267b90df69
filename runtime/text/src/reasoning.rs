//! The parts of an answer in which a model thinks, `<think>...</think>`, apart from the rest.

use crate::Result;
use crate::tokenizer::{Specials, Tokenizer};

pub(crate) const OPEN: &str = "<think>";
pub(crate) const CLOSE: &str = "</think>";

/// Whether a model that goes on behind this text reasons first, which no constraint binds: templates of models that always reason
/// end with the opening tag.
pub fn in_reasoning(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// Ends the reasoning that a prompt ends with the opening tag of, without any: the model goes on with the answer. As Qwen3's
/// template writes it where `enable_thinking` is false.
pub fn end_reasoning(tokenizer: &Tokenizer, prompt: &mut Vec<u32>) -> Result<()> {
    if let [open] = tokenizer.encode(OPEN, Specials::Parse)?[..]
        && let Some(at) = prompt.iter().rposition(|token| *token == open)
    {
        prompt.truncate(at + 1);
    }
    prompt.extend(tokenizer.encode_continuation("\n\n")?);
    prompt.extend(tokenizer.encode(CLOSE, Specials::Parse)?);
    prompt.extend(tokenizer.encode_continuation("\n\n")?);
    Ok(())
}

/// A part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The model's reasoning, and whether it has come to its end.
    Reasoning(&'a str, bool),
    /// Text for the reader.
    Text(&'a str),
}

/// The parts of a message, without the line breaks beside tags. Reasoning stands at the start, and further on where it is a paragraph by
/// itself, as [`crate::ChannelParser`] writes it: an answer may speak of the tags. `opened`: the opening tag of the first may be
/// missing, since prompts end with it.
pub(crate) fn parts(message: &str, opened: bool) -> Vec<Part<'_>> {
    let begun = message.trim_start().strip_prefix(OPEN);
    let begun = begun.or_else(|| Some(message).filter(|message| opened && message.contains(CLOSE)));
    let Some(begun) = begun else { return text_parts(message) };
    let (reasoning, rest) = begun.split_once(CLOSE).unwrap_or((begun, ""));
    let mut parts = vec![Part::Reasoning(reasoning.trim_matches('\n'), reasoning.len() < begun.len())];
    parts.extend(text_parts(rest.trim_start_matches('\n')));
    parts
}

/// The parts of what begins with text.
fn text_parts(mut text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some((before, behind)) = text.split_once("\n\n<think>\n") {
        parts.extend((!before.is_empty()).then_some(Part::Text(before)));
        let (reasoning, rest) = behind.split_once("\n</think>\n\n").unwrap_or((behind, ""));
        parts.push(Part::Reasoning(reasoning, reasoning.len() < behind.len()));
        text = rest;
    }
    parts.extend((!text.is_empty()).then_some(Part::Text(text)));
    parts
}

/// The reasoning of a message and the text, each in one; `None` if it has no reasoning.
pub(crate) fn split(message: &str, opened: bool) -> Option<(String, String)> {
    let parts = parts(message, opened);
    if !parts.iter().any(|part| matches!(part, Part::Reasoning(..))) {
        return None;
    }
    let (mut reasoning, mut text) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Reasoning(thought, _) => reasoning.push(thought),
            Part::Text(said) => text.push(said),
        }
    }
    Some((reasoning.join("\n\n"), text.join("\n\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_apart_from_the_answer() {
        let cases = [
            ("<think>\na < b\n\n</think>\n\nYes </think>.", Some(("a < b", "Yes </think>."))),
            ("\n<think>\n\n</think>\n\nhi\n", Some(("", "hi\n"))),
            ("<think>\nHm", Some(("Hm", ""))),
            (
                "<think>\nA\n</think>\n\nI look.\n\n<think>\nB\n</think>\n\nDone.",
                Some(("A\n\nB", "I look.\n\nDone.")),
            ),
            ("Between `<think>` and `</think>`.", None),
            ("no <think>x", None),
            ("", None),
        ];
        for (message, parts) in cases {
            let parts = parts.map(|(reasoning, text)| (reasoning.to_owned(), text.to_owned()));
            assert_eq!(split(message, false), parts, "{message:?}");
            if !message.contains('`') {
                assert_eq!(split(message, true), parts, "{message:?}");
            }
        }
        assert_eq!(split("hm\n</think>ok", false), None);
        assert_eq!(split("hm\n</think>ok", true), Some(("hm".into(), "ok".into())));
    }
}
