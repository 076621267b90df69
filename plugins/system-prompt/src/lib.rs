//! A policy that adds a system prompt to every request and keeps the model from quoting it at length.
#![forbid(unsafe_code)]

mod quotes;
mod request;

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, Reason, Replacement, RequestVerdict, RewrittenRequest,
    ToolCallVerdict,
};
use serde::Deserialize;

use quotes::{Found, Quotes};
pub use request::Mode;

/// The clause of an added prompt.
const ADDED: &str = "system-prompt:added";

/// The clause of a redacted quote.
const DISCLOSURE: &str = "system-prompt:disclosure";

/// Longest prompt in bytes; its index takes about 60 times that.
const MAX_PROMPT_BYTES: usize = 64 << 10;

/// Longest replacement of a quote in bytes.
const MAX_REPLACEMENT_BYTES: usize = 4 << 10;

/// How much text before a quote goes out in one replacement with it, in bytes: a replacement has at most 64
/// KiB.
const MAX_PREFIX_BYTES: usize = 32 << 10;

/// The parameters in the profile. See `plugin.toml` for their ranges.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// The system prompt.
    pub text: String,
    /// What becomes of the request's own system messages.
    pub mode: Mode,
    /// Whether long quotes of the prompt are redacted.
    pub protect: bool,
    /// Length from which a quote counts, in characters with runs of white space as one.
    pub min_quote: usize,
    /// What stands in place of a quote.
    pub replacement: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            text: String::new(),
            mode: Mode::Prepend,
            protect: true,
            min_quote: 40,
            replacement: "[redacted]".to_owned(),
        }
    }
}

impl Parameters {
    fn check(&self) -> Result<(), String> {
        if self.text.trim().is_empty() {
            return Err("text: is missing: give the system prompt".to_owned());
        }
        if self.text.len() > MAX_PROMPT_BYTES {
            return Err(format!("text: {} bytes are more than {MAX_PROMPT_BYTES}", self.text.len()));
        }
        if !(8..=10_000).contains(&self.min_quote) {
            return Err(format!("min_quote: {} is not between 8 and 10000", self.min_quote));
        }
        if self.replacement.len() > MAX_REPLACEMENT_BYTES {
            return Err(format!("replacement: is longer than {MAX_REPLACEMENT_BYTES} bytes"));
        }
        Ok(())
    }
}

/// The policy for one answer.
pub struct SystemPrompt {
    text: String,
    mode: Mode,
    replacement: String,
    /// The index of the prompt, if quotes are redacted.
    quotes: Option<Quotes>,
    /// Whether the prompt is part of this request; only then there is something to protect.
    present: bool,
}

impl Policy for SystemPrompt {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        let text = parameters.text.trim().to_owned();
        let quotes = parameters.protect.then(|| Quotes::new(&text, parameters.min_quote));
        Ok(Self { text, mode: parameters.mode, replacement: parameters.replacement, quotes, present: false })
    }

    fn request(&mut self, messages: Vec<Message>) -> Result<RequestVerdict, String> {
        let rewritten = request::rewrite(&self.text, self.mode, &messages);
        self.present = rewritten.is_some();
        match rewritten {
            Some(messages_with_prompt) if !request::same(&messages_with_prompt, &messages) => {
                let note = format!("Added a system prompt of {} characters.", self.text.chars().count());
                let reason = Reason::new(ADDED, note);
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages: messages_with_prompt, reason }))
            }
            _ => Ok(RequestVerdict::Allow),
        }
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        let Some(quotes) = self.quotes.as_ref().filter(|_| self.present) else {
            return Ok(OutputVerdict::release_all(pending));
        };
        Ok(match quotes.find(pending, done) {
            Found::Nothing { released } => OutputVerdict::Release(released as u32),
            Found::Quote { start, .. } if start > 0 && !done => OutputVerdict::Release(start as u32),
            Found::Quote { start, end } => self.redact(pending, start, end),
        })
    }

    /// A call's arguments leave the answer by another way: a person sees them, and so does the tool. Each string and number
    /// is searched by itself, so that no way to write JSON hides a quote.
    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        let Some(quotes) = self.quotes.as_ref().filter(|_| self.present) else {
            return Ok(ToolCallVerdict::Allow);
        };
        let quoted = call.texts().iter().any(|text| matches!(quotes.find(text, true), Found::Quote { .. }));
        Ok(if quoted {
            ToolCallVerdict::Deny(Reason::new(DISCLOSURE, "The call quoted the system prompt."))
        } else {
            ToolCallVerdict::Allow
        })
    }
}

impl SystemPrompt {
    /// Redacts the quote at `start..end`. At the end of the answer the text before it goes out with it, since
    /// a mere release would drop what follows.
    fn redact(&self, pending: &str, start: usize, end: usize) -> OutputVerdict {
        let reason = Reason::new(DISCLOSURE, "The answer quoted the system prompt.");
        let cut = pending.floor_char_boundary(start.min(MAX_PREFIX_BYTES));
        let (bytes, text) = if cut < start {
            (cut, pending[..cut].to_owned())
        } else {
            (end, format!("{}{}", &pending[..start], self.replacement))
        };
        OutputVerdict::Replace(Replacement { bytes: bytes as u32, text, reason })
    }
}

membrane_plugin::export_policy!(SystemPrompt);

#[cfg(test)]
mod tests;
