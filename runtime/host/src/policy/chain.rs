//! The chain of policies: every hook goes through all of them in order.

use crate::World;
use crate::bindings::policy::Policy;
use crate::bindings::policy::exports::membrane::plugin::policy_plugin::{
    PromptVerdict, RequestVerdict, ToolCallVerdict, ToolResultVerdict,
};
use crate::bindings::sampler::membrane::plugin::types as wit;
use crate::call::Instance;
use crate::conversation::{Invocation, Message, Role};
use crate::engine::Host;
use crate::error::{Failure, Result};
use crate::exports::Export;
use crate::exports::policy::{Configure, Finish, Prompt, Request, ToolCall, ToolResult};
use crate::grants::Grant;
use crate::judge::SharedJudge;
use crate::limits::{
    MAX_ARGUMENTS_BYTES, MAX_ARGUMENTS_VALUES, MAX_MESSAGE_BYTES, MAX_MESSAGES, MAX_RESULT_BYTES,
};
use crate::plugin::Plugin;
use crate::policy::verdict::{Intervention, Refused};
use crate::reload::Seen;
use crate::values;

/// Instances of policies for one answer.
///
/// After a refusal the chain refuses everything.
pub struct PolicyChain {
    pub(crate) members: Vec<Member>,
    pub(crate) refused: Option<Refused>,
    /// Those that failed.
    pub(crate) failed: Vec<Plugin>,
    /// A policy has ended the answer.
    pub(crate) stopped: bool,
    pub(super) forced: u32,
    /// What the policies have let pass in this answer, if others may join.
    pub(crate) journal: Option<Vec<Seen>>,
    /// Policies that have joined.
    pub(crate) joined: usize,
    /// Whom those that were granted it may ask.
    pub(crate) judge: Option<SharedJudge>,
}

/// One policy of the chain.
pub(crate) struct Member {
    pub instance: Instance<Policy>,
    /// Text that the policies before have let pass and this one has not.
    pub pending: String,
    /// Bytes at the start of it that went out before this policy joined, and must not go out again.
    pub out: usize,
    /// Bytes that this policy has let pass.
    pub passed_bytes: u64,
    /// Bytes of the text before it that it has released or replaced.
    pub taken_bytes: u64,
    /// Bytes that it has put into the answer beyond those that they stand for.
    pub grown_bytes: usize,
}

/// A request that may be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOutcome {
    /// The conversation as the policies let it pass.
    pub messages: Vec<Message>,
    /// What they changed.
    pub interventions: Vec<Intervention>,
}

/// What becomes of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolCallOutcome {
    /// It is made.
    Allowed {
        /// The call as the policies let it pass.
        call: Invocation,
        /// What they changed.
        interventions: Vec<Intervention>,
    },
    /// It is not made, and the model is told so.
    Denied {
        /// For the model.
        note: String,
        /// The denial, after what was changed before.
        interventions: Vec<Intervention>,
    },
}

/// A tool's result as the model may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResultOutcome {
    /// Text.
    pub output: String,
    /// What policies changed.
    pub interventions: Vec<Intervention>,
}

/// In place of a text that a policy does not let pass as it is.
pub(super) const WITHHELD: &str = "(withheld by a policy)";

impl PolicyChain {
    /// A text that is no part of an answer, such as a line of a plugin's log: itself, if each of these policies lets it pass
    /// as an answer, and a word in its place if not.
    ///
    /// Where a policy needs the model for that, nothing passes.
    pub fn judged(host: &Host, plugins: &[Plugin], text: &str) -> String {
        Self::judged_with(host, plugins, None, text)
    }

    /// The same, with a judge for the policies that were granted one.
    pub fn judged_with(host: &Host, plugins: &[Plugin], judge: Option<SharedJudge>, text: &str) -> String {
        if plugins.is_empty() || Self::passes(host, plugins, judge, text) {
            text.to_owned()
        } else {
            WITHHELD.to_owned()
        }
    }

    /// Whether policies let a text pass as an answer, as it is.
    pub(super) fn passes(host: &Host, plugins: &[Plugin], judge: Option<SharedJudge>, text: &str) -> bool {
        let Ok(mut chain) = Self::start_with(host, plugins, judge) else { return false };
        if chain.request(vec![Message { role: Role::User, content: String::new() }]).is_err() {
            return false;
        }
        let outcome = chain.output(text, true);
        outcome.ended.is_none() && outcome.released == text && chain.finish(text).is_ok()
    }

    /// Starts an instance of each plugin and configures it. Errors: a plugin that is no policy or fails to
    /// start; nothing may be answered then.
    pub fn start(host: &Host, plugins: &[Plugin]) -> Result<Self> {
        Self::start_with(host, plugins, None)
    }

    /// The same, with a judge for those that were granted one. Without one, a hook that asks it fails.
    pub fn start_with(_host: &Host, plugins: &[Plugin], judge: Option<SharedJudge>) -> Result<Self> {
        let members = plugins.iter().map(|plugin| Member::start(plugin, judge.as_ref()));
        let members = members.collect::<Result<_>>()?;
        Ok(Self {
            members,
            refused: None,
            failed: Vec::new(),
            stopped: false,
            forced: 0,
            journal: None,
            joined: 0,
            judge,
        })
    }

    /// Whether there are no policies.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The request, before the chat template.
    pub fn request(&mut self, messages: Vec<Message>) -> Result<RequestOutcome, Refused> {
        self.alive()?;
        let mut messages: Vec<wit::Message> = messages.into_iter().map(Into::into).collect();
        let mut interventions = Vec::new();
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let verdict = member.hook(&Request { messages: &messages });
            match self.verdict(index, verdict, &mut interventions)? {
                RequestVerdict::Allow => {}
                RequestVerdict::Rewrite(rewritten) => {
                    if let Err(failure) = self.members[index].check_rewrite(&messages, &rewritten.messages) {
                        return Err(self.refuse(index, Refused::failed(&failure), interventions));
                    }
                    interventions.push(self.members[index].intervened(
                        "request",
                        "rewrite",
                        &rewritten.reason,
                    ));
                    messages = rewritten.messages;
                }
                RequestVerdict::Refuse(refusal) => {
                    let refused = Refused::by(self.members[index].name(), "request", &refusal);
                    return Err(self.refuse(index, refused, interventions));
                }
            }
        }
        let messages: Vec<Message> = messages.into_iter().map(Into::into).collect();
        self.saw(|| Seen::Request(messages.clone()));
        Ok(RequestOutcome { messages, interventions })
    }

    /// The rendered prompt.
    pub fn prompt(&mut self, rendered: &str) -> Result<(), Refused> {
        self.alive()?;
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let verdict = member.hook(&Prompt { rendered });
            if let PromptVerdict::Refuse(refusal) = self.verdict(index, verdict, &mut Vec::new())? {
                let refused = Refused::by(self.members[index].name(), "prompt", &refusal);
                return Err(self.refuse(index, refused, Vec::new()));
            }
        }
        self.saw(|| Seen::Prompt(rendered.to_owned()));
        Ok(())
    }

    /// A call that the model wants to make. Arguments that are no JSON object, name a field twice or are too long are denied by
    /// the host.
    pub fn tool_call(&mut self, call: Invocation) -> Result<ToolCallOutcome, Refused> {
        self.alive()?;
        let mut interventions = Vec::new();
        if values::of_arguments(&call.arguments).is_none() {
            let note = format!(
                "the arguments are not a JSON object of at most {MAX_ARGUMENTS_BYTES} bytes and {MAX_ARGUMENTS_VALUES} \
                 values that names no field twice"
            );
            return Ok(ToolCallOutcome::Denied { note, interventions });
        }
        let mut call = call;
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let verdict = member.hook(&ToolCall { call: &(&call).into() });
            match self.verdict(index, verdict, &mut interventions)? {
                ToolCallVerdict::Allow => {}
                ToolCallVerdict::Rewrite(rewritten) => {
                    let member = &self.members[index];
                    if values::of_arguments(&rewritten.text).is_none() {
                        let what = "it rewrote arguments to what is no JSON object, names a field twice, or is too long";
                        let failure = member.instance.broke("tool-call", what);
                        return Err(self.refuse(index, Refused::failed(&failure), interventions));
                    }
                    interventions.push(member.intervened("tool-call", "rewrite", &rewritten.reason));
                    call.arguments = rewritten.text;
                }
                ToolCallVerdict::Deny(reason) => {
                    let denial = self.members[index].intervened("tool-call", "deny", &reason);
                    let note = denial.note.clone();
                    interventions.push(denial);
                    return Ok(ToolCallOutcome::Denied { note, interventions });
                }
                ToolCallVerdict::Refuse(refusal) => {
                    let refused = Refused::by(self.members[index].name(), "tool-call", &refusal);
                    return Err(self.refuse(index, refused, interventions));
                }
            }
        }
        self.saw(|| Seen::ToolCall(call.clone()));
        Ok(ToolCallOutcome::Allowed { call, interventions })
    }

    /// What a tool gave back, before the model reads it.
    pub fn tool_result(&mut self, call: &Invocation, output: String) -> Result<ToolResultOutcome, Refused> {
        self.alive()?;
        let mut output = output;
        let mut interventions = Vec::new();
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let verdict = member.hook(&ToolResult { call: &call.into(), output: &output });
            match self.verdict(index, verdict, &mut interventions)? {
                ToolResultVerdict::Allow => {}
                ToolResultVerdict::Rewrite(rewritten) => {
                    let member = &self.members[index];
                    if rewritten.text.len() > MAX_RESULT_BYTES {
                        let what = format!("it rewrote a result to more than {MAX_RESULT_BYTES} bytes");
                        let failure = member.instance.broke("tool-result", what);
                        return Err(self.refuse(index, Refused::failed(&failure), interventions));
                    }
                    interventions.push(member.intervened("tool-result", "rewrite", &rewritten.reason));
                    output = rewritten.text;
                }
                ToolResultVerdict::Refuse(refusal) => {
                    let refused = Refused::by(self.members[index].name(), "tool-result", &refusal);
                    return Err(self.refuse(index, refused, interventions));
                }
            }
        }
        self.saw(|| Seen::ToolResult(call.clone(), output.clone()));
        Ok(ToolResultOutcome { output, interventions })
    }

    /// The whole text that was released, at the end of the answer. Gives the failures.
    ///
    /// The text is out by now, and a failure can't take it back: it is told as what it is, and the other
    /// policies still get the text for their records. But the chain is over, as after any failure.
    pub fn finish(&mut self, released: &str) -> Result<Vec<Intervention>, Refused> {
        self.alive()?;
        let mut failures = Vec::new();
        for member in &mut self.members {
            let finished = member.hook(&Finish { released });
            if let Err(failure) = finished {
                failures.push(Intervention::failed(&failure));
                self.failed.push(member.instance.plugin.clone());
                self.refused.get_or_insert_with(|| Refused::failed(&failure));
            }
        }
        Ok(failures)
    }

    /// Whether a policy has ended the answer.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    fn alive(&self) -> Result<(), Refused> {
        match &self.refused {
            Some(refused) => Err(Refused { interventions: Vec::new(), ..refused.clone() }),
            None => Ok(()),
        }
    }

    /// The verdict of the policy at this place, or the refusal that a failure counts as.
    fn verdict<R>(
        &mut self,
        index: usize,
        verdict: Result<R, Failure>,
        interventions: &mut Vec<Intervention>,
    ) -> Result<R, Refused> {
        verdict
            .map_err(|failure| self.refuse(index, Refused::failed(&failure), std::mem::take(interventions)))
    }

    /// Ends the chain by the policy at this place: what is held back is gone.
    pub(crate) fn refuse(&mut self, index: usize, refused: Refused, earlier: Vec<Intervention>) -> Refused {
        if refused.is_failure() {
            self.failed.push(self.members[index].instance.plugin.clone());
        }
        self.refused = Some(refused.clone());
        self.members.iter_mut().for_each(Member::drop_pending);
        refused.after(earlier)
    }
}

impl Member {
    pub fn start(plugin: &Plugin, judge: Option<&SharedJudge>) -> Result<Self> {
        plugin.require(World::Policy)?;
        let instance = Instance::start(plugin)?;
        let mut member = Self {
            instance,
            pending: String::new(),
            out: 0,
            passed_bytes: 0,
            taken_bytes: 0,
            grown_bytes: 0,
        };
        member.hook(&Configure { parameters: plugin.parameters() })?;
        let state = member.instance.state();
        state.configured = true;
        if plugin.grants().contains(&Grant::Judge) {
            state.bench = judge.cloned().map(Into::into);
        }
        Ok(member)
    }

    /// Drops what is pending.
    pub fn drop_pending(&mut self) {
        self.taken_bytes += self.pending.len() as u64;
        self.pending.clear();
        self.out = 0;
    }

    pub fn name(&self) -> &str {
        self.instance.plugin.name()
    }

    pub fn hook<R, X: Export<Policy, Output = Result<R, String>>>(&mut self, call: &X) -> Result<R, Failure> {
        self.instance.strict_hook(call)
    }

    pub fn intervened(
        &self,
        hook: &'static str,
        verdict: &'static str,
        reason: &wit::Reason,
    ) -> Intervention {
        Intervention::new(self.name(), hook, verdict, reason)
    }

    fn check_rewrite(&self, before: &[wit::Message], messages: &[wit::Message]) -> Result<(), Failure> {
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        if messages.is_empty() || messages.len() > MAX_MESSAGES || bytes > MAX_MESSAGE_BYTES {
            let what = format!(
                "it rewrote the request to {} messages of {bytes} bytes; there must be 1 to {MAX_MESSAGES}, \
                 and at most {MAX_MESSAGE_BYTES} bytes",
                messages.len()
            );
            return Err(self.instance.broke("request", what));
        }
        if !self.instance.plugin.grants().contains(&Grant::SystemPrompt)
            && !system(before).eq(system(messages))
        {
            return Err(self.instance.not_granted(
                "request",
                "changed the system messages",
                Grant::SystemPrompt,
            ));
        }
        Ok(())
    }
}

/// The system messages of a conversation.
fn system(messages: &[wit::Message]) -> impl Iterator<Item = &str> {
    messages
        .iter()
        .filter(|message| message.role == wit::Role::System)
        .map(|message| message.content.as_str())
}
