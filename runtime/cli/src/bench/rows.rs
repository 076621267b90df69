//! Results as rows of a CSV file (RFC 4180): one for each run of each engine, which is appended to.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use membrane_engine::Stage;

use super::figures::{BETWEEN_PASSES, Figures, StageRow};
use super::machine::Setting;
use super::{Args, Case};
use crate::peer::{Peer, PeerSpeed};
use crate::report::printable;

/// A file of rows.
pub struct Rows {
    file: File,
    path: PathBuf,
}

/// A cell's column and its text.
pub type Cell = (String, String);

impl Rows {
    /// Opens the file or makes it. Error: it has other columns.
    pub fn append(path: &Path) -> Result<Self> {
        let told = || format!("--csv {}", path.display());
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(told)?;
        ensure!(file.metadata()?.is_file(), "{}: no regular file", told());
        let mut rows = Self { file, path: path.to_owned() };
        rows.check_columns()?;
        Ok(rows)
    }

    /// Whether the file is empty. Error: it has other columns.
    fn check_columns(&mut self) -> Result<bool> {
        let told = || format!("--csv {}", self.path.display());
        let mut header = String::new();
        (&self.file).seek(SeekFrom::Start(0)).with_context(told)?;
        BufReader::new(&self.file).take_line(&mut header).with_context(told)?;
        let (empty, header) = (header.is_empty(), header.trim_end());
        ensure!(
            empty || header == line(columns()),
            "{}: its columns are not those of this version; give another file",
            told()
        );
        Ok(empty)
    }

    /// Appends a row, and before it the header if the file has none: another process may append to the same file.
    pub fn write(&mut self, row: Vec<Cell>) -> Result<()> {
        let path = self.path.clone();
        let told = || format!("--csv {}", path.display());
        self.file.lock().with_context(told)?;
        let written = self.write_locked(row);
        self.file.unlock().with_context(told)?;
        written
    }

    fn write_locked(&mut self, row: Vec<Cell>) -> Result<()> {
        let empty = self.check_columns()?;
        let mut last = *b"\n";
        let text = (if empty { line(columns()) + "\n" } else { String::new() }) + &line(cells(row)) + "\n";
        let told = || format!("--csv {}", self.path.display());
        if !empty {
            (&self.file).seek(SeekFrom::End(-1)).with_context(told)?;
            (&self.file).read_exact(&mut last).with_context(told)?;
        }
        // Somebody's editor left the last line open.
        let text = if last == *b"\n" { text } else { format!("\n{text}") };
        (&self.file).write_all(text.as_bytes()).with_context(told)
    }
}

/// Reads the first line, which a row's columns fit in many times.
trait TakeLine {
    fn take_line(self, into: &mut String) -> std::io::Result<usize>;
}

/// Bytes of the first line of a file that is looked at.
const MAX_HEADER_BYTES: u64 = 1 << 16;

impl<R: BufRead> TakeLine for R {
    fn take_line(self, into: &mut String) -> std::io::Result<usize> {
        std::io::Read::take(self, MAX_HEADER_BYTES).read_line(into)
    }
}

/// The columns beside those of stages.
const COLUMNS: [&str; 36] = [
    "date_utc",
    "commit",
    "version",
    "processor",
    "threads",
    "instruction_set",
    "machine_memory_bytes",
    "kernel",
    "model",
    "model_bytes",
    "model_digest",
    "model_digest_of",
    "engine",
    "flags",
    "memory",
    "budget_bytes",
    "start",
    "sessions",
    "context_tokens",
    "prompt_tokens",
    "decode_tokens",
    "run",
    "prefill_tok_s",
    "decode_tok_s",
    "weight_bytes_per_token",
    "hit_rate",
    "disk_bytes_per_token",
    "prefill_disk_bytes",
    "disk_read_gb_s",
    "disk_ceiling_gb_s",
    "memory_ceiling_gb_s",
    "peak_memory_bytes",
    "planned_memory_bytes",
    "loaded_bytes",
    "load_s",
    "first_token_s",
];

/// The column of a stage of the decode.
fn stage_column(stage: &str) -> String {
    format!("decode_ms_{}", stage.replace([' ', '-'], "_"))
}

fn columns() -> Vec<String> {
    let stages = Stage::ALL.iter().map(|stage| stage.name()).chain([BETWEEN_PASSES]);
    COLUMNS.iter().map(|&column| column.to_owned()).chain(stages.map(stage_column)).collect()
}

/// The texts of all columns, empty where there is no cell.
fn cells(given: Vec<Cell>) -> Vec<String> {
    let text = |column: &String| given.iter().find(|(name, _)| name == column).map(|(_, text)| text.clone());
    columns().iter().map(|column| text(column).unwrap_or_default()).collect()
}

/// What the rows of all engines have.
fn shared(setting: &Setting, args: &Args, run: usize) -> Vec<Cell> {
    let Setting { date, machine, model, .. } = setting;
    cells_of([
        ("date_utc", date.clone()),
        ("processor", machine.processor.clone()),
        ("machine_memory_bytes", machine.memory_bytes.to_string()),
        ("kernel", machine.kernel.clone()),
        ("model", model.name.clone()),
        ("model_bytes", model.bytes.to_string()),
        ("model_digest", model.digest.clone()),
        ("model_digest_of", model.digest_of.to_owned()),
        ("prompt_tokens", args.prompt.to_string()),
        ("run", (run + 1).to_string()),
    ])
}

/// The row of a run of this engine.
pub fn own(setting: &Setting, args: &Args, run: usize, figures: &Figures) -> Vec<Cell> {
    let or_none = |value: Option<String>| value.unwrap_or_default();
    let mut row = shared(setting, args, run);
    row.extend(cells_of([
        ("commit", setting.commit.to_owned()),
        ("version", setting.version.to_owned()),
        ("threads", figures.threads.to_string()),
        ("instruction_set", figures.instruction_set.clone()),
        ("engine", "membrane".to_owned()),
        ("flags", setting.flags.clone()),
        ("memory", figures.memory.clone()),
        ("budget_bytes", or_none(figures.budget.map(|budget| budget.to_string()))),
        ("start", figures.start.name().to_owned()),
        ("sessions", args.sessions.to_string()),
        ("context_tokens", figures.context_tokens.to_string()),
        ("decode_tokens", figures.decode_tokens.to_string()),
        ("prefill_tok_s", format!("{:.3}", figures.speed.prefill)),
        ("decode_tok_s", format!("{:.3}", figures.speed.decode)),
        ("weight_bytes_per_token", figures.bytes_per_token.to_string()),
        ("hit_rate", or_none(figures.hit_rate.map(|rate| format!("{rate:.4}")))),
        ("disk_bytes_per_token", figures.read_per_token.to_string()),
        ("prefill_disk_bytes", figures.prefill_read.to_string()),
        ("disk_read_gb_s", or_none(figures.read_gb_s.map(|speed| format!("{speed:.3}")))),
        ("disk_ceiling_gb_s", or_none(figures.disk_gb_s.map(|speed| format!("{speed:.3}")))),
        ("memory_ceiling_gb_s", or_none(figures.memory_gb_s.map(|speed| format!("{speed:.3}")))),
        ("peak_memory_bytes", figures.peak_memory.to_string()),
        ("planned_memory_bytes", figures.planned_memory.to_string()),
        ("loaded_bytes", figures.loading.bytes.to_string()),
        ("load_s", format!("{:.3}", figures.loading.load_s)),
        ("first_token_s", format!("{:.3}", figures.loading.first_token_s)),
    ]));
    let stage = |row: &StageRow| (stage_column(&row.stage), format!("{:.5}", row.ms_per_token));
    row.extend(figures.decode_stages.iter().map(stage));
    row
}

/// The row of a run of a peer.
pub fn theirs(
    setting: &Setting,
    args: &Args,
    case: Case,
    run: usize,
    threads: usize,
    (peer, flags, speed): (&Peer, &[String], &PeerSpeed),
) -> Vec<Cell> {
    let mut row = shared(setting, args, run);
    row.extend(cells_of([
        ("threads", threads.to_string()),
        ("engine", peer.to_string()),
        ("flags", flags.join(" ")),
        ("memory", case.memory.to_string()),
        ("start", case.start.name().to_owned()),
        ("sessions", "1".to_owned()),
        ("context_tokens", case.context.to_string()),
        ("decode_tokens", args.decode.to_string()),
        ("prefill_tok_s", speed.prefill.map(|speed| format!("{speed:.3}")).unwrap_or_default()),
        ("decode_tok_s", format!("{:.3}", speed.decode)),
    ]));
    row
}

fn cells_of<const N: usize>(cells: [(&str, String); N]) -> Vec<Cell> {
    cells.into_iter().map(|(column, text)| (column.to_owned(), text)).collect()
}

/// A line without its end. Texts with a comma, a quotation mark or a line end stand between quotation marks.
fn line(cells: Vec<String>) -> String {
    let cell = |text: &String| {
        let text = printable(text);
        match text.contains([',', '"', '\n']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        }
    };
    cells.iter().map(cell).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_one_name_each() {
        let mut names = columns();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.contains(&"decode_ms_delta_net_projections".to_owned()), "{names:?}");
    }

    #[test]
    fn texts_are_quoted_where_they_must_be() {
        let cells = ["plain", "a,b", "say \"x\"", "two\nlines", "", "\u{1b}[2J"];
        let line = line(cells.map(str::to_owned).to_vec());
        assert_eq!(line, "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",,\u{fffd}[2J");
    }

    #[test]
    fn rows_are_appended_to_files_of_the_same_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        let row = |text: &str| vec![("engine".to_owned(), text.to_owned())];
        // Opened while there is nothing in it, both of them.
        let (mut one, mut other) = (Rows::append(&path).unwrap(), Rows::append(&path).unwrap());
        one.write(row("a")).unwrap();
        other.write(row("b")).unwrap();
        // Somebody's editor leaves the last line open.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.trim_end_matches('\n')).unwrap();
        one.write(row("c")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted = ["a", "b", "c"].map(|engine| line(cells(row(engine))));
        assert_eq!(
            text,
            [line(columns())].into_iter().chain(wanted).map(|row| row + "\n").collect::<String>()
        );
        std::fs::write(&path, "date,speed\n").unwrap();
        assert!(one.write(row("d")).is_err());
        let refused = Rows::append(&path).err().unwrap().to_string();
        assert!(refused.contains("rows.csv") && refused.contains("give another file"), "{refused}");
    }
}
