//! What plugins cost: microseconds a token of each first-party sampler, time to compile, to load from the code cache
//! and to start, memory of an instance, and of many samplers that are in the middle of an answer; of samplers also what
//! a process of their own costs.
//!
//!     cargo run --release -p membrane-host --example plugin_cost

use std::sync::Arc;
use std::time::Instant;

use membrane_host::first_party::{self, FirstParty};
use membrane_host::isolation::{ProcessOptions, Program};
use membrane_host::{
    AnswerContext, CodeCache, DEFAULT_CAPACITY_BYTES, Host, HostOptions, Isolation, Plugin, PluginSource,
    PolicyChain, SamplerChain, ToolSet, Vocabulary, World,
};

const TOKENS: usize = 400;

/// The argument with which this program serves a plugin.
const SERVE: &str = "serve-plugin";

/// Samplers that are alive at a time.
const LIVE: usize = 1000;

struct Numbered(Vec<String>);

impl Vocabulary for Numbered {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize).map(String::as_bytes)
    }

    fn encode(&self, _: &str) -> Result<Vec<u32>, String> {
        Ok(vec![1])
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }

    fn end_token(&self) -> Option<u32> {
        None
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        membrane_host::isolation::serve();
    }
    println!("start: {} MiB resident", resident_mib());
    let folder = std::env::temp_dir().join(format!("plugin-cost-{}", std::process::id()));
    let cache = CodeCache::open(&folder.join("code"), &folder.join("key/code.key"), DEFAULT_CAPACITY_BYTES)?;
    let cached = Host::new(HostOptions { cache: Some(Arc::new(cache)), ..HostOptions::default() })?;
    let own = Program { path: std::env::current_exe()?, arguments: vec![SERVE.to_owned()] };
    let processes = Some(ProcessOptions::new(own));
    let host = Host::new(HostOptions { processes, ..HostOptions::default() })?;
    println!("engine: {} MiB resident", resident_mib());
    for entry in first_party::list() {
        let source = source(entry);
        let (plugin, compile_ms) = best(5, || host.load(source.clone(), entry.world))?;
        cached.load(source.clone(), entry.world)?;
        let (_, load_ms) = best(50, || cached.load(source.clone(), entry.world))?;
        let start_us = start(&host, &plugin);
        println!(
            "{:18} {:4} KiB, compiled in {compile_ms:6.1} ms, cached in {load_ms:5.2} ms, started in {start_us}, \
             {} MiB resident",
            entry.name,
            entry.bytes.len() >> 10,
            resident_mib()
        );
        if entry.world == World::Sampler {
            for size in [151_936, 248_320] {
                println!("    {size} tokens: {}", tokens(&host, &plugin, size)?);
            }
            println!("    {LIVE} alive: {:.1} MiB", live(&host, &plugin)?);
            apart(&host, source)?;
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// What the same costs in a process of its own.
fn apart(host: &Host, source: PluginSource) -> Result<(), Box<dyn std::error::Error>> {
    let source = PluginSource { isolation: Isolation::Process, ..source };
    let (plugin, ready_ms) = best(5, || host.load(source.clone(), World::Sampler))?;
    let of_the_process = || plugin.process_id().map_or(0, |id| resident_kib_of(&id.to_string())) >> 10;
    let first = of_the_process();
    println!(
        "    in a process of its own: compiled in {ready_ms:.1} ms, started in {}",
        start(host, &plugin)
    );
    for size in [151_936, 248_320] {
        println!("        {size} tokens: {}", tokens(host, &plugin, size)?);
    }
    let context = context(151_936);
    let alive: Result<Vec<_>, _> = (0..LIVE)
        .map(|_| SamplerChain::start(host, std::slice::from_ref(&plugin), context.clone()))
        .collect();
    println!("        its process: {first} MiB, with {} instances {} MiB", alive?.len(), of_the_process());
    Ok(())
}

/// A first-party plugin with what it can't do without.
fn source(entry: &FirstParty) -> PluginSource {
    let mut source = PluginSource::new(entry.name, entry.bytes, entry.world);
    // What authority a granted name has is of no interest here: none.
    let grants = entry.manifest().map(|manifest| manifest.grants).unwrap_or_default();
    source.grants = membrane_host::Grant::parse_all(&grants).unwrap_or_default();
    if let "system-prompt" = entry.name {
        source.parameters = serde_json::json!({ "text": "Be kind." });
    }
    if let "guard" = entry.name {
        let rules =
            "[[clause]]\nid = \"a\"\nwhen = [\"output\"]\nmatch = [\"secret\"]\naction = \"redact\"\n";
        source.parameters = serde_json::json!({ "rules": rules });
    }
    if let "judged-guard" = entry.name {
        let rules = "[[clause]]\nid = \"a\"\nwhen = \"request\"\nquestion = \"Is it?\"\naction = \"refuse\"\nmessage = \"No.\"\n";
        source.parameters = serde_json::json!({ "rules": rules });
    }
    source
}

/// The result and the least time of some runs, in milliseconds: other work of the machine only adds to it.
fn best<T, E>(runs: usize, mut run: impl FnMut() -> Result<T, E>) -> Result<(T, f64), E> {
    let mut timed = || {
        let begun = Instant::now();
        run().map(|result| (result, begun.elapsed().as_secs_f64() * 1e3))
    };
    let mut best = timed()?;
    for _ in 1..runs {
        let next = timed()?;
        best = if next.1 < best.1 { next } else { best };
    }
    Ok(best)
}

/// Memory of answers that all have chosen a token and wait for the next, in MiB.
fn live(host: &Host, plugin: &Plugin) -> Result<f64, Box<dyn std::error::Error>> {
    let context = context(151_936);
    let (model, mut logits) = (logits(151_936, 1), Vec::new());
    let history: Vec<u32> = (0..200).collect();
    let before = resident_kib();
    let mut chains = Vec::with_capacity(LIVE);
    for _ in 0..LIVE {
        let mut chain = SamplerChain::start(host, std::slice::from_ref(plugin), context.clone())?;
        logits.clear();
        logits.extend_from_slice(&model);
        chain.next(&mut logits, &history, 200)?;
        chains.push(chain);
    }
    Ok(resident_kib().saturating_sub(before) as f64 / 1024.0)
}

fn start(host: &Host, plugin: &Plugin) -> String {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let begun = Instant::now();
        let started = match plugin.world() {
            World::Sampler => SamplerChain::start(host, std::slice::from_ref(plugin), context(16)).map(drop),
            World::Policy => PolicyChain::start(host, std::slice::from_ref(plugin)).map(drop),
            World::Tool => ToolSet::start(host, std::slice::from_ref(plugin)).map(drop),
            World::Agent => plugin.try_start().map_err(Into::into),
        };
        if let Err(error) = started {
            return error.to_string();
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e6);
    }
    format!("{best:.0} us")
}

fn context(size: usize) -> AnswerContext {
    AnswerContext {
        vocabulary: Arc::new(Numbered((0..size).map(|token| token.to_string()).collect())),
        seed: 1,
    }
}

fn tokens(host: &Host, plugin: &Plugin, size: usize) -> Result<String, Box<dyn std::error::Error>> {
    let mut chain = SamplerChain::start(host, std::slice::from_ref(plugin), context(size))?;
    let steps: Vec<Vec<f32>> = (0..8).map(|seed| logits(size, seed)).collect();
    let mut history: Vec<u32> = (0..200).collect();
    let mut logits = Vec::new();
    let mut times = Vec::with_capacity(TOKENS);
    for step in 0..TOKENS {
        logits.clear();
        logits.extend_from_slice(&steps[step % steps.len()]);
        let begun = Instant::now();
        let chosen = chain.next(&mut logits, &history, 200)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        history.push(chosen.token);
    }
    times.sort_by(f64::total_cmp);
    Ok(format!("median {:.1} us, 99 % {:.1} us", times[TOKENS / 2], times[TOKENS * 99 / 100]))
}

/// Logits with the spread of a language model's: a bell, and a few far above it.
fn logits(size: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    let mut logits: Vec<f32> =
        (0..size).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 4.0 - 12.0).collect();
    for place in 0..30 {
        let token = (uniform() * size as f32) as usize % size;
        logits[token] = 18.0 - place as f32 * 0.3;
    }
    logits
}

/// Resident memory of the process, where the system tells.
fn resident_kib() -> u64 {
    resident_kib_of("self")
}

/// The same of another process.
fn resident_kib_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn resident_mib() -> u64 {
    resident_kib() >> 10
}
