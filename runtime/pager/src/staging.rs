//! Where an I/O thread keeps an expert as it is in its files, until it is recoded.

use std::ops::Range;
use std::sync::Arc;

use crate::arena::{Arena, Piece};
use crate::catalog::{ExpertKey, Recode, Record};
use crate::error::PagerError;
use crate::files::{Files, Job, ReadCost};
use crate::shared::PIECE_BYTES;

/// A slot of an arena beside that of the experts, which one thread has for itself.
pub(crate) struct Staging {
    arena: Arc<Arena>,
    slot: usize,
}

impl Staging {
    pub fn new(arena: Arc<Arena>, slot: usize) -> Self {
        Self { arena, slot }
    }

    /// Reads all parts of a record, one after the other.
    pub fn fill(&mut self, files: &Files, record: &Record) -> (ReadCost, Result<(), PagerError>) {
        let mut cost = ReadCost::default();
        let busy = || PagerError::SlotBusy { slot: self.slot };
        let Some(mut writer) = self.arena.write(self.slot) else { return (cost, Err(busy())) };
        for (part, region) in record.parts.iter().zip(record.regions()) {
            for start in (0..region.slot_bytes).step_by(PIECE_BYTES) {
                let end = region.slot_bytes.min(start + PIECE_BYTES);
                let place = region.slot_offset + start..region.slot_offset + end;
                let Some(into) = writer.piece(place) else { return (cost, Err(busy())) };
                let data = region.lead.max(start) - start..end.min(region.lead + region.bytes) - start;
                let offset = region.file_offset + start as u64;
                let (one, result) = files.read(&mut Job { file: part.file, offset, data, into });
                cost.add(one);
                if let Err(error) = result {
                    return (cost, Err(error));
                }
            }
        }
        (cost, Ok(()))
    }

    /// Makes of the record that was read last what its slot holds, at these places.
    pub fn recode(
        &mut self,
        record: &Record,
        recode: &dyn Recode,
        key: ExpertKey,
        places: &[Range<usize>],
        into: &mut Piece,
    ) -> Result<(), PagerError> {
        let read = self.arena.read(self.slot).ok_or(PagerError::SlotBusy { slot: self.slot })?;
        let parts: Vec<&[u8]> = record.regions().map(|region| &read.bytes()[region.data()]).collect();
        let refused = |rule| PagerError::Recode { group: key.group, index: key.index, rule };
        recode.recode(key, &parts, &mut into.parts_mut(places)).map_err(refused)
    }
}
