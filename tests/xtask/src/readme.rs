//! Runs the commands of README.md and of the guide to plugins, so that a reader can trust them.
//!
//! The code blocks of a file whose info string begins with `sh` are run in one bash, as a reader types them into one terminal, with
//! the built programs in `PATH` and `MODEL` set to the demo model. A block marked `sh no-ci` is not run, and its commands are
//! listed as skipped. A block with the name of a file, such as `python plugin.py`, becomes that file: what a reader is told to
//! write.

mod blocks;

use crate::arguments::Arguments;
use crate::languages::tools;
use crate::model;
use crate::pool::{self, Job};
use crate::workspace::{phase, root, scratch, target_directory};
use anyhow::{Context, Result, bail, ensure};
use blocks::{Block, Kind};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Commands which a reader types and which CI has run, or is running, by itself.
const DONE_BY_CI: [&str; 2] = ["cargo xtask test", "cargo xtask ci"];

/// The files whose commands are run: README.md in the root of the repository, the others in an empty folder outside of it.
const FILES: [&str; 6] = [
    "README.md",
    "sdk/python/README.md",
    "sdk/rust/README.md",
    "sdk/javascript/README.md",
    "sdk/c/README.md",
    "plugins/README.md",
];

/// `cargo xtask readme [FILE]...`.
///
/// # Errors
/// As for [`run`].
pub fn command(mut arguments: Arguments) -> Result<()> {
    let files: Vec<String> = std::iter::from_fn(|| arguments.positional()).collect();
    arguments.finish()?;
    if files.is_empty() {
        return run();
    }
    run_files(&files.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs the commands of all READMEs that have some to run.
///
/// # Errors
/// When a file can't be read, has no commands, or one of them fails.
pub fn run() -> Result<()> {
    forget_records()?;
    run_files(&FILES)
}

/// Runs files beside each other; what their commands print comes when a file is done.
fn run_files(files: &[&str]) -> Result<()> {
    phase("the commands of READMEs");
    let terminal = Terminal::new()?;
    let jobs = files.iter().map(|file| {
        let terminal = &terminal;
        Job::new(*file, move || terminal.run(file))
    });
    pool::run(jobs.collect()).map(drop)
}

/// Removes what the commands recorded before: answers that plugins of an earlier build made are not made again by those of
/// this one.
fn forget_records() -> Result<()> {
    for entry in std::fs::read_dir(root().join("target/demo")).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.starts_with("log.jsonl") || name.starts_with("kept.jsonl") {
            std::fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// What a reader's terminal has.
struct Terminal {
    path: OsString,
    model: PathBuf,
    /// Where cargo builds plugins: the dependencies of all are the same.
    cargo_target: PathBuf,
}

impl Terminal {
    fn new() -> Result<Self> {
        // The tools of a language are for the guide to install; Node.js is what a reader has.
        let folders: Vec<PathBuf> =
            [target_directory()?.join("release")].into_iter().chain(tools::node()?).collect();
        Ok(Self {
            path: tools::with(&folders)?,
            model: model::dense()?,
            cargo_target: scratch("languages/rust/target")?,
        })
    }

    /// Runs the blocks of a file in their order.
    fn run(&self, file: &str) -> Result<()> {
        let text =
            std::fs::read_to_string(root().join(file)).with_context(|| format!("can't read {file}"))?;
        let blocks = blocks::blocks(&text)?;
        ensure!(
            blocks.iter().any(|block| block.kind == Kind::Commands),
            "{file} has no commands that can be run"
        );
        if file == "README.md" {
            return self.session(file, &blocks, &root());
        }
        // Outside the repository, as a reader's folder is.
        let name = format!("membrane-guide-{}-{}", std::process::id(), file.replace('/', "-"));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        let done = self.session(file, &blocks, &folder);
        std::fs::remove_dir_all(&folder)?;
        done
    }

    fn session(&self, file: &str, blocks: &[Block], folder: &Path) -> Result<()> {
        let mut bash = Command::new("bash");
        bash.current_dir(folder).env("PATH", &self.path).env("MODEL", &self.model).stdin(Stdio::null());
        if folder != root() {
            bash.env("CARGO_TARGET_DIR", &self.cargo_target);
        }
        let output = bash.args(["-c", &script(file, blocks)]).output().context("can't run bash")?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            bail!("a command failed; the last lines above say which");
        }
        Ok(())
    }
}

/// The blocks of a file as one script, which says where it is and where it failed.
fn script(file: &str, blocks: &[Block]) -> String {
    let mut script = String::from(
        "set -euo pipefail\nexec 2>&1\n\
         trap 'status=$?; [ $status = 0 ] || echo \"the commands at $MEMBRANE_BLOCK failed ($status)\"' EXIT\n",
    );
    for Block { line, kind, text } in blocks {
        let place = format!("{file}:{line}");
        match kind {
            Kind::Skipped => script.push_str(&print(&format!("{place}: skipped (no-ci):\n{text}"))),
            Kind::Commands => {
                let commands = without_done(text);
                script.push_str(&format!(
                    "MEMBRANE_BLOCK={place}\n{}",
                    print(&format!("{place}:\n{commands}"))
                ));
                script.push_str(&commands);
            }
            Kind::File(path) => {
                script.push_str(&format!("MEMBRANE_BLOCK={place}\n{}", print(&format!("{place}: {path}\n"))));
                script.push_str(&format!(
                    "cat >'{path}' <<'MEMBRANE_END_OF_FILE'\n{text}MEMBRANE_END_OF_FILE\n"
                ));
            }
        }
    }
    script
}

/// A command of bash that prints a text.
fn print(text: &str) -> String {
    format!("cat <<'MEMBRANE_END_OF_TEXT'\n{text}MEMBRANE_END_OF_TEXT\n")
}

/// The script without the lines that CI runs by itself.
fn without_done(script: &str) -> String {
    let done = |line: &&str| DONE_BY_CI.contains(&line.split('#').next().unwrap_or_default().trim());
    script.lines().filter(|line| !done(line)).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bash says to the blocks of a text, in a folder of its own.
    fn said(name: &str, text: &str) -> (bool, String) {
        let folder = std::env::temp_dir().join(format!("xtask-readme-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let script = script("GUIDE.md", &blocks::blocks(text).unwrap());
        let output = Command::new("bash").current_dir(&folder).args(["-c", &script]).output().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn blocks_share_a_terminal_and_files_are_written() {
        let text = "```sh\nmkdir -p a\ncd a\nexport WORD=two\n```\n\
                    ```python plugin.py\nprint('$WORD')\n```\n\
                    ```sh no-ci\nexit 3\n```\n\
                    ```sh\ncat plugin.py ../a/plugin.py\necho \"$WORD\"\n```\n";
        let (succeeded, output) = said("terminal", text);
        assert!(succeeded, "{output}");
        assert!(output.contains("print('$WORD')\nprint('$WORD')\ntwo\n"), "{output}");
        assert!(output.contains("GUIDE.md:9: skipped (no-ci):\nexit 3\n"), "{output}");
    }

    #[test]
    fn a_command_that_fails_ends_the_file_and_is_placed() {
        let (succeeded, output) =
            said("fails", "```sh\ntrue\n```\n\n```sh\nfalse | cat\n```\n```sh\necho on\n```\n");
        assert!(!succeeded);
        assert!(output.contains("the commands at GUIDE.md:5 failed (1)"), "{output}");
        assert!(!output.contains("\non\n"), "{output}");
    }

    #[test]
    fn what_ci_runs_by_itself_is_left_out() {
        assert_eq!(
            without_done("cargo xtask demo   # two\ncargo xtask test   # all\n"),
            "cargo xtask demo   # two\n"
        );
    }

    #[test]
    fn no_command_is_free_to_succeed_or_fail() {
        for file in FILES {
            let text = std::fs::read_to_string(root().join(file)).unwrap();
            let commands =
                blocks::blocks(&text).unwrap().into_iter().filter(|block| block.kind == Kind::Commands);
            for Block { line, text, .. } in commands {
                for free in ["|| echo", "|| true", "|| :"] {
                    assert!(!text.contains(free), "{file}:{line}: `{free}` hides what a command comes to");
                }
            }
        }
    }

    #[test]
    fn every_file_has_commands() {
        for file in FILES {
            let text = std::fs::read_to_string(root().join(file)).unwrap();
            let blocks = blocks::blocks(&text).unwrap();
            assert!(blocks.iter().any(|block| block.kind == Kind::Commands), "{file}");
        }
    }
}
