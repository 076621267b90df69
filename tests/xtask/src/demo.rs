//! `cargo xtask demo`: a real mixture of experts answers under a budget that is smaller than the model.

use crate::arguments::Arguments;
use crate::workspace::{cargo, phase, root, run as run_command, scratch, target_directory};
use crate::{model, setup};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROMPT: &str = "Explain in three short sentences why the sky is blue.";
const PROFILE: &str = "examples/profiles/demo.toml";
const MEMORY: &str = "288MiB";
const TOKENS: u32 = 160;

/// The mixture of experts to make. Equal shapes give equal files.
pub struct Shape {
    experts: u32,
    top_k: u32,
    quantisation: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self { experts: 4, top_k: 2, quantisation: "Q4_K".to_owned() }
    }
}

/// What the demo stands on.
pub struct Prepared {
    /// The `membrane` binary.
    pub membrane: PathBuf,
    /// The mixture of experts.
    pub model: PathBuf,
}

/// `cargo xtask demo`.
///
/// # Errors
/// When a phase fails; says which.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let default = Shape::default();
    let shape = Shape {
        experts: arguments.option("--experts")?.unwrap_or(default.experts),
        top_k: arguments.option("--top-k")?.unwrap_or(default.top_k),
        quantisation: arguments.option("--type")?.unwrap_or(default.quantisation),
    };
    let memory: String = arguments.option("--memory")?.unwrap_or_else(|| MEMORY.to_owned());
    let profile: PathBuf = arguments.option("--profile")?.unwrap_or_else(|| PathBuf::from(PROFILE));
    let tokens: u32 = arguments.option("--tokens")?.unwrap_or(TOKENS);
    let prompt = arguments.positional().unwrap_or_else(|| PROMPT.to_owned());
    arguments.finish()?;

    setup::guest_target()?;
    let dense = model::dense()?;
    let prepared = prepare(&dense, &shape)?;
    phase(&format!("answering under {memory} through the plugins of {}", profile.display()));
    let mut membrane = Command::new(&prepared.membrane);
    membrane.current_dir(root()).arg("run").arg(from_root(&prepared.model)).arg(prompt);
    membrane.args(["--memory", &memory, "-n", &tokens.to_string(), "--profile"]).arg(profile);
    run_command(&mut membrane)
}

/// Builds the binaries and makes the mixture of experts out of the dense model; a finished file of the same
/// shape is kept.
///
/// # Errors
/// When the build or the upcycling fails.
pub fn prepare(dense: &Path, shape: &Shape) -> Result<Prepared> {
    phase("building membrane and upcycle");
    run_command(cargo().args(["build", "--release", "--package", "membrane", "--package", "upcycle"]))?;
    let binaries = target_directory()?.join("release");
    let name = format!("smollm2-moe-{}x-top{}-{}.gguf", shape.experts, shape.top_k, shape.quantisation);
    let model = scratch("demo")?.join(name.to_lowercase());
    phase(&format!("upcycling to {} experts in each layer, top {}", shape.experts, shape.top_k));
    let mut upcycle = Command::new(binaries.join(executable("upcycle")));
    upcycle.current_dir(root()).arg("--keep").arg("--src").arg(from_root(dense));
    upcycle.arg("--out").arg(from_root(&model)).args(["--type", &shape.quantisation]);
    upcycle.args(["--experts", &shape.experts.to_string(), "--top-k", &shape.top_k.to_string()]);
    run_command(&mut upcycle).context("can't make the mixture of experts")?;
    Ok(Prepared { membrane: binaries.join(executable("membrane")), model })
}

/// The path as seen from the root, where that is shorter.
fn from_root(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_path_buf()
}

fn executable(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}
