//! One run: loads the model, does the task, and probes the machine with the same threads.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use membrane_engine::{Counters, Model, Prepared, Session, Speculate, Usage, process};
use membrane_formats::Checkpoint;
use membrane_kernels::{MEMORY_PROBE_BYTES, Team, memory_read_bandwidth};
use membrane_pager::PagerError;
use membrane_text::Specials;

use super::figures::{Figures, Loading, Speculated, stage_rows};
use super::{Args, Case, Start};
use crate::options::Memories;
use crate::peer::Speed;
use crate::report;

/// English prose that all engines read; repeated if more tokens are asked for.
const TEXT: &str = include_str!("text.txt");
/// Least memory for a measurement of memory, in bytes: less would be one of caches.
const LEAST_PROBE_BYTES: u64 = 48 << 20;
/// Kept free of a budget beside that measurement, in bytes.
const PROBE_MARGIN_BYTES: u64 = 16 << 20;

pub fn measure(args: &Args, case: Case) -> Result<Figures> {
    let Room { contexts, bytes_per_token } = Room::of(args, case)?;
    let usage = if case.start == Start::Recalled { earlier_run(args, case, contexts)? } else { None };
    if case.start.has_cold_files() {
        forget(&Checkpoint::open(&args.model.model)?);
    }
    let begun = Instant::now();
    let model = load(args, case, contexts, usage)?;
    let load_s = begun.elapsed().as_secs_f64();
    let once = model.tokenizer()?.encode(&text(args)?, Specials::AsText)?;
    let tokens = Tokens::of(&once, case.context, args)?;
    let mut session = model.session();
    session.append(&tokens.prompt[..1])?;
    let loading =
        Loading { load_s, first_token_s: begun.elapsed().as_secs_f64(), bytes: loaded_bytes(&model) };
    session.truncate(0);
    match case.start {
        Start::Warm => warm_up(&model, &tokens)?,
        Start::Recalled => until_idle(&model),
        Start::Fresh | Start::Cold => {}
    }
    if !tokens.context.is_empty() {
        session.append(&tokens.context)?;
    }
    let ran = Ran::task(args, &model, session, &tokens)?;
    let plan = model.plan();
    let (paged, team, budget, automatic) = (plan.paged(), model.team(), plan.budget, plan.automatic.clone());
    let bytes_per_token = bytes_per_token / u64::from(args.sessions);
    let weights = model.checkpoint().files()[0].path.clone();
    let activations = model.precision().name().to_owned();
    // The measurement of memory takes some itself: under a limit there is no room for it beside the model.
    drop(model);
    let decoded = ran.decoded.max(1) as u64;
    let (reads, before) = (ran.reads, ran.prefill_reads);
    Ok(Figures {
        memory: case.memory.to_string(),
        start: case.start,
        context_tokens: case.context,
        prompt_tokens: tokens.prompt.len(),
        decode_tokens: ran.decoded,
        threads: team.threads(),
        instruction_set: team.isa().to_string(),
        activations,
        budget: budget.map(|budget| budget.0),
        budget_reason: automatic.map(|free| free.to_string()),
        speed: Speed {
            prefill: tokens.prompt.len() as f64 / ran.prefill_s,
            decode: ran.decoded as f64 / ran.decode_s,
        },
        bytes_per_token,
        hit_rate: (reads.requests > 0).then(|| reads.hits as f64 / reads.requests as f64),
        foreseen: [reads.foreseen, reads.foreseen_used],
        read_per_token: reads.bytes_read / decoded,
        prefill_read: before.bytes_read,
        read_gb_s: reads.read_gb_s().filter(|_| reads.bytes_read > 0),
        recode_ms_per_token: reads.recode_time_ns as f64 / 1e6 / decoded as f64,
        rewritten: reads.rewritten_uses as f64 / reads.requests.max(1) as f64,
        peak_memory: ran.peak_memory,
        planned_memory: ran.planned_memory,
        loading,
        prefill_stages: stage_rows(&ran.prefill_stages, ran.prefill_s, tokens.prompt.len()),
        decode_stages: stage_rows(&ran.decode_stages, ran.decode_s, ran.decoded),
        speculation: ran.speculation,
        disk_gb_s: if paged || case.start.has_cold_files() { disk(&weights)? } else { None },
        memory_gb_s: memory_gb_s(&team, budget.map(|budget| budget.0)),
    })
}

/// Takes the model's files out of the page cache.
pub fn forget(checkpoint: &Checkpoint) {
    checkpoint.files().iter().for_each(|file| membrane_pager::drop_from_page_cache(&file.file));
}

/// The text of the task. Errors: a file that can't be read.
pub fn text(args: &Args) -> Result<String> {
    match &args.text {
        None => Ok(TEXT.to_owned()),
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display())),
    }
}

/// The tokens of a task: what is read first, what is measured as prompt, what is decoded behind it, and another prompt.
pub struct Tokens {
    pub context: Vec<u32>,
    pub prompt: Vec<u32>,
    pub forced: Vec<u32>,
    pub other: Vec<u32>,
}

impl Tokens {
    /// `once`: the tokens of the text, which begins anew where it is too short.
    pub fn of(once: &[u32], context: usize, args: &Args) -> Result<Self> {
        ensure!(!once.is_empty(), "--text: there is nothing in the file");
        let mut all = once.iter().copied().cycle();
        let mut take = |count: usize| -> Vec<u32> { all.by_ref().take(count).collect() };
        let (context, prompt, forced) = (take(context), take(args.prompt), take(args.decode));
        Ok(Self { context, prompt, forced, other: take(args.prompt) })
    }
}

/// Plans the case without measuring it. Errors: the model can't be read, or the memory does not hold it.
pub fn check(args: &Args, case: Case) -> Result<()> {
    Room::of(args, case).map(drop)
}

/// What a case needs beside the model.
#[derive(Clone, Copy)]
struct Room {
    /// Full contexts.
    contexts: u32,
    /// Weights that each token's computation reads, in bytes: all resident ones but those of a head that drafts, and the experts that
    /// it uses.
    bytes_per_token: u64,
}

impl Room {
    /// Plans the case. Errors: the model can't be read, or the memory does not hold it.
    fn of(args: &Args, case: Case) -> Result<Self> {
        // Sessions beyond the contexts have no head.
        let one = prepare(args, case, 1, None)?;
        let (speculate, sessions) = (Speculate::from(args.model.load.machine.speculate), sessions(args));
        let head = one.hyperparameters().mtp_blocks > 0 && sessions == 2;
        let in_memory = || prepare(args, case, sessions, None).is_ok_and(|own| !own.plan().paged());
        let contexts = match speculate {
            // By itself a head drafts only where all is in memory.
            Speculate::Auto if head && in_memory() => sessions,
            Speculate::Always if head => sessions,
            // A recurrent state is a session's own; there are two for each context.
            _ if one.hyperparameters().is_recurrent() => sessions.div_ceil(2),
            _ => 1,
        };
        let plan = one.plan();
        let experts = plan.experts_per_token * plan.experts_total.0.checked_div(plan.experts).unwrap_or(0);
        Ok(Self { contexts, bytes_per_token: plan.weights.0 + experts })
    }
}

fn load(args: &Args, case: Case, contexts: u32, usage: Option<Usage>) -> Result<Model> {
    report::load(prepare(args, case, contexts, usage)?, true)
}

fn prepare(args: &Args, case: Case, contexts: u32, usage: Option<Usage>) -> Result<Prepared> {
    let mut flags = args.model.load.clone();
    flags.machine.memory = Memories(vec![case.memory]);
    let mut options = flags.load_options(0)?;
    let wanted = u32::try_from(case.context + args.prompt + args.decode)?;
    let sessions = sessions(args);
    // Sessions behind one prompt share it; contexts of their own are as long as all of it.
    let shared = if contexts < sessions { (sessions - 1) * own_context(args) } else { 0 };
    options.context = options.context.or(Some(wanted.saturating_add(shared)));
    (options.contexts, options.sessions) = (contexts, sessions);
    options.recall = usage;
    Ok(Prepared::of(Arc::new(Checkpoint::open(&args.model.model)?), &options)?)
}

/// Sessions that there are at a time: one more decodes with drafts beside that without.
fn sessions(args: &Args) -> u32 {
    args.sessions + u32::from(!matches!(Speculate::from(args.model.load.machine.speculate), Speculate::Off))
}

/// Positions that a further session behind the same prompt may need of its own: its tokens, and what is left of the
/// blocks that they begin and end in.
fn own_context(args: &Args) -> u32 {
    u32::try_from(args.decode).unwrap_or(u32::MAX >> 8).saturating_add(128)
}

/// Another prompt, and the tokens behind it, so that memory holds experts as in the middle of work.
fn warm_up(model: &Model, tokens: &Tokens) -> Result<()> {
    let mut session = model.session();
    session.append(&tokens.other)?;
    for &token in tokens.forced.iter().rev() {
        session.append(&[token])?;
    }
    Ok(())
}

/// What another run uses, which goes through another prompt and the tokens behind it.
fn earlier_run(args: &Args, case: Case, contexts: u32) -> Result<Option<Usage>> {
    let model = load(args, case, contexts, None)?;
    let once = model.tokenizer()?.encode(&text(args)?, Specials::AsText)?;
    warm_up(&model, &Tokens::of(&once, case.context, args)?)?;
    Ok(model.usage())
}

/// Waits until no more is read.
fn until_idle(model: &Model) {
    while !model.is_disk_idle() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the task took.
struct Ran {
    prefill_s: f64,
    decode_s: f64,
    decoded: usize,
    prefill_reads: Counters,
    reads: Counters,
    prefill_stages: membrane_engine::StageTimes,
    decode_stages: membrane_engine::StageTimes,
    peak_memory: u64,
    planned_memory: u64,
    speculation: Option<Speculated>,
}

impl Ran {
    /// Prompt and decoding behind what the session holds.
    fn task(args: &Args, model: &Model, mut session: Session, tokens: &Tokens) -> Result<Self> {
        let before = model.counters();
        model.time_stages(true);
        let start = Instant::now();
        session.append(&tokens.prompt)?;
        let prefill_s = start.elapsed().as_secs_f64();
        let mut drafting = (model.plan().drafts > 0).then(|| session.fork());
        let middle = model.counters();
        let mut sessions: Vec<Session> = (1..args.sessions).map(|_| session.fork()).collect();
        sessions.push(session);
        let prefill_stages = model.time_stages(true);
        let start = Instant::now();
        decode(&mut sessions, &tokens.forced)?;
        let decode_s = start.elapsed().as_secs_f64().max(1e-9);
        let decode_stages = model.time_stages(false);
        let after = model.counters();
        // Both are of this run and not of the comparison behind it.
        let (peak_memory, planned_memory) = (process::peak_resident_bytes(), model.planned_in_use());
        sessions.clear();
        let speculation = drafting.as_mut().map(|session| speculate(session, args.decode)).transpose()?;
        Ok(Self {
            prefill_s,
            decode_s,
            decoded: tokens.forced.len() * args.sessions as usize,
            prefill_reads: middle - before,
            reads: after - middle,
            prefill_stages,
            decode_stages,
            peak_memory,
            planned_memory,
            speculation,
        })
    }
}

/// Gives the sessions the tokens one by one, all sessions at a time; each is a few words ahead of the one before.
fn decode(sessions: &mut [Session], forced: &[u32]) -> Result<()> {
    for step in 0..forced.len() {
        let tokens = (0..sessions.len()).map(|i| [forced[(step + 7 * i) % forced.len()]]);
        let tokens: Vec<[u32; 1]> = tokens.collect();
        let mut batch: Vec<_> = sessions.iter_mut().zip(&tokens).map(|(s, t)| (s, t.as_slice())).collect();
        Session::append_all(&mut batch)?;
    }
    Ok(())
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

/// Bytes that are read to load the model: resident weights, and all experts where all fit.
fn loaded_bytes(model: &Model) -> u64 {
    let plan = model.plan();
    plan.weights.0 + if plan.paged() { 0 } else { plan.experts_total.0 }
}

/// What the disk gives that the file is on, in GB/s; none if the file is too small to tell.
fn disk(weights: &Path) -> Result<Option<f64>> {
    match membrane_pager::probe_disk(weights) {
        Ok(probe) => Ok(Some(probe.ceiling_gb_s())),
        Err(PagerError::ProbeTooSmall { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What memory gives the team, if the budget leaves room to measure it.
fn memory_gb_s(team: &Team, budget: Option<u64>) -> Option<f64> {
    let most = MEMORY_PROBE_BYTES as u64;
    let left = budget.map_or(most, |budget| {
        budget.saturating_sub(process::resident_bytes() + PROBE_MARGIN_BYTES).min(most)
    });
    let room = left >= LEAST_PROBE_BYTES;
    room.then(|| team.region(|region| memory_read_bandwidth(region, left as usize)))
}
