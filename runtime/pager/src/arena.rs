//! One reservation of memory, cut into equal slots.
//!
//! A slot is lent either to one writer, which hands out disjoint pieces of it, or to any number of readers.
//! The rule is checked at run time with one atomic word a slot, so that no mistake in the pager's bookkeeping
//! can let a thread read what another writes. All pointers of the crate are in this file.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapMut, MmapRaw};

use crate::error::PagerError;

/// A huge page, in bytes, where a page has 4 KiB; elsewhere a boundary that is good for more than one.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Arenas of experts ask for huge pages from this size on. Below, rounding up to one could show in a small budget.
const HUGE_EXPERTS_BYTES: usize = 16 << 20;
/// Buffers do so from this size on, where at most half of their memory is rounding.
const HUGE_BUFFERS_BYTES: usize = HUGE_PAGE_BYTES / 2;

/// Set in the word of a slot while it is being written; the rest of the word counts the writer and its
/// pieces, or else the readers.
const WRITING: u32 = 1 << 31;

/// The slots. Memory is anonymous, zero at first, and taken from the system when it is first touched.
pub(crate) struct Arena {
    map: MmapRaw,
    /// Where the first slot begins in it: at a huge page, if there are such.
    begin: usize,
    slot_bytes: usize,
    /// See [`WRITING`]; 0 is a slot that nobody uses.
    words: Box<[AtomicU32]>,
}

impl Arena {
    /// Reserves `slots` slots of `slot_bytes` each for experts; neither may be 0.
    pub fn reserve(slots: usize, slot_bytes: usize) -> Result<Arc<Self>, PagerError> {
        Self::map(slots, slot_bytes, HUGE_EXPERTS_BYTES)
    }

    /// Reserves `count` buffers of `bytes` each that reads go through; neither may be 0. They are in huge pages if these are to be had: a
    /// disk is asked for as many pieces as the memory has, and a virtual one can be four times as slow with pages of 4 KiB.
    pub fn buffers(count: usize, bytes: usize) -> Result<Arc<Self>, PagerError> {
        Self::map(count, bytes, HUGE_BUFFERS_BYTES)
    }

    fn map(slots: usize, slot_bytes: usize, huge_from: usize) -> Result<Arc<Self>, PagerError> {
        let failed = |source| PagerError::Reserve {
            bytes: (slots as u64).saturating_mul(slot_bytes as u64),
            source: Arc::new(source),
        };
        let too_much = || failed(std::io::ErrorKind::OutOfMemory.into());
        let bytes = slots.checked_mul(slot_bytes).ok_or_else(too_much)?;
        let huge = cfg!(target_os = "linux") && bytes >= huge_from;
        // One more than are filled, so that the first can begin where a huge page does. What is never touched takes no memory.
        let reserved = match huge {
            true => bytes
                .checked_next_multiple_of(HUGE_PAGE_BYTES)
                .and_then(|all| all.checked_add(HUGE_PAGE_BYTES)),
            false => Some(bytes),
        };
        let reserved = reserved.ok_or_else(too_much)?;
        let map = MmapRaw::from(MmapMut::map_anon(reserved).map_err(failed)?);
        #[cfg(target_os = "linux")]
        if huge {
            // Only a hint: kernels without huge pages refuse it, and nothing depends on it but speed.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let begin = if huge { to_huge_page(map.as_ptr().addr()) } else { 0 };
        let words = (0..slots).map(|_| AtomicU32::new(0)).collect();
        Ok(Arc::new(Self { map, begin, slot_bytes, words }))
    }

    pub fn slots(&self) -> usize {
        self.words.len()
    }

    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Lends the slot to a writer; `None` while anyone uses it.
    pub fn write(self: &Arc<Self>, slot: usize) -> Option<SlotWriter> {
        let word = self.words.get(slot)?;
        word.compare_exchange(0, WRITING | 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(SlotWriter { arena: Arc::clone(self), slot, next: 0 })
    }

    /// Lends the slot to one more reader; `None` while it is being written.
    pub fn read(&self, slot: usize) -> Option<SlotReader<'_>> {
        let one_more = |word| (word < WRITING - 1).then_some(word + 1);
        self.words.get(slot)?.try_update(Ordering::Acquire, Ordering::Relaxed, one_more).ok()?;
        Some(SlotReader { arena: self, slot })
    }

    /// Ends the use of a writer or of one of its pieces. The last one frees the slot, in one step.
    fn end_write(&self, slot: usize) {
        let one_less = |word| Some(if word == WRITING | 1 { 0 } else { word - 1 });
        // The closure never refuses, so there is no error to look at.
        let _ = self.words[slot].try_update(Ordering::Release, Ordering::Relaxed, one_less);
    }

    /// Start of a range within a slot.
    fn pointer(&self, slot: usize, range: &Range<usize>) -> *mut u8 {
        assert!(slot < self.words.len() && range.start <= range.end && range.end <= self.slot_bytes);
        // SAFETY: behind `begin` the mapping has slots * slot_bytes bytes, and the assertion keeps slot * slot_bytes + start
        // at or before their end; `map` checked that the product does not overflow.
        unsafe { self.map.as_mut_ptr().add(self.begin + slot * self.slot_bytes + range.start) }
    }
}

/// Bytes from an address to the next huge page.
fn to_huge_page(address: usize) -> usize {
    address.wrapping_neg() % HUGE_PAGE_BYTES
}

/// The only user of a slot. Hands out pieces of it from front to back.
pub(crate) struct SlotWriter {
    arena: Arc<Arena>,
    slot: usize,
    /// Everything before this byte of the slot was handed out.
    next: usize,
}

impl SlotWriter {
    /// A part of the slot to write; `None` if it begins before the end of an earlier piece or ends after the
    /// slot.
    pub fn piece(&mut self, range: Range<usize>) -> Option<Piece> {
        if range.start < self.next || range.end < range.start || range.end > self.arena.slot_bytes {
            return None;
        }
        self.next = range.end;
        self.arena.words[self.slot].fetch_add(1, Ordering::Relaxed);
        Some(Piece { arena: Arc::clone(&self.arena), slot: self.slot, range })
    }
}

impl Drop for SlotWriter {
    fn drop(&mut self) {
        self.arena.end_write(self.slot);
    }
}

/// A range of a slot that only its owner can touch.
pub(crate) struct Piece {
    arena: Arc<Arena>,
    slot: usize,
    range: Range<usize>,
}

impl Piece {
    pub fn slot(&self) -> usize {
        self.slot
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.arena.pointer(self.slot, &self.range);
        // SAFETY: the range lies in the mapping (`pointer` checks it), which lives as long as the `Arc` in
        // `self`, and anonymous memory is initialised. While this piece lives the slot's word has WRITING
        // set, so there is no reader and no second writer; pieces of one writer are disjoint; `&mut self`
        // excludes another slice of this one.
        unsafe { std::slice::from_raw_parts_mut(start, self.range.len()) }
    }

    /// Several places in it, in ascending order and apart from each other.
    ///
    /// # Panics
    /// If they are not, or end behind it.
    pub fn parts_mut(&mut self, places: &[Range<usize>]) -> Vec<&mut [u8]> {
        let mut rest = self.bytes_mut();
        let mut behind = 0;
        let mut parts = Vec::with_capacity(places.len());
        for place in places {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(place.end - behind);
            parts.push(&mut part[place.start - behind..]);
            (rest, behind) = (after, place.end);
        }
        parts
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.arena.end_write(self.slot);
    }
}

/// Keeps a slot as it is.
pub(crate) struct SlotReader<'a> {
    arena: &'a Arena,
    slot: usize,
}

impl SlotReader<'_> {
    /// All bytes of the slot.
    pub fn bytes(&self) -> &[u8] {
        let range = 0..self.arena.slot_bytes;
        let start = self.arena.pointer(self.slot, &range);
        // SAFETY: the range lies in the mapping, which outlives `self`, and anonymous memory is initialised.
        // While this reader lives the slot's word counts it, so `Arena::write` refuses the slot and nobody
        // writes to it; acquiring the word made the writes of the last writer visible.
        unsafe { std::slice::from_raw_parts(start, range.len()) }
    }
}

impl Drop for SlotReader<'_> {
    fn drop(&mut self) {
        self.arena.words[self.slot].fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_writer_or_many_readers() {
        let arena = Arena::reserve(2, 8192).unwrap();
        let mut writer = arena.write(1).unwrap();
        assert!(arena.write(1).is_none() && arena.read(1).is_none());
        assert!(arena.read(0).is_some());
        let mut low = writer.piece(0..4096).unwrap();
        let mut high = writer.piece(4096..8192).unwrap();
        assert!(writer.piece(8191..8192).is_none());
        drop(writer);
        low.bytes_mut().fill(1);
        high.bytes_mut().fill(2);
        drop(low);
        assert!(arena.read(1).is_none(), "a piece is still out");
        drop(high);
        let (first, second) = (arena.read(1).unwrap(), arena.read(1).unwrap());
        assert_eq!((first.bytes()[4095], second.bytes()[4096]), (1, 2));
        drop(first);
        assert!(arena.write(1).is_none());
        drop(second);
        assert!(arena.write(1).is_some());
    }

    #[test]
    fn pieces_and_slots_out_of_range_are_refused() {
        let arena = Arena::reserve(1, 4096).unwrap();
        assert!(arena.write(1).is_none() && arena.read(1).is_none());
        let mut writer = arena.write(0).unwrap();
        assert!(writer.piece(0..4097).is_none());
        assert!(writer.piece(8..16).is_some());
        assert!(writer.piece(0..8).is_none(), "pieces go from front to back");
    }

    /// Whether the system was told to use huge pages where a slot begins.
    #[cfg(target_os = "linux")]
    fn asks_for_huge_pages(arena: &Arena) -> bool {
        let address = arena.pointer(0, &(0..1)).addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range = range.and_then(|(begin, end)| {
                Some(usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
            });
            match range {
                Some(range) => inside = range.contains(&address),
                None if inside && line.starts_with("VmFlags:") => {
                    return line.split(' ').any(|flag| flag == "hg");
                }
                None => {}
            }
        }
        false
    }

    #[test]
    fn a_huge_page_is_found_from_any_address() {
        let page = HUGE_PAGE_BYTES;
        for (address, bytes) in
            [(0, 0), (4096, page - 4096), (page - 4096, 4096), (page, 0), (3 * page + 1, page - 1)]
        {
            assert_eq!(to_huge_page(address), bytes, "{address}");
        }
    }

    #[test]
    fn buffers_begin_at_huge_pages_and_hold_what_is_written() {
        let half = HUGE_PAGE_BYTES / 2;
        for (count, bytes) in [(4, 2 * half), (1, 2 * half), (1, half), (3, 2 * half + 8192), (2, 4096)] {
            let buffers = Arena::buffers(count, bytes).unwrap();
            let mut pieces: Vec<Piece> =
                (0..count).map(|buffer| buffers.write(buffer).unwrap().piece(0..bytes).unwrap()).collect();
            #[cfg(target_os = "linux")]
            if count * bytes >= half {
                assert_eq!(pieces[0].bytes_mut().as_ptr().addr() % HUGE_PAGE_BYTES, 0, "{count} of {bytes}");
                // A kernel without huge pages has nothing to tell.
                let known = std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
                assert!(!known || asks_for_huge_pages(&buffers), "{count} of {bytes}");
            }
            pieces.iter_mut().zip(1..).for_each(|(piece, number)| piece.bytes_mut().fill(number));
            drop(pieces);
            for (buffer, number) in (0..count).zip(1..) {
                assert!(buffers.read(buffer).unwrap().bytes().iter().all(|&byte| byte == number));
            }
        }
    }

    #[test]
    fn an_impossible_reservation_is_a_typed_error() {
        let error = Arena::reserve(usize::MAX >> 12, 4096).err().unwrap();
        assert!(matches!(error, PagerError::Reserve { .. }), "{error}");
        let error = Arena::reserve(usize::MAX, 4096).err().unwrap();
        assert!(matches!(error, PagerError::Reserve { .. }), "{error}");
        let error = Arena::buffers(1, usize::MAX - 4096).err().unwrap();
        assert!(matches!(error, PagerError::Reserve { .. }), "{error}");
    }
}
