//! Files that are not what they should be, before and during use.

use std::fs::File;
use std::os::unix::fs::FileExt;

use membrane_pager::{ByteRange, Catalog, ExpertKey, IoMode, Pager, PagerConfig, PagerError, Record};

use crate::bank::Bank;

#[test]
fn a_file_truncated_while_in_use_is_an_error_and_not_the_end() {
    let bank = Bank::new(2, &[8], 30_000);
    for io in [IoMode::Direct, IoMode::Buffered] {
        for slots in [1, 3] {
            let pager = bank.pager(slots, io);
            bank.fetch(&pager, 0, &[0, 1]);
            let cut = bank.record(ExpertKey { group: 0, index: 5 }).parts[1];
            let file = File::options().write(true).open(bank.path(1)).unwrap();
            file.set_len(cut.offset + cut.bytes - 1).unwrap();

            let (mut good, mut bad) = (Vec::new(), 0);
            let mut request = pager.request(0, &[4, 5, 6, 7, 0]);
            loop {
                match request.next_ready() {
                    Ok(None) => break,
                    Ok(Some(ready)) => ready.leases.into_iter().for_each(|lease| {
                        bank.check(&lease);
                        good.push(lease.index());
                    }),
                    Err(error @ PagerError::Truncated { .. }) => {
                        let text = error.to_string();
                        assert!(text.contains("experts-1") && text.contains("truncated"), "{text}");
                        let PagerError::Truncated { end, wanted, .. } = error else { unreachable!() };
                        assert!(end < wanted && end == cut.offset + cut.bytes - 1, "{text}");
                        bad += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            drop(request);
            good.sort_unstable();
            assert_eq!((good, bad, pager.counters().failures), (vec![0, 4], 3, 3));

            file.set_len(bank.content(1).len() as u64).unwrap();
            file.write_all_at(bank.content(1), 0).unwrap();
            bank.fetch(&pager, 0, &[7, 6, 5, 4, 3, 2, 1, 0]);
            assert_eq!(pager.resident(), slots, "failed reads gave their slots back");
        }
    }
}

#[test]
fn a_file_replaced_or_removed_by_name_stays_the_one_that_was_opened() {
    let bank = Bank::new(1, &[4], 10_000);
    for io in [IoMode::Direct, IoMode::Buffered] {
        let path = bank.path(0);
        let aside = bank.folder.path().join("aside");
        let opened_before = bank.pager(2, io);
        std::fs::rename(&path, &aside).unwrap();
        std::fs::write(&path, b"something else").unwrap();
        bank.fetch(&opened_before, 0, &[0, 1, 2, 3]);
        // The given descriptors still name the old file, although the path does not.
        bank.fetch(&bank.pager(2, io), 0, &[3, 2, 1, 0]);
        std::fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn dropping_everything_while_reads_are_under_way_is_clean() {
    let bank = Bank::new(1, &[8], 4_000_000);
    for io in [IoMode::Direct, IoMode::Buffered] {
        let pager = bank.pager(6, io);
        drop(pager.request(0, &[0, 1, 2, 3, 4, 5, 6, 7]));
        let mut request = pager.request(0, &[7, 0]);
        assert!(request.next_ready().unwrap().is_some());
        drop(request);
        drop(pager);

        let pager = bank.pager(6, io);
        let _request = pager.request(0, &[0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn reads_of_a_dropped_request_are_not_wasted() {
    let bank = Bank::new(1, &[4], 200_000);
    let pager = bank.pager(3, IoMode::Buffered);
    drop(pager.request(0, &[0, 1, 2]));
    bank.fetch(&pager, 0, &[0, 1, 2]);
    let counters = pager.counters();
    assert_eq!((counters.misses, counters.hits + counters.joined), (3, 3));
}

#[test]
fn catalogs_that_do_not_fit_their_files_are_refused() {
    let bank = Bank::new(1, &[2], 1_000);
    let bytes = bank.content(0).len() as u64;
    let open = |part: ByteRange| {
        let catalog = Catalog::new(vec![vec![Record { parts: vec![part] }]]).unwrap();
        Pager::open(&bank.files, catalog, PagerConfig::new(1 << 20)).err()
    };
    assert!(open(ByteRange { file: 0, offset: 0, bytes }).is_none());
    let error = open(ByteRange { file: 0, offset: 1, bytes }).unwrap();
    assert!(matches!(error, PagerError::PastEnd { end, file_bytes, .. } if end == file_bytes + 1));
    assert!(error.to_string().contains("experts-0"), "{error}");
    let error = open(ByteRange { file: 1, offset: 0, bytes }).unwrap();
    assert!(matches!(error, PagerError::UnknownFile { file: 1, files: 1, .. }));
}

#[test]
fn an_arena_below_one_expert_is_refused_with_the_numbers() {
    let bank = Bank::new(1, &[2], 9_000);
    let slot = Pager::slot_bytes_for(&bank.catalog());
    let error = Pager::open(&bank.files, bank.catalog(), PagerConfig::new(slot - 1)).err().unwrap();
    let PagerError::ArenaTooSmall { arena_bytes, slot_bytes } = error else { panic!("{error}") };
    assert_eq!((arena_bytes, slot_bytes), (slot - 1, slot));
    assert_eq!(Pager::slots_for(&bank.catalog(), slot), 1);
}
