//! Keeps the words of a list out of requests, answers and the results of tools.
//!
//! An answer arrives in pieces. What may become a word is held back until more has come; at each place the longest word
//! counts. So the pieces in which an answer arrives never change what is released.
#![forbid(unsafe_code)]

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, Reason, Refusal, Replacement, RequestVerdict, RewrittenText,
    ToolResultVerdict,
};
use serde::Deserialize;

/// Bytes before a word that go out in one replacement with it: a replacement has at most 64 KiB.
const MAX_BEFORE_BYTES: usize = 24 << 10;

/// What the profile sets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    words: Vec<String>,
    #[serde(default = "replacement")]
    replacement: String,
}

fn replacement() -> String {
    "[...]".to_owned()
}

/// The policy.
pub struct WordList(Parameters);

/// What a search has found first.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing before this byte; what starts here may become a word.
    Nothing(usize),
    /// A word, from byte to byte.
    Word(usize, usize),
}

impl WordList {
    fn search(&self, text: &str, done: bool) -> Found {
        let bytes = text.as_bytes();
        for start in 0..bytes.len() {
            let (mut longest, mut open) = (0, false);
            for word in self.0.words.iter().map(String::as_bytes) {
                let pairs = bytes[start..].iter().zip(word);
                let equal = pairs.take_while(|(one, other)| one.eq_ignore_ascii_case(other)).count();
                if equal == word.len() {
                    longest = longest.max(equal);
                } else if start + equal == bytes.len() && !done {
                    open = true;
                }
            }
            if open {
                return Found::Nothing(start);
            }
            if longest > 0 {
                return Found::Word(start, start + longest);
            }
        }
        Found::Nothing(bytes.len())
    }

    /// The text with every word replaced; none if it has no word.
    fn cleaned(&self, text: &str) -> Option<String> {
        let (mut cleaned, mut rest) = (String::new(), text);
        while let Found::Word(start, end) = self.search(rest, true) {
            cleaned.push_str(&rest[..start]);
            cleaned.push_str(&self.0.replacement);
            rest = &rest[end..];
        }
        (rest.len() < text.len()).then(|| cleaned + rest)
    }
}

fn reason() -> Reason {
    Reason::new("word-list", "The list has the word.")
}

fn replace(bytes: usize, text: String) -> OutputVerdict {
    OutputVerdict::Replace(Replacement { bytes: bytes as u32, text, reason: reason() })
}

impl Policy for WordList {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        if parameters.words.is_empty() || parameters.words.iter().any(String::is_empty) {
            return Err("words: there must be one, and none empty".into());
        }
        Ok(Self(parameters))
    }

    fn request(&mut self, messages: Vec<Message>) -> Result<RequestVerdict, String> {
        let newest = messages.last().map_or("", |message| message.content.as_str());
        Ok(match self.search(newest, true) {
            Found::Nothing(_) => RequestVerdict::Allow,
            Found::Word(..) => RequestVerdict::Refuse(Refusal {
                message: "Your message has a word that is not allowed here.".into(),
                reason: reason(),
            }),
        })
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        Ok(match self.search(pending, done) {
            Found::Nothing(start) => OutputVerdict::Release(start as u32),
            Found::Word(start, _) if start > 0 && !done => OutputVerdict::Release(start as u32),
            // At the end of an answer there can be text before a word, which goes out with the replacement.
            Found::Word(start, _) if start > MAX_BEFORE_BYTES => {
                let before = &pending[..pending.floor_char_boundary(MAX_BEFORE_BYTES)];
                replace(before.len(), before.to_owned())
            }
            Found::Word(start, end) => replace(end, format!("{}{}", &pending[..start], self.0.replacement)),
        })
    }

    fn tool_result(&mut self, _: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        Ok(match self.cleaned(output) {
            None => ToolResultVerdict::Allow,
            Some(text) => ToolResultVerdict::Rewrite(RewrittenText { text, reason: reason() }),
        })
    }
}

membrane_plugin::export_policy!(WordList);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_counts_once_it_is_known() {
        let words = ["ab", "abc", "ça"].map(str::to_owned).to_vec();
        let list = WordList::new(Parameters { words, replacement: "-".into() }).unwrap();
        assert_eq!(list.search("xab", false), Found::Nothing(1));
        assert_eq!(list.search("xab", true), Found::Word(1, 3));
        assert_eq!(list.search("xABc", false), Found::Word(1, 4));
        assert_eq!(list.search("é\u{e7}", false), Found::Nothing(2));
        assert_eq!(list.cleaned("ab ça abcd").as_deref(), Some("- - -d"));
        assert_eq!(list.cleaned("none").as_deref(), None);
    }
}
