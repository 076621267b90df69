//! What a layer adds to its streams for n-grams: `x += v + silu(convolution(norm(v)))`, where v is what the rows of the last
//! tokens' n-grams give, for each stream weighed by how well it fits the stream.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use membrane_kernels::delta_net::convolve_dilated;
use membrane_kernels::{Region, matmul, ops};

use super::{Pass, Span, product};
use crate::error::{EngineError, Result};
use crate::hyper::{NgramHead, Ngrams};
use crate::model::Core;
use crate::scratch::{STREAM_ROWS, Scratch, StreamScratch};
use crate::weights::NgramBlock;

/// Adds to the streams of the chunk. Each session's tokens go through its own convolution, in order.
pub(super) fn add(pass: &mut Pass<'_>, block: &NgramBlock, s: &mut Scratch) -> Result<()> {
    let mut row = 0;
    for index in 0..pass.spans.len() {
        let (first, length) = (pass.spans[index].first, pass.spans[index].tokens.len());
        let pieces = pass.spans[index].recurrent.as_ref().map(|recurrent| recurrent.pieces(first, length));
        let mut from = 0;
        for to in pieces.unwrap_or_default() {
            while from < to {
                let end = to.min(from + STREAM_ROWS);
                add_piece(pass, block, index, from..end, row + from, s)?;
                from = end;
            }
            if let Some(recurrent) = &mut pass.spans[index].recurrent {
                recurrent.mark_history(block.slot, first + to);
            }
        }
        row += length;
    }
    Ok(())
}

/// The same for some tokens of a span, which begin at `row` of the chunk.
fn add_piece(
    pass: &mut Pass<'_>,
    block: &NgramBlock,
    span: usize,
    tokens: Range<usize>,
    row: usize,
    s: &mut Scratch,
) -> Result<()> {
    let (core, region) = (pass.core, pass.region);
    let (hidden, width, streams) = (core.hyper.hidden, core.hyper.stream_width(), core.hyper.streams());
    let (n, eps) = (tokens.len(), core.hyper.norm_eps);
    let span = &mut pass.spans[span];
    let rows_width = block.shape.width();
    let StreamScratch { normed, gate, third, ngrams, input, .. } = &mut s.streams;
    let rows = &mut ngrams[..n * rows_width];
    read_rows(core, block, span, tokens.start, rows, region)?;
    input.set(region, n, rows_width, rows, core.precision);
    let x = &mut s.hidden[row * width..(row + n) * width];
    let (normed, gate, third) = (&mut normed[..n * width], &mut gate[..n * width], &mut third[..n * width]);
    let value = &mut s.branch[..n * hidden];
    let key = &mut *gate;
    matmul(
        region,
        core.precision,
        &mut [product(core, &block.key, input, key)?, product(core, &block.value, input, value)?],
    );
    ops::rms_norm_streams(region, gate, &block.key_norm, streams, eps, third);
    ops::rms_norm_streams(region, x, &block.query_norm, streams, eps, normed);
    ops::gate_streams(region, third, normed, value, streams, gate, hidden);
    ops::rms_norm_streams(region, gate, &block.value_norm, streams, eps, normed);
    let history = span.recurrent.as_mut().and_then(|recurrent| recurrent.history(block.slot));
    let Some(history) = history else { return Ok(()) };
    let dilation = block.shape.longest();
    convolve_dilated(region, normed, &block.convolution, width, dilation, history, third);
    ops::add(region, third, gate);
    ops::add(region, x, third);
    Ok(())
}

/// Reads the rows of the tokens from place `first` of a span on, [tokens, heads, head_dim]. Threads read at a time, so that a disk
/// has several requests at once.
fn read_rows(
    core: &Core,
    block: &NgramBlock,
    span: &Span<'_>,
    first: usize,
    out: &mut [f32],
    region: &Region<'_>,
) -> Result<()> {
    let (shape, width) = (&block.shape, block.shape.width());
    let failed: Mutex<Option<EngineError>> = Mutex::new(None);
    let lists = [span.before[0], span.before[1], span.tokens];
    region.run_chunks(out, width, |index, out| {
        let mut bytes = Vec::new();
        let token = |back| token_before(lists, first + index, back);
        let read = rows_of(shape, token)
            .zip(out.chunks_exact_mut(shape.head_dim))
            .try_for_each(|(row, out)| block.table.read(&core.checkpoint, row, &mut bytes, out));
        if let Err(error) = read {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The token that stands `back` tokens before the one at `place` in the last of these lists, which follow one another; none before
/// the first of all.
fn token_before(lists: [&[u32]; 3], place: usize, back: usize) -> Option<u32> {
    let mut index = (lists[0].len() + lists[1].len() + place).checked_sub(back)?;
    for list in lists {
        match list.get(index) {
            Some(token) => return Some(*token),
            None => index -= list.len(),
        }
    }
    None
}

/// The rows of a token's n-grams, `token` giving it and those before it.
///
/// An n-gram does not reach beyond a separator or the first token: what is there counts as separators. Its hash is the exclusive
/// or of the products of each token with its multiplier.
fn rows_of(shape: &Ngrams, token: impl Fn(usize) -> Option<u32>) -> impl Iterator<Item = u64> {
    let per_length = shape.heads.len() / (shape.longest() - 1).max(1);
    let mut reaches = true;
    let mut hash = 0;
    let hashes: Vec<i64> = (0..shape.longest())
        .map(|back| {
            let own = if reaches { token(back) } else { None };
            let own = own.unwrap_or(shape.separator);
            reaches = reaches && (back == 0 || own != shape.separator);
            hash ^= i64::from(own).wrapping_mul(shape.multipliers[back]);
            hash
        })
        .collect();
    let row = move |(index, head): (usize, NgramHead)| {
        head.first + hashes[index / per_length + 1].rem_euclid(head.rows as i64) as u64
    };
    shape.heads.clone().into_iter().enumerate().map(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_across_all_that_came_before() {
        let lists: [&[u32]; 3] = [&[1, 2], &[3], &[4, 5]];
        let back = |place, back| token_before(lists, place, back);
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|b| back(1, b)),
            [Some(5), Some(4), Some(3), Some(2), Some(1), None]
        );
        assert_eq!([0, 1, 4].map(|b| back(0, b)), [Some(4), Some(3), None]);
        assert_eq!(token_before([&[], &[], &[7]], 0, 1), None);
    }

    #[test]
    fn an_n_gram_ends_at_a_separator_and_at_the_first_token() {
        let heads = vec![NgramHead { first: 0, rows: 101 }, NgramHead { first: 200, rows: 103 }];
        let shape = Ngrams {
            layer: 0,
            heads,
            head_dim: 1,
            multipliers: vec![3, 1_000_003, -7],
            separator: 9,
            table_parts: 1,
            kernel: 1,
        };
        let rows = |text: &[u32]| {
            let token = |back| text.len().checked_sub(back + 1).map(|at| text[at]);
            rows_of(&shape, token).collect::<Vec<_>>()
        };
        let wanted = |tokens: [i64; 3]| {
            let pair = (tokens[0] * 3) ^ (tokens[1] * 1_000_003);
            let triple = pair ^ (tokens[2] * -7);
            vec![pair.rem_euclid(101) as u64, 200 + triple.rem_euclid(103) as u64]
        };
        assert_eq!(rows(&[4, 5, 6]), wanted([6, 5, 4]));
        assert_eq!(rows(&[9, 5, 6]), wanted([6, 5, 9]));
        assert_eq!(rows(&[4, 9, 6]), wanted([6, 9, 9]));
        assert_eq!(rows(&[4, 5, 9]), wanted([9, 5, 4]));
        assert_eq!(rows(&[5, 6]), wanted([6, 5, 9]));
        assert_eq!(rows(&[6]), wanted([6, 9, 9]));
    }
}
