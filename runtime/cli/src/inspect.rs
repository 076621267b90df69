//! `membrane model inspect`: what is in a model's files and what it would take to run it.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use membrane_engine::{
    Architecture, Attention, Bytes, DeltaNet, DeltaShape, EngineError, Hyperparameters, LatentAttention,
    MemoryPlan, Prepared,
};
use membrane_formats::{Checkpoint, Container, Metadata, Value};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::options::ModelOptions;
use crate::report::{self, printable};

/// Metadata values longer than this are cut where they are shown to people, in characters.
const SHOWN: usize = 100;
/// Elements of a long array that are shown: an array may have millions.
const SHOWN_ELEMENTS: usize = 4;
/// Elements of the longest array that is whole in JSON.
const WHOLE_ELEMENTS: usize = 16;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
#[derive(serde::Serialize)]
struct Report<'a> {
    files: Vec<String>,
    bytes: u64,
    /// `gguf` or `safetensors`.
    format: &'static str,
    /// None for safetensors files.
    gguf_version: Option<u32>,
    architecture: String,
    /// Why the model can't be run by this build, or with these options, if it can't.
    problem: Option<String>,
    parameters: u64,
    hyperparameters: Option<String>,
    tensors: BTreeMap<String, TensorType>,
    /// Without what plugins take.
    plan: Option<MemoryPlan>,
    metadata: MetadataJson<'a>,
}

/// Tensors of one type.
#[derive(serde::Serialize, Default)]
struct TensorType {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let options = args.model.load.load_options(0)?;
    let checkpoint = Arc::new(Checkpoint::open(&args.model.model)?);
    let prepared = Prepared::of(checkpoint.clone(), &options);
    let report = examine(&checkpoint, prepared)?;
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut BufWriter::new(out))?;
    }
    Ok(ExitCode::from(u8::from(report.problem.is_some())))
}

fn examine(checkpoint: &Checkpoint, prepared: Result<Prepared, EngineError>) -> Result<Report<'_>> {
    let mut tensors: BTreeMap<String, TensorType> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let entry = tensors.entry(tensor.dtype.name().to_owned()).or_default();
        entry.tensors += 1;
        entry.parameters += tensor.shape.elements();
        entry.bytes += tensor.bytes;
    }
    let shape = Architecture::of(checkpoint).and_then(|a| Hyperparameters::read(checkpoint, &a)).ok();
    let (format, gguf_version) = match checkpoint.container() {
        Container::Gguf { version, .. } => ("gguf", Some(version)),
        Container::Folder => ("safetensors", None),
    };
    let (plan, problem) = match prepared {
        Ok(prepared) => (Some(prepared.plan().clone()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Report {
        files: checkpoint.files().iter().map(|file| file.path.display().to_string()).collect(),
        bytes: checkpoint.files().iter().map(|file| file.bytes).sum(),
        format,
        gguf_version,
        architecture: checkpoint.metadata().str("general.architecture")?.unwrap_or("(none)").to_owned(),
        problem,
        parameters: tensors.values().map(|t| t.parameters).sum(),
        hyperparameters: shape.as_ref().map(describe),
        tensors,
        plan,
        metadata: MetadataJson(checkpoint.metadata()),
    })
}

/// The shape of a model in a line.
fn describe(hyper: &Hyperparameters) -> String {
    let mut text = format!("{} blocks, width {}", hyper.blocks(), hyper.hidden);
    if let Some(attention) = hyper.attentions().next() {
        let Attention { heads, kv_heads, head_dim, gated, .. } = attention;
        let gated = if *gated { ", gated" } else { "" };
        text += &format!(", {heads} query and {kv_heads} kv heads of {head_dim}{gated}");
    }
    let windows = || hyper.attentions().filter_map(|attention| attention.window);
    if let Some(window) = windows().next() {
        text += &format!(", {} blocks over the last {window} positions", windows().count());
    }
    if let Some(latent) = hyper.latents().next() {
        let LatentAttention { heads, kv_rank, .. } = latent;
        text += &format!(
            ", {heads} query heads of {} over latent vectors of {kv_rank} and rotated keys of {}",
            latent.query_dim(),
            latent.rope.dims
        );
    }
    if let Some(DeltaNet { shape, .. }) = hyper.delta_nets().next() {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, kernel, .. } = shape;
        text += &format!(
            " in {} blocks, delta-nets of {key_heads} key heads of {key_dim} and {value_heads} value heads of {value_dim}, \
             convolution {kernel}, in {}",
            hyper.blocks() - hyper.delta_nets().count(),
            hyper.delta_nets().count()
        );
    }
    text += &format!(", vocabulary {}, trained context {}", hyper.vocabulary, hyper.trained_context);
    if let Some(moe) = hyper.moes().next() {
        text += &format!(", {} experts of {}, {} a token", moe.experts, moe.inner, moe.top_k);
        if let Some(shared) = moe.shared {
            text += &format!(", a shared expert of {}", shared.inner);
        }
    }
    if let Some(inner) = hyper.dense().next() {
        text += &format!(", feed-forward {inner}");
    }
    match (hyper.mtp_blocks, hyper.draft_layer) {
        (0, _) => {}
        (blocks, None) => text += &format!(", {blocks} for multi-token prediction without weights"),
        (blocks, Some(_)) => {
            text += &format!(", {blocks} for multi-token prediction, of which the first can draft")
        }
    }
    text
}

fn print(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    for file in &report.files {
        writeln!(out, "{file}")?;
    }
    writeln!(
        out,
        "{}, {}, {} parameters",
        report.gguf_version.map_or("safetensors".into(), |version| format!("GGUF version {version}")),
        Bytes(report.bytes),
        report.parameters
    )?;
    writeln!(out, "architecture: {}", cut(&report.architecture))?;
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
    for (key, value) in report.metadata.0.iter() {
        writeln!(out, "  {} = {}", cut(key), shown(value))?;
    }
    match (&report.plan, &report.problem) {
        (Some(plan), _) => write!(out, "memory plan, without what plugins take:\n{plan}")?,
        (None, Some(problem)) => writeln!(out, "no memory plan: {}", printable(problem))?,
        (None, None) => {}
    }
    out.flush()
}

/// A value on one line, without control characters: it comes from a file that nobody vouches for.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(array) => {
            let first: Vec<String> = array.first(SHOWN_ELEMENTS).iter().map(Value::to_string).collect();
            let dots = if array.len() > first.len() { ", ..." } else { "" };
            format!("{value} {}", cut(&format!("{}{dots}", first.join(", "))))
        }
        single => cut(&single.to_string()),
    }
}

/// The beginning of a text, without control characters.
fn cut(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push_str("...");
    }
    line
}

/// Metadata as a JSON object, made while it is written.
struct MetadataJson<'a>(&'a Metadata);

impl Serialize for MetadataJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, ValueJson(value))))
    }
}

/// A value as JSON. Of a long array its type, its length and the first elements.
struct ValueJson<'a>(&'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(number) => number.serialize(serializer),
            Value::I8(number) => number.serialize(serializer),
            Value::U16(number) => number.serialize(serializer),
            Value::I16(number) => number.serialize(serializer),
            Value::U32(number) => number.serialize(serializer),
            Value::I32(number) => number.serialize(serializer),
            Value::U64(number) => number.serialize(serializer),
            Value::I64(number) => number.serialize(serializer),
            Value::F32(number) => number.serialize(serializer),
            Value::F64(number) => number.serialize(serializer),
            Value::Bool(flag) => flag.serialize(serializer),
            Value::Str(text) => text.serialize(serializer),
            Value::Array(array) if array.len() <= WHOLE_ELEMENTS => {
                serializer.collect_seq(array.first(WHOLE_ELEMENTS).iter().map(ValueJson))
            }
            Value::Array(array) => {
                let first = array.first(SHOWN_ELEMENTS);
                let mut object = serializer.serialize_struct("array", 3)?;
                object.serialize_field("type", array.type_name())?;
                object.serialize_field("len", &array.len())?;
                object.serialize_field("first", &first.iter().map(ValueJson).collect::<Vec<_>>())?;
                object.end()
            }
        }
    }
}
