//! How likely continuations are behind a context, by the model alone.

use membrane_engine::{EngineError, Session};

/// Log probabilities of continuations behind a context, each in a fork, a token of each at a time: sessions that compute
/// together share each read of the weights.
pub(crate) fn together(session: &Session, continuations: &[Vec<u32>]) -> Result<Vec<f64>, EngineError> {
    let mut forks: Vec<Session> = continuations.iter().map(|_| session.fork()).collect();
    let mut sums = vec![0.0; continuations.len()];
    let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..longest {
        let lengths = continuations.iter().map(Vec::len);
        for ((fork, sum), ids) in forks.iter().zip(&mut sums).zip(continuations) {
            *sum += ids.get(at).map_or(0.0, |id| log_probability(fork.logits(), *id));
        }
        // Behind the last token nothing is asked.
        let wanted = forks.iter_mut().zip(continuations).zip(lengths).filter(|(_, length)| at + 1 < *length);
        let mut together: Vec<(&mut Session, &[u32])> =
            wanted.map(|((fork, ids), _)| (fork, &ids[at..=at])).collect();
        Session::append_all(&mut together)?;
    }
    Ok(sums)
}

/// The same behind these tokens, one continuation after the other, in one session and so in the room of one context. It is
/// left with the tokens; those that it held already are not computed again.
pub(crate) fn in_turn(
    session: &mut Session,
    context: &[u32],
    continuations: &[Vec<u32>],
) -> Result<Vec<f64>, EngineError> {
    session.sync(context)?;
    // They go with the first token that is appended.
    let logits = session.logits().to_vec();
    let mut sums = Vec::with_capacity(continuations.len());
    for ids in continuations {
        let mut sum = 0.0;
        for (at, id) in ids.iter().enumerate() {
            match at.checked_sub(1) {
                None => sum += log_probability(&logits, *id),
                Some(before) => {
                    session.append(&ids[before..at])?;
                    sum += log_probability(session.logits(), *id);
                }
            }
        }
        session.truncate(context.len());
        sums.push(sum);
    }
    Ok(sums)
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    f64::from(logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY) - most) - mass.ln()
}
