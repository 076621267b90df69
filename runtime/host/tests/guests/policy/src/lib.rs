//! A policy that does `act` in the hook `hook`, and otherwise lets pass. In the hook `output` it acts where
//! it finds `word`, and holds back what may be the beginning of it.

use membrane_plugin::policy::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    hook: String,
    act: String,
    #[serde(default)]
    word: String,
    #[serde(default)]
    text: String,
}

struct Test(Parameters);

fn reason() -> Reason {
    Reason::new("test:clause", "because\u{1b}[31m")
}

impl Test {
    /// Fails if it is to fail in this hook; true if it is to do something else there.
    fn acts(&self, hook: &str) -> Result<bool, String> {
        if self.0.hook != hook {
            return Ok(false);
        }
        match self.0.act.as_str() {
            "error" => Err("a reported\u{1b}[31m error".to_owned()),
            "panic" => panic!("on purpose"),
            "loop" => {
                let mut count = 0u64;
                loop {
                    count = std::hint::black_box(count.wrapping_add(1));
                }
            }
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![hoard.len() as u8; 1 << 20]);
                }
            }
            _ => Ok(true),
        }
    }

    fn refusal(&self) -> Refusal {
        Refusal { message: "No\u{7}.\nReally.".to_owned(), reason: reason() }
    }

    fn rewritten(&self) -> RewrittenText {
        RewrittenText { text: self.0.text.clone(), reason: reason() }
    }

    fn act_on_output(&self, pending: &str, done: bool) -> OutputVerdict {
        let Parameters { act, word, text, .. } = &self.0;
        let text = text.clone();
        match act.as_str() {
            "release-beyond" => return OutputVerdict::Release(pending.len() as u32 + 1),
            "release-within" => {
                let inside = (0..pending.len()).find(|index| !pending.is_char_boundary(*index));
                return OutputVerdict::Release(inside.unwrap_or(pending.len()) as u32);
            }
            "never" if !done => return OutputVerdict::Release(0),
            "replace-nothing" => {
                return OutputVerdict::Replace(Replacement { bytes: 0, text, reason: reason() });
            }
            "replace-long" => {
                let text = "x".repeat(65_537);
                return OutputVerdict::Replace(Replacement { bytes: 1, text, reason: reason() });
            }
            "amplify" => {
                let text = "x".repeat(65_536);
                return OutputVerdict::Replace(Replacement { bytes: 1, text, reason: reason() });
            }
            "nibble" => return OutputVerdict::Replace(Replacement { bytes: 1, text, reason: reason() }),
            "long-refusal" => {
                let message = "\u{1b}]0;title\u{7}".repeat(700_000);
                return OutputVerdict::Refuse(Refusal { message, reason: reason() });
            }
            "force-always" => return OutputVerdict::Force(ForcedText { text, reason: reason() }),
            _ => {}
        }
        match pending.find(word.as_str()) {
            // What stands before the word goes along: at the end there is no further call for it.
            Some(at) if act == "replace" => OutputVerdict::Replace(Replacement {
                bytes: (at + word.len()) as u32,
                text: format!("{}{text}", &pending[..at]),
                reason: reason(),
            }),
            Some(at) if act == "stop" => OutputVerdict::Stop(Ending { release: at as u32, reason: reason() }),
            Some(_) if act == "force" => OutputVerdict::Force(ForcedText { text, reason: reason() }),
            Some(_) if act == "refuse" => OutputVerdict::Refuse(self.refusal()),
            _ if done => OutputVerdict::release_all(pending),
            _ => {
                let held = (1..word.len()).rev().find(|n| pending.ends_with(&word[..*n])).unwrap_or(0);
                OutputVerdict::Release((pending.len() - held) as u32)
            }
        }
    }
}

impl Policy for Test {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        let test = Self(parameters);
        test.acts("configure")?;
        Ok(test)
    }

    fn request(&mut self, mut messages: Vec<Message>) -> Result<RequestVerdict, String> {
        if !self.acts("request")? {
            return Ok(RequestVerdict::Allow);
        }
        match self.0.act.as_str() {
            "refuse" => Ok(RequestVerdict::Refuse(self.refusal())),
            "empty" => {
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages: Vec::new(), reason: reason() }))
            }
            "drop-system" => {
                messages.retain(|message| message.role != Role::System);
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages, reason: reason() }))
            }
            "system-to-user" => {
                messages.iter_mut().for_each(|message| message.role = Role::User);
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages, reason: reason() }))
            }
            "messages" => {
                messages.resize(20_001, Message::new(Role::User, ""));
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages, reason: reason() }))
            }
            "long-message" => {
                messages.push(Message::new(Role::User, "x".repeat(17 << 20)));
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages, reason: reason() }))
            }
            "rewrite-users" => {
                let users = messages.iter_mut().filter(|message| message.role == Role::User);
                users.for_each(|message| message.content.clone_from(&self.0.text));
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages, reason: reason() }))
            }
            _ => {
                messages.insert(0, Message::new(Role::System, self.0.text.clone()));
                Ok(RequestVerdict::Rewrite(RewrittenRequest { messages, reason: reason() }))
            }
        }
    }

    fn prompt(&mut self, _: &str) -> Result<PromptVerdict, String> {
        let acts = self.acts("prompt")?;
        Ok(if acts { PromptVerdict::Refuse(self.refusal()) } else { PromptVerdict::Allow })
    }

    fn output(&mut self, pending: &str, done: bool) -> Result<OutputVerdict, String> {
        if self.acts("output")? {
            return Ok(self.act_on_output(pending, done));
        }
        Ok(OutputVerdict::release_all(pending))
    }

    fn tool_call(&mut self, _: Invocation) -> Result<ToolCallVerdict, String> {
        if !self.acts("tool-call")? {
            return Ok(ToolCallVerdict::Allow);
        }
        Ok(match self.0.act.as_str() {
            "rewrite" => ToolCallVerdict::Rewrite(self.rewritten()),
            "deny" => ToolCallVerdict::Deny(reason()),
            _ => ToolCallVerdict::Refuse(self.refusal()),
        })
    }

    fn tool_result(&mut self, _: Invocation, _: &str) -> Result<ToolResultVerdict, String> {
        if !self.acts("tool-result")? {
            return Ok(ToolResultVerdict::Allow);
        }
        Ok(match self.0.act.as_str() {
            "rewrite" => ToolResultVerdict::Rewrite(self.rewritten()),
            _ => ToolResultVerdict::Refuse(self.refusal()),
        })
    }

    fn finish(&mut self, _: &str) -> Result<(), String> {
        self.acts("finish").map(drop)
    }
}

membrane_plugin::export_policy!(Test);
