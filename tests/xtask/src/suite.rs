//! `cargo xtask test`: every test that CI runs, with one line of counts at the end.

use crate::arguments::Arguments;
use crate::workspace::{cargo, cargo_in, guest_workspaces, host_triple, phase, root, scratch, show};
use crate::{demo, model, setup};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What the test binaries reported, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of the tests that failed, and commands that failed without such a name.
    failures: Vec<String>,
}

/// `cargo xtask test`.
///
/// # Errors
/// When something can't be set up or a test fails.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let offline = arguments.flag("--offline");
    arguments.finish()?;
    all(offline)
}

/// Sets up what the tests need and runs them all: the host's workspace, then the guests natively.
///
/// # Errors
/// When something can't be set up or a test fails.
pub fn all(offline: bool) -> Result<()> {
    setup::guest_target()?;
    let missing = match model::dense() {
        Ok(dense) => {
            demo::prepare(&dense, &demo::Shape::default())?;
            None
        }
        Err(error) if offline => Some(error),
        Err(error) => {
            let advice = "`cargo xtask test --offline` runs the tests that do without the demo model";
            return Err(error.context(advice));
        }
    };
    let mut tally = Tally::default();
    phase("testing the workspace");
    let arguments = ["test", "--workspace", "--release", "--no-fail-fast"];
    tally.run(cargo().args(arguments))?;
    let host = host_triple()?;
    let built = scratch("guests")?;
    for folder in guest_workspaces()? {
        let shown = folder.strip_prefix(root()).unwrap_or(&folder).display().to_string();
        phase(&format!("testing {shown} natively"));
        let mut command = cargo_in(&folder);
        // Not in release: the guests' profile spends its time on the size of components.
        command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--target", &host]);
        tally.run(command.arg("--target-dir").arg(&built))?;
    }
    if let Some(error) = missing {
        eprintln!("skipped: the tests on the demo model, which could not be fetched: {error:#}");
    }
    tally.conclude()
}

impl Tally {
    /// Runs a `cargo test`, shows its output and adds up its results.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        let shown = show(command);
        eprintln!("   {shown}");
        let before = self.failed;
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("can't run `{shown}`"))?;
        let stdout = child.stdout.take().context("the test command has no output")?;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            self.add(&line);
        }
        let status = child.wait()?;
        if !status.success() && self.failed == before {
            // It did not compile, or a test binary died without its summary.
            self.failed += 1;
            self.failures.push(format!("`{shown}` ({status})"));
        }
        Ok(())
    }

    /// Reads a line of a test binary.
    fn add(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn conclude(&self) -> Result<()> {
        for name in &self.failures {
            println!("failed: {name}");
        }
        if self.ignored > 0 {
            println!("{} ignored", self.ignored);
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        if self.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_summaries_of_test_binaries() {
        let mut tally = Tally::default();
        tally.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out");
        tally.add("test gguf::header ... FAILED");
        tally.add("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("test gguf::version ... ok");
        let failures = vec!["gguf::header".to_owned()];
        assert_eq!(tally, Tally { passed: 15, failed: 1, ignored: 1, failures });
        assert!(tally.conclude().is_err());
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        assert!(Tally::default().conclude().is_err());
    }

    #[test]
    fn a_command_that_dies_counts_as_a_failure() {
        let mut tally = Tally::default();
        tally.run(Command::new("python3").args(["-c", "raise SystemExit(3)"])).unwrap();
        assert_eq!(tally.failed, 1);
    }
}
