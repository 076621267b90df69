//! Self-speculation: drafts of what comes next, computed in the pass of the token before.
//!
//! It stands below the decode loop, which chooses each token as it would without: a pass that computes drafts ahead spares
//! the passes of those that are then chosen. [`Gate`] measures whether that gains time, and drafts only while it does.

mod gate;
mod lookup;
mod trial;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gate::{Measured, Outlook, Source};
use membrane_engine::{EngineError, Model, Session, Speculate};

use crate::passes::Seat;
pub use trial::{Trial, trial};

/// Most drafts of the model's own head: it was trained for one, and each goes through it behind the other.
const HEAD_DRAFTS: usize = 3;
/// Shortest match that comes before the head where all drafts are computed, in tokens.
const LEAST_MATCH: usize = 3;

/// What was measured of a model's passes and drafts. Clones share it, and so do all answers of a model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Measured>>);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drafts of one round of decoding.
pub(crate) struct Drafting {
    gate: Gate,
    mode: Speculate,
    /// Most drafts in a pass.
    most: usize,
    /// The last pass with drafts, as long as it is not known what became of all of them.
    open: Option<Open>,
    /// A draft by a match of this length that was not computed ahead: whether it comes true is known without cost.
    aside: Option<(usize, u32)>,
    /// Drafts that went through the model.
    pub drafted: usize,
    /// Of those, tokens that were chosen.
    pub accepted: usize,
}

/// A pass with drafts, or one that made up for drafts that were not taken.
struct Open {
    source: Source,
    taken: usize,
    /// Time of the pass and of making the drafts.
    seconds: f64,
}

impl Drafting {
    pub fn new(gate: &Gate, model: &Model) -> Self {
        let (mode, most) = (model.speculate(), model.plan().drafts as usize);
        Self { gate: gate.clone(), mode, most, open: None, aside: None, drafted: 0, accepted: 0 }
    }

    /// Appends the token that was chosen: without a pass if it was computed ahead, otherwise with one, in which others may have
    /// a part. Errors: as for [`Session::append`].
    pub fn append(
        &mut self,
        session: &mut Session,
        token: u32,
        seat: Option<&Seat>,
    ) -> Result<(), EngineError> {
        if self.most == 0 {
            return pass(session, token, &[], seat);
        }
        if session.foresees(&[token]) {
            self.accepted += 1;
            self.open.iter_mut().for_each(|open| open.taken += 1);
            return session.append(&[token]);
        }
        self.judge(session.ahead() > 0);
        if let Some((matched, draft)) = self.aside.take() {
            self.gate.lock().seen(Source::Match(matched), 0, draft == token);
        }
        let guess = lookup::guess(session.tokens(), token, self.most);
        let (matched, mut drafts) = guess.unwrap_or_default();
        let behind = session.behind();
        // Those who share a pass have the gain of reading weights once already.
        let alone = seat.is_none_or(Seat::is_alone);
        let (source, count) = self.plan(session, matched, drafts.len(), alone);
        self.aside = drafts.first().filter(|_| count == 0).map(|&draft| (matched, draft));
        let start = Instant::now();
        match source {
            Source::Match(_) => drafts.truncate(count),
            // What can't be drafted is not drafted; whether it can be computed shows without drafts.
            Source::Head => drafts = session.propose(token, count).unwrap_or_default(),
        }
        let made = start.elapsed().as_secs_f64();
        pass(session, token, &drafts, seat)?;
        let (ahead, seconds) = (session.ahead(), start.elapsed().as_secs_f64());
        if alone {
            let mut gate = self.gate.lock();
            gate.passed(1 + behind + ahead, seconds - made);
            if source == Source::Head {
                gate.made(drafts.len(), made);
            }
        }
        self.drafted += ahead;
        self.open = (ahead + behind > 0).then_some(Open { source, taken: 0, seconds });
        Ok(())
    }

    /// Where drafts are to come from, and how many are to be computed ahead. `matched` and `most`: of those by a match.
    fn plan(&self, session: &Session, matched: usize, most: usize, alone: bool) -> (Source, usize) {
        let model = session.model();
        let recurrent = model.hyperparameters().is_recurrent();
        // What has to be computed again comes first.
        let (matched_most, most) = if recurrent && session.behind() > 0 { (0, 0) } else { (most, self.most) };
        let head = if model.has_draft_head() { HEAD_DRAFTS.min(most) } else { 0 };
        match self.mode {
            Speculate::Always if matched < LEAST_MATCH && head > 0 => (Source::Head, head),
            Speculate::Always => (Source::Match(matched), matched_most),
            Speculate::Auto if alone => {
                let behind = session.behind();
                let outlook = |source, most| Outlook { source, most, behind, recurrent };
                self.gate
                    .lock()
                    .choose([outlook(Source::Match(matched), matched_most), outlook(Source::Head, head)])
            }
            Speculate::Auto | Speculate::Off => (Source::Match(matched), 0),
        }
    }

    /// What became of the drafts of the last pass: those taken came true, and the next did not if it was `refuted`.
    fn judge(&mut self, refuted: bool) {
        let Some(open) = self.open.take() else { return };
        let mut gate = self.gate.lock();
        (0..open.taken).for_each(|place| gate.seen(open.source, place, true));
        if refuted {
            gate.seen(open.source, open.taken, false);
        }
        gate.gained(1 + open.taken, open.seconds);
    }

    /// The round is over: nothing is computed ahead any more.
    pub fn end(&mut self, session: &mut Session) {
        self.judge(false);
        self.aside = None;
        session.drop_ahead();
    }
}

fn pass(session: &mut Session, token: u32, drafts: &[u32], seat: Option<&Seat>) -> Result<(), EngineError> {
    match seat {
        Some(seat) => seat.append(session, token, drafts),
        None => session.append_ahead(&[token], drafts),
    }
}
