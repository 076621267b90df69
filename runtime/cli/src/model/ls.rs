//! `membrane model ls`: the models on this machine.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use membrane_engine::{Architecture, Bytes};
use membrane_formats::Checkpoint;
use serde::Serialize;

use super::places::{Found, Keeper, Place, Search, usual};
use crate::report::{self, one_line, printable};

#[derive(clap::Args)]
pub struct Args {
    /// Folders to look in, in place of the usual ones
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// A model as it is shown.
#[derive(Serialize)]
struct Row {
    name: String,
    keeper: Keeper,
    path: String,
    /// Of all its files.
    bytes: Option<u64>,
    parameters: Option<u64>,
    architecture: Option<String>,
    /// The form that most of its bytes are in.
    quantisation: Option<String>,
    /// In what it is not what its keeper runs by that name.
    note: Option<&'static str>,
    /// Why it can't be run, as far as its headers tell.
    problem: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    for folder in &args.folders {
        ensure!(folder.is_dir(), "{}: is no folder that can be read", folder.display());
    }
    let place = |root: &PathBuf| Place { keeper: Keeper::Folder, root: root.clone() };
    let places = if args.folders.is_empty() { usual() } else { args.folders.iter().map(place).collect() };
    let mut search = Search::new();
    let rows: Vec<Row> = places.iter().flat_map(|place| place.models(&mut search)).map(row).collect();
    search.missed.iter().for_each(|missed| eprintln!("not looked at: {}", one_line(missed)));
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&rows, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&rows, &mut BufWriter::new(out))?;
    if rows.is_empty() {
        let looked: Vec<String> = places.iter().map(|place| place.root.display().to_string()).collect();
        eprintln!("no models in {}; `membrane model ls FOLDER` looks elsewhere", looked.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the headers of a model.
fn row(found: Found) -> Row {
    let Found { keeper, name, path, note } = found;
    let opened = Checkpoint::open(&path);
    let path = path.display().to_string();
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let problem = Some(error.to_string());
            let (bytes, parameters, architecture, quantisation) = Default::default();
            return Row { name, keeper, path, bytes, parameters, architecture, quantisation, note, problem };
        }
    };
    let forms = checkpoint.forms();
    let most = forms.iter().max_by_key(|(_, form)| form.bytes);
    let architecture = checkpoint.metadata().str("general.architecture").ok().flatten();
    Row {
        bytes: Some(checkpoint.files().iter().map(|file| file.bytes).sum()),
        parameters: Some(forms.values().map(|form| form.parameters).sum()),
        architecture: architecture.map(str::to_owned),
        quantisation: most.map(|(name, _)| (*name).to_owned()),
        note,
        problem: match no_model(&checkpoint) {
            Some(other) => Some(other.to_owned()),
            None => Architecture::of(&checkpoint).err().map(|error| error.to_string()),
        },
        name,
        keeper,
        path,
    }
}

/// What a file is that looks like a model.
fn no_model(checkpoint: &Checkpoint) -> Option<&'static str> {
    match checkpoint.metadata().str("general.type") {
        Ok(Some("adapter")) => Some("it is an adapter (LoRA), which changes the weights of another model"),
        _ if checkpoint.tensors().is_empty() => Some("it has no weights"),
        _ => None,
    }
}

fn print(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let shown = |text: &Option<String>| text.as_deref().map_or("-".into(), printable);
    for row in rows {
        let size = row.bytes.map_or("-".to_owned(), |bytes| Bytes(bytes).to_string());
        let parameters = row.parameters.map_or("-".to_owned(), billions);
        writeln!(
            out,
            "{}\n  {size}, {parameters} parameters, {}, {}\n  {}",
            one_line(&row.name),
            shown(&row.architecture),
            shown(&row.quantisation),
            one_line(&row.path)
        )?;
        if let Some(note) = row.note {
            writeln!(out, "  {note}")?;
        }
        if let Some(problem) = &row.problem {
            writeln!(out, "  can't be run: {}", printable(problem))?;
        }
    }
    out.flush()
}

/// `30.5 B` or `135 M`.
fn billions(parameters: u64) -> String {
    match parameters {
        0..10_000_000 => format!("{:.1} M", parameters as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} M", parameters as f64 / 1e6),
        _ => format!("{:.1} B", parameters as f64 / 1e9),
    }
}
