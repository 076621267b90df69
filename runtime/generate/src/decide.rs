//! Decisions alone: what policies say to a recorded answer. No model is needed, and nothing is emitted.

use membrane_audit::{Call, Script, Step, Swap, Swapped, Verdict};
use membrane_host::{
    Ended, Host, Intervention, Invocation, Plugin, PolicyChain, Refused, ToolCallOutcome, World,
};
use membrane_text::ChatMessage;
use serde::Serialize;

use crate::answer::to_host;
use crate::error::{GenerateError, Result};
use crate::journal::swapped;
use crate::judge::Recorded;
use crate::replay::Versions;

/// A verdict other than to let pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// Name of the policy.
    pub policy: String,
    /// The hook, as the contract names it.
    pub hook: String,
    /// The verdict.
    pub verdict: String,
    /// Id of the clause that it rests on.
    pub clause: String,
    /// In the hook `output`: bytes that the policy had let pass before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_bytes: Option<u64>,
    /// Tokens of the answer that were chosen by then; none in a record, which has a span instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

impl From<&Verdict> for Decided {
    fn from(verdict: &Verdict) -> Self {
        Self {
            policy: verdict.policy.clone(),
            hook: verdict.hook.clone(),
            verdict: verdict.verdict.clone(),
            clause: verdict.clause.clone(),
            offset_bytes: verdict.offset_bytes,
            token: verdict.tokens.map(|tokens| tokens.end),
        }
    }
}

impl Decided {
    fn of(made: &Intervention, chosen: u64) -> Self {
        Self {
            policy: made.policy.clone(),
            hook: made.hook.to_owned(),
            verdict: made.verdict.to_owned(),
            clause: made.clause.clone(),
            offset_bytes: made.offset_bytes,
            token: (made.hook == "output").then_some(chosen),
        }
    }
}

/// What policies say to a recorded answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Their verdicts, in order.
    pub verdicts: Vec<Decided>,
    /// What they let through.
    pub released: String,
    /// What the person would have been told, if one refused.
    pub refused: Option<String>,
    /// The first exchange of policies in the middle of the answer that came out otherwise than it is recorded.
    pub first_swap: Option<String>,
    /// Why the record can't tell what they say, if it can't: one of them asks the model what it was not asked then.
    pub unknown: Option<String>,
}

/// Shows a recorded answer to policies, each of its texts as the recorded policies were shown it.
///
/// With other policies than the recorded ones, it shows them what the recorded answer was: what the model would have
/// said to a request that they rewrite or behind a text that they force is not known.
///
/// Where policies joined in the middle of the answer, those of `versions` join again at the same place; without `versions`
/// the given policies stand in the place of all.
///
/// Errors: a policy that can't be started, texts or a version that are not there.
pub fn decide(
    host: &Host,
    policies: &[Plugin],
    answer: u64,
    script: &Script,
    versions: Option<&Versions>,
) -> Result<Decisions> {
    let missing = |what: String| GenerateError::Replay { answer, what };
    let messages = messages(answer, script)?;
    if let Some(versions) = versions
        && let Some(swap) = script.swaps().find(|swap| !versions.contains_key(&swap.behaviour))
    {
        let number = swap.behaviour;
        return Err(missing(format!(
            "behaviour {number}, which was in force in the middle of it, is not there"
        )));
    }
    let (judge, missing) = Recorded::of(script);
    let mut chain = PolicyChain::start_with(host, policies, Some(judge))?;
    chain.allow_joining();
    let now = policies.to_vec();
    let mut deciding = Deciding { chain, decisions: Decisions::default(), chosen: 0, versions, now };
    if let Err(refused) = deciding.all(&messages, script) {
        deciding.note(&refused.interventions);
        deciding.decisions.refused = Some(refused.message);
    }
    deciding.decisions.unknown = missing.get();
    Ok(deciding.decisions)
}

/// The messages that a recorded answer was asked. Errors: a text of it is not there.
pub(crate) fn messages(answer: u64, script: &Script) -> Result<Vec<ChatMessage>> {
    let missing = |what: String| GenerateError::Replay { answer, what };
    let messages = script.messages.as_ref().filter(|_| script.texts);
    let messages = messages.ok_or_else(|| {
        let why = "its texts were not kept, or were erased (`--audit-keep text`)";
        missing(format!("decisions can't be replayed: {why}"))
    })?;
    serde_json::from_value(messages.clone().into()).map_err(|error| missing(error.to_string()))
}

struct Deciding<'a> {
    chain: PolicyChain,
    decisions: Decisions,
    versions: Option<&'a Versions>,
    /// The policies of the behaviour that was handed over last.
    now: Vec<Plugin>,
    /// Tokens of the answer that were chosen so far.
    chosen: u64,
}

impl Deciding<'_> {
    fn all(&mut self, messages: &[ChatMessage], script: &Script) -> Result<(), Refused> {
        let outcome = self.chain.request(messages.iter().map(to_host).collect())?;
        self.note(&outcome.interventions);
        for step in &script.steps {
            match step {
                Step::Prompt { rendered, .. } => {
                    self.chain.prompt(rendered.as_deref().unwrap_or_default())?
                }
                Step::Token(token) => self.chosen = token.index.saturating_add(1),
                Step::Output(output) => self.output(&output.text, output.done)?,
                Step::Call(call) => self.call(&call.asked, call.result.as_deref())?,
                Step::Swap(swap) => self.swap(swap),
                Step::Rewind { .. } => {}
            }
        }
        let released = self.decisions.released.clone();
        let failures = self.chain.finish(&released)?;
        self.note(&failures);
        Ok(())
    }

    /// Lets policies join as it is recorded.
    fn swap(&mut self, swap: &Swap) {
        let Some(new) = self.versions.and_then(|versions| versions.get(&swap.behaviour)) else { return };
        let before = std::mem::replace(&mut self.now, new.policies.clone());
        if swap.rolled_back {
            return;
        }
        let joining = self.chain.reload(&before, &new.policies);
        self.note(&joining.interventions);
        let policy = |swapped: &&Swapped| swapped.kind == World::Policy.as_str();
        let now: Vec<Swapped> = joining.swaps.iter().map(swapped).collect();
        if !swap.plugins.iter().filter(policy).eq(now.iter()) {
            let what = format!("the exchange of policies at token {} came out otherwise", swap.token);
            self.decisions.first_swap.get_or_insert(what);
        }
    }

    fn output(&mut self, text: &str, done: bool) -> Result<(), Refused> {
        let outcome = self.chain.output(text, done);
        self.note(&outcome.interventions);
        self.decisions.released.push_str(&outcome.released);
        match outcome.ended {
            Some(Ended::Refused(refused)) => Err(refused),
            // Forced text is followed by what the recorded model wrote, which is right for the recorded policies.
            Some(Ended::Stopped | Ended::Forced) | None => Ok(()),
        }
    }

    fn call(&mut self, asked: &Call, result: Option<&str>) -> Result<(), Refused> {
        let asked = Invocation { name: asked.name.clone(), arguments: asked.arguments.clone() };
        match self.chain.tool_call(asked)? {
            ToolCallOutcome::Allowed { call, interventions } => {
                self.note(&interventions);
                // A call that the recorded policies denied has no result.
                if let Some(result) = result {
                    let outcome = self.chain.tool_result(&call, result.to_owned())?;
                    self.note(&outcome.interventions);
                }
            }
            ToolCallOutcome::Denied { interventions, .. } => self.note(&interventions),
        }
        Ok(())
    }

    fn note(&mut self, interventions: &[Intervention]) {
        let chosen = self.chosen;
        self.decisions.verdicts.extend(interventions.iter().map(|made| Decided::of(made, chosen)));
    }
}
