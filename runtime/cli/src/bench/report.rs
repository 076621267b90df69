//! What a measurement prints.

use std::io::{self, Write};

use membrane_engine::Bytes;
use serde_json::{Value, json};

use super::figures::{Figures, Speculated, StageRow, median};
use super::machine::Setting;
use super::{Args, Case, Measured};
use crate::peer::{Peer, PeerSpeed, Speed};
use crate::report::json_line;

/// Ratios of each pair of runs, in prefill where the peer has one and in decode.
struct Ratios {
    prefill: Option<f64>,
    decode: f64,
}

impl Ratios {
    fn of(runs: &[Figures], peers: &[PeerSpeed]) -> Self {
        let pairs = || runs.iter().map(|run| run.speed).zip(peers);
        let prefill = median(pairs().filter_map(|(own, peer)| Some(own.prefill / peer.prefill?)));
        let decode = median(pairs().map(|(own, peer)| own.decode / peer.decode));
        Self { prefill: (!prefill.is_nan()).then_some(prefill), decode }
    }
}

/// One pair of runs.
pub fn pair(own: &Speed, peer: &PeerSpeed) -> String {
    let prefill = match peer.prefill {
        Some(theirs) => {
            format!("prefill {:.1} to {theirs:.1} tok/s, ratio {:.2}", own.prefill, own.prefill / theirs)
        }
        None => format!("prefill {:.1} tok/s to none", own.prefill),
    };
    format!(
        "{prefill}; decode {:.1} to {:.1} tok/s, ratio {:.2}",
        own.decode,
        peer.decode,
        own.decode / peer.decode
    )
}

/// All figures as one JSON object.
pub fn json(
    setting: &Setting,
    measured: &[Measured],
    peers: &[(&Peer, Vec<String>)],
    out: &mut impl Write,
) -> io::Result<()> {
    let runs: Vec<&Figures> = measured.iter().flat_map(|measured| &measured.runs).collect();
    let of_peer = |measured: &Measured, place: usize, (peer, flags): &(&Peer, Vec<String>)| -> Value {
        let ratios = Ratios::of(&measured.runs, &measured.peers[place]);
        let Case { memory, start, context } = measured.case;
        json!({
            "peer": peer.to_string(), "flags": flags.join(" "), "memory": memory.to_string(), "start": start,
            "context_tokens": context, "runs": measured.peers[place],
            "prefill_ratio": ratios.prefill, "decode_ratio": ratios.decode,
        })
    };
    let of_case = |measured: &Measured| -> Vec<Value> {
        peers.iter().enumerate().map(|(place, peer)| of_peer(measured, place, peer)).collect()
    };
    let peers: Vec<Value> = measured.iter().flat_map(of_case).collect();
    writeln!(out, "{}", json_line(&json!({ "setting": setting, "runs": runs, "peers": peers }))?)
}

/// All figures for people.
pub fn print(
    args: &Args,
    measured: &[Measured],
    peers: &[(&Peer, Vec<String>)],
    out: &mut impl Write,
) -> io::Result<()> {
    for (number, Measured { case, runs, peers: speeds }) in measured.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        if measured.len() > 1 {
            let Case { memory, start, context } = case;
            writeln!(out, "--memory {memory}, {} start, behind {context} tokens:", start.name())?;
        }
        figures(args, runs, out)?;
        for ((peer, _), speeds) in peers.iter().zip(speeds) {
            let ratios = Ratios::of(runs, speeds);
            let prefill = ratios.prefill.map(|ratio| format!("prefill {ratio:.2}x, ")).unwrap_or_default();
            let pairs = speeds.len();
            writeln!(out, "against {peer}, median of {pairs} pairs: {prefill}decode {:.2}x", ratios.decode)?;
        }
    }
    Ok(())
}

fn figures(args: &Args, runs: &[Figures], out: &mut impl Write) -> io::Result<()> {
    let Some(last) = runs.last() else { return Ok(()) };
    let of = |of: fn(&Figures) -> f64| median(runs.iter().map(of));
    let (prefill, decode) = (of(|run| run.speed.prefill), of(|run| run.speed.decode));
    if let Some(reason) = &last.budget_reason {
        writeln!(out, "memory: auto, {}", crate::report::printable(reason))?;
    }
    writeln!(out, "activations: {}", last.activations)?;
    writeln!(out, "prefill of {} tokens: {prefill:.1} tok/s", args.prompt)?;
    let by =
        if args.sessions > 1 { format!(" by {} sessions together", args.sessions) } else { String::new() };
    writeln!(out, "decode of {} tokens behind them{by}: {decode:.1} tok/s", args.decode)?;
    // What was best of several short measurements on a machine that others may use too.
    let memory = runs.iter().filter_map(|run| run.memory_gb_s).reduce(f64::max);
    match memory {
        Some(memory) => {
            let ceiling = memory * 1e9 / last.bytes_per_token as f64;
            writeln!(
                out,
                "memory: {memory:.1} GB/s measured with these threads, {} a token: {ceiling:.1} tok/s by memory, \
                 {:.0} % reached",
                Bytes(last.bytes_per_token),
                100.0 * decode / ceiling
            )?;
        }
        None => writeln!(out, "memory: the budget leaves no room to measure it")?,
    }
    disk(last, decode, out)?;
    loading(runs, last, out)?;
    speculation(runs, out)?;
    writeln!(
        out,
        "peak memory: {}, {:+.1} % of the {} that the plan gives to what was used",
        Bytes(last.peak_memory),
        100.0 * (last.peak_memory as f64 / last.planned_memory as f64 - 1.0),
        Bytes(last.planned_memory)
    )?;
    // Of one run, so that they sum up: the one whose speed is in the middle.
    let middle = |speed: fn(&Figures) -> f64| {
        let mut order: Vec<&Figures> = runs.iter().collect();
        order.sort_by(|a, b| speed(a).total_cmp(&speed(b)));
        order[order.len() / 2]
    };
    stages("prefill", &middle(|run| run.speed.prefill).prefill_stages, memory, out)?;
    stages("decode", &middle(|run| run.speed.decode).decode_stages, memory, out)
}

fn disk(last: &Figures, decode: f64, out: &mut impl Write) -> io::Result<()> {
    let (Some(disk), Some(rate)) = (last.disk_gb_s, last.hit_rate) else { return Ok(()) };
    let read = last.read_per_token as f64;
    let while_busy =
        last.read_gb_s.map(|speed| format!(" ({speed:.2} GB/s while it was busy)")).unwrap_or_default();
    writeln!(
        out,
        "disk: {disk:.2} GB/s; decode found {:.1} % of its experts in memory and read {} a token{while_busy}, \
         prefill {} in all",
        100.0 * rate,
        Bytes(last.read_per_token),
        Bytes(last.prefill_read)
    )?;
    let [foreseen, used] = last.foreseen;
    if foreseen > 0 {
        let (each, true_ones) = (foreseen as f64 / last.decode_tokens as f64, used as f64 / foreseen as f64);
        writeln!(out, "read ahead: {each:.1} experts a token, {:.0} % of them needed", 100.0 * true_ones)?;
    }
    if last.rewritten > 0.0 {
        writeln!(
            out,
            "rewritten in memory, to be multiplied faster: {:.0} % of the experts used",
            100.0 * last.rewritten
        )?;
    }
    if last.recode_ms_per_token > 0.0 {
        writeln!(out, "recoding of experts: {:.2} ms of I/O threads a token", last.recode_ms_per_token)?;
    }
    if read > 0.0 {
        let ceiling = disk * 1e9 / read;
        writeln!(
            out,
            "disk ceiling at these misses: {ceiling:.1} tok/s, {:.0} % reached",
            100.0 * decode / ceiling
        )?;
    }
    Ok(())
}

fn loading(runs: &[Figures], last: &Figures, out: &mut impl Write) -> io::Result<()> {
    let load = median(runs.iter().map(|run| run.loading.load_s));
    let first = median(runs.iter().map(|run| run.loading.first_token_s));
    let bytes = Bytes(last.loading.bytes);
    write!(out, "first token after {first:.2} s, of which {load:.2} to load {bytes}")?;
    match last.disk_gb_s {
        Some(disk) => {
            let bar = last.loading.bar_s(disk);
            writeln!(
                out,
                "; at the disk's {disk:.2} GB/s and one second more: {bar:.2} s, {:.2} of it",
                first / bar
            )
        }
        None => writeln!(out),
    }
}

fn speculation(runs: &[Figures], out: &mut impl Write) -> io::Result<()> {
    let trials: Vec<&Speculated> = runs.iter().filter_map(|run| run.speculation.as_ref()).collect();
    let Some(trial) = trials.last() else { return Ok(()) };
    writeln!(
        out,
        "speculation: the likeliest {} tokens behind the prompt at {:.1} tok/s, without at {:.1}, gain {:.2}x; \
         {} drafted, {} of them right",
        trial.tokens,
        median(trials.iter().map(|trial| trial.with_tok_s)),
        median(trials.iter().map(|trial| trial.without_tok_s)),
        median(trials.iter().map(|trial| trial.gain)),
        trial.drafted,
        trial.accepted
    )
}

/// The table of stages. `memory`: what memory gives, in GB/s.
fn stages(what: &str, rows: &[StageRow], memory: Option<f64>, out: &mut impl Write) -> io::Result<()> {
    let total: f64 = rows.iter().map(|row| row.ms_per_token).sum();
    writeln!(out, "{what:<26}{:>12}{:>8}{:>14}{:>13}", "ms a token", "%", "weights GB/s", "% of memory")?;
    for row in rows {
        let share = 100.0 * row.ms_per_token / total;
        write!(out, "  {:<24}{:>12.4}{share:>8.1}", row.stage, row.ms_per_token)?;
        match (row.weight_gb_s(), memory) {
            (Some(speed), Some(memory)) => writeln!(out, "{speed:>14.2}{:>13.1}", 100.0 * speed / memory)?,
            (Some(speed), None) => writeln!(out, "{speed:>14.2}")?,
            (None, _) => writeln!(out)?,
        }
    }
    writeln!(out, "  {:<24}{total:>12.4}", "together")
}
