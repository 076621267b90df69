//! Policies that join an answer.

use crate::bindings::policy::exports::membrane::plugin::policy_plugin::{
    PromptVerdict, RequestVerdict, ToolCallVerdict, ToolResultVerdict,
};
use crate::bindings::sampler::membrane::plugin::types as wit;
use crate::conversation::{Invocation, Message};
use crate::error::Failure;
use crate::exports::policy::{Prompt, Request, ToolCall, ToolResult};
use crate::limits::MAX_JOINED;
use crate::plugin::Plugin;
use crate::policy::{Intervention, Member, PolicyChain, Refused, Turn};
use crate::reload::{Effect, Swap, changed, removed};

/// Something that the policies of an answer have let pass.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Request(Vec<Message>),
    Prompt(String),
    Output(String),
    ToolCall(Invocation),
    ToolResult(Invocation, String),
}

/// What came of policies that were to join an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joining {
    /// Each policy that was to join or leave.
    pub swaps: Vec<Swap>,
    /// Verdicts of those that joined on the answer so far, where they end it.
    pub interventions: Vec<Intervention>,
}

/// Where a policy stands after it was shown the answer so far.
enum Walked {
    Joins,
    /// It ends the answer, by this verdict.
    Stops(Option<Intervention>),
    Refuses(Refused),
    /// It can't join. Why.
    Waits(String),
}

impl PolicyChain {
    /// Keeps what the policies let pass, so that others can join. To be called before the first hook.
    pub fn allow_joining(&mut self) {
        self.journal.get_or_insert_default();
    }

    /// Lets the policies of `after` that are not in force yet join, each behind all others. None leaves: those of
    /// `before` that `after` has not end with the answer.
    ///
    /// A policy that joins is walked through what the others have let pass: request, prompts, text, calls, results.
    /// Where it refuses or stops there, the answer ends. Where it would have changed the request, a call or a result,
    /// or fails, it does not join: the model has read those already.
    pub fn reload(&mut self, before: &[Plugin], after: &[Plugin]) -> Joining {
        let mut joining = Joining::default();
        for (_, new) in changed(before, after) {
            let old = self.plugins().rev().find(|old| old.name() == new.name()).cloned();
            let effect = if self.plugins().any(|old| old.same(new)) {
                Effect::Beside
            } else {
                match self.join(new) {
                    Ok(mut interventions) => {
                        joining.interventions.append(&mut interventions);
                        Effect::Beside
                    }
                    Err(why) => Effect::NextAnswer { why },
                }
            };
            joining.swaps.extend(Swap::between(old.as_ref(), Some(new), effect));
        }
        let why = "a policy stays in force to the end of an answer";
        let stays = Effect::NextAnswer { why: why.into() };
        let gone = removed(before, after).filter_map(|old| Swap::between(Some(old), None, stays.clone()));
        joining.swaps.extend(gone);
        joining
    }

    /// The policies that failed: one that ended the answer by that, or those that did when all was said.
    pub fn failed(&self) -> &[Plugin] {
        &self.failed
    }

    /// The policies in force, those that have joined among them.
    pub fn plugins(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        self.members.iter().map(|member| &member.instance.plugin)
    }

    /// Notes what all have let pass.
    pub(crate) fn saw(&mut self, seen: impl FnOnce() -> Seen) {
        let Some(journal) = &mut self.journal else { return };
        match (seen(), journal.last_mut()) {
            (Seen::Output(more), Some(Seen::Output(text))) => text.push_str(&more),
            (seen, _) => journal.push(seen),
        }
    }

    /// Why it can't join, or the verdicts by which it ended the answer.
    fn join(&mut self, plugin: &Plugin) -> Result<Vec<Intervention>, String> {
        if self.refused.is_some() || self.stopped {
            return Err("the answer has ended".into());
        }
        if self.joined == MAX_JOINED {
            return Err(format!("{MAX_JOINED} policies have joined this answer"));
        }
        let journal = self.journal.as_ref().ok_or("this answer keeps no journal")?;
        let mut member = Member::start(plugin, self.judge.as_ref()).map_err(|error| error.to_string())?;
        let walked = member.walk(journal).map_err(|failure| failure.to_string())?;
        if let Walked::Waits(why) = walked {
            return Err(why);
        }
        let index = self.members.len();
        self.members.push(member);
        self.joined += 1;
        Ok(match walked {
            Walked::Stops(stop) => {
                self.stopped = true;
                self.members.iter_mut().for_each(Member::drop_pending);
                stop.into_iter().collect()
            }
            Walked::Refuses(refused) => self.refuse(index, refused, Vec::new()).interventions,
            Walked::Joins | Walked::Waits(_) => Vec::new(),
        })
    }
}

impl Member {
    /// Shows the policy an answer so far.
    fn walk(&mut self, journal: &[Seen]) -> Result<Walked, Failure> {
        let mut text_bytes = 0;
        for seen in journal {
            let walked = match seen {
                Seen::Request(messages) => self.walk_request(messages)?,
                Seen::Prompt(rendered) => self.walk_prompt(rendered)?,
                Seen::Output(text) => {
                    text_bytes += text.len();
                    self.walk_output(text)
                }
                Seen::ToolCall(call) => self.walk_call(call)?,
                Seen::ToolResult(call, output) => self.walk_result(call, output)?,
            };
            if !matches!(walked, Walked::Joins) {
                return Ok(walked);
            }
        }
        // All of this text is out: what this policy holds back of it will not come a second time.
        self.out = self.pending.len();
        self.passed_bytes = (text_bytes - self.out) as u64;
        self.grown_bytes = 0;
        Ok(Walked::Joins)
    }

    fn walk_request(&mut self, messages: &[Message]) -> Result<Walked, Failure> {
        let shown: Vec<wit::Message> = messages.iter().cloned().map(Into::into).collect();
        Ok(match self.hook(&Request { messages: &shown })? {
            RequestVerdict::Allow => Walked::Joins,
            RequestVerdict::Rewrite(rewritten)
                if rewritten.messages.iter().cloned().map(Message::from).eq(messages.iter().cloned()) =>
            {
                Walked::Joins
            }
            RequestVerdict::Rewrite(_) => would_have_changed("the request"),
            RequestVerdict::Refuse(refusal) => Walked::Refuses(Refused::by(self.name(), "request", &refusal)),
        })
    }

    fn walk_prompt(&mut self, rendered: &str) -> Result<Walked, Failure> {
        Ok(match self.hook(&Prompt { rendered })? {
            PromptVerdict::Allow => Walked::Joins,
            PromptVerdict::Refuse(refusal) => Walked::Refuses(Refused::by(self.name(), "prompt", &refusal)),
        })
    }

    /// What it would have changed of the text is out; what it withholds from here on is what counts.
    fn walk_output(&mut self, text: &str) -> Walked {
        let mut made = Vec::new();
        match self.output(text, false, &mut made) {
            Ok((_, Turn::Go)) => Walked::Joins,
            Ok((_, Turn::Stop)) => Walked::Stops(made.pop()),
            Ok((_, Turn::Force)) => would_have_changed("the model's course"),
            Err(refused) if refused.clause == crate::POLICY_FAILED => Walked::Waits(refused.message),
            Err(refused) => Walked::Refuses(refused),
        }
    }

    fn walk_call(&mut self, call: &Invocation) -> Result<Walked, Failure> {
        Ok(match self.hook(&ToolCall { call: &call.into() })? {
            ToolCallVerdict::Allow => Walked::Joins,
            ToolCallVerdict::Rewrite(_) | ToolCallVerdict::Deny(_) => would_have_changed("a tool call"),
            ToolCallVerdict::Refuse(refusal) => {
                Walked::Refuses(Refused::by(self.name(), "tool-call", &refusal))
            }
        })
    }

    fn walk_result(&mut self, call: &Invocation, output: &str) -> Result<Walked, Failure> {
        let verdict = self.hook(&ToolResult { call: &call.into(), output })?;
        Ok(match verdict {
            ToolResultVerdict::Allow => Walked::Joins,
            ToolResultVerdict::Rewrite(_) => would_have_changed("a tool's result"),
            ToolResultVerdict::Refuse(refusal) => {
                Walked::Refuses(Refused::by(self.name(), "tool-result", &refusal))
            }
        })
    }
}

fn would_have_changed(what: &str) -> Walked {
    Walked::Waits(format!("it would have changed {what}, which the model has read"))
}
