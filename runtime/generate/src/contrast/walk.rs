//! One chain of policies on a recorded answer, as long as the record is what the model would have said to it.

use membrane_audit::{self as audit, Call, CallText, Script, Step};
use membrane_host::{
    Ended, Host, Intervention, Invocation, Message, Plugin, PolicyChain, Refused, ToolCallOutcome,
};
use membrane_text::ChatMessage;

use super::withheld;
use crate::answer::to_host;
use crate::calls::denied;
use crate::error::Result;
use crate::judge::{Missing, Recorded};

/// What a chain of policies made of an answer.
pub(super) struct Walk {
    chain: PolicyChain,
    /// What the record does not say of what the model judges.
    unjudged: Missing,
    /// The policies' names, in their order.
    names: Vec<String>,
    /// The request as it passed; none if it did not.
    pub request: Option<Vec<Message>>,
    /// The calls of tools, in their order.
    pub calls: Vec<Called>,
    /// The verdicts, in their order.
    pub verdicts: Vec<Intervention>,
    /// Bytes of the model's text that it was shown.
    pub shown: u64,
    /// What it let pass of the text.
    pub released: String,
    /// How it ended the answer, if it did.
    pub end: Option<End>,
    /// A policy forced a text: what was pending then is gone, and nothing behind it is known.
    turned: bool,
    /// How many steps are known, where that is not all, and why.
    pub unknown: Option<(usize, String)>,
}

/// The end of an answer by a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// What the person is told, if it is a refusal.
    pub message: Option<String>,
}

/// What became of a call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Called {
    /// The arguments with which it is made, and what the model reads of its result, where that is known.
    Made(String, Option<String>),
    /// It is not; the note for the model.
    Denied(String),
}

/// What ends a walk.
enum Left {
    Refused(Refused),
    Stopped,
    Unknown(String),
}

impl From<Refused> for Left {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// A recorded answer, with the policies that made it.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub messages: &'a [ChatMessage],
    pub script: &'a Script,
    pub policies: &'a audit::Behaviour,
    /// How it ended; none if the program was killed.
    pub reason: Option<&'a str>,
}

impl Walk {
    /// Shows so many steps of the answer to policies, of which the request is the first.
    pub fn of(host: &Host, policies: &[Plugin], record: Record<'_>, steps: usize) -> Result<Self> {
        let (judge, unjudged) = Recorded::of(record.script);
        let names = policies.iter().map(|policy| policy.name().to_owned()).collect();
        let mut walk = Self {
            chain: PolicyChain::start_with(host, policies, Some(judge))?,
            unjudged,
            names,
            request: None,
            calls: Vec::new(),
            verdicts: Vec::new(),
            shown: 0,
            released: String::new(),
            end: None,
            turned: false,
            unknown: None,
        };
        for step in 0..(record.script.steps.len() + 2).min(steps) {
            let shown = walk.step(policies, record, step);
            if let Some(why) = walk.unjudged.get() {
                walk.unknown = Some((step, why));
                break;
            }
            match shown {
                Ok(()) => continue,
                Err(Left::Stopped) => walk.end = Some(End { message: None }),
                Err(Left::Unknown(why)) => walk.unknown = Some((step + 1, why)),
                Err(Left::Refused(refused)) => {
                    walk.verdicts.extend(refused.interventions);
                    walk.end = Some(End { message: Some(refused.message) });
                }
            }
            break;
        }
        Ok(walk)
    }

    fn step(&mut self, policies: &[Plugin], record: Record<'_>, step: usize) -> Result<(), Left> {
        let Some(index) = step.checked_sub(1) else { return self.ask(policies, record) };
        let Some(step) = record.script.steps.get(index) else { return self.finish(record) };
        match step {
            Step::Prompt { rendered, .. } => {
                Ok(self.chain.prompt(rendered.as_deref().unwrap_or_default())?)
            }
            Step::Output(output) => self.output(&output.text, output.done),
            Step::Call(call) => self.call(call),
            Step::Rewind { .. } => Err(Left::Unknown(
                "the recorded policies forced a text, which the model went on behind".into(),
            )),
            Step::Token(_) | Step::Swap(_) => Ok(()),
        }
    }

    fn ask(&mut self, policies: &[Plugin], record: Record<'_>) -> Result<(), Left> {
        let outcome = self.chain.request(record.messages.iter().map(to_host).collect())?;
        let rewrote = outcome.interventions.iter().map(|made| made.policy.clone()).collect();
        self.verdicts.extend(outcome.interventions);
        self.request = Some(outcome.messages);
        if same_rewriters(policies, rewrote, record) {
            return Ok(());
        }
        Err(Left::Unknown("the model would have read another request".into()))
    }

    fn output(&mut self, text: &str, done: bool) -> Result<(), Left> {
        self.shown += text.len() as u64;
        let outcome = self.chain.output(text, done);
        self.verdicts.extend(outcome.interventions);
        match outcome.ended {
            // Where a text was forced the model would have gone on behind it; what came out before was not the model's.
            Some(Ended::Forced) => {
                self.turned = true;
                return Err(Left::Unknown("a policy forces a text here".into()));
            }
            Some(Ended::Refused(refused)) => return Err(refused.into()),
            Some(Ended::Stopped) | None => self.released.push_str(&outcome.released),
        }
        if outcome.ended.is_some() { Err(Left::Stopped) } else { Ok(()) }
    }

    fn call(&mut self, recorded: &CallText) -> Result<(), Left> {
        match self.chain.tool_call(invocation(&recorded.asked))? {
            ToolCallOutcome::Denied { note, interventions } => {
                self.verdicts.extend(interventions);
                let as_then = recorded.made.is_none() && recorded.read.as_deref() == Some(&denied(&note));
                self.calls.push(Called::Denied(note));
                if as_then { Ok(()) } else { Err(Left::Unknown("this call would not have been made".into())) }
            }
            ToolCallOutcome::Allowed { call, interventions } => {
                self.verdicts.extend(interventions);
                self.calls.push(Called::Made(call.arguments.clone(), None));
                match (&recorded.made, &recorded.result) {
                    (Some(made), Some(result)) if invocation(made) == call => {
                        self.result(recorded, &call, result)
                    }
                    _ => Err(Left::Unknown("another call would have been made".into())),
                }
            }
        }
    }

    fn result(&mut self, recorded: &CallText, call: &Invocation, result: &str) -> Result<(), Left> {
        let outcome = self.chain.tool_result(call, result.to_owned())?;
        self.verdicts.extend(outcome.interventions);
        let as_then = recorded.read.as_deref() == Some(&outcome.output);
        if let Some(Called::Made(_, read)) = self.calls.last_mut() {
            *read = Some(outcome.output);
        }
        if as_then { Ok(()) } else { Err(Left::Unknown("the model would have read another result".into())) }
    }

    fn finish(&mut self, record: Record<'_>) -> Result<(), Left> {
        match record.reason {
            Some("refused" | "policy-stop") => {
                Err(Left::Unknown("the recorded policies ended the answer here".into()))
            }
            None => Err(Left::Unknown("the record breaks off here: the program was killed".into())),
            Some(_) => {
                let failures = self.chain.finish(&self.released)?;
                self.verdicts.extend(failures);
                Ok(())
            }
        }
    }

    /// The replacements of each policy.
    pub fn edits(&self) -> Vec<Vec<membrane_host::Edit>> {
        let of = |name: &String| {
            self.verdicts.iter().filter(|made| made.policy == *name).filter_map(|made| made.edit).collect()
        };
        self.names.iter().map(of).collect()
    }

    /// How much of the model's text it has decided on; behind it is what it holds back. None if it ended the answer or
    /// turned it, and so withheld all the rest.
    pub fn decided(&self) -> Option<u64> {
        let decided = withheld::decided(&self.edits(), self.released.len() as u64);
        (self.end.is_none() && !self.turned).then_some(decided)
    }

    /// The verdict that ended the answer or turned it.
    pub fn ending(&self) -> Option<&Intervention> {
        let ends = |made: &&Intervention| matches!(made.verdict, "refuse" | "fail" | "stop" | "force");
        self.verdicts.iter().rev().find(ends)
    }

    /// The place of a policy in the chain.
    pub fn place(&self, policy: &str) -> Option<usize> {
        self.names.iter().position(|name| name == policy)
    }
}

/// Whether the policies that rewrote the request are those that did in the record, with the same parameters. They are
/// deterministic, and were shown the same.
fn same_rewriters(policies: &[Plugin], rewrote: Vec<String>, record: Record<'_>) -> bool {
    let then = record.script.verdicts.iter();
    let then = then.filter(|made| made.hook == "request" && made.verdict == "rewrite");
    let then: Vec<&str> = then.map(|made| made.policy.as_str()).collect();
    then.len() == rewrote.len()
        && then.iter().zip(&rewrote).all(|(then, now)| {
            let mut recorded = record.policies.plugins.iter();
            let recorded = recorded.find(|plugin| plugin.kind == "policy" && plugin.name == **then);
            let plugin = policies.iter().find(|plugin| plugin.name() == now);
            recorded.zip(plugin).is_some_and(|(recorded, plugin)| {
                let parameters = serde_json::from_str::<serde_json::Map<_, _>>(plugin.parameters());
                plugin.digest().as_bytes() == recorded.digest.as_bytes()
                    && parameters.is_ok_and(|parameters| parameters == recorded.parameters)
            })
        })
}

fn invocation(call: &Call) -> Invocation {
    Invocation { name: call.name.clone(), arguments: call.arguments.clone() }
}
