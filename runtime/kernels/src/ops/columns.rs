//! Parts of rows, moved to where the next step wants them.

use std::ops::Range;

use super::{CHEAP_TASK, check_rows, rows_per_task};
use crate::parallel::Region;

/// Copies some columns of each row: `x` [n, width] to the columns from `column` on of `out` [n, out_width].
///
/// # Panics
/// If the rows are not whole or equally many, or columns lie beyond them.
pub fn copy_columns(
    region: &Region<'_>,
    x: &[f32],
    width: usize,
    columns: Range<usize>,
    out: &mut [f32],
    out_width: usize,
    column: usize,
) {
    check_rows("copy_columns", x.len(), width);
    check_rows("copy_columns", out.len(), out_width);
    assert_eq!(x.len() / width, out.len() / out_width, "copy_columns: the sides differ in rows");
    assert!(columns.end <= width && column + columns.len() <= out_width, "copy_columns: no such columns");
    let rows_each = rows_per_task(CHEAP_TASK, out_width);
    region.run_chunks(out, rows_each * out_width, |task, out| {
        let rows = x.chunks_exact(width).skip(task * rows_each);
        for (out, x) in out.chunks_exact_mut(out_width).zip(rows) {
            out[column..column + columns.len()].copy_from_slice(&x[columns.clone()]);
        }
    });
}

/// Puts what was computed head by head into rows: `x` [heads, n, part] to the first columns of each head in `out` [n, heads,
/// width].
///
/// # Panics
/// If the lengths do not fit.
pub fn merge_heads(region: &Region<'_>, x: &[f32], heads: usize, part: usize, out: &mut [f32], width: usize) {
    let row = heads * width;
    check_rows("merge_heads", out.len(), row);
    let n = out.len() / row;
    assert!(x.len() == n * heads * part && part <= width, "merge_heads: not [{heads}, {n}, {part}]");
    let rows_each = rows_per_task(CHEAP_TASK, row);
    region.run_chunks(out, rows_each * row, |task, out| {
        for (index, out) in (task * rows_each..).zip(out.chunks_exact_mut(row)) {
            for (head, out) in out.chunks_exact_mut(width).enumerate() {
                out[..part].copy_from_slice(&x[(head * n + index) * part..][..part]);
            }
        }
    });
}
