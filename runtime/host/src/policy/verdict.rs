//! Verdicts other than to let pass, as records.

use std::fmt;

use crate::bindings::policy::exports::membrane::plugin::policy_plugin::Refusal;
use crate::bindings::sampler::membrane::plugin::types::Reason;
use crate::error::Failure;
use crate::limits::{MAX_CLAUSE_BYTES, MAX_NOTE_BYTES, MAX_REFUSAL_BYTES};

/// The clause of a refusal because a policy failed.
pub const POLICY_FAILED: &str = "membrane:policy-failed";

/// A verdict of a policy other than to let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intervention {
    /// Name of the policy.
    pub policy: String,
    /// The hook that gave it, as the contract names it.
    pub hook: &'static str,
    /// `rewrite`, `replace`, `stop`, `deny`, `force`, `refuse` or `fail`.
    pub verdict: &'static str,
    /// Id of the clause that it rests on.
    pub clause: String,
    /// A sentence for people.
    pub note: String,
    /// In the hook `output`: how many bytes the policy had let pass in this answer before the place that it
    /// concerns.
    pub offset_bytes: Option<u64>,
    /// What it took out of the text, if it is a replacement in the hook `output`.
    pub edit: Option<Edit>,
}

/// A replacement, in the bytes of the text that came to the policy. What both texts begin or end with is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// Where it begins in the text that the policies before have let pass.
    pub at_bytes: u64,
    /// Bytes that were taken out there.
    pub removed_bytes: u64,
    /// Where it begins in the text that this policy has let pass.
    pub out_bytes: u64,
    /// Bytes that stand there in their place.
    pub inserted_bytes: u64,
}

/// The end of an answer by a policy; the person sees `message` in place of what was not released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Name of the policy.
    pub policy: String,
    /// Id of the clause.
    pub clause: String,
    /// For the person.
    pub message: String,
    /// The refusal, after the interventions of the same call that came before it.
    pub interventions: Vec<Intervention>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl Intervention {
    pub(super) fn new(policy: &str, hook: &'static str, verdict: &'static str, reason: &Reason) -> Self {
        Self {
            policy: policy.to_owned(),
            hook,
            verdict,
            clause: crate::text::clean(&reason.clause, MAX_CLAUSE_BYTES),
            note: crate::text::clean(&reason.note, MAX_NOTE_BYTES),
            offset_bytes: None,
            edit: None,
        }
    }

    /// The record of a failure.
    pub(super) fn failed(Failure { plugin, hook, cause }: &Failure) -> Self {
        Self {
            policy: plugin.clone(),
            hook,
            verdict: "fail",
            clause: POLICY_FAILED.to_owned(),
            note: crate::text::clean(&format!("{hook} {cause}"), MAX_NOTE_BYTES),
            offset_bytes: None,
            edit: None,
        }
    }
}

impl Edit {
    /// The replacement of `removed` by `inserted`; `at_bytes` and `out_bytes` are where the two begin.
    pub(super) fn new(at_bytes: u64, removed: &str, out_bytes: u64, inserted: &str) -> Self {
        let (removed, inserted) = (removed.as_bytes(), inserted.as_bytes());
        let start = removed.iter().zip(inserted).take_while(|(a, b)| a == b).count();
        let (removed, inserted) = (&removed[start..], &inserted[start..]);
        let end = removed.iter().rev().zip(inserted.iter().rev()).take_while(|(a, b)| a == b).count();
        Self {
            at_bytes: at_bytes + start as u64,
            removed_bytes: (removed.len() - end) as u64,
            out_bytes: out_bytes + start as u64,
            inserted_bytes: (inserted.len() - end) as u64,
        }
    }
}

impl Refused {
    /// A refusal that a policy gave.
    pub(crate) fn by(policy: &str, hook: &'static str, refusal: &Refusal) -> Self {
        let intervention = Intervention::new(policy, hook, "refuse", &refusal.reason);
        Self {
            policy: policy.to_owned(),
            clause: intervention.clause.clone(),
            message: lines(&refusal.message),
            interventions: vec![intervention],
        }
    }

    /// The refusal that a failure counts as. The message is the host's.
    pub(super) fn failed(failure: &Failure) -> Self {
        let intervention = Intervention::failed(failure);
        let (policy, note) = (&intervention.policy, &intervention.note);
        Self {
            policy: policy.clone(),
            clause: POLICY_FAILED.to_owned(),
            message: format!("The answer was withheld: policy `{policy}` failed: {note}"),
            interventions: vec![intervention],
        }
    }

    /// Whether the policy gave no verdict, but failed.
    pub(super) fn is_failure(&self) -> bool {
        self.interventions.last().is_some_and(|made| made.verdict == "fail")
    }

    /// With interventions of the same call that came before.
    pub(super) fn after(mut self, mut earlier: Vec<Intervention>) -> Self {
        earlier.append(&mut self.interventions);
        self.interventions = earlier;
        self
    }
}

/// A message of several lines, each without control characters.
fn lines(text: &str) -> String {
    let mut cut = text.len().min(MAX_REFUSAL_BYTES);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let lines: Vec<String> = text[..cut].lines().map(|line| crate::text::clean(line, cut)).collect();
    lines.join("\n")
}
