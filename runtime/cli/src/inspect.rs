//! `membrane model inspect`: what is in a model file and what it would take to run it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use membrane_engine::{Architecture, Bytes, EngineError, Hyperparameters, MemoryPlan, Prepared};
use membrane_formats::{Checkpoint, Value};
use serde::Serialize;

use crate::options::ModelOptions;

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
    let report = report(&checkpoint, prepared)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::from(u8::from(report.problem.is_some())))
}

fn report(checkpoint: &Checkpoint, prepared: Result<Prepared, EngineError>) -> Result<Report> {
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
        metadata: checkpoint.metadata().iter().map(|(key, value)| (key.to_owned(), json(value))).collect(),
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

fn print(report: &Report) {
    for file in &report.files {
        println!("{file}");
    }
    println!("GGUF version {}, {}, {} parameters", report.gguf_version, Bytes(report.bytes), report.parameters);
    println!("architecture: {}", report.architecture);
    if let Some(shape) = &report.hyperparameters {
        println!("  {shape}");
    }
    println!("tensors:");
    for (name, t) in &report.tensors {
        println!("  {name:<8}{:>6}  {:>14} parameters  {:>10}", t.tensors, t.parameters, Bytes(t.bytes));
    }
    println!("metadata:");
    for (key, value) in &report.metadata {
        println!("  {key} = {}", shown(value));
    }
    match (&report.plan, &report.problem) {
        (Some(plan), _) => print!("memory plan:\n{plan}"),
        (None, Some(problem)) => println!("this build can't run it: {problem}"),
        (None, None) => {}
    }
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

fn json(value: &Value) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or(serde_json::Value::Null)
}
