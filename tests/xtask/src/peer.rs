//! `cargo xtask peer`: llama.cpp, through its Python binding, as the other side of comparisons.
//!
//! Scripts that drive it are in `tests/peer`. It is no part of CI: compiling it takes many minutes.

use crate::arguments::Arguments;
use crate::workspace::{output, phase, run as run_command, scratch};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release whose graph and kernels the recorded figures were taken with.
const PACKAGE: &str = "llama-cpp-python==0.3.36";

/// GCC 12 takes the 64 bytes that `ldtilecfg` reads for 8 and drops the stores to the others; llama.cpp's kernels for AMX die of that.
const CXXFLAGS: &str = "-fno-dse -fno-tree-dse";

/// Names a Python that has `llama_cpp` already, and overrides `target/peer/venv`.
const PYTHON_VARIABLE: &str = "MEMBRANE_PEER_PYTHON";

/// `cargo xtask peer`.
///
/// # Errors
/// When the environment can't be made or the package does not compile.
pub fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    let python = python()?;
    if version(&python).is_err() {
        phase("installing llama.cpp (compiled here, for this CPU)");
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-binary", "llama-cpp-python"]);
        pip.env("CXXFLAGS", [&std::env::var("CXXFLAGS").unwrap_or_default(), CXXFLAGS].join(" "));
        run_command(pip.args([PACKAGE, "numpy"])).with_context(|| format!("can't install {PACKAGE}"))?;
    }
    println!("{}: {}", python.display(), version(&python)?);
    Ok(())
}

/// The Python to use, in an environment of its own unless the user names one.
fn python() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(PYTHON_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let venv = scratch("peer")?.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        phase("making a Python environment in target/peer/venv");
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    Ok(python)
}

/// What the binding says of itself: its version and the instruction sets that it uses.
fn version(python: &Path) -> Result<String> {
    let ask = "import llama_cpp; print('llama-cpp-python', llama_cpp.__version__); \
               print(llama_cpp.llama_print_system_info().decode())";
    Ok(output(Command::new(python).args(["-c", ask]))?.trim().to_owned())
}
