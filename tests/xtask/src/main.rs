//! `cargo xtask`: the commands of the workspace that are more than one cargo call.
//!
//! It needs rustup, python3 and a C compiler; all else it sets up under `target/`.

#![forbid(unsafe_code)]

mod arguments;
mod arm;
mod capped;
mod cgroup;
mod ci;
mod demo;
mod deny;
mod languages;
mod model;
mod peer;
mod pool;
mod readme;
mod setup;
mod suite;
mod workspace;

use anyhow::{Result, bail};
use arguments::Arguments;
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  setup               what the other commands need: targets of the compiler and the demo model
  demo [PROMPT]       make a mixture of experts from a small real model and answer under a memory budget
      --experts N     experts in each layer (default 4: 0.33 GB)
      --top-k K       experts used for a token (default 2)
      --type TYPE     quantisation of the experts: Q4_K (default), Q8_0, Q6_K, Q5_K, Q4_0
      --memory SIZE   the budget of `membrane run` (default 288MiB)
      --profile FILE  default examples/profiles/demo.toml
      --tokens N      longest answer (default 160)
  test [--offline]    every test that CI runs; --offline goes on when the demo model can't be fetched
  ci                  formatting, lints, tests, the plugins of all languages, licences and the READMEs' commands
  languages           build the example plugins in every language, run their golden cases, compare the agents
      --measure       print what each costs
      --write         put that into examples/plugins/README.md
  readme [FILE]...    run the commands of the READMEs, or of these, with the built programs
  gemma               fetch Gemma 3 270M (253 MB, Gemma terms of use), with which tests compare where it is there
  arm                 run the tests of the kernels as code for 64-bit ARM, which QEMU plays (compiles for minutes)
  peer                set up llama.cpp under target/peer for comparisons (compiles for minutes)
  capped --memory SIZE [--cold FILE]... [--read-ahead-kib N] [--json FILE] -- COMMAND...
                      run a command in a memory cgroup that counts the page cache (needs root)
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut arguments = Arguments::from_environment();
    let Some(command) = arguments.positional() else {
        print!("{USAGE}");
        return Ok(ExitCode::FAILURE);
    };
    match command.as_str() {
        "setup" => setup::run(arguments)?,
        "demo" => demo::run(arguments)?,
        "test" => suite::run(arguments)?,
        "ci" => ci::run(arguments)?,
        "languages" => languages::run(arguments)?,
        "readme" => readme::command(arguments)?,
        "gemma" => model::gemma(arguments)?,
        "arm" => arm::run(arguments)?,
        "peer" => peer::run(arguments)?,
        "capped" => return capped::run(arguments),
        "help" | "--help" | "-h" => print!("{USAGE}"),
        other => bail!("`{other}` is no command\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}
