//! The part of an answer in which a model thinks, `<think>...</think>`, apart from the rest.

pub(crate) const OPEN: &str = "<think>";
pub(crate) const CLOSE: &str = "</think>";

/// The reasoning that a message begins with, and what follows, without line breaks beside the tags; `None` if it has none. The opening tag
/// may be missing: many prompts end with it.
pub(crate) fn split(message: &str) -> Option<(&str, &str)> {
    let (reasoning, rest) = message.split_once(CLOSE)?;
    let begun = reasoning.trim_start();
    let reasoning = begun.strip_prefix(OPEN).unwrap_or(reasoning);
    Some((reasoning.trim_matches('\n'), rest.trim_start_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_apart_from_the_answer() {
        let cases = [
            ("<think>\na < b\n\n</think>\n\nYes </think>.", Some(("a < b", "Yes </think>."))),
            ("hm\n</think>ok", Some(("hm", "ok"))),
            ("\n<think>\n\n</think>\n\nhi\n", Some(("", "hi\n"))),
            ("no <think>x", None),
            ("", None),
        ];
        for (message, parts) in cases {
            assert_eq!(split(message), parts, "{message:?}");
        }
    }
}
