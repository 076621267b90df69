//! What stands for the tiles of AMX on architectures other than x86-64: there are none.

use std::cell::Cell;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::Job;
use super::super::activations::Integer;
use super::super::packed::Weights;
use super::super::wide::Wide;
use super::Window;
use super::next_rows::NextRows;
use super::panel::Panel;

/// Never.
pub(super) const fn is_worth_it(_rows: usize) -> bool {
    false
}

/// Tiles, of which no thread has any.
pub(super) struct Amx<K: Weights> {
    none: Infallible,
    weights: PhantomData<K>,
}

/// Never.
pub(super) const fn fits<K: Weights, W: Wide, Q: Integer>() -> bool {
    false
}

impl<K: Weights> Amx<K> {
    /// # Safety
    /// The process must have AMX, which it has not.
    pub unsafe fn new(_: &Job<'_>) -> Self {
        unreachable!("AMX is of x86-64")
    }

    /// Can't be called.
    pub fn multiply<W: Wide, const R: usize>(
        &self,
        _: W,
        _: &Job<'_>,
        _: &[Window; R],
        _: Range<usize>,
        _: &Panel,
        _: &Cell<NextRows>,
    ) -> usize {
        match self.none {}
    }
}
