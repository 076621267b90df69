//! What stands for groups on the tiles of AMX on architectures other than x86-64: there are none.

use std::ops::Range;

use super::super::Job;
use super::super::packed::Grouped;

/// Never.
pub(super) const fn is_worth_it(_rows: usize) -> bool {
    false
}

/// # Safety
/// The process must have AMX, which it has not.
pub(super) unsafe fn product<P: Grouped>(_: &Job<'_>, _: Range<usize>, _: bool) {
    unreachable!("AMX is of x86-64")
}
