//! Inputs that one matrix has made of all key heads, taken apart.

use super::{DeltaShape, HeadOrder};
use crate::parallel::Region;

/// Elements that are worth a task.
const TASK_ELEMS: usize = 16 * 1024;

/// Takes rows apart that have, for each key head, its query, its key, the values of its value heads and the gates of their
/// outputs: `x` [n, channels + value_width], `qkv` [n, channels] in the order queries, keys, values, `z` [n, value_width].
///
/// # Panics
/// If a length does not fit, or value heads are not grouped by key head.
pub fn split_by_key_head(region: &Region<'_>, x: &[f32], shape: &DeltaShape, qkv: &mut [f32], z: &mut [f32]) {
    let (channels, width) = (shape.channels(), shape.value_width());
    assert_eq!(shape.order, HeadOrder::Grouped, "split_by_key_head: value heads are not grouped");
    let n = x.len() / (channels + width);
    assert_eq!(x.len(), n * (channels + width), "split_by_key_head: the input is not rows of the shape");
    assert_eq!((qkv.len(), z.len()), (n * channels, n * width), "split_by_key_head: output");
    let (key, values) = (shape.key_dim, width / shape.key_heads);
    let heads =
        |row: usize| x[row * (channels + width)..].chunks_exact(2 * (key + values)).take(shape.key_heads);
    let rows_each = (TASK_ELEMS / channels).max(1);
    region.run_chunks(qkv, rows_each * channels, |task, qkv| {
        for (row, qkv) in (task * rows_each..).zip(qkv.chunks_exact_mut(channels)) {
            let (queries, rest) = qkv.split_at_mut(shape.key_width());
            let (keys, rest) = rest.split_at_mut(shape.key_width());
            let outputs = queries
                .chunks_exact_mut(key)
                .zip(keys.chunks_exact_mut(key))
                .zip(rest.chunks_exact_mut(values));
            for (head, ((query, key_out), value)) in heads(row).zip(outputs) {
                query.copy_from_slice(&head[..key]);
                key_out.copy_from_slice(&head[key..2 * key]);
                value.copy_from_slice(&head[2 * key..2 * key + values]);
            }
        }
    });
    region.run_chunks(z, rows_each * width, |task, z| {
        for (row, z) in (task * rows_each..).zip(z.chunks_exact_mut(width)) {
            for (head, z) in heads(row).zip(z.chunks_exact_mut(values)) {
                z.copy_from_slice(&head[2 * key + values..]);
            }
        }
    });
}
