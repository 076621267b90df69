//! `membrane trace generate`: a trace of drawn routing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use membrane_pager::{Asked, Phase, Trace, TraceHeader};
use membrane_profile::ByteSize;

/// Most choices that are drawn, for all tokens, layers and experts: some minutes of work.
const MAX_DRAWS: u64 = 1 << 34;
/// Largest expert that a pager takes, in bytes.
const MAX_EXPERT_BYTES: u64 = 1 << 40;

#[derive(clap::Args)]
pub struct Args {
    /// The trace; must not be there yet
    #[arg(value_name = "FILE")]
    out: PathBuf,
    /// Layers with experts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    layers: u32,
    /// Experts of a layer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    experts: u32,
    /// Experts that a token uses in a layer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    top_k: u32,
    /// Size of an expert
    #[arg(long, value_name = "SIZE")]
    expert_bytes: ByteSize,
    /// How far experts differ in popularity: 0 is uniform; the spread of the logits' constant part, where that of the part that
    /// changes from token to token is 1
    #[arg(long, default_value_t = 1.0, value_name = "NUMBER")]
    skew: f64,
    /// How much of the changing part stays from one token to the next, 0 to 1
    #[arg(long, default_value_t = 0.3, value_name = "NUMBER")]
    correlation: f64,
    /// Tokens of the prompt, which go through the layers together
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    prompt: u32,
    /// Tokens behind it, one by one
    #[arg(long, default_value_t = 256, value_name = "TOKENS")]
    decode: u32,
    /// Another number gives another trace
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.top_k <= args.experts, "--top-k: more than --experts");
    ensure!((0.0..=1.0).contains(&args.correlation), "--correlation: must be from 0 to 1");
    ensure!(args.skew.is_finite() && args.skew >= 0.0, "--skew: must be 0 or more");
    let tokens = u64::from(args.prompt) + u64::from(args.decode);
    let draws = u64::from(args.layers) * u64::from(args.experts) * tokens;
    ensure!(draws <= MAX_DRAWS, "--prompt, --decode: too many choices to draw; ask for fewer tokens");
    let possible = 1..=MAX_EXPERT_BYTES;
    ensure!(possible.contains(&args.expert_bytes.bytes()), "--expert-bytes: must be from 1 byte to 1 TiB");
    let named = || args.out.display().to_string();
    ensure!(!args.out.exists(), "{}: is there already", named());
    let trace = drawn(args)?;
    let file = File::create_new(&args.out).with_context(named)?;
    let mut out = BufWriter::new(file);
    trace.write(&mut out).and_then(|()| out.flush()).with_context(named)?;
    Ok(ExitCode::SUCCESS)
}

fn drawn(args: &Args) -> Result<Trace> {
    let bytes = args.expert_bytes.bytes();
    let header = TraceHeader {
        model: format!("drawn: skew {}, correlation {}", args.skew, args.correlation),
        slots: 0,
        slot_bytes: bytes,
        groups: vec![(args.experts as usize, bytes); args.layers as usize],
    };
    let mut trace = Trace::new(header).map_err(|rule| anyhow!("--layers, --experts: {rule}"))?;
    let mut random = Random { state: args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 };
    let mut routers: Vec<Router> = (0..args.layers).map(|_| Router::new(args, &mut random)).collect();
    let mut push = |flag: &str, phase, group, rows, experts: &[(u32, u32)]| {
        let pushed = trace.push(Asked { phase, group, rows, experts });
        pushed.map_err(|rule| anyhow!("{flag}: {rule}"))
    };
    for (group, router) in routers.iter_mut().enumerate().filter(|_| args.prompt > 0) {
        let mut uses = vec![0; args.experts as usize];
        for _ in 0..args.prompt {
            router.choose(args, &mut random).iter().for_each(|&expert| uses[expert as usize] += 1);
        }
        let experts = (0..).zip(uses).filter(|&(_, uses)| uses > 0);
        push("--prompt", Phase::Prompt, group as u32, args.prompt, &experts.collect::<Vec<_>>())?;
    }
    for _ in 0..args.decode {
        for (group, router) in (0..).zip(&mut routers) {
            let mut experts: Vec<(u32, u32)> =
                router.choose(args, &mut random).iter().map(|&expert| (expert, 1)).collect();
            experts.sort_unstable();
            push("--decode", Phase::Decode, group, 1, &experts)?;
        }
    }
    Ok(trace)
}

/// A layer's choice: the experts with the highest logits, each a constant and a changing part.
struct Router {
    constant: Vec<f64>,
    changing: Vec<f64>,
    order: Vec<u32>,
}

impl Router {
    fn new(args: &Args, random: &mut Random) -> Self {
        let constant = (0..args.experts).map(|_| args.skew * random.normal()).collect();
        let changing = (0..args.experts).map(|_| random.normal()).collect();
        Self { constant, changing, order: (0..args.experts).collect() }
    }

    fn choose(&mut self, args: &Args, random: &mut Random) -> &[u32] {
        let new = (1.0 - args.correlation * args.correlation).sqrt();
        for changing in &mut self.changing {
            *changing = args.correlation * *changing + new * random.normal();
        }
        let (constant, changing) = (&self.constant, &self.changing);
        let logit = |expert: u32| constant[expert as usize] + changing[expert as usize];
        let top_k = args.top_k as usize;
        self.order.select_nth_unstable_by(top_k - 1, |&a, &b| logit(b).total_cmp(&logit(a)));
        &self.order[..top_k]
    }
}

/// Xorshift: the same numbers from the same seed, on every machine.
struct Random {
    state: u64,
}

impl Random {
    /// Above 0 and below 1.
    fn uniform(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Standard normal, by the method of Box and Muller.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}
