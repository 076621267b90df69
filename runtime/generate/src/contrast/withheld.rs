//! Which bytes of what a model wrote a chain of policies has withheld, by the replacements that each of them made.
#![expect(clippy::single_range_in_vec_init, reason = "a text may be one stretch of another")]

use std::ops::Range;

use membrane_host::Edit;

/// The replacements of a chain: of each policy in its order.
pub(super) type Edits = [Vec<Edit>];

/// Bytes of the model's text that came through the chain unchanged, where `released` bytes came out of it.
pub(super) fn passed(edits: &Edits, released: u64) -> Vec<Range<u64>> {
    let out = edits.iter().rev().fold(vec![0..released], |ranges, edits| back(edits, &ranges));
    out.into_iter().filter(|range| !range.is_empty()).collect()
}

/// How much of the model's text the chain has decided on, where `released` bytes came out of it; behind it is what
/// policies hold back.
pub(super) fn decided(edits: &Edits, released: u64) -> u64 {
    edits.iter().rev().fold(released, |end, edits| before(edits, end))
}

/// Where in the model's text that stood which a policy, the one of this place in the chain, took out.
pub(super) fn origin(edits: &Edits, policy: usize, edit: &Edit) -> Vec<Range<u64>> {
    let removed = edit.at_bytes..edit.at_bytes + edit.removed_bytes;
    edits[..policy].iter().rev().fold(vec![removed], |ranges, edits| back(edits, &ranges))
}

/// What of `0..length` is in no range; the ranges stand in order.
pub(super) fn complement(ranges: &[Range<u64>], length: u64) -> Vec<Range<u64>> {
    let (mut gaps, mut at) = (Vec::new(), 0);
    for range in ranges {
        if range.start.min(length) > at {
            gaps.push(at..range.start.min(length));
        }
        at = at.max(range.end);
    }
    if at < length {
        gaps.push(at..length);
    }
    gaps
}

/// What of `a` is not in `b`; both stand in order.
pub(super) fn difference(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let end = a.last().map_or(0, |last| last.end);
    intersection(a, &complement(b, end))
}

/// What is in both; both stand in order.
pub(super) fn intersection(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut common, mut i, mut j) = (Vec::new(), 0, 0);
    while let (Some(left), Some(right)) = (a.get(i), b.get(j)) {
        let both = left.start.max(right.start)..left.end.min(right.end);
        if !both.is_empty() {
            common.push(both);
        }
        if left.end <= right.end {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}

/// The bytes that came to a policy which those in `ranges` of what came out of it are. What it put in has none.
fn back(edits: &[Edit], ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut inputs, mut at, mut out) = (Vec::new(), 0, 0);
    let ends = edits.iter().map(|edit| edit.out_bytes).chain([u64::MAX]);
    for (index, end) in ends.enumerate() {
        let unchanged = intersection(ranges, std::slice::from_ref(&(out..end)));
        inputs.extend(unchanged.into_iter().map(|range| at + (range.start - out)..at + (range.end - out)));
        if let Some(edit) = edits.get(index) {
            (at, out) = (edit.at_bytes + edit.removed_bytes, edit.out_bytes + edit.inserted_bytes);
        }
    }
    inputs
}

/// How many bytes that came to a policy were behind the first `end` that came out of it.
fn before(edits: &[Edit], end: u64) -> u64 {
    let (mut at, mut out) = (0, 0);
    for edit in edits {
        if edit.out_bytes + edit.inserted_bytes > end {
            return if edit.out_bytes < end { edit.at_bytes } else { at + (end - out) };
        }
        (at, out) = (edit.at_bytes + edit.removed_bytes, edit.out_bytes + edit.inserted_bytes);
    }
    at + (end - out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replacement of `removed` bytes at `at` by `inserted`, behind those before.
    fn edits(of: &[(u64, u64, u64)]) -> Vec<Edit> {
        let mut shift = 0_i64;
        of.iter()
            .map(|&(at, removed, inserted)| {
                let out_bytes = at.checked_add_signed(shift).unwrap();
                shift += inserted as i64 - removed as i64;
                Edit { at_bytes: at, removed_bytes: removed, out_bytes, inserted_bytes: inserted }
            })
            .collect()
    }

    #[test]
    fn what_passed_is_what_no_policy_took_out() {
        assert_eq!(passed(&[], 7), [0..7]);
        let one = edits(&[(2, 3, 10), (8, 1, 0)]);
        assert_eq!(passed(std::slice::from_ref(&one), 2 + 10 + 3 + 4), [0..2, 5..8, 9..13]);
        // Cut within what was put in: the text behind it is not out.
        assert_eq!(passed(std::slice::from_ref(&one), 6), [0..2]);
        // The second policy takes out part of what the first put in, and a byte before it.
        let two = edits(&[(1, 3, 1)]);
        assert_eq!(passed(&[one, two], 1 + 1 + 8 + 3 + 4), [0..1, 5..8, 9..13]);
    }

    #[test]
    fn what_is_held_back_is_not_decided() {
        assert_eq!(decided(&[], 7), 7);
        let one = edits(&[(2, 3, 10)]);
        assert_eq!(decided(std::slice::from_ref(&one), 1), 1);
        assert_eq!(decided(std::slice::from_ref(&one), 12), 5, "the replacement is out");
        assert_eq!(decided(std::slice::from_ref(&one), 20), 13);
        // The second policy holds the text of the first's replacement back.
        assert_eq!(decided(&[one.clone(), Vec::new()], 6), 2);
        assert_eq!(decided(&[one, edits(&[(4, 1, 0)])], 6), 2);
    }

    #[test]
    fn what_was_taken_out_is_found_in_the_models_text() {
        let (one, two) = (edits(&[(2, 3, 10)]), edits(&[(1, 3, 1), (14, 2, 0)]));
        let chain = [one, two.clone()];
        assert_eq!(origin(&chain, 1, &two[0]), [1..2], "the rest of it is the first policy's own");
        assert_eq!(origin(&chain, 1, &two[1]), [7..9]);
    }

    #[test]
    fn ranges_are_sets() {
        assert_eq!(complement(&[1..2, 5..8], 7), [0..1, 2..5]);
        assert_eq!(complement(&[], 3), [0..3]);
        assert_eq!(difference(&[0..4, 6..9], &[1..2, 3..7]), [0..1, 2..3, 7..9]);
        assert!(difference(&[2..3], &[0..9]).is_empty());
    }
}
