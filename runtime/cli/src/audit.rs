//! `membrane audit`: verifies logs, shows and exports what is in them, makes keys.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use membrane_audit::verify::{Finding, FindingKind, Report, Trusted, verify};
use membrane_audit::{Head, PublicKey, SigningKey};

use crate::printer;
use crate::report::one_line;
use crate::transcript;

/// Exit status where something was found.
const FOUND: u8 = 1;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Say what of a log was modified, deleted, inserted, reordered or cut off, and where.
    Verify(VerifyArgs),
    /// List the answers of a log, or show what happened in one.
    Show(ShowArgs),
    /// Write answers with all that is kept of them, to hand them on.
    Export(ExportArgs),
    /// Make a key that signs checkpoints: KEY.pem, and KEY.pem.pub for whoever verifies.
    Keygen(KeygenArgs),
}

#[derive(clap::Args)]
pub struct VerifyArgs {
    /// The log
    log: PathBuf,
    /// A head that you trust, NUMBER:HASH or a file; without it the one beside the log, which whoever can write the
    /// log can write too
    #[arg(long, value_name = "HEAD")]
    head: Option<String>,
    /// The public key (PEM) that must have signed the checkpoints
    #[arg(long, value_name = "KEY.pem.pub")]
    key: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ShowArgs {
    /// The log
    log: PathBuf,
    /// Only this answer, by the number of its record
    #[arg(long, value_name = "N")]
    answer: Option<u64>,
    /// Print one JSON object for each answer
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ExportArgs {
    /// The log
    log: PathBuf,
    /// Only this answer, by the number of its record
    #[arg(long, value_name = "N")]
    answer: Option<u64>,
    /// Print one JSON object for each answer, rather than Markdown
    #[arg(long)]
    json: bool,
    /// Also write what policies withheld: the model's own words and tokens, and calls and results as they were before
    /// the policies
    #[arg(long)]
    withheld: bool,
}

#[derive(clap::Args)]
pub struct KeygenArgs {
    /// The file of the private key; it must not exist
    #[arg(value_name = "KEY.pem")]
    key: PathBuf,
}

pub fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Verify(args) => run_verify(args),
        Verb::Show(args) => transcript::show(&args.log, args.answer, args.json),
        Verb::Export(args) => transcript::export(&args.log, args.answer, args.json, args.withheld),
        Verb::Keygen(args) => keygen(args),
    }
}

fn run_verify(args: &VerifyArgs) -> Result<ExitCode> {
    let head = args.head.as_deref().map(read_head).transpose()?;
    let key = args.key.as_deref().map(PublicKey::read).transpose()?;
    let own_head = head.is_none();
    let report = verify(&args.log, &Trusted { head, key })?;
    if args.json {
        printer::json(&report)?;
    } else {
        print(&report, own_head, args.key.is_some())?;
    }
    Ok(if report.good() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

/// A head as it stands on the command line, or in a file.
fn read_head(text: &str) -> Result<Head> {
    if let Ok(head) = text.parse() {
        return Ok(head);
    }
    let head = Head::read(Path::new(text))?;
    head.with_context(|| format!("--head {text}: is neither NUMBER:HASH nor a file that is there"))
}

fn print(report: &Report, own_head: bool, trusted_key: bool) -> Result<()> {
    let mut out = stdout().lock();
    for finding in &report.findings {
        writeln!(out, "{}", line(finding))?;
    }
    if report.more_findings > 0 {
        writeln!(out, "and {} more", report.more_findings)?;
    }
    writeln!(out, "{} records, {} answers: {}", report.records, report.answers, verdict(report))?;
    for note in notes(report, own_head, trusted_key) {
        writeln!(out, "  {note}")?;
    }
    if let Some((number, hash)) = report.last {
        writeln!(out, "  head {number}:{}", hash.hex())?;
    }
    Ok(out.flush()?)
}

/// What a killed writer leaves is told apart from what only somebody else can have done.
fn verdict(report: &Report) -> &'static str {
    let torn =
        report.more_findings == 0 && report.findings.iter().all(|finding| finding.kind == FindingKind::Torn);
    match report.good() {
        true => "nothing is wrong with it",
        false if torn => "it is not whole at its end",
        false => "it was changed",
    }
}

fn line(finding: &Finding) -> String {
    let kind = serde_json::to_value(finding.kind).unwrap_or_default();
    one_line(&format!("line {}: {}: {}", finding.line, kind.as_str().unwrap_or_default(), finding.what))
}

/// What the verdict rests on.
fn notes(report: &Report, own_head: bool, trusted_key: bool) -> Vec<String> {
    let mut notes = Vec::new();
    notes.push(match (report.head, own_head) {
        (Some(number), true) => format!("compared with the head beside it, of record {number}"),
        (Some(number), false) => format!("compared with the given head, of record {number}"),
        (None, _) => "without a head: records that are missing at the end can't be seen".to_owned(),
    });
    if !report.closed {
        let why = "its last writer was killed, is still writing, or the end is missing";
        notes.push(format!("it does not end in a close: {why}"));
    }
    notes.push(match report.signed_up_to {
        Some(number) if trusted_key => {
            // The last checkpoint itself is one of them, which signs.
            let last = report.last.map_or(0, |(last, _)| last);
            match last.saturating_sub(number.saturating_add(1)) {
                0 => format!("signed by the given key up to record {number}"),
                more => format!(
                    "signed by the given key up to record {number}; the {more} behind it are not signed"
                ),
            }
        }
        Some(number) => {
            let keys = report.keys.join(", ");
            format!("signed up to record {number} by {keys}; --key says whether that is the right key")
        }
        None => "not signed: whoever can write it can have written it anew".to_owned(),
    });
    if report.signed_late > 0 {
        let late = report.signed_late;
        notes.push(format!(
            "{late} records of answers are signed by a later run only: their own was killed before it could, had \
             no key, or was not of the key's holder"
        ));
    }
    if report.recovered > 0 {
        notes.push(format!("{} lines that killed writers left torn were taken out", report.recovered));
    }
    if report.contents > 0 {
        notes.push(format!("{} of {} texts are kept", report.texts, report.contents));
    }
    if report.unknown_texts + report.unreadable_texts > 0 {
        let (unknown, torn) = (report.unknown_texts, report.unreadable_texts);
        notes.push(format!("{unknown} texts have no record, {torn} lines of the text file are no texts"));
    }
    notes
}

fn keygen(args: &KeygenArgs) -> Result<ExitCode> {
    let key = SigningKey::generate()?;
    let mut public = args.key.clone().into_os_string();
    public.push(".pub");
    key.write(&args.key)?;
    let written = key.public().write(Path::new(&public));
    if written.is_err() {
        // A half of a pair is of no use, and the next attempt would find it in its way.
        let _ = std::fs::remove_file(&args.key);
    }
    written?;
    let mut out = stdout().lock();
    writeln!(out, "{}", key.public().hex())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_end_is_no_change() {
        let found = |kinds: &[FindingKind]| {
            let finding = |&kind: &FindingKind| Finding { kind, line: 1, record: None, what: String::new() };
            verdict(&Report { findings: kinds.iter().map(finding).collect(), ..Report::default() })
        };
        assert_eq!(found(&[]), "nothing is wrong with it");
        assert_eq!(found(&[FindingKind::Torn]), "it is not whole at its end");
        assert_eq!(found(&[FindingKind::Modified, FindingKind::Torn]), "it was changed");
    }

    #[test]
    fn what_the_run_that_wrote_it_did_not_sign_is_told() {
        let told = |signed_late| {
            let report = Report { signed_up_to: Some(9), signed_late, ..Report::default() };
            let notes = notes(&report, true, true);
            notes.iter().any(|note| note.starts_with("7 records of answers are signed by a later run only"))
        };
        assert!(told(7) && !told(0));
    }
}
