//! The delta rule: the memory, token by token.

use super::{DeltaShape, DeltaState};
use crate::parallel::{DisjointSlice, Region};
use crate::simd::{LANES, Simd, dispatch};

/// One call of [`delta_rule`].
pub struct DeltaRule<'a> {
    /// Queries, keys and values of n tokens, convolved; queries and keys scaled by [`super::l2_norm`]: [n, channels].
    pub qkv: &'a [f32],
    /// What the memory of a head is multiplied by before a token: [n, value_heads].
    pub decay: &'a [f32],
    /// How much of the difference the memory takes over: [n, value_heads].
    pub strength: &'a [f32],
    /// The result: [n, value_heads, value_dim].
    pub out: &'a mut [f32],
}

/// Lets the memory of a layer go through n tokens, one after the other.
///
/// Canonical, for a column c of a head and a token: memory = sum over the rows i of (S[i, c] * decay, rounded) * k[i], one
/// `fma` each in order from 0; d = (v[c] - memory) * strength; S[i, c] = fma(k[i], d, S[i, c] * decay, rounded); out[c] =
/// sum over the rows of S[i, c] * q[i], one `fma` each in order from 0.
///
/// # Panics
/// If a length does not fit the state's shape.
pub fn delta_rule(region: &Region<'_>, call: DeltaRule<'_>, state: &mut DeltaState) {
    let shape = state.shape;
    let DeltaRule { qkv, decay, strength, out } = call;
    let n = qkv.len() / shape.channels();
    assert_eq!(qkv.len(), n * shape.channels(), "delta_rule: the input is not rows of the shape");
    assert_eq!(
        (decay.len(), strength.len()),
        (n * shape.value_heads, n * shape.value_heads),
        "delta_rule: gates"
    );
    assert_eq!(out.len(), n * shape.value_width(), "delta_rule: output");
    let (vectors, pieces) = (shape.task_vectors(), shape.vectors() / shape.task_vectors());
    let columns = vectors * LANES;
    let (isa, all) = (region.isa(), DisjointSlice::new(out));
    region.run_chunks(&mut state.memory, shape.key_dim * columns, |task, memory| {
        let (head, begin) = (task / pieces, task % pieces * columns);
        let width = columns.min(shape.value_dim - begin);
        let part = Part { shape, qkv, decay, strength, head, begin, width };
        let put = |token: usize, values: &[f32]| {
            let at = token * shape.value_width() + head * shape.value_dim + begin;
            // SAFETY: each task has columns of a head of its own, and the slice is not kept.
            unsafe { all.range(at..at + values.len()) }.copy_from_slice(values);
        };
        match vectors {
            4 => recur_4(isa, &part, memory, &put),
            2 => recur_2(isa, &part, memory, &put),
            _ => recur_1(isa, &part, memory, &put),
        }
    });
}

/// Some columns of one head.
struct Part<'a> {
    shape: DeltaShape,
    qkv: &'a [f32],
    decay: &'a [f32],
    strength: &'a [f32],
    head: usize,
    /// The first column.
    begin: usize,
    /// Columns; the last vector may not be full.
    width: usize,
}

/// Where the output of a token goes.
type Put<'a> = &'a dyn Fn(usize, &[f32]);

dispatch! {
    fn recur_4(part: &Part<'_>, memory: &mut [f32], put: Put<'_>) => recur::<_, 4>;
}

dispatch! {
    fn recur_2(part: &Part<'_>, memory: &mut [f32], put: Put<'_>) => recur::<_, 2>;
}

dispatch! {
    fn recur_1(part: &Part<'_>, memory: &mut [f32], put: Put<'_>) => recur::<_, 1>;
}

/// `memory` is [key_dim, V vectors].
///
/// One pass over it a token, and one before the first: a pass multiplies what it makes by the next token's decay, adds up what
/// the next key finds in that, and leaves it so; the last one leaves the memory itself.
#[inline(always)]
fn recur<S: Simd, const V: usize>(s: S, part: &Part<'_>, memory: &mut [f32], put: Put<'_>) {
    let rows = memory.as_chunks_mut::<LANES>().0.as_chunks_mut::<V>().0;
    let tokens = part.qkv.len() / part.shape.channels();
    if tokens == 0 {
        return;
    }
    let mut token = Token::new(part, 0);
    let decay = s.splat(token.decay);
    let mut found = [s.zero(); V];
    for (row, k) in rows.iter().zip(token.k) {
        let k = s.splat(*k);
        for (found, x) in found.iter_mut().zip(row) {
            *found = s.fma(s.mul(s.load(x), decay), k, *found);
        }
    }
    for index in 0..tokens {
        let strength = s.splat(token.strength);
        let mut change = [s.zero(); V];
        for ((change, found), v) in change.iter_mut().zip(found).zip(token.v.chunks(LANES)) {
            *change = s.mul(s.sub(s.load_part(v, 0.0), found), strength);
        }
        let next = if index + 1 < tokens { Token::new(part, index + 1) } else { token };
        let out = match (index == 0, index + 1 == tokens) {
            (true, true) => step::<S, V, true, true>(s, rows, change, (token, next), &mut found),
            (true, false) => step::<S, V, true, false>(s, rows, change, (token, next), &mut found),
            (false, true) => step::<S, V, false, true>(s, rows, change, (token, next), &mut found),
            (false, false) => step::<S, V, false, false>(s, rows, change, (token, next), &mut found),
        };
        let mut lanes = [[0.0; LANES]; V];
        for (lanes, out) in lanes.iter_mut().zip(out) {
            s.store(out, lanes);
        }
        put(index, &lanes.as_flattened()[..part.width]);
        token = next;
    }
}

/// What a head gets of one token.
#[derive(Clone, Copy)]
struct Token<'a> {
    q: &'a [f32],
    k: &'a [f32],
    /// The columns of the part.
    v: &'a [f32],
    decay: f32,
    strength: f32,
}

impl<'a> Token<'a> {
    #[inline(always)]
    fn new(part: &Part<'a>, index: usize) -> Self {
        let shape = &part.shape;
        let (dim, key_head) = (shape.key_dim, shape.key_head(part.head));
        let row = &part.qkv[index * shape.channels()..][..shape.channels()];
        let gate = index * shape.value_heads + part.head;
        Self {
            q: &row[key_head * dim..][..dim],
            k: &row[shape.key_width() + key_head * dim..][..dim],
            v: &row[2 * shape.key_width() + part.head * shape.value_dim + part.begin..][..part.width],
            decay: part.decay[gate],
            strength: part.strength[gate],
        }
    }
}

/// A token's pass: the memory takes over the change, the query gets its output, and unless the token is the last, the next key
/// what it finds. Rows come multiplied by the token's decay, but for the first.
#[inline(always)]
fn step<S: Simd, const V: usize, const FIRST: bool, const LAST: bool>(
    s: S,
    rows: &mut [[[f32; LANES]; V]],
    change: [S::V; V],
    (token, next): (Token<'_>, Token<'_>),
    found: &mut [S::V; V],
) -> [S::V; V] {
    let (decay, decay_next) = (s.splat(token.decay), s.splat(next.decay));
    let (mut out, mut finds) = ([s.zero(); V], [s.zero(); V]);
    for (((row, k), q), k_next) in rows.iter_mut().zip(token.k).zip(token.q).zip(next.k) {
        let (k, q, k_next) = (s.splat(*k), s.splat(*q), s.splat(*k_next));
        for (((out, finds), change), x) in out.iter_mut().zip(&mut finds).zip(change).zip(row) {
            let decayed = if FIRST { s.mul(s.load(x), decay) } else { s.load(x) };
            let new = s.fma(k, change, decayed);
            *out = s.fma(new, q, *out);
            if LAST {
                s.store(new, x);
            } else {
                let decayed = s.mul(new, decay_next);
                *finds = s.fma(decayed, k_next, *finds);
                s.store(decayed, x);
            }
        }
    }
    *found = finds;
    out
}
