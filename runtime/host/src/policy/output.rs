//! Text of the answer on its way through the policies, each of which may hold some of it back.

use crate::bindings::policy::exports::membrane::plugin::policy_plugin::OutputVerdict;
use crate::error::Failure;
use crate::exports::policy::Output;
use crate::grants::Grant;
use crate::limits::{MAX_FORCED, MAX_GROWTH_BYTES, MAX_PENDING_BYTES, MAX_REPLACEMENT_BYTES};
use crate::policy::chain::{Member, PolicyChain};
use crate::policy::verdict::{Edit, Intervention, Refused};
use crate::reload::Seen;

/// Replacements of one policy in one piece of text.
const MAX_REPLACEMENTS: usize = 4096;

/// Verdicts on one text that are told of, all policies together.
const MAX_INTERVENTIONS: usize = 64 << 10;
/// Bytes of text by which what a policy looks at grows at once: its fuel is that of a call, and an agent says as much as it likes.
/// They are more than [`MAX_REPLACEMENTS`], which ends a policy that replaces each byte.
const PIECE_BYTES: usize = 6 << 10;

/// What policies made of a piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputOutcome {
    /// Text that all policies have released, of this call and of earlier ones. A person may see it.
    pub released: String,
    /// Whether and how the policies ended the answer, or the model's course.
    pub ended: Option<Ended>,
    /// What they did, in order. A refusal is in `ended`.
    pub interventions: Vec<Intervention>,
}

/// How policies ended an answer, or turned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The answer ends after what was released.
    Stopped,
    /// The answer ends; a message takes the place of what was not released.
    Refused(Refused),
    /// A policy put a text in the place of what was pending. It is released as all text is; the model goes on
    /// behind what was released and [`PolicyChain::pending`].
    Forced,
}

/// What one policy did with the text before it.
pub(crate) enum Turn {
    Go,
    Stop,
    Force,
}

impl PolicyChain {
    /// Sends text of the answer through the policies. `done` is the end of the answer: nothing is held back
    /// after it.
    pub fn output(&mut self, text: &str, done: bool) -> OutputOutcome {
        if let Some(refused) = &self.refused {
            let refused = Refused { interventions: Vec::new(), ..refused.clone() };
            return OutputOutcome { ended: Some(Ended::Refused(refused)), ..OutputOutcome::default() };
        }
        if self.stopped {
            return OutputOutcome { ended: Some(Ended::Stopped), ..OutputOutcome::default() };
        }
        let mut outcome = OutputOutcome::default();
        match self.flow(text, done, &mut outcome) {
            Ok(released) => {
                self.saw(|| Seen::Output(released.clone()));
                outcome.released = released;
            }
            Err((index, refused)) => {
                outcome.ended = Some(Ended::Refused(self.refuse(index, refused, Vec::new())));
            }
        }
        outcome
    }

    /// Text that policies still hold back, in the order in which it would be released.
    pub fn pending(&self) -> String {
        self.members.iter().rev().map(|member| &member.pending[member.out..]).collect()
    }

    /// What all let pass. Errors: one refuses, which is named by its place.
    fn flow(
        &mut self,
        text: &str,
        mut done: bool,
        outcome: &mut OutputOutcome,
    ) -> Result<String, (usize, Refused)> {
        let mut text = text.to_owned();
        for index in 0..self.members.len() {
            let passed = self.members[index].output(&text, done, &mut outcome.interventions);
            let turn;
            (text, turn) = passed.map_err(|refused| (index, refused))?;
            match turn {
                Turn::Go => continue,
                Turn::Stop => {
                    done = true;
                    self.stopped = true;
                    outcome.ended = Some(Ended::Stopped);
                }
                Turn::Force => {
                    done = false;
                    outcome.ended = Some(Ended::Forced);
                    self.forced += 1;
                    if self.forced > MAX_FORCED {
                        let what = format!("more than {MAX_FORCED} forced texts in one answer");
                        let failure = self.members[index].instance.broke("output", what);
                        return Err((index, Refused::failed(&failure)));
                    }
                }
            }
            // What this policy and those before it have not let pass was the model's, and is gone.
            self.members[..=index].iter_mut().for_each(Member::drop_pending);
        }
        // A text that a later policy forces replaces an earlier policy's end.
        self.stopped = outcome.ended == Some(Ended::Stopped);
        Ok(text)
    }
}

impl Member {
    /// Adds text to what is pending, a piece at a time, and gives what this policy lets pass.
    pub(crate) fn output(
        &mut self,
        text: &str,
        done: bool,
        interventions: &mut Vec<Intervention>,
    ) -> Result<(String, Turn), Refused> {
        let mut passed = String::new();
        let mut pieces = pieces(text);
        let mut next = pieces.next();
        loop {
            self.pending.push_str(next.unwrap_or_default());
            next = pieces.next();
            let last = next.is_none();
            if self.pending.is_empty() && !done {
                return Ok((passed, Turn::Go));
            }
            let turn = self.piece((done && last, last), &mut passed, interventions)?;
            if last || !matches!(turn, Turn::Go) {
                // Of a text that it ends the rest is gone with what is pending.
                self.pending.extend(next.into_iter().chain(pieces));
                self.passed_bytes += passed.len() as u64;
                return Ok((passed, turn));
            }
        }
    }

    /// Asks about what is pending until the policy replaces no more of it, and where more is to come or much is left until it releases
    /// no more: what stands before something that it replaces goes out by itself.
    fn piece(
        &mut self,
        (done, last): (bool, bool),
        passed: &mut String,
        interventions: &mut Vec<Intervention>,
    ) -> Result<Turn, Refused> {
        // One that makes 64 KiB of each byte.
        let most = passed.len() + self.pending.len() + MAX_PENDING_BYTES;
        let mut replaced = 0;
        while replaced < MAX_REPLACEMENTS {
            let before = self.pending.len();
            let turn = self.ask(done, passed, interventions)?;
            if interventions.len() > MAX_INTERVENTIONS {
                let what = format!("more than {MAX_INTERVENTIONS} replacements in one text");
                return Err(Refused::failed(&self.instance.broke("output", what)));
            }
            if passed.len() > most {
                let what =
                    format!("more than {MAX_PENDING_BYTES} bytes in replacements of one piece of text");
                return Err(Refused::failed(&self.instance.broke("output", what)));
            }
            let more = !last || !done && self.pending.len() > PIECE_BYTES;
            let goes_on = more && (1..before).contains(&self.pending.len());
            match turn {
                None => replaced += 1,
                Some(Turn::Go) if goes_on => {}
                Some(turn) => return Ok(turn),
            }
        }
        let what = format!("more than {MAX_REPLACEMENTS} replacements in one piece of text");
        Err(Refused::failed(&self.instance.broke("output", what)))
    }

    /// One verdict on what is pending. None if the policy is to be asked again, on what is left.
    fn ask(
        &mut self,
        done: bool,
        passed: &mut String,
        interventions: &mut Vec<Intervention>,
    ) -> Result<Option<Turn>, Refused> {
        if self.pending.len() > MAX_PENDING_BYTES {
            let what = format!("it holds back more than {MAX_PENDING_BYTES} bytes");
            return Err(Refused::failed(&self.instance.broke("output", what)));
        }
        let pending = std::mem::take(&mut self.pending);
        let verdict = self.hook(&Output { pending: &pending, done });
        self.pending = pending;
        let offset = self.passed_bytes + passed.len() as u64;
        let mut record = |intervention: Intervention| {
            interventions.push(Intervention { offset_bytes: Some(offset), ..intervention });
        };
        match verdict.map_err(|failure| Refused::failed(&failure))? {
            OutputVerdict::Release(bytes) => {
                passed.push_str(&self.take("release", bytes)?);
                if done {
                    self.drop_pending();
                }
                Ok(Some(Turn::Go))
            }
            OutputVerdict::Replace(replacement) => {
                if replacement.bytes == 0 {
                    return Err(Refused::failed(&self.instance.broke("output", "it replaced nothing")));
                }
                let late = replacement.bytes as usize <= self.out;
                let at = self.taken_bytes;
                let removed = self.take("replacement", replacement.bytes)?;
                self.check_text(&replacement.text)?;
                // Nothing is withheld of what went out before this policy joined, and nothing stands in its place.
                if !late {
                    self.grow(replacement.text.len().saturating_sub(removed.len()))?;
                    passed.push_str(&replacement.text);
                    let edit = Some(Edit::new(at, &removed, offset, &replacement.text));
                    record(Intervention {
                        edit,
                        ..self.intervened("output", "replace", &replacement.reason)
                    });
                }
                Ok(self.pending.is_empty().then_some(Turn::Go))
            }
            OutputVerdict::Stop(ending) => {
                passed.push_str(&self.take("release", ending.release)?);
                record(self.intervened("output", "stop", &ending.reason));
                Ok(Some(Turn::Stop))
            }
            OutputVerdict::Force(forced) => {
                if !self.instance.plugin.grants().contains(&Grant::ForceText) {
                    let failure = self.instance.not_granted("output", "forced a text", Grant::ForceText);
                    return Err(Refused::failed(&failure));
                }
                self.check_text(&forced.text)?;
                self.grow(forced.text.len())?;
                passed.push_str(&forced.text);
                record(self.intervened("output", "force", &forced.reason));
                Ok(Some(Turn::Force))
            }
            OutputVerdict::Refuse(refusal) => Err(Refused::by(self.name(), "output", &refusal)),
        }
    }

    /// Takes bytes from the start of what is pending. Gives those that have not gone out before.
    fn take(&mut self, what: &str, bytes: u32) -> Result<String, Refused> {
        match self.pending.split_at_checked(bytes as usize) {
            Some((taken, rest)) => {
                let gone = self.out.min(taken.len());
                self.taken_bytes += taken.len() as u64;
                let taken = taken[gone..].to_owned();
                self.pending = rest.to_owned();
                self.out -= gone;
                Ok(taken)
            }
            None => {
                let length = self.pending.len();
                let place =
                    if bytes as usize > length { "beyond the pending text" } else { "within a character" };
                let what = format!("a {what} of {bytes} bytes ends {place}, which has {length} bytes");
                Err(Refused::failed(&self.instance.broke("output", what)))
            }
        }
    }

    /// Counts bytes by which the answer becomes longer.
    fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        self.grown_bytes += bytes;
        if self.grown_bytes <= MAX_GROWTH_BYTES {
            return Ok(());
        }
        let what = format!("it made one answer longer by more than {} MiB", MAX_GROWTH_BYTES >> 20);
        Err(Refused::failed(&self.instance.broke("output", what)))
    }

    fn check_text(&self, text: &str) -> Result<(), Refused> {
        if text.len() <= MAX_REPLACEMENT_BYTES {
            return Ok(());
        }
        let what = format!("a text of {} bytes; the limit is {MAX_REPLACEMENT_BYTES}", text.len());
        let failure: Failure = self.instance.broke("output", what);
        Err(Refused::failed(&failure))
    }
}

/// A text in pieces, cut at characters.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let mut end = text.len().min(PIECE_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
