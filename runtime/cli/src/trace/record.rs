//! `membrane trace record`: a prompt and what is decoded behind it, with every request for experts written down.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use membrane_engine::{Counters, Model, Prepared, Speculate};
use membrane_formats::Checkpoint;
use membrane_pager::Phase;
use membrane_text::Specials;
use serde::Serialize;

use crate::logits::Output;
use crate::options::{ModelOptions, at_least_one};
use crate::report;

/// English prose, repeated if more tokens are asked for.
const TEXT: &str = include_str!("../bench/text.txt");

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// The trace: a text, a line a request
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A text for the prompt and what is decoded behind it, in place of the one built in
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one)]
    prompt: usize,
    /// Tokens of the text decoded behind it, one by one
    #[arg(long, default_value_t = 128, value_name = "TOKENS", value_parser = at_least_one)]
    decode: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was recorded, and the pager's counters.
#[derive(Serialize)]
struct Recorded {
    slots: u64,
    slot_bytes: u64,
    experts: u64,
    /// Bytes of weights that every token reads from memory, experts not counted.
    dense_bytes: u64,
    /// Bytes of an expert in its file, of all on average.
    expert_bytes: u64,
    prompt: Part,
    decode: Part,
}

#[derive(Serialize)]
struct Part {
    tokens: usize,
    seconds: f64,
    requests: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
    bytes_read: u64,
    disk_gb_s: Option<f64>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let checkpoint = Arc::new(Checkpoint::open(&args.model.model)?);
    let mut options = args.model.load.load_options(0)?;
    let wanted = args.prompt.saturating_add(args.decode);
    options.context =
        options.context.or(Some(u32::try_from(wanted).context("--prompt and --decode: too many tokens")?));
    options.speculate = Speculate::Off;
    // Hits follow from the requests alone, as `trace simulate` shows.
    options.lookahead = false;
    let output = Output::create(&args.out, &checkpoint)?;
    let model = report::load(Prepared::of(checkpoint, &options)?, true)?;
    ensure!(model.plan().experts > 0, "{}: is no mixture of experts", args.model.model.display());
    let tokens = tokens(args, &model, wanted)?;
    let file = File::create(&output.partial).with_context(|| format!("--out {}", args.out.display()))?;
    let name = args.model.model.file_name().unwrap_or_default().to_string_lossy();
    model.record_routing(&name, Box::new(file));
    let (prompt, decode) = passes(&model, &tokens, args.prompt)?;
    model.end_routing().with_context(|| format!("writing {}", args.out.display()))?;
    output.keep()?;
    let plan = model.plan();
    let recorded = Recorded {
        slots: plan.expert_slots,
        slot_bytes: plan.expert_slot.0,
        experts: plan.experts,
        dense_bytes: plan.weights.0,
        expert_bytes: plan.experts_total.0.checked_div(plan.experts).unwrap_or(0),
        prompt,
        decode,
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => report::json(&recorded, &mut out)?,
        false => print(&recorded, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tokens(args: &Args, model: &Model, wanted: usize) -> Result<Vec<u32>> {
    let text = match &args.text {
        None => TEXT.to_owned(),
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
    };
    let once = model.tokenizer()?.encode(&text, Specials::AsText)?;
    ensure!(!once.is_empty(), "--text: there is nothing in the file");
    Ok(once.iter().copied().cycle().take(wanted).collect())
}

/// The prompt at once, the rest token by token.
fn passes(model: &Model, tokens: &[u32], prompt: usize) -> Result<(Part, Part)> {
    let (prompt, rest) = tokens.split_at(prompt);
    let mut session = model.session();
    let (before, start) = (model.counters(), Instant::now());
    session.append(prompt)?;
    let first = part(prompt.len(), start, &before, &model.counters());
    model.mark_routing(Phase::Decode);
    let (before, start) = (model.counters(), Instant::now());
    for &token in rest {
        session.append(&[token])?;
    }
    Ok((first, part(rest.len(), start, &before, &model.counters())))
}

fn part(tokens: usize, start: Instant, before: &Counters, after: &Counters) -> Part {
    let counters = *after - *before;
    Part {
        tokens,
        seconds: start.elapsed().as_secs_f64(),
        requests: counters.requests,
        hits: counters.hits,
        misses: counters.misses,
        evictions: counters.evictions,
        bytes_read: counters.bytes_read,
        disk_gb_s: counters.read_gb_s(),
    }
}

fn print(recorded: &Recorded, out: &mut impl Write) -> io::Result<()> {
    let Recorded { slots, slot_bytes, experts, dense_bytes, expert_bytes, .. } = recorded;
    writeln!(out, "{slots} slots of {slot_bytes} bytes for {experts} experts of {expert_bytes} bytes")?;
    writeln!(out, "other weights: {dense_bytes} bytes a token")?;
    for (name, part) in [("prompt", &recorded.prompt), ("decode", &recorded.decode)] {
        let Part { tokens, requests, hits, misses, evictions, .. } = part;
        writeln!(
            out,
            "{name}: {tokens} tokens, {:.1} tok/s; {requests} requests, {hits} hits, {misses} misses, {evictions} evictions",
            *tokens as f64 / part.seconds.max(1e-9)
        )?;
    }
    Ok(())
}
