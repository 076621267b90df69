//! Another engine on the same file, for ratios in one run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Drives llama.cpp through its Python binding: reads a [`Task`] as JSON, prints a [`Speed`] as JSON.
const LLAMA_CPP: &str = include_str!("peer/llama_cpp_speed.py");
/// Names the Python that has `llama_cpp`.
const PYTHON: &str = "MEMBRANE_PEER_PYTHON";
/// Where `cargo xtask peer` installs it, from the workspace's root.
const INSTALLED: &str = "target/peer/venv/bin/python";

/// What both engines do.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    /// The model file.
    pub model: PathBuf,
    /// Threads that compute.
    pub threads: usize,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Whether llama.cpp may keep a repacked copy of the weights beside the mapped file, as it does by default. Under
    /// a memory budget that copy does not fit.
    pub repack: bool,
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

/// Runs llama.cpp in a process of its own.
pub fn llama_cpp(task: &Task) -> Result<Speed> {
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
    serde_json::from_str(line).with_context(|| format!("reading llama.cpp's answer `{line}`"))
}

fn python() -> PathBuf {
    match std::env::var_os(PYTHON) {
        Some(python) => python.into(),
        None if Path::new(INSTALLED).exists() => INSTALLED.into(),
        None => "python3".into(),
    }
}
