//! `membrane eval perplexity`: how well a model predicts a text.
//!
//! As in llama.cpp's tool, so that figures can be compared: the text's tokens are cut in windows of the context's
//! length, what is left over is not used; each window is read by itself, with the token of the beginning in the place of its
//! first where the vocabulary asks for one; and the tokens of its second half are scored, each by what stands before it in the
//! window.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use membrane_engine::{Observer, Prepared, Speculate};
use membrane_formats::Checkpoint;
use membrane_text::Tokenizer;
use serde::Serialize;

use crate::options::{ModelOptions, at_least_one};
use crate::report;

/// Tokens of a window unless `--ctx` says otherwise: what published figures use.
const WINDOW: u32 = 512;
/// Fewest tokens of a window: one is read, one scored, and each half has two.
const LEAST_WINDOW: u32 = 4;
/// Bytes of a text: its tokens are all in memory, so a larger file would be memory that no plan knows of.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// Time between lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// A text in UTF-8 that is at least two windows long; `--ctx` is the window's length [default: 512]
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Most windows, from the beginning of the text [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    windows: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    /// e to the mean surprise of a scored token.
    perplexity: f64,
    /// Standard error of that.
    error: f64,
    /// Tokens that were scored.
    scored: u64,
    windows: usize,
    /// Tokens of a window.
    window: usize,
    /// Tokens of the text.
    tokens: usize,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let window = args.model.load.machine.ctx.unwrap_or(WINDOW);
    ensure!(window >= LEAST_WINDOW, "--ctx {window}: a window has at least {LEAST_WINDOW} tokens");
    let checkpoint = Arc::new(Checkpoint::open(&args.model.model)?);
    let tokenizer = membrane_engine::tokenizer(&checkpoint)?;
    let tokens = tokens_of(&args.file, &tokenizer)?;
    let mut options = args.model.load.load_options(4 * tokens.len() as u64)?;
    options.context = Some(window);
    options.speculate = Speculate::Off;
    let window = window as usize;
    ensure!(
        tokens.len() >= 2 * window,
        "{}: {} tokens, and two windows of {window} are needed at least; give a longer text or a smaller --ctx",
        args.file.display(),
        tokens.len()
    );
    let begin = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let model = report::load(Prepared::without_text(checkpoint, &options)?, args.json)?;
    let mut session = model.session();
    let mut score = Score::default();
    let windows = (tokens.len() / window).min(args.windows.unwrap_or(usize::MAX));
    let mut told = Instant::now();
    for (number, own) in tokens.chunks_exact(window).take(windows).enumerate() {
        let mut own = own.to_vec();
        if let Some(begin) = begin {
            own[0] = begin;
        }
        session.truncate(0);
        session.append(&own[..window / 2])?;
        // Nothing stands behind the last token that it could predict.
        session
            .append_observed(&own[window / 2..window - 1], &mut Scorer { window: &own, score: &mut score })?;
        ensure!(score.surprise.is_finite(), "window {}: the model's logits are not numbers", number + 1);
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            eprintln!("window {} of {windows}: perplexity {:.4}", number + 1, score.perplexity());
        }
    }
    let report = Report {
        perplexity: score.perplexity(),
        error: score.error(),
        scored: score.count,
        windows,
        window,
        tokens: tokens.len(),
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report::json_line(&report)?)?;
    } else {
        writeln!(
            out,
            "perplexity {:.4} +/- {:.4}, of {} tokens in {} windows of {}",
            report.perplexity, report.error, report.scored, report.windows, report.window
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokens of a text; control tokens that it spells are plain text.
fn tokens_of(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let told = || format!("--file {}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes));
    let length = read.with_context(told)?;
    ensure!(length as u64 <= MAX_TEXT_BYTES, "{}: more than {} MiB", told(), MAX_TEXT_BYTES >> 20);
    let text = String::from_utf8(bytes).with_context(|| format!("{}: it is not UTF-8", told()))?;
    // llama.cpp takes one end of line off the end of a file.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(tokenizer.begin(text)?)
}

/// Sums over the scored tokens.
#[derive(Default)]
struct Score {
    count: u64,
    /// Of the negative logarithms of probabilities.
    surprise: f64,
    /// Of their squares.
    squares: f64,
}

impl Score {
    fn add(&mut self, surprise: f64) {
        self.count += 1;
        self.surprise += surprise;
        self.squares += surprise * surprise;
    }

    fn perplexity(&self) -> f64 {
        (self.surprise / self.count as f64).exp()
    }

    /// The standard error of the mean surprise, carried over to the perplexity; 0 of a single token.
    fn error(&self) -> f64 {
        let mean = self.surprise / self.count as f64;
        let variance = (self.squares / self.count as f64 - mean * mean).max(0.0);
        let others = self.count.saturating_sub(1).max(1) as f64;
        (variance / others).sqrt() * self.perplexity()
    }
}

/// Scores the tokens of a window by the logits before them.
struct Scorer<'a> {
    window: &'a [u32],
    score: &'a mut Score,
}

impl Observer for Scorer<'_> {
    fn logits(&mut self, position: usize, logits: &[f32]) {
        // The first half may go through the model again.
        if position >= self.window.len() / 2 {
            self.score.add(surprise(logits, self.window[position + 1] as usize));
        }
    }

    fn wants_logits(&self) -> bool {
        true
    }
}

/// The negative logarithm of the probability of token `next`.
fn surprise(logits: &[f32], next: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[next] - largest)
}

#[cfg(test)]
mod tests {
    use super::{Score, surprise};

    #[test]
    fn surprise_of_known_probabilities() {
        let logits: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln() + 90.0).collect();
        for (next, bits) in [(0, 1.0), (1, 2.0), (3, 3.0)] {
            assert!((surprise(&logits, next) - bits * std::f64::consts::LN_2).abs() < 1e-5, "{next}");
        }
        assert!(surprise(&[f32::NAN, 0.0], 1).is_nan());
    }

    #[test]
    fn perplexity_and_its_error() {
        let mut score = Score::default();
        [1.0, 3.0].into_iter().for_each(|surprise| score.add(surprise));
        assert!((score.perplexity() - 2.0_f64.exp()).abs() < 1e-12);
        // Variance 1 of 2 tokens: a standard error of 1 over the root of 1.
        assert!((score.error() - 2.0_f64.exp()).abs() < 1e-12);
    }
}
