//! Keeps a text out of every answer.
#![forbid(unsafe_code)]

use membrane_plugin::policy::{OutputVerdict, Policy, Reason, Replacement};
use serde::Deserialize;

const REDACTED: &str = "[redacted]";

/// Bytes before the text that go out in one replacement with it: a replacement has at most 64 KiB.
const MAX_BEFORE_BYTES: usize = 32 << 10;

/// What the profile sets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    text: String,
}

/// The policy.
pub struct Plugin {
    text: String,
}

impl Plugin {
    /// Where the end of `pending` may be the beginning of the text; its length if nowhere.
    fn possible_start(&self, pending: &str) -> usize {
        let mut starts = pending.char_indices().map(|(start, _)| start);
        starts.find(|start| self.text.starts_with(&pending[*start..])).unwrap_or(pending.len())
    }

    fn replace(&self, bytes: usize, text: String) -> OutputVerdict {
        let reason = Reason::new("my-policy", "The text is not to be seen.");
        OutputVerdict::Replace(Replacement { bytes: bytes as u32, text, reason })
    }
}

impl Policy for Plugin {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        if parameters.text.is_empty() {
            return Err("text: is empty".into());
        }
        Ok(Self { text: parameters.text })
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        Ok(match pending.find(&self.text) {
            None if done => OutputVerdict::release_all(pending),
            None => OutputVerdict::Release(self.possible_start(pending) as u32),
            Some(start) if start > 0 && !done => OutputVerdict::Release(start as u32),
            // At the end of an answer there can be text before a match, which goes out with the replacement.
            Some(start) if start > MAX_BEFORE_BYTES => {
                let before = &pending[..pending.floor_char_boundary(MAX_BEFORE_BYTES)];
                self.replace(before.len(), before.to_owned())
            }
            Some(start) => self.replace(start + self.text.len(), format!("{}{REDACTED}", &pending[..start])),
        })
    }
}

membrane_plugin::export_policy!(Plugin);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_the_text_is_held_back() {
        let mut policy = Plugin::new(Parameters { text: "secret".into() }).unwrap();
        assert_eq!(policy.output("a sec", false), Ok(OutputVerdict::Release(2)));
        assert_eq!(policy.output("a sec", true), Ok(OutputVerdict::Release(5)));
        assert_eq!(policy.output("a secret", false), Ok(OutputVerdict::Release(2)));
    }
}
