//! Turns a dense llama model into a mixture of experts by sparse upcycling: a model to page without a model
//! hub.
//!
//! Every expert is a copy of the layer's dense feed-forward, made to differ a little by seeded noise. The
//! weights of the chosen experts sum to 1, so that whatever is routed where, the answer stays near the dense
//! model's. The routers are made from clusters of the model's own hidden states, so that routing follows the
//! text and has locality.
//!
//! It embeds the runtime as a library: [`states`] shows a model loaded, run and observed.

#![forbid(unsafe_code)]

mod arguments;
mod dense;
mod noise;
mod openings;
mod output;
mod padding;
mod quantisation;
mod router;
mod states;

use anyhow::{Result, ensure};
use arguments::{Arguments, Perturbation};
use clap::Parser;
use dense::Dense;
use membrane_formats::Checkpoint;
use output::{Output, RECIPE_KEY};
use padding::Padding;
use rayon::prelude::*;
use router::{Router, Routing};
use states::States;
use std::io::IsTerminal;
use std::time::Instant;

/// Counts changes of the recipe: files of another number are made anew.
const RECIPE: u32 = 1;
/// Most experts that a layer may have.
const MOST_EXPERTS: usize = 1024;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let dense = Dense::open(&arguments.src)?;
    let block = arguments.expert_type.block_values().max(arguments.dense_type.block_values());
    let padding = Padding::new(dense.shape, block)?;
    let mut output = Output {
        dense: &dense,
        padding,
        experts: arguments.experts as usize,
        arguments: &arguments,
        recipe: String::new(),
    };
    if let Some(size) = arguments.size {
        output.experts = experts_for(&mut output, size.bytes());
    }
    check(&arguments, output.experts)?;
    output.recipe = recipe(&arguments, output.experts)?;
    if arguments.keep && is_finished(&arguments, &output.recipe) {
        println!("{}: kept, it was made by the same recipe", arguments.out.display());
        return Ok(());
    }
    eprintln!("reading hidden states of {} tokens", arguments.tokens);
    let states =
        States::collect(&arguments.src, arguments.text.as_deref(), arguments.tokens, arguments.seed)?;
    let routers = routers(&states, &output);
    drop(states);
    let layers = dense.shape.layers;
    let shown = std::io::stderr().is_terminal();
    eprintln!("writing {:.1} MB", output.bytes() as f64 / 1e6);
    output.write(&arguments.out, &routers, |done| {
        if shown {
            let end = if done == layers { "\n" } else { "" };
            eprint!("\rlayer {done} of {layers}{end}");
        }
    })?;
    report(&arguments, &output, &routers, began.elapsed().as_secs_f64());
    Ok(())
}

fn check(arguments: &Arguments, experts: usize) -> Result<()> {
    ensure!(
        (2..=MOST_EXPERTS).contains(&experts),
        "a mixture has 2 to {MOST_EXPERTS} experts, not {experts}"
    );
    let top_k = arguments.top_k as usize;
    ensure!((1..=experts).contains(&top_k), "--top-k {top_k} does not go with {experts} experts");
    ensure!(arguments.tokens >= experts, "--tokens {} is less than one a cluster", arguments.tokens);
    ensure!(
        arguments.router_std.is_finite() && arguments.router_std >= 0.0,
        "--router-std is a number from 0"
    );
    let flips = matches!(arguments.perturb, Perturbation::Bits(_));
    let kind = &arguments.expert_type;
    ensure!(
        !flips || kind.has_codes(),
        "{} has no low bits to flip: take --perturb gauss:S",
        kind.dtype.name()
    );
    Ok(())
}

/// The number of experts that comes nearest to a file size.
fn experts_for(output: &mut Output<'_>, size: u64) -> usize {
    output.experts = 1;
    let one = output.bytes();
    output.experts = 2;
    let each = output.bytes() - one;
    let rest = size.saturating_sub(one - each);
    ((rest + each / 2) / each) as usize
}

/// What decides the file's content, in one line.
fn recipe(arguments: &Arguments, experts: usize) -> Result<String> {
    let text = match &arguments.text {
        Some(path) => dense::digest(path)?,
        None => "its own".to_owned(),
    };
    Ok(format!(
        "recipe {RECIPE}, source sha256:{}, {experts} experts, top {}, {} and {}, {:?}, router std {}, {} tokens of text {text}, seed {}",
        dense::digest(&arguments.src)?,
        arguments.top_k,
        arguments.expert_type.dtype.name(),
        arguments.dense_type.dtype.name(),
        arguments.perturb,
        arguments.router_std,
        arguments.tokens,
        arguments.seed,
    ))
}

/// Whether the file to write is there, whole (the reader checks its length) and made by this recipe.
fn is_finished(arguments: &Arguments, recipe: &str) -> bool {
    let found = Checkpoint::open(&arguments.out);
    found.is_ok_and(|found| matches!(found.metadata().str(RECIPE_KEY), Ok(Some(made)) if made == recipe))
}

fn routers(states: &States, output: &Output<'_>) -> Vec<Router> {
    let shape = &output.padding.from;
    let arguments = output.arguments;
    let make = |layer| {
        let rows = states.layer(layer);
        let deviation = arguments.router_std;
        let top_k = arguments.top_k as usize;
        router::make(&rows, shape.width, output.experts, top_k, deviation, (arguments.seed, layer))
    };
    (0..shape.layers).into_par_iter().map(make).collect()
}

fn report(arguments: &Arguments, output: &Output<'_>, routers: &[Router], seconds: f64) {
    let mean = |pick: fn(&Routing) -> f64| {
        routers.iter().map(|router| pick(&router.routing)).sum::<f64>() / routers.len() as f64
    };
    println!(
        "{}: {:.1} MB, {} experts in {} layers, top {}, in {seconds:.1} s",
        arguments.out.display(),
        output.bytes() as f64 / 1e6,
        output.experts,
        output.padding.to.layers,
        arguments.top_k,
    );
    println!(
        "routing of the text that it was made from: busiest expert {:.2} times an even share, {:.0} % of experts used, \
         {:.0} % of a token's experts kept by the next ({:.0} % by chance)",
        mean(|routing| routing.busiest),
        100.0 * mean(|routing| routing.used),
        100.0 * mean(|routing| routing.kept),
        100.0 * f64::from(arguments.top_k) / output.experts as f64,
    );
}
