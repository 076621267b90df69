//! `membrane bench`: prefill and decode, beside what the machine's memory and disk allow and beside peers.

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use membrane_engine::{Architecture, Hyperparameters};
use membrane_formats::Checkpoint;
use membrane_text::Specials;
use serde::{Deserialize, Serialize};

use crate::options::{Memory, ModelOptions, at_least_one};
use crate::peer::{self, Peer, PeerSpeed, Task};

mod figures;
mod machine;
mod measure;
mod report;
mod rows;

use figures::Figures;
use machine::Setting;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// A text for the prompt and what is decoded behind it, in place of the one built in
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens before the prompt, not measured themselves; of several numbers each is measured
    #[arg(
        long,
        default_value = "0",
        value_name = "TOKENS,...",
        value_delimiter = ',',
        visible_alias = "depth"
    )]
    context: Vec<usize>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one)]
    prompt: usize,
    /// Tokens decoded behind it
    #[arg(long, default_value_t = 64, value_name = "TOKENS", value_parser = at_least_one)]
    decode: usize,
    /// What was read before; of several each is measured
    #[arg(long, value_enum, default_value = "fresh", value_name = "START,...", value_delimiter = ',')]
    start: Vec<Start>,
    /// Sessions that decode together behind the same prompt, each its own tokens; the speed is that of all
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: u32,
    /// Repetitions; medians are printed
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = at_least_one)]
    repeat: usize,
    /// Another engine on the same file, in turn with this one, and the ratio of each pair: llama.cpp (its Python binding) or
    /// llama-bench=PATH (that program of llama.cpp or ik_llama.cpp); may be repeated
    #[arg(long, value_name = "PEER")]
    against: Vec<Peer>,
    /// Further flags of a llama-bench, such as "-fa 1"; the first for the first one, and so on
    #[arg(long, value_name = "FLAGS", requires = "against", allow_hyphen_values = true)]
    peer_args: Vec<String>,
    /// Append a row for each run to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was read before a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// The model is loaded, whatever the system has of its files, and has read one token.
    Fresh,
    /// The same with files that the system has nothing of.
    Cold,
    /// Another text as long as the task has gone through the model.
    Warm,
}

impl Start {
    fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

/// Flags of which each measurement has one value, and those that are not for it; whether they have a value.
const OF_ALL: [(&str, bool); 9] = [
    ("--memory", true),
    ("--context", true),
    ("--depth", true),
    ("--start", true),
    ("--repeat", true),
    ("--against", true),
    ("--peer-args", true),
    ("--csv", true),
    ("--json", false),
];

/// What is measured several times.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Case {
    memory: Memory,
    start: Start,
    context: usize,
}

/// What came of it.
struct Measured {
    case: Case,
    runs: Vec<Figures>,
    /// For each peer what it reached beside each run.
    peers: Vec<Vec<PeerSpeed>>,
}

/// What a process of its own prints.
#[derive(Deserialize)]
struct Runs {
    runs: Vec<Figures>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let cases = cases(args);
    let checkpoint = checked(args, &cases)?;
    let peers = peer::with_flags(&args.against, &args.peer_args)?;
    let csv = args.csv.as_deref().map(rows::Rows::append).transpose()?;
    let mut measured = Vec::new();
    for case in cases.iter().copied() {
        let alone = cases.len() == 1 && args.repeat == 1 && peers.is_empty();
        measured.push(match alone {
            true => Measured { case, runs: vec![measure::measure(args, case)?], peers: Vec::new() },
            // Each in a process of its own, whose memory is that of one run.
            false => in_turn(args, case, &peers, &checkpoint)?,
        });
    }
    let setting = Setting::of(&checkpoint, args)?;
    if let Some(mut rows) = csv {
        rows.write(&setting, args, &measured, &peers)?;
    }
    let out = &mut io::stdout().lock();
    match args.json {
        true => report::json(&setting, &measured, &peers, out)?,
        false => report::print(args, &measured, &peers, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn cases(args: &Args) -> Vec<Case> {
    let mut cases = Vec::new();
    for &memory in &args.model.load.machine.memory.0 {
        for &start in &args.start {
            cases.extend(args.context.iter().map(|&context| Case { memory, start, context }));
        }
    }
    cases
}

/// Opens the model, and refuses a task that is longer than the texts that it was trained on: figures of such a
/// task would be of no use.
fn checked(args: &Args, cases: &[Case]) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(&args.model.model)?;
    let hyper = Hyperparameters::read(&checkpoint, &Architecture::of(&checkpoint)?)?;
    let trained = hyper.trained_context as usize;
    let context = cases.iter().map(|case| case.context).max().unwrap_or(0);
    let wanted = args.prompt.saturating_add(args.decode).saturating_add(context);
    let before = if context > 0 { format!("--context {context}, ") } else { String::new() };
    ensure!(
        wanted <= trained,
        "{before}--prompt {} and --decode {} are {wanted} tokens, and {} was trained for {trained}; give less",
        args.prompt,
        args.decode,
        args.model.model.display()
    );
    Ok(checkpoint)
}

/// This engine and its peers in turn, each run in a process of its own so that none holds memory while another runs.
fn in_turn(
    args: &Args,
    case: Case,
    peers: &[(&Peer, Vec<String>)],
    checkpoint: &Checkpoint,
) -> Result<Measured> {
    let task = (!peers.is_empty()).then(|| task(args, case, checkpoint)).transpose()?;
    let mut measured = Measured { case, runs: Vec::new(), peers: vec![Vec::new(); peers.len()] };
    for pair in 1..=args.repeat {
        let figures = own_process(case)?;
        for ((peer, flags), speeds) in peers.iter().zip(&mut measured.peers) {
            let Some(task) = &task else { continue };
            if case.start == Start::Cold {
                measure::forget(checkpoint);
            }
            let speed = peer.measure(task, flags)?;
            eprintln!("pair {pair} with {peer}: {}", report::pair(&figures.speed, &speed));
            speeds.push(speed);
        }
        measured.runs.push(figures);
    }
    Ok(measured)
}

/// The task as peers get it.
fn task(args: &Args, case: Case, checkpoint: &Checkpoint) -> Result<Task> {
    let once = membrane_engine::tokenizer(checkpoint)?.encode(&measure::text(args)?, Specials::AsText)?;
    let threads = args.model.load.machine.threads;
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    // A copy beside the mapped file has no room under a budget.
    let repack = !matches!(case.memory, Memory::Size(_));
    let tokens = measure::Tokens::of(&once, case.context, args)?;
    Ok(Task {
        model: args.model.model.clone(),
        threads,
        context: tokens.context,
        prompt: tokens.prompt,
        repack,
        forced: tokens.forced,
    })
}

/// One measurement by a child of this same program, with this command's own arguments.
fn own_process(case: Case) -> Result<Figures> {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut at = 0;
    while at < arguments.len() {
        let text = arguments[at].to_string_lossy().into_owned();
        let (name, joined) = text.split_once('=').map_or((&*text, false), |(name, _)| (name, true));
        match OF_ALL.iter().find(|(flag, _)| *flag == name) {
            Some((_, valued)) => {
                let last = if *valued && !joined { at + 2 } else { at + 1 };
                drop(arguments.drain(at..last.min(arguments.len())));
            }
            None => at += 1,
        }
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).args(["--repeat", "1", "--json"]);
    command.args(["--memory", &case.memory.to_string(), "--start", case.start.name()]);
    let output = command.args(["--context", &case.context.to_string()]).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("membrane: "));
    }
    let runs: Runs = serde_json::from_slice(&output.stdout).context("reading a measurement")?;
    runs.runs.into_iter().next().context("a measurement without figures")
}
