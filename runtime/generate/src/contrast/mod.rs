//! Two chains of policies on one recorded answer: what the second lets pass and the first does not, and the other way round.
//!
//! What the model wrote is compared byte by byte: a byte that the first chain withheld, by a refusal, a stop or a
//! replacement, and the second lets out is newly allowed, whatever stands in its place. Both chains are shown the record
//! only as long as it is what the model would have said to them: where one changes what the model reads otherwise than the
//! recorded policies did, nothing behind that is compared.

mod walk;
mod withheld;

use std::ops::Range;

use membrane_audit::{self as audit, RecordedAnswer, Script};
use membrane_host::{Host, Intervention, Message, Plugin};
use serde::Serialize;

use crate::decide::messages;
use crate::error::Result;
use walk::{Called, Record, Walk};

/// What came of comparing two chains of policies on an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contrast {
    /// The gravest of the differences.
    pub outcome: Outcome,
    /// Each difference.
    pub differences: Vec<Difference>,
    /// Why not all of the answer could be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// What came of it, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The second lets something pass that the first does not.
    NewlyAllowed,
    /// The first lets something pass that the second does not.
    NewlyRefused,
    /// Both withhold the same, and do otherwise: other words in its place, another clause.
    Changed,
    /// Nothing differs as far as the record tells, and it does not tell all.
    CantTell,
    /// Nothing differs.
    Unchanged,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind it is of.
    pub outcome: Outcome,
    /// The hook, as the contract names it.
    pub hook: &'static str,
    /// In the hook `output`: bytes of what the model wrote, from the first to the one behind the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Range<u64>>,
    /// What the first chain rests on.
    pub a: Vec<Clause>,
    /// What the second rests on.
    pub b: Vec<Clause>,
}

/// The clause of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// Name of the policy.
    pub policy: String,
    /// The verdict.
    pub verdict: &'static str,
    /// Id of the clause.
    pub clause: String,
}

impl From<&Intervention> for Clause {
    fn from(made: &Intervention) -> Self {
        Self { policy: made.policy.clone(), verdict: made.verdict, clause: made.clause.clone() }
    }
}

/// Compares what the policies `a` and `b` say to a recorded answer; `recorded` is the behaviour that it began with.
///
/// Errors: a policy that can't be started, texts that are no messages.
pub fn contrast(
    host: &Host,
    (a, b): (&[Plugin], &[Plugin]),
    recorded: &audit::Behaviour,
    answer: &RecordedAnswer,
    script: &Script,
) -> Result<Contrast> {
    if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)) {
        return Ok(Contrast { outcome: Outcome::Unchanged, differences: Vec::new(), unknown: None });
    }
    if !script.texts || script.messages.is_none() {
        let why = "its texts were not kept, or were erased".to_owned();
        return Ok(Contrast { outcome: Outcome::CantTell, differences: Vec::new(), unknown: Some(why) });
    }
    let messages = messages(answer.number, script)?;
    let reason = answer.end().map(|end| end.reason.as_str());
    let record = Record { messages: &messages, script, policies: recorded, reason };
    let walks = |steps: usize| -> Result<(Walk, Walk)> {
        Ok((Walk::of(host, a, record, steps)?, Walk::of(host, b, record, steps)?))
    };
    let (a, b) = walks(usize::MAX)?;
    let unknown = [&a, &b].into_iter().filter_map(|walk| walk.unknown.clone()).min();
    // Behind the first place from which on one of them is not known, nothing is compared.
    let (a, b) = match &unknown {
        Some((steps, _)) => walks(*steps)?,
        None => (a, b),
    };
    let differences = Comparison { a: &a, b: &b, given: record }.all();
    let open = a.end.is_none() || b.end.is_none();
    let unknown = unknown.filter(|_| open).map(|(_, why)| why);
    let least = if unknown.is_some() { Outcome::CantTell } else { Outcome::Unchanged };
    let outcome = differences.iter().map(|difference| difference.outcome).min().unwrap_or(least);
    Ok(Contrast { outcome, differences, unknown })
}

struct Comparison<'a> {
    a: &'a Walk,
    b: &'a Walk,
    given: Record<'a>,
}

impl Comparison<'_> {
    fn all(&self) -> Vec<Difference> {
        let mut differences: Vec<Difference> =
            self.request().into_iter().chain(self.calls()).chain(self.ends()).collect();
        differences.extend(self.text(!differences.iter().any(|found| found.bytes.is_none())));
        if differences.is_empty() {
            differences.extend(self.otherwise());
        }
        differences
    }

    /// A difference that rests on all verdicts of a hook.
    fn difference(&self, outcome: Outcome, hook: &'static str) -> Difference {
        let clauses = |walk: &Walk| of_hook(walk, hook).map(Clause::from).collect();
        Difference { outcome, hook, bytes: None, a: clauses(self.a), b: clauses(self.b) }
    }

    fn request(&self) -> Option<Difference> {
        let (a, b) = (self.a.request.as_ref()?, self.b.request.as_ref()?);
        let given: Vec<Message> = self.given.messages.iter().map(crate::answer::to_host).collect();
        let lost = |by: &[Message], kept: &[Message]| {
            given.iter().any(|message| !by.contains(message) && kept.contains(message))
        };
        let outcome = match (lost(a, b), lost(b, a)) {
            _ if a == b => return None,
            (true, _) => Outcome::NewlyAllowed,
            (false, true) => Outcome::NewlyRefused,
            (false, false) => Outcome::Changed,
        };
        Some(self.difference(outcome, "request"))
    }

    fn calls(&self) -> Vec<Difference> {
        let asked = self.given.script.steps.iter().filter_map(|step| match step {
            audit::Step::Call(call) => Some(call),
            _ => None,
        });
        let calls = self.a.calls.iter().zip(&self.b.calls).zip(asked);
        let compared = calls.flat_map(|((a, b), asked)| {
            let (call, result) = match (a, b) {
                (Called::Denied(a), Called::Denied(b)) => ((a != b).then_some(Outcome::Changed), None),
                (Called::Denied(_), Called::Made(..)) => (Some(Outcome::NewlyAllowed), None),
                (Called::Made(..), Called::Denied(_)) => (Some(Outcome::NewlyRefused), None),
                (Called::Made(a, read_a), Called::Made(b, read_b)) => {
                    let result = read_a.as_ref().zip(read_b.as_ref()).zip(asked.result.as_ref());
                    let result = result.and_then(|((a, b), result)| against(result, a, b));
                    (against(&asked.asked.arguments, a, b), result)
                }
            };
            let call = call.map(|outcome| self.difference(outcome, "tool-call"));
            call.into_iter().chain(result.map(|outcome| self.difference(outcome, "tool-result")))
        });
        compared.collect()
    }

    /// One of them ends the answer, and the other does not.
    fn ends(&self) -> Option<Difference> {
        let (outcome, ended) = match (&self.a.end, &self.b.end) {
            (Some(_), None) => (Outcome::NewlyAllowed, self.a),
            (None, Some(_)) => (Outcome::NewlyRefused, self.b),
            _ => return None,
        };
        let verdict = ended.ending()?;
        let mut difference = self.difference(outcome, verdict.hook);
        let own = vec![Clause::from(verdict)];
        match outcome {
            Outcome::NewlyAllowed => difference.a = own,
            _ => difference.b = own,
        }
        Some(difference)
    }

    /// Bytes that one of them withholds and the other does not. Those behind an end are left out unless `behind`.
    fn text(&self, behind: bool) -> Vec<Difference> {
        let (a, b) = (self.a, self.b);
        let most = a.shown.max(b.shown);
        let length = a.decided().unwrap_or(most).min(b.decided().unwrap_or(most));
        let withheld = |walk: &Walk| {
            withheld::complement(&withheld::passed(&walk.edits(), walk.released.len() as u64), length)
        };
        let (from_a, from_b) = (withheld(a), withheld(b));
        let end = |walk: &Walk| withheld::decided(&walk.edits(), walk.released.len() as u64);
        let allowed = withheld::difference(&from_a, &from_b).into_iter();
        let refused = withheld::difference(&from_b, &from_a).into_iter();
        let spans = allowed
            .filter(|span| behind || span.start < end(a))
            .map(|span| (Outcome::NewlyAllowed, span))
            .chain(
                refused
                    .filter(|span| behind || span.start < end(b))
                    .map(|span| (Outcome::NewlyRefused, span)),
            );
        let difference = |(outcome, span): (Outcome, Range<u64>)| {
            let (a, b) = (clauses_on(a, &span), clauses_on(b, &span));
            Difference { outcome, hook: "output", bytes: Some(span), a, b }
        };
        spans.map(difference).collect()
    }

    /// Both let pass and withhold the same: the first verdict that differs, or the words.
    fn otherwise(&self) -> Option<Difference> {
        let key = |made: &&Intervention| (made.hook, made.verdict, made.clause.clone());
        let most = self.a.verdicts.len().max(self.b.verdicts.len());
        let both = (0..most).map(|index| (self.a.verdicts.get(index), self.b.verdicts.get(index)));
        let mut differing = both.filter(|(a, b)| a.as_ref().map(key) != b.as_ref().map(key));
        let clauses = |made: Option<&Intervention>| made.map(Clause::from).into_iter().collect();
        if let Some((a, b)) = differing.next() {
            let hook = a.or(b).map_or("output", |made| made.hook);
            let (a, b) = (clauses(a), clauses(b));
            return Some(Difference { outcome: Outcome::Changed, hook, bytes: None, a, b });
        }
        let same = self.a.end == self.b.end && words(self.a, self.b);
        (!same).then(|| self.difference(Outcome::Changed, "output"))
    }
}

/// Whether the words that came out are the same, as far as both have come.
fn words(a: &Walk, b: &Walk) -> bool {
    if a.decided() == b.decided() {
        return a.released == b.released;
    }
    a.released.starts_with(&b.released) || b.released.starts_with(&a.released)
}

/// What two texts are that were made of one.
fn against(given: &str, a: &str, b: &str) -> Option<Outcome> {
    match (a == given, b == given) {
        _ if a == b => None,
        (false, true) => Some(Outcome::NewlyAllowed),
        (true, false) => Some(Outcome::NewlyRefused),
        _ => Some(Outcome::Changed),
    }
}

fn of_hook<'a>(walk: &'a Walk, hook: &'a str) -> impl Iterator<Item = &'a Intervention> {
    walk.verdicts.iter().filter(move |made| made.hook == hook)
}

/// The clauses by which a chain withholds bytes of the model's text.
fn clauses_on(walk: &Walk, span: &Range<u64>) -> Vec<Clause> {
    let edits = walk.edits();
    let touches = |made: &&Intervention| {
        let (Some(edit), Some(policy)) = (made.edit, walk.place(&made.policy)) else { return false };
        let origin = withheld::origin(&edits, policy, &edit);
        !withheld::intersection(&origin, std::slice::from_ref(span)).is_empty()
    };
    let mut clauses: Vec<Clause> = walk.verdicts.iter().filter(touches).map(Clause::from).collect();
    let end = withheld::decided(&edits, walk.released.len() as u64);
    if span.end > end {
        clauses.extend(walk.ending().map(Clause::from));
    }
    clauses
}
