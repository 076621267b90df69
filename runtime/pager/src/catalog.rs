//! Where experts lie in their files, and how a record is laid out in a slot.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::PagerError;

/// Direct reads start, end and land on multiples of this; the largest logical block of common devices, in
/// bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Largest record, in bytes. Keeps every later sum of sizes far from overflow, whatever a file claims.
const MAX_RECORD_BYTES: u64 = 1 << 40;

/// Largest end of a byte range: what an `off_t` can express, with room for rounding up to a block.
const MAX_FILE_END: u64 = (1 << 62) - BLOCK_BYTES;

/// A run of bytes in one of the pager's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// Position of the file in the list that the pager was opened with.
    pub file: usize,
    /// First byte, from the start of the file. Needs no alignment.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// One expert: its parts in the order in which [`Lease::part`](crate::Lease::part) numbers them, for example
/// gate, up and down. The parts may lie in different files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// At least one range, none empty.
    pub parts: Vec<ByteRange>,
}

/// Names an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertKey {
    /// Layer.
    pub group: u32,
    /// Expert in the layer.
    pub index: u32,
}

/// What makes of an expert's parts, as the files have them, those that its slot holds: often other in number and length, with the
/// same meaning. It runs in the I/O threads.
pub trait Recode: fmt::Debug + Send + Sync {
    /// Bytes of each part in the slots of a group.
    fn part_bytes(&self, group: u32) -> &[usize];

    /// Fills `into`, whose parts have the lengths of [`Recode::part_bytes`]. Error: what is wrong with the content.
    fn recode(&self, key: ExpertKey, parts: &[&[u8]], into: &mut [&mut [u8]]) -> Result<(), String>;
}

/// Parts of a recoded expert start at multiples of it in their slot, in bytes: a cache line.
const PART_ALIGNMENT: usize = 64;

/// All experts of a model: groups are layers, positions in a group are experts. Groups may be empty (dense
/// layers) and may differ in length and in the size of their records.
#[derive(Debug, Clone)]
pub struct Catalog {
    groups: Vec<Vec<Record>>,
    /// For each group, the number of experts in the groups before it; one entry more for the end.
    starts: Vec<usize>,
    bytes: u64,
    slot_bytes: u64,
    recode: Option<Arc<dyn Recode>>,
    /// Where the parts of each group lie in a slot if they are recoded, in the one range of a record if they are packed; empty if
    /// each has a range of its own.
    places: Vec<Vec<Range<usize>>>,
}

impl Catalog {
    /// Checks the sizes of all records once. Errors: [`PagerError::Record`] for an empty part, a record
    /// without parts or one too large to exist.
    pub fn new(groups: Vec<Vec<Record>>) -> Result<Self, PagerError> {
        let mut starts = vec![0];
        let (mut experts, mut bytes, mut slot_bytes) = (0, 0u64, 0);
        for (group, records) in groups.iter().enumerate() {
            for (index, record) in records.iter().enumerate() {
                record.check().map_err(|rule| PagerError::Record { group, index, rule })?;
                bytes = bytes.saturating_add(record.bytes());
                slot_bytes = slot_bytes.max(record.slot_bytes());
            }
            experts += records.len();
            starts.push(experts);
        }
        Ok(Self { groups, starts, bytes, slot_bytes, recode: None, places: Vec::new() })
    }

    /// The same experts, whose slots hold what `recode` makes of them. Each I/O thread then has memory of its own for the
    /// parts as they are read, [`Catalog::staging_bytes`]. Errors: those of [`Catalog::new`], and a part that is too large.
    pub fn recoded(groups: Vec<Vec<Record>>, recode: Arc<dyn Recode>) -> Result<Self, PagerError> {
        let mut catalog = Self::new(groups)?;
        catalog.slot_bytes = 0;
        for group in 0..catalog.groups.len() {
            let mut places = Vec::new();
            let mut end = 0usize;
            for &bytes in recode.part_bytes(group as u32) {
                let start = end.next_multiple_of(PART_ALIGNMENT);
                end = start.saturating_add(bytes);
                if end as u64 > MAX_RECORD_BYTES {
                    let rule = "it becomes larger than a terabyte";
                    return Err(PagerError::Record { group, index: 0, rule });
                }
                places.push(start..end);
            }
            if !catalog.groups[group].is_empty() {
                catalog.slot_bytes = catalog.slot_bytes.max((end as u64).next_multiple_of(BLOCK_BYTES));
            }
            catalog.places.push(places);
        }
        catalog.recode = Some(recode);
        Ok(catalog)
    }

    /// The same experts, of which each is one range with all parts in it. `places`: where in the range the parts of a group are.
    /// Errors: those of [`Catalog::new`], and a record of several ranges, or with a part outside of its range or not behind the one before.
    pub fn packed(groups: Vec<Vec<Record>>, places: Vec<Vec<Range<usize>>>) -> Result<Self, PagerError> {
        let catalog = Self::new(groups)?;
        for (group, records) in catalog.groups.iter().enumerate() {
            let places = places.get(group).map_or(&[][..], Vec::as_slice);
            for (index, record) in records.iter().enumerate() {
                let ascend = places.is_sorted_by(|one, next| one.end <= next.start);
                let inside = |bytes: u64| {
                    places.iter().all(|place| place.start <= place.end && place.end as u64 <= bytes)
                };
                if !matches!(&record.parts[..], [range] if !places.is_empty() && ascend && inside(range.bytes))
                {
                    let rule = "it is not one range with all its parts in it, one behind the other";
                    return Err(PagerError::Record { group, index, rule });
                }
            }
        }
        Ok(Self { places, ..catalog })
    }

    /// Bytes that an I/O thread takes for the parts of an expert before they are recoded; 0 if none are.
    pub fn staging_bytes(&self) -> u64 {
        let largest = || self.iter().map(|(_, record)| record.slot_bytes()).max().unwrap_or(0);
        if self.recode.is_some() { largest() } else { 0 }
    }

    /// What recodes experts, if anything does.
    pub fn recode(&self) -> Option<&Arc<dyn Recode>> {
        self.recode.as_ref()
    }

    /// Where the parts of an expert lie in its slot, if they are recoded.
    pub(crate) fn places(&self, group: u32) -> &[Range<usize>] {
        &self.places[group as usize]
    }

    /// Where a part of an expert lies in its slot.
    pub(crate) fn part(&self, key: ExpertKey, part: usize) -> Option<Range<usize>> {
        if self.places.is_empty() {
            return self.record(key).regions().nth(part).map(|region| region.data());
        }
        let place = self.places(key.group).get(part).cloned()?;
        let begin = match self.recode {
            Some(_) => 0,
            None => self.record(key).regions().next()?.data().start,
        };
        Some(begin + place.start..begin + place.end)
    }

    /// Groups of experts, one a layer.
    pub fn groups(&self) -> &[Vec<Record>] {
        &self.groups
    }

    /// Experts in all groups.
    pub fn experts(&self) -> usize {
        self.starts[self.groups.len()]
    }

    /// Bytes of all records in their files, without slack.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that one slot takes: the largest record, each of its parts widened to whole blocks of 4096
    /// bytes, or what the largest becomes when it is recoded. 0 if there are no experts.
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// Bytes of an arena that holds every expert at once.
    pub fn arena_bytes_for_all(&self) -> u64 {
        self.slot_bytes.saturating_mul(self.experts() as u64)
    }

    /// The expert's place in the order of the whole catalog.
    pub(crate) fn position(&self, key: ExpertKey) -> Option<usize> {
        let records = self.groups.get(key.group as usize)?;
        ((key.index as usize) < records.len()).then(|| self.starts[key.group as usize] + key.index as usize)
    }

    /// All keys with their records, in the order of [`Catalog::position`].
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExpertKey, &Record)> + Clone {
        self.groups.iter().enumerate().flat_map(|(group, records)| {
            let key = move |index| ExpertKey { group: group as u32, index: index as u32 };
            records.iter().enumerate().map(move |(index, record)| (key(index), record))
        })
    }

    pub(crate) fn record(&self, key: ExpertKey) -> &Record {
        &self.groups[key.group as usize][key.index as usize]
    }
}

impl Record {
    /// Bytes of all parts in their files, without slack.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Bytes that the record takes in a slot: every part widened to whole blocks.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.parts.iter().map(Region::bytes_of).sum()
    }

    /// The aligned regions of the parts, one after the other from the start of a slot.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        self.parts.iter().scan(0, |at, part| {
            let region = Region::new(*at, part);
            *at += region.slot_bytes;
            Some(region)
        })
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.parts.is_empty() {
            return Err("it has no parts");
        }
        let mut total = 0u64;
        for part in &self.parts {
            if part.bytes == 0 {
                return Err("one of its parts is empty");
            }
            total = total.saturating_add(part.bytes);
            if total > MAX_RECORD_BYTES {
                return Err("it is larger than a terabyte");
            }
            if part.offset.saturating_add(part.bytes) > MAX_FILE_END {
                return Err("it ends after the largest possible file");
            }
        }
        Ok(())
    }
}

/// A part of a record in its slot. The region is a copy of whole blocks of the file, so the data keep their
/// offset within a block and a direct read can fill the region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    /// First byte of the region, from the start of the slot; a multiple of the block.
    pub slot_offset: usize,
    /// Length of the region; a multiple of the block.
    pub slot_bytes: usize,
    /// The byte of the file at the start of the region; a multiple of the block.
    pub file_offset: u64,
    /// Bytes of the region before the data.
    pub lead: usize,
    /// Length of the data.
    pub bytes: usize,
}

impl Region {
    fn new(slot_offset: usize, part: &ByteRange) -> Self {
        let lead = part.offset % BLOCK_BYTES;
        Self {
            slot_offset,
            slot_bytes: Self::bytes_of(part) as usize,
            file_offset: part.offset - lead,
            lead: lead as usize,
            bytes: part.bytes as usize,
        }
    }

    fn bytes_of(part: &ByteRange) -> u64 {
        (part.offset % BLOCK_BYTES + part.bytes).next_multiple_of(BLOCK_BYTES)
    }

    /// The data within the slot.
    pub fn data(&self) -> Range<usize> {
        let start = self.slot_offset + self.lead;
        start..start + self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ranges: &[(u64, u64)]) -> Record {
        let part = |&(offset, bytes)| ByteRange { file: 0, offset, bytes };
        Record { parts: ranges.iter().map(part).collect() }
    }

    #[test]
    fn regions_are_aligned_and_keep_the_offset_within_a_block() {
        let record = record(&[(100, 4096), (8192, 4096), (4095, 2)]);
        let regions: Vec<_> = record.regions().collect();
        assert_eq!(regions.iter().map(|r| r.slot_offset).collect::<Vec<_>>(), [0, 8192, 12288]);
        assert_eq!(
            regions.iter().map(|r| r.data()).collect::<Vec<_>>(),
            [100..4196, 8192..12288, 16383..16385]
        );
        assert_eq!(regions[2].file_offset, 0);
        assert_eq!(record.slot_bytes(), 8192 + 4096 + 8192);
        assert_eq!(record.bytes(), 8194);
    }

    #[test]
    fn parts_of_a_packed_record_lie_in_its_one_range() {
        let places = |places: &[Range<usize>]| vec![places.to_vec()];
        let catalog = |ranges: &[(u64, u64)], parts: &[Range<usize>]| {
            Catalog::packed(vec![vec![record(ranges)]], places(parts))
        };
        let packed = catalog(&[(8192 + 100, 4096)], &[0..1000, 1024..4096]).unwrap();
        let part = |part| packed.part(ExpertKey { group: 0, index: 0 }, part);
        assert_eq!((part(0), part(1), part(2)), (Some(100..1100), Some(1124..4196), None));
        assert_eq!((packed.staging_bytes(), packed.slot_bytes()), (0, 8192));
        let two: [(u64, u64); 2] = [(0, 10), (10, 10)];
        for (ranges, parts) in [
            (&two[..], &[0..5, 5..9][..]),
            (&two[..1], &[0..5, 5..11]),
            (&two[..1], &[5..9, 0..5]),
            (&two[..1], &[]),
        ] {
            assert!(catalog(ranges, parts).unwrap_err().to_string().contains("one range"));
        }
    }

    #[test]
    fn positions_skip_empty_groups() {
        let one = || record(&[(0, 10)]);
        let catalog = Catalog::new(vec![vec![one(), one()], vec![], vec![one()]]).unwrap();
        let at = |group, index| catalog.position(ExpertKey { group, index });
        assert_eq!((at(0, 1), at(1, 0), at(2, 0), at(2, 1), at(3, 0)), (Some(1), None, Some(2), None, None));
        assert_eq!(catalog.experts(), 3);
        let keys: Vec<_> = catalog.iter().map(|(key, _)| catalog.position(key)).collect();
        assert_eq!(keys, [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn impossible_records_are_refused() {
        for (bad, rule) in [
            (record(&[]), "no parts"),
            (record(&[(5, 0)]), "empty"),
            (record(&[(0, u64::MAX)]), "terabyte"),
            (record(&[(0, 1 << 39), (0, 1 << 39), (0, 1)]), "terabyte"),
            (record(&[(u64::MAX, 1)]), "largest possible file"),
        ] {
            let error = Catalog::new(vec![vec![record(&[(0, 1)]), bad]]).unwrap_err();
            assert!(error.to_string().contains(rule), "{error}");
            assert!(matches!(error, PagerError::Record { group: 0, index: 1, .. }));
        }
        assert_eq!(Catalog::new(vec![vec![]]).unwrap().experts(), 0);
    }
}
