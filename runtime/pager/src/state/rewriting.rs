//! Experts that are changed where they are in memory.

use super::{Residency, State};
use crate::error::PagerError;

impl State {
    /// Lets a thread rewrite a slot that it alone has pinned, that nobody else is promised, and that was not rewritten before. Whether
    /// that is so; until [`State::rewritten`] whoever asks for the expert waits for it as for a read.
    pub fn begin_rewrite(&mut self, slot: usize) -> bool {
        let entry = &mut self.slots[slot];
        if entry.pins != 1 || entry.pieces_left > 0 || entry.rewritten {
            return false;
        }
        entry.pieces_left = 1;
        self.experts[entry.expert].residency = Residency::Loading(slot);
        true
    }

    /// A slot was rewritten, or its expert was lost.
    pub fn rewritten(&mut self, slot: usize, result: Result<(), PagerError>) {
        self.slots[slot].rewritten = result.is_ok();
        self.counters.rewritten += u64::from(result.is_ok());
        self.piece_ended(slot, result);
    }
}
