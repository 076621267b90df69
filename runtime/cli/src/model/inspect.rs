//! `membrane model inspect`: what is in a model's files and what it would take to run it.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use membrane_engine::{
    Architecture, Attention, Bytes, DeltaNet, DeltaShape, EngineError, Hyperparameters, LatentAttention,
    MemoryPlan, Prepared, TokenizerKind,
};
use membrane_formats::{Checkpoint, Container, Form, SourceFile};
use membrane_profile::Digest;
use serde::Serialize;

use super::templates;
use super::values::{MetadataJson, cut, shown};
use crate::options::ModelOptions;
use crate::report::{self, describe as told, one_line, printable};
use crate::{digests, model_lock};

/// Bytes of all files together up to which digests are computed without being asked for: a second or two.
pub const DIGESTED_BYTES: u64 = 512 << 20;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// Read the files for their digests, however large they are, unless they are remembered
    #[arg(long)]
    digest: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
#[derive(Serialize)]
struct Report<'a> {
    files: Vec<FileReport>,
    bytes: u64,
    /// `gguf` or `safetensors`.
    format: &'static str,
    /// None for safetensors files.
    gguf_version: Option<u32>,
    architecture: String,
    /// Why the model can't be run by this build, or with these options, if it can't.
    problem: Option<String>,
    parameters: u64,
    /// The form that most bytes are in, and what else there is.
    quantisation: String,
    tokenizer: Option<TokenizerReport>,
    chat_template: Option<TemplateReport>,
    /// What most models have not, each in a sentence.
    unusual: Vec<String>,
    hyperparameters: Option<String>,
    tensors: BTreeMap<&'static str, TensorForm>,
    /// Without what plugins take.
    plan: Option<MemoryPlan>,
    metadata: MetadataJson<'a>,
}

#[derive(Serialize)]
struct FileReport {
    path: String,
    bytes: u64,
    /// None if it was neither remembered nor asked for.
    digest: Option<Digest>,
    /// The digest is that of an earlier reading; the file has not been touched since.
    remembered: bool,
}

#[derive(Serialize)]
struct TokenizerReport {
    /// As GGUF files call it.
    kind: String,
    /// How a text is cut first, by GGUF's name.
    pre: String,
    tokens: usize,
    digest: Digest,
    /// What it puts before a text.
    #[serde(skip)]
    begins: Option<String>,
}

#[derive(Serialize)]
struct TemplateReport {
    bytes: usize,
    digest: Digest,
    /// Models that were published with it.
    known: Option<&'static str>,
}

/// Tensors of one form.
#[derive(Serialize)]
struct TensorForm {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let options = args.model.load.load_options(0)?;
    let checkpoint = Arc::new(Checkpoint::open(&args.model.model)?);
    let prepared = Prepared::of(checkpoint.clone(), &options);
    let files = files(&checkpoint, args)?;
    let report = examine(&checkpoint, files, prepared)?;
    let mut out = io::stdout().lock();
    if args.json {
        report::json(&report, &mut out)?;
    } else {
        print(&report, &mut BufWriter::new(out))?;
    }
    Ok(ExitCode::from(u8::from(report.problem.is_some())))
}

/// The files, with digests as far as they cost nothing or are asked for.
fn files(checkpoint: &Checkpoint, args: &Args) -> Result<Vec<FileReport>> {
    let total: u64 = checkpoint.files().iter().map(|file| file.bytes).sum();
    let file = |file: &SourceFile| {
        let (digest, remembered) = if args.digest || total <= DIGESTED_BYTES {
            let found = digests::whole(file, args.json);
            let (digest, remembered) =
                found.with_context(|| format!("the digest of {}", file.path.display()))?;
            (Some(digest), remembered)
        } else {
            let known = digests::remembered(file);
            (known, known.is_some())
        };
        Ok(FileReport { path: file.path.display().to_string(), bytes: file.bytes, digest, remembered })
    };
    checkpoint.files().iter().map(file).collect()
}

fn examine(
    checkpoint: &Checkpoint,
    files: Vec<FileReport>,
    prepared: Result<Prepared, EngineError>,
) -> Result<Report<'_>> {
    let forms = checkpoint.forms();
    let shape = Architecture::of(checkpoint).and_then(|a| Hyperparameters::read(checkpoint, &a)).ok();
    let (format, gguf_version) = match checkpoint.container() {
        Container::Gguf { version, .. } => ("gguf", Some(version)),
        Container::Folder => ("safetensors", None),
    };
    let mut unusual = links(checkpoint);
    let tokenizer = tokenizer(checkpoint).unwrap_or_else(|error| {
        unusual.push(format!("the tokenizer can't be read: {}", told(&error)));
        None
    });
    let cut = tokenizer.as_ref().filter(|tokenizer| tokenizer.kind == "gpt2").map(|tokenizer| &tokenizer.pre);
    if let Some(pre) =
        cut.filter(|_| gguf_version.is_some() && checkpoint.metadata().get("tokenizer.ggml.pre").is_none())
    {
        unusual.push(format!(
            "`tokenizer.ggml.pre` is absent: texts are cut as `{pre}` does, which may not be how the model learned them; \
             newer files of the model say it"
        ));
    }
    let found = chat_template(checkpoint);
    if let Err(error) = &found {
        unusual.push(format!("the chat template can't be read: {}", told(error)));
    }
    let readable = found.is_ok();
    let chat_template = found.unwrap_or_default();
    match &chat_template {
        None if !readable => {}
        None => {
            unusual.push("there is no chat template: only plain text can be continued (`run --raw`)".into())
        }
        Some(TemplateReport { known: None, .. }) => unusual.push(
            "the chat template is none of those known here; it decides what the model reads: look at it in \
             `tokenizer.chat_template`"
                .into(),
        ),
        Some(_) => {}
    }
    unusual.extend(tokenizer.as_ref().and_then(|tokenizer| begun_otherwise(checkpoint, tokenizer)));
    let ignored = prepared.as_ref().map_or(&[][..], Prepared::ignored);
    unusual.extend(ignored.iter().map(|ignored| {
        let (count, name) = (ignored.tensors, &ignored.example);
        let which =
            if count == 1 { format!("`{name}` is") } else { format!("{count} tensors such as `{name}` are") };
        format!("{which} left out: {}", ignored.reason)
    }));
    let (plan, problem) = match &prepared {
        Ok(prepared) => (Some(prepared.plan().clone()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Report {
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        format,
        gguf_version,
        architecture: checkpoint.metadata().str("general.architecture")?.unwrap_or("(none)").to_owned(),
        problem,
        parameters: forms.values().map(|form| form.parameters).sum(),
        quantisation: quantisation(&forms),
        tokenizer,
        chat_template,
        unusual,
        hyperparameters: shape.as_ref().map(describe),
        tensors: forms
            .iter()
            .map(|(name, &Form { tensors, parameters, bytes })| {
                (*name, TensorForm { tensors, parameters, bytes })
            })
            .collect(),
        plan,
        metadata: MetadataJson(checkpoint.metadata()),
    })
}

/// Forms by their share of the bytes, the largest first; those of less than a hundredth are left out.
pub fn quantisation(forms: &BTreeMap<&'static str, Form>) -> String {
    let all: u64 = forms.values().map(|form| form.bytes).sum();
    let mut shares: Vec<(u64, &str)> =
        forms.iter().map(|(name, form)| (form.bytes.saturating_mul(100) / all.max(1), *name)).collect();
    shares.sort_unstable_by(|a, b| b.cmp(a));
    let most = shares.first().map_or(0, |(share, _)| *share).min(1);
    let named = shares.iter().filter(|(share, _)| *share >= most);
    let named: Vec<String> = named.map(|(share, name)| format!("{name} {share} %")).collect();
    named.join(", ")
}

/// Files that are links out of the model's folder.
fn links(checkpoint: &Checkpoint) -> Vec<String> {
    let outside = |file: &SourceFile| {
        let real = file.path.canonicalize().ok()?;
        let folder = file.path.parent()?.canonicalize().ok()?;
        // A cache of Hugging Face's hub links all of its files to a folder beside the snapshots.
        let snapshots = folder.ancestors().find(|folder| folder.ends_with("snapshots"));
        let blobs = snapshots.and_then(|snapshots| Some(snapshots.parent()?.join("blobs")));
        let own =
            real.parent() == Some(&*folder) || blobs.is_some_and(|blobs| real.parent() == Some(&*blobs));
        (!own).then(|| format!("{} is a link to {}", file.path.display(), real.display()))
    };
    checkpoint.files().iter().filter_map(outside).collect()
}

fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<TokenizerReport>> {
    let kind = membrane_engine::tokenizer_kind(checkpoint)?;
    let Some(digest) = model_lock::tokenizer(checkpoint)? else { return Ok(None) };
    let TokenizerKind { model: kind, pre, tokens, begins } = kind;
    Ok(Some(TokenizerReport { kind, pre, tokens, digest, begins }))
}

/// What is unusual where a tokenizer begins texts with a token that the chat template does not write.
fn begun_otherwise(checkpoint: &Checkpoint, tokenizer: &TokenizerReport) -> Option<String> {
    let token = tokenizer.begins.as_deref()?;
    let template = membrane_engine::chat_templates(checkpoint).ok()??.default;
    let written = template.contains("bos_token") || template.contains(token);
    (!written).then(|| {
        format!(
            "the tokenizer puts `{}` before a text, and the chat template does not write it: conversations begin without it here, as in \
             transformers; llama.cpp begins them with it",
            cut(token)
        )
    })
}

fn chat_template(checkpoint: &Checkpoint) -> Result<Option<TemplateReport>> {
    Ok(membrane_engine::chat_templates(checkpoint)?.map(|templates| TemplateReport {
        bytes: templates.joined().len(),
        digest: Digest::of(templates.joined().as_bytes()),
        known: templates::known(&templates.default),
    }))
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
        writeln!(out, "{}", printable(&file.path))?;
        match (&file.digest, file.remembered) {
            (Some(digest), true) => {
                writeln!(out, "  {digest} (remembered; the file has not been touched since)")?
            }
            (Some(digest), false) => writeln!(out, "  {digest}")?,
            (None, _) => writeln!(out, "  no digest yet: --digest reads {}", Bytes(file.bytes))?,
        }
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
    writeln!(out, "quantisation: {}", report.quantisation)?;
    for (name, t) in &report.tensors {
        writeln!(
            out,
            "  {name:<8}{:>6}  {:>14} parameters  {:>10}",
            t.tensors,
            t.parameters,
            Bytes(t.bytes)
        )?;
    }
    print_texts(report, out)?;
    if !report.unusual.is_empty() {
        writeln!(out, "unusual:")?;
    }
    for what in &report.unusual {
        writeln!(out, "  {}", one_line(what))?;
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

/// Tokenizer and template.
fn print_texts(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    match &report.tokenizer {
        Some(TokenizerReport { kind, pre, tokens, digest, .. }) => {
            let how = match kind.as_str() {
                "gpt2" => "byte-level BPE",
                "llama" => "SentencePiece",
                other => other,
            };
            writeln!(out, "tokenizer: {}, cut as {}, {tokens} tokens\n  {digest}", cut(how), cut(pre))?;
        }
        None => writeln!(out, "tokenizer: none that can be read")?,
    }
    match &report.chat_template {
        Some(TemplateReport { bytes, digest, known }) => {
            let whose = known.map_or("none that is known here".into(), |models| format!("that of {models}"));
            writeln!(out, "chat template: {whose}, {bytes} bytes\n  {digest}")
        }
        None => writeln!(out, "chat template: none"),
    }
}
