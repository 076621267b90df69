//! Every change to a log is found, and named as what it is.

mod common;

use std::path::Path;

use membrane_audit::verify::{FindingKind, Report, Trusted, verify, verify_reader};
use membrane_audit::{Digest, Head, Keep, Log, Record, SigningKey, head_path, line};
use proptest::prelude::*;

/// The bytes of a closed log, and its head.
fn log_of(records: u64) -> (Vec<u8>, Trusted) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, records, Keep::Tokens, None);
    let head = Head::read(&head_path(&path)).unwrap().unwrap();
    assert_eq!(head.number, records);
    (std::fs::read(&path).unwrap(), Trusted { head: Some(head), key: None })
}

fn check(log: &[u8], trusted: &Trusted) -> Report {
    verify_reader(log, trusted).unwrap()
}

fn lines(log: &[u8]) -> Vec<Vec<u8>> {
    log.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn kinds(report: &Report) -> Vec<(FindingKind, u64, Option<u64>)> {
    report.findings.iter().map(|finding| (finding.kind, finding.line, finding.record)).collect()
}

#[test]
fn a_log_that_was_left_alone_is_good() {
    let (log, trusted) = log_of(1000);
    for trusted in [trusted, Trusted::default()] {
        let report = check(&log, &trusted);
        assert!(report.good() && report.closed, "{:?}", report.findings);
        assert_eq!((report.records, report.answers), (1000, 142));
        assert_eq!(report.last.unwrap().0, 1000);
    }
}

#[test]
fn each_record_modified_at_sampled_bytes() {
    let (log, trusted) = log_of(1000);
    let mut start = 0;
    for (index, line) in lines(&log).iter().enumerate() {
        // Bytes all over the line, other ones in each record, its newline, and the least and largest change.
        let places = (0..3).map(|k| (k * line.len() / 3 + index * 7) % line.len()).chain([line.len() - 1]);
        for (turn, at) in places.enumerate() {
            let mut changed = log.clone();
            changed[start + at] ^= if turn % 2 == 0 { 1 } else { 0x80 };
            let report = check(&changed, &trusted);
            assert!(!report.good(), "record {} byte {at}", index + 1);
            let first = &report.findings[0];
            assert_eq!(first.line, index as u64 + 1, "{:?}", report.findings);
        }
        start += line.len();
    }
}

#[test]
fn every_byte_of_a_small_log_changed_to_anything() {
    let (log, trusted) = log_of(20);
    for at in 0..log.len() {
        let line = 1 + log[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        for by in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut changed = log.clone();
            changed[at] ^= by;
            let report = check(&changed, &trusted);
            assert!(report.findings.iter().any(|finding| finding.line == line), "byte {at} by {by}");
            // What the head adds is only the end.
            assert!(!check(&changed, &Trusted::default()).good(), "byte {at} by {by}");
        }
        let mut inserted = log.clone();
        inserted.insert(at, b' ');
        assert!(!check(&inserted, &Trusted::default()).good(), "a space at {at}");
        let mut removed = log.clone();
        removed.remove(at);
        assert!(!check(&removed, &Trusted::default()).good(), "byte {at} removed");
    }
}

#[test]
fn each_record_deleted() {
    let (log, trusted) = log_of(1000);
    let lines = lines(&log);
    for index in 0..lines.len() {
        let mut left = lines.clone();
        left.remove(index);
        let report = check(&left.concat(), &trusted);
        let number = index as u64 + 1;
        let kind = if index == 999 { FindingKind::Truncated } else { FindingKind::Deleted };
        assert_eq!(kinds(&report), [(kind, number, Some(number))], "record {number}");
    }
}

#[test]
fn each_record_twice() {
    let (log, trusted) = log_of(1000);
    let lines = lines(&log);
    for index in 0..lines.len() {
        let mut more = lines.clone();
        more.insert(index, lines[index].clone());
        let number = index as u64 + 1;
        let report = check(&more.concat(), &trusted);
        assert_eq!(kinds(&report), [(FindingKind::Inserted, number + 1, Some(number))], "record {number}");
    }
}

#[test]
fn each_pair_of_neighbours_exchanged_and_records_moved_far() {
    let (log, trusted) = log_of(1000);
    let lines = lines(&log);
    for index in 0..lines.len() - 1 {
        let mut other = lines.clone();
        other.swap(index, index + 1);
        let number = index as u64 + 1;
        let report = check(&other.concat(), &trusted);
        assert_eq!(kinds(&report), [(FindingKind::Reordered, number + 1, Some(number))], "record {number}");
    }
    for (from, to) in [(0, 999), (999, 0), (10, 500), (500, 10), (998, 1)] {
        let mut other = lines.clone();
        let moved = other.remove(from);
        other.insert(to, moved);
        let report = check(&other.concat(), &trusted);
        assert!(
            report.findings.iter().all(|finding| finding.kind == FindingKind::Reordered),
            "{from} to {to}"
        );
        assert!(!report.good(), "{from} to {to}");
    }
}

#[test]
fn cut_behind_each_record_and_within() {
    let (log, trusted) = log_of(1000);
    let mut end = 0;
    for (index, line) in lines(&log).iter().enumerate() {
        let number = index as u64 + 1;
        for at in [end, end + 1, end + line.len() / 2, end + line.len() - 1] {
            let report = check(&log[..at], &trusted);
            let truncated = (FindingKind::Truncated, Some(number));
            let whole = at == end + line.len() - 1;
            let expected = if whole { (FindingKind::Torn, Some(number)) } else { truncated };
            let found = report.findings.iter().any(|finding| (finding.kind, finding.record) == expected);
            assert!(found, "cut in record {number} at {at}: {:?}", report.findings);
        }
        end += line.len();
    }
    // Without a head, a cut between two records can't be seen; the report says that the log was not closed.
    let cut = log.len() - lines(&log)[999].len();
    let report = check(&log[..cut], &Trusted::default());
    assert!(report.good() && !report.closed && report.head.is_none());
    for at in log.len() - 2000..log.len() {
        assert!(!check(&log[..at], &trusted).good(), "cut at {at}");
    }
}

#[test]
fn foreign_lines_are_insertions() {
    let (log, trusted) = log_of(100);
    let lines = lines(&log);
    for index in [0, 1, 50, 99, 100] {
        for foreign in ["\n", "{}\n", "garbage\n"] {
            let mut more = lines.clone();
            more.insert(index, foreign.as_bytes().to_vec());
            let report = check(&more.concat(), &trusted);
            assert_eq!(
                kinds(&report),
                [(FindingKind::Inserted, index as u64 + 1, None)],
                "{foreign:?} at {index}"
            );
        }
    }
}

#[test]
fn a_forged_record_with_a_right_hash_breaks_the_chain() {
    let (log, trusted) = log_of(100);
    let lines = lines(&log);
    let read = |line: &[u8]| line::decode(&line[..line.len() - 1]).unwrap();
    for index in [1, 40, 98] {
        let old = read(&lines[index]);
        let (forged, _) = line::encode(old.number, old.previous, old.at_ms, &Record::Close).unwrap();
        let mut replaced = lines.clone();
        replaced[index] = forged.clone();
        let report = check(&replaced.concat(), &trusted);
        let number = index as u64 + 1;
        assert_eq!(kinds(&report), [(FindingKind::Modified, number, Some(number))], "replaced {number}");
        let mut inserted = lines.clone();
        inserted.insert(index, forged);
        let report = check(&inserted.concat(), &trusted);
        assert_eq!(kinds(&report), [(FindingKind::Inserted, number + 1, Some(number))], "inserted {number}");
    }
    // The last record is chained to nothing: the head has its hash.
    let old = read(&lines[99]);
    let (forged, _) = line::encode(100, old.previous, old.at_ms + 1, &old.record).unwrap();
    let mut replaced = lines.clone();
    replaced[99] = forged;
    assert_eq!(kinds(&check(&replaced.concat(), &trusted)), [(FindingKind::Replaced, 100, Some(100))]);
    assert!(check(&replaced.concat(), &Trusted::default()).good(), "as the documentation says");
}

/// The whole log written anew from a record on, as someone can who has no key.
fn rewritten(lines: &[Vec<u8>], from: usize) -> Vec<u8> {
    let mut previous = Digest::ZERO;
    let mut log = Vec::new();
    for (index, old) in lines.iter().enumerate() {
        let read = line::decode(&old[..old.len() - 1]).unwrap();
        let record = if index == from { Record::Close } else { read.record };
        let (bytes, hash) = line::encode(read.number, previous, read.at_ms, &record).unwrap();
        previous = hash;
        log.extend_from_slice(&bytes);
    }
    log
}

#[test]
fn a_log_written_anew_is_found_by_its_head_or_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let key = SigningKey::generate().unwrap();
    common::write_log(&path, 200, Keep::Digests, Some(key.clone()));
    let log = std::fs::read(&path).unwrap();
    let head = Head::read(&head_path(&path)).unwrap();
    let with_key = Trusted { head: None, key: Some(key.public()) };
    let with_head = Trusted { head, key: None };
    for trusted in [&with_key, &with_head] {
        let report = check(&log, trusted);
        assert!(report.good() && report.checkpoints == 25, "{:?} {}", report.findings, report.checkpoints);
        assert_eq!(report.signed_up_to, Some(199));
    }
    let other = Trusted { head: None, key: Some(SigningKey::generate().unwrap().public()) };
    assert!(!check(&log, &other).good());
    let lines = lines(&log);
    for from in [5, 100, 190] {
        let log = rewritten(&lines, from);
        for trusted in [&with_key, &with_head] {
            let report = check(&log, trusted);
            assert!(!report.good(), "from {from}");
            let kinds: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
            assert!(kinds.contains(&FindingKind::Signature), "from {from}: {kinds:?}");
        }
        assert!(check(&log, &with_head).findings.iter().any(|finding| finding.kind == FindingKind::Replaced));
    }
    // A log without any signature does not pass for a signed one.
    let unsigned = log_of(50).0;
    assert!(check(&unsigned, &Trusted::default()).good() && !check(&unsigned, &with_key).good());
}

#[test]
fn answers_behind_the_last_signature_of_a_closed_log_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let key = SigningKey::generate().unwrap();
    common::write_log(&path, 40, Keep::Tokens, Some(key.clone()));
    let trusted = Trusted { head: None, key: Some(key.public()) };
    let signed = std::fs::read(&path).unwrap();
    let mut forged = Log::open(&path, common::options(Keep::Tokens, None)).unwrap();
    let setting = common::write_setting(&mut forged);
    common::write_answer(&mut forged, setting, "never asked");
    forged.close().unwrap();
    drop(forged);
    let log = std::fs::read(&path).unwrap();
    assert_eq!(kinds(&check(&log, &trusted)), [(FindingKind::Signature, 44, Some(44))]);
    assert!(check(&log, &Trusted::default()).good());

    // A writer with the key that is killed at any byte, and the one behind it, leave nothing that is found.
    std::fs::write(&path, &signed).unwrap();
    std::fs::remove_file(head_path(&path)).unwrap();
    let mut honest = Log::open(&path, common::options(Keep::Tokens, Some(key.clone()))).unwrap();
    let setting = common::write_setting(&mut honest);
    common::write_answer(&mut honest, setting, "asked");
    honest.close().unwrap();
    let lines = lines(&std::fs::read(&path).unwrap());
    for end in 1..=lines.len() {
        let report = check(&lines[..end].concat(), &trusted);
        // Before the first signature there is none.
        assert_eq!(report.good(), report.checkpoints > 0, "{end}: {:?}", report.findings);
    }
}

#[test]
fn what_a_later_writer_signs_of_another_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let key = SigningKey::generate().unwrap();
    common::write_log(&path, 40, Keep::Tokens, Some(key.clone()));
    let trusted = Trusted { head: None, key: Some(key.public()) };
    assert_eq!(verify(&path, &trusted).unwrap().signed_late, 0);
    let answer = |key: Option<SigningKey>, question: &str| {
        let mut log = Log::open(&path, common::options(Keep::Tokens, key)).unwrap();
        let setting = common::write_setting(&mut log);
        common::write_answer(&mut log, setting, question);
        log
    };
    // Somebody without the key, who leaves it to its holder to go on.
    drop(answer(None, "never asked"));
    let report = verify(&path, &trusted).unwrap();
    assert_eq!((report.good(), report.signed_late), (true, 0), "{:?}", report.findings);
    answer(Some(key.clone()), "asked").close().unwrap();
    for trusted in [&trusted, &Trusted::default()] {
        let report = verify(&path, trusted).unwrap();
        assert_eq!((report.good(), report.signed_late), (true, 7), "{:?}", report.findings);
    }
    answer(Some(key), "asked again").close().unwrap();
    assert_eq!(verify(&path, &trusted).unwrap().signed_late, 7);
}

#[test]
fn texts_are_checked_and_may_be_erased() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 60, Keep::Text, None);
    let texts = folder.path().join("log.jsonl.text");
    let trusted = Trusted::default();
    let report = verify(&path, &trusted).unwrap();
    assert!(report.good() && report.contents > 20 && report.texts == report.contents, "{report:?}");
    assert!(!std::fs::read_to_string(&path).unwrap().contains("question"));
    let written = std::fs::read_to_string(&texts).unwrap();
    assert!(written.contains("question 3") && written.contains("a note"));

    std::fs::write(&texts, written.replace("question 3", "question 4")).unwrap();
    let report = verify(&path, &trusted).unwrap();
    assert_eq!(
        report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(),
        [FindingKind::Text; 2]
    );

    let half: String = written.lines().take(10).map(|line| format!("{line}\n")).collect();
    std::fs::write(&texts, half).unwrap();
    let report = verify(&path, &trusted).unwrap();
    assert!(report.good() && report.texts == 10);
    std::fs::remove_file(&texts).unwrap();
    let report = verify(&path, &trusted).unwrap();
    assert!(report.good() && report.texts == 0 && report.contents > 20);
}

#[test]
fn heads_are_of_a_record() {
    let hex = Digest::of(b"x").hex();
    assert_eq!(format!("7:{hex}").parse::<Head>().unwrap().number, 7);
    for number in ["0:", "-1:", ":", "", "18446744073709551616:"] {
        let wrong = format!("{number}{hex}");
        assert!(wrong.parse::<Head>().is_err(), "{wrong}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for (number, good) in [(1, true), (0, false)] {
        std::fs::write(file.path(), format!(r#"{{"number":{number},"hash":"sha256:{hex}"}}"#)).unwrap();
        assert_eq!(Head::read(file.path()).is_ok(), good, "{number}");
    }
}

#[test]
fn files_that_are_no_logs() {
    let trusted = Trusted::default();
    for bytes in [&b""[..], b"\n", b"\0\0\0\0", b"{\"number\":1}\n", &[b'\n'; 5000], &[0xff; 100_000]] {
        let report = check(bytes, &trusted);
        assert!(report.records == 0 && report.findings.len() <= 1000);
        assert_eq!(report.good(), bytes.is_empty());
    }
    assert!(check(&[b'\n'; 5000], &trusted).more_findings > 3000);
    assert!(verify(Path::new("/dev/zero"), &trusted).is_err());
    let folder = tempfile::tempdir().unwrap();
    assert!(verify(folder.path(), &trusted).is_err());
}

#[test]
fn numbers_at_their_end_are_survived() {
    let open = |number: u64| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        common::write_log(&path, 20, Keep::Tokens, None);
        let first = lines(&std::fs::read(&path).unwrap()).remove(0);
        let first = line::decode(&first[..first.len() - 1]).unwrap().record;
        let (forged, hash) = line::encode(number, Digest::ZERO, 0, &first).unwrap();
        (forged, hash)
    };
    for number in [0, 1, u64::MAX - 1, u64::MAX] {
        let (forged, hash) = open(number);
        for head in [0, 1, u64::MAX] {
            let head = Head { log: None, number: head, hash, key: None, signature: None };
            for rest in [&b""[..], b"\n\n", b"{", &forged] {
                let log = [&forged[..], rest].concat();
                let report = check(&log, &Trusted { head: Some(head.clone()), key: None });
                assert_eq!(
                    report.good(),
                    number == 1 && rest.is_empty() && head.number < 2,
                    "{number} {head}"
                );
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, &forged).unwrap();
        let opened = Log::open(&path, common::options(Keep::Tokens, None));
        assert_eq!(opened.is_ok(), number == 1, "{number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_change_is_found(
        seed in any::<u64>(),
        at in 0.0..1.0f64,
        length in 1usize..300,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (log, trusted) = log_of(20 + seed % 30);
        let start = (at * log.len() as f64) as usize;
        let end = (start + length).min(log.len());
        let mut changed = log.clone();
        changed.splice(start..end, bytes);
        prop_assume!(changed != log);
        prop_assert!(!check(&changed, &trusted).good());
    }
}
