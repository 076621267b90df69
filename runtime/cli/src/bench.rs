//! `membrane bench`: prefill and decode, beside what the machine's memory and disk allow and beside peers.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

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
    /// Further flags of a llama-bench, such as "-fa 1", divided at spaces, whatever quotation marks are in it; the first for the
    /// first one, and so on
    #[arg(long, value_name = "FLAGS", requires = "against", allow_hyphen_values = true)]
    peer_args: Vec<String>,
    /// Append a row for each run to this file as soon as it is measured
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
    /// The same, and the experts that another text used in an earlier run have been read, as far as there is room.
    Recalled,
    /// Another text as long as the task has gone through the model.
    Warm,
}

impl Start {
    /// Whether the system has nothing of the files.
    fn has_cold_files(self) -> bool {
        matches!(self, Self::Cold | Self::Recalled)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Cold => "cold",
            Self::Recalled => "recalled",
            Self::Warm => "warm",
        }
    }
}

/// The signal by which the system ends processes where memory is short (signal(7)).
const SIGKILL: i32 = 9;

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
    let alone = cases.len() == 1 && args.repeat == 1 && peers.is_empty();
    let mut results =
        Results { args, peers: &peers, checkpoint: &checkpoint, csv, setting: None, measured: Vec::new() };
    let ended = match alone {
        true => results.here(cases[0]),
        // Each in a process of its own, whose memory is that of one run.
        false => results.in_turn(&cases),
    };
    // What was measured before something failed is of use all the same.
    results.report()?;
    ended.map(|()| ExitCode::SUCCESS)
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
    if !args.against.is_empty() {
        ensure!(
            args.sessions == 1,
            "--sessions {} with --against: peers decode one session; measure several without a peer",
            args.sessions
        );
        if let Some(start) = args.start.iter().find(|start| matches!(start, Start::Recalled | Start::Warm)) {
            bail!(
                "--start {} with --against: peers can't be given another text before the task; measure it without a peer",
                start.name()
            );
        }
    }
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

/// What was measured so far.
struct Results<'a> {
    args: &'a Args,
    peers: &'a [(&'a Peer, Vec<String>)],
    checkpoint: &'a Checkpoint,
    csv: Option<rows::Rows>,
    /// What a digest of the model is computed for, which takes memory: a measurement in this process comes first.
    setting: Option<Setting>,
    measured: Vec<Measured>,
}

impl Results<'_> {
    /// The only measurement, in this process.
    fn here(&mut self, case: Case) -> Result<()> {
        let figures = measure::measure(self.args, case)?;
        self.begin(case);
        self.add(figures)
    }

    /// All cases, each run in a process of its own so that none holds memory while another runs. Errors: besides those of a run, a
    /// case that can't be planned, before anything is measured.
    fn in_turn(&mut self, cases: &[Case]) -> Result<()> {
        for &case in cases {
            measure::check(self.args, case).with_context(|| told(case))?;
        }
        for &case in cases {
            self.begin(case);
            self.repeated(case).with_context(|| told(case))?;
        }
        Ok(())
    }

    fn begin(&mut self, case: Case) {
        self.measured.push(Measured { case, runs: Vec::new(), peers: vec![Vec::new(); self.peers.len()] });
    }

    /// This engine and its peers in turn.
    fn repeated(&mut self, case: Case) -> Result<()> {
        let task = (!self.peers.is_empty()).then(|| task(self.args, case, self.checkpoint)).transpose()?;
        for pair in 1..=self.args.repeat {
            let figures = own_process(case)?;
            let own = figures.speed;
            self.add(figures)?;
            for (place, (peer, flags)) in self.peers.iter().enumerate() {
                let Some(task) = &task else { continue };
                let before = || {
                    if case.start == Start::Cold {
                        measure::forget(self.checkpoint);
                    }
                };
                let speed = peer.measure(task, flags, &before)?;
                eprintln!("pair {pair} with {peer}: {}", report::pair(&own, &speed));
                self.add_peer(place, speed)?;
            }
        }
        Ok(())
    }

    /// Keeps a run of the last case, and appends its row.
    fn add(&mut self, figures: Figures) -> Result<()> {
        let setting = setting(&mut self.setting, self.checkpoint, self.args)?;
        let Some(last) = self.measured.last_mut() else { return Ok(()) };
        let run = last.runs.len();
        last.runs.push(figures);
        match &mut self.csv {
            Some(csv) => csv.write(rows::own(setting, self.args, run, &last.runs[run])),
            None => Ok(()),
        }
    }

    /// The same of a peer, beside the last run.
    fn add_peer(&mut self, place: usize, speed: PeerSpeed) -> Result<()> {
        let setting = setting(&mut self.setting, self.checkpoint, self.args)?;
        let Some(last) = self.measured.last_mut() else { return Ok(()) };
        last.peers[place].push(speed);
        let run = last.runs.len() - 1;
        let (peer, flags) = &self.peers[place];
        let threads = last.runs[run].threads;
        match &mut self.csv {
            Some(csv) => {
                csv.write(rows::theirs(setting, self.args, last.case, run, threads, (peer, flags, &speed)))
            }
            None => Ok(()),
        }
    }

    /// Prints all that was measured.
    fn report(&mut self) -> Result<()> {
        self.measured.retain(|measured| !measured.runs.is_empty());
        let Some(setting) = self.setting.as_ref().filter(|_| !self.measured.is_empty()) else {
            return Ok(());
        };
        let out = &mut io::stdout().lock();
        match self.args.json {
            true => report::json(setting, &self.measured, self.peers, out)?,
            false => report::print(self.args, &self.measured, self.peers, out)?,
        }
        Ok(())
    }
}

/// The setting, made where it is wanted first.
fn setting<'a>(made: &'a mut Option<Setting>, checkpoint: &Checkpoint, args: &Args) -> Result<&'a Setting> {
    let setting = match made.take() {
        Some(setting) => setting,
        None => Setting::of(checkpoint, args)?,
    };
    Ok(made.insert(setting))
}

/// A case in an error.
fn told(Case { memory, start, context }: Case) -> String {
    format!("--memory {memory} --start {} --context {context}", start.name())
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
        cold: case.start == Start::Cold,
        forced: tokens.forced,
    })
}

/// One measurement by a child of this same program, with this command's own arguments.
fn own_process(case: Case) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments_of(case, std::env::args_os().skip(1).collect()));
    let output = command.output().context("starting the process of a measurement")?;
    if !output.status.success() {
        bail!("{}", failure(output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    let runs: Runs = serde_json::from_slice(&output.stdout).context("reading a measurement")?;
    runs.runs.into_iter().next().context("a measurement without figures")
}

/// The arguments of a process that measures the case, from those of this one: the verb, what makes the case, the others.
fn arguments_of(case: Case, mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut at = 0;
    // Behind `--` there are no flags.
    while at < arguments.len() && arguments[at] != "--" {
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
    let (memory, context) = (case.memory.to_string(), case.context.to_string());
    let own =
        ["--repeat", "1", "--json", "--memory", &memory, "--start", case.start.name(), "--context", &context];
    let verb = arguments.len().min(1);
    arguments.splice(verb..verb, own.map(OsString::from));
    arguments
}

/// Why a process of a measurement ended.
fn failure(status: ExitStatus, said: &str) -> String {
    let said = said.trim().trim_start_matches("membrane: ");
    let colon = if said.is_empty() { "" } else { ": " };
    match status.signal() {
        Some(SIGKILL) => format!(
            "the process of a measurement was killed ({status}), most likely by a limit on memory; give less \
             --memory{colon}{said}"
        ),
        None if !said.is_empty() => said.to_owned(),
        _ => format!("the process of a measurement failed ({status}){colon}{said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_case_stand_right_behind_the_verb() {
        let case = Case { memory: Memory::Unlimited, start: Start::Cold, context: 32 };
        let given = "bench --csv rows --memory=1GiB,auto --threads 1 --json --context 0,32 -- --csv";
        let of_case = arguments_of(case, given.split(' ').map(OsString::from).collect());
        let wanted = "bench --repeat 1 --json --memory none --start cold --context 32 --threads 1 -- --csv";
        assert_eq!(of_case, wanted.split(' ').map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn a_process_that_ended_is_told_with_its_status() {
        let killed = failure(ExitStatus::from_raw(SIGKILL), "");
        assert!(killed.contains("signal: 9") && killed.contains("limit on memory"), "{killed}");
        let aborted = failure(ExitStatus::from_raw(6), "membrane: no room\n");
        assert!(aborted.contains("signal: 6") && aborted.ends_with(": no room"), "{aborted}");
        assert_eq!(failure(ExitStatus::from_raw(2 << 8), "membrane: no room\n"), "no room");
        assert!(failure(ExitStatus::from_raw(2 << 8), " ").contains("exit status: 2"));
    }
}
