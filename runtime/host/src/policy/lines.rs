//! Lines of a plugin's log, as policies let them pass: a text that they withhold could be cut into several lines, between its
//! words or within one. What is cut in both ways at once is not found.

use crate::engine::Host;
use crate::judge::SharedJudge;
use crate::plugin::Plugin;
use crate::policy::chain::{PolicyChain, WITHHELD};

/// Bytes of earlier lines that are judged with the next one. (a text that is logged a letter a line)
const REMEMBERED_BYTES: usize = 4096;

/// The log of one plugin so far.
#[derive(Debug, Clone, Default)]
pub struct JudgedLines {
    /// The end of what was shown, each line with a blank behind it, and the same without blanks between lines.
    apart: String,
    joined: String,
}

impl JudgedLines {
    /// The next line: itself, if each of these policies lets it pass as an answer, alone and behind the lines that were shown
    /// before it, and a word in its place if not.
    ///
    /// `judge`: for the policies that were granted one; without it nothing passes that they need it for.
    pub fn next(
        &mut self,
        host: &Host,
        policies: &[Plugin],
        judge: Option<&SharedJudge>,
        line: &str,
    ) -> String {
        if policies.is_empty() {
            return line.to_owned();
        }
        let passes = |text: &str| PolicyChain::passes(host, policies, judge.cloned(), text);
        let (apart, joined) = (format!("{}{line}", self.apart), format!("{}{line}", self.joined));
        let first = self.apart.is_empty();
        let may_be_shown = passes(line) && (first || passes(&apart) && passes(&joined));
        if !may_be_shown {
            return WITHHELD.to_owned();
        }
        self.apart = end(apart + " ");
        self.joined = end(joined);
        line.to_owned()
    }
}

/// The end of a text that is remembered.
fn end(mut text: String) -> String {
    let mut from = text.len().saturating_sub(REMEMBERED_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.drain(..from);
    text
}
