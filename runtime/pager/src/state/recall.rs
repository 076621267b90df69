//! Experts that were used most in earlier runs, read while no request waits for the disk and as long as slots are free.

use super::{Ahead, Residency, State};
use crate::usage::Usage;

impl State {
    /// Lets the experts that were used most be read while no request waits for a read. They take free slots alone, and nobody waits
    /// for them. Does nothing if the policy makes nothing of usage. To be called before the first request.
    pub fn recall(&mut self, usage: &Usage) {
        for (group, usage) in usage.groups.iter().enumerate() {
            if !self.eviction.expect(group as u32, usage) {
                return;
            }
        }
        let mut positions = usage.likeliest();
        positions.truncate(self.free.len());
        positions.reverse();
        self.recalled = positions;
    }

    /// Whether experts of earlier runs are still to be read.
    pub fn is_recalling(&self) -> bool {
        !self.recalled.is_empty()
    }

    /// Whether a request waits for an expert that is being read.
    pub fn is_awaited(&self) -> bool {
        self.requests.iter().any(|request| !request.loading.is_empty())
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
