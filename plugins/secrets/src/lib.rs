//! A policy that keeps credentials out of answers, tool calls and what tools give back.
//!
//! - `kinds`: what credentials look like.
//! - `search`: looking for them in a text that is still arriving, and of which nothing may be released too early.
#![forbid(unsafe_code)]

mod kinds;
mod search;

use membrane_plugin::policy::{
    Invocation, Message, OutputVerdict, Policy, Reason, Replacement, RequestVerdict, RewrittenRequest,
    RewrittenText, Role, ToolCallVerdict, ToolResultVerdict,
};
use serde::Deserialize;

use search::{Found, Place, Secret, Secrets};

/// Shortest and longest text of one's own, in bytes, and the most of them.
const TEXT_BYTES: std::ops::RangeInclusive<usize> = 4..=1024;
const MAX_TEXTS: usize = 1000;

/// Longest replacement, in bytes.
const MAX_REPLACEMENT_BYTES: usize = 1024;

/// How much text before a secret goes out in one replacement with it, in bytes: a replacement has at most 64 KiB.
const MAX_PREFIX_BYTES: usize = 32 << 10;

/// The parameters in the profile. See `plugin.toml` for their ranges.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Kinds of credentials, by name.
    pub kinds: Vec<String>,
    /// Texts of one's own that are secret.
    pub texts: Vec<String>,
    /// What stands in place of a secret.
    pub replacement: String,
    /// Whether secrets are also kept from the model: in messages of users and tools.
    pub request: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            kinds: kinds::ALL.iter().map(|kind| kind.name.to_owned()).collect(),
            texts: Vec::new(),
            replacement: "[redacted]".to_owned(),
            request: false,
        }
    }
}

impl Parameters {
    fn check(&self) -> Result<(), String> {
        if self.texts.len() > MAX_TEXTS {
            return Err(format!("texts: {} are more than {MAX_TEXTS}", self.texts.len()));
        }
        if let Some(text) = self.texts.iter().find(|text| !TEXT_BYTES.contains(&text.len())) {
            let (least, most) = (TEXT_BYTES.start(), TEXT_BYTES.end());
            return Err(format!("texts: one has {} bytes, not {least} to {most}", text.len()));
        }
        if self.replacement.len() > MAX_REPLACEMENT_BYTES {
            return Err(format!("replacement: is longer than {MAX_REPLACEMENT_BYTES} bytes"));
        }
        if self.kinds.is_empty() && self.texts.is_empty() {
            return Err("kinds: there are none, and no texts either: nothing would be kept secret".to_owned());
        }
        Ok(())
    }
}

/// The policy for one answer.
pub struct KeepSecrets {
    secrets: Secrets,
    replacement: String,
    request: bool,
    place: Place,
}

impl Policy for KeepSecrets {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        let secrets = Secrets::new(&parameters.kinds, parameters.texts)?;
        let (replacement, request) = (parameters.replacement, parameters.request);
        Ok(Self { secrets, replacement, request, place: Place::default() })
    }

    fn request(&mut self, mut messages: Vec<Message>) -> Result<RequestVerdict, String> {
        let mut first: Option<Reason> = None;
        let theirs = |message: &&mut Message| matches!(message.role, Role::User | Role::Tool);
        for message in messages.iter_mut().filter(theirs).filter(|_| self.request) {
            if let Some((content, reason)) = self.secrets.redact(&message.content, &self.replacement) {
                message.content = content;
                first.get_or_insert(reason);
            }
        }
        Ok(match first {
            Some(reason) => RequestVerdict::Rewrite(RewrittenRequest { messages, reason }),
            None => RequestVerdict::Allow,
        })
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        Ok(match self.secrets.search(&self.place, pending, done) {
            Found::Nothing(bytes) => self.release(pending, bytes),
            Found::Secret(secret) if secret.at > 0 && !done => self.release(pending, secret.at),
            Found::Secret(secret) => self.redact(pending, &secret),
        })
    }

    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        let found = call.texts().iter().find_map(|text| self.secrets.find(text));
        Ok(found.map_or(ToolCallVerdict::Allow, ToolCallVerdict::Deny))
    }

    fn tool_result(&mut self, _: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        Ok(match self.secrets.redact(output, &self.replacement) {
            Some((text, reason)) => ToolResultVerdict::Rewrite(RewrittenText { text, reason }),
            None => ToolResultVerdict::Allow,
        })
    }
}

impl KeepSecrets {
    fn release(&mut self, pending: &str, bytes: usize) -> OutputVerdict {
        self.place.pass(&pending[..bytes]);
        OutputVerdict::Release(bytes as u32)
    }

    /// Replaces a secret. At the end of the answer the text before it goes out with it, since a mere release would
    /// drop what follows.
    fn redact(&mut self, pending: &str, secret: &Secret) -> OutputVerdict {
        let prefix = pending.floor_char_boundary(secret.at.min(MAX_PREFIX_BYTES));
        let (bytes, text) = if prefix < secret.at {
            self.place.pass(&pending[..prefix]);
            (prefix, pending[..prefix].to_owned())
        } else {
            let replacement = if secret.goes_on { "" } else { &self.replacement };
            let text = format!("{}{replacement}", &pending[..secret.from]);
            self.place.pass_secret(&pending[..secret.end], secret);
            (secret.end, text)
        };
        OutputVerdict::Replace(Replacement { bytes: bytes as u32, text, reason: secret.reason() })
    }
}

membrane_plugin::export_policy!(KeepSecrets);

#[cfg(test)]
mod tests;
