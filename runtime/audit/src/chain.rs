//! The order of a log's records: numbers that go up by one, each record chained to the one before.

use crate::digest::Digest;
use crate::limits::{MAX_FINDINGS, MAX_GAPS};
use crate::line::{Line, LineError};
use crate::verify::{FindingKind, Report};

/// What has been read so far.
pub(crate) struct Chain {
    /// Number that the next record should have.
    next: u64,
    /// Hash that it should be chained to; none where the line before was not readable.
    previous: Option<Digest>,
    /// Hash of a second record with the number of the last one, which the next may be chained to as well.
    rival: Option<Digest>,
    /// Number and hash of the last record in its place, and its line.
    last: Option<(u64, Digest)>,
    last_line: u64,
    /// Lines since then that are not records.
    bad: Vec<(u64, LineError)>,
    bad_count: u64,
    /// Records that were passed over: first, last, and the line that showed it.
    gaps: Vec<(u64, u64, u64)>,
}

impl Chain {
    pub fn new() -> Self {
        Self {
            next: 1,
            previous: Some(Digest::ZERO),
            rival: None,
            last: None,
            last_line: 0,
            bad: Vec::new(),
            bad_count: 0,
            gaps: Vec::new(),
        }
    }

    /// Number and hash of the last record that stood in its place.
    pub fn last(&self) -> Option<(u64, Digest)> {
        self.last
    }

    /// The highest number that a line stood for, readable or not.
    pub fn highest(&self) -> u64 {
        self.next - 1
    }

    /// A line that is no record. What it was can be said when the next record is known.
    pub fn bad(&mut self, at: u64, error: LineError) {
        self.bad_count += 1;
        if self.bad.len() <= MAX_FINDINGS {
            self.bad.push((at, error));
        }
    }

    /// A line whose own hash is right. True if it is the next record, or stands behind a gap.
    pub fn good(&mut self, at: u64, line: &Line, report: &mut Report) -> bool {
        let number = line.number;
        if number < self.next {
            self.settle_bad(0, report);
            self.out_of_place(at, line, report);
            return false;
        }
        let skipped = number - self.next;
        let replaced = skipped.min(self.bad_count);
        let had_bad = self.bad_count > 0;
        self.settle_bad(replaced, report);
        if skipped > replaced {
            self.gap(self.next + replaced, number - 1, at, report);
        } else if !had_bad {
            self.check_link(line, report);
        }
        self.next = number.saturating_add(1);
        (self.previous, self.rival) = (Some(line.hash), None);
        (self.last, self.last_line) = (Some((number, line.hash)), at);
        true
    }

    /// The next record must be chained to the one before it.
    fn check_link(&self, line: &Line, report: &mut Report) {
        let Some(previous) = self.previous else { return };
        if line.previous == previous || self.rival == Some(line.previous) {
            return;
        }
        let before = line.number - 1;
        let what = if before == 0 {
            "record 1 is chained to a record before it: the beginning is missing".to_owned()
        } else {
            format!("record {before} is not the one that record {} was chained to", line.number)
        };
        report.find(FindingKind::Modified, self.last_line.max(1), Some(before), what);
    }

    /// Says what the lines without records were: the first `replaced` stand where records are missing.
    fn settle_bad(&mut self, replaced: u64, report: &mut Report) {
        for (index, (at, error)) in std::mem::take(&mut self.bad).into_iter().enumerate() {
            let kind = if matches!(error, LineError::Unreadable(_)) {
                FindingKind::Unreadable
            } else if (index as u64) < replaced {
                FindingKind::Modified
            } else {
                FindingKind::Inserted
            };
            let number = ((index as u64) < replaced).then_some(self.next.saturating_add(index as u64));
            let what = match number {
                Some(number) => format!("record {number} was modified: {error}"),
                None => format!("a line that no record is missing for: {error}"),
            };
            report.find(kind, at, number, what);
        }
        let unlisted = self.bad_count.saturating_sub(MAX_FINDINGS as u64 + 1);
        report.more_findings += unlisted;
        self.bad_count = 0;
    }

    /// Records are missing here; they may come later.
    fn gap(&mut self, first: u64, last: u64, at: u64, report: &mut Report) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push((first, last, at));
        } else {
            deleted(first, last, at, report);
        }
    }

    /// A record with a number that was passed already.
    fn out_of_place(&mut self, at: u64, line: &Line, report: &mut Report) {
        let number = line.number;
        let gap = self.gaps.iter().position(|&(first, last, _)| (first..=last).contains(&number));
        if let Some(index) = gap {
            let (first, last, gap_at) = self.gaps.swap_remove(index);
            if first < number {
                self.gaps.push((first, number - 1, gap_at));
            }
            if number < last {
                self.gaps.push((number + 1, last, gap_at));
            }
            let what = format!("record {number} stands behind record {}", self.next - 1);
            return report.find(FindingKind::Reordered, at, Some(number), what);
        }
        if number + 1 == self.next {
            self.rival = Some(line.hash);
        }
        let same = self.last == Some((number, line.hash));
        let what = if same {
            format!("record {number} stands here a second time")
        } else {
            format!("a second record {number}")
        };
        report.find(FindingKind::Inserted, at, Some(number), what);
    }

    /// The end of the file. `ended`: the last line has its newline. `head`: number of the head, if there is one.
    pub fn finish(&mut self, ended: bool, head: Option<u64>, report: &mut Report) {
        let torn = if ended { None } else { self.bad.pop() };
        if let Some((at, _)) = torn {
            self.bad_count -= 1;
            let what = "the last line is not whole: whoever wrote it was killed, or the file was cut";
            report.find(FindingKind::Torn, at, None, what);
        } else if !ended {
            let what = "the last line has no newline: whoever wrote it was killed, or the file was cut";
            report.find(FindingKind::Torn, self.last_line, self.last.map(|last| last.0), what);
        }
        let missing = head.map_or(u64::MAX, |head| head.saturating_add(1).saturating_sub(self.next));
        let replaced = missing.min(self.bad_count);
        self.settle_bad(replaced, report);
        self.next = self.next.saturating_add(replaced);
        for (first, last, at) in std::mem::take(&mut self.gaps) {
            deleted(first, last, at, report);
        }
    }
}

fn deleted(first: u64, last: u64, at: u64, report: &mut Report) {
    let what = if first == last {
        format!("record {first} is missing")
    } else {
        format!("records {first} to {last} are missing")
    };
    report.find(FindingKind::Deleted, at, Some(first), what);
}
