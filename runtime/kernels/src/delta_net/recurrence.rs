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
#[inline(always)]
fn recur<S: Simd, const V: usize>(s: S, part: &Part<'_>, memory: &mut [f32], put: Put<'_>) {
    let shape = &part.shape;
    let (dim, key_head) = (shape.key_dim, shape.key_head(part.head));
    let rows = memory.as_chunks_mut::<LANES>().0.as_chunks_mut::<V>().0;
    for (token, row) in part.qkv.chunks_exact(shape.channels()).enumerate() {
        let q = &row[key_head * dim..][..dim];
        let k = &row[shape.key_width() + key_head * dim..][..dim];
        let v = &row[2 * shape.key_width() + part.head * shape.value_dim + part.begin..][..part.width];
        let gate = token * shape.value_heads + part.head;
        let decay = s.splat(part.decay[gate]);
        let mut found = [s.zero(); V];
        for (row, k) in rows.iter().zip(k) {
            let k = s.splat(*k);
            for (found, x) in found.iter_mut().zip(row) {
                *found = s.fma(s.mul(s.load(x), decay), k, *found);
            }
        }
        let strength = s.splat(part.strength[gate]);
        let mut change = [s.zero(); V];
        for ((change, found), v) in change.iter_mut().zip(found).zip(v.chunks(LANES)) {
            *change = s.mul(s.sub(s.load_part(v, 0.0), found), strength);
        }
        let mut out = [s.zero(); V];
        for ((row, k), q) in rows.iter_mut().zip(k).zip(q) {
            let (k, q) = (s.splat(*k), s.splat(*q));
            for ((out, change), x) in out.iter_mut().zip(change).zip(row) {
                let new = s.fma(k, change, s.mul(s.load(x), decay));
                s.store(new, x);
                *out = s.fma(new, q, *out);
            }
        }
        let mut lanes = [[0.0; LANES]; V];
        for (lanes, out) in lanes.iter_mut().zip(out) {
            s.store(out, lanes);
        }
        put(token, &lanes.as_flattened()[..part.width]);
    }
}
