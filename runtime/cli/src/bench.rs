//! `membrane bench`: prefill and decode, beside what the machine's memory and disk allow and beside a peer.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use membrane_engine::{
    Architecture, Bytes, Counters, Hyperparameters, Model, Prepared, Session, Speculate, process,
};
use membrane_formats::Checkpoint;
use membrane_kernels::{MEMORY_PROBE_BYTES, memory_read_bandwidth};
use membrane_text::Specials;
use serde::{Deserialize, Serialize};

use crate::options::{ModelOptions, at_least_one};
use crate::peer::{self, Speed, Task};
use crate::report;

/// English prose that both engines read; repeated if more tokens are asked for.
const TEXT: &str = include_str!("bench/text.txt");

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// A text for the prompt and what is decoded behind it, in place of the one built in
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one)]
    prompt: usize,
    /// Tokens decoded behind it
    #[arg(long, default_value_t = 64, value_name = "TOKENS", value_parser = at_least_one)]
    decode: usize,
    /// Sessions that decode together behind the same prompt, each its own tokens; the speed is that of all
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: u32,
    /// Repetitions; medians are printed
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = at_least_one)]
    repeat: usize,
    /// Another engine on the same file, in turn with this one, and the ratio of each pair
    #[arg(long, value_enum)]
    against: Option<Peer>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// llama.cpp through its Python binding
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// One run of this engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figures {
    speed: Speed,
    /// Bytes that computing one token reads from memory at least: with several sessions, if they use the same
    /// experts.
    bytes_per_token: u64,
    /// Of the decode: requests for experts that found them in memory, 0 to 1.
    hit_rate: Option<f64>,
    /// Of the decode: bytes read from disk for each token.
    read_per_token: u64,
    prefill_read: u64,
    /// Of the decode: time of I/O threads for each token in which experts were recoded, milliseconds.
    recode_ms_per_token: f64,
    peak_memory: u64,
    /// What the memory plan gives to what the run used.
    planned_memory: u64,
    /// What drafts are worth behind the prompt; none where they are off.
    speculation: Option<Speculated>,
    disk_gb_s: Option<f64>,
    /// None where the budget leaves no room to measure it.
    memory_gb_s: Option<f64>,
}

/// The likeliest tokens behind the prompt, with drafts and without.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Speculated {
    tokens: usize,
    with_tok_s: f64,
    without_tok_s: f64,
    /// Speed with drafts over that without.
    gain: f64,
    drafted: usize,
    accepted: usize,
}

/// What `--json` prints.
#[derive(Serialize, Deserialize)]
struct Runs {
    runs: Vec<Figures>,
}

/// Least memory for a measurement of memory, in bytes: less would be one of caches.
const LEAST_PROBE_BYTES: u64 = 48 << 20;
/// Kept free of a budget beside that measurement, in bytes.
const PROBE_MARGIN_BYTES: u64 = 16 << 20;

pub fn run(args: &Args) -> Result<ExitCode> {
    match args.against {
        Some(Peer::LlamaCpp) => against(args),
        None => {
            // Each in a process of its own, whose memory is that of one run.
            let figures = match args.repeat {
                1 => vec![measure(args)?],
                repeat => (0..repeat).map(|_| own_process()).collect::<Result<Vec<_>>>()?,
            };
            let mut out = io::stdout().lock();
            if args.json {
                writeln!(out, "{}", serde_json::to_string(&Runs { runs: figures })?)?;
            } else {
                print(args, &figures, &mut out)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Loads the model, runs the task, and probes the machine with the same threads.
fn measure(args: &Args) -> Result<Figures> {
    let mut options = args.model.load.load_options(0)?;
    let (checkpoint, wanted) = checked(args)?;
    // One more decodes with drafts beside that without.
    let others = args.sessions - u32::from(matches!(options.speculate, Speculate::Off));
    options.context = options.context.or(Some(wanted + others * own_context(args)));
    options.sessions = args.sessions + others;
    let prepared = Prepared::of(checkpoint, &options)?;
    let model = report::load(prepared, true)?;
    let task = task(args, &model)?;
    let mut session = model.session();
    session.append(&task.prompt[..1])?;
    session.truncate(0);
    let before = model.counters();
    let start = Instant::now();
    session.append(&task.prompt)?;
    let prefill = start.elapsed().as_secs_f64();
    let mut drafting = (model.plan().drafts > 0).then(|| session.fork());
    let middle = model.counters();
    let start = Instant::now();
    let mut sessions: Vec<Session> = (1..args.sessions).map(|_| session.fork()).collect();
    sessions.push(session);
    for step in 0..task.forced.len() {
        // Each is a few words ahead of the one before.
        let tokens = (0..sessions.len()).map(|i| [task.forced[(step + 7 * i) % task.forced.len()]]);
        let tokens: Vec<[u32; 1]> = tokens.collect();
        let mut batch: Vec<_> = sessions.iter_mut().zip(&tokens).map(|(s, t)| (s, t.as_slice())).collect();
        Session::append_all(&mut batch)?;
    }
    let decode = start.elapsed().as_secs_f64().max(1e-9);
    let after = model.counters();
    // Both are of this run and not of the comparison behind it.
    let (peak_memory, planned_memory) = (process::peak_resident_bytes(), model.planned_in_use());
    sessions.clear();
    let speculation = drafting.as_mut().map(|session| speculate(session, args.decode)).transpose()?;
    drop(drafting);
    let decoded = task.forced.len() * args.sessions as usize;
    let tokens = decoded.max(1) as u64;
    let bytes_per_token = bytes_per_token(&model) / u64::from(args.sessions);
    let (paged, team) = (model.plan().paged(), model.team());
    let weights = model.checkpoint().files()[0].path.clone();
    // The measurement of memory takes some itself: under a limit there is no room for it beside the model.
    drop(model);
    let figures = Figures {
        speed: Speed { prefill: task.prompt.len() as f64 / prefill, decode: decoded as f64 / decode },
        bytes_per_token,
        hit_rate: hit_rate(&middle, &after),
        read_per_token: (after.bytes_read - middle.bytes_read) / tokens,
        prefill_read: middle.bytes_read - before.bytes_read,
        recode_ms_per_token: (after.recode_time_ns - middle.recode_time_ns) as f64 / 1e6 / tokens as f64,
        peak_memory,
        planned_memory,
        speculation,
        disk_gb_s: paged.then(|| disk(&weights)).transpose()?,
        memory_gb_s: memory_probe_bytes(args)
            .map(|bytes| team.region(|region| memory_read_bandwidth(region, bytes))),
    };
    Ok(figures)
}

/// The likeliest tokens behind what the session holds, with drafts and without. Errors: they are not the same.
fn speculate(session: &mut Session, tokens: usize) -> Result<Speculated> {
    let trial = membrane_generate::trial(session, tokens)?;
    ensure!(
        trial.with == trial.without,
        "tokens that were drafted ahead changed the text: report this as a bug"
    );
    let speed = |seconds: f64| tokens as f64 / seconds.max(1e-9);
    let (with_tok_s, without_tok_s) = (speed(trial.with_seconds), speed(trial.without_seconds));
    let (gain, drafted, accepted) = (with_tok_s / without_tok_s, trial.drafted, trial.accepted);
    Ok(Speculated { tokens, with_tok_s, without_tok_s, gain, drafted, accepted })
}

/// The text of the task. Errors: a file that can't be read.
fn text(args: &Args) -> Result<String> {
    match &args.text {
        None => Ok(TEXT.to_owned()),
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display())),
    }
}

/// Positions that a further session behind the same prompt may need of its own: its tokens, and what is left of the
/// blocks that they begin and end in.
fn own_context(args: &Args) -> u32 {
    u32::try_from(args.decode).unwrap_or(u32::MAX >> 8).saturating_add(128)
}

/// How much memory a measurement of memory may take, if there is enough for one.
fn memory_probe_bytes(args: &Args) -> Option<usize> {
    let Some(budget) = args.model.load.machine.memory else { return Some(MEMORY_PROBE_BYTES) };
    let left = budget.bytes().saturating_sub(process::resident_bytes() + PROBE_MARGIN_BYTES);
    (left >= LEAST_PROBE_BYTES).then_some(left.min(MEMORY_PROBE_BYTES as u64) as usize)
}

/// Opens the model, and refuses a task that is longer than the texts that it was trained on: figures of such a
/// task would be of no use. Gives the tokens of the task.
fn checked(args: &Args) -> Result<(Arc<Checkpoint>, u32)> {
    let checkpoint = Arc::new(Checkpoint::open(&args.model.model)?);
    let hyper = Hyperparameters::read(&checkpoint, &Architecture::of(&checkpoint)?)?;
    let trained = hyper.trained_context;
    let wanted = args.prompt.saturating_add(args.decode);
    let fits = u32::try_from(wanted).ok().filter(|&wanted| wanted <= trained);
    let wanted = fits.with_context(|| {
        format!(
            "--prompt {} and --decode {} are {wanted} tokens, and {} was trained for {trained}; give less",
            args.prompt,
            args.decode,
            args.model.model.display()
        )
    })?;
    Ok((checkpoint, wanted))
}

/// Tokens of the text, as many as asked for.
fn task(args: &Args, model: &Model) -> Result<Task> {
    let once = model.tokenizer()?.encode(&text(args)?, Specials::AsText)?;
    ensure!(!once.is_empty(), "--text: there is nothing in the file");
    let wanted = args.prompt + args.decode;
    let mut tokens: Vec<u32> = once.iter().copied().cycle().take(wanted).collect();
    let forced = tokens.split_off(args.prompt.max(1).min(tokens.len()));
    let threads = model.team().threads();
    Ok(Task { model: args.model.model.clone(), threads, prompt: tokens, repack: true, forced })
}

/// Weights that each token's computation reads: all resident ones and the experts that it uses.
fn bytes_per_token(model: &Model) -> u64 {
    let plan = model.plan();
    plan.weights.0 + plan.experts_per_token * plan.experts_total.0.checked_div(plan.experts).unwrap_or(0)
}

fn hit_rate(before: &Counters, after: &Counters) -> Option<f64> {
    let requests = after.requests - before.requests;
    (requests > 0).then(|| (after.hits - before.hits) as f64 / requests as f64)
}

/// `weights`: a file on the disk.
fn disk(weights: &Path) -> Result<f64> {
    let probe = membrane_pager::probe_disk(weights)?;
    Ok(probe.ceiling_gb_s())
}

fn print(args: &Args, figures: &[Figures], out: &mut impl Write) -> io::Result<()> {
    let Some(last) = figures.last() else { return Ok(()) };
    let prefill = median(figures.iter().map(|f| f.speed.prefill));
    let decode = median(figures.iter().map(|f| f.speed.decode));
    writeln!(out, "prefill of {} tokens: {prefill:.1} tok/s", args.prompt)?;
    let by =
        if args.sessions > 1 { format!(" by {} sessions together", args.sessions) } else { String::new() };
    writeln!(out, "decode of {} tokens behind them{by}: {decode:.1} tok/s", args.decode)?;
    // What was best of several short measurements on a machine that others may use too.
    let memory = figures.iter().filter_map(|figures| figures.memory_gb_s).reduce(f64::max);
    match memory {
        Some(memory) => {
            let ceiling = memory * 1e9 / last.bytes_per_token as f64;
            writeln!(
                out,
                "memory: {memory:.1} GB/s measured with these threads, {} a token: {ceiling:.1} tok/s by memory, \
                 {:.0} % reached",
                Bytes(last.bytes_per_token),
                100.0 * decode / ceiling
            )?;
        }
        None => writeln!(out, "memory: the budget leaves no room to measure it")?,
    }
    if let (Some(disk), Some(rate)) = (last.disk_gb_s, last.hit_rate) {
        let read = last.read_per_token as f64;
        writeln!(
            out,
            "disk: {disk:.2} GB/s; decode found {:.1} % of its experts in memory and read {} a token, \
             prefill {} in all",
            100.0 * rate,
            Bytes(last.read_per_token),
            Bytes(last.prefill_read)
        )?;
        if last.recode_ms_per_token > 0.0 {
            writeln!(out, "recoding of experts: {:.2} ms of I/O threads a token", last.recode_ms_per_token)?;
        }
        if read > 0.0 {
            let ceiling = disk * 1e9 / read;
            writeln!(
                out,
                "disk ceiling at these misses: {ceiling:.1} tok/s, {:.0} % reached",
                100.0 * decode / ceiling
            )?;
        }
    }
    let trials: Vec<&Speculated> =
        figures.iter().filter_map(|figures| figures.speculation.as_ref()).collect();
    if let Some(trial) = trials.last() {
        writeln!(
            out,
            "speculation: the likeliest {} tokens behind the prompt at {:.1} tok/s, without at {:.1}, gain {:.2}x; \
             {} drafted, {} of them right",
            trial.tokens,
            median(trials.iter().map(|trial| trial.with_tok_s)),
            median(trials.iter().map(|trial| trial.without_tok_s)),
            median(trials.iter().map(|trial| trial.gain)),
            trial.drafted,
            trial.accepted
        )?;
    }
    writeln!(
        out,
        "peak memory: {}, {:+.1} % of the {} that the plan gives to what was used",
        Bytes(last.peak_memory),
        100.0 * (last.peak_memory as f64 / last.planned_memory as f64 - 1.0),
        Bytes(last.planned_memory)
    )
}

/// Both engines in turn, each run in a process of its own so that neither holds memory while the other runs.
fn against(args: &Args) -> Result<ExitCode> {
    let mut options = args.model.load.load_options(0)?;
    options.memory = None;
    let once = {
        let (checkpoint, _) = checked(args)?;
        membrane_engine::tokenizer(&checkpoint)?.encode(&text(args)?, Specials::AsText)?
    };
    let mut prompt: Vec<u32> = once.iter().copied().cycle().take(args.prompt + args.decode).collect();
    let forced = prompt.split_off(args.prompt.max(1).min(prompt.len()));
    let threads =
        options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let repack = args.model.load.machine.memory.is_none();
    let task = Task { model: args.model.model.clone(), threads, prompt, repack, forced };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for pair in 1..=args.repeat {
        let figures = own_process()?;
        let peer = peer::llama_cpp(&task)?;
        eprintln!(
            "pair {pair}: prefill {:.1} to {:.1} tok/s, ratio {:.2}; decode {:.1} to {:.1} tok/s, \
             ratio {:.2}",
            figures.speed.prefill,
            peer.prefill,
            figures.speed.prefill / peer.prefill,
            figures.speed.decode,
            peer.decode,
            figures.speed.decode / peer.decode
        );
        ours.push(figures);
        theirs.push(peer);
    }
    let ratio = |of: fn(&Speed) -> f64| median(ours.iter().zip(&theirs).map(|(a, b)| of(&a.speed) / of(b)));
    let (prefill, decode) = (ratio(|s| s.prefill), ratio(|s| s.decode));
    let mut out = io::stdout().lock();
    if args.json {
        let all = serde_json::json!({
            "membrane": ours, "llama.cpp": theirs, "prefill_ratio": prefill, "decode_ratio": decode,
        });
        writeln!(out, "{all}")?;
    } else {
        print(args, &ours, &mut out)?;
        writeln!(
            out,
            "against llama.cpp, median of {} pairs: prefill {prefill:.2}x, decode {decode:.2}x",
            ours.len()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One measurement by a child of this same program, with this command's own arguments.
fn own_process() -> Result<Figures> {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut at = 0;
    while at < arguments.len() {
        let text = arguments[at].to_string_lossy().into_owned();
        match text.as_str() {
            "--against" | "--repeat" => drop(arguments.drain(at..(at + 2).min(arguments.len()))),
            "--json" => drop(arguments.remove(at)),
            _ if text.starts_with("--against=") || text.starts_with("--repeat=") => {
                drop(arguments.remove(at))
            }
            _ => at += 1,
        }
    }
    let output =
        Command::new(std::env::current_exe()?).args(arguments).args(["--repeat", "1", "--json"]).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("membrane: "));
    }
    let runs: Runs = serde_json::from_slice(&output.stdout).context("reading a measurement")?;
    runs.runs.into_iter().next().context("a measurement without figures")
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}
