//! A log survives the death of its writer at any byte.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use membrane_audit::text::Texts;
use membrane_audit::verify::{Trusted, verify};
use membrane_audit::{AuditError, Content, Head, Keep, Log, RequestText, Transcript, head_path, line};
use serde_json::{Value, json};

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
fn nothing_is_appended_beside_the_head_of_another_log() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["log.jsonl", "other.jsonl"].map(|name| folder.path().join(name));
    common::write_log(&path, 40, Keep::Tokens, None);
    let log = std::fs::read(&path).unwrap();
    // The head would be replaced by the next one, and with it what tells that the log is not the one that was written.
    for records in [20, 60] {
        let _ = std::fs::remove_file(&other);
        let _ = std::fs::remove_file(head_path(&other));
        common::write_log(&other, records, Keep::Tokens, None);
        std::fs::copy(head_path(&other), head_path(&path)).unwrap();
        assert!(matches!(open(&path), Err(AuditError::OtherHead { number, .. }) if number == records));
        assert_eq!(std::fs::read(&path).unwrap(), log);
    }
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

#[test]
fn a_file_that_is_no_log_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    for text in ["sk-secret-token", "{", "{\"number\":2", "{\"number\":1,\"previous\":\"1", "text\n"] {
        std::fs::write(&path, text).unwrap();
        let error = open(&path).err();
        // The beginning of a first record is all that a killed writer can have left.
        assert_eq!(error.is_some(), text != "{", "{text}");
        match error {
            Some(AuditError::NotALog { .. } | AuditError::Damaged { .. }) => {
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
            Some(error) => panic!("{text}: {error}"),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
}

#[test]
fn texts_that_are_erased_while_it_is_written_do_not_take_later_ones_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let texts = folder.path().join("log.jsonl.text");
    let mut log = Log::open(&path, common::options(Keep::Text, None)).unwrap();
    let setting = common::write_setting(&mut log);
    common::write_answer(&mut log, setting, "the first");
    std::fs::remove_file(&texts).unwrap();
    common::write_answer(&mut log, setting, "the second");
    // As `sed -i` does: another file in its place.
    let other = folder.path().join("other");
    std::fs::write(&other, "").unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::rename(&other, &texts).unwrap();
    common::write_answer(&mut log, setting, "the third");
    log.close().unwrap();
    let kept = std::fs::read_to_string(&texts).unwrap();
    assert!(!kept.contains("the second") && kept.contains("the third"), "{kept}");
    let report = verify(&path, &Trusted::default()).unwrap();
    assert!(report.good() && report.texts * 3 == report.contents, "{report:?}");
    assert_eq!(std::fs::metadata(&texts).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn texts_that_are_nested_too_deeply_to_be_read_again_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut log = Log::open(&path, common::options(Keep::Text, None)).unwrap();
    let request = |levels| {
        let message = (0..levels).fold(Value::Null, |inner, _| json!([inner]));
        Content::Request(RequestText { messages: vec![message], grammar: None })
    };
    // The content, the request and its messages are levels, too.
    log.seal(&request(124)).unwrap();
    assert!(matches!(log.seal(&request(125)), Err(AuditError::TooDeep)));
    log.close().unwrap();
    drop(log);
    // Where it is kept as a digest alone nothing is read again.
    let mut log = Log::open(&path, common::options(Keep::Tokens, None)).unwrap();
    log.seal(&request(125)).unwrap();
    let texts = Texts::beside(&path).unwrap().unwrap();
    assert_eq!((texts.len(), texts.unreadable), (1, 0));
    assert!(verify(&path, &Trusted::default()).unwrap().good());
}

#[test]
fn files_of_a_log_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 20, Keep::Text, None);
    let names = ["log.jsonl", "log.jsonl.text", "log.jsonl.head"].map(|name| folder.path().join(name));
    for name in &names {
        std::fs::set_permissions(name, std::fs::Permissions::from_mode(0o664)).unwrap();
    }
    let mut log = Log::open(&path, common::options(Keep::Text, None)).unwrap();
    assert!(log.exposed().is_empty());
    log.close().unwrap();
    for name in &names {
        assert_eq!(
            std::fs::metadata(name).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            name.display()
        );
    }
}

#[test]
fn a_head_is_not_written_through_a_link_and_an_empty_one_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let other = folder.path().join("other");
    std::fs::write(&other, "mine").unwrap();
    symlink(&other, folder.path().join("log.jsonl.head.new")).unwrap();
    common::write_log(&path, 20, Keep::Tokens, None);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
    assert_eq!(Head::read(&head_path(&path)).unwrap().unwrap().number, 20);
    for text in ["", "{\"number\":2"] {
        std::fs::write(head_path(&path), text).unwrap();
        let error = open(&path).err().unwrap().to_string();
        assert!(
            error.contains("log.jsonl.head: is no head of a log") && error.contains("move it aside"),
            "{error}"
        );
    }
    std::fs::remove_file(head_path(&path)).unwrap();
    open(&path).unwrap();
}

#[test]
fn a_log_is_read_up_to_a_torn_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    common::write_log(&path, 40, Keep::Tokens, None);
    let log = std::fs::read(&path).unwrap();
    let whole = Transcript::read(&path, None).unwrap();
    assert_eq!(whole.torn, None);
    std::fs::write(&path, [&log[..], &log[..40]].concat()).unwrap();
    let read = Transcript::read(&path, None).unwrap();
    assert_eq!((read.torn, read.answers), (Some(41), whole.answers));
    std::fs::write(&path, &log[..40]).unwrap();
    assert_eq!(Transcript::read(&path, None).unwrap().torn, Some(1));
    for other in [&b"text"[..], b"text\n", &[&log[..], b"text\n"].concat()] {
        std::fs::write(&path, other).unwrap();
        assert!(matches!(Transcript::read(&path, None), Err(AuditError::Line { .. })));
    }
    for other in [folder.path(), std::path::Path::new("/dev/zero")] {
        assert!(matches!(Transcript::read(other, None), Err(AuditError::NotAFile { .. })));
    }
}
