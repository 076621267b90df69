//! A log survives the death of its writer at any byte.

mod common;

use std::path::Path;

use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{AuditError, Head, Keep, Log, Transcript, head_path, line};

fn lines(log: &[u8]) -> Vec<Vec<u8>> {
    log.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn open(path: &Path) -> Result<Log, AuditError> {
    Log::open(path, common::options(Keep::Tokens, None))
}

#[test]
fn killed_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 20, Keep::Tokens, None);
    let log = std::fs::read(&path).unwrap();
    let lines = lines(&log);
    std::fs::remove_file(head_path(&path)).unwrap();
    for at in 0..log.len() {
        std::fs::write(&path, &log[..at]).unwrap();
        let mut again = open(&path).unwrap();
        common::write_setting(&mut again);
        drop(again);
        // A record is lost only if it was not whole.
        let mut whole = 0;
        let mut bytes = 0;
        for line in &lines {
            if bytes + line.len() - 1 > at {
                break;
            }
            bytes += line.len();
            whole += 1;
        }
        let report = verify(&path, &Trusted::default()).unwrap();
        assert!(report.good() && !report.closed, "cut at {at}: {:?}", report.findings);
        assert_eq!(report.records, whole + 3, "cut at {at}: open and two records");
        let torn = bytes != at;
        assert_eq!(report.recovered, u64::from(torn), "cut at {at}");
    }
}

#[test]
fn what_was_torn_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 20, Keep::Tokens, None);
    let log = std::fs::read(&path).unwrap();
    std::fs::remove_file(head_path(&path)).unwrap();
    std::fs::write(&path, [&log[..], &log[..33]].concat()).unwrap();
    drop(open(&path).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    let opened = line::decode(text.lines().last().unwrap().as_bytes()).unwrap();
    let recovered = match opened.record {
        membrane_audit::Record::Open(open) => open.recovered.expect("it says so"),
        other => panic!("{other:?}"),
    };
    assert_eq!((recovered.bytes, recovered.digest), (33, membrane_audit::Digest::of(&log[..33])));
}

#[test]
fn nothing_is_appended_to_a_damaged_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 20, Keep::Tokens, None);
    let log = std::fs::read(&path).unwrap();
    let mut changed = log.clone();
    let at = log.len() - 100;
    changed[at] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    assert!(matches!(open(&path), Err(AuditError::Damaged { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), changed);
    // Cut between two records, with the head beside it.
    let lines = lines(&log);
    std::fs::write(&path, lines[..19].concat()).unwrap();
    assert!(matches!(open(&path), Err(AuditError::BehindHead { last: 19, head: 20, .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(&path), Err(AuditError::BehindHead { last: 0, .. })));
    assert!(matches!(open(folder.path()), Err(AuditError::NotAFile { .. })));
    std::fs::write(&path, &log).unwrap();
    let other =
        Head { hash: membrane_audit::Digest::ZERO, ..Head::read(&head_path(&path)).unwrap().unwrap() };
    std::fs::write(head_path(&path), serde_json::to_string(&other).unwrap()).unwrap();
    assert!(matches!(open(&path), Err(AuditError::OtherHead { number: 20, .. })));
}

#[test]
fn one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(AuditError::Locked { .. })));
    drop(first);
    assert!(open(&path).is_ok());
}

#[test]
fn texts_survive_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 30, Keep::Text, None);
    let texts = folder.path().join("log.jsonl.text");
    let written = std::fs::read(&texts).unwrap();
    std::fs::write(&texts, &written[..written.len() - 5]).unwrap();
    let mut log = Log::open(&path, common::options(Keep::Text, None)).unwrap();
    let setting = common::write_setting(&mut log);
    common::write_answer(&mut log, setting, "one more");
    log.close().unwrap();
    let report = verify(&path, &Trusted::default()).unwrap();
    assert_eq!(report.texts + 1, report.contents, "the torn one is lost and no other");
    assert!(report.good() && report.unreadable_texts == 1, "{report:?}");
}

#[test]
fn answers_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 40, Keep::Tokens, None);
    let transcript = Transcript::read(&path, None).unwrap();
    assert_eq!(transcript.answers.len(), 5);
    for answer in &transcript.answers {
        assert_eq!((answer.tokens(), answer.verdicts().count(), answer.swaps().count()), (4, 1, 1));
        assert_eq!(answer.end().unwrap().reason, "stop");
        assert!(transcript.models.contains_key(&answer.start.model));
        assert!(transcript.behaviours.contains_key(&answer.start.behaviour));
    }
    let number = transcript.answers[2].number;
    let one = Transcript::read(&path, Some(number)).unwrap();
    assert_eq!(one.answers, transcript.answers[2..3]);
    let error = Transcript::read(&path, Some(5000)).unwrap_err().to_string();
    assert!(error.contains("5000") && error.contains(&number.to_string()), "{error}");
}
