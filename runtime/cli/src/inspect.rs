//! `membrane model inspect`: what is in a model file and what it would take to run it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use membrane_engine::{Architecture, Bytes, EngineError, Hyperparameters, MemoryPlan, Prepared};
use membrane_formats::{Array, Checkpoint, Value};
use serde::Serialize;
use serde_json::json;

use crate::options::ModelOptions;
use crate::report::{self, printable};

/// Metadata values longer than this are cut where they are shown to people, in characters.
const SHOWN: usize = 100;
/// Array elements that are shown.
const SHOWN_ELEMENTS: usize = 4;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
#[derive(Serialize)]
struct Report {
    files: Vec<String>,
    bytes: u64,
    gguf_version: u32,
    architecture: String,
    /// Why the model can't be run by this build, if it can't.
    problem: Option<String>,
    parameters: u64,
    hyperparameters: Option<String>,
    tensors: BTreeMap<String, TensorType>,
    plan: Option<MemoryPlan>,
    metadata: serde_json::Map<String, serde_json::Value>,
}

/// Tensors of one type.
#[derive(Serialize, Default)]
struct TensorType {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let checkpoint = Checkpoint::open(&args.model.model)?;
    let prepared = Prepared::open(&args.model.model, &args.model.load_options(0)?);
    let report = examine(&checkpoint, prepared)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report::json(&report)?)?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(ExitCode::from(u8::from(report.problem.is_some())))
}

fn examine(checkpoint: &Checkpoint, prepared: Result<Prepared, EngineError>) -> Result<Report> {
    let mut tensors: BTreeMap<String, TensorType> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let entry = tensors.entry(tensor.dtype.name().to_owned()).or_default();
        entry.tensors += 1;
        entry.parameters += tensor.shape.elements();
        entry.bytes += tensor.bytes;
    }
    let shape = Architecture::of(checkpoint).and_then(|a| Hyperparameters::read(checkpoint, &a)).ok();
    let (plan, problem) = match prepared {
        Ok(prepared) => (Some(prepared.plan().clone()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Report {
        files: checkpoint.files().iter().map(|file| file.path.display().to_string()).collect(),
        bytes: checkpoint.files().iter().map(|file| file.bytes).sum(),
        gguf_version: checkpoint.version(),
        architecture: checkpoint.metadata().str("general.architecture")?.unwrap_or("(none)").to_owned(),
        problem,
        parameters: tensors.values().map(|t| t.parameters).sum(),
        hyperparameters: shape.as_ref().map(describe),
        tensors,
        plan,
        metadata: checkpoint.metadata().iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect(),
    })
}

/// The shape of a model in a line.
fn describe(hyper: &Hyperparameters) -> String {
    let mut text = format!(
        "{} blocks, width {}, {} query and {} kv heads of {}, vocabulary {}, trained context {}",
        hyper.blocks,
        hyper.hidden,
        hyper.heads,
        hyper.kv_heads,
        hyper.head_dim,
        hyper.vocabulary,
        hyper.trained_context
    );
    match &hyper.moe {
        Some(moe) => {
            text += &format!(", {} experts of {}, {} a token", moe.experts, moe.inner, moe.top_k);
            if moe.shared_inner > 0 {
                text += &format!(", a shared expert of {}", moe.shared_inner);
            }
        }
        None => text += &format!(", feed-forward {}", hyper.inner),
    }
    text
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for file in &report.files {
        writeln!(out, "{file}")?;
    }
    writeln!(
        out,
        "GGUF version {}, {}, {} parameters",
        report.gguf_version,
        Bytes(report.bytes),
        report.parameters
    )?;
    writeln!(out, "architecture: {}", printable(&report.architecture))?;
    if let Some(shape) = &report.hyperparameters {
        writeln!(out, "  {shape}")?;
    }
    writeln!(out, "tensors:")?;
    for (name, t) in &report.tensors {
        writeln!(
            out,
            "  {name:<8}{:>6}  {:>14} parameters  {:>10}",
            t.tensors,
            t.parameters,
            Bytes(t.bytes)
        )?;
    }
    writeln!(out, "metadata:")?;
    for (key, value) in &report.metadata {
        writeln!(out, "  {} = {}", printable(key), shown(value))?;
    }
    match (&report.plan, &report.problem) {
        (Some(plan), _) => write!(out, "memory plan:\n{plan}")?,
        (None, Some(problem)) => writeln!(out, "this build can't run it: {}", printable(problem))?,
        (None, None) => {}
    }
    Ok(())
}

/// A value on one line, without control characters: it comes from a file that nobody vouches for.
fn shown(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::Array(elements) if elements.len() > SHOWN_ELEMENTS => {
            let first: Vec<String> = elements[..SHOWN_ELEMENTS].iter().map(ToString::to_string).collect();
            format!("[{}, ... {} in all]", first.join(", "), elements.len())
        }
        other => other.to_string(),
    };
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().count() > SHOWN {
        line.push_str("...");
    }
    line
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(number) => json!(number),
        Value::I8(number) => json!(number),
        Value::U16(number) => json!(number),
        Value::I16(number) => json!(number),
        Value::U32(number) => json!(number),
        Value::I32(number) => json!(number),
        Value::U64(number) => json!(number),
        Value::I64(number) => json!(number),
        Value::F32(number) => json!(number),
        Value::F64(number) => json!(number),
        Value::Bool(flag) => json!(flag),
        Value::Str(text) => json!(text),
        Value::Array(array) => array_to_json(array),
    }
}

fn array_to_json(array: &Array) -> serde_json::Value {
    match array {
        Array::U8(elements) => json!(elements),
        Array::I8(elements) => json!(elements),
        Array::U16(elements) => json!(elements),
        Array::I16(elements) => json!(elements),
        Array::U32(elements) => json!(elements),
        Array::I32(elements) => json!(elements),
        Array::U64(elements) => json!(elements),
        Array::I64(elements) => json!(elements),
        Array::F32(elements) => json!(elements),
        Array::F64(elements) => json!(elements),
        Array::Bool(elements) => json!(elements),
        Array::Str(elements) => elements.iter().map(serde_json::Value::from).collect(),
    }
}
