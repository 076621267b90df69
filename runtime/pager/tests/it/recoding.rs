//! Experts that are made another form while they are read.

use std::sync::Arc;

use membrane_pager::{Catalog, ExpertKey, IoMode, Pager, PagerConfig, PagerError, Recode};

use crate::bank::Bank;

/// A part with the sum of each part's bytes, and one with the first byte of each, again and again.
#[derive(Debug)]
struct Sums {
    bytes: [usize; 2],
    /// An expert that is refused.
    bad: Option<ExpertKey>,
}

impl Sums {
    fn of(parts: &[&[u8]]) -> [Vec<u8>; 2] {
        let sum = |part: &&[u8]| part.iter().map(|&byte| u64::from(byte)).sum::<u64>().to_le_bytes();
        let first: Vec<u8> = parts.iter().map(|part| part[0]).collect();
        [parts.iter().flat_map(sum).collect(), first.repeat(50)]
    }
}

impl Recode for Sums {
    fn part_bytes(&self, _group: u32) -> &[usize] {
        &self.bytes
    }

    fn recode(&self, key: ExpertKey, parts: &[&[u8]], into: &mut [&mut [u8]]) -> Result<(), String> {
        if self.bad == Some(key) {
            assert!(key.index != PANICS, "a mistake");
            return Err("its sums are wrong".into());
        }
        for (into, made) in into.iter_mut().zip(Self::of(parts)) {
            into.copy_from_slice(&made);
        }
        Ok(())
    }
}

const FILES: usize = 3;
/// If it is refused, it is by a panic.
const PANICS: u32 = 5;

fn pager(bank: &Bank, slots: u64, io: IoMode, bad: Option<ExpertKey>) -> Pager {
    let recode = Sums { bytes: [8 * FILES, 50 * FILES], bad };
    let groups = bank.catalog().groups().to_vec();
    let catalog = Catalog::recoded(groups, Arc::new(recode)).unwrap();
    assert_eq!(catalog.slot_bytes(), 4096, "a slot has the size of what is in it");
    assert!(catalog.staging_bytes() > 3 * 4096 && bank.catalog().staging_bytes() == 0);
    let config = PagerConfig { io, ..PagerConfig::new(slots * catalog.slot_bytes()) };
    Pager::open(&bank.files, catalog, config).unwrap()
}

fn check(bank: &Bank, pager: &Pager, group: u32, wanted: &[u32]) -> Vec<PagerError> {
    let (mut seen, mut errors) = (0, Vec::new());
    let mut request = pager.request(group, wanted);
    loop {
        match request.next_ready() {
            Ok(None) => break,
            Ok(Some(ready)) => ready.leases.into_iter().for_each(|lease| {
                let record = bank.record(lease.key());
                let part = |part: &membrane_pager::ByteRange| {
                    &bank.content(part.file)[part.offset as usize..][..part.bytes as usize]
                };
                let parts: Vec<&[u8]> = record.parts.iter().map(part).collect();
                let found: Vec<&[u8]> = lease.parts().collect();
                assert_eq!(found, Sums::of(&parts));
                seen += 1;
            }),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(seen + errors.len(), wanted.len());
    errors
}

#[test]
fn slots_hold_what_experts_become() {
    let bank = Bank::new(FILES, &[7, 0, 9], 1_500_000);
    for io in [IoMode::Direct, IoMode::Buffered] {
        for slots in [1, 5, 16] {
            let pager = pager(&bank, slots, io, None);
            for wanted in [&[3, 1, 6][..], &[0, 1, 2, 3, 4, 5, 6], &[6]] {
                assert!(check(&bank, &pager, 0, wanted).is_empty());
                assert!(check(&bank, &pager, 2, wanted).is_empty());
            }
            let counters = pager.counters();
            assert!(counters.bytes_read >= counters.record_bytes && counters.record_bytes > 0);
            assert!(counters.recode_time_ns > 0 && counters.read_time_ns > 0);
        }
    }
}

#[test]
fn an_expert_that_can_not_be_recoded_is_an_error_of_its_own() {
    let bank = Bank::new(FILES, &[6], 10_000);
    let pager = pager(&bank, 3, IoMode::Auto, Some(ExpertKey { group: 0, index: 4 }));
    for _ in 0..2 {
        let errors = check(&bank, &pager, 0, &[5, 4, 3, 2, 1, 0]);
        let [PagerError::Recode { group: 0, index: 4, .. }] = &errors[..] else { panic!("{errors:?}") };
        assert!(errors[0].to_string().contains("its sums are wrong"));
    }
    assert_eq!(pager.counters().failures, 2);
    assert!(check(&bank, &pager, 0, &[0, 1, 2]).is_empty());
}

/// Nobody waits for ever.
#[test]
fn a_panic_is_an_error_too() {
    let bank = Bank::new(FILES, &[6], 10_000);
    let pager = pager(&bank, 3, IoMode::Auto, Some(ExpertKey { group: 0, index: PANICS }));
    let errors = check(&bank, &pager, 0, &[PANICS, 1]);
    assert!(errors[0].to_string().contains("expert 5 of group 0: a mistake of the program"), "{errors:?}");
    assert!(check(&bank, &pager, 0, &[0, 1, 2, 3, 4]).is_empty());
}

#[test]
fn parts_that_become_too_large_are_refused() {
    let bank = Bank::new(1, &[1], 10);
    let recode = Sums { bytes: [usize::MAX, 1], bad: None };
    let error = Catalog::recoded(bank.catalog().groups().to_vec(), Arc::new(recode)).unwrap_err();
    assert!(matches!(error, PagerError::Record { .. }), "{error}");
}
