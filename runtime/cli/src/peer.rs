//! Other engines on the same file, for ratios in one run.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

mod llama_bench;

/// Drives llama.cpp through its Python binding: reads a [`Task`] as JSON, prints a [`Speed`] as JSON.
const LLAMA_CPP: &str = include_str!("peer/llama_cpp_speed.py");
/// Names the Python that has `llama_cpp`.
const PYTHON: &str = "MEMBRANE_PEER_PYTHON";
/// Where `cargo xtask peer` installs it, from the workspace's root.
const INSTALLED: &str = "target/peer/venv/bin/python";

/// Another engine that the user has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// llama.cpp through its Python binding.
    LlamaCpp,
    /// The program `llama-bench` of llama.cpp or ik_llama.cpp.
    LlamaBench(PathBuf),
}

/// What all engines do.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    /// The model file.
    pub model: PathBuf,
    /// Threads that compute.
    pub threads: usize,
    /// Tokens before the prompt, not measured.
    pub context: Vec<u32>,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Whether llama.cpp may keep a repacked copy of the weights beside the mapped file, as it does by default. Under
    /// a memory budget that copy does not fit.
    pub repack: bool,
    /// Whether nothing goes through the model first but one token, as far as the peer lets that be chosen.
    pub cold: bool,
    /// Tokens that are given one by one behind it, whatever the model would choose.
    pub forced: Vec<u32>,
}

/// What it took, in tokens a second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Speed {
    /// The prompt.
    pub prefill: f64,
    /// The forced tokens.
    pub decode: f64,
}

/// The same of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PeerSpeed {
    /// None where it has no way to measure a prompt behind other tokens.
    pub prefill: Option<f64>,
    pub decode: f64,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "llama.cpp" => Ok(Self::LlamaCpp),
            Some(("llama-bench", path)) if !path.is_empty() => Ok(Self::LlamaBench(path.into())),
            _ => Err("must be llama.cpp or llama-bench=PATH".into()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LlamaCpp => f.write_str("llama.cpp"),
            Self::LlamaBench(path) => write!(f, "llama-bench={}", path.display()),
        }
    }
}

impl Peer {
    /// Runs it in a process of its own, or several. `before` is called before each of them.
    pub fn measure(&self, task: &Task, flags: &[String], before: &dyn Fn()) -> Result<PeerSpeed> {
        match self {
            Self::LlamaCpp => {
                before();
                llama_cpp(task)
            }
            Self::LlamaBench(path) => llama_bench::measure(path, task, flags, before),
        }
    }
}

/// Peers with the further flags of each: the first text is for the first that takes flags, and so on. Error: more texts than such
/// peers, or a path with no program.
pub fn with_flags<'a>(peers: &'a [Peer], texts: &[String]) -> Result<Vec<(&'a Peer, Vec<String>)>> {
    let mut texts = texts.iter();
    let flags = |peer: &'a Peer| {
        let text = match peer {
            Peer::LlamaCpp => None,
            Peer::LlamaBench(_) => texts.next(),
        };
        (peer, text.map(|text| text.split_whitespace().map(str::to_owned).collect()).unwrap_or_default())
    };
    for peer in peers {
        // A name alone is looked for in PATH.
        if let Peer::LlamaBench(path) = peer
            && path.components().count() > 1
        {
            ensure!(path.is_file(), "--against {peer}: there is no such program");
        }
    }
    let with = peers.iter().map(flags).collect();
    ensure!(texts.next().is_none(), "--peer-args: there are more of them than --against llama-bench=PATH");
    Ok(with)
}

fn llama_cpp(task: &Task) -> Result<PeerSpeed> {
    let python = python();
    let mut child = Command::new(&python)
        .args(["-c", LLAMA_CPP])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}: run `cargo xtask peer` or set {PYTHON}", python.display()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&serde_json::to_vec(task)?)?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "llama.cpp in {} failed ({}): has that Python `llama_cpp`? `cargo xtask peer` installs it",
            python.display(),
            output.status
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let speed: Speed =
        serde_json::from_str(line).with_context(|| format!("reading llama.cpp's answer `{line}`"))?;
    Ok(PeerSpeed { prefill: Some(speed.prefill), decode: speed.decode })
}

fn python() -> PathBuf {
    match std::env::var_os(PYTHON) {
        Some(python) => python.into(),
        None if Path::new(INSTALLED).exists() => INSTALLED.into(),
        None => "python3".into(),
    }
}
