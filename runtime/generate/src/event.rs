//! What a caller is told while an answer is made.

use membrane_engine::Counters;
use membrane_host::reload::{Effect, Swap};
use membrane_profile::{Digest, Kind};
use serde::Serialize;

/// One thing that happened. Text in events has been released by every policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The prompt is about to be computed.
    Prefill {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Of these, tokens that the session still had.
        reused_tokens: usize,
    },
    /// Released text of the answer. The texts between two prefills are what one round of the answer says.
    Text {
        /// At least one character.
        text: String,
    },
    /// A tool is called, after the policies have allowed it.
    ToolCall {
        /// Name of the tool.
        name: String,
        /// Arguments, a JSON object.
        arguments: String,
    },
    /// What the tool gave back, as the model reads it.
    ToolResult {
        /// Name of the tool.
        name: String,
        /// Whether the tool did what was asked.
        ok: bool,
        /// Text.
        output: String,
    },
    /// A policy did something other than to let pass.
    Intervention(Intervention),
    /// A plugin was replaced, added or removed while the program runs.
    Reloaded(Reload),
    /// The answer is over.
    End {
        /// Why.
        reason: EndReason,
        /// In place of what was withheld, if a policy refused; why an agent gave up or failed.
        message: Option<String>,
        /// Figures of the answer.
        stats: Stats,
    },
}

/// A policy's verdict other than to let pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Intervention {
    /// Name of the policy.
    pub policy: String,
    /// The hook that gave the verdict.
    pub hook: String,
    /// The verdict.
    pub verdict: String,
    /// Id of the clause that it rests on.
    pub clause: String,
    /// The policy's sentence for people.
    pub note: String,
    /// In the hook `output`: how many bytes of the answer the policy had let pass before the place that it
    /// concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_bytes: Option<u64>,
}

impl Intervention {
    /// Whether the policy failed when the answer was already out. No refusal and no error tells of it; only this
    /// does.
    pub fn is_failure_after_answer(&self) -> bool {
        self.hook == "finish" && self.verdict == "fail"
    }
}

/// A plugin that was replaced, added or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reload {
    /// `sampler`, `policy` or `tool`.
    pub kind: Kind,
    /// Its name.
    pub plugin: String,
    /// Digest of the version before; none if it is new.
    pub from: Option<Digest>,
    /// Digest of the version after; none if it was removed.
    pub to: Option<Digest>,
    /// `live`: from `token` on. `beside`: from `token` on, with the version before, which stays to the end of the
    /// answer. `next-answer`: not in this answer. `rolled-back`: `from` failed, and `to` makes `token` and those after.
    pub effect: &'static str,
    /// Whether it goes on from the state of the version before.
    pub state: bool,
    /// How many tokens had been chosen in this answer, tool rounds included: the first token that the change concerns
    /// has this number, counted from 0.
    pub token: usize,
    /// Why it is not live.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Reload {
    pub(crate) fn new(swap: Swap, token: usize) -> Self {
        let (effect, state, note) = match swap.effect {
            Effect::Live { state } => ("live", state, String::new()),
            Effect::Beside => ("beside", false, String::new()),
            Effect::NextAnswer { why } => ("next-answer", false, why),
            Effect::RolledBack { why } => ("rolled-back", false, why),
        };
        Self {
            kind: swap.world,
            plugin: swap.plugin,
            from: swap.from,
            to: swap.to,
            effect,
            state,
            token,
            note,
        }
    }
}

impl From<&membrane_host::Intervention> for Intervention {
    fn from(verdict: &membrane_host::Intervention) -> Self {
        Self {
            policy: verdict.policy.clone(),
            hook: verdict.hook.to_owned(),
            verdict: verdict.verdict.to_owned(),
            clause: verdict.clause.clone(),
            note: verdict.note.clone(),
            offset_bytes: verdict.offset_bytes,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The model ended it.
    Stop,
    /// A text that was asked to end it.
    StopText,
    /// The limit of tokens was reached.
    Length,
    /// The context is full.
    Context,
    /// The model called tools over and over.
    ToolRounds,
    /// A policy ended it after what it released.
    PolicyStop,
    /// A policy refused; nothing that was not released before came out.
    Refused,
    /// The caller cancelled it.
    Cancelled,
    /// The agent says that it could not do its task.
    GaveUp,
    /// The agent failed.
    AgentFailed,
}

impl EndReason {
    /// The name in events and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::StopText => "stop-text",
            Self::Length => "length",
            Self::Context => "context",
            Self::ToolRounds => "tool-rounds",
            Self::PolicyStop => "policy-stop",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::GaveUp => "gave-up",
            Self::AgentFailed => "agent-failed",
        }
    }
}

/// Figures of one answer, tool rounds included.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Tokens of the prompts that were computed; reused ones do not count.
    pub prefill_tokens: usize,
    /// Time for them, in seconds.
    pub prefill_seconds: f64,
    /// Tokens that the samplers chose.
    pub decode_tokens: usize,
    /// Time for them, in seconds, plugins included.
    pub decode_seconds: f64,
    /// Tokens that were drafted and computed ahead.
    #[serde(skip_serializing_if = "is_zero")]
    pub drafted_tokens: usize,
    /// Of those, tokens that the samplers then chose.
    #[serde(skip_serializing_if = "is_zero")]
    pub accepted_tokens: usize,
    /// Expert requests that found the expert in memory, 0 to 1; none for a model without experts.
    pub expert_hit_rate: Option<f64>,
    /// Bytes of experts read from disk.
    pub bytes_read: u64,
    /// Time that computing waited for those reads, in seconds.
    pub wait_seconds: f64,
    /// The largest memory of the process so far, in bytes.
    pub peak_memory_bytes: u64,
    /// Verdicts of policies other than to let pass.
    pub interventions: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Stats {
    /// Adds what a pager did during the answer.
    pub(crate) fn paged(&mut self, before: &Counters, after: &Counters) {
        let during = *after - *before;
        self.expert_hit_rate = during.hit_rate();
        self.bytes_read = during.bytes_read;
        self.wait_seconds = during.wait_ns as f64 * 1e-9;
    }

    /// Tokens a second of the prompt; none if nothing was computed.
    pub fn prefill_speed(&self) -> Option<f64> {
        (self.prefill_tokens > 0).then(|| self.prefill_tokens as f64 / self.prefill_seconds)
    }

    /// Tokens a second of the answer; none if there was none.
    pub fn decode_speed(&self) -> Option<f64> {
        (self.decode_tokens > 0).then(|| self.decode_tokens as f64 / self.decode_seconds)
    }
}
