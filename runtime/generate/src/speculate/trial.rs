//! What speculation is worth on a text: the same continuation with it and without.

use std::time::Instant;

use membrane_engine::{EngineError, Session};

use super::{Drafting, Gate};

/// A continuation of a context, made twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The tokens with speculation.
    pub with: Vec<u32>,
    /// The tokens without; the same, or something is broken.
    pub without: Vec<u32>,
    /// Time of the first, in seconds.
    pub with_seconds: f64,
    /// Time of the second, in seconds.
    pub without_seconds: f64,
    /// Drafts that went through the model.
    pub drafted: usize,
    /// Of those, tokens that were chosen.
    pub accepted: usize,
}

/// Goes on with the likeliest tokens behind what a session holds, with the logits behind it; a part of them with and without
/// speculation in turn, so that what else the machine does concerns both. The session is left with the context.
///
/// # Errors
/// Those of [`Session::append`].
pub fn trial(session: &mut Session, tokens: usize) -> Result<Trial, EngineError> {
    let context = session.tokens().to_vec();
    let mut plain = session.fork();
    let mut drafting = Drafting::new(&Gate::default(), session.model());
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut with_seconds, mut without_seconds) = (0.0, 0.0);
    while with.len() < tokens {
        let part = (tokens - with.len()).min(PART);
        let start = Instant::now();
        for _ in 0..part {
            let token = likeliest(session.logits());
            with.push(token);
            drafting.append(session, token, None)?;
        }
        with_seconds += start.elapsed().as_secs_f64();
        let start = Instant::now();
        for _ in 0..part {
            let token = likeliest(plain.logits());
            without.push(token);
            plain.append(&[token])?;
        }
        without_seconds += start.elapsed().as_secs_f64();
    }
    drafting.end(session);
    let Drafting { drafted, accepted, .. } = drafting;
    session.truncate(context.len());
    Ok(Trial { with, without, with_seconds, without_seconds, drafted, accepted })
}

/// Tokens that are made before the other way has its turn.
const PART: usize = 32;

/// The first of the likeliest tokens.
fn likeliest(logits: &[f32]) -> u32 {
    let better = |best: (usize, f32), now: (usize, f32)| if now.1 > best.1 { now } else { best };
    logits.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), better).0 as u32
}
