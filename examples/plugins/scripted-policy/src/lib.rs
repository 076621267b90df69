//! A policy that gives a fixed verdict where a text turns up, or fails there: for tests of what a host makes of verdicts.
#![forbid(unsafe_code)]

use membrane_plugin::policy::{
    Ending, ForcedText, Invocation, OutputVerdict, Policy, PromptVerdict, Reason, Refusal, RewrittenText,
    ToolCallVerdict, ToolResultVerdict,
};
use serde::Deserialize;

/// Where the verdict falls and what it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The hook.
    hook: Hook,
    /// The text that it looks for.
    at: String,
    /// What it does there.
    action: Action,
    /// The text of a rewrite, a forced text or a refusal.
    #[serde(default)]
    text: String,
}

/// The hooks that this policy knows.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Hook {
    Prompt,
    Output,
    ToolCall,
    ToolResult,
    Finish,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Refuse,
    Rewrite,
    Force,
    Stop,
    Deny,
    Trap,
    Error,
    /// Never returns.
    Loop,
}

/// The policy.
pub struct Scripted {
    parameters: Parameters,
    /// A text is forced once in an answer.
    forced: bool,
}

impl Scripted {
    /// What to do with a text in a hook.
    fn action(&self, hook: Hook, text: &str) -> Result<Option<Action>, String> {
        if self.parameters.hook != hook || !text.contains(&self.parameters.at) {
            return Ok(None);
        }
        match self.parameters.action {
            Action::Trap => std::process::abort(),
            Action::Error => Err("as the script says".into()),
            #[expect(clippy::empty_loop, reason = "the host has to end it")]
            Action::Loop => loop {},
            action => Ok(Some(action)),
        }
    }

    fn reason(&self) -> Reason {
        Reason::new("script:1", "The script says so.")
    }

    fn refusal(&self) -> Refusal {
        Refusal { message: self.parameters.text.clone(), reason: self.reason() }
    }

    fn rewritten(&self) -> RewrittenText {
        RewrittenText { text: self.parameters.text.clone(), reason: self.reason() }
    }
}

impl Policy for Scripted {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        Ok(Self { parameters, forced: false })
    }

    fn prompt(&mut self, rendered: &str) -> Result<PromptVerdict, String> {
        Ok(match self.action(Hook::Prompt, rendered)? {
            None => PromptVerdict::Allow,
            Some(_) => PromptVerdict::Refuse(self.refusal()),
        })
    }

    /// Holds everything back until the text has come or the answer ends.
    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        if self.parameters.hook != Hook::Output || self.forced {
            return Ok(OutputVerdict::release_all(pending));
        }
        let reason = self.reason();
        let before = pending.find(&self.parameters.at).unwrap_or(0) as u32;
        Ok(match self.action(Hook::Output, pending)? {
            None if done => OutputVerdict::release_all(pending),
            None => OutputVerdict::Release(0),
            Some(Action::Stop) => OutputVerdict::Stop(Ending { release: before, reason }),
            Some(Action::Force) => {
                self.forced = true;
                OutputVerdict::Force(ForcedText { text: self.parameters.text.clone(), reason })
            }
            Some(_) => OutputVerdict::Refuse(self.refusal()),
        })
    }

    fn tool_call(&mut self, call: Invocation) -> Result<ToolCallVerdict, String> {
        Ok(match self.action(Hook::ToolCall, &call.arguments)? {
            None => ToolCallVerdict::Allow,
            Some(Action::Rewrite) => ToolCallVerdict::Rewrite(self.rewritten()),
            Some(Action::Deny) => ToolCallVerdict::Deny(self.reason()),
            Some(_) => ToolCallVerdict::Refuse(self.refusal()),
        })
    }

    fn tool_result(&mut self, _: Invocation, output: &str) -> Result<ToolResultVerdict, String> {
        Ok(match self.action(Hook::ToolResult, output)? {
            None => ToolResultVerdict::Allow,
            Some(Action::Rewrite) => ToolResultVerdict::Rewrite(self.rewritten()),
            Some(_) => ToolResultVerdict::Refuse(self.refusal()),
        })
    }

    fn finish(&mut self, released: &str) -> Result<(), String> {
        self.action(Hook::Finish, released).map(|_| ())
    }
}

membrane_plugin::export_policy!(Scripted);
