//! Experts that were used most in earlier runs, read while nothing else is and as long as slots are free.

use super::{Ahead, Residency, State};
use crate::usage::Usage;

impl State {
    /// Lets the experts that were used most be read while the disk is idle. They take free slots alone, and nobody waits for them.
    /// To be called before the first request.
    pub fn recall(&mut self, usage: &Usage) {
        for (group, usage) in usage.groups.iter().enumerate() {
            self.eviction.expect(group as u32, usage);
        }
        let mut positions = usage.likeliest();
        positions.truncate(self.free.len());
        positions.reverse();
        self.recalled = positions;
    }

    /// Begins the read of the next expert that earlier runs used. Whether there was one.
    pub fn begin_recalled(&mut self) -> bool {
        while !self.free.is_empty()
            && let Some(position) = self.recalled.pop()
        {
            if self.experts[position].residency == Residency::Absent
                && let Some(slot) = self.free.pop()
            {
                self.begin_ahead(position, slot, Ahead::Recalled);
                return true;
            }
        }
        self.recalled.clear();
        false
    }
}
