//! Tokens of several sessions through the model together.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use crate::error::{EngineError, Result};
use crate::forward::{Observer, Pass, Span};
use crate::model::Model;
use crate::session::Session;

/// A part of the tokens of one session that goes into a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    /// Index of the session.
    session: usize,
    /// Which of its outstanding tokens.
    tokens: std::ops::Range<usize>,
}

/// Appends to each session its tokens. After an error all are as they were before.
pub(crate) fn append(sessions: &mut [(&mut Session, &[u32])], observer: &mut dyn Observer) -> Result<()> {
    let Some((first, _)) = sessions.first() else { return Ok(()) };
    let model = first.model().clone();
    for (session, tokens) in sessions.iter() {
        if !session.model().is(&model) {
            return Err(EngineError::Option("only sessions of one model can be appended to together".into()));
        }
        session.check(tokens)?;
    }
    let outstanding: Vec<Cow<'_, [u32]>> =
        sessions.iter_mut().map(|(session, tokens)| session.outstanding(tokens)).collect();
    let result = compute(&model, sessions, &outstanding, observer);
    for (session, tokens) in sessions.iter_mut() {
        match result {
            Ok(()) => session.accept(tokens),
            Err(_) => session.roll_back(),
        }
    }
    result
}

fn compute(
    model: &Model,
    sessions: &mut [(&mut Session, &[u32])],
    outstanding: &[Cow<'_, [u32]>],
    observer: &mut dyn Observer,
) -> Result<()> {
    let core = model.core();
    core.cancel.store(false, Ordering::Relaxed);
    let lengths: Vec<usize> = outstanding.iter().map(|tokens| tokens.len()).collect();
    let mut compute = model.compute();
    let mut taking_part: Vec<_> =
        sessions.iter_mut().zip(outstanding).filter(|(_, tokens)| !tokens.is_empty()).collect();
    for ((session, new), tokens) in &mut taking_part {
        session.reserve(tokens, new.len())?;
    }
    for ((session, _), _) in &mut taking_part {
        session.begin();
    }
    let chunks = chunks(&lengths, core.plan.prefill_chunk);
    // Of sessions that are done before the last chunk: they get them when that has gone well too.
    let mut early: Vec<(usize, Vec<f32>)> = Vec::new();
    let team = compute.team.clone();
    team.region(|region| -> Result<()> {
        for (index, pieces) in chunks.iter().enumerate() {
            let (spans, mut done) = spans(sessions, outstanding, pieces);
            let mut pass = Pass { core, region, spans, cancel: &core.cancel };
            pass.run(&mut compute, observer)?;
            let ends: Vec<usize> = done.iter().map(|done| done.span).collect();
            pass.last_logits(&ends, &mut compute.scratch, |place, logits| {
                let done = &mut done[place];
                if index + 1 == chunks.len() {
                    done.logits.clear();
                    done.logits.extend_from_slice(logits);
                } else {
                    early.push((done.session, logits.to_vec()));
                }
            })?;
        }
        Ok(())
    })?;
    early.into_iter().for_each(|(session, logits)| sessions[session].0.logits = logits);
    Ok(())
}

/// A session all of whose tokens have been computed when a chunk has.
struct Done<'a> {
    session: usize,
    /// Its span in the chunk.
    span: usize,
    logits: &'a mut Vec<f32>,
}

/// The spans of a chunk, and the sessions that it completes.
fn spans<'a>(
    sessions: &'a mut [(&mut Session, &[u32])],
    outstanding: &'a [Cow<'_, [u32]>],
    pieces: &[Piece],
) -> (Vec<Span<'a>>, Vec<Done<'a>>) {
    let (mut spans, mut done) = (Vec::with_capacity(pieces.len()), Vec::new());
    let mut pieces = pieces.iter().peekable();
    for (session, ((one, _), tokens)) in sessions.iter_mut().zip(outstanding).enumerate() {
        let Some(piece) = pieces.next_if(|piece| piece.session == session) else { continue };
        let Session { computed, kv, recurrent, logits, tokens: computed_tokens, .. } = &mut **one;
        if piece.tokens.end == tokens.len() {
            done.push(Done { session, span: spans.len(), logits });
        }
        spans.push(Span {
            kv,
            recurrent: recurrent.as_mut(),
            before: [&computed_tokens[..*computed], &tokens[..piece.tokens.start]],
            first: *computed + piece.tokens.start,
            tokens: &tokens[piece.tokens.clone()],
        });
    }
    (spans, done)
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
