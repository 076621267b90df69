//! Drafts by the model's own head.

use membrane_kernels::ops;

use crate::ahead::MOST_DRAFTS;
use crate::error::Result;
use crate::forward::{Observer, Pass, Span};
use crate::kv::BLOCK;
use crate::session::Session;

/// Proposes at most `count` tokens that may follow `token`, which is to follow those of the session.
pub(crate) fn propose(
    session: &mut Session,
    token: u32,
    count: usize,
    observer: &mut dyn Observer,
) -> Result<Vec<u32>> {
    let model = session.model().clone();
    let core = model.core();
    let Some(head) = &core.layout.draft else { return Ok(Vec::new()) };
    session.drop_ahead();
    let hidden = core.hyper.hidden;
    let Some(last) = session.tokens().len().checked_sub(1) else { return Ok(Vec::new()) };
    let count = session.drafts_that_fit(1, &[0; MOST_DRAFTS][..count.min(MOST_DRAFTS)]);
    // In a block that is full, and that others may share, nothing is written for drafts.
    let full = session.tokens().len().is_multiple_of(BLOCK);
    let ready = session.draft.last.len() == hidden && session.draft.known >= last;
    if count == 0 || full || !ready || session.check(&[token]).is_err() {
        return Ok(Vec::new());
    }
    let from = session.computed.min(last);
    session.kv.reserve(from, last + count)?;
    let mut compute = model.compute();
    compute.scratch.draft.pairs[hidden..2 * hidden].copy_from_slice(&session.draft.last);
    let (kv, state) = (&mut session.kv, &mut session.draft);
    let mut drafts = Vec::with_capacity(count);
    let team = compute.team.clone();
    team.region(|region| -> Result<()> {
        let mut next = token;
        for step in 0..count {
            let tokens = [next];
            let (kv, first) = (&mut *kv, last + step);
            let span = Span { kv, recurrent: None, before: [&[], &[]], first, tokens: &tokens };
            let mut pass = Pass { core, region, spans: vec![span], cancel: &core.cancel };
            pass.draft(head, &mut compute)?;
            pass.draft_logits(head, &mut compute.scratch)?;
            let logits = &compute.scratch.logits[..core.hyper.vocabulary];
            observer.draft(step, logits);
            next = ops::argmax(logits).unwrap_or(0) as u32;
            drafts.push(next);
        }
        Ok(())
    })?;
    state.known = last + 1;
    Ok(drafts)
}
