//! Verifying a log: what was modified, deleted, inserted, reordered or cut off, and where.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

use crate::chain::Chain;
use crate::digest::Digest;
use crate::error::{AuditError, Result};
use crate::head::{Head, head_path};
use crate::keys::{PublicKey, statement};
use crate::limits::MAX_FINDINGS;
use crate::line::{self, Line, LineError};
use crate::lines::Lines;
use crate::record::{FORM, LogId, Record};
use crate::text::{Texts, text_path};

/// What the verifier trusts.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    /// A head of the log.
    pub head: Option<Head>,
    /// The key that signs its checkpoints.
    pub key: Option<PublicKey>,
}

/// What kind of change it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A record's line is not what was written.
    Modified,
    /// Records are missing between others.
    Deleted,
    /// A line that does not belong there, or stands there twice.
    Inserted,
    /// A record stands in another place.
    Reordered,
    /// Records are missing at the end, by a head that is trusted.
    Truncated,
    /// The last line is not whole.
    Torn,
    /// The log is whole in itself and is not the one of the trusted head, or goes on in another log's name.
    Replaced,
    /// A checkpoint or head is not signed by the key that it must be signed by.
    Signature,
    /// A line that says nothing that this version understands.
    Unreadable,
    /// A text that is not the one of its digest.
    Text,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of change it was.
    pub kind: FindingKind,
    /// Line of the log, from 1, at which it shows; of the text file for [`FindingKind::Text`]. For records that are
    /// missing, the line behind them.
    pub line: u64,
    /// Number of the record that it concerns, of the first of several.
    pub record: Option<u64>,
    /// A sentence for people.
    pub what: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The name of the log.
    pub log: Option<LogId>,
    /// Lines with whole records.
    pub records: u64,
    /// Answers that began.
    pub answers: u64,
    /// Number and hash of the last record.
    pub last: Option<(u64, Digest)>,
    /// Whether the last program that wrote to it ended in order. Otherwise it was killed, is still writing, or
    /// records are missing at the end.
    pub closed: bool,
    /// Checkpoints with good signatures.
    pub checkpoints: u64,
    /// The record that the last of them covers.
    pub signed_up_to: Option<u64>,
    /// Records of answers that the program which wrote them did not sign, but a later one: it was killed before, had no key, or was
    /// not the key holder's. A checkpoint is over all that stands before it, whoever wrote that.
    pub signed_late: u64,
    /// Public keys of the checkpoints, as the log names them.
    pub keys: Vec<String>,
    /// Number in the head that the log was compared with.
    pub head: Option<u64>,
    /// Lines that killed programs left torn and that were taken out.
    pub recovered: u64,
    /// Contents that the log has digests of.
    pub contents: u64,
    /// Of these, those that the text file has.
    pub texts: u64,
    /// Texts of the text file that the log does not know: their writer was killed before it could record them, or
    /// they are no one's.
    pub unknown_texts: u64,
    /// Lines of the text file that are no texts: torn, or overwritten.
    pub unreadable_texts: u64,
    /// What is wrong, by line; at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// What is wrong beyond those.
    pub more_findings: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn good(&self) -> bool {
        self.findings.is_empty() && self.more_findings == 0
    }

    pub(crate) fn find(
        &mut self,
        kind: FindingKind,
        line: u64,
        record: Option<u64>,
        what: impl Into<String>,
    ) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { kind, line, record, what: what.into() });
        } else {
            self.more_findings += 1;
        }
    }
}

/// Verifies a log with what stands beside it: its head, unless `trusted` has one, and its text file.
///
/// Errors: a file can't be read. Everything that is wrong with the log itself is in the report.
pub fn verify(path: &Path, trusted: &Trusted) -> Result<Report> {
    let failed = |cause| AuditError::File { path: path.to_owned(), doing: "reading the log", cause };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(AuditError::NotAFile { path: path.to_owned() });
    }
    let mut trusted = trusted.clone();
    if trusted.head.is_none() {
        trusted.head = Head::read(&head_path(path))?;
    }
    let texts = Texts::beside(path)?;
    let file = File::open(path).map_err(failed)?;
    let report = verify_parts(BufReader::new(file), &trusted, texts.as_ref(), &text_path(path));
    report.map_err(failed)
}

/// Verifies a log from a reader, against a head and a key that are trusted.
pub fn verify_reader(log: impl BufRead, trusted: &Trusted) -> std::io::Result<Report> {
    verify_parts(log, trusted, None, Path::new(""))
}

fn verify_parts(
    log: impl BufRead,
    trusted: &Trusted,
    texts: Option<&Texts>,
    text_path: &Path,
) -> std::io::Result<Report> {
    let mut lines = Lines::new(log);
    let (chain, report) = (Chain::new(), Report::default());
    let mut verifier =
        Verifier { trusted, texts, chain, report, known: 0, unsigned: None, waiting: 0, left: 0 };
    let mut ended = true;
    while let Some(raw) = lines.next()? {
        ended = raw.ended;
        let read = if raw.too_long { Err(LineError::TooLong) } else { line::decode(raw.bytes) };
        match read {
            Ok(line) => verifier.good(lines.number, &line),
            Err(error) => verifier.chain.bad(lines.number, error),
        }
    }
    Ok(verifier.finish(ended, lines.number, text_path))
}

struct Verifier<'a> {
    trusted: &'a Trusted,
    texts: Option<&'a Texts>,
    chain: Chain,
    report: Report,
    /// Texts of the text file that the log has digests of.
    known: usize,
    /// The first record of an answer behind the last good checkpoint: line and number.
    unsigned: Option<(u64, u64)>,
    /// Records of answers behind the last good checkpoint, by the program that writes, and by those before it.
    waiting: u64,
    left: u64,
}

impl Verifier<'_> {
    /// A line whose own hash is right.
    fn good(&mut self, at: u64, line: &Line) {
        self.report.records += 1;
        let in_place = self.chain.good(at, line, &mut self.report);
        if let Some(sealed) = line.record.sealed() {
            self.report.contents += 1;
            let there = self.texts.is_some_and(|texts| texts.get(&sealed.digest).is_some());
            self.report.texts += u64::from(there);
            self.known += usize::from(there);
        }
        let of_an_answer = matches!(line.record, Record::Answer(_)) || line.record.answer().is_some();
        if of_an_answer {
            self.unsigned.get_or_insert((at, line.number));
            self.waiting += 1;
        }
        match &line.record {
            Record::Open(open) => {
                if open.form != FORM {
                    let what = format!("the log is of the form `{}`", line::shown(&open.form));
                    self.report.find(FindingKind::Unreadable, at, Some(line.number), what);
                }
                if *self.report.log.get_or_insert(open.log) != open.log {
                    let what = "the log goes on under another name than it began with";
                    self.report.find(FindingKind::Replaced, at, Some(line.number), what);
                }
                self.report.recovered += u64::from(open.recovered.is_some());
                self.report.closed = false;
                self.left += std::mem::take(&mut self.waiting);
            }
            Record::Answer(_) => self.report.answers += 1,
            Record::Close => self.report.closed = true,
            Record::Checkpoint(made) => self.checkpoint(at, line, &made.key, &made.signature),
            _ => {}
        }
        if !matches!(line.record, Record::Close | Record::Checkpoint(_)) {
            self.report.closed = false;
        }
        let head = self.trusted.head.as_ref().filter(|head| head.number == line.number);
        if in_place && head.is_some_and(|head| head.hash != line.hash) {
            let what = format!("record {} is not the one of the head: the log was written anew", line.number);
            self.report.find(FindingKind::Replaced, at, Some(line.number), what);
        }
    }

    fn checkpoint(&mut self, at: u64, line: &Line, key: &str, signature: &str) {
        let signed = self.report.log.map(|log| statement(log, line.number.saturating_sub(1), line.previous));
        let key_of_it = PublicKey::from_hex(key);
        let good = key_of_it.zip(signed).is_some_and(|(key, signed)| key.verifies(&signed, signature));
        if !good {
            let what = format!("the signature of checkpoint {} is wrong", line.number);
            return self.report.find(FindingKind::Signature, at, Some(line.number), what);
        }
        if self.trusted.key.is_some_and(|trusted| Some(trusted) != key_of_it) {
            let what = format!("checkpoint {} is signed by another key, {}", line.number, line::shown(key));
            return self.report.find(FindingKind::Signature, at, Some(line.number), what);
        }
        (self.unsigned, self.waiting) = (None, 0);
        self.report.signed_late += std::mem::take(&mut self.left);
        self.report.checkpoints += 1;
        self.report.signed_up_to = Some(line.number.saturating_sub(1));
        if !self.report.keys.iter().any(|known| known == key) && self.report.keys.len() < MAX_FINDINGS {
            self.report.keys.push(key.to_owned());
        }
    }

    fn finish(mut self, ended: bool, lines: u64, text_path: &Path) -> Report {
        let head = self.trusted.head.clone();
        self.chain.finish(ended, head.as_ref().map(|head| head.number), &mut self.report);
        self.report.last = self.chain.last();
        if let Some(head) = head {
            self.head(&head, lines);
        }
        if self.trusted.key.is_some() && self.report.checkpoints == 0 {
            let what = "no checkpoint is signed by the given key";
            self.report.find(FindingKind::Signature, lines, None, what);
        } else if self.trusted.key.is_some()
            && self.report.closed
            && let Some((at, number)) = self.unsigned
        {
            // Whoever has the key signs behind each answer and behind the close. Only a writer that was killed in between
            // leaves an answer unsigned, and then no close.
            let what = format!(
                "the answers from record {number} on are not signed by the given key, and the log is closed"
            );
            self.report.find(FindingKind::Signature, at, Some(number), what);
        }
        if let Some(texts) = self.texts {
            for bad in &texts.bad {
                let what = format!("{}: {}", text_path.display(), bad.what);
                self.report.find(FindingKind::Text, bad.line, None, what);
            }
            self.report.unreadable_texts = texts.unreadable;
            self.report.unknown_texts = texts.len().saturating_sub(self.known) as u64;
        }
        self.report.findings.sort_by_key(|finding| finding.line);
        self.report
    }

    fn head(&mut self, head: &Head, lines: u64) {
        self.report.head = Some(head.number);
        let last = self.chain.highest();
        if last < head.number {
            let missing = if last + 1 == head.number {
                format!("record {} is missing", head.number)
            } else {
                format!("records {} to {} are missing", last + 1, head.number)
            };
            let what = format!("{missing} at the end: the head is of record {}", head.number);
            self.report.find(FindingKind::Truncated, lines + 1, Some(last + 1), what);
        }
        if head.log.is_some_and(|log| self.report.log.is_some_and(|own| own != log)) {
            self.report.find(FindingKind::Replaced, 1, None, "the head is of another log");
        }
        if let (Some(trusted), Some(log)) = (self.trusted.key, head.log)
            && let (Some(key), Some(signature)) = (&head.key, &head.signature)
        {
            let signed = statement(log, head.number, head.hash);
            if PublicKey::from_hex(key) != Some(trusted) || !trusted.verifies(&signed, signature) {
                let what = "the head is not signed by the given key";
                self.report.find(FindingKind::Signature, lines, Some(head.number), what);
            }
        }
    }
}
