//! What a recorded token costs: runs of 64 tokens with their texts, as an answer writes them.
//!
//!     cargo run --release --package membrane-audit --example record_cost

use std::time::{Duration, Instant};

use membrane_audit::{Content, Keep, Log, LogOptions, Output, Record, Result, Tokens, TokensText};

const RUN: u64 = 64;
const RUNS: u64 = 500;

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("membrane-record-cost-{}", std::process::id()));
    let failed =
        |cause| membrane_audit::AuditError::File { path: folder.clone(), doing: "making a folder", cause };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    for keep in [Keep::Digests, Keep::Tokens, Keep::Text] {
        let path = folder.join(format!("{keep:?}.jsonl"));
        let mut log = Log::open(&path, LogOptions { program: "cost".into(), keep, key: None })?;
        // Other programs only add to a time: the least is the cost.
        let mut least = Duration::MAX;
        let mut total = Duration::ZERO;
        for run in 0..RUNS {
            let start = Instant::now();
            write(&mut log, run, keep)?;
            least = least.min(start.elapsed());
            total += start.elapsed();
        }
        let start = Instant::now();
        log.checkpoint()?;
        let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
        println!(
            "{keep:?}: least {:.2}, mean {:.2} us a token; {} bytes of log a token; {:.1} ms to end an answer",
            least.as_secs_f64() * 1e6 / RUN as f64,
            total.as_secs_f64() * 1e6 / (RUN * RUNS) as f64,
            bytes / (RUN * RUNS),
            start.elapsed().as_secs_f64() * 1e3,
        );
    }
    std::fs::remove_dir_all(&folder).map_err(failed)
}

fn write(log: &mut Log, run: u64, keep: Keep) -> Result<()> {
    let ids: Vec<u32> = (0..RUN as u32).map(|index| index * 977 % 150_000).collect();
    let probabilities = ids.iter().map(|id| Some(1.0 / (1.5 + *id as f32))).collect();
    let outputs =
        ids.iter().map(|id| Output { token: u64::from(*id), text: format!(" word{id}"), done: false });
    let outputs = outputs.collect();
    let inline = (keep == Keep::Tokens).then(|| ids.clone());
    let text = log.seal(&Content::Tokens(TokensText { ids, outputs }))?;
    let by = vec![("standard-sampler".to_owned(), RUN)];
    let (answer, first) = (4, run * RUN);
    log.append(&Record::Tokens(Tokens { answer, first, count: RUN, ids: inline, by, probabilities, text }))?;
    Ok(())
}
