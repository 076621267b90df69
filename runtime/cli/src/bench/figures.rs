//! What one run of a measurement gives.

use membrane_engine::{Stage, StageTimes};
use serde::{Deserialize, Serialize};

use super::Start;
use crate::peer::Speed;

/// One run of this engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// As `--memory` has it.
    pub memory: String,
    pub start: Start,
    /// Tokens before the prompt.
    pub context_tokens: usize,
    pub prompt_tokens: usize,
    /// Tokens that were decoded, by all sessions together.
    pub decode_tokens: usize,
    pub threads: usize,
    /// Of the kernels.
    pub instruction_set: String,
    /// What activations were in products with quantised weights: `int8`.
    pub activations: String,
    /// The ceiling on the process, in bytes; none is unlimited.
    pub budget: Option<u64>,
    /// Where it comes from, if it was not given.
    pub budget_reason: Option<String>,
    pub speed: Speed,
    /// Bytes that computing one token reads from memory at least: with several sessions, if they use the same
    /// experts.
    pub bytes_per_token: u64,
    /// Of the decode: requests for experts that found them in memory, 0 to 1.
    pub hit_rate: Option<f64>,
    /// Of the decode: experts that were read before they were asked for, and how many of them then were.
    pub foreseen: [u64; 2],
    /// Of the decode: bytes read from disk for each token.
    pub read_per_token: u64,
    pub prefill_read: u64,
    /// Of the decode: bytes a second while the disk was busy, in GB/s; none if nothing was read.
    pub read_gb_s: Option<f64>,
    /// Of the decode: time of I/O threads for each token in which experts were recoded, milliseconds.
    pub recode_ms_per_token: f64,
    /// Share of the experts that tokens used, from 0 to 1, that had been rewritten in memory.
    pub rewritten: f64,
    pub peak_memory: u64,
    /// What the memory plan gives to what the run used.
    pub planned_memory: u64,
    pub loading: Loading,
    pub prefill_stages: Vec<StageRow>,
    pub decode_stages: Vec<StageRow>,
    /// What drafts are worth behind the prompt; none where they are off.
    pub speculation: Option<Speculated>,
    /// None where nothing is read from disk, or of files too small to measure it.
    pub disk_gb_s: Option<f64>,
    /// None where the budget leaves no room to measure it.
    pub memory_gb_s: Option<f64>,
}

/// From the start of the measurement to the first token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Loading {
    /// Until the model is loaded, in seconds.
    pub load_s: f64,
    /// Until there are logits behind one token, in seconds.
    pub first_token_s: f64,
    /// What is read for it: resident weights, and all experts where all fit.
    pub bytes: u64,
}

impl Loading {
    /// Seconds in which a disk of so many GB/s reads what is loaded, and one more.
    pub fn bar_s(&self, disk_gb_s: f64) -> f64 {
        self.bytes as f64 / (disk_gb_s * 1e9) + 1.0
    }
}

/// What one stage of a forward pass took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRow {
    pub stage: String,
    pub ms_per_token: f64,
    /// Of weights that matrix products went over.
    pub weight_bytes_per_token: f64,
}

impl StageRow {
    /// GB of weights a second; none where there are none.
    pub fn weight_gb_s(&self) -> Option<f64> {
        (self.weight_bytes_per_token > 0.0).then(|| self.weight_bytes_per_token / (self.ms_per_token * 1e6))
    }
}

/// The name of the time that is in no stage.
pub const BETWEEN_PASSES: &str = "between passes";

/// A row for each stage that took time, and one for what is in none of them. `seconds`: of all together.
pub fn stage_rows(times: &StageTimes, seconds: f64, tokens: usize) -> Vec<StageRow> {
    let each = tokens.max(1) as f64;
    let row = |stage: &str, ns: f64, bytes: u64| StageRow {
        stage: stage.to_owned(),
        ms_per_token: ns / 1e6 / each,
        weight_bytes_per_token: bytes as f64 / each,
    };
    let all = Stage::ALL.iter().map(|&stage| (stage.name(), times.of(stage)));
    let mut rows: Vec<StageRow> = all
        .filter(|(_, time)| time.ns > 0)
        .map(|(name, time)| row(name, time.ns as f64, time.weight_bytes))
        .collect();
    let in_stages: f64 = Stage::ALL.iter().map(|&stage| times.of(stage).ns as f64).sum();
    rows.push(row(BETWEEN_PASSES, (seconds * 1e9 - in_stages).max(0.0), 0));
    rows
}

/// The likeliest tokens behind the prompt, with drafts and without.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Speculated {
    pub tokens: usize,
    pub with_tok_s: f64,
    pub without_tok_s: f64,
    /// Speed with drafts over that without.
    pub gain: f64,
    pub drafted: usize,
    pub accepted: usize,
}

/// NaN of no values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}
