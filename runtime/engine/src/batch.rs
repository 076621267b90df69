//! Tokens of several sessions through the model together.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use membrane_kernels::Region;

use crate::ahead::{Ahead, Foreseen};
use crate::error::{EngineError, Result};
use crate::forward::{DraftState, Observer, Pass, Span};
use crate::model::{Compute, Core, Model};
use crate::pool::Charge;
use crate::session::{Continuation, Session};

/// A part of the tokens of one session that goes into a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    /// Index of the session.
    session: usize,
    /// Which of its outstanding tokens.
    tokens: std::ops::Range<usize>,
}

/// What goes through the model for one session.
struct Work<'a> {
    /// Tokens, drafts behind them included.
    tokens: Cow<'a, [u32]>,
    drafts: usize,
    /// Room of the drafts' logits.
    charge: Option<Charge>,
    /// What was computed of the drafts.
    foreseen: Vec<Foreseen>,
}

impl<'a> Work<'a> {
    fn of(session: &mut Session, tokens: &'a [u32], drafts: &[u32]) -> Self {
        let (new, mut tokens) = (tokens.len(), session.outstanding(tokens));
        let drafts: &[u32] =
            if tokens.is_empty() { &[] } else { &drafts[..session.drafts_that_fit(new, drafts)] };
        if !drafts.is_empty() {
            tokens.to_mut().extend_from_slice(drafts);
        }
        Self { tokens, drafts: drafts.len(), charge: None, foreseen: Vec::new() }
    }

    /// Makes room in the session; where there is none for drafts, they are left out. Errors: there is none for tokens either.
    fn reserve(&mut self, session: &mut Session, new: usize) -> Result<()> {
        match session.reserve(&self.tokens, new, self.drafts) {
            Ok(charge) => self.charge = charge,
            Err(error) if self.drafts == 0 => return Err(error),
            Err(_) => {
                session.give_back();
                let known = self.tokens.len() - self.drafts;
                self.tokens.to_mut().truncate(known);
                self.drafts = 0;
                session.reserve(&self.tokens, new, 0)?;
            }
        }
        Ok(())
    }

    /// The drafts with what was computed behind them.
    fn ahead(self) -> Ahead {
        Ahead::new(self.foreseen.into_iter(), self.charge)
    }
}

/// Appends to each session its tokens. After an error all are as they were before.
///
/// What fails with drafts is computed once more without: nobody has chosen them, so nothing that they bring up is told.
pub(crate) fn append(parts: &mut [Continuation<'_>], observer: &mut dyn Observer) -> Result<()> {
    let (drafted, result) = attempt(parts, observer);
    if !drafted || matches!(result, Ok(()) | Err(EngineError::Cancelled)) {
        return result;
    }
    parts.iter_mut().for_each(|part| part.drafts = &[]);
    attempt(parts, observer).1
}

/// Appends, and says whether drafts went through the model too.
fn attempt(parts: &mut [Continuation<'_>], observer: &mut dyn Observer) -> (bool, Result<()>) {
    let mut work = match prepare(parts) {
        Ok(work) => work,
        Err(error) => return (false, Err(error)),
    };
    let Some(first) = parts.first() else { return (false, Ok(())) };
    let model = first.session.model().clone();
    let result = compute(&model, parts, &mut work, observer);
    let drafted = work.iter().any(|work| work.drafts > 0);
    for (part, work) in parts.iter_mut().zip(work) {
        match result {
            Ok(()) => part.session.accept(part.tokens, work.ahead()),
            Err(_) if work.tokens.is_empty() => {}
            Err(_) => part.session.roll_back(),
        }
    }
    (drafted, result)
}

/// What goes through the model. Errors: sessions of different models, tokens that can't be appended.
fn prepare<'a>(parts: &mut [Continuation<'a>]) -> Result<Vec<Work<'a>>> {
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    let model = first.session.model().clone();
    for part in parts.iter() {
        if !part.session.model().is(&model) {
            return Err(EngineError::Option("only sessions of one model can be appended to together".into()));
        }
        part.session.check(part.tokens)?;
    }
    Ok(parts.iter_mut().map(|part| Work::of(part.session, part.tokens, part.drafts)).collect())
}

fn compute(
    model: &Model,
    parts: &mut [Continuation<'_>],
    work: &mut [Work<'_>],
    observer: &mut dyn Observer,
) -> Result<()> {
    let core = model.core();
    if work.iter().all(|work| work.tokens.is_empty()) {
        return Ok(());
    }
    core.cancel.store(false, Ordering::Relaxed);
    let mut compute = model.compute();
    let compute = &mut *compute;
    let taking_part = || |(_, work): &(&mut Continuation<'_>, &mut Work<'_>)| !work.tokens.is_empty();
    for (part, work) in parts.iter_mut().zip(work.iter_mut()).filter(taking_part()) {
        work.reserve(part.session, part.tokens.len())?;
    }
    for (part, _) in parts.iter_mut().zip(work.iter_mut()).filter(taking_part()) {
        part.session.begin();
    }
    let lengths: Vec<usize> = work.iter().map(|work| work.tokens.len()).collect();
    let chunks = chunks(&lengths, core.plan.prefill_chunk);
    let mut results = Results::default();
    let team = compute.team.clone();
    team.region(|region| -> Result<()> {
        for (index, pieces) in chunks.iter().enumerate() {
            let chunk = Chunk::of(parts, work, pieces);
            chunk.run(core, region, index + 1 == chunks.len(), compute, observer, &mut results)?;
        }
        Ok(())
    })?;
    results.hand_over(parts, work);
    Ok(())
}

/// What sessions, by their index, get when the last chunk has gone well too.
#[derive(Default)]
struct Results {
    /// Logits of chunks before the last.
    late: Vec<(usize, Vec<f32>)>,
    /// Drafts.
    foreseen: Vec<(usize, Foreseen)>,
    /// What the head goes on from, behind each session's last token.
    last: Vec<(usize, Vec<f32>)>,
}

impl Results {
    fn hand_over(self, parts: &mut [Continuation<'_>], work: &mut [Work<'_>]) {
        self.late.into_iter().for_each(|(session, logits)| parts[session].session.logits = logits);
        self.last.into_iter().for_each(|(session, hidden)| parts[session].session.draft.last = hidden);
        self.foreseen.into_iter().for_each(|(session, draft)| work[session].foreseen.push(draft));
    }
}

/// A row of a chunk behind which logits are asked for.
struct Wanted<'a> {
    session: usize,
    row: usize,
    /// Where they go if they are those behind the session's last token.
    own: Option<&'a mut Vec<f32>>,
    /// What is computed of a draft if they are not.
    draft: Foreseen,
}

impl Wanted<'_> {
    /// The draft with the session that it is for, if it is one.
    fn foreseen(self) -> Option<(usize, Foreseen)> {
        self.own.is_none().then_some((self.session, self.draft))
    }
}

/// What of the sessions a chunk works on.
struct Chunk<'a> {
    spans: Vec<Span<'a>>,
    /// Rows that logits are asked for, in ascending order.
    wanted: Vec<Wanted<'a>>,
    /// What the head that drafts tokens keeps, one a span.
    states: Vec<&'a mut DraftState>,
}

impl<'a> Chunk<'a> {
    fn of(parts: &'a mut [Continuation<'_>], work: &'a [Work<'_>], pieces: &[Piece]) -> Self {
        let mut chunk =
            Self { spans: Vec::with_capacity(pieces.len()), wanted: Vec::new(), states: Vec::new() };
        let mut pieces = pieces.iter().peekable();
        let mut row = 0;
        for (session, (part, Work { tokens, drafts, .. })) in parts.iter_mut().zip(work).enumerate() {
            let Some(piece) = pieces.next_if(|piece| piece.session == session) else { continue };
            let Session { computed, kv, recurrent, logits, draft, tokens: earlier, .. } = &mut *part.session;
            let (last, mut own) = (tokens.len() - drafts - 1, Some(logits));
            for place in piece.tokens.clone().filter(|&place| place >= last) {
                let row = row + place - piece.tokens.start;
                let (own, draft) = (own.take_if(|_| place == last), Foreseen::of(tokens[place]));
                chunk.wanted.push(Wanted { session, row, own, draft });
            }
            row += piece.tokens.len();
            chunk.states.push(draft);
            chunk.spans.push(Span {
                kv,
                recurrent: recurrent.as_mut(),
                before: [&earlier[..*computed], &tokens[..piece.tokens.start]],
                first: *computed + piece.tokens.start,
                tokens: &tokens[piece.tokens.clone()],
            });
        }
        chunk
    }

    /// Takes the chunk through the model. Logits of the last one go to their sessions at once.
    fn run(
        self,
        core: &'a Core,
        region: &'a Region<'a>,
        is_last: bool,
        compute: &mut Compute,
        observer: &mut dyn Observer,
        results: &mut Results,
    ) -> Result<()> {
        let Self { spans, mut wanted, mut states } = self;
        let mut pass = Pass { core, region, spans, cancel: &core.cancel };
        pass.run(compute, observer)?;
        if core.layout.draft.is_some() {
            pass.keep_finals(&mut compute.scratch)?;
        }
        let rows: Vec<usize> = wanted.iter().map(|wanted| wanted.row).collect();
        pass.logits_of(&rows, &mut compute.scratch, |place, logits| {
            let Wanted { session, own, draft, .. } = &mut wanted[place];
            match own {
                Some(own) if is_last => {
                    own.clear();
                    own.extend_from_slice(logits);
                }
                Some(_) => results.late.push((*session, logits.to_vec())),
                None => draft.logits = logits.to_vec(),
            }
        })?;
        let Some(head) = &core.layout.draft else {
            results.foreseen.extend(wanted.into_iter().filter_map(Wanted::foreseen));
            return Ok(());
        };
        // What the head could not read makes its drafts worse, and nothing else.
        pass.follow(head, &mut states, compute).unwrap_or_default();
        let hidden = core.hyper.hidden;
        for mut wanted in wanted {
            let row = &compute.scratch.draft.finals[wanted.row * hidden..(wanted.row + 1) * hidden];
            match wanted.own {
                Some(_) => results.last.push((wanted.session, row.to_vec())),
                None => wanted.draft.hidden = row.to_vec(),
            }
            results.foreseen.extend(wanted.foreseen());
        }
        Ok(())
    }
}

/// Cuts the outstanding tokens of all sessions into chunks of at most `rows` tokens: in the order of the sessions, each once at
/// most in a chunk.
fn chunks(lengths: &[usize], rows: usize) -> Vec<Vec<Piece>> {
    let mut chunks: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (session, &length) in lengths.iter().enumerate() {
        let mut from = 0;
        while from < length {
            if room == 0 {
                chunks.push(Vec::new());
                room = rows;
            }
            let to = length.min(from + room);
            room -= to - from;
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(Piece { session, tokens: from..to });
            }
            from = to;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_full_and_in_order() {
        let piece = |session, tokens| Piece { session, tokens };
        let cut = chunks(&[1, 0, 5, 2], 4);
        let first = vec![piece(0, 0..1), piece(2, 0..3)];
        assert_eq!(cut, [first, vec![piece(2, 3..5), piece(3, 0..2)]]);
        assert!(chunks(&[0, 0], 4).is_empty());
        assert_eq!(chunks(&[9], 4).len(), 3);
    }
}
