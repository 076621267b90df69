//! `membrane plugin bench`: what a plugin costs.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use membrane_host::golden::GoldenCases;
use membrane_host::{
    AnswerContext, CodeCache, DEFAULT_CAPACITY_BYTES, Host, HostError, HostOptions, Isolation, Judge,
    JudgeError, Judged, Plugin, PluginSource, PolicyChain, Question, SamplerChain, SharedJudge, ToolSet,
    Vocabulary, World, first_party,
};
use membrane_profile::PluginArgument;
use serde::Serialize;
use serde_json::{Map, Value};

use super::build;
use super::package::{Package, size};
use crate::isolation;
use crate::report;

/// Tokens of the vocabulary that samplers are measured at: that of the Qwen models.
const VOCABULARY: u32 = 151_936;
/// Calls before those that are measured.
const WARM_UP: usize = 20;
/// Starts that are measured.
const STARTS: usize = 20;
/// Loads of compiled code that are measured.
const LOADS: usize = 5;
/// What a policy is handed at each call: about a token.
const PIECE: &str = " word";

#[derive(clap::Args)]
pub struct Args {
    /// The folder of the plugin; it is built first where its component is not of its sources
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Measure this component in place of the one that is built from the folder
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,
    /// Parameters, as in `,temperature=0.5,top_k=10` [default: those of the first golden case that starts]
    #[arg(long, value_name = "KEY=VALUE,...")]
    parameters: Option<String>,
    /// Tokens of the vocabulary
    #[arg(long, value_name = "N", default_value_t = VOCABULARY, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    vocabulary: u32,
    /// Calls to measure
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    /// Where it runs: in this process (none), in one of its own (process), or in one that the kernel holds in (required)
    #[arg(long, value_name = "WHERE", default_value_t = Isolation::None)]
    isolation: Isolation,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    plugin: String,
    world: String,
    component_bytes: usize,
    isolation: Isolation,
    /// The first load, which compiles and keeps what it compiled; with the start of its process, if it has one.
    compile_ms: f64,
    /// The quickest load of what was kept.
    cached_ms: f64,
    /// The quickest start of an instance, `configure` included.
    start_us: f64,
    /// None for tools: what a call costs is the tool's work. None for agents without golden cases.
    calls: Option<Calls>,
}

/// What calls of one instance take.
#[derive(Serialize)]
struct Calls {
    what: String,
    calls: u32,
    median_us: f64,
    p99_us: f64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let package = Package::open(&args.path)?;
    let bytes = build::up_to_date(&package, args.component.as_deref())?;
    let report = measure(args, &package, bytes)?;
    if args.json {
        report::json(&report, &mut io::stdout().lock())?;
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args, package: &Package, bytes: Vec<u8>) -> Result<Report> {
    // A cache of its own, so that it is known what is in it.
    let kept = tempfile::tempdir().context("a folder for compiled code")?;
    let cache = CodeCache::open(&kept.path().join("code"), &kept.path().join("key"), DEFAULT_CAPACITY_BYTES)?;
    let (cache, processes) = (Some(Arc::new(cache)), Some(isolation::options()));
    let host = Host::new(HostOptions { cache, processes, ..HostOptions::default() })?;
    let component_bytes = bytes.len();
    let parameters = parameters(args, package)?;
    let load = || -> Result<(Plugin, f64)> {
        let (bytes, parameters) = (bytes.clone(), parameters.clone());
        let begun = Instant::now();
        let plugin = package.load(&host, bytes, parameters, args.isolation)?;
        Ok((plugin, begun.elapsed().as_secs_f64() * 1e3))
    };
    let (plugin, compile_ms) = load()?;
    let mut cached_ms = f64::INFINITY;
    for _ in 0..LOADS {
        cached_ms = cached_ms.min(load()?.1);
    }
    let start_us = start(&host, &plugin, args)?;
    let calls = match plugin.world() {
        World::Sampler => Some(tokens(&host, plugin.clone(), args)?),
        World::Policy => Some(pieces(&host, &plugin, args)?),
        World::Agent => tasks(&host, &plugin, package, args)?,
        World::Tool => None,
    };
    Ok(Report {
        plugin: plugin.name().to_owned(),
        world: plugin.world().to_string(),
        component_bytes,
        isolation: plugin.isolation(),
        compile_ms,
        cached_ms,
        start_us,
        calls,
    })
}

/// The parameters to measure with.
fn parameters(args: &Args, package: &Package) -> Result<Map<String, Value>> {
    if let Some(text) = &args.parameters {
        let argument: PluginArgument = format!("plugin,{}", text.trim_start_matches(',')).parse()?;
        return Ok(argument.parameters);
    }
    let golden = package.golden();
    if !golden.is_dir() {
        return Ok(Map::new());
    }
    let cases = GoldenCases::read(&golden, package.manifest.world)?;
    Ok(cases.first_parameters().cloned().unwrap_or_default())
}

fn start(host: &Host, plugin: &Plugin, args: &Args) -> Result<f64> {
    let plugins = std::slice::from_ref(plugin);
    let context = context(args.vocabulary);
    let mut best = f64::INFINITY;
    for _ in 0..STARTS {
        let begun = Instant::now();
        match plugin.world() {
            World::Sampler => SamplerChain::start(host, plugins, context.clone()).map(drop)?,
            World::Policy => PolicyChain::start(host, plugins).map(drop)?,
            World::Tool => ToolSet::start(host, plugins).map(drop)?,
            World::Agent => plugin.try_start()?,
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(best)
}

/// A sampler's tokens. One that leaves the choice to others has `greedy` behind it.
fn tokens(host: &Host, plugin: Plugin, args: &Args) -> Result<Calls> {
    let what = format!("a token of {}", args.vocabulary);
    match chain(host, std::slice::from_ref(&plugin), args) {
        Ok((median_us, p99_us)) => Ok(Calls { what, calls: args.calls, median_us, p99_us }),
        Err(error) if matches!(error.downcast_ref(), Some(HostError::NoChoice { .. })) => {
            let greedy = first_party::find("greedy")?;
            let source = PluginSource::new(greedy.name, greedy.bytes, greedy.world);
            let greedy = host.load(source, World::Sampler)?;
            let (median_us, p99_us) = chain(host, &[plugin, greedy], args)?;
            Ok(Calls {
                what: format!("{what}, with `greedy` behind it"),
                calls: args.calls,
                median_us,
                p99_us,
            })
        }
        Err(error) => Err(error),
    }
}

fn chain(host: &Host, plugins: &[Plugin], args: &Args) -> Result<(f64, f64)> {
    let mut chain = SamplerChain::start(host, plugins, context(args.vocabulary))?;
    let steps: Vec<Vec<f32>> = (0..8).map(|seed| logits(args.vocabulary, seed)).collect();
    let mut history: Vec<u32> = (0..200.min(args.vocabulary)).collect();
    let prompt = history.len();
    let mut logits = Vec::new();
    let mut times = Vec::with_capacity(args.calls as usize);
    for step in 0..WARM_UP + args.calls as usize {
        logits.clear();
        logits.extend_from_slice(&steps[step % steps.len()]);
        let begun = Instant::now();
        let chosen = chain.next(&mut logits, &history, prompt)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        history.push(chosen.token);
    }
    quantiles(times.split_off(WARM_UP)).context("no call was measured")
}

/// A judge that takes no time and prefers nothing: what the model takes is not the plugin's.
struct Indifferent;

impl Judge for Indifferent {
    fn score(
        &mut self,
        _policy: &str,
        _question: &Question,
        continuations: &[String],
        _left: u64,
    ) -> Result<Judged, JudgeError> {
        Ok(Judged { scores: vec![-1.0; continuations.len()], tokens: 0 })
    }
}

/// What a policy takes for each piece of an answer, the model's judgements not counted.
fn pieces(host: &Host, plugin: &Plugin, args: &Args) -> Result<Calls> {
    let start = || {
        let judge = SharedJudge::new(Indifferent);
        PolicyChain::start_with(host, std::slice::from_ref(plugin), Some(judge))
    };
    let mut chain = start()?;
    let mut times = Vec::with_capacity(args.calls as usize);
    for _ in 0..WARM_UP + args.calls as usize {
        let begun = Instant::now();
        let outcome = chain.output(PIECE, false);
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        if outcome.ended.is_some() {
            chain = start()?;
        }
    }
    let (median_us, p99_us) = quantiles(times.split_off(WARM_UP)).context("no call was measured")?;
    let what = format!("a piece of the answer, {} bytes", PIECE.len());
    Ok(Calls { what, calls: args.calls, median_us, p99_us })
}

/// What an agent takes for the task of its first golden case.
fn tasks(host: &Host, plugin: &Plugin, package: &Package, args: &Args) -> Result<Option<Calls>> {
    if !package.golden().is_dir() {
        return Ok(None);
    }
    let cases = GoldenCases::read(&package.golden(), World::Agent)?;
    if cases.first_parameters().is_none() {
        return Ok(None);
    }
    let mut times = Vec::with_capacity(args.calls as usize);
    for _ in 0..WARM_UP + args.calls as usize {
        let begun = Instant::now();
        let outcome = cases.run_first(host, plugin)?;
        if let Some(Err(mismatch)) = outcome.map(|outcome| outcome.result) {
            bail!("the first golden case fails, so its time says nothing: {mismatch}");
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let (median_us, p99_us) = quantiles(times.split_off(WARM_UP)).context("no task was measured")?;
    let what = "the task of the first golden case, an instance for each, without the model's time".to_owned();
    Ok(Some(Calls { what, calls: args.calls, median_us, p99_us }))
}

/// Median and 99th percentile.
fn quantiles(mut times: Vec<f64>) -> Option<(f64, f64)> {
    times.sort_by(f64::total_cmp);
    Some((*times.get(times.len() / 2)?, *times.get(times.len() * 99 / 100)?))
}

fn print(report: &Report) {
    let article = if report.world.starts_with('a') { "an" } else { "a" };
    println!("{}, {article} {}", report.plugin, report.world);
    println!("  component  {}", size(report.component_bytes));
    if report.isolation != Isolation::None {
        println!("  isolation  {}, whose costs are in what follows", report.isolation);
    }
    println!("  compile    {:.1} ms, from the cache {:.1} ms", report.compile_ms, report.cached_ms);
    println!("  start      {:.1} us", report.start_us);
    if let Some(calls) = &report.calls {
        let Calls { what, calls, median_us, p99_us } = calls;
        println!("  call       {median_us:.1} us, 99 % {p99_us:.1} us ({calls} calls: {what})");
    }
}

fn context(tokens: u32) -> AnswerContext {
    AnswerContext { vocabulary: Arc::new(Numbers((0..tokens).map(|t| t.to_string()).collect())), seed: 1 }
}

/// A vocabulary of numbers. Any text is its characters, as tokens.
struct Numbers(Vec<String>);

impl Vocabulary for Numbers {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(String::as_bytes)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.chars().map(|c| u32::from(c) % self.size()).collect())
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }

    fn end_token(&self) -> Option<u32> {
        None
    }
}

/// Logits with the spread of a language model's: a bell, and a few far above it.
fn logits(tokens: u32, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    let mut logits: Vec<f32> =
        (0..tokens).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 4.0 - 12.0).collect();
    for place in 0..30 {
        let token = (uniform() * tokens as f32) as usize % tokens as usize;
        logits[token] = 18.0 - place as f32 * 0.3;
    }
    logits
}
