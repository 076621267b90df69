//! Repetition, frequency and presence penalties.

use super::candidates::Candidates;
use super::operation::{Context, Penalties, tail};

/// Penalises the tokens of the history's tail.
pub fn apply(penalties: &Penalties, candidates: &mut Candidates, context: &mut Context) {
    let Penalties { last, repeat, frequency, presence } = *penalties;
    if last == 0 || (repeat == 1.0 && frequency == 0.0 && presence == 0.0) {
        return;
    }
    let tokens = tail(context.history, last);
    let counts = &mut context.repetition.counts;
    counts.resize(candidates.vocabulary() as usize, 0);
    for &token in tokens {
        if let Some(count) = counts.get_mut(token as usize) {
            *count += 1;
        }
    }
    for &token in tokens {
        let Some(count) = counts.get_mut(token as usize) else { continue };
        // The first time around takes all occurrences; that also leaves the counts at zero for the next call.
        let count = std::mem::take(count);
        if count > 0 {
            candidates.change(token, |logit| {
                let logit = if logit > 0.0 { logit / repeat } else { logit * repeat };
                logit - count as f32 * frequency - presence
            });
        }
    }
    candidates.drop_dead();
}
