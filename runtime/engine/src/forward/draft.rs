//! The head that drafts tokens (multi-token prediction; Gloeckle et al. 2024, DeepSeek-AI 2024): of what the model made of a
//! position and of the next token it makes what stands for the position after.
//!
//! `x = join [norm(embedding of the next token); norm(h)]`, h being the model's last hidden state after its norm; then a block
//! like those of the model, with keys and values of its own; a norm, and the model's output matrix.

use membrane_kernels::{matmul, ops};

use super::{Pass, Span, Unobserved, product, streams};
use crate::error::Result;
use crate::model::Compute;
use crate::scratch::Scratch;
use crate::stages::Stage;
use crate::weights::DraftHead;

/// What a session keeps for the head.
#[derive(Debug, Clone, Default)]
pub(crate) struct DraftState {
    /// Positions whose keys and values the head has, from the first on. That of a position needs the token behind it.
    pub known: usize,
    /// The model's hidden state of the session's last token after the norm, [hidden]; empty if it is not known. Within a pass
    /// that of the last token of the chunk before.
    pub last: Vec<f32>,
}

impl DraftState {
    /// The session has so many tokens only, and whether the last of them is the same as before.
    pub fn cut(&mut self, tokens: usize, same_last: bool) {
        self.known = self.known.min(tokens.saturating_sub(1));
        if !same_last {
            self.last.clear();
        }
    }
}

impl Pass<'_> {
    /// Keeps the hidden states of the chunk after the model's norm, before [`Pass::logits_of`] uses them up.
    pub fn keep_finals(&self, s: &mut Scratch) -> Result<()> {
        let rows = self.rows();
        streams::read(self.core, self.region, &self.core.layout.output_norm, 0, rows, s)?;
        let length = rows * self.core.hyper.hidden;
        s.draft.finals[..length].copy_from_slice(&s.normed[..length]);
        Ok(())
    }

    /// Makes keys and values of the head for the positions of the chunk whose next token is known, in place of the chunk.
    /// `states`: one a span. What is kept must have been kept.
    pub fn follow(
        mut self,
        head: &DraftHead,
        states: &mut [&mut DraftState],
        compute: &mut Compute,
    ) -> Result<()> {
        let hidden = self.core.hyper.hidden;
        let (mut row, mut to) = (0, 0);
        let mut spans = Vec::with_capacity(self.spans.len());
        for (span, state) in self.spans.drain(..).zip(states) {
            let (first, end) = (span.first, span.end());
            // Before the chunk only the position behind which it begins can be made up for.
            let from = state.known.max(first.saturating_sub(1)).min(end - 1);
            for position in from..end - 1 {
                let s = &mut compute.scratch.draft;
                let h = &mut s.pairs[(2 * to + 1) * hidden..(2 * to + 2) * hidden];
                match position.checked_sub(first) {
                    Some(at) => h.copy_from_slice(&s.finals[(row + at) * hidden..(row + at + 1) * hidden]),
                    None if state.last.len() == hidden => h.copy_from_slice(&state.last),
                    None => h.fill(0.0),
                }
                to += 1;
            }
            row += end - first;
            state.known = end - 1;
            compute.scratch.draft.finals[(row - 1) * hidden..row * hidden].clone_into(&mut state.last);
            if from < end - 1 {
                let tokens = &span.tokens[from + 1 - first..];
                spans.push(Span { first: from, tokens, recurrent: None, before: [&[], &[]], ..span });
            }
        }
        self.spans = spans;
        if to == 0 { Ok(()) } else { self.draft(head, compute) }
    }

    /// Runs the head over the tokens of the spans, each with what stands in the second half of its pair. What it makes is in
    /// `hidden`.
    pub fn draft(&mut self, head: &DraftHead, compute: &mut Compute) -> Result<()> {
        let (core, region, rows) = (self.core, self.region, self.rows());
        let (hidden, eps) = (core.hyper.hidden, core.hyper.norm_eps);
        let end = self.spans.iter().map(Span::end).max().unwrap_or(0);
        compute.ropes.iter_mut().for_each(|rope| rope.extend(end));
        let s = &mut compute.scratch;
        s.clock.start(region);
        self.embed(&mut s.hidden)?;
        s.clock.lap(region, Stage::Embedding);
        let pairs = &mut s.draft.pairs[..2 * rows * hidden];
        let (x, normed) = (&mut s.hidden[..rows * hidden], &mut s.normed[..rows * hidden]);
        for (half, norm) in [&head.embedding_norm, &head.hidden_norm].into_iter().enumerate() {
            if half == 1 {
                let states = pairs.chunks_exact(2 * hidden).map(|pair| &pair[hidden..]);
                x.chunks_exact_mut(hidden).zip(states).for_each(|(x, state)| x.copy_from_slice(state));
            }
            ops::rms_norm(region, x, norm, eps, normed);
            let halves =
                pairs.chunks_exact_mut(2 * hidden).map(|pair| &mut pair[half * hidden..(half + 1) * hidden]);
            halves.zip(normed.chunks_exact(hidden)).for_each(|(half, normed)| half.copy_from_slice(normed));
        }
        s.input.set(region, rows, 2 * hidden, pairs, core.precision);
        matmul(region, core.precision, &mut [product(core, &head.join, &s.input, x)?]);
        let index = core.layout.blocks.len();
        self.mix(index, &head.block, &mut compute.scratch, &compute.ropes, &mut Unobserved)?;
        self.feed_forward(index, &head.block, compute, &mut Unobserved)
    }

    /// Logits of the head for its one row, into `s.logits`, and in place of the row's hidden state what the head would go on
    /// from, into the second half of the first pair.
    pub fn draft_logits(&self, head: &DraftHead, s: &mut Scratch) -> Result<()> {
        let (core, region) = (self.core, self.region);
        let hidden = core.hyper.hidden;
        let normed = &mut s.normed[..hidden];
        ops::rms_norm(region, &s.hidden[..hidden], &head.norm, core.hyper.norm_eps, normed);
        s.draft.pairs[hidden..2 * hidden].copy_from_slice(normed);
        s.input.set(region, 1, hidden, normed, core.precision);
        let output = &mut s.logits[..core.hyper.vocabulary];
        matmul(region, core.precision, &mut [product(core, &core.layout.head, &s.input, output)?]);
        Ok(())
    }
}
